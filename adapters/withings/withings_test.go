package withings_test

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"pulsegate/adapters"
	"pulsegate/adapters/adaptertest"
	"pulsegate/adapters/withings"
)

func TestAdapter(t *testing.T) {
	adaptertest.Run(t, withings.New(), "testdata", adaptertest.Large("api", 8<<20, 0, writeLarge))
}

func writeLarge(w io.Writer, size int64) error {
	n, err := io.WriteString(w, `{"status":0,"body":{"timezone":"Europe/Paris","measuregrps":[`)
	written, sep := int64(n), ""
	for i := 0; err == nil && written < size; i++ {
		n, err = fmt.Fprintf(w, `%s{"grpid":%d,"attrib":0,"category":1,"date":%d,"measures":[{"value":%d,"type":1,"unit":-3}]}`,
			sep, i+1, 1767596400+60*i, 65000+i%1000)
		written, sep = written+int64(n), ","
	}
	if err == nil {
		_, err = io.WriteString(w, `]}}`)
	}
	return err
}

// TestRefused checks the rules that payloads as a whole break.
func TestRefused(t *testing.T) {
	for body, rule := range map[string]string{
		"":                                 "the body is empty",
		`{"status":401,"body":{}}`:         "the service answered with an error",
		`{"status":0,"body":{}}`:           "no known list",
		`{"status":0,"body":[]}`:           "no known list",
		`{"status":0,"body":{"series":7}}`: "no known list",
	} {
		err := withings.New().Decode(t.Context(), adapters.Input{Body: strings.NewReader(body)},
			adaptertest.NewRecorder())
		if err == nil || !strings.Contains(err.Error(), rule) {
			t.Errorf("%s: %v, want %q", body, err, rule)
		}
	}
}

// TestScale checks that value * 10^unit is exact.
func TestScale(t *testing.T) {
	for in, want := range map[string]string{
		`"value":65750,"unit":-3`: "65.750", `"value":5,"unit":-3`: "0.005", `"value":-5,"unit":-1`: "-0.5",
		`"value":0,"unit":2`: "0", `"value":7,"unit":2`: "700", `"value":70,"unit":0`: "70", `"value":0,"unit":-2`: "0.00",
		`"value":1.5,"unit":0`: "", `"value":1,"unit":-13`: "", `"value":1,"unit":7`: "", `"value":1`: "", `"unit":1`: "",
	} {
		rec := adaptertest.NewRecorder()
		body := `{"status":0,"body":{"measuregrps":[{"grpid":1,"date":1767596400,"measures":[{"type":1,` + in + `}]}]}}`
		err := withings.New().Decode(t.Context(), adapters.Input{Body: strings.NewReader(body)}, rec)
		got := ""
		if len(rec.Samples) == 1 {
			got = rec.Samples[0].Value.Num
		}
		if err != nil || got != want || (want == "") != (len(rec.Rejects) == 1) {
			t.Errorf("%s: %q, %v, want %q", in, got, err, want)
		}
	}
}

// maxLines bounds the Go code of a vendor, without tests and the metric table.
const maxLines = 400

// TestSize counts the lines of code of the adapter and the cloud, which are the measure
// for the kit: blank lines and comments do not count. Notifications and the signed
// revocation are optional and are left out.
func TestSize(t *testing.T) {
	lines := 0
	for _, dir := range []string{".", "../cloud/withings"} {
		files, err := filepath.Glob(dir + "/*.go")
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range files {
			b, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			if name := filepath.Base(f); strings.HasSuffix(f, "_test.go") || name == "notify.go" || name == "revoke.go" {
				continue
			}
			for line := range bytes.Lines(b) {
				if line = bytes.TrimSpace(line); len(line) > 0 && !bytes.HasPrefix(line, []byte("//")) {
					lines++
				}
			}
		}
	}
	t.Logf("%d lines of Go", lines)
	if lines < 100 || lines >= maxLines {
		t.Errorf("%d lines of Go, want fewer than %d", lines, maxLines)
	}
}
