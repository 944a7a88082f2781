package apple

import (
	"bytes"
	"encoding/xml"
	"io"
	"syscall"
	"testing"
	"time"

	"pulsegate/adapters/apple/applegen"
	"pulsegate/mapping/sample"
)

type discard struct{ n int }

func (d *discard) Sample(*sample.Sample) error { d.n++; return nil }
func (d *discard) Reject(*sample.Reject) error { return nil }
func (d *discard) Drop(string, string, int)    {}
func (d *discard) Progress(int64)              {}

var bigOptions = applegen.Options{Seed: 1, Bytes: 32 << 20, Start: time.Date(2024, 1, 1, 0, 0, 0, 0, time.UTC)}

func bigDocument(b *testing.B) []byte {
	var buf bytes.Buffer
	if err := applegen.Generate(&buf, bigOptions); err != nil {
		b.Fatal(err)
	}
	return buf.Bytes()
}

func zipped(b *testing.B) []byte {
	var buf bytes.Buffer
	if err := applegen.GenerateZip(&buf, bigOptions); err != nil {
		b.Fatal(err)
	}
	return buf.Bytes()
}

// processorTime returns the processor time of all threads of this process. Unlike
// wall-clock time it hardly depends on other processes on the machine.
func processorTime(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// measure runs f over size bytes. In addition to MB/s of wall-clock time it reports
// MB and items per second of processor time.
func measure(b *testing.B, size int, f func() (items int, err error)) {
	b.SetBytes(int64(size))
	b.ReportAllocs()
	before, items := processorTime(b), 0
	for b.Loop() {
		n, err := f()
		if err != nil {
			b.Fatal(err)
		}
		items += n
	}
	sec := (processorTime(b) - before).Seconds()
	b.ReportMetric(float64(size)*float64(b.N)/1e6/sec, "MB/cpu-s")
	b.ReportMetric(float64(items)/sec, "items/cpu-s")
}

// BenchmarkExport compares the decoder with a search for quotes, with the scanner
// alone and with encoding/xml.
func BenchmarkExport(b *testing.B) {
	doc := bigDocument(b)
	b.Run("quotes", func(b *testing.B) {
		measure(b, len(doc), func() (int, error) { return countQuoted(bytes.NewReader(doc)) })
	})
	b.Run("scanner", func(b *testing.B) {
		measure(b, len(doc), func() (int, error) {
			n, err := ScanOnly(bytes.NewReader(doc))
			return int(n), err
		})
	})
	decode := func(templatesOff bool) func() (int, error) {
		return func() (int, error) {
			sink := &discard{}
			d := newXMLDecoder(b.Context(), input(doc), formatXML, bytes.NewReader(doc), sink)
			d.templatesOff = templatesOff
			err := d.run()
			return sink.n, err
		}
	}
	b.Run("decode", func(b *testing.B) { measure(b, len(doc), decode(false)) })
	archive := zipped(b)
	b.Run("zip", func(b *testing.B) {
		measure(b, len(doc), func() (int, error) {
			sink := &discard{}
			err := decodeBytes(b.Context(), "export.zip", formatZip, archive, sink)
			return sink.n, err
		})
	})
	b.Run("decode-templatesOff", func(b *testing.B) { measure(b, len(doc), decode(true)) })
	b.Run("encoding-xml", func(b *testing.B) {
		measure(b, len(doc), func() (n int, err error) {
			d := xml.NewDecoder(bytes.NewReader(doc))
			for err == nil {
				_, err = d.RawToken()
				n++
			}
			if err == io.EOF {
				err = nil
			}
			return n, err
		})
	})
}

// countQuoted counts attribute values by their quotes, the least work that any
// parser does.
func countQuoted(r io.Reader) (n int, err error) {
	buf := make([]byte, minBuf)
	for {
		got, err := r.Read(buf)
		for rest := buf[:got]; ; n++ {
			i := bytes.IndexByte(rest, '"')
			if i < 0 {
				break
			}
			rest = rest[i+1:]
		}
		if err == io.EOF {
			return n / 2, nil
		}
		if err != nil {
			return n, err
		}
	}
}

func BenchmarkGenerate(b *testing.B) {
	measure(b, int(bigOptions.Bytes), func() (int, error) { return 0, applegen.Generate(io.Discard, bigOptions) })
}
