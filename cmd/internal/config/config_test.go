package config

import (
	"bytes"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

func noEnv(string) (string, bool) { return "", false }

// TestOrderOfSources checks that flags override the environment, which overrides
// the file.
func TestOrderOfSources(t *testing.T) {
	file := filepath.Join(t.TempDir(), "p.yaml")
	if err := os.WriteFile(file, []byte("listen: 127.0.0.1:1\ndata: from-file\ncache-mib: 7\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	env := func(k string) (string, bool) {
		v, ok := map[string]string{"PULSEGATE_DATA": "from-env", "PULSEGATE_LISTEN": "127.0.0.1:2"}[k]
		return v, ok
	}
	c, err := Load(file, env, map[string]string{"listen": "127.0.0.1:3"})
	if err != nil {
		t.Fatal(err)
	}
	if c.Listen != "127.0.0.1:3" || c.Data != "from-env" || c.CacheMiB != 7 || c.MaxBundle != 1000 {
		t.Fatalf("flag, environment, file, default: got %+v", c)
	}
}

func TestPrintIsReadBack(t *testing.T) {
	c, err := Load("", noEnv, map[string]string{"egress-allow": "127.0.0.0/8,10.0.0.0/8", "drain-timeout": "3s",
		"demo": "true"})
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if err := c.Print(&b); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "p.yaml")
	if err := os.WriteFile(file, b.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	again, err := Load(file, noEnv, nil)
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(c, again) {
		t.Fatalf("printed configuration reads back differently:\n%+v\n%+v", c, again)
	}
}

func TestEveryFieldIsDocumented(t *testing.T) {
	err := each(&Config{}, func(f field) error {
		if f.name == "" || f.comment == "" {
			t.Errorf("field %q has no name or comment", f.name)
		}
		return f.set(f.def)
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestLoadRefuses(t *testing.T) {
	file := filepath.Join(t.TempDir(), "p.yaml")
	if err := os.WriteFile(file, []byte("lisen: x\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(file, noEnv, nil); err == nil || !strings.Contains(err.Error(), "lisen") {
		t.Errorf("unknown field: got %v", err)
	}
	for name, o := range map[string]map[string]string{
		"listen without port":  {"listen": "localhost"},
		"base with slash":      {"base-url": "https://a.example/"},
		"base without scheme":  {"base-url": "a.example"},
		"cert without key":     {"tls-cert": "x.pem"},
		"bad network":          {"egress-allow": "10.0.0.0/99"},
		"bucket without a key": {"export-bucket": "https://s3.example.org/b", "export-bucket-clients": "c"},
		"bucket for nobody":    {"export-bucket": "https://s3.example.org/b", "export-bucket-key-file": "k"},
		"key without a bucket": {"export-bucket-key-file": "k"},
		"all addresses":        {"trusted-proxies": "0.0.0.0/0"},
		"proxy by name":        {"trusted-proxies": "proxy.example"},
		"unknown header":       {"forwarded-header": "X-Real-Ip"},
		"count not a number":   {"cache-mib": "many"},
		"metrics without port": {"metrics-listen": "localhost"},
		"memory for no body":   {"memory-mib": "100"},
		"limit of zero":        {"max-body-bytes": "0"},
		"duration not a value": {"drain-timeout": "soon"},
		"redis by http": {"redis": "http://cache.example",
			"mongodb": "mongodb://db.example/pulsegate", "cluster-key-file": "key", "base-url": "https://fhir.example"},
		"redis with password": {"redis": "redis://:hunter2@cache.example",
			"mongodb": "mongodb://db.example/pulsegate", "cluster-key-file": "key", "base-url": "https://fhir.example"},
		"peers without port": {"peer-listen": "0.0.0.0", "redis": "redis://cache.example",
			"mongodb": "mongodb://db.example/pulsegate", "cluster-key-file": "key", "base-url": "https://fhir.example"},
		"address of nothing": {"peer-address": "node1:7000"},
		"certs without tls":  {"client-certs": "true"},
		"mfa of nobody":      {"oidc-mfa": "mfa"},
		"secret of nobody":   {"oidc-client-secret-file": "x"},
		"policy of nothing":  {"preferred": "false", "preferred-policy": "p.yaml"},
		"one port twice":     {"listen": "127.0.0.1:80", "metrics-listen": "127.0.0.1:80"},
		"odd name":           {"node": "a\nb"},
	} {
		if _, err := Load("", noEnv, o); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

// TestClusterSettings checks that no setting of a cluster is silently without effect.
func TestClusterSettings(t *testing.T) {
	whole := map[string]string{"mongodb": "mongodb://db.example/pulsegate", "mongodb-password-file": "p",
		"mongodb-standalone": "true", "mongodb-mirror": "documents", "cluster-key-file": "key",
		"redis": "redis://cache.example", "redis-password-file": "r", "peer-listen": ":7000",
		"peer-address": "node1.example:7000", "node": "node1", "base-url": "https://fhir.example"}
	if _, err := Load("", noEnv, whole); err != nil {
		t.Fatal(err)
	}
	for missing, want := range map[string]string{
		"mongodb":          "mongodb-password-file: requires mongodb",
		"cluster-key-file": "cluster-key-file: required with mongodb",
		"redis":            "redis-password-file: requires redis",
		"peer-listen":      "peer-address: requires peer-listen",
		"base-url":         "base-url: required with mongodb",
	} {
		less := maps.Clone(whole)
		delete(less, missing)
		if _, err := Load("", noEnv, less); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("without %s: got %v, want %s", missing, err, want)
		}
	}
	demo := maps.Clone(whole)
	demo["demo"] = "true"
	if _, err := Load("", noEnv, demo); err == nil ||
		!strings.HasPrefix(err.Error(), "demo: cannot be used with mongodb") {
		t.Errorf("demo in a cluster: got %v", err)
	}
	delete(demo, "demo")
	if _, err := Load("", noEnv, demo); err != nil { // it was the demo
		t.Error(err)
	}
	for _, alone := range []string{"mongodb-standalone", "mongodb-mirror", "redis", "peer-listen"} {
		_, err := Load("", noEnv, map[string]string{alone: whole[alone]})
		if err == nil || !strings.HasPrefix(err.Error(), alone+": requires ") {
			t.Errorf("only %s: got %v", alone, err)
		}
	}
	// The key and the name may stay in the settings of a server that has left.
	if _, err := Load("", noEnv, map[string]string{"cluster-key-file": "key", "node": "node1"}); err != nil {
		t.Error(err)
	}
	for name, bad := range map[string]string{"a dot": "a.b", "a space": "a b", "length": strings.Repeat("x", 64)} {
		odd := maps.Clone(whole)
		odd["mongodb-mirror"] = bad
		if _, err := Load("", noEnv, odd); err == nil || !strings.Contains(err.Error(), "mongodb-mirror: must be") {
			t.Errorf("mirror with %s: got %v", name, err)
		}
	}
}

func TestCheckEnviron(t *testing.T) {
	for _, c := range []struct{ env, want string }{
		{"PULSEGATE_LISTEN=127.0.0.1:1", ""},
		{"PULSEGATE_CONFIG=/etc/p.yaml", ""},
		{"PULSEGATE_FIXTURES=/tmp/f", ""},
		{"PULSEGATE_TEST_ANYTHING=1", ""},
		{"PATH=/bin", ""},
		{"PULSEGATE_LISTN=127.0.0.1:1", "did you mean PULSEGATE_LISTEN?"},
		{"PULSEGATE_BASEURL=http://h", "did you mean PULSEGATE_BASE_URL?"},
		{"PULSEGATE_SECRET=hunter2", "pulsegate config"},
		{"PULSEGATE_=", "pulsegate config"},
	} {
		err := CheckEnviron([]string{"HOME=/root", c.env})
		switch {
		case c.want == "" && err != nil:
			t.Errorf("%s: %v", c.env, err)
		case c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)):
			t.Errorf("%s: %v, want %q", c.env, err, c.want)
		case err != nil && strings.Contains(err.Error(), "hunter2"):
			t.Errorf("%s: the error shows the value", c.env)
		}
	}
}

// TestSampleConfiguration checks that the sample for the systemd unit is valid.
func TestSampleConfiguration(t *testing.T) {
	c, err := Load(filepath.Join("..", "..", "..", "deploy", "pulsegate.yaml"), noEnv, nil)
	if err != nil {
		t.Fatal(err)
	}
	if c.Data != "/var/lib/pulsegate" || c.TLSCert == "" || c.BaseURL == "" {
		t.Errorf("got %+v", c)
	}
}
