package sorted

import (
	"bufio"
	"bytes"
	"container/heap"
	"encoding/binary"
	"errors"
	"io"
	"math"
	"slices"
	"strings"

	"pulsegate/fhir/search"
	"pulsegate/fhir/store/pebblestore/internal/fault"
	"pulsegate/fhir/store/pebblestore/internal/keys"
	"pulsegate/fhir/store/pebblestore/internal/rows"
)

// Key is the key of one match under one element of _sort.
type Key struct {
	None   bool    `json:"z,omitempty"`
	Lo     int64   `json:"l,omitempty"`
	Num    float64 `json:"n,omitempty"`
	Code   string  `json:"c,omitempty"`
	System string  `json:"s,omitempty"`
}

// Position is the position of a match in a sorted result.
type Position struct {
	Keys []Key  `json:"k"`
	ID   string `json:"i"`
}

// encode appends p, preceded by its length.
func (p *Position) encode(b []byte) []byte {
	var body []byte
	for _, k := range p.Keys {
		if k.None {
			body = append(body, 0)
			continue
		}
		body = binary.AppendVarint(append(body, 1), k.Lo)
		body = keys.AppendUint64(body, math.Float64bits(k.Num))
		body = rows.AppendText(rows.AppendText(body, k.Code), k.System)
	}
	body = append(body, p.ID...)
	return append(binary.AppendUvarint(b, uint64(len(body))), body...)
}

// decodeSortPos decodes the output of encode, without the length.
func decodeSortPos(b []byte, keys int) (p Position, err error) {
	r := rows.Reader{Bytes: b}
	p.Keys = make([]Key, keys)
	for i := range p.Keys {
		k := &p.Keys[i]
		if k.None = r.Byte() == 0; k.None {
			continue
		}
		k.Lo, k.Num = r.Varint(), math.Float64frombits(r.Uint64())
		k.Code, k.System = r.Text(), r.Text()
	}
	p.ID = string(r.Bytes)
	if r.Bad {
		return p, fault.ErrRow
	}
	return p, nil
}

// Compare orders like search.CompareValues, then by id.
func (p *Position) Compare(o *Position, sort []search.SortKey) int {
	for i, s := range sort {
		a, b := p.Keys[i], o.Keys[i]
		switch {
		case a.None && b.None:
			continue
		case a.None:
			return 1
		case b.None:
			return -1
		}
		c := search.Compare(search.Value{Lo: a.Lo, Num: a.Num, Code: a.Code, System: a.System},
			search.Value{Lo: b.Lo, Num: b.Num, Code: b.Code, System: b.System})
		if c != 0 {
			if s.Desc {
				return -c
			}
			return c
		}
	}
	return strings.Compare(p.ID, o.ID)
}

// Reader reads entries in order.
type Reader struct {
	src  *bufio.Reader
	keys int
	buf  []byte
}

func (c *Reader) Next() (p Position, err error) {
	n, err := binary.ReadUvarint(c.src)
	if err != nil {
		return p, err // io.EOF at the end
	}
	if n > maxEntry {
		return p, fault.ErrRow
	}
	c.buf = slices.Grow(c.buf[:0], int(n))[:n]
	if _, err := io.ReadFull(c.src, c.buf); err != nil {
		return p, fault.ErrRow
	}
	return decodeSortPos(c.buf, c.keys)
}

// Writer sorts entries. It holds them in memory up to a bound, and then writes
// sorted runs to disk.
type Writer struct {
	rs   *Results
	sort []search.SortKey
	held []Position
	size int // size of held in bytes, estimated
	runs []*scratch
}

const (
	maxEntry   = 1 << 20 // bytes of one entry
	mergeRuns  = 16      // runs merged at a time
	indexEvery = 128     // entries between two marks of a small result
	maxMarks   = 4096    // marks of a result
)

func (w *Writer) Add(p *Position) error {
	w.size += 64 + len(p.ID) + 64*len(p.Keys)
	for i := range p.Keys {
		w.size += len(p.Keys[i].Code) + len(p.Keys[i].System)
	}
	w.held = append(w.held, *p)
	if w.size < w.rs.runBytes {
		return nil
	}
	return w.spill()
}

// spill writes the held entries as a sorted run.
func (w *Writer) spill() error {
	w.order()
	s, err := w.rs.scratch()
	if err != nil {
		return err
	}
	w.runs = append(w.runs, s)
	for i := range w.held {
		if err := s.write(w.held[i].encode(nil)); err != nil {
			return err
		}
	}
	w.held, w.size = w.held[:0], 0
	if err := s.flush(); err != nil || len(w.runs) < mergeRuns {
		return err
	}
	// Merge runs as they accumulate, so that few files are open.
	merged, err := w.rs.scratch()
	if err != nil {
		return err
	}
	if err := w.merge(merged.write); err != nil {
		return errors.Join(err, merged.remove())
	}
	err = errors.Join(merged.flush(), w.drop())
	w.runs = append(w.runs, merged)
	return err
}

func (w *Writer) order() {
	slices.SortFunc(w.held, func(a, b Position) int { return a.Compare(&b, w.sort) })
}

func (w *Writer) drop() (err error) {
	for _, s := range w.runs {
		err = errors.Join(err, s.remove())
	}
	w.runs = nil
	return err
}

func (w *Writer) Abandon() error { return w.drop() }

// Finish returns the result. The caller releases it.
func (w *Writer) Finish(ctx interface{ Err() error }) (*Result, error) {
	r := &Result{refs: 1, keys: len(w.sort), every: indexEvery}
	if len(w.runs) == 0 {
		w.order()
		var b []byte
		for i := range w.held {
			r.mark(&w.held[i], int64(len(b)))
			b = w.held[i].encode(b)
		}
		r.bytes, r.memory, r.data = int64(len(b)), true, bytes.NewReader(b)
		return r, nil
	}
	if err := w.spill(); err != nil {
		return nil, err
	}
	out, err := w.rs.scratch()
	if err != nil {
		return nil, err
	}
	n := 0
	err = w.merge(func(b []byte) error {
		if n++; n%1024 == 0 && ctx.Err() != nil {
			return fault.Canceled("pebblestore.Find", ctx.Err())
		}
		_, skip := binary.Uvarint(b)
		p, err := decodeSortPos(b[skip:], len(w.sort))
		if err != nil {
			return err
		}
		r.mark(&p, out.size)
		return out.write(b)
	})
	if err = errors.Join(err, out.flush(), w.drop()); err != nil {
		return nil, errors.Join(err, out.remove())
	}
	r.file, r.bytes, r.data = out, out.size, out
	return r, nil
}

// merge calls put with the entries of all runs in order.
func (w *Writer) merge(put func([]byte) error) error {
	h := &posHeap{sort: w.sort}
	for _, s := range w.runs {
		c := &Reader{src: bufio.NewReader(io.NewSectionReader(s, 0, s.size)), keys: len(w.sort)}
		if err := h.load(c); err != nil {
			return err
		}
	}
	heap.Init(h)
	for len(h.at) > 0 {
		if err := put(h.at[0].pos.encode(nil)); err != nil {
			return err
		}
		p, err := h.at[0].reader.Next()
		switch {
		case err == io.EOF:
			heap.Pop(h)
		case err != nil:
			return err
		default:
			h.at[0].pos = p
			heap.Fix(h, 0)
		}
	}
	return nil
}

// posHeap is a heap of runs, least next entry first.
type posHeap struct {
	sort []search.SortKey
	at   []posAt
}

type posAt struct {
	pos    Position
	reader *Reader
}

func (h *posHeap) load(c *Reader) error {
	p, err := c.Next()
	if err == io.EOF {
		return nil
	}
	h.at = append(h.at, posAt{p, c})
	return err
}

func (h *posHeap) Len() int           { return len(h.at) }
func (h *posHeap) Less(i, j int) bool { return h.at[i].pos.Compare(&h.at[j].pos, h.sort) < 0 }
func (h *posHeap) Swap(i, j int)      { h.at[i], h.at[j] = h.at[j], h.at[i] }
func (h *posHeap) Push(x any)         { h.at = append(h.at, x.(posAt)) }
func (h *posHeap) Pop() any {
	last := h.at[len(h.at)-1]
	h.at = h.at[:len(h.at)-1]
	return last
}
