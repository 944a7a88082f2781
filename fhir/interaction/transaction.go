package interaction

import (
	"cmp"
	"context"
	"slices"
	"strconv"

	"pulsegate/fhir"
	"pulsegate/fhir/access"
	"pulsegate/fhir/audit"
	"pulsegate/fhir/store"
)

// order in which a transaction is done (http.html#trules).
var order = map[string]int{"DELETE": 0, "POST": 1, "PUT": 2, "GET": 3, "HEAD": 3}

// step is one write of a transaction on its way.
type step struct {
	e       *entry
	res     fhir.Resource // admitted, before references are rewritten
	ifMatch uint64
	match   *fhir.Resource // conditional create found it
}

// transaction does all entries or none: one commit holds every write and its
// audit. GET entries read after it, at its T.
func (s *Service) transaction(ctx context.Context, rq *Request, entries []entry, out []response) error {
	const op = "interaction.Transaction"
	sorted := make([]*entry, len(entries))
	for i := range entries {
		sorted[i] = &entries[i]
	}
	slices.SortStableFunc(sorted, func(a, b *entry) int { return cmp.Compare(order[a.Method], order[b.Method]) })
	steps, criteria, err := s.steps(rq, op, sorted)
	if err != nil {
		return err
	}
	release := s.locks.lockCriteria(criteria...)
	at := s.Store.T()
	if len(steps) > 0 {
		err = s.retry(ctx, func() error {
			t, err := s.attempt(ctx, rq, op, steps, out)
			at = max(at, t)
			return err
		})
	}
	release()
	if err != nil {
		return err
	}
	for _, e := range sorted[len(steps):] {
		one := *rq
		one.Line = e.Method + " " + e.URL
		out[e.index] = s.getAt(ctx, &one, e, at)
	}
	return nil
}

// getAt reads for a transaction, whose reads see exactly what it left.
func (s *Service) getAt(ctx context.Context, rq *Request, e *entry, at store.T) response {
	t := e.target
	switch {
	case t.history || t.version > 0:
		return s.get(ctx, rq, e)
	case t.id != "":
		res, err := s.readAt(ctx, rq, t.ref(), at)
		if err != nil {
			return failed(err)
		}
		return response{status: "200 OK", ref: res.Ref(), version: res.Version, modified: res.LastUpdated, resource: res.JSON}
	}
	page, err := s.searchAt(ctx, rq, t.typ, t.query, at)
	if err != nil {
		return failed(err)
	}
	return response{status: "200 OK", resource: page.Bytes()}
}

// steps passes every resource through the door and gives it its id.
func (s *Service) steps(rq *Request, op string, sorted []*entry) (steps []step, criteria []string, err error) {
	seen := map[fhir.Ref]bool{}
	for _, e := range sorted {
		if order[e.Method] == order["GET"] {
			break
		}
		st := step{e: e}
		place := "Bundle.entry[" + strconv.Itoa(e.index) + "]"
		switch e.Method {
		case "POST":
			if err = writable(rq, op, access.Create, e.target.typ); err == nil {
				st.res, err = s.admitNew(op, e.target.typ, e.Resource)
			}
			if c := e.target.typ + "?" + e.IfNoneExist; err == nil && e.IfNoneExist != "" {
				if slices.Contains(criteria, c) {
					err = fhir.Errorf(fhir.Invalid, op, "two entries have the same ifNoneExist")
				}
				criteria = append(criteria, c)
			}
		case "PUT":
			if err = writable(rq, op, access.Update, e.target.typ); err == nil {
				st.res, err = s.Door.Resource(e.target.typ, e.Resource, e.target.id)
			}
		case "DELETE":
			err = writable(rq, op, access.Delete, e.target.typ)
			st.res = fhir.Resource{Type: e.target.typ, ID: e.target.id}
		}
		if err == nil {
			st.ifMatch, err = ParseETag(e.IfMatch)
		}
		if err == nil && seen[st.res.Ref()] {
			err = fhir.Errorf(fhir.Invalid, op, "two entries write the same resource")
		}
		if err != nil {
			return nil, nil, at(place, err)
		}
		seen[st.res.Ref()] = true
		steps = append(steps, st)
	}
	return steps, criteria, nil
}

// attempt prepares everything against what is there now and commits it.
func (s *Service) attempt(ctx context.Context, rq *Request, op string, steps []step, out []response) (store.T, error) {
	ids, err := s.resolve(ctx, rq, op, steps)
	if err != nil {
		return 0, err
	}
	if err := rq.Principal.Grant.Live(ctx); err != nil {
		return 0, err // the criteria of conditional creates may have taken long
	}
	drafts := make([]*draft, len(steps))
	here := map[fhir.Ref]bool{}
	var referred, deleted []string
	for i := range steps {
		d, err := s.draftStep(ctx, rq, op, &steps[i], ids)
		if err != nil {
			return 0, at("Bundle.entry["+strconv.Itoa(steps[i].e.index)+"]", err)
		}
		if drafts[i] = d; d == nil {
			continue
		}
		here[d.write.Resource.Ref()] = d.write.Op == store.Put
		referred = append(referred, d.patients()...)
		if d.write.Op == store.Remove && d.write.Resource.Type == "Patient" {
			deleted = append(deleted, d.write.Resource.ID)
		}
	}
	defer s.locks.lockPatients(referred, deleted)()
	live := slices.DeleteFunc(slices.Clone(drafts), func(d *draft) bool { return d == nil })
	if err := s.mustExist(ctx, op, live, here); err != nil {
		return 0, err
	}
	for _, p := range deleted {
		if err := s.unreferenced(ctx, op, p, here); err != nil {
			return 0, err
		}
	}
	b := &store.Batch{}
	for _, d := range live {
		b.Writes = append(b.Writes, d.write)
	}
	res, err := s.commit(ctx, b, transactionEvents(rq, live)...)
	if err != nil {
		return 0, raced(err)
	}
	n := 0
	for i, st := range steps {
		switch d := drafts[i]; {
		case d != nil:
			out[st.e.index] = wrote(written(d, res.Outcomes[n]))
			n++
		case st.match != nil:
			out[st.e.index] = wrote(Written{Resource: *st.match, Matched: true})
		default: // deleted already
			out[st.e.index] = wrote(Written{Resource: fhir.Resource{Type: st.res.Type, ID: st.res.ID, Deleted: true}})
		}
	}
	return res.T, nil
}

// resolve finds what each fullUrl of the transaction becomes.
func (s *Service) resolve(ctx context.Context, rq *Request, op string, steps []step) (map[string]string, error) {
	ids := map[string]string{}
	for i := range steps {
		st := &steps[i]
		place := "Bundle.entry[" + strconv.Itoa(st.e.index) + "]"
		ref := st.res.Ref()
		if st.e.Method == "POST" && st.e.IfNoneExist != "" {
			m, err := s.matchOne(ctx, rq, op, st.res.Type, st.e.IfNoneExist)
			if err != nil {
				return nil, at(place, err)
			}
			if st.match = m; m != nil {
				ref = m.Ref()
			}
		}
		if st.e.FullURL == "" || st.e.Method == "DELETE" {
			continue
		}
		if _, twice := ids[st.e.FullURL]; twice {
			return nil, at(place, fhir.Errorf(fhir.Invalid, op, "two entries have the same fullUrl"))
		}
		ids[st.e.FullURL] = ref.String()
	}
	return ids, nil
}

// draftStep prepares one write; nil when there is nothing to write.
func (s *Service) draftStep(ctx context.Context, rq *Request, op string, st *step, ids map[string]string) (*draft, error) {
	if st.match != nil {
		return nil, nil
	}
	if st.e.Method == "DELETE" {
		old, err := s.deletable(ctx, rq, op, st.res.Ref(), st.ifMatch)
		if err != nil || old.res.Deleted {
			return nil, err
		}
		return s.draftDelete(ctx, rq, op, old)
	}
	res := st.res
	var err error
	if res.JSON, err = rewriteReferences(res.JSON, ids, s.Base); err != nil {
		return nil, err
	}
	if st.e.Method == "POST" {
		return s.draftPut(ctx, rq, op, res, nil)
	}
	old, err := s.current(ctx, res.Ref())
	if err != nil {
		return nil, err
	}
	return s.draftUpdate(ctx, rq, op, res, old, st.ifMatch)
}

// transactionEvents are one event per patient and kind of write, each listing
// what was written: a Bundle of a thousand Observations is one disclosure to
// look at, not a thousand.
func transactionEvents(rq *Request, ds []*draft) []audit.Event {
	var evs []audit.Event
	where := map[[2]string]int{}
	for _, d := range ds {
		key := [2]string{d.interaction, d.patient}
		i, ok := where[key]
		if !ok {
			i = len(evs)
			where[key] = i
			ev := d.event(rq)
			ev.Data, ev.Extra = nil, [][2]string{{"bundle", "transaction"}}
			evs = append(evs, ev)
		}
		evs[i].Data = append(evs[i].Data, audit.DataRef{Ref: d.write.Resource.Ref(), Version: d.version})
	}
	if len(evs) == 0 {
		ev := rq.event("transaction", "")
		ev.Query = rq.Line
		evs = append(evs, ev)
	}
	return evs
}
