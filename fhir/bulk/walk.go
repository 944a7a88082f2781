package bulk

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"slices"
	"time"

	"pulsegate/fhir"
	"pulsegate/fhir/access"
	"pulsegate/fhir/search"
	"pulsegate/fhir/store"
	"pulsegate/fhir/yield"
)

// cursor is a position in a walk: after a resource, or the zero cursor at the start.
type cursor struct {
	// Page is the position in the scan of all Patients after which the patients of this
	// page begin; only walks by patient without a list have pages.
	Page position `json:"page,omitempty"`
	// Patient is the index in the list or the page.
	Patient int `json:"patient,omitempty"`
	Type    int `json:"type,omitempty"` // index in the types of the walk
	// After is the position in the scan of the type.
	After position `json:"after,omitempty"`
}

// position is a search.Position, which is not always valid UTF-8.
type position string

// MarshalText implements encoding.TextMarshaler.
func (p position) MarshalText() ([]byte, error) {
	return []byte(base64.RawURLEncoding.EncodeToString([]byte(p))), nil
}

// UnmarshalText implements encoding.TextUnmarshaler.
func (p *position) UnmarshalText(b []byte) error {
	v, err := base64.RawURLEncoding.DecodeString(string(b))
	*p = position(v)
	return fhir.Wrap("bulk.position", err)
}

// reaches reports whether c is in the same scan as to, or beyond it.
func (c *cursor) reaches(to *cursor) bool {
	return c.Page == to.Page && c.Patient == to.Patient && c.Type == to.Type
}

// item is one resource of a walk. It is valid until the callback returns.
type item struct {
	*store.Found
	patient string // whose block it is in, if the walk is by patient
	at      cursor // its position, if the walk has positions
	// decided lists the patients whose data decided that it matches _typeFilter.
	decided []string
}

// walk passes the resources of a job, or a part of them, in one order that depends only on
// the snapshot.
type walk struct {
	exporter *Exporter
	job      *job
	types    []string
	// principal is the client, as far as joins depend on it.
	principal *access.Principal
	filter    access.Filter
	deleted   bool // only deletions since job.Since
	// positions is set if item.at is needed.
	positions bool

	members  []string // if listed
	listed   bool
	order    map[string]int      // index of each member
	matchers map[string]matchers // by type, see matchersOf
	// joined is set if a matcher depends on other resources. The matchers are then those of
	// epoch, and decided is about the last resource that matched.
	joined  bool
	epoch   uint64
	decided []string
	pace    yield.Counter
	latest  map[string]fhir.Ref // of each target, the latest Provenance; bounded
}

// yieldEvery is the number of resources, some 100 µs of work, after which a walk
// yields the processor to requests.
const yieldEvery = 64

// maxLatest bounds walk.latest.
const maxLatest = 4096

// newWalk returns a walk through resources of the types that g may read.
func (e *Exporter) newWalk(ctx context.Context, j *job, types []string, g *access.Grant) (*walk, error) {
	w := &walk{exporter: e, job: j, types: types, filter: g.Filter(access.Read), order: map[string]int{},
		principal: &access.Principal{ClientID: j.Client, Scope: j.Scope, Grant: g}, matchers: map[string]matchers{},
		epoch: e.epoch.Load(), pace: yield.Counter{Every: yieldEvery}, latest: map[string]fhir.Ref{}}
	var err error
	if j.Level == Group {
		if w.members, err = e.members(ctx, j.GroupID, j.Seq, nil); err != nil {
			return nil, err
		}
		w.listed = true
	}
	if j.Listed {
		in := w.members
		w.members = j.Patients
		if w.listed {
			w.members = slices.DeleteFunc(slices.Clone(j.Patients),
				func(p string) bool { return !slices.Contains(in, p) })
		}
		w.listed = true
	}
	for i, m := range w.members {
		w.order[m] = i
	}
	return w, nil
}

// run calls fn for the resources after from and up to to, until fn returns false. If to is
// nil, the walk goes to its end.
func (w *walk) run(ctx context.Context, from cursor, to *cursor, fn func(*item) bool) error {
	if w.listed {
		_, err := w.patients(ctx, w.members, from, to, fn)
		return err
	}
	if !w.job.Organized || w.deleted {
		_, err := w.patients(ctx, []string{""}, from, to, fn)
		return err
	}
	for {
		page, next, err := w.page(ctx, from.Page)
		if err != nil {
			return err
		}
		more, err := w.patients(ctx, page, from, to, fn)
		if err != nil || !more || next == "" || to != nil && to.Page == from.Page {
			return err
		}
		from = cursor{Page: next}
	}
}

// pageSize is the number of patients whose ids are in memory at a time.
const pageSize = 1000

// page returns the ids of the Patients after a position, and the position of the last.
func (w *walk) page(ctx context.Context, after position) (ids []string, last position, err error) {
	err = w.exporter.opts.Store.Scan(ctx, store.ScanRange{Types: []string{"Patient"}, At: w.job.Seq,
		Filter: w.filter, After: search.Position(after), Positions: true}, func(f *store.Found) bool {
		ids, last = append(ids, f.Resource.ID), position(f.Pos)
		return len(ids) < pageSize
	})
	if len(ids) < pageSize {
		last = ""
	}
	return ids, last, err
}

// patients passes the resources of patients, or of all if the only id is empty.
func (w *walk) patients(ctx context.Context, ids []string, from cursor, to *cursor,
	fn func(*item) bool) (more bool, err error) {
	for p := from.Patient; p < len(ids); p++ {
		for t := range w.types {
			at := cursor{Page: from.Page, Patient: p, Type: t}
			if p == from.Patient {
				if t < from.Type {
					continue
				}
				if t == from.Type {
					at.After = from.After
				}
			}
			patient := ids[p]
			if _, one := search.PatientParam(w.types[t]); !one && w.deleted && w.listed {
				// The scan of a patient has no deletions of types with several patients: takes
				// selects them from those of all.
				if patient = ""; p > 0 {
					continue
				}
			}
			last := to != nil && at.reaches(to)
			r := store.ScanRange{Types: w.types[t : t+1], Patient: patient, Since: w.job.Since, At: w.job.Seq,
				Filter: w.filter, Deleted: w.deleted, After: search.Position(at.After), Positions: w.positions}
			if last {
				r.To = search.Position(to.After)
			}
			if more, err = w.scan(ctx, r, at, fn); err != nil || !more || last {
				return false, err
			}
		}
	}
	return true, nil
}

// scan passes the resources of one type, and of one patient if r has one.
func (w *walk) scan(ctx context.Context, r store.ScanRange, at cursor, fn func(*item) bool) (bool, error) {
	more, it := true, item{patient: r.Patient, at: at}
	dedupe := false
	if _, one := search.PatientParam(r.Types[0]); !one && w.listed && (w.deleted || !w.job.Organized) {
		dedupe = true
	}
	var failed error
	err := w.exporter.opts.Store.Scan(ctx, r, func(f *store.Found) bool {
		w.pace.Add(1)
		if more = ctx.Err() == nil; !more {
			return false
		}
		ok, err := w.takes(ctx, f, dedupe, at.Patient)
		if err != nil {
			failed, more = err, false
			return false
		}
		if ok {
			it.Found, it.decided = f, w.decided
			if w.positions {
				it.at.After = position(f.Pos)
			}
			more = fn(&it)
		}
		return more
	})
	if failed != nil {
		err = failed
	}
	if err == nil {
		err = ctx.Err()
	}
	return more, err
}

// takes reports whether a resource that the scan has found is part of the walk.
func (w *walk) takes(ctx context.Context, f *store.Found, dedupe bool, member int) (bool, error) {
	if f.Resource.Deleted != w.deleted {
		return false, nil
	}
	if dedupe {
		if first := w.firstMember(f); w.deleted && first == len(w.members) || !w.deleted && first != member {
			return false, nil
		}
	}
	return w.matches(ctx, f)
}

// matches reports whether a resource satisfies the parameters of the request.
func (w *walk) matches(ctx context.Context, f *store.Found) (bool, error) {
	typ, j := f.Resource.Type, w.job
	if j.Level != System && typ != "Patient" && (f.Facts == nil || f.Facts.Patient == "") ||
		!within(f.Resource.LastUpdated, j.Since, j.Until) {
		return false, nil
	}
	w.decided = nil
	m, err := w.matchersOf(ctx, typ)
	if err != nil {
		return false, err
	}
	if len(m) > 0 {
		body := f.Resource.JSON
		if f.Resource.Deleted { // A deletion matches as what was deleted.
			old, _, err := w.exporter.opts.Store.ReadVersion(ctx, f.Resource.Ref(), f.Resource.Version-1)
			if err != nil && fhir.KindOf(err) != fhir.NotFound {
				return false, err
			}
			body = old.JSON
		}
		if len(body) == 0 {
			return false, nil
		}
		ok := false
		if ok, w.decided, err = m.match(f, body); err != nil || !ok {
			return false, err
		}
	}
	if typ == "Provenance" && j.Provenance != "" && !f.Resource.Deleted {
		return w.associated(ctx, f)
	}
	return true, nil
}

// within reports whether a time is after since and before until; the zero time is open.
func within(t, since, until time.Time) bool {
	return (since.IsZero() || t.After(since)) && (until.IsZero() || t.Before(until))
}

// firstMember returns the index of the first member in whose compartment a resource is,
// so that a resource that refers to several members is exported once.
func (w *walk) firstMember(f *store.Found) int {
	first := len(w.members)
	for _, p := range patientsOf(f.Facts) {
		if i, ok := w.order[p]; ok {
			first = min(first, i)
		}
	}
	return first
}

// patientsOf returns the Patients in whose compartments a resource is.
func patientsOf(f *access.Facts) []string {
	switch {
	case f == nil:
		return nil
	case f.Type == "Patient" && f.Patient == "":
		return []string{f.ID}
	}
	return f.Patients()
}

// associated reports whether a Provenance is one of those that includeAssociatedData
// selects: one of a resource that the export returns, and with latestProvenance the most
// recent one of it.
func (w *walk) associated(ctx context.Context, f *store.Found) (bool, error) {
	for _, ref := range w.targets(f.Resource.JSON) {
		ok, err := w.returns(ctx, ref)
		if err != nil {
			return false, err
		}
		if !ok {
			continue
		}
		if w.job.Provenance == relevantProvenance {
			return true, nil
		}
		latest, err := w.latestOf(ctx, ref)
		if err != nil {
			return false, err
		}
		if latest == f.Resource.Ref() {
			return true, nil
		}
	}
	return false, nil
}

func (w *walk) targets(body []byte) (out []fhir.Ref) {
	var p struct{ Target []struct{ Reference string } }
	if json.Unmarshal(body, &p) != nil {
		return nil
	}
	for _, t := range p.Target {
		if ref, ok := w.exporter.localRef(t.Reference); ok {
			out = append(out, ref)
		}
	}
	return out
}

// returns reports whether the export returns a resource that is not a Provenance.
func (w *walk) returns(ctx context.Context, ref fhir.Ref) (bool, error) {
	if ref.Type == "Provenance" || !slices.Contains(w.job.Types, ref.Type) {
		return false, nil
	}
	res, facts, err := w.exporter.opts.Store.Read(ctx, ref, w.job.Seq)
	if fhir.KindOf(err) == fhir.NotFound && err != nil || err == nil && (res.Deleted || facts == nil) {
		return false, nil
	}
	if err != nil {
		return false, fhir.Wrap("bulk.walk", err)
	}
	if !w.filter.Allow(facts) {
		return false, nil
	}
	in := func(p string) bool { _, ok := w.order[p]; return ok }
	if w.listed && !slices.ContainsFunc(patientsOf(facts), in) {
		return false, nil
	}
	return w.matches(ctx, &store.Found{Resource: res, Facts: facts})
}

// latestOf returns the most recent Provenance of a resource, by recorded, then by its last
// update.
func (w *walk) latestOf(ctx context.Context, target fhir.Ref) (fhir.Ref, error) {
	if ref, ok := w.latest[target.String()]; ok {
		return ref, nil
	}
	q, err := search.Parse("Provenance", [][2]string{{"target", target.String()}},
		search.ParseOptions{Base: w.exporter.opts.Base})
	if err != nil {
		return fhir.Ref{}, fhir.Wrap("bulk.walk", err)
	}
	var best fhir.Ref
	var recorded, updated time.Time
	err = w.exporter.opts.Store.Find(ctx, store.Find{Query: q, Filter: w.filter, At: w.job.Seq},
		func(f *store.Found) bool {
			var p struct{ Recorded time.Time }
			if json.Unmarshal(f.Resource.JSON, &p) != nil {
				p.Recorded = time.Time{}
			}
			if best.ID == "" || p.Recorded.After(recorded) ||
				p.Recorded.Equal(recorded) && f.Resource.LastUpdated.After(updated) {
				best, recorded, updated = f.Resource.Ref(), p.Recorded, f.Resource.LastUpdated
			}
			return ctx.Err() == nil
		})
	if err != nil {
		return fhir.Ref{}, fhir.Wrap("bulk.walk", err)
	}
	if len(w.latest) >= maxLatest {
		clear(w.latest)
	}
	w.latest[target.String()] = best
	return best, ctx.Err()
}
