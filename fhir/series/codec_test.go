package series

import (
	"bytes"
	"flag"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"sync"
	"testing"

	"pgregory.net/rapid"
)

var update = flag.Bool("update", false, "write the golden files")

var edges = []int64{0, 1, -1, 9, 10, -10, 255, 256, math.MaxInt64, math.MinInt64, math.MinInt64 + 1, MinStart,
	MaxStart, 1e18, -1e18, 999999999999999999}

// anyInt generates small, large and extreme numbers.
func anyInt() *rapid.Generator[int64] {
	return rapid.OneOf(rapid.SampledFrom(edges), rapid.Int64(), rapid.Int64Range(-100, 100))
}

// anyColumns draws columns with any contents that Encode accepts.
func anyColumns(t *rapid.T, limit int) *Columns {
	n := rapid.IntRange(0, limit).Draw(t, "n")
	c := &Columns{}
	unit := rapid.SampledFrom([]int64{1, 1000, 1e6, 5e6, 60e6}).Draw(t, "unit")
	at := rapid.Int64Range(MinStart, MaxStart).Draw(t, "first")
	start := rapid.SampledFrom([]string{"any", "steps", "same"}).Draw(t, "start")
	ends := rapid.SampledFrom([]string{"none", "all", "mixed", "absent", "abut"}).Draw(t, "ends")
	values := rapid.IntRange(0, MaxValues).Draw(t, "values")
	scale := make([]int, values)
	for v := range scale {
		scale[v] = rapid.IntRange(0, 21).Draw(t, "scale")
		c.Values = append(c.Values, make([]Decimal, 0, n))
	}
	commits := rapid.IntRange(0, 5).Draw(t, "commits")
	var pool []Commit
	for range commits {
		pool = append(pool, Commit{uint64(anyInt().Draw(t, "T")) | 1, anyInt().Draw(t, "updated")})
	}
	for range n {
		switch start {
		case "any":
			at = rapid.Int64Range(MinStart, MaxStart).Draw(t, "at")
		case "steps":
			at = min(at+unit*rapid.Int64Range(0, 9).Draw(t, "step"), MaxStart)
		}
		c.Start = append(c.Start, at)
		c.Off = append(c.Off, rapid.OneOf(rapid.Int16(), rapid.SampledFrom([]int16{0, 60, 120})).Draw(t, "off"))
		if ends != "none" {
			end := rapid.OneOf(anyInt(), rapid.Just(at+unit)).Draw(t, "end")
			if ends == "absent" || ends == "mixed" && rapid.Bool().Draw(t, "instant") {
				end = NoEnd
			}
			if ends == "abut" {
				end = at + unit*rapid.Int64Range(0, 90).Draw(t, "long")
				at = end
				if at > MaxStart {
					at = MaxStart
				}
			}
			c.End = append(c.End, end)
			c.EndOff = append(c.EndOff, rapid.Int16().Draw(t, "endoff"))
		}
		for v := range values {
			d := Decimal{anyInt().Draw(t, "mant"), uint8(scale[v])}
			switch scale[v] {
			case 19:
				d.Scale = uint8(rapid.IntRange(0, maxScale).Draw(t, "s"))
			case 21:
				d = Decimal{rapid.Int64Range(-1000, 1000).Draw(t, "mant"), 3}
			case 20:
				d = Decimal{rapid.Int64Range(-1e6, 1e6).Draw(t, "mant"),
					uint8(rapid.IntRange(0, 6).Draw(t, "s"))}.trimmed()
			}
			c.Values[v] = append(c.Values[v], d)
		}
		if commits > 0 {
			c.Commits = append(c.Commits, rapid.SampledFrom(pool).Draw(t, "commit"))
		}
	}
	return c
}

// equal reports whether a and b hold the same samples. An empty slice equals a
// nil one.
func equal(a, b *Columns) bool {
	same := func(x, y any) bool {
		return reflect.ValueOf(x).Len() == 0 && reflect.ValueOf(y).Len() == 0 || reflect.DeepEqual(x, y)
	}
	if !same(a.Start, b.Start) || !same(a.End, b.End) || !same(a.Off, b.Off) || !same(a.EndOff, b.EndOff) ||
		!same(a.Commits, b.Commits) || len(a.Values) != len(b.Values) {
		return false
	}
	for v := range a.Values {
		if !same(a.Values[v], b.Values[v]) {
			return false
		}
	}
	return true
}

func newCodec(t testing.TB) *Codec {
	c, err := NewCodec()
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// TestRoundTrip checks that Decode returns the columns that Encode got, also
// with bytes before the block and into columns that already hold samples.
func TestRoundTrip(t *testing.T) {
	codec := newCodec(t)
	var back Columns
	rapid.Check(t, func(t *rapid.T) {
		c := anyColumns(t, rapid.SampledFrom([]int{3, 40, 700}).Draw(t, "limit"))
		prefix := rapid.SliceOfN(rapid.Byte(), 0, 3).Draw(t, "prefix")
		b, err := codec.Encode(prefix, c)
		if err != nil {
			t.Fatal(err)
		}
		if err := codec.Decode(b[len(prefix):], &back); err != nil {
			t.Fatal(err)
		}
		if !equal(c, &back) {
			t.Fatalf("got %+v\nwant %+v", back, *c)
		}
	})
}

// TestDecodeFirst checks that DecodeFirst returns the first samples of Decode, without their
// commits.
func TestDecodeFirst(t *testing.T) {
	codec := newCodec(t)
	var back Columns
	rapid.Check(t, func(t *rapid.T) {
		c := anyColumns(t, rapid.SampledFrom([]int{3, 40, 700, 3000}).Draw(t, "limit"))
		b, err := codec.Encode(nil, c)
		if err != nil {
			t.Fatal(err)
		}
		n := rapid.IntRange(1, c.Len()+2).Draw(t, "n")
		if err := codec.DecodeFirst(b, n, &back); err != nil {
			t.Fatal(err)
		}
		want := c.Slice(0, min(n, c.Len()))
		want.Commits = nil
		if !equal(&want, &back) {
			t.Fatalf("%d of %d: got %+v\nwant %+v", n, c.Len(), back, want)
		}
	})
}

// TestPlanes checks that planes of any distribution survive each encoding.
func TestPlanes(t *testing.T) {
	w := newWork().(*work)
	rapid.Check(t, func(t *rapid.T) {
		r := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 1))
		p := make([]byte, rapid.OneOf(rapid.IntRange(1, 60), rapid.IntRange(1, maxBlock)).Draw(t, "n"))
		alphabet := rapid.IntRange(1, 256).Draw(t, "alphabet")
		skew := math.Exp(rapid.Float64Range(-3, 3).Draw(t, "skew"))
		change := math.Pow(rapid.Float64Range(0, 1).Draw(t, "change"), 3)
		kind := rapid.IntRange(0, 3).Draw(t, "kind")
		for i := range p {
			switch kind {
			case 0:
				p[i] = byte(math.Pow(r.Float64(), skew) * float64(alphabet))
			case 1:
				p[i] = byte(128 + r.NormFloat64()*skew*5)
			case 2:
				if r.Float64() < change {
					p[i] = byte(r.IntN(alphabet))
				}
			case 3:
				p[i] = byte(r.IntN(alphabet))
				if i > 0 && r.Float64() > change {
					p[i] = p[i-1]
				}
			}
		}
		b := w.putPlane(nil, p)
		for _, keep := range []int{len(p), rapid.IntRange(0, len(p)).Draw(t, "keep")} {
			in := reader{rest: b, work: w, keep: keep}
			if got := in.plane(len(p)); in.bad || len(in.rest) > 0 || !bytes.Equal(got, p[:keep]) {
				t.Fatalf("first %d of a plane of %d bytes, encoding %d: decoded bytes differ", keep, len(p), b[0])
			}
		}
		if len(b) > len(p)+2 {
			t.Fatalf("%d bytes became %d", len(p), len(b))
		}
	})
}

// mixed returns a few samples that use every feature of the format.
func mixed() *Columns {
	c := &Columns{}
	for i := range 40 {
		s := Sample{Start: monday + int64(i/3)*90e6, End: NoEnd, Off: 60,
			Commit: Commit{uint64(70 + i%4), 1767700000000 + int64(i%4)}}
		if i%2 == 0 {
			s.End, s.EndOff = s.Start+int64(i)*1500e3, 120
		}
		s.Values = [MaxValues]Decimal{{int64(100 + i*i%17), 1}, {int64(i) * 1e15, uint8(i % 5)},
			Decimal{int64(i) * 5, 2}.trimmed(), {math.MaxInt64 - int64(i%2), uint8(i % 19)}}
		c.Append(&s, MaxValues)
	}
	return c
}

// TestFlippedBits checks that every flipped bit and every missing or extra byte
// of a block or header is detected.
func TestFlippedBits(t *testing.T) {
	codec := newCodec(t)
	short := heart(150)
	for name, c := range map[string]*Columns{"mixed": mixed(), "heart": short, "none": {}} {
		block, err := codec.Encode(nil, c)
		if err != nil {
			t.Fatal(err)
		}
		h := Summarize(c)
		var into Columns
		damage(t, name+" block", block, func(b []byte) error { return codec.Decode(b, &into) })
		damage(t, name+" header", AppendHeader(nil, &h), func(b []byte) error { _, err := DecodeHeader(b); return err })
	}
}

func damage(t *testing.T, name string, b []byte, decode func([]byte) error) {
	t.Helper()
	if err := decode(b); err != nil {
		t.Fatal(name, err)
	}
	for bit := range len(b) * 8 {
		b[bit/8] ^= 1 << (bit % 8)
		if decode(b) == nil {
			t.Errorf("%s: bit %d flipped undetected", name, bit)
		}
		b[bit/8] ^= 1 << (bit % 8)
	}
	for n := range b {
		if decode(b[:n]) == nil {
			t.Errorf("%s: cut at %d undetected", name, n)
		}
	}
	if decode(append(b[:len(b):len(b)], 0)) == nil {
		t.Errorf("%s: an extra byte undetected", name)
	}
}

// TestEncodeRejects checks columns that do not fit a block.
func TestEncodeRejects(t *testing.T) {
	codec := newCodec(t)
	for name, spoil := range map[string]func(c *Columns){
		"too many":    func(c *Columns) { *c = *heart(maxBlock + 1) },
		"off":         func(c *Columns) { c.Off = c.Off[1:] },
		"end":         func(c *Columns) { c.End, c.EndOff = []int64{1}, []int16{1} },
		"end offset":  func(c *Columns) { c.End = make([]int64, len(c.Start)) },
		"commits":     func(c *Columns) { c.Commits = c.Commits[1:] },
		"values":      func(c *Columns) { c.Values[0] = c.Values[0][1:] },
		"columns":     func(c *Columns) { c.Values = make([][]Decimal, MaxValues+1) },
		"scale":       func(c *Columns) { c.Values[0][2].Scale = 19 },
		"before 1900": func(c *Columns) { c.Start[1] = MinStart - 1 },
		"too late":    func(c *Columns) { c.Start[1] = MaxStart + 1 },
	} {
		c := heart(5)
		spoil(c)
		if b, err := codec.Encode([]byte("x"), c); err == nil || string(b) != "x" {
			t.Errorf("%s: got %q, %v", name, b, err)
		}
	}
}

// TestFullBlock encodes the maximum number of samples with the widest values.
func TestFullBlock(t *testing.T) {
	codec := newCodec(t)
	r := newRand()
	c := &Columns{}
	for range maxBlock {
		s := Sample{Start: MinStart + r.Int64N(1<<56), End: int64(r.Uint64()), Off: int16(r.Int()),
			EndOff: int16(r.Int()), Commit: Commit{r.Uint64() | 1, int64(r.Uint64())}}
		for v := range s.Values {
			s.Values[v] = Decimal{int64(r.Uint64()), uint8(r.IntN(19))}
		}
		c.Append(&s, MaxValues)
	}
	b, err := codec.Encode(nil, c)
	if err != nil {
		t.Fatal(err)
	}
	var back Columns
	if err := codec.Decode(b, &back); err != nil || !equal(c, &back) {
		t.Fatal("the decoded samples differ:", err)
	}
	if limit := maxBlock * 80; len(b) > limit {
		t.Errorf("%d bytes", len(b))
	}
}

func TestConcurrent(t *testing.T) {
	codec := newCodec(t)
	var wg sync.WaitGroup
	for _, s := range streams() {
		wg.Go(func() {
			c := s.make(700)
			var b []byte
			var back Columns
			for range 20 {
				b, _ = codec.Encode(b[:0], c)
				if err := codec.Decode(b, &back); err != nil || !equal(c, &back) {
					t.Error(s.name, err)
				}
			}
		})
	}
	wg.Wait()
}

// TestGolden decodes blocks of earlier versions.
func TestGolden(t *testing.T) {
	codec := newCodec(t)
	made := map[string]*Columns{"mixed": mixed()}
	for name, s := range map[string]int{"heart": 0, "heart_ms": 2, "heart_late": 4, "steps": 5, "energy": 6, "hrv": 8} {
		made[name] = streams()[s].make(300)
	}
	for name, c := range made {
		block, text := filepath.Join("testdata", name+".block"), filepath.Join("testdata", name+".txt")
		if *update {
			b, err := codec.Encode(nil, c)
			if err != nil {
				t.Fatal(err)
			}
			h := Summarize(c)
			for file, b := range map[string][]byte{block: b, text: dump(c, &h),
				filepath.Join("testdata", name+".header"): AppendHeader(nil, &h)} {
				if err := os.WriteFile(file, b, 0o644); err != nil {
					t.Fatal(err)
				}
			}
		}
		b, err := os.ReadFile(block)
		if err != nil {
			t.Fatal(err)
		}
		var got, again Columns
		if err := codec.Decode(b, &got); err != nil {
			t.Fatal(name, err)
		}
		want, err := os.ReadFile(text)
		if err != nil {
			t.Fatal(err)
		}
		head, err := os.ReadFile(filepath.Join("testdata", name+".header"))
		if err != nil {
			t.Fatal(err)
		}
		h, err := DecodeHeader(head)
		if err != nil {
			t.Fatal(name, err)
		}
		if !bytes.Equal(dump(&got, &h), want) {
			t.Errorf("%s: decoded samples differ from testdata", name)
		}
		if sum := Summarize(&got); !reflect.DeepEqual(sum, h) {
			t.Errorf("%s: header %+v, was %+v", name, sum, h)
		}
		now, err := codec.Encode(nil, &got)
		if err != nil || len(now) > len(b)+len(b)/50 {
			t.Errorf("%s: %d bytes, were %d: %v", name, len(now), len(b), err)
		}
		if err := codec.Decode(now, &again); err != nil || !equal(&got, &again) {
			t.Errorf("%s: a second round trip changes the samples: %v", name, err)
		}
	}
}

// dump formats columns and their header as text.
func dump(c *Columns, h *Header) []byte {
	b := fmt.Appendf(nil, "%+v\n", *h)
	for i := range c.Len() {
		s := c.At(i)
		b = appendTime(b, s.Start, s.Off)
		b = append(b, ' ')
		if s.End == NoEnd {
			b = append(b, '-')
		} else {
			b = appendTime(b, s.End, s.EndOff)
		}
		for v := range c.Values {
			b = append(b, ' ')
			b = s.Values[v].Append(b)
		}
		b = fmt.Appendf(b, " %d %d\n", s.Commit.Seq, s.Commit.Updated)
	}
	return b
}

// TestHeader checks that a header survives its encoding, with floats exact to the
// bit.
func TestHeader(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		i, u := anyInt(), rapid.Uint64()
		h := Header{Count: rapid.IntRange(0, maxBlock).Draw(t, "count"), MinStart: i.Draw(t, "a"),
			MaxStart: i.Draw(t, "b"), MaxEnd: i.Draw(t, "c"),
			MinSeq: u.Draw(t, "d"), MaxSeq: u.Draw(t, "e"), MinUpdated: i.Draw(t, "f"), MaxUpdated: i.Draw(t, "g")}
		for range rapid.IntRange(0, MaxValues).Draw(t, "values") {
			f := rapid.Float64()
			h.Values = append(h.Values, Stats{Min: f.Draw(t, "min"), Max: f.Draw(t, "max"), Sum: f.Draw(t, "sum"),
				SumSq: f.Draw(t, "sumsq")})
		}
		got, err := DecodeHeader(AppendHeader(nil, &h))
		if err != nil || !reflect.DeepEqual(got, h) {
			t.Fatalf("got %+v, %v; want %+v", got, err, h)
		}
	})
}

// TestSummarize compares Summarize with a straightforward computation.
func TestSummarize(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c := anyColumns(t, 60)
		n := c.Sort(&Template{Values: len(c.Values), KeyValue: true})
		h := Summarize(c)
		want := Header{Count: n}
		for i := range n {
			s := c.At(i)
			_, hi := s.Interval()
			if i == 0 {
				want = Header{n, s.Start, s.Start, hi, s.Commit.Seq, s.Commit.Seq, s.Commit.Updated,
					s.Commit.Updated, nil}
			}
			want.MinStart, want.MaxStart, want.MaxEnd = min(want.MinStart, s.Start), max(want.MaxStart, s.Start),
				max(want.MaxEnd, hi)
			want.MinSeq, want.MaxSeq = min(want.MinSeq, s.Commit.Seq), max(want.MaxSeq, s.Commit.Seq)
			want.MinUpdated, want.MaxUpdated = min(want.MinUpdated, s.Commit.Updated),
				max(want.MaxUpdated, s.Commit.Updated)
		}
		values := h.Values
		h.Values = nil
		if !reflect.DeepEqual(h, want) {
			t.Fatalf("got %+v\nwant %+v", h, want)
		}
		for v, col := range c.Values {
			st := Stats{Min: math.Inf(1), Max: math.Inf(-1)}
			var size float64
			for _, d := range col {
				f := d.Float()
				st.Min, st.Max, st.Sum, st.SumSq = min(st.Min, f), max(st.Max, f), st.Sum+f, st.SumSq+f*f
				size += math.Abs(f)
			}
			if n == 0 {
				st = Stats{}
			}
			got := values[v]
			if got.Min != st.Min || got.Max != st.Max || math.Abs(got.Sum-st.Sum) > size*1e-13 ||
				math.Abs(got.SumSq-st.SumSq) > st.SumSq*1e-13 {
				t.Fatalf("column %d: got %+v, want %+v", v, got, st)
			}
		}
	})
}
