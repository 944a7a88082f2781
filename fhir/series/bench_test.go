package series

import (
	"fmt"
	"testing"
)

// BenchmarkEncode and BenchmarkDecode report bytes a sample and samples a
// second, by shape and size of block.
func BenchmarkEncode(b *testing.B) { each(b, benchEncode) }
func BenchmarkDecode(b *testing.B) { each(b, benchDecode) }

func each(b *testing.B, run func(b *testing.B, blocks []Columns)) {
	for _, s := range shapes() {
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
