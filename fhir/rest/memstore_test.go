package rest

import (
	"bytes"
	"cmp"
	"context"
	"slices"
	"sort"
	"strconv"
	"sync"
	"time"

	"pulsegate/fhir"
	"pulsegate/fhir/access"
	"pulsegate/fhir/search"
	"pulsegate/fhir/store"
)

// modelStore is the contract of fhir/store at its simplest: every version in
// memory, every search a look at all of them. The API is tested on it and on
// pebblestore alike, so a difference is one of the driver's.
type modelStore struct {
	store.Store // what the API does not use: a nil call is a failed test
	mu          sync.Mutex
	t           store.Seq
	clock       func() time.Time
	rows        map[fhir.Ref][]*row
	refs        []fhir.Ref
	state       map[string][]byte
	leaves      uint64
}

type row struct {
	t      store.Seq
	res    fhir.Resource
	values *search.Values
	facts  *access.Facts
}

func newModelStore(clock func() time.Time) *modelStore {
	return &modelStore{clock: clock, rows: map[fhir.Ref][]*row{}, state: map[string][]byte{}}
}

func (m *modelStore) LastSeq() store.Seq { m.mu.Lock(); defer m.mu.Unlock(); return m.t }

func (m *modelStore) Sync(context.Context) error { return nil }

func (m *modelStore) at(ref fhir.Ref, t store.Seq) *row {
	var last *row
	for _, r := range m.rows[ref] {
		if t == 0 || r.t <= t {
			last = r
		}
	}
	return last
}

func (m *modelStore) Commit(_ context.Context, b *store.Batch) (store.Result, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := m.clock().UTC().Truncate(time.Millisecond)
	for _, w := range b.Writes {
		cur := m.at(w.Resource.Ref(), 0)
		switch w.Expect {
		case store.Absent:
			if cur != nil {
				return store.Result{}, fhir.Errorf(fhir.Conflict, "model", "exists")
			}
		case store.Version:
			if cur == nil || cur.res.Version != w.IfVersion {
				return store.Result{}, fhir.Errorf(fhir.PreconditionFailed, "model", "version")
			}
		}
	}
	for _, w := range b.State {
		if w.Expect == store.StateAbsent && m.state[w.Key] != nil {
			return store.Result{}, fhir.Errorf(fhir.Conflict, "model", "state")
		}
		m.state[w.Key] = bytes.Clone(w.Value)
	}
	m.t++
	res := store.Result{Seq: m.t, LeafIndex: m.leaves}
	m.leaves += uint64(len(b.Leaves))
	for _, w := range b.Writes {
		ref := w.Resource.Ref()
		cur := m.at(ref, 0)
		r := &row{t: m.t, res: w.Resource}
		r.res.Version, r.res.LastUpdated = 1, now
		if cur != nil {
			r.res.Version = cur.res.Version + 1
		} else {
			m.refs = append(m.refs, ref)
		}
		if w.Op == store.Remove {
			r.res.Deleted, r.res.JSON, r.values, r.facts = true, nil, cur.values, cur.facts
		} else {
			v, err := search.Extract(ref.Type, w.Resource.JSON)
			if err != nil {
				return res, err
			}
			v.SetLastUpdated(now)
			r.values = v
			r.res.JSON = fhir.Stamp(w.Resource.JSON, ref.Type, ref.ID, r.res.Version, now)
			r.facts = &access.Facts{Type: ref.Type, ID: ref.ID, Patient: v.Patient, Vendor: w.Vendor,
				Author: w.Author, Categories: v.Categories, Tokens: v.Tokens}
		}
		m.rows[ref] = append(m.rows[ref], r)
		res.Outcomes = append(res.Outcomes,
			store.Outcome{Ref: ref, Version: r.res.Version, LastUpdated: now, Deleted: r.res.Deleted, JSON: r.res.JSON})
	}
	return res, nil
}

func (m *modelStore) Get(_ context.Context, key string) ([]byte, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return bytes.Clone(m.state[key]), nil
}

func (m *modelStore) Read(_ context.Context, ref fhir.Ref, t store.Seq) (fhir.Resource, *access.Facts, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	r := m.at(ref, t)
	if r == nil {
		return fhir.Resource{}, nil, fhir.Errorf(fhir.NotFound, "model", "no such resource")
	}
	return r.res, r.facts, nil
}

func (m *modelStore) ReadVersion(_ context.Context, ref fhir.Ref, v uint64) (fhir.Resource, *access.Facts, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, r := range m.rows[ref] {
		if r.res.Version == v {
			return r.res, r.facts, nil
		}
	}
	return fhir.Resource{}, nil, fhir.Errorf(fhir.NotFound, "model", "no such version")
}

func (m *modelStore) History(_ context.Context, ref fhir.Ref, t store.Seq, before uint64,
	fn func(fhir.Resource, *access.Facts) bool) error {
	m.mu.Lock()
	rows := slices.Clone(m.rows[ref])
	m.mu.Unlock()
	slices.Reverse(rows)
	for _, r := range rows {
		if (t == 0 || r.t <= t) && (before == 0 || r.res.Version < before) && !fn(r.res, r.facts) {
			return nil
		}
	}
	return nil
}

func (m *modelStore) Versions(_ context.Context, v store.VersionRange,
	fn func(*store.Found) bool) (search.Position, error) {
	m.mu.Lock()
	type one struct {
		*row
		ended *row
		n     int
	}
	var all []one
	for n, ref := range m.refs {
		for i, r := range m.rows[ref] {
			x := one{row: r, n: n}
			if i+1 < len(m.rows[ref]) {
				x.ended = m.rows[ref][i+1]
			}
			all = append(all, x)
		}
	}
	m.mu.Unlock()
	slices.SortStableFunc(all, func(a, b one) int { return cmp.Or(cmp.Compare(b.t, a.t), cmp.Compare(a.n, b.n)) })
	looked := 0
	for i, r := range all {
		if after, err := strconv.Atoi(v.After); err == nil && len(all)-1-i >= after {
			continue
		}
		pos := strconv.Itoa(len(all) - 1 - i) // commits since do not move it
		if r.t > v.At || !slices.Contains(v.Types, r.res.Type) || r.res.LastUpdated.Before(v.Since) {
			continue
		}
		if !v.To.IsZero() {
			if !r.res.LastUpdated.Before(v.To) || r.res.LastUpdated.Before(v.From) && (r.res.Deleted ||
				r.ended != nil && r.ended.t <= v.At && !r.ended.res.LastUpdated.After(v.From)) {
				continue
			}
		}
		if looked++; v.Filter.Allow(r.facts) {
			res := r.res
			if !fn(&store.Found{Resource: res, Facts: r.facts, Pos: pos}) {
				return "", nil
			}
		}
		if v.Rows > 0 && looked == v.Rows {
			return pos, nil
		}
	}
	return "", nil
}

func (m *modelStore) Heads(_ context.Context, refs []fhir.Ref) ([]store.Head, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	out := make([]store.Head, len(refs))
	for i, ref := range refs {
		if r := m.at(ref, 0); r != nil {
			out[i] = store.Head{Version: r.res.Version, Deleted: r.res.Deleted, Seq: r.t}
		}
	}
	return out, nil
}

func (m *modelStore) matches(f store.Find) []*row {
	m.mu.Lock()
	defer m.mu.Unlock()
	var rows []*row
	for _, ref := range m.refs {
		if r := m.at(ref, f.At); ref.Type == f.Query.Type && r != nil && !r.res.Deleted &&
			search.Match(f.Query, r.values) && f.Filter.Allow(r.facts) {
			rows = append(rows, r)
		}
	}
	sort.SliceStable(rows, func(i, j int) bool {
		if c := search.CompareValues(f.Query.Type, f.Query.Sort, rows[i].values, rows[j].values); c != 0 {
			return c < 0
		}
		return rows[i].res.ID < rows[j].res.ID
	})
	return rows
}

func (m *modelStore) Find(_ context.Context, f store.Find, fn func(*store.Found) bool) error {
	n := 0
	for i, r := range m.matches(f) {
		if after, err := strconv.Atoi(f.After); err == nil && i <= after {
			continue
		}
		if m.gone(f, r) {
			continue
		}
		if n++; f.Limit > 0 && n > f.Limit {
			return nil
		}
		res := r.res
		res.JSON = bytes.Clone(res.JSON)
		if !fn(&store.Found{Resource: res, Facts: r.facts, Pos: strconv.Itoa(i)}) {
			return nil
		}
		clear(res.JSON) // valid only while fn runs
	}
	return nil
}

func (m *modelStore) Count(_ context.Context, f store.Find) (uint64, error) {
	n := uint64(0)
	for _, r := range m.matches(f) {
		if !m.gone(f, r) {
			n++
		}
	}
	return n, nil
}

// gone reports whether a match was deleted since.
func (m *modelStore) gone(f store.Find, r *row) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return f.Undeleted && m.at(r.res.Ref(), 0).res.Deleted
}

func (m *modelStore) Scan(_ context.Context, s store.ScanRange, fn func(*store.Found) bool) error {
	m.mu.Lock()
	var rows []*row
	for _, ref := range m.refs {
		if r := m.at(ref, s.At); slices.Contains(s.Types, ref.Type) && r != nil && !r.res.Deleted &&
			(s.Patient == "" || r.facts.Patient == s.Patient) && s.Filter.Allow(r.facts) {
			rows = append(rows, r)
		}
	}
	m.mu.Unlock()
	for _, r := range rows {
		if !fn(&store.Found{Resource: r.res, Facts: r.facts}) {
			return nil
		}
	}
	return nil
}
