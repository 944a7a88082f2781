package server

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"pulsegate/cmd/internal/admin"
	"pulsegate/fhir"
)

// write writes a file below dir, and returns its path.
func write(t *testing.T, dir, name, text string) string {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestAgreedSettings checks which changes of the settings change which fingerprint.
func TestAgreedSettings(t *testing.T) {
	dir := t.TempDir()
	of := func(set map[string]string) map[string]string {
		t.Helper()
		env := environment{config: settings(t, t.TempDir(), set), base: "https://a.example"}
		if set["base-url"] != "" {
			env.base = set["base-url"]
		}
		s, err := agreedSettings(env)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	const vendors = "oura:\n  client-id: %\n  client-secret-file: SECRET\n  options: {verify-file: OPTION}\n"
	vendorFile := func(name, id, secret, option string) map[string]string {
		return map[string]string{"vendors": write(t, dir, name, strings.NewReplacer("%", id, "SECRET", secret, "OPTION",
			option).Replace(vendors))}
	}
	pack := func(name, file, text string) map[string]string {
		return map[string]string{"mapping-packs": filepath.Dir(write(t, dir, filepath.Join(name, file), text))}
	}
	empty := map[string]string{"mapping-packs": t.TempDir()}
	plain := map[string]string{}
	for _, c := range []struct {
		name string
		a, b map[string]string
		want string // the setting that differs
	}{
		{"nothing", plain, plain, ""},
		{"other machine", plain, map[string]string{"listen": "127.0.0.1:1", "cache-mib": "7", "log-level": "warn"}, ""},
		{"base", plain, map[string]string{"base-url": "https://b.example"}, "base-url"},
		{"series", plain, map[string]string{"series-from": "-1"}, "series-from"},
		{"a bucket", plain, map[string]string{"export-bucket": "https://s3.example.org/b", "export-bucket-key-file": "k",
			"export-bucket-clients": "c"}, "export-bucket"},
		{"no packs", plain, empty, ""},
		{"packs elsewhere", pack("p1", "a.yaml", "x"), pack("p2", "a.yaml", "x"), ""},
		{"a pack", empty, pack("p1", "a.yaml", "x"), "mapping-packs"},
		{"content of a pack", pack("p1", "a.yaml", "x"), pack("p3", "a.yaml", "y"), "mapping-packs"},
		{"other files", pack("p1", "a.yaml", "x"), pack("p1", "README", "y"), ""},
		{"a secret elsewhere", vendorFile("v1", "id", "s", "o"), vendorFile("v2", "id", "t", "p"), ""},
		{"a client", vendorFile("v1", "id", "s", "o"), vendorFile("v3", "other", "s", "o"), "vendors"},
		{"a policy", map[string]string{"preferred": "true", "preferred-policy": write(t, dir, "1.yaml", "x")},
			map[string]string{"preferred": "true", "preferred-policy": write(t, dir, "2.yaml", "y")},
			"preferred-policy"},
	} {
		a, b := of(c.a), of(c.b)
		var differing []string
		for name := range a {
			if a[name] != b[name] {
				differing = append(differing, name)
			}
		}
		if got := strings.Join(differing, ","); got != c.want {
			t.Errorf("%s: %q differs, want %q", c.name, got, c.want)
		}
	}
}

// TestClusterSettings checks that a server with other settings does not start, that an
// operator can permit it, and what the status says.
func TestClusterSettings(t *testing.T) {
	f := newFleet(t, "")
	one := f.start("one", "", nil)
	ctx := t.Context()
	for _, set := range []map[string]string{{"base-url": "http://localhost:9090"},
		{"mapping-packs": packOfTest(t)}} {
		if _, err := f.tryStart("two", "", set); err == nil || !strings.Contains(err.Error(), "server one") ||
			!slices.ContainsFunc([]string{"base-url", "mapping-packs"}, func(name string) bool {
				return set[name] != "" && strings.Contains(err.Error(), name+": ")
			}) {
			t.Errorf("started with %v: %v", set, err)
		}
	}
	if s := one.status(t); len(s.Nodes) != 1 || len(s.Differences) != 0 || len(s.Problems) != 0 {
		t.Errorf("after the refusals: %+v", s)
	}
	for want, in := range map[string]admin.ClusterRoll{"base-url": {Settings: []string{"base-url"}, Seconds: 60},
		"listen": {Settings: []string{"listen"}, Seconds: 60}, "--for": {Settings: []string{"vendors"}},
		"name": {Seconds: 60}} {
		if _, err := one.ops().RollClusterSettings(ctx, operatorOfTest, in); err == nil ||
			!strings.Contains(err.Error(), want) {
			t.Errorf("%+v: %v", in, err)
		}
	}
	if _, err := one.ops().RollClusterSettings(ctx, operatorOfTest, admin.ClusterRoll{Seconds: 3600,
		Settings: []string{"mapping-packs"}}); err != nil {
		t.Fatal(err)
	}
	two := f.start("two", "", map[string]string{"mapping-packs": packOfTest(t)})
	var s admin.Cluster
	until(t, "the difference is listed", func() bool { s = one.status(t); return len(s.Differences) == 1 })
	if s.Differences[0].Setting != "mapping-packs" || s.Roll == nil || len(s.Problems) != 0 {
		t.Errorf("%+v", s)
	}
	_, err := two.ops().Remap(ctx, operatorOfTest, admin.Remap{Vendor: "oura"}, nil)
	if fhir.KindOf(err) != fhir.Conflict || !strings.Contains(err.Error(), "different mapping packs") {
		t.Errorf("remap: %v", err)
	}
	if _, err := one.ops().RollClusterSettings(ctx, operatorOfTest, admin.ClusterRoll{End: true}); err != nil {
		t.Fatal(err)
	}
	if s = one.status(t); s.Roll != nil || len(s.Problems) != 1 || !strings.Contains(s.Problems[0], "mapping-packs") {
		t.Errorf("%+v", s)
	}
	if n := events(t, one.services, "cluster-roll"); n != 2 {
		t.Errorf("%d records", n)
	}
}

// packOfTest returns a directory with one mapping pack.
func packOfTest(t *testing.T) string {
	t.Helper()
	return filepath.Dir(write(t, t.TempDir(), "acme.yaml", "pack: acme\nversion: 1.2.3\nvendor: oura\n"+
		"metrics:\n  - {metric: heartrate, range: [20, 300]}\n"))
}
