package cli

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const goodPack = "pack: acme\nversion: 1.2.3\nvendor: oura\nmetrics:\n  - {metric: heartrate, range: [20, 300]}\n" +
	"  - {metric: tag, remove: true}\n"

// TestPackCheck checks packs that are right and wrong, in a directory and as a file.
func TestPackCheck(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	if _, err := execute("pack", "check", dir); err == nil || !strings.Contains(err.Error(), "there is no pack") {
		t.Errorf("empty directory: %v", err)
	}
	good := write("good.yaml", goodPack)
	for _, path := range []string{dir, good} {
		out, err := execute("pack", "check", path)
		if err != nil || !strings.Contains(out, "good.yaml  acme  1.2.3    oura    0      1           1") {
			t.Errorf("%s: %v\n%s", path, err, out)
		}
	}
	bad := write("bad.yaml", strings.Replace(strings.Replace(goodPack, "acme", "other", 1), "[20, 300]", "[300]", 1))
	const want = `bad.yaml:5: row "heartrate".range: must have at least 2 items`
	for _, path := range []string{dir, bad} {
		_, err := execute("pack", "check", path)
		if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(Explain(err), "\nnext: correct the packs") {
			t.Errorf("%s: %v", path, err)
		}
	}
	if out, err := execute("pack", "check", good); err != nil { // its neighbor is not read
		t.Errorf("%v\n%s", err, out)
	}
	for _, path := range []string{filepath.Join(dir, "none"), ""} {
		if _, err := execute("pack", "check", path); err == nil || !strings.Contains(Explain(err), "\nnext: ") {
			t.Errorf("%q: %v", path, err)
		}
	}
}

// TestPackLOINC checks a release that lacks all codes but one, of which it has another
// display.
func TestPackLOINC(t *testing.T) {
	dir := t.TempDir()
	file, pack := filepath.Join(dir, "Loinc.csv"), filepath.Join(dir, "pack.yaml")
	for path, text := range map[string]string{pack: goodPack + "codes: {loinc: {codes: {1-8: Invented}}}\n",
		file: "\"LOINC_NUM\",\"STATUS\",\"LONG_COMMON_NAME\",\"EXAMPLE_UCUM_UNITS\"\n\"1-8\",\"ACTIVE\",\"Made up\",\"\"\n"} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	out, err := execute("pack", "loinc", file, "--packs", pack)
	if err == nil || !strings.Contains(err.Error(), "67 of 68 codes are missing or deprecated") {
		t.Errorf("%v", err)
	}
	for _, want := range []string{"1-8       display  Invented", "8867-4    missing  Heart rate", "oura heartrate"} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in\n%s", want, out)
		}
	}
	if _, err := execute("pack", "loinc", pack); err == nil || !strings.Contains(Explain(err), "next: give Loinc.csv") {
		t.Errorf("%v", err)
	}
}
