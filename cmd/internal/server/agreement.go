package server

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"

	"pulsegate/fhir/cluster/nodes"
)

// baseURLSetting cannot be changed from server to server: clients would be sent to, and
// their tokens be refused by, the servers with the other address.
const baseURLSetting = "base-url"

// packsSetting is the setting that decides how payloads are mapped.
const packsSetting = "mapping-packs"

// maxAgreed bounds the bytes of the files of one setting.
const maxAgreed = 64 << 20

// agreedSettings returns a hash of the content of each setting that decides what is stored
// or answered, so that all servers of a cluster must have the same. Nothing secret is part
// of them.
func agreedSettings(env environment) (nodes.Settings, error) {
	c := env.config
	out := nodes.Settings{}
	for name, value := range map[string]any{
		baseURLSetting: env.base, "series-from": c.SeriesFrom, "preferred": c.Preferred,
		"max-body-bytes": c.MaxBodyBytes, "max-bundle-entries": c.MaxBundle, "max-ingest-bytes": c.MaxIngestBytes,
		"user-token-life": c.UserTokenLife, "consent-page": c.ConsentPage, "manage-page": c.ManagePage,
		"dpop-nonce": c.DPoPNonce, "oidc": []any{c.OIDCIssuer, c.OIDCClientID, c.OIDCMFA, c.OIDCPhishingResistant},
		"vendor-webhooks": c.VendorHooks, "vendor-backfill": c.VendorBackfill, "egress-allow": c.EgressAllow,
		"export-bucket": []any{c.ExportBucket, c.ExportBucketRegion, c.ExportBucketClients, c.ExportBucketDelete},
	} {
		b, err := json.Marshal(value)
		if err != nil {
			return nil, err
		}
		out[name] = fingerprint(b)
	}
	packs, err := c.Packs()
	if err != nil {
		return nil, err
	}
	if out[packsSetting], err = packsFingerprint(packs); err != nil {
		return nil, fmt.Errorf("%s: %w", packsSetting, err)
	}
	if out["vendors"], err = vendorsFingerprint(c.Vendors); err != nil {
		return nil, fmt.Errorf("vendors: %w", err)
	}
	for name, path := range map[string]string{"preferred-policy": c.PreferredRules,
		"outside-issuers": c.ExternalIssuers, "brand": c.Brand, "subscriptions": c.Subscriptions} {
		if out[name], err = fileFingerprint(path); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
	}
	return out, nil
}

// fingerprint returns the hash of parts, short enough to be compared by a person. It guards
// against mistakes, not against attackers.
func fingerprint(parts ...[]byte) string {
	h := sha256.New()
	for _, p := range parts {
		fmt.Fprintf(h, "%d:", len(p))
		h.Write(p)
	}
	return hex.EncodeToString(h.Sum(nil)[:6])
}

// fileFingerprint returns the fingerprint of a file, or of none.
func fileFingerprint(path string) (string, error) {
	if path == "" {
		return fingerprint(), nil
	}
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	b, err := readBounded(f)
	return fingerprint(b), err
}

func readBounded(r io.Reader) ([]byte, error) {
	b, err := io.ReadAll(io.LimitReader(r, maxAgreed+1))
	if err == nil && len(b) > maxAgreed {
		err = errors.New("the file is too large")
	}
	return b, err
}

// packsFingerprint returns the fingerprint of the packs in a directory, which may be nil.
// An empty directory is like none.
func packsFingerprint(dir fs.FS) (string, error) {
	if dir == nil {
		return fingerprint(), nil
	}
	names, err := fs.Glob(dir, "*.y*ml") // in order
	if err != nil {
		return "", err
	}
	var parts [][]byte
	size := 0
	for _, name := range names {
		f, err := dir.Open(name)
		if err != nil {
			return "", err
		}
		b, err := readBounded(f)
		if err = errors.Join(err, f.Close()); err != nil {
			return "", fmt.Errorf("%s: %w", name, err)
		}
		if size += len(b); size > maxAgreed {
			return "", errors.New("the files are too large")
		}
		parts = append(parts, []byte(name), b)
	}
	return fingerprint(parts...), nil
}

// vendorsFingerprint returns the fingerprint of the vendors in a file, without secrets and
// without the paths of files, which differ between machines.
func vendorsFingerprint(path string) (string, error) {
	if path == "" {
		return fingerprint(), nil
	}
	var file map[string]vendorSettings
	if _, err := readYAML(path, &file); err != nil {
		return "", err
	}
	for code, v := range file {
		v.SecretFile = ""
		for name := range v.Options {
			if strings.HasSuffix(name, "-file") {
				v.Options[name] = ""
			}
		}
		file[code] = v
	}
	b, err := json.Marshal(file)
	return fingerprint(b), err
}
