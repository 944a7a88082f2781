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

// heapSink measures the heap after every 16 MiB of progress.
type heapSink struct {
	discard
	read     int64
	measured int64 // read at the last measurement
	peak     uint64
}

func (s *heapSink) Progress(n int64) {
	s.read = n
	if n-s.measured < 16<<20 {
		return
	}
	s.measured = n
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	s.peak = max(s.peak, m.HeapAlloc)
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
	sink := &heapSink{}
	if err := New().Decode(t.Context(), adapters.Input{Format: formatXML, Body: r,
		Received: adaptertest.Received().AddDate(10, 0, 0)}, sink); err != nil {
		t.Fatal(err)
	}
	if sink.read < size/10*9 {
		t.Errorf("progress was reported up to %d bytes", sink.read)
	}
	if grown := int64(sink.peak) - int64(m.HeapAlloc); grown > 16<<20 {
		t.Errorf("%d samples increased the heap by %d bytes", sink.n, grown)
	}
}

// TestQuantityRecordsDoNotAllocate counts the allocations for a whole document. The
// decoder itself allocates a number that does not depend on the length.
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

// TestRepeatedAttributes reads tags with a missing, a repeated and a differently
// quoted attribute, one after another: none may leak into the next tag.
func TestRepeatedAttributes(t *testing.T) {
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
			t.Errorf("units: %s", got)
		}
	}
}

// closedSink ends the decoding with its first sample.
type closedSink struct{ discard }

func (*closedSink) Sample(*sample.Sample) error { return io.ErrClosedPipe }

// watchedReader fails the test if it is read after Decode has returned.
type watchedReader struct {
	t    *testing.T
	src  io.Reader
	over bool
}

func (r *watchedReader) Read(p []byte) (int, error) {
	if r.over {
		r.t.Error("read after Decode returned")
	}
	return r.src.Read(p)
}

func TestDecodeStopsReadingWhenItReturns(t *testing.T) {
	doc := bytes.Repeat([]byte(strings.ReplaceAll(sys, "BloodPressureSystolic", "HeartRate")), 1<<14)
	body := &watchedReader{t: t, src: io.MultiReader(strings.NewReader("<HealthData>"), bytes.NewReader(doc))}
	in := adapters.Input{Format: formatXML, Body: body, Received: adaptertest.Received()}
	if err := New().Decode(t.Context(), in, &closedSink{}); err != io.ErrClosedPipe {
		t.Fatal(err)
	}
	body.over = true // without a lock, so that the race detector reports a remaining reader
	time.Sleep(10 * time.Millisecond)
}
