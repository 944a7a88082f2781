package series

import (
	"fmt"
	"math"
	"os"
	"testing"
	"text/tabwriter"
	"time"
)

// BenchmarkEncode reports bytes per sample and samples per second for each stream
// and block size.
func BenchmarkEncode(b *testing.B) { each(b, benchEncode) }

// BenchmarkDecode reports samples per second for each stream and block size.
func BenchmarkDecode(b *testing.B) { each(b, benchDecode) }

func each(b *testing.B, run func(b *testing.B, blocks []Columns)) {
	for _, s := range streams() {
		all := s.make(1 << 16)
		for _, size := range []int{240, 1024, 4096} {
			var blocks []Columns
			for at := 0; at+size <= all.Len(); at += size {
				blocks = append(blocks, all.Slice(at, at+size))
			}
			b.Run(fmt.Sprintf("%s/%d", s.name, size), func(b *testing.B) { run(b, blocks) })
		}
	}
}

func benchEncode(b *testing.B, blocks []Columns) {
	codec := newCodec(b)
	var buf []byte
	var bytes, samples int
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		c := &blocks[i%len(blocks)]
		buf, _ = codec.Encode(buf[:0], c)
		bytes, samples = bytes+len(buf), samples+c.Len()
	}
	b.ReportMetric(float64(bytes)/float64(samples), "B/sample")
	b.ReportMetric(float64(samples)/b.Elapsed().Seconds()/1e6, "Msamples/s")
}

func benchDecode(b *testing.B, blocks []Columns) {
	codec := newCodec(b)
	coded := make([][]byte, len(blocks))
	for i := range blocks {
		coded[i], _ = codec.Encode(nil, &blocks[i])
	}
	var into Columns
	samples := 0
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		if err := codec.Decode(coded[i%len(coded)], &into); err != nil {
			b.Fatal(err)
		}
		samples += into.Len()
	}
	b.ReportMetric(float64(samples)/b.Elapsed().Seconds()/1e6, "Msamples/s")
}

// BenchmarkTable prints bytes per sample and the best times for each stream and
// block size: go test -run '^$' -bench Table -benchtime 1x.
func BenchmarkTable(b *testing.B) {
	codec := newCodec(b)
	out := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(out, "stream\tsamples per block\tbytes per sample\tencode Msamples/s\tdecode Msamples/s\t"+
		"decode us per block\tsummarize Msamples/s\t")
	for _, s := range streams() {
		all := s.make(1 << 15)
		for _, size := range []int{240, 1024, 4096} {
			var encode, decode, sum = math.Inf(1), math.Inf(1), math.Inf(1)
			var bytes, samples int
			var buf []byte
			var into Columns
			for at := 0; at+size <= all.Len(); at += size {
				c := all.Slice(at, at+size)
				encode = min(encode, best(func() { buf, _ = codec.Encode(buf[:0], &c) }))
				decode = min(decode, best(func() { _ = codec.Decode(buf, &into) }))
				sum = min(sum, best(func() { Summarize(&c) }))
				bytes, samples = bytes+len(buf), samples+size
			}
			n := float64(size)
			fmt.Fprintf(out, "%s\t%d\t%.2f\t%.0f\t%.0f\t%.1f\t%.0f\t\n", s.name, size,
				float64(bytes)/float64(samples), n/encode, n/decode, decode, n/sum)
		}
	}
	if err := out.Flush(); err != nil {
		b.Fatal(err)
	}
}

// best returns the shortest of eight runs of f in microseconds. Other load on the
// machine can only make a run longer.
func best(f func()) float64 {
	least := time.Hour
	for range 8 {
		t := time.Now()
		f()
		least = min(least, time.Since(t))
	}
	return float64(least.Nanoseconds()) / 1000
}

// BenchmarkAppend appends the Observations of decoded samples.
func BenchmarkAppend(b *testing.B) {
	c, t := heart(1024), pair()
	t.Slots, t.Parts, t.KeyValue = t.Slots[:3], t.Parts[:4], false
	var buf []byte
	n := 0
	b.ReportAllocs()
	for b.Loop() {
		for i := range c.Len() {
			s := c.At(i)
			buf = t.Append(buf[:0], &s)
		}
		n += c.Len()
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(n), "ns/sample")
}
