package pebblestore

import (
	"bytes"

	"github.com/cockroachdb/pebble/v2"

	"pulsegate/fhir"
	"pulsegate/fhir/search"
	"pulsegate/fhir/series"
	"pulsegate/fhir/store"
)

// tagged walks the samples that have an index value, in order of their ids:
// the X rows they stand for.
type tagged struct {
	x      *finder
	left   []*seriesInfo // still to be opened, by identity
	one    *located      // the sample that the value itself names
	walks  []*samples
	best   *samples
	onOne  bool
	id     string
	sample series.Sample
}

// openTagged finds the series by their Y rows; nil when there are none.
func (x *finder) openTagged(param, value string, after string) (*tagged, error) {
	if x.q.Type != "Observation" || x.documentsOnly {
		return nil, nil
	}
	t := &tagged{x: x}
	if param == "identifier" {
		if _, ok := series.ParseID(value); ok {
			l, err := x.d.sampleOf(x.v.snap, fhir.Ref{Type: "Observation", ID: value})
			if err != nil {
				return nil, err
			}
			if l != nil && store.Seq(l.smp.Commit.Seq) <= x.at && value > after {
				t.one = l
			}
		}
	}
	if err := t.list(param, value); err != nil {
		return nil, err
	}
	if t.one == nil && len(t.left) == 0 {
		return nil, nil
	}
	err := t.next()
	for err == nil && t.valid() && t.id <= after {
		err = t.next()
	}
	if err != nil {
		closing(closer(t.close), &err)
		return nil, err
	}
	return t, nil
}

func (t *tagged) list(param, value string) (err error) {
	pre := tagPrefix(param, value)
	it, err := t.x.v.snap.NewIter(&pebble.IterOptions{LowerBound: pre, UpperBound: next(pre)})
	if err != nil {
		return err
	}
	defer closing(it, &err)
	for ok := it.First(); ok; ok = it.Next() {
		in, err := t.x.d.member(t.x.v.snap, append([]byte{tabIdentity}, it.Key()[len(pre):]...), it.Value())
		if err != nil {
			return err
		}
		if in == nil {
			return errRow
		}
		if !t.x.rules(in) {
			t.left = append(t.left, in)
		}
	}
	return it.Error()
}

func (t *tagged) close() (err error) {
	for _, w := range t.walks {
		closing(closer(w.close), &err)
	}
	t.walks = nil
	return err
}

func (t *tagged) valid() bool { return t.id != "" }

// next stands on the next sample; the first call on the first.
func (t *tagged) next() error {
	switch {
	case t.onOne:
		t.one, t.onOne = nil, false
	case t.best != nil:
		if err := t.best.next(); err != nil {
			return err
		}
	}
	if err := t.choose(); err != nil {
		return err
	}
	t.id = ""
	if t.best != nil {
		t.sample = t.best.sample()
		k := t.best.in.t.Key(&t.sample)
		t.id = k.ID()
	}
	if t.one != nil {
		k := t.one.in.t.Key(&t.one.smp)
		if id := k.ID(); t.id == "" || id <= t.id {
			if id == t.id { // the series has it too
				t.one = nil
				return nil
			}
			t.id, t.sample, t.onOne = id, t.one.smp, true
		}
	}
	return nil
}

// choose stands on the least sample of the identity's series, opening the
// next identity when they are at their end.
func (t *tagged) choose() error {
	for {
		t.best = nil
		for _, w := range t.walks {
			if w.valid() && (t.best == nil || lessSample(w, t.best)) {
				t.best = w
			}
		}
		if t.best != nil || len(t.left) == 0 {
			return nil
		}
		if err := t.close(); err != nil {
			return err
		}
		id := t.left[0].t.Identity
		for len(t.left) > 0 && t.left[0].t.Identity == id {
			w := t.x.walk(t.left[0], false)
			t.walks, t.left = append(t.walks, w), t.left[1:]
			if err := w.seek(microsOf(t.x.dates(w.in.bucket))); err != nil {
				return err
			}
		}
	}
}

func lessSample(a, b *samples) bool {
	x, y := a.sample(), b.sample()
	k, l := a.in.t.Key(&x), b.in.t.Key(&y)
	return k.Compare(&l) < 0
}

// match is the sample that the walk stands on.
func (t *tagged) match() *match {
	in := t.one
	if t.onOne {
		return newSample(in.in, &t.sample)
	}
	return newSample(t.best.in, &t.sample)
}

// tail is the key behind the value of the X row that the sample stands for.
func (t *tagged) tail() []byte {
	return appendU64(appendStr(nil, t.id), t.sample.Commit.Seq)
}

// oneValue walks the X rows of values[i], those that samples stand for among
// them.
func (x *finder) oneValue(c *search.Clause, values []string, i int, from []byte) (more bool, err error) {
	pre := indexPrefix(x.q.Type, under(x.q.Type, c.Param.Code, values[i]), values[i])
	lower, after := pre, ""
	if from != nil {
		lower = append(append(bytes.Clone(pre), from...), 0)
		id, _, ok := takeStr(from)
		if !ok {
			return false, errPos(x.op)
		}
		after = id
	}
	it, err := x.v.snap.NewIter(&pebble.IterOptions{LowerBound: lower, UpperBound: next(pre)})
	if err != nil {
		return false, err
	}
	defer closing(it, &err)
	smp, err := x.openTagged(c.Param.Code, values[i], after)
	if err != nil {
		return false, err
	}
	if smp != nil {
		defer closing(closer(smp.close), &err)
	}
	ok := it.First()
	for ok || smp != nil && smp.valid() {
		if err := x.step(); err != nil {
			return false, err
		}
		var tail []byte
		var m *match
		if ok {
			tail = it.Key()[len(pre):]
		}
		if smp != nil && smp.valid() && (!ok || bytes.Compare(smp.tail(), tail) < 0) {
			tail, m = smp.tail(), smp.match()
			err = smp.next()
		} else {
			tail = bytes.Clone(tail)
			m, err = x.indexed(tail, it.Value())
			ok = it.Next()
		}
		if err != nil {
			return false, err
		}
		if m == nil || !x.accept(m) || earlier(m, c, values[:i]) {
			continue
		}
		if !x.emit(m, append(indexPos(i), tail...)) {
			return false, nil
		}
	}
	return true, it.Error()
}
