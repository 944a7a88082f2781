package sealed

import (
	"bytes"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"slices"

	"pulsegate/fhir"
)

const (
	keySize = 32
	// MaxDerived is the maximum length of the result of Derive.
	MaxDerived = 255 * sha256.Size

	maxKeyFile = 4 << 10
	advice     = "make one with: openssl rand -base64 32"
	idSize     = 4
)

// ClusterKey is a secret that all servers of a cluster have. No format of package fmt
// prints it.
type ClusterKey struct{ secret [keySize]byte }

// Format implements fmt.Formatter. It writes the ID of the key.
func (k ClusterKey) Format(s fmt.State, _ rune) { _, _ = io.WriteString(s, "cluster key "+k.ID()) }

// ID returns 8 hex digits by which an operator can compare the keys of servers. They
// reveal nothing about the key.
func (k ClusterKey) ID() string { return hex.EncodeToString(k.id()) }

func (k ClusterKey) id() []byte { return Derive(k, "id", idSize) }

// Derive returns n bytes that depend on the key and on info. Each use has its own
// info, so that the results of one use reveal nothing about those of another. Derive
// panics if n is greater than MaxDerived.
func Derive(key ClusterKey, info string, n int) []byte {
	b, err := hkdf.Key(sha256.New, key.secret[:], nil, "pulsegate cluster key: "+info, n)
	if err != nil {
		panic(err)
	}
	return b
}

// Keys is the content of a cluster key file.
type Keys struct {
	// Current seals.
	Current ClusterKey
	// Other, if set, is the key before or after Current while the cluster key is being
	// replaced. It only opens.
	Other *ClusterKey
}

// All returns the keys, Current first. A peer that knows either of them belongs to the
// cluster.
func (k Keys) All() []ClusterKey {
	if k.Other == nil {
		return []ClusterKey{k.Current}
	}
	return []ClusterKey{k.Current, *k.Other}
}

// ReadKeys reads a cluster key file. It refuses a file that other users may read or
// the group may write; a group may read it, as Kubernetes mounts secrets. Errors do not
// contain bytes of the file.
func ReadKeys(path string) (Keys, error) {
	const op = "sealed.ReadKeys"
	refuse := func(rule string, args ...any) (Keys, error) {
		return Keys{}, fhir.Errorf(fhir.Internal, op, "cluster-key-file: "+rule, args...)
	}
	f, err := os.Open(path)
	if err != nil {
		return Keys{}, fhir.Wrap(op, fmt.Errorf("cluster-key-file: %w", err))
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return Keys{}, fhir.Wrap(op, fmt.Errorf("cluster-key-file: %w", err))
	}
	if !info.Mode().IsRegular() || info.Mode().Perm()&0o037 != 0 {
		return refuse("it must be a regular file that only its owner may write and other users may not read; " +
			"set its mode to 0600, or to 0440 if the server reads it through its group")
	}
	b, err := io.ReadAll(io.LimitReader(f, maxKeyFile+1))
	if err != nil {
		return Keys{}, fhir.Wrap(op, fmt.Errorf("cluster-key-file: %w", err))
	}
	if len(b) > maxKeyFile {
		return refuse("it has more than %d bytes; it must have one key, or two keys on two lines", maxKeyFile)
	}
	keys, rule := parse(b)
	if rule != "" {
		return refuse("%s", rule)
	}
	if len(keys) == 2 {
		return Keys{Current: keys[0], Other: &keys[1]}, nil
	}
	return Keys{Current: keys[0]}, nil
}

// parse returns one or two keys, or the rule that the file breaks.
func parse(file []byte) (keys []ClusterKey, rule string) {
	for i, line := range bytes.Split(file, []byte("\n")) {
		if line = bytes.TrimSpace(line); len(line) == 0 {
			continue
		}
		b, err := base64.StdEncoding.Strict().DecodeString(string(line))
		if err != nil || len(b) != keySize {
			return nil, fmt.Sprintf("line %d is not a key of 32 bytes in base64; "+advice, i+1)
		}
		if !slices.ContainsFunc(b, func(c byte) bool { return c != b[0] }) {
			return nil, fmt.Sprintf("line %d is not random; "+advice, i+1)
		}
		keys = append(keys, ClusterKey{[keySize]byte(b)})
	}
	switch {
	case len(keys) == 0:
		return nil, "it is empty; " + advice
	case len(keys) > 2:
		return nil, "it has more than two keys; finish one replacement of the key before the next"
	case len(keys) == 2 && keys[0] == keys[1]:
		return nil, "its two keys are the same"
	}
	return keys, ""
}
