package apple

import (
	"bytes"
	"io"
	"runtime"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"pulsegate/adapters"
	"pulsegate/adapters/adaptertest"
	"pulsegate/adapters/apple/applegen"
	"pulsegate/mapping/sample"
)

// weigher is a sink that looks at the heap now and then.
type weigher struct {
	discard
	told int64
	most uint64
}

func (w *weigher) Progress(n int64) {
	if n-w.told < 16<<20 {
		return
	}
	w.told = n
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	w.most = max(w.most, m.HeapAlloc)
}

func TestMemoryDoesNotGrowWithTheExport(t *testing.T) {
	size := int64(200e6)
	if testing.Short() {
		size = 50e6
	}
	r, wr := io.Pipe()
	go func() {
		wr.CloseWithError(applegen.Generate(wr,
			applegen.Options{Seed: 3, Bytes: size, Start: time.Date(2024, 1, 1, 0, 0, 0, 0, time.UTC)}))
	}()
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	w := &weigher{}
	if err := New().Decode(t.Context(), adapters.Input{Format: formatXML, Body: r,
		Received: adaptertest.Received().AddDate(10, 0, 0)}, w); err != nil {
		t.Fatal(err)
	}
	if w.told < size/10*9 {
		t.Errorf("progress told of %d bytes", w.told)
	}
	if grown := int64(w.most) - int64(m.HeapAlloc); grown > 16<<20 {
		t.Errorf("%d samples took %d bytes of heap", w.n, grown)
	}
}

// TestQuantityRecordsDoNotAllocate counts over a document; what the decoder
// itself needs does not depend on its length.
func TestQuantityRecordsDoNotAllocate(t *testing.T) {
	const records = 20000
	var doc strings.Builder
	doc.WriteString("<HealthData>\n")
	for i := range records {
		at := time.Date(2026, 1, 1, 0, 0, i, 0, time.UTC).Format("2006-01-02 15:04:05 -0700")
		value := "6" + string(rune('0'+i%10))
		doc.WriteString(` <Record type="HKQuantityTypeIdentifierHeartRate" sourceName="Siv’s Apple Watch" sourceVersion="26.1" device="&lt;&lt;HKDevice: 0x30` +
			at[17:19] + `&gt;, name:Apple Watch&gt;" unit="count/min" creationDate="` + at + `" startDate="` + at +
			`" endDate="` + at + `" value="` + value + "\">\n" +
			`  <MetadataEntry key="HKMetadataKeyHeartRateMotionContext" value="` + value[1:] + "\"/>\n </Record>\n")
	}
	doc.WriteString("</HealthData>\n")
	body := []byte(doc.String())
	allocs := testing.AllocsPerRun(3, func() {
		d := &discard{}
		if err := decodeBytes(t.Context(), "export.xml", formatXML, body, d); err != nil || d.n != records {
			t.Fatalf("%d samples, %v", d.n, err)
		}
	})
	if allocs > records/50 {
		t.Errorf("%v allocations for %d records", allocs, records)
	}
}

// TestTwiceInOneTag: what is remembered of an attribute is that of its own
// place.
func TestTwiceInOneTag(t *testing.T) {
	rec := func(units string) string {
		return `<Record type="HKQuantityTypeIdentifierStepCount" ` + units +
			` sourceName="A" startDate="2026-01-05 08:00:00 +0200" endDate="2026-01-05 08:01:00 +0200" value="3"/>`
	}
	doc := health(rec(`unit="a"`), rec(`unit="b" unit="c"`), rec(`unit="c" unit="d"`), rec(`unit='e'`),
		rec(`unit="e"`), rec(``), rec(`unit = "f"`))
	for _, body := range []io.Reader{strings.NewReader(doc), iotest.OneByteReader(strings.NewReader(doc))} {
		r := adaptertest.NewRecorder()
		if err := New().Decode(t.Context(),
			adapters.Input{Format: formatXML, Body: body, Received: adaptertest.Received()}, r); err != nil {
			t.Fatal(err)
		}
		var units []string
		for _, s := range r.Samples {
			units = append(units, s.Value.Unit)
		}
		if got := strings.Join(units, ","); got != "a,c,d,e,e,,f" {
			t.Error(got)
		}
	}
}

// stopper ends the decoding early.
type stopper struct{ discard }

func (*stopper) Sample(*sample.Sample) error { return io.ErrClosedPipe }

// busy fails the test when it is read after its reader has given up.
type busy struct {
	t    *testing.T
	r    io.Reader
	over bool
}

func (b *busy) Read(p []byte) (int, error) {
	if b.over {
		b.t.Error("read after Decode returned")
	}
	return b.r.Read(p)
}

func TestNothingReadsOnAfterDecode(t *testing.T) {
	doc := bytes.Repeat([]byte(strings.ReplaceAll(sys, "BloodPressureSystolic", "HeartRate")), 1<<14)
	b := &busy{t: t, r: io.MultiReader(strings.NewReader("<HealthData>"), bytes.NewReader(doc))}
	in := adapters.Input{Format: formatXML, Body: b, Received: adaptertest.Received()}
	if err := New().Decode(t.Context(), in, &stopper{}); err != io.ErrClosedPipe {
		t.Fatal(err)
	}
	b.over = true // unguarded: the race detector sees a reader that is left
	time.Sleep(10 * time.Millisecond)
}
