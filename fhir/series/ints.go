package series

import (
	"encoding/binary"
	"math"
	"math/bits"
	"slices"

	"github.com/klauspost/compress/fse"
)

// work holds the scratch memory of one Encode or Decode.
type work struct {
	cols     [4][]int64
	small    []uint64
	plane    []byte
	runs     []byte
	fse      fse.Scratch
	hist     [256]uint16
	logs     [sampled + 1]uint32 // logs[n] is 1024 n log2 n
	seen     map[Commit]int
	distinct []Commit
}

func newWork() any {
	w := &work{}
	for i := 1; i < len(w.logs); i++ {
		w.logs[i] = uint32(1024 * float64(i) * math.Log2(float64(i)))
	}
	return w
}

// ints returns scratch column k with n elements of arbitrary content.
func (w *work) ints(k, n int) []int64 {
	w.cols[k] = sized(w.cols[k], n)
	return w.cols[k]
}

func sized[T any](s []T, n int) []T {
	return slices.Grow(s[:0], n)[:n]
}

// units are the units of time in microseconds. A column uses the largest that
// divides all its elements.
var units = [...]int64{1, 1e3, 1e6, 60e6}

// unitOf sets q to x in the largest unit that divides all elements, and returns
// the index of that unit.
func unitOf(q, x []int64) byte {
	for u := len(units) - 1; u > 0; u-- {
		if divide(q, x, units[u]) {
			return byte(u)
		}
	}
	copy(q, x)
	return 0
}

// divide sets q to x/unit and reports whether no element has a remainder. It
// divides by the odd part of unit with its inverse modulo 2^64, because a
// multiplication is faster than a division.
func divide(q, x []int64, unit int64) bool {
	k := bits.TrailingZeros64(uint64(unit))
	odd := unit >> k
	inv := odd // correct to 3 bits
	for range 5 {
		inv *= 2 - odd*inv
	}
	lim, low := math.MaxInt64/unit, int64(1)<<k-1
	for i, v := range x {
		d := (v >> k) * inv
		if v&low != 0 || d > lim || d < -lim {
			return false
		}
		q[i] = d
	}
	return true
}

// Transforms of a column of integers into small numbers.
const (
	plain = iota // the difference to the smallest element
	delta        // zigzag of the difference to the previous element minus the typical step
	abut         // like delta, from the end of the previous interval
)

// putInts appends a column. If dur is not nil, it holds the lengths of the
// samples, for the transform abut.
func (w *work) putInts(b []byte, x, dur []int64) []byte {
	n := len(x)
	if n == 0 {
		return b
	}
	lo, hi := x[0], x[0]
	for _, v := range x {
		lo, hi = min(lo, v), max(hi, v)
	}
	if lo == hi {
		b = append(b, plain<<4)
		return binary.AppendVarint(b, lo)
	}
	how, typical := w.choose(x, dur, lo)
	w.small = sized(w.small, n)
	y := w.small
	var all uint64
	switch how {
	case plain:
		for i, v := range x {
			y[i] = uint64(v - lo)
			all |= y[i]
		}
	default:
		y = y[:n-1]
		for i := range y {
			d := x[i+1] - x[i] - typical
			if how == abut {
				d -= dur[i]
			}
			y[i] = zigzag(d)
			all |= y[i]
		}
	}
	width := (bits.Len64(all) + 7) / 8
	b = append(b, byte(how<<4|width))
	if how == plain {
		b = binary.AppendVarint(b, lo)
	} else {
		b = binary.AppendVarint(b, x[0])
		b = binary.AppendVarint(b, typical)
	}
	w.plane = sized(w.plane, len(y))
	for p := range width {
		for i, v := range y {
			w.plane[i] = byte(v >> (8 * p))
		}
		b = w.putPlane(b, w.plane)
	}
	return b
}

// choose returns the transform with the least entropy, estimated from some of
// the elements of x, and its typical step.
func (w *work) choose(x, dur []int64, lo int64) (how int, typical int64) {
	n := len(x)
	if n < 2 {
		return plain, 0
	}
	var buf [sampled]uint64
	step := max(1, (n-1)/len(buf))
	best := uint32(math.MaxUint32)
	for t := plain; t <= abut; t++ {
		if t == abut && dur == nil {
			break
		}
		y := buf[:0]
		for i := 1; i < n && len(y) < len(buf); i += step {
			switch t {
			case plain:
				y = append(y, uint64(x[i]-lo))
			case delta:
				y = append(y, uint64(x[i]-x[i-1]))
			case abut:
				y = append(y, uint64(x[i]-x[i-1]-dur[i-1]))
			}
		}
		var mid int64
		if t != plain {
			mid = middle(y)
			for i := range y {
				y[i] = zigzag(int64(y[i]) - mid)
			}
		}
		if e := w.entropy(y); e < best {
			best, how, typical = e, t, mid
		}
	}
	return how, typical
}

// middle returns the median of up to 15 elements of y.
func middle(y []uint64) int64 {
	var buf [15]int64
	few := buf[:0]
	for i := 0; i < len(y) && len(few) < len(buf); i += max(1, len(y)/len(buf)) {
		few = append(few, int64(y[i]))
	}
	slices.Sort(few)
	return few[len(few)/2]
}

// sampled is the number of elements from which the transform of a column is
// chosen.
const sampled = 512

// entropy returns the entropy of the byte planes of y in 1/1024 bits. It
// overwrites y.
func (w *work) entropy(y []uint64) (e uint32) {
	var all uint64
	for _, v := range y {
		all |= v
	}
	for ; all > 0; all >>= 8 {
		h := w.hist[:1<<bits.Len8(byte(all))]
		clear(h)
		for i, v := range y {
			h[byte(v)]++
			y[i] = v >> 8
		}
		e += w.logs[len(y)]
		for _, c := range h {
			e -= w.logs[c]
		}
	}
	return e
}

func zigzag(v int64) uint64   { return uint64(v<<1) ^ uint64(v>>63) }
func unzigzag(u uint64) int64 { return int64(u>>1) ^ -int64(u&1) }

// Encodings of a plane of bytes.
const (
	planeConst = iota // one byte
	planeRaw          // the bytes
	planeRuns         // uvarint length, then runs: a byte and uvarint count
	planeFSE          // uvarint length, then a block of Finite State Entropy
)

func (w *work) putPlane(b, p []byte) []byte {
	runs := 1
	for i := 1; i < len(p); i++ {
		if p[i] != p[i-1] {
			runs++
		}
	}
	if runs == 1 {
		return append(b, planeConst, p[0])
	}
	how, body := byte(planeRaw), p
	if z, err := fse.Compress(p, &w.fse); err == nil {
		how, body = planeFSE, z
	}
	if 2*runs < len(body) {
		if w.runs = appendRuns(w.runs[:0], p); len(w.runs) < len(body) {
			how, body = planeRuns, w.runs
		}
	}
	b = append(b, how)
	if how != planeRaw {
		b = binary.AppendUvarint(b, uint64(len(body)))
	}
	return append(b, body...)
}

func appendRuns(b, p []byte) []byte {
	from := 0
	for i := 1; i <= len(p); i++ {
		if i == len(p) || p[i] != p[from] {
			b = append(b, p[from])
			b = binary.AppendUvarint(b, uint64(i-from))
			from = i
		}
	}
	return b
}

// reader decodes a block. Once bad is set, the results are meaningless.
type reader struct {
	rest []byte
	work *work
	bad  bool
	keep int // elements of each column to decode, from the first on
}

func (r *reader) byte() byte {
	if len(r.rest) == 0 {
		r.bad = true
		return 0
	}
	v := r.rest[0]
	r.rest = r.rest[1:]
	return v
}

// uvarint reads a number of at most limit.
func (r *reader) uvarint(limit uint64) uint64 {
	if len(r.rest) > 1 { // fast path for numbers of one or two bytes
		v, n := uint64(r.rest[0]), 1
		if v >= 0x80 {
			v, n = v&0x7f|uint64(r.rest[1])<<7, 2
		}
		if v < 1<<14 && v <= limit {
			r.rest = r.rest[n:]
			return v
		}
	}
	v, n := binary.Uvarint(r.rest)
	if n <= 0 || v > limit {
		r.bad = true
		return 0
	}
	r.rest = r.rest[n:]
	return v
}

func (r *reader) varint() int64 { return unzigzag(r.uvarint(math.MaxUint64)) }

func (r *reader) unit() int64 {
	if u := r.byte(); int(u) < len(units) {
		return units[u]
	}
	r.bad = true
	return 1
}

func (r *reader) take(n int) []byte {
	if n > len(r.rest) {
		r.bad = true
		return nil
	}
	p := r.rest[:n]
	r.rest = r.rest[n:]
	return p
}

// ints decodes the first r.keep elements of a column that putInts encoded. The content of
// the others is arbitrary.
func (r *reader) ints(x, dur []int64) {
	n := len(x)
	if n == 0 || r.bad {
		return
	}
	head := r.byte()
	how, width := int(head>>4), int(head&15)
	if how > abut || width > 8 || how == abut && dur == nil {
		r.bad = true
		return
	}
	first := r.varint()
	if how == plain && width == 0 {
		for i := range min(n, r.keep) {
			x[i] = first
		}
		return
	}
	var typical int64
	m := n
	if how != plain {
		typical = r.varint()
		m = n - 1
	}
	y := r.small(m, width)
	if r.bad {
		return
	}
	switch how {
	case plain:
		for i, u := range y {
			x[i] = first + int64(u)
		}
	case delta:
		x[0] = first
		rest := x[1:][:len(y)]
		for i, u := range y {
			first += unzigzag(u) + typical
			rest[i] = first
		}
	case abut:
		x[0] = first
		rest, dur := x[1:][:len(y)], dur[:len(y)]
		for i, u := range y {
			first += unzigzag(u) + typical + dur[i]
			rest[i] = first
		}
	}
}

// small decodes the first r.keep of n numbers of width bytes each.
func (r *reader) small(n, width int) []uint64 {
	r.work.small = sized(r.work.small, min(n, r.keep))
	y := r.work.small
	if width == 0 {
		clear(y)
	}
	for p := range width {
		plane := r.plane(n)
		if r.bad {
			return nil
		}
		y := y[:len(plane)]
		if p == 0 {
			for i, v := range plane {
				y[i] = uint64(v)
			}
			continue
		}
		for i, v := range plane {
			y[i] |= uint64(v) << (8 * p)
		}
	}
	return y
}

// plane decodes the first r.keep of n bytes that putPlane encoded. They are valid until the
// next call.
func (r *reader) plane(n int) []byte {
	how := r.byte()
	k := min(n, r.keep)
	switch how {
	case planeConst:
		v := r.byte()
		r.work.plane = sized(r.work.plane, k)
		for i := range r.work.plane {
			r.work.plane[i] = v
		}
		return r.work.plane
	case planeRaw:
		if p := r.take(n); !r.bad {
			return p[:k]
		}
		return nil
	}
	z := r.take(int(r.uvarint(maxBlock)))
	switch {
	case r.bad:
		return nil
	case k == 0:
		return []byte{}
	}
	switch how {
	case planeRuns:
		if p := r.runs(z, n); !r.bad {
			return p[:k]
		}
		return nil
	case planeFSE:
		// The library checks the limit in strides and may fail on exactly n
		// bytes. When it fails at the limit, it has written the bytes below.
		f := &r.work.fse
		f.DecompressLimit = n + 1
		if k < n {
			f.DecompressLimit = k
		}
		p, err := fse.Decompress(z, f)
		switch {
		case err == nil && len(p) == n:
			return p[:k]
		case err != nil && k < n && len(f.Out) >= k:
			return f.Out[:k]
		}
	}
	r.bad = true
	return nil
}

func (r *reader) runs(z []byte, n int) []byte {
	p := sized(r.work.plane, n)[:0]
	in := reader{rest: z}
	for len(in.rest) > 0 && !in.bad {
		v := in.byte()
		k := int(in.uvarint(uint64(n - len(p))))
		for range k {
			p = append(p, v)
		}
	}
	r.work.plane = p
	r.bad = in.bad || len(p) != n
	return p
}
