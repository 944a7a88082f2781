//go:build !race

// The race detector empties pools at random.

package series

import "testing"

// TestAllocations checks that Encode and Decode reuse the memory of their
// destination.
func TestAllocations(t *testing.T) {
	codec := newCodec(t)
	for _, c := range []*Columns{heart(1000), mixed()} {
		var b []byte
		var back Columns
		if n := testing.AllocsPerRun(50, func() { b, _ = codec.Encode(b[:0], c) }); n > 1 {
			t.Errorf("Encode: %v allocations", n)
		}
		if n := testing.AllocsPerRun(50, func() { _ = codec.Decode(b, &back) }); n > 1 {
			t.Errorf("Decode: %v allocations", n)
		}
	}
}
