package find

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"slices"

	"github.com/cockroachdb/pebble/v2"

	"pulsegate/fhir"
	"pulsegate/fhir/search"
	"pulsegate/fhir/store"
	"pulsegate/fhir/store/pebblestore/internal/fault"
	"pulsegate/fhir/store/pebblestore/internal/keys"
	"pulsegate/fhir/store/pebblestore/internal/rows"
	"pulsegate/fhir/store/pebblestore/internal/snapshot"
	"pulsegate/fhir/store/pebblestore/internal/sorted"
)

// errSort ends a walk in the order of a sort that is better done by sorting all matches.
var errSort = errors.New("the matches are too far apart")

// orderWalk emits matches in the order of a sort, by the X rows of its first parameter.
// Its positions are those of a sorted result, so that either can continue the other.
type orderWalk struct {
	*finder
	sort  []search.SortKey
	param *search.Param
	keyer *keyer
	from  *sorted.Position // the last match emitted
	its   []*orderIter
	left  uint // rows that the walk may still look at
	ended bool // by the caller
}

// orderIter walks the rows of one class of values.
type orderIter struct {
	*pebble.Iterator
	class string
	ok    bool
	value string // by which the rows are sorted, without the class
}

// orderedRows emits the matches in the order of the rows of the first parameter of a
// sort. It reports false if the parameter has no such rows.
func (f *finder) orderedRows(sort []search.SortKey, from *sorted.Position) (done bool, err error) {
	w := &orderWalk{finder: f, sort: sort, from: from, left: f.searcher.bounds.Order}
	if w.keyer, err = newKeyer(f.query, sort); err != nil {
		return true, err
	}
	w.param = w.keyer.query.Clauses[0].Param
	switch {
	case len(sort) == 1 && sort[0].Param == "_id":
		err = w.byID(nil)
	default:
		if ok, err := w.usable(); err != nil || !ok {
			return err != nil, err
		}
		err = w.run()
	}
	if !errors.Is(err, errSort) {
		return true, err
	}
	var after []byte
	if w.from != nil {
		if after, err = encodeSorted(w.from); err != nil {
			return true, err
		}
	}
	return true, f.sorted(sort, after)
}

func encodeSorted(p *sorted.Position) ([]byte, error) {
	b, err := json.Marshal(p)
	return append([]byte{posSort}, b...), err
}

// usable reports whether the rows of the first parameter are in the order of the sort.
func (w *orderWalk) usable() (bool, error) {
	if ok, err := w.indexes.usable(w.param); err != nil || !ok || rows.SortClasses(w.param) == nil {
		return false, err
	}
	switch w.param.Type {
	case search.TypeToken, search.TypeReference, search.TypeURI:
	default:
		return true, nil
	}
	if ok, err := w.indexes.complete(); err != nil || !ok {
		return false, err
	}
	typ, param := w.query.Type, rows.ParamKey(w.param)
	for _, pre := range [][]byte{keys.HashedRows(typ, param),
		keys.IndexStart(typ, param, string(rune(rows.ClassLogical)))} {
		some, err := w.some(pre)
		if err != nil || some { // their values are not in order
			return false, err
		}
	}
	return true, nil
}

func (w *orderWalk) some(pre []byte) (ok bool, err error) {
	it, err := w.snap.Reader.NewIter(&pebble.IterOptions{LowerBound: pre, UpperBound: keys.PrefixEnd(pre)})
	if err != nil {
		return false, err
	}
	defer fault.Close(it, &err)
	ok = it.First()
	return ok, it.Error()
}

// look counts a row.
func (w *orderWalk) look() error {
	if w.left == 0 {
		return errSort
	}
	w.left--
	return w.step()
}

func (w *orderWalk) run() (err error) {
	defer func() {
		for _, it := range w.its {
			fault.Close(it, &err)
		}
	}()
	if w.from == nil || !w.from.Keys[0].None {
		if err := w.open(); err != nil {
			return err
		}
		for !w.ended {
			at := w.best()
			if at == nil {
				break
			}
			if err := w.group(at.value); err != nil {
				return err
			}
		}
		for _, it := range w.its {
			if err := it.Error(); err != nil {
				return err
			}
		}
	}
	if w.ended {
		return nil
	}
	if len(w.sort) > 1 {
		return errSort
	}
	return w.byID(w.param)
}

// open moves to the rows of the position.
func (w *orderWalk) open() error {
	desc := w.sort[0].Desc
	typ, param := w.query.Type, rows.ParamKey(w.param)
	for _, class := range rows.SortClasses(w.param) {
		pre := keys.IndexStart(typ, param, class)
		it, err := w.snap.Reader.NewIter(&pebble.IterOptions{LowerBound: pre, UpperBound: keys.PrefixEnd(pre)})
		if err != nil {
			return err
		}
		o := &orderIter{Iterator: it, class: class}
		w.its = append(w.its, o)
		switch at := w.from; {
		case at == nil && desc:
			o.ok = it.Last()
		case at == nil:
			o.ok = it.First()
		default:
			k := at.Keys[0]
			v := class + rows.SortValue(w.param, search.Value{Lo: k.Lo, Num: k.Num, Code: k.Code})
			if desc {
				o.ok = it.SeekLT(keys.PrefixEnd(keys.IndexPrefix(typ, param, v)))
			} else {
				o.ok = it.SeekGE(keys.IndexPrefix(typ, param, v))
			}
		}
		if err := w.load(o); err != nil {
			return err
		}
	}
	return nil
}

// load decodes the value of the current row.
func (w *orderWalk) load(o *orderIter) error {
	if !o.ok {
		return o.Error()
	}
	rest := o.Key()[len(keys.IndexRows(w.query.Type, rows.ParamKey(w.param))):]
	v, _, ok := keys.CutString(rest)
	if !ok || len(v) < len(o.class) {
		return fault.ErrRow
	}
	o.value = v[len(o.class):]
	return nil
}

// best returns the iterator whose value comes first, or nil at the end.
func (w *orderWalk) best() *orderIter {
	var best *orderIter
	for _, o := range w.its {
		if o.ok && (best == nil || o.value < best.value != w.sort[0].Desc && o.value != best.value) {
			best = o
		}
	}
	return best
}

// placed is a match and its position.
type placed struct {
	match *snapshot.Match
	pos   sorted.Position
}

// group emits the matches whose first key has a value.
func (w *orderWalk) group(value string) error {
	var found []placed
	for _, o := range w.its {
		for o.ok && o.value == value {
			if err := w.look(); err != nil {
				return err
			}
			m, err := w.row(o)
			if err != nil {
				return err
			}
			if m != nil {
				if p, ok := w.place(m, value); ok {
					found = append(found, p)
				}
				if len(found) > w.searcher.bounds.Group {
					return errSort
				}
			}
			if w.sort[0].Desc {
				o.ok = o.Prev()
			} else {
				o.ok = o.Next()
			}
			if err := w.load(o); err != nil {
				return err
			}
		}
	}
	slices.SortFunc(found, func(a, b placed) int { return a.pos.Compare(&b.pos, w.sort) })
	for i := range found {
		if i > 0 && found[i].pos.ID == found[i-1].pos.ID { // it has several values that begin together
			continue
		}
		if err := w.give(&found[i]); err != nil || w.ended {
			return err
		}
	}
	return nil
}

// row returns the matching document of a row, or nil.
func (w *orderWalk) row(o *orderIter) (*snapshot.Match, error) {
	k, val := o.Key(), o.Value()
	rest, ok := keys.CutIndex(k)
	if !ok {
		return nil, fault.ErrRow
	}
	id, tail, ok := keys.CutString(rest)
	if !ok || len(tail) != 8 {
		return nil, fault.ErrRow
	}
	seq := store.Seq(binary.BigEndian.Uint64(tail))
	if !rows.Visible(val, seq, w.at) {
		return nil, nil
	}
	p, _, ok := keys.CutLocation(val[8:])
	if !ok {
		return nil, fault.ErrRow
	}
	m, err := w.snap.FetchRow(keys.Row{Location: p, Type: w.query.Type, ID: id, Seq: seq})
	if err != nil || !w.accept(m) {
		return nil, err
	}
	return m, nil
}

// place returns the position of a match, unless its first key has another value or it
// was emitted before.
func (w *orderWalk) place(m *snapshot.Match, value string) (p placed, ok bool) {
	p = placed{m, sorted.Position{Keys: w.keyer.of(m), ID: m.Row.ID}}
	k := p.pos.Keys[0]
	if k.None || rows.SortValue(w.param, search.Value{Lo: k.Lo, Num: k.Num, Code: k.Code}) != value {
		return p, false
	}
	return p, w.from == nil || p.pos.Compare(w.from, w.sort) > 0
}

func (w *orderWalk) give(p *placed) error {
	pos, err := encodeSorted(&p.pos)
	if err != nil {
		return err
	}
	w.from, w.ended = &p.pos, !w.emit(p.match, pos)
	return nil
}

// byID emits the matches in order of their ids. If without is set, it emits only those
// that have no value of this parameter, after all others.
func (w *orderWalk) byID(without *search.Param) (err error) {
	pre := keys.AppendString([]byte{keys.TableID}, w.query.Type)
	it, err := w.snap.Reader.NewIter(&pebble.IterOptions{LowerBound: pre, UpperBound: keys.PrefixEnd(pre)})
	if err != nil {
		return err
	}
	defer fault.Close(it, &err)
	desc := without == nil && w.sort[0].Desc
	var ok bool
	switch at := w.from; {
	case at == nil || without != nil && !at.Keys[0].None:
		if ok = it.First(); desc {
			ok = it.Last()
		}
	case desc:
		ok = it.SeekLT(keys.IDPrefix(w.query.Type, at.ID))
	default:
		ok = it.SeekGE(keys.PrefixEnd(keys.IDPrefix(w.query.Type, at.ID)))
	}
	for ok {
		if err := w.look(); err != nil {
			return err
		}
		id, _, good := keys.CutString(it.Key()[len(pre):])
		if !good {
			return fault.ErrRow
		}
		one := keys.IDPrefix(w.query.Type, id)
		if err := w.oneID(id, without); err != nil || w.ended {
			return err
		}
		if desc {
			ok = it.SeekLT(one)
		} else if ok = it.Next(); ok && bytes.HasPrefix(it.Key(), one) {
			ok = it.SeekGE(keys.PrefixEnd(one))
		}
	}
	return it.Error()
}

func (w *orderWalk) oneID(id string, without *search.Param) error {
	m, err := w.snap.Current(fhir.Ref{Type: w.query.Type, ID: id}, w.at)
	if err != nil || m == nil || !w.accept(m) {
		return err
	}
	p := placed{m, sorted.Position{Keys: w.keyer.of(m), ID: m.Row.ID}}
	if without != nil && !p.pos.Keys[0].None {
		return nil
	}
	return w.give(&p)
}
