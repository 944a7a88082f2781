package applegen_test

import (
	"archive/zip"
	"bytes"
	"encoding/xml"
	"io"
	"math"
	"strings"
	"testing"
	"time"

	"pulsegate/adapters"
	"pulsegate/adapters/adaptertest"
	"pulsegate/adapters/apple"
	"pulsegate/adapters/apple/applegen"
)

var start = time.Date(2026, 3, 1, 0, 0, 0, 0, time.FixedZone("", 3600))

func TestGeneratorsAreDeterministic(t *testing.T) {
	for name, write := range map[string]func(io.Writer, applegen.Options) error{
		"export.xml": applegen.Generate, "export.zip": applegen.GenerateZip, "health-auto-export": applegen.GenerateHAE,
	} {
		var a, b, c bytes.Buffer
		for buf, seed := range map[*bytes.Buffer]uint64{&a: 1, &b: 1, &c: 2} {
			if err := write(buf, applegen.Options{Seed: seed, Days: 30, Start: start, Name: "Siv"}); err != nil {
				t.Fatal(err)
			}
		}
		if !bytes.Equal(a.Bytes(), b.Bytes()) || bytes.Equal(a.Bytes(), c.Bytes()) {
			t.Errorf("%s: equal seeds must give equal bytes, different seeds different ones", name)
		}
		r := adaptertest.NewRecorder()
		in := adapters.Input{Name: name, Body: bytes.NewReader(a.Bytes()), At: bytes.NewReader(a.Bytes()),
			Size: int64(a.Len()), Received: adaptertest.Received()}
		if err := apple.New().Decode(t.Context(), in, r); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if len(r.Rejects) != 0 {
			t.Errorf("%s: %d rejects, the first: %+v", name, len(r.Rejects), r.Rejects[0])
		}
		count := map[string]int{}
		for _, s := range r.Samples {
			count[s.Metric]++
			if err := adaptertest.Check(s); err != nil {
				t.Fatalf("%s: %s: %v", name, s.Metric, err)
			}
		}
		if count["night"]+count["HKCategoryTypeIdentifierSleepAnalysis"] < 28 || count["HKWorkoutTypeIdentifier"] < 4 {
			t.Errorf("%s: %v", name, count)
		}
		t.Logf("%s: %d bytes, %d samples", name, a.Len(), len(r.Samples))
	}
}

func TestGenerateMeetsSize(t *testing.T) {
	var buf bytes.Buffer
	if err := applegen.Generate(&buf, applegen.Options{Seed: 1, Bytes: 8 << 20, Start: start}); err != nil {
		t.Fatal(err)
	}
	if n := buf.Len(); n < 7<<20 || n > 9<<20 {
		t.Errorf("got %d bytes, want about 8 MiB", n)
	}
	d := xml.NewDecoder(&buf)
	for _, err := d.Token(); err != io.EOF; _, err = d.Token() {
		if err != nil {
			t.Fatal(err)
		}
	}
}

// TestProportions checks the percentages that the package comment states.
func TestProportions(t *testing.T) {
	var buf bytes.Buffer
	if err := applegen.Generate(&buf, applegen.Options{Seed: 1, Days: 60, Start: start}); err != nil {
		t.Fatal(err)
	}
	count := func(s string) float64 { return float64(bytes.Count(buf.Bytes(), []byte(s))) }
	records := count("<Record ")
	for typ, percent := range map[string]float64{
		"Quantity|ActiveEnergyBurned": 29, "Quantity|HeartRate": 18, "Quantity|BasalEnergyBurned": 13,
		"Quantity|DistanceWalkingRunning": 12,
		"Quantity|StepCount":              8, "Quantity|AppleExerciseTime": 3, "Quantity|PhysicalEffort": 3,
		"Quantity|RespiratoryRate": 1,
		"Category|SleepAnalysis":   2, "Quantity|OxygenSaturation": 0.3, "Quantity|HeartRateVariabilitySDNN": 0.3,
	} {
		family, name, _ := strings.Cut(typ, "|")
		got := 100 * count(`<Record type="HK`+family+"TypeIdentifier"+name+`"`) / records
		if math.Abs(got-percent) > max(0.06*percent, 0.1) {
			t.Errorf("%s: %.2f %%, the package comment states %v %%", name, got, percent)
		}
	}
	if beats := records / count("<InstantaneousBeatsPerMinute "); beats < 7 || beats > 9 {
		t.Errorf("%.1f Records per beat, the package comment states 8", beats)
	}
	if size := float64(buf.Len()) / records; size < 400 || size > 440 {
		t.Errorf("%.0f bytes per Record, the package comment states 420", size)
	}
}

// TestArchiveHasReferencedFiles checks that the files that the XML refers to are in
// the archive.
func TestArchiveHasReferencedFiles(t *testing.T) {
	var buf bytes.Buffer
	if err := applegen.GenerateZip(&buf, applegen.Options{Seed: 1, Days: 40, Start: start}); err != nil {
		t.Fatal(err)
	}
	z, err := zip.NewReader(bytes.NewReader(buf.Bytes()), int64(buf.Len()))
	if err != nil {
		t.Fatal(err)
	}
	files := map[string]bool{}
	for _, f := range z.File {
		files[strings.TrimPrefix(f.Name, "apple_health_export")] = true
	}
	r, err := z.Open("apple_health_export/export.xml")
	if err != nil {
		t.Fatal(err)
	}
	refs := 0
	d := xml.NewDecoder(r)
	for tok, err := d.Token(); err != io.EOF; tok, err = d.Token() {
		if err != nil {
			t.Fatal(err)
		}
		e, _ := tok.(xml.StartElement)
		for _, a := range e.Attr {
			if a.Name.Local == "path" || a.Name.Local == "resourceFilePath" {
				if refs++; !files[a.Value] {
					t.Errorf("%s refers to the missing file %s", e.Name.Local, a.Value)
				}
			}
		}
	}
	if refs < 10 {
		t.Errorf("%d references", refs)
	}
}
