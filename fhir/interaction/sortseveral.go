package interaction

import (
	"bytes"
	"compress/flate"
	"context"
	"encoding/binary"
	"io"
	"iter"

	"pulsegate/fhir"
	"pulsegate/fhir/search"
	"pulsegate/fhir/store"
)

// A search of several types with _sort merges one search for each type, all of which are
// sorted alike. Matches that _sort does not tell apart are in the order of the types, and
// within a type in that of the store. A page link holds the position of each type that
// has not ended, so that every page continues all of them at the same snapshot.

// maxMergedLink bounds the positions in a page link, in bytes. A link of this size is
// still accepted by search.Parse.
const maxMergedLink = 5 << 10

// sorted reports whether the page merges types.
func (sc *scope) sorted(queries []*search.Query) bool {
	return sc.several && len(queries) > 1 && len(queries[0].Sort) > 0
}

// typeStream is the sorted search of one type.
type typeStream struct {
	part  int
	query *resolved
	sel   *search.Selection
	next  func() (*store.Found, bool)
	stop  func()
	err   error // of the search, once next has reported the end

	// head is the match that comes next, nil at the end, and keys are its sort keys.
	head *store.Found
	keys []typeKey
	last search.Position // of the last match on a page; "" if there was none
}

// typeKey is a sort key. none is set if the resource has no value.
type typeKey struct {
	value search.Value
	none  bool
}

// merge gathers the page that begins at a point.
func (r *running) merge(ctx context.Context, point pagePoint) error {
	positions, err := decodePositions(point, len(r.queries))
	if err != nil {
		return err
	}
	var streams []*typeStream
	defer func() {
		for _, st := range streams {
			st.stop()
		}
	}()
	for i, at := range positions {
		if at.ended {
			continue
		}
		st, err := r.stream(ctx, i, at.last)
		if err != nil {
			return err
		}
		streams = append(streams, st)
		if err := st.advance(); err != nil {
			return err
		}
	}
	for {
		var first *typeStream
		for _, st := range streams {
			if st.head != nil && (first == nil || st.before(first)) {
				first = st
			}
		}
		if first == nil {
			return nil
		}
		taken, err := r.take(first.head, first.query)
		if err != nil {
			return err
		}
		if !taken {
			break
		}
		first.last = first.head.Pos
		if err := first.advance(); err != nil {
			return err
		}
	}
	for i := range positions {
		positions[i].ended = true
	}
	for _, st := range streams {
		positions[st.part] = typePosition{st.last, st.head == nil}
	}
	r.res.last, err = encodePositions(positions)
	return err
}

// stream starts the search of one type after a position.
func (r *running) stream(ctx context.Context, part int, after search.Position) (*typeStream, error) {
	q, err := r.query(ctx, part)
	if err != nil {
		return nil, err
	}
	by := &search.Query{Type: q.query.Type, Registry: q.query.Registry}
	for _, k := range q.query.Sort {
		p, ok := by.Registry.Lookup(by.Type, k.Param)
		if !ok {
			return nil, fhir.Errorf(fhir.Internal, "interaction.merge", "a parameter of _sort is not registered")
		}
		by.Clauses = append(by.Clauses, search.Clause{Param: p})
	}
	st := &typeStream{part: part, query: q, last: after}
	if st.sel, err = search.Select(by); err != nil {
		return nil, err
	}
	find := r.find(q.query)
	find.After, find.Limit = after, r.count+1
	st.next, st.stop = iter.Pull(func(yield func(*store.Found) bool) {
		st.err = r.service.Store.Find(ctx, find, yield)
	})
	return st, nil
}

// advance moves to the next match.
func (st *typeStream) advance() error {
	f, ok := st.next()
	if !ok {
		st.head = nil
		return st.err
	}
	q := st.query.query
	values, err := search.Extractor{Registry: q.Registry}.ExtractFor(st.sel, f.Resource.JSON)
	if err != nil {
		return fhir.Wrap("interaction.merge", err)
	}
	st.head, st.keys = f, st.keys[:0]
	for _, s := range q.Sort {
		v, ok := q.Registry.Key(q.Type, values, s)
		st.keys = append(st.keys, typeKey{v, !ok})
	}
	return nil
}

// before reports whether the next match of st comes before that of another type.
func (st *typeStream) before(other *typeStream) bool {
	for i, s := range st.query.query.Sort {
		a, b := &st.keys[i], &other.keys[i]
		if a.none != b.none {
			return b.none // resources without a value come last
		}
		if c := search.Compare(a.value, b.value); c != 0 {
			return c < 0 != s.Desc
		}
	}
	return st.part < other.part
}

// typePosition is the position of one type in a page link.
type typePosition struct {
	last  search.Position
	ended bool
}

// encodePositions returns the positions of all types for a page link. They resemble one
// another, so that compression keeps the link short.
func encodePositions(positions []typePosition) (string, error) {
	var b bytes.Buffer
	w, err := flate.NewWriter(&b, flate.BestCompression)
	if err != nil {
		return "", fhir.Wrap("interaction.merge", err)
	}
	var plain []byte
	for _, p := range positions {
		if p.ended {
			plain = append(plain, 0)
			continue
		}
		plain = binary.AppendUvarint(plain, uint64(len(p.last))+1)
		plain = append(plain, p.last...)
	}
	if _, err = w.Write(plain); err == nil {
		err = w.Close()
	}
	if err != nil {
		return "", fhir.Wrap("interaction.merge", err)
	}
	if b.Len() > maxMergedLink {
		return "", fhir.Errorf(fhir.TooCostly, "interaction.merge",
			"the page link of so many sorted types would be too long; name fewer types in _type, or fewer parameters in _sort")
	}
	return b.String(), nil
}

// decodePositions is the inverse of encodePositions. The zero point is the beginning of
// all types.
func decodePositions(point pagePoint, types int) ([]typePosition, error) {
	out := make([]typePosition, types)
	if point.at == 0 {
		return out, nil
	}
	// The page link is sealed and bound to the types, so that nothing of this can fail.
	unlike := fhir.Errorf(fhir.Internal, "interaction.merge", "the page link has no positions")
	b, err := io.ReadAll(flate.NewReader(bytes.NewReader([]byte(point.after))))
	if err != nil {
		return nil, unlike
	}
	for i := range out {
		n, w := binary.Uvarint(b)
		if w <= 0 || n > 0 && n-1 > uint64(len(b)-w) {
			return nil, unlike
		}
		if b = b[w:]; n == 0 {
			out[i].ended = true
			continue
		}
		out[i].last, b = string(b[:n-1]), b[n-1:]
	}
	if len(b) > 0 {
		return nil, unlike
	}
	return out, nil
}
