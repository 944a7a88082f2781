package applegen_test

import (
	"bytes"
	"encoding/xml"
	"io"
	"testing"
	"time"

	"pulsegate/adapters"
	"pulsegate/adapters/adaptertest"
	"pulsegate/adapters/apple"
	"pulsegate/adapters/apple/applegen"
)

var start = time.Date(2026, 3, 1, 0, 0, 0, 0, time.FixedZone("", 3600))

func TestDeterministicAndWhole(t *testing.T) {
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
			t.Errorf("%s: the same seed must give the same bytes, another one others", name)
		}
		r := adaptertest.NewRecorder()
		in := adapters.Input{Name: name, Body: bytes.NewReader(a.Bytes()), At: bytes.NewReader(a.Bytes()), Size: int64(a.Len()), Received: adaptertest.Received()}
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
		if count["night"] < 28 || count["HKWorkoutTypeIdentifier"] < 4 {
			t.Errorf("%s: %v", name, count)
		}
		t.Logf("%s: %d bytes, %d samples", name, a.Len(), len(r.Samples))
	}
}

func TestSizeAndForm(t *testing.T) {
	var buf bytes.Buffer
	if err := applegen.Generate(&buf, applegen.Options{Seed: 1, Bytes: 8 << 20, Start: start}); err != nil {
		t.Fatal(err)
	}
	if n := buf.Len(); n < 7<<20 || n > 9<<20 {
		t.Errorf("%d bytes, wanted about 8 MiB", n)
	}
	d := xml.NewDecoder(&buf)
	for _, err := d.Token(); err != io.EOF; _, err = d.Token() {
		if err != nil {
			t.Fatal(err)
		}
	}
}
