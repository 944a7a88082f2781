package server

import (
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// vendorFile writes a file of the setting vendors and returns its path.
func vendorFile(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "vendors.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func secretFile(t *testing.T, text string, mode os.FileMode) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, mode); err != nil {
		t.Fatal(err)
	}
	return path
}

// vendorEnv returns an environment with a file of the setting vendors.
func vendorEnv(t *testing.T, path string) environment {
	return environment{config: settings(t, t.TempDir(), map[string]string{"vendors": path}), now: time.Now,
		log: slog.New(slog.DiscardHandler), base: "http://localhost:8080"}
}

func TestVendorFile(t *testing.T) {
	secret := secretFile(t, "\n hunter2\n", 0o640)
	all, err := newVendors(vendorEnv(t, vendorFile(t, `
oura:
  client-id: our-client
  client-secret-file: `+secret+`
  authorize-url: https://login.example.org/authorize
  token-url: https://login.example.org/token
  revoke-url: https://login.example.org/revoke
  api-url: https://api.example.org/
  options:
    identity-provider: legacy
`)))
	if err != nil || len(all) != 1 || all[0].Code() != "oura" {
		t.Fatalf("%v, %v", all, err)
	}
	o := all[0].OAuth()
	if o.ClientID != "our-client" || o.ClientSecret != "hunter2" ||
		o.AuthURL != "https://login.example.org/authorize" ||
		o.TokenURL != "https://login.example.org/token" || o.RevokeURL != "https://login.example.org/revoke" {
		t.Errorf("%+v", o)
	}
	if all, err := newVendors(vendorEnv(t, "")); err != nil || all != nil {
		t.Errorf("without the setting: %v, %v", all, err)
	}
}

func TestVendorFileRefuses(t *testing.T) {
	good := secretFile(t, "hunter2", 0o600)
	entry := func(lines ...string) string { return "oura:\n  " + strings.Join(lines, "\n  ") + "\n" }
	id, secret := "client-id: c", "client-secret-file: "+good
	for name, c := range map[string]struct{ text, want string }{
		"unknown vendor":   {"pebble:\n  client-id: c\n", "use "},
		"unknown key":      {entry(id, secret, "client-secret: hunter2"), "client-secret"},
		"no id":            {entry(secret), "client-id is required"},
		"no entry":         {"oura:\n", "client-id is required"},
		"no secret":        {entry(id), "secret"},
		"missing file":     {entry(id, "client-secret-file: "+good+"-no"), "client-secret-file"},
		"directory":        {entry(id, "client-secret-file: "+filepath.Dir(good)), "not a regular file"},
		"open to all":      {entry(id, "client-secret-file: "+secretFile(t, "hunter2", 0o644)), "open to all users"},
		"empty secret":     {entry(id, "client-secret-file: "+secretFile(t, " \n", 0o600)), "1 to 65536 bytes"},
		"plain HTTP":       {entry(id, secret, "token-url: http://api.example.org/token"), "https://"},
		"option of a file": {entry(id, secret, "options:", "  key-file: "+good+"-no"), "options: key-file"},
		"option not text":  {entry(id, secret, "options:", "  a: [b]"), "cannot unmarshal"},
		"provider":         {entry(id, secret, "options:", "  identity-provider: other"), "identity-provider"},
		"no YAML":          {"{", "vendors.yaml"},
		"one vendor twice": {entry(id, secret) + entry(id, secret), "already defined"},
		"empty file":       {"", "EOF"},
	} {
		_, err := newVendors(vendorEnv(t, vendorFile(t, c.text)))
		if err == nil || !strings.Contains(err.Error(), c.want) || !strings.HasPrefix(err.Error(), "vendors: ") {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		} else if strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: the error shows the secret: %v", name, err)
		}
	}
}

// TestVendorAddresses checks that the clouds of vendors are subject to the policy for
// outgoing requests, and that a demo may use its own machine.
func TestVendorAddresses(t *testing.T) {
	env := vendorEnv(t, "")
	if _, err := env.vendorClient(1).Get("http://127.0.0.1:1/"); err == nil ||
		!strings.Contains(err.Error(), "refused by") {
		t.Errorf("loopback without permission: %v", err)
	}
	env.config.Demo = true
	for _, host := range []string{"127.0.0.1:1", "[::1]:1"} {
		if _, err := env.vendorClient(1).Get("http://" + host + "/"); err == nil ||
			strings.Contains(err.Error(), "policy") {
			t.Errorf("demo, %s: %v", host, err)
		}
	}
	for _, url := range []string{"http://10.0.0.1:1/", "http://example.org/"} {
		if _, err := env.vendorClient(1).Get(url); err == nil {
			t.Errorf("demo: %s was allowed", url)
		}
	}
	if len(env.egress.AllowPrivate) > 0 {
		t.Error("the policy of other requests has changed")
	}
}
