package series

import (
	"encoding/binary"
	"hash/crc32"
	"sync"

	"pulsegate/fhir"
)

// maxBlock is the maximum number of samples in a block.
const maxBlock = 16384

// version is the first byte of every block and header.
const version = 1

// Codec encodes and decodes blocks. It is safe for concurrent use.
type Codec struct {
	work sync.Pool // *work
}

// NewCodec returns a Codec. One Codec serves a whole store.
func NewCodec() (*Codec, error) {
	return &Codec{work: sync.Pool{New: newWork}}, nil
}

// Bits of a block's second byte. The bits from valueShift on hold the number of
// value columns.
const (
	hasEnd     = 1 << 0
	hasCommits = 1 << 1
	valueShift = 2
)

// Encodings of the scales of a value column.
const (
	scaleOne      = iota // one scale for all values
	scaleShortest        // mantissas at one scale; values have no trailing zeros
	scaleMixed           // a column of scales; mantissas at the largest scale
	scaleFree            // a column of scales; mantissas unchanged
)

// Encode appends a block with the samples of cols to dst. Decode returns exactly
// the same columns. Encode fails if there are more than MaxBlock samples or
// MaxValues value columns, if columns differ in length, if a start is outside
// MinStart to MaxStart, or if a scale exceeds 18.
func (c *Codec) Encode(dst []byte, cols *Columns) ([]byte, error) {
	if rule := check(cols); rule != "" {
		return dst, fhir.Errorf(fhir.Internal, "series.Encode", "%s", rule)
	}
	w := c.work.Get().(*work)
	defer c.work.Put(w)
	at := len(dst)
	flags := len(cols.Values) << valueShift
	if len(cols.End) > 0 {
		flags |= hasEnd
	}
	if len(cols.Commits) > 0 {
		flags |= hasCommits
	}
	b := append(dst, version, byte(flags))
	b = binary.AppendUvarint(b, uint64(len(cols.Start)))
	if len(cols.Start) > 0 {
		b = w.putTimes(b, cols)
		for _, v := range cols.Values {
			b = w.putValues(b, v)
		}
		if len(cols.Commits) > 0 {
			b = w.putCommits(b, cols.Commits)
		}
	}
	return seal(b, at), nil
}

func check(c *Columns) string {
	n := len(c.Start)
	switch {
	case n > maxBlock:
		return "too many samples for a block"
	case len(c.Off) != n, len(c.End) != 0 && len(c.End) != n, len(c.EndOff) != len(c.End),
		len(c.Commits) != 0 && len(c.Commits) != n:
		return "columns of unequal length"
	case len(c.Values) > MaxValues:
		return "too many value columns"
	}
	for _, s := range c.Start {
		if s < MinStart || s > MaxStart {
			return "start is outside the range of an id"
		}
	}
	for _, v := range c.Values {
		if len(v) != n {
			return "columns of unequal length"
		}
		for i := range v {
			if v[i].Scale > maxScale {
				return "scale over 18"
			}
		}
	}
	return ""
}

func (w *work) putTimes(b []byte, c *Columns) []byte {
	n := len(c.Start)
	x := w.ints(0, n)
	var dur []int64
	if len(c.End) > 0 {
		for i, e := range c.End {
			x[i] = 1
			if e == NoEnd {
				x[i] = 0
			}
		}
		b = w.putInts(b, x, nil)
		for i, e := range c.End {
			if x[i] == 1 {
				x[i] = e - c.Start[i]
			}
		}
		dur = w.ints(1, n)
		u := unitOf(dur, x)
		b = append(b, u)
		b = w.putInts(b, dur, nil)
		copy(dur, x)
		for i := range x {
			x[i] = int64(c.EndOff[i]) - int64(c.Off[i])
		}
		b = w.putInts(b, x, nil)
	}
	for i, s := range c.Start {
		x[i] = s - c.Start[0]
	}
	q := w.ints(2, n)
	u := unitOf(q, x)
	b = append(b, u)
	b = binary.AppendVarint(b, c.Start[0])
	if dur != nil && !divide(dur, dur, units[u]) {
		dur = nil
	}
	b = w.putInts(b, q, dur)
	for i, o := range c.Off {
		x[i] = int64(o)
	}
	return w.putInts(b, x, nil)
}

// putValues appends the scales and the mantissas of a value column.
func (w *work) putValues(b []byte, v []Decimal) []byte {
	x := w.ints(0, len(v))
	kind, top := scaleOne, v[0].Scale
	for i := range v {
		x[i] = v[i].Mant
		if v[i].Scale != top {
			kind, top = scaleMixed, max(top, v[i].Scale)
		}
	}
	if kind == scaleOne {
		b = append(b, scaleOne, top)
		return w.putInts(b, x, nil)
	}
	shortest := true
	for i, d := range v {
		f := pow10int[top-d.Scale]
		m := d.Mant * f
		if m/f != d.Mant {
			kind = scaleFree
			break
		}
		x[i] = m
		shortest = shortest && d == d.trimmed()
	}
	if kind == scaleMixed && shortest {
		b = append(b, scaleShortest, top)
		return w.putInts(b, x, nil)
	}
	b = append(b, byte(kind), top)
	s := w.ints(1, len(v))
	for i, d := range v {
		s[i] = int64(d.Scale)
		if kind == scaleFree {
			x[i] = d.Mant
		}
	}
	b = w.putInts(b, s, nil)
	return w.putInts(b, x, nil)
}

// putCommits appends the distinct commits and, for each sample, the index of its
// commit.
func (w *work) putCommits(b []byte, c []Commit) []byte {
	clear(w.seen)
	w.distinct = w.distinct[:0]
	x := w.ints(0, len(c))
	for i := range c {
		if i > 0 && c[i] == c[i-1] {
			x[i] = x[i-1]
			continue
		}
		at, ok := w.seen[c[i]]
		if !ok {
			if w.seen == nil {
				w.seen = map[Commit]int{}
			}
			at = len(w.distinct)
			w.seen[c[i]] = at
			w.distinct = append(w.distinct, c[i])
		}
		x[i] = int64(at)
	}
	b = binary.AppendUvarint(b, uint64(len(w.distinct)))
	b = w.putInts(b, x, nil)
	x = x[:len(w.distinct)]
	for i, d := range w.distinct {
		x[i] = int64(d.Seq)
	}
	b = w.putInts(b, x, nil)
	for i, d := range w.distinct {
		x[i] = d.Updated
	}
	return w.putInts(b, x, nil)
}

// Decode replaces the samples of into with those of a block and reuses the memory
// of into. It returns an error for bytes that Encode did not write.
func (c *Codec) Decode(b []byte, into *Columns) error { return c.decode(b, maxBlock, true, into) }

// DecodeFirst is Decode for the first n samples of a block, or all if it has fewer, without
// their commits. The bytes of the other samples are not checked beyond the checksum.
func (c *Codec) DecodeFirst(b []byte, n int, into *Columns) error {
	return c.decode(b, max(n, 1), false, into)
}

func (c *Codec) decode(b []byte, keep int, commits bool, into *Columns) error {
	into.Reset()
	body, ok := unseal(b)
	if !ok || len(body) < 2 {
		return corrupt("series.Decode")
	}
	w := c.work.Get().(*work)
	defer c.work.Put(w)
	r := reader{rest: body[1:], work: w, keep: keep}
	flags := r.byte()
	n := int(r.uvarint(maxBlock))
	nv := int(flags >> valueShift)
	if nv > MaxValues {
		r.bad = true
	}
	if !commits {
		flags &^= hasCommits
	}
	if !r.bad {
		r.columns(into, n, nv, flags)
	}
	if r.bad || commits && len(r.rest) > 0 {
		into.Reset()
		return corrupt("series.Decode")
	}
	return nil
}

// columns decodes the first r.keep of n samples.
func (r *reader) columns(c *Columns, n, nv int, flags byte) {
	k := min(n, r.keep)
	c.setValues(nv)
	for v := range c.Values {
		c.Values[v] = sized(c.Values[v], k)
	}
	if n == 0 {
		return
	}
	c.Start, c.Off = sized(c.Start, k), sized(c.Off, k)
	if flags&hasEnd != 0 {
		c.End, c.EndOff = sized(c.End, k), sized(c.EndOff, k)
	}
	r.times(c, n)
	for v := range c.Values {
		r.values(c.Values[v], n)
	}
	if flags&hasCommits != 0 {
		c.Commits = sized(c.Commits, n)
		r.commits(c.Commits)
	}
}

// times decodes the times of the samples in c, the first of n.
func (r *reader) times(c *Columns, n int) {
	k := len(c.Start)
	x, dur := r.work.ints(0, n), r.work.ints(1, n)
	var d []int64
	if len(c.End) > 0 {
		r.ints(x, nil)
		copy(c.End, x[:k])
		u := r.unit()
		r.ints(dur, nil)
		for i := range dur[:k] {
			dur[i] *= u
		}
		r.ints(x, nil)
		for i := range c.EndOff {
			c.EndOff[i] = int16(x[i])
		}
		d = dur
	}
	u := r.unit()
	first := r.varint()
	q := r.work.ints(2, n)
	if d != nil {
		e := r.work.ints(3, n)
		if !divide(e[:k], d[:k], u) {
			e = nil
		}
		r.ints(q, e)
	} else {
		r.ints(q, nil)
	}
	for i := range c.Start {
		s := first + q[i]*u
		if s < MinStart || s > MaxStart {
			r.bad = true
		}
		c.Start[i] = s
	}
	r.ints(x, nil)
	for i := range c.Off {
		c.Off[i] = int16(x[i])
	}
	for i := range c.End {
		c.EndOff[i] += c.Off[i]
		switch c.End[i] {
		case 0:
			c.End[i] = NoEnd
		case 1:
			c.End[i] = c.Start[i] + dur[i]
		default:
			r.bad = true
		}
	}
}

// values decodes a column of n numbers, of which v takes the first.
func (r *reader) values(v []Decimal, n int) {
	kind, top := r.byte(), r.byte()
	if kind > scaleFree || top > maxScale {
		r.bad = true
		return
	}
	x := r.work.ints(0, n)
	switch kind {
	case scaleOne:
		r.ints(x, nil)
		for i, m := range x[:len(v)] {
			v[i] = Decimal{m, top}
		}
		return
	case scaleShortest:
		r.ints(x, nil)
		for i, m := range x[:len(v)] {
			v[i] = Decimal{m, top}.trimmed()
		}
		return
	}
	s := r.work.ints(1, n)
	r.ints(s, nil)
	r.ints(x, nil)
	for i, m := range x[:len(v)] {
		if s[i] < 0 || s[i] > int64(top) {
			r.bad = true
			return
		}
		if kind == scaleMixed {
			m /= pow10int[int64(top)-s[i]]
		}
		v[i] = Decimal{m, uint8(s[i])}
	}
}

func (r *reader) commits(c []Commit) {
	k := int(r.uvarint(uint64(len(c))))
	x := r.work.ints(0, len(c))
	r.ints(x, nil)
	ts, us := r.work.ints(1, k), r.work.ints(2, k)
	r.ints(ts, nil)
	r.ints(us, nil)
	for i, at := range x {
		if at < 0 || at >= int64(k) {
			r.bad = true
			return
		}
		c[i] = Commit{uint64(ts[at]), us[at]}
	}
}

// seal appends the checksum of b[at:].
func seal(b []byte, at int) []byte {
	return binary.LittleEndian.AppendUint32(b, checksum(b[at:]))
}

// unseal returns the bytes before the checksum if the checksum and the version
// are right.
func unseal(b []byte) ([]byte, bool) {
	n := len(b) - 4
	if n < 1 || b[0] != version || checksum(b[:n]) != binary.LittleEndian.Uint32(b[n:]) {
		return nil, false
	}
	return b[:n], true
}

func checksum(b []byte) uint32 { return crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli)) }

func corrupt(op string) error {
	return fhir.Errorf(fhir.Internal, op, "the data is damaged: wrong checksum, version or format")
}
