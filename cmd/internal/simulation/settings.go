package simulation

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"gopkg.in/yaml.v3"

	"pulsegate/adapters/cloud/clouds"
	"pulsegate/adapters/simulate/phone"
)

// Files in Options.Dir.
const (
	ouraFile     = "oura-client-secret"
	googleFile   = "google-client-secret"
	withingsFile = "withings-client-secret"
	webhookFile  = "google-webhook-secret"
	serviceFile  = "google-service-account.json"
	vendorsFile  = "vendors.yaml"
)

// secrets are the secrets of the simulated applications.
type secrets struct {
	ouraClient, googleClient, withingsClient string
	serviceKey                               *rsa.PrivateKey
}

// readSecrets reads the secrets in dir and creates those that do not exist.
func readSecrets(dir string) (secrets, error) {
	var out secrets
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return out, err
	}
	var err error
	if out.ouraClient, err = secret(dir, ouraFile, randomText); err != nil {
		return out, err
	}
	if out.googleClient, err = secret(dir, googleFile, randomText); err != nil {
		return out, err
	}
	if out.withingsClient, err = secret(dir, withingsFile, randomText); err != nil {
		return out, err
	}
	if _, err = secret(dir, webhookFile, randomText); err != nil {
		return out, err
	}
	text, err := secret(dir, serviceFile, newServiceAccount)
	if err != nil {
		return out, err
	}
	out.serviceKey, err = serviceKey(text)
	if err != nil {
		err = fmt.Errorf("%s: %w; remove the file and start again", filepath.Join(dir, serviceFile), err)
	}
	return out, err
}

// secret reads a file, or creates it with a new content for its owner alone.
func secret(dir, name string, create func() (string, error)) (string, error) {
	file := filepath.Join(dir, name)
	b, err := os.ReadFile(file)
	if !errors.Is(err, fs.ErrNotExist) {
		return strings.TrimSpace(string(b)), err
	}
	text, err := create()
	if err != nil {
		return "", err
	}
	return text, os.WriteFile(file, []byte(text+"\n"), 0o600)
}

func randomText() (string, error) { return rand.Text(), nil }

// serviceAccount is the key of a service account in Google's form.
type serviceAccount struct {
	Type         string `json:"type"`
	ProjectID    string `json:"project_id"`
	PrivateKeyID string `json:"private_key_id"`
	PrivateKey   string `json:"private_key"`
	ClientEmail  string `json:"client_email"`
	TokenURI     string `json:"token_uri"`
}

func newServiceAccount() (string, error) {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return "", err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return "", err
	}
	b, err := json.MarshalIndent(serviceAccount{Type: "service_account", ProjectID: "simulated", PrivateKeyID: keyID,
		PrivateKey:  string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})),
		ClientEmail: account}, "", "  ")
	return string(b), err
}

// serviceKey returns the private key of a service account.
func serviceKey(text string) (*rsa.PrivateKey, error) {
	var a serviceAccount
	if err := json.Unmarshal([]byte(text), &a); err != nil {
		return nil, errors.New("the key of the service account is not JSON")
	}
	block, _ := pem.Decode([]byte(a.PrivateKey))
	if block == nil {
		return nil, errors.New("the service account has no private key in PEM")
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	key, ok := parsed.(*rsa.PrivateKey)
	if err != nil || !ok {
		return nil, errors.New("the private key of the service account is not RSA in PKCS #8")
	}
	return key, nil
}

// vendor is an entry of the file that the setting vendors of a server names.
type vendor struct {
	ClientID     string            `yaml:"client-id"`
	SecretFile   string            `yaml:"client-secret-file"`
	AuthorizeURL string            `yaml:"authorize-url"`
	TokenURL     string            `yaml:"token-url"`
	RevokeURL    string            `yaml:"revoke-url,omitempty"`
	APIURL       string            `yaml:"api-url"`
	Options      map[string]string `yaml:"options,omitempty"`
}

// WriteSettings writes the file with the vendors, which are reached at base, and returns
// its name. Vendors that this build cannot connect to are left out.
func (s *Simulation) WriteSettings(base string) (string, error) {
	dir, err := filepath.Abs(s.opts.Dir)
	if err != nil {
		return "", err
	}
	if err := s.setTokenURI(base); err != nil {
		return "", err
	}
	out := map[string]vendor{}
	for code, v := range map[string]vendor{
		"oura": {ClientID: clientID, SecretFile: filepath.Join(dir, ouraFile),
			AuthorizeURL: base + "/oura/oauth/v2/ext/oauth-authorize",
			TokenURL:     base + "/oura/oauth/v2/ext/oauth-token",
			RevokeURL:    base + "/oura/oauth/v2/ext/oauth-revoke", APIURL: base + "/oura",
			Options: map[string]string{"identity-provider": "moi"}},
		"withings": {ClientID: clientID, SecretFile: filepath.Join(dir, withingsFile),
			AuthorizeURL: base + "/withings/oauth2_user/authorize2", TokenURL: base + "/withings/v2/oauth2",
			APIURL: base + "/withings"},
		"fitbit": {ClientID: clientID, SecretFile: filepath.Join(dir, googleFile),
			AuthorizeURL: base + "/google/o/oauth2/v2/auth", TokenURL: base + "/google/token",
			RevokeURL: base + "/google/revoke", APIURL: base + "/google",
			Options: map[string]string{"project-number": project,
				"webhook-keys-url":     base + "/google/googlehealthapi/webhooks/webhooks_public_keyset.json",
				"webhook-secret-file":  filepath.Join(dir, webhookFile),
				"service-account-file": filepath.Join(dir, serviceFile)}},
	} {
		if slices.Contains(clouds.Codes(), code) {
			out[code] = v
		}
	}
	b, err := yaml.Marshal(out)
	if err != nil {
		return "", err
	}
	file := filepath.Join(dir, vendorsFile)
	return file, os.WriteFile(file, b, 0o600)
}

// setTokenURI writes the address of the token endpoint into the key of the service
// account.
func (s *Simulation) setTokenURI(base string) error {
	file := filepath.Join(s.opts.Dir, serviceFile)
	b, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	var a serviceAccount
	if err := json.Unmarshal(b, &a); err != nil {
		return err
	}
	a.TokenURI = base + "/google/token"
	if b, err = json.MarshalIndent(a, "", "  "); err != nil {
		return err
	}
	return os.WriteFile(file, append(b, '\n'), 0o600)
}

// pushFormat returns the format that the last segment of an address names.
func pushFormat(address string) phone.Format {
	address, _, _ = strings.Cut(address, "?")
	return phone.Format(path.Base(address))
}
