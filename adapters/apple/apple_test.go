package apple

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"pulsegate/adapters"
	"pulsegate/adapters/adaptertest"
	"pulsegate/adapters/apple/applegen"
	"pulsegate/adapters/internal/archive"
	"pulsegate/mapping/sample"
)

func TestAdapter(t *testing.T) {
	start := time.Date(2024, 1, 1, 0, 0, 0, 0, time.FixedZone("", 3600))
	adaptertest.Run(t, New(), "testdata", adaptertest.Unterminated(formatECG),
		adaptertest.Large(formatXML, 200<<20, 24<<20, func(w io.Writer, size int64) error {
			return applegen.Generate(w, applegen.Options{Seed: 3, Bytes: size, Start: start})
		}),
		adaptertest.Large(formatHAE, 0, 24<<20, func(w io.Writer, _ int64) error {
			return applegen.GenerateHAE(w, applegen.Options{Seed: 3, Days: 400, Start: start})
		}), adaptertest.Large(formatCompanion, 24<<20, 24<<20, writeCompanion),
		adaptertest.Large(formatFHIR, 24<<20, 24<<20, writeFHIR))
}

func decode(t *testing.T, format, body string) *adaptertest.Recorder {
	t.Helper()
	r := adaptertest.NewRecorder()
	in := adapters.Input{Format: format, Body: strings.NewReader(body), Received: adaptertest.Received()}
	if err := New().Decode(t.Context(), in, r); err != nil {
		t.Fatal(err)
	}
	return r
}

func health(items ...string) string {
	return "<HealthData>" + strings.Join(items, "\n") + "</HealthData>"
}

const (
	sys  = `<Record type="HKQuantityTypeIdentifierBloodPressureSystolic" sourceName="C" unit="mmHg" startDate="2026-01-05 08:00:00 +0200" endDate="2026-01-05 08:00:00 +0200" value="124"/>`
	dia  = `<Record type="HKQuantityTypeIdentifierBloodPressureDiastolic" sourceName="C" unit="mmHg" startDate="2026-01-05 08:00:00 +0200" endDate="2026-01-05 08:00:00 +0200" value="79"/>`
	corr = `<Correlation type="HKCorrelationTypeIdentifierBloodPressure" sourceName="C" startDate="2026-01-05 08:00:00 +0200" endDate="2026-01-05 08:00:00 +0200">` + dia + sys + `</Correlation>`
)

func TestBloodPressureHalvesPairInAnyOrder(t *testing.T) {
	want, err := adaptertest.JSONLines(decode(t, formatXML, health(corr)))
	if err != nil {
		t.Fatal(err)
	}
	for name, doc := range map[string]string{
		"no correlation": health(sys, dia), "halves first": health(dia, sys, corr),
		"correlation first": health(corr, sys, dia), "correlation between halves": health(sys, corr, dia),
	} {
		r := decode(t, formatXML, doc)
		r.Drops = nil
		got, err := adaptertest.JSONLines(r)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, want) {
			t.Errorf("%s:\n got %s\nwant %s", name, got, want)
		}
	}
}

func TestUnpairedHalvesAreBounded(t *testing.T) {
	b := newBloodPressure()
	out := 0
	for i := range maxOpenHalves + 10 {
		r := &record{sample: sample.Sample{Metric: typeSystolic, Start: time.Unix(int64(i), 0)}}
		if s, _ := b.half(r); s != nil {
			if s.Start.Unix() != int64(out) {
				t.Fatalf("evicted %d, the oldest is %d", s.Start.Unix(), out)
			}
			out++
		}
	}
	if out != 10 || len(b.open) != maxOpenHalves {
		t.Fatalf("%d evicted, %d pending", out, len(b.open))
	}
}

func TestMalformedPayloads(t *testing.T) {
	deep := strings.Repeat(`{"a":`, 2000) + "1" + strings.Repeat("}", 2000)
	for name, c := range map[string]struct{ format, body, rule string }{
		"not an export": {formatXML, "<html></html>", "HealthData"},
		"two roots":     {formatXML, "<HealthData/><HealthData/>", "HealthData"},
		"entity":        {formatXML, `<!DOCTYPE HealthData [<!ENTITY a "b">]><HealthData/>`, "entity"},
		"deep XML":      {formatXML, health(strings.Repeat("<x>", 100)), "32 deep"},
		"deep JSON":     {formatHAE, `{"data":{"x":` + deep + `}}`, "32 deep"},
		"deep datum":    {formatHAE, `{"data":{"symptoms":[` + deep + `]}}`, "32 deep"},
		"huge datum": {formatHAE, `{"data":{"symptoms":[{"name":"` + strings.Repeat("x", 17<<20) + `"}]}}`,
			"16 MiB"},
		"duplicate name":     {formatHAE, `{"data":{},"data":{}}`, "twice"},
		"array":              {formatHAE, `[]`, "no object"},
		"second value":       {formatHAE, `{"data":{}}{"data":{}}`, "more than one"},
		"no random access":   {formatZip, "PK\x03\x04", "random access"},
		"ECG without header": {formatECG, "Name,x\n", "header"},
		"ECG voltage is text": {formatECG,
			"a,b\nc,d\nRecorded Date,2026-01-05 09:15:35 +0200\ne,f\ng,\nh,1\ni,\"W\"\nj,512 hertz\n\nLead,I\nUnit,µV\n\nWilhelmine\n", "not a decimal"},
	} {
		in := adapters.Input{Format: c.format, Body: strings.NewReader(c.body), Received: adaptertest.Received()}
		err := New().Decode(t.Context(), in, adaptertest.NewRecorder())
		var pe *adapters.PayloadError
		if !errors.As(err, &pe) || !strings.Contains(pe.Error(), c.rule) || strings.Contains(pe.Error(), "Wilhelmine") {
			t.Errorf("%s: %v, want %q", name, err, c.rule)
		}
	}
}

func TestZipLimits(t *testing.T) {
	var buf bytes.Buffer
	if err := applegen.GenerateZip(&buf,
		applegen.Options{Seed: 1, Days: 2, Start: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)}); err != nil {
		t.Fatal(err)
	}
	run := func(l archive.Limits) error {
		in := adapters.Input{Format: formatZip, Body: bytes.NewReader(buf.Bytes()),
			At: bytes.NewReader(buf.Bytes()), Size: int64(buf.Len()), Received: adaptertest.Received()}
		return (&adapter{limits: l}).Decode(t.Context(), in, adaptertest.NewRecorder())
	}
	if err := run(archive.Limits{}); err != nil {
		t.Fatal(err)
	}
	for rule, l := range map[string]archive.Limits{"too many entries": {Entries: 2},
		"inflates to more than": {Bytes: 100 << 10}} {
		if err := run(l); err == nil || !strings.Contains(err.Error(), rule) {
			t.Errorf("%v, want %q", err, rule)
		}
	}
}

func input(body []byte) adapters.Input {
	return adapters.Input{Body: bytes.NewReader(body), At: bytes.NewReader(body), Size: int64(len(body)),
		Received: adaptertest.Received()}
}

func decodeBytes(ctx context.Context, name, format string, body []byte, sink adapters.Sink) error {
	in := input(body)
	in.Name, in.Format = name, format
	return New().Decode(ctx, in, sink)
}

func fuzz(f *testing.F, format string) {
	files, err := filepath.Glob(filepath.Join("testdata", format, "*"))
	if err != nil {
		f.Fatal(err)
	}
	for _, name := range files {
		b, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		if !strings.HasSuffix(name, ".golden") {
			f.Add(b)
		}
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		r := adaptertest.NewRecorder()
		err := decodeBytes(t.Context(), "x", format, body, r)
		var pe *adapters.PayloadError
		if err != nil && !errors.As(err, &pe) {
			t.Fatalf("not a PayloadError: %v", err)
		}
		for _, s := range r.Samples {
			if err := adaptertest.Check(s); err != nil {
				t.Fatalf("%s: %v", s.Metric, err)
			}
		}
	})
}

func FuzzXML(f *testing.F) { fuzz(f, formatXML) }
func FuzzZip(f *testing.F) { fuzz(f, formatZip) }
func FuzzECG(f *testing.F) { fuzz(f, formatECG) }
func FuzzHAE(f *testing.F) { fuzz(f, formatHAE) }

func FuzzCompanion(f *testing.F)     { fuzz(f, formatCompanion) }
func FuzzFHIR(f *testing.F)          { fuzz(f, formatFHIR) }
func FuzzOpenWearables(f *testing.F) { fuzz(f, formatOpenWearables) }
