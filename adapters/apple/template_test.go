package apple

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"pulsegate/adapters/adaptertest"
	"pulsegate/adapters/apple/applegen"
)

// outcome renders everything that a sink receives for doc, and the error.
func outcome(t testing.TB, doc []byte, templatesOff bool) string {
	t.Helper()
	r := adaptertest.NewRecorder()
	d := newXMLDecoder(t.Context(), input(doc), formatXML, bytes.NewReader(doc), r)
	d.templatesOff = templatesOff
	err := d.run()
	lines, jerr := adaptertest.JSONLines(r)
	if jerr != nil {
		t.Fatal(jerr)
	}
	if err != nil {
		lines = append(lines, err.Error()...)
	}
	for _, s := range r.Samples { // JSON does not show the identity of the zone
		if s.Start.Location() == time.Local || s.End.Location() == time.Local {
			t.Fatalf("%s in the machine's zone", s.Metric)
		}
	}
	return string(lines)
}

// checkTemplates fails the test if decoding doc with templates and with the scanner
// alone gives different results.
func checkTemplates(t interface {
	Helper()
	Fatalf(string, ...any)
}, tb testing.TB, doc []byte) {
	t.Helper()
	if fast, slow := outcome(tb, doc, false), outcome(tb, doc, true); fast != slow {
		q, s := strings.Split(fast, "\n"), strings.Split(slow, "\n")
		for i := range min(len(q), len(s)) {
			if q[i] != s[i] {
				t.Fatalf("line %d:\ntemplate %s\nscanner  %s", i, q[i], s[i])
			}
		}
		t.Fatalf("%d lines with templates, %d without", len(q), len(s))
	}
}

const templateHead = `<HealthData locale="en_FR">` + "\n "

// templateSeeds are Records and other elements that differ from each other in ways
// that a template must notice.
var templateSeeds = []string{
	`<Record type="HKQuantityTypeIdentifierHeartRate" sourceName="W" device="&lt;&lt;HKDevice: 0x30a&gt;, name:Apple Watch, hardware:Watch6,7&gt;" unit="count/min" creationDate="2026-01-05 08:00:05 +0200" startDate="2026-01-05 08:00:00 +0200" endDate="2026-01-05 08:00:00 +0200" value="61">` + "\n  " + `<MetadataEntry key="HKMetadataKeyHeartRateMotionContext" value="1"/>` + "\n </Record>",
	`<Record type="HKQuantityTypeIdentifierHeartRate" sourceName="W" device="&lt;&lt;HKDevice: 0x30b&gt;, name:Apple Watch, hardware:Watch6,7&gt;" unit="count/min" creationDate="2026-01-05 08:00:05 +0200" startDate="2026-01-05 08:00:00 +0200" endDate="2026-01-05 08:00:07 +0200" value="161.25"/>`,
	`<Record type="HKQuantityTypeIdentifierStepCount" sourceName="P" unit="count" startDate="2026-01-05 23:59:59 -0930" endDate="2026-01-06 00:10:00 -0930" value="12" />`,
	`<Record startDate="2026-01-05 08:00:00 +0200" value="7" type="HKQuantityTypeIdentifierStepCount" unit="count" endDate="2026-01-05 07:00:00 +0200" sourceName="P"/>`,
	`<Record type="HKQuantityTypeIdentifierStepCount" sourceName="P" unit="count" startDate="2026-01-05 08:00:00 +0200" startDate="2026-01-05 08:30:00 +0200" value="12"/>`,
	`<Record type="HKCategoryTypeIdentifierSleepAnalysis" sourceName="W" creationDate="2026-01-06 08:00:00 +0200" startDate="2026-01-05 23:00:00 +0200" endDate="2026-01-06 05:00:00 +0200" value="HKCategoryValueSleepAnalysisAsleepCore"><MetadataEntry key="HKTimeZone" value="Europe/Paris"/></Record>`,
	`<Record type="HKQuantityTypeIdentifierHeartRateVariabilitySDNN" sourceName="W" unit="ms" startDate="2026-01-05 01:00:00 +0200" endDate="2026-01-05 01:01:00 +0200" value="48.21"><MetadataEntry key="HKMetadataKeySyncIdentifier" value="x&amp;y"/>` +
		`<HeartRateVariabilityMetadataList><InstantaneousBeatsPerMinute bpm="62" time="23:59:58,40"/> <InstantaneousBeatsPerMinute bpm="60" time="1:00:01 ` + "\u202f" + `AM"/></HeartRateVariabilityMetadataList></Record>`,
	`<Record type="HKQuantityTypeIdentifierBodyMass" sourceName="S" unit="kg" startDate="2026-01-05 08:00:00 +0200" endDate="2026-01-05 08:00:00 +0200" value="071.50"><MetadataEntry key="HKWasUserEntered" value="1"/><Record><MetadataEntry value="1" key="HKWasUserEntered"/></Record></Record>`,
	`<Record type="HKQuantityTypeIdentifierBodyMass" sourceName="S" unit="kg" startDate="2026-02-30 08:00:00 +0200" endDate="1899-12-31 08:00:00 +0200" value="71"/>`,
	`<Record type="HKQuantityTypeIdentifierBloodPressureSystolic" sourceName="C" unit="mmHg" startDate="2026-01-05 08:00:00 +0200" endDate="2026-01-05 08:00:00 +0200" value="124"/>`,
	`<ExportDate value="2026-01-07 10:00:00 +0200"/>`, `<!-- c -->`, `text`, `</HealthData>`,
	`<ActivitySummary dateComponents="2026-01-05" appleStandHours="3"/>`,
}

// TestTemplatesEqualScanner decodes random sequences of the seeds, some of them with
// a byte changed, with and without templates.
func TestTemplatesEqualScanner(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		doc := []byte(templateHead)
		for range rapid.IntRange(1, 40).Draw(rt, "items") {
			item := []byte(rapid.SampledFrom(templateSeeds[:10]).Draw(rt, "item"))
			switch rapid.IntRange(0, 9).Draw(rt, "what") {
			case 0: // any byte
				item[rapid.IntRange(0, len(item)-1).Draw(rt, "at")] = rapid.Byte().Draw(rt, "byte")
			case 1: // a likely byte
				at := rapid.IntRange(0, len(item)-1).Draw(rt, "at")
				item[at] = rapid.SampledFrom([]byte(`0123456789"'<>/ =&:.-+`)).Draw(rt, "byte")
			case 2:
				item = []byte(rapid.SampledFrom(templateSeeds).Draw(rt, "other"))
			}
			doc = append(append(doc, item...), rapid.SampledFrom([]string{"\n ", "", "\r\n\t"}).Draw(rt, "space")...)
		}
		checkTemplates(rt, t, append(doc, "</HealthData>"...))
	})
}

// TestTemplatesOnDocuments compares whole documents, which span several buffers.
func TestTemplatesOnDocuments(t *testing.T) {
	var big bytes.Buffer
	if err := applegen.Generate(&big, applegen.Options{Seed: 5, Bytes: 3 << 20,
		Start: time.Date(2026, 2, 1, 0, 0, 0, 0, time.UTC)}); err != nil {
		t.Fatal(err)
	}
	docs := map[string][]byte{"generated": big.Bytes(), "cut": big.Bytes()[:big.Len()-100_000]}
	files, err := filepath.Glob(filepath.Join("testdata", formatXML, "*.xml"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no payloads: %v", err)
	}
	for _, f := range files {
		if docs[f], err = os.ReadFile(f); err != nil {
			t.Fatal(err)
		}
	}
	for name, doc := range docs {
		t.Run(name, func(t *testing.T) { checkTemplates(t, t, doc) })
	}
}

// TestTemplatesAreUsed checks that tags match templates, which the comparisons above
// do not show, and that matching hardly allocates.
func TestTemplatesAreUsed(t *testing.T) {
	line := strings.Replace(templateSeeds[2], `value="12"`, `value="16.125"`, 1) + "\n "
	doc := []byte(templateHead + strings.Repeat(templateSeeds[0]+"\n ", 20_000) + strings.Repeat(line, 20_000) +
		"</HealthData>")
	var d *xmlDecoder
	allocs := testing.AllocsPerRun(1, func() {
		d = newXMLDecoder(t.Context(), input(doc), formatXML, bytes.NewReader(doc), &discard{})
		if err := d.run(); err != nil {
			t.Fatal(err)
		}
	})
	if len(d.templates) != 2 {
		t.Errorf("%d templates, want 2", len(d.templates))
	}
	if n := d.sink.(*discard).n; n != 40_000 {
		t.Errorf("%d samples", n)
	}
	if allocs > 400 {
		t.Errorf("%.0f allocations for 40,000 records", allocs)
	}
}

func FuzzTemplates(f *testing.F) {
	for i, s := range templateSeeds {
		f.Add([]byte(templateHead + s + s + templateSeeds[(i+1)%10] + s + "</HealthData>"))
	}
	f.Fuzz(func(t *testing.T, doc []byte) { checkTemplates(t, t, doc) })
}

func TestMomentEqualsParse(t *testing.T) {
	received := adaptertest.Received()
	c, ref := newClock(received), newClock(received)
	rapid.Check(t, func(rt *rapid.T) {
		at := time.Unix(rapid.Int64Range(-2300000000, received.Unix()+4*86400).Draw(rt, "sec"), 0)
		zone := time.FixedZone("", 60*rapid.IntRange(-16*60, 16*60).Draw(rt, "offset"))
		b := []byte(at.In(zone).Format("2006-01-02 15:04:05 -0700"))
		if rapid.IntRange(0, 3).Draw(rt, "spoil") == 0 {
			b[rapid.IntRange(0, len(b)-1).Draw(rt, "at")] = rapid.Byte().Draw(rt, "byte")
		}
		m, ok := c.moment(b)
		want, wantOK := ref.parse(b)
		wantOK = wantOK && ref.plausible(want)
		if ok != wantOK || ok && (!m.time().Equal(want) || m.time().String() != want.String()) {
			rt.Fatalf("%q: %v %v, want %v %v", b, m, ok, want, wantOK)
		}
	})
}
