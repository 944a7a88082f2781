package archive_test

import (
	"archive/zip"
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"strings"
	"testing"

	"pulsegate/adapters"
	"pulsegate/adapters/internal/archive"
)

// zipped returns an archive of files by name, in order.
func zipped(t *testing.T, files ...[2]string) []byte {
	t.Helper()
	var buf bytes.Buffer
	z := zip.NewWriter(&buf)
	for _, f := range files {
		w, err := z.Create(f[0])
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, f[1]); err != nil {
			t.Fatal(err)
		}
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

// readAll opens an archive, checks it and reads every file.
func readAll(body []byte, l archive.Limits) (texts []string, err error) {
	a, err := archive.Open("f", adapters.Input{At: bytes.NewReader(body), Size: int64(len(body))}, l)
	if err != nil {
		return nil, err
	}
	if err := a.CheckOverlap(a.Entries()); err != nil {
		return nil, err
	}
	for _, e := range a.Entries() {
		if !e.IsData() {
			continue
		}
		if err := a.Read(e, func(r *archive.Reader) error {
			b, err := io.ReadAll(r)
			texts = append(texts, string(b))
			return err
		}); err != nil {
			return texts, err
		}
	}
	return texts, nil
}

func TestRead(t *testing.T) {
	body := zipped(t, [2]string{"a/x.json", "one"},
		[2]string{"__MACOSX/a/._x.json", "junk"}, [2]string{"a/.DS_Store", "junk"},
		[2]string{"a/", ""}, [2]string{"../../etc/y.csv", "two"})
	texts, err := readAll(body, archive.Limits{})
	if got := strings.Join(texts, " "); err != nil || got != "one two" {
		t.Errorf("%v: %q", err, got)
	}
	if _, err := archive.Open("f", adapters.Input{}, archive.Limits{}); err == nil {
		t.Error("an archive without random access opens")
	}
}

// TestLimits checks that hostile archives are refused by the rule that they break,
// with the position and without names of files.
func TestLimits(t *testing.T) {
	large := strings.Repeat("0", 80<<20)
	three := zipped(t, [2]string{"secret", "one"}, [2]string{"b", "two"}, [2]string{"c", "three"})
	damaged := zipped(t, [2]string{"secret", strings.Repeat("abc", 100)})
	damaged[len("PK\x03\x04")+26+len("secret")+2] ^= 0xff // inside the compressed data
	overlapping := bytes.Clone(three)
	directory := bytes.LastIndex(overlapping, []byte("PK\x01\x02"))
	binary.LittleEndian.PutUint32(overlapping[directory+42:], 0) // the last file begins where the first does
	for name, c := range map[string]struct {
		body []byte
		l    archive.Limits
		rule string
	}{
		"no directory": {three[:20], archive.Limits{}, "no readable zip directory"},
		"entries":      {three, archive.Limits{Entries: 2}, "too many entries"},
		"bytes":        {three, archive.Limits{Bytes: 8}, "zip entry 3: the archive inflates to more than the limit"},
		"ratio":        {zipped(t, [2]string{"secret", large}), archive.Limits{Ratio: 10}, "entry 1: an entry inflates"},
		"damaged":      {damaged, archive.Limits{}, "zip entry 1: the entry cannot be inflated"},
		"overlap":      {overlapping, archive.Limits{}, "entries overlap"},
	} {
		_, err := readAll(c.body, c.l)
		var pe *adapters.PayloadError
		if !errors.As(err, &pe) || !strings.Contains(err.Error(), c.rule) || strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: %v, want %q", name, err, c.rule)
		}
	}
}

// TestReadReturnsErrorOfUse checks that an error of the caller is returned unchanged.
func TestReadReturnsErrorOfUse(t *testing.T) {
	body := zipped(t, [2]string{"a", "one"})
	a, err := archive.Open("f", adapters.Input{At: bytes.NewReader(body), Size: int64(len(body))}, archive.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	want := errors.New("the store is full")
	if err := a.Read(a.Entries()[0], func(*archive.Reader) error { return want }); err != want {
		t.Errorf("got %v", err)
	}
}
