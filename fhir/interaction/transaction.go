package interaction

import (
	"cmp"
	"context"
	"slices"
	"strings"

	"pulsegate/fhir"
	"pulsegate/fhir/access"
	"pulsegate/fhir/audit"
	"pulsegate/fhir/r4"
	"pulsegate/fhir/search"
	"pulsegate/fhir/store"
)

// order is the order in which the methods of a transaction are processed (R4
// http.html#trules).
var order = map[string]int{"DELETE": 0, "POST": 1, "PUT": 2, "PATCH": 2} // read only

// reading comes after all writes. So do operations, which must not change anything.
const reading = 3

func (e *entry) order() int {
	if e.reads() {
		return reading
	}
	return order[e.Method]
}

// step is one write of a transaction.
type step struct {
	entry    *entry
	ref      fhir.Ref // that the step writes; of a conditional one, after resolve
	fresh    string   // the id that the server assigns; "" if it assigns none
	pre      Preconditions
	criteria *criteria // of a conditional write; may be nil
	registry *search.Registry
	values   *search.Values
}

// matched reports whether a conditional create has found a match.
func (st *step) matched() bool {
	return st.entry.Method == "POST" && st.criteria != nil && st.criteria.match != nil
}

// idle reports whether a conditional create has found a match, or a conditional delete
// none, so that there is nothing to write.
func (st *step) idle() bool {
	return st.matched() || st.entry.Method == "DELETE" && st.criteria != nil && st.criteria.match == nil
}

// target sets the resource that the step writes, after its criteria were evaluated.
func (st *step) target(op string) (err error) {
	c, t := st.criteria, st.entry.target
	if c == nil {
		return nil
	}
	switch st.entry.Method {
	case "PUT":
		put := conditionalPut{typ: t.typ, fresh: st.fresh, bodyID: idOf(st.entry.Resource)}
		st.ref, err = put.ref(op, c.match)
		return err
	case "POST":
		st.ref = fhir.Ref{Type: t.typ, ID: st.fresh}
	case "PATCH":
		if c.match == nil {
			return errNoMatch(op, t.typ)
		}
		st.ref = c.match.Ref()
	case "DELETE":
		st.ref = fhir.Ref{Type: t.typ}
		if c.match != nil {
			st.ref = c.match.Ref()
		}
	}
	return nil
}

// inBundle marks the events of a transaction.
var inBundle = [][2]string{{"bundle", "transaction"}} // read only

// transaction performs all entries or none. One commit contains all writes and
// their audit events. GET entries read afterwards, as of that commit.
func (s *Service) transaction(ctx context.Context, rq *Request, entries []entry, p *Page, returns Return) error {
	const op = "interaction.Transaction"
	sorted := make([]*entry, len(entries))
	for i := range entries {
		if o := entries[i].target.operation; o != nil && o.Changes {
			return at(entries[i].path(), fhir.Errorf(fhir.NotAllowed, op,
				"$%s cannot be a part of a transaction; use a batch", o.Name))
		}
		sorted[i] = &entries[i]
	}
	slices.SortStableFunc(sorted, func(a, b *entry) int { return cmp.Compare(a.order(), b.order()) })
	steps, err := s.steps(rq, op, sorted)
	if err != nil {
		return err
	}
	out := make([]response, len(entries))
	at, err := s.writes(ctx, rq, op, steps, out, returns)
	if err != nil {
		return err
	}
	// Reads and the matches of conditional creates share the size limit. The
	// written resources came with the request and do not count.
	capacity := s.Limits.withDefaults().BundleBytes
	for i := range steps {
		if steps[i].matched() {
			capacity -= len(steps[i].criteria.match.JSON)
		}
	}
	for i := range entries {
		if e := &entries[i]; e.reads() {
			one := *rq
			one.Line, one.capacity = e.line(), capacity
			if capacity <= s.Limits.withDefaults().BundleBytes/32 {
				out[i] = failed(s.refuse(ctx, &one, "transaction", e.target.ref(), s.errFull(op)))
			} else {
				pre, _ := e.preconditions() // has no use for an operation, and does not fail for a read
				out[i] = s.get(ctx, &one, e, pre, at)
			}
			capacity -= out[i].size(returns)
		}
	}
	for i := range out {
		p.response(s.Base, &out[i], returns)
	}
	return nil
}

// size returns the size of the resource in the answer in bytes.
func (r *response) size(returns Return) (n int) {
	if r.err != nil || r.wrote && returns != ReturnRepresentation {
		return 0
	}
	for _, b := range r.resource {
		n += len(b)
	}
	return n
}

// writes performs the writing entries in one commit. It returns the commit as of
// which the reading entries read.
func (s *Service) writes(ctx context.Context, rq *Request, op string, steps []step, out []response,
	returns Return) (store.Seq, error) {
	var keys []string
	for i := range steps {
		if c := steps[i].criteria; c != nil {
			keys = append(keys, c.locks()...)
		}
	}
	release, err := s.locks.lockCriteria(ctx, keys)
	if err != nil {
		return 0, err
	}
	defer release()
	at := s.Store.LastSeq()
	if len(steps) > 0 {
		err = s.retry(ctx, func() error {
			t, err := s.attempt(ctx, rq, op, steps, out, returns)
			at = max(at, t)
			return err
		})
	}
	return at, err
}

// steps checks each write by itself and assigns its id.
func (s *Service) steps(rq *Request, op string, sorted []*entry) (steps []step, err error) {
	seen, same := map[fhir.Ref]bool{}, map[string]bool{}
	full := map[string]bool{}
	for _, e := range sorted {
		if e.reads() {
			break
		}
		st := step{entry: e, ref: e.target.ref()}
		if err := s.step(rq, op, &st); err != nil {
			return nil, at(e.path(), err)
		}
		switch c := st.criteria; {
		case st.ref.ID != "" && seen[st.ref]:
			err = errOverlap(op)
		case c != nil && same[c.key()] && e.Method == "POST":
			err = fhir.Errorf(fhir.Invalid, op, "two entries have the same ifNoneExist")
		case c != nil && same[c.key()]:
			err = fhir.Errorf(fhir.Invalid, op, "two entries have the same criteria")
		case e.FullURL != "" && e.Method != "DELETE" && full[e.FullURL]:
			err = fhir.Errorf(fhir.Invalid, op, "two entries have the same fullUrl")
		case c != nil:
			same[c.key()] = true
		}
		if err != nil {
			return nil, at(e.path(), err)
		}
		seen[st.ref], full[e.FullURL] = true, e.Method != "DELETE"
		steps = append(steps, st)
	}
	return steps, nil
}

// errOverlap returns the error for two entries that write one resource (R4
// http.html#trules).
func errOverlap(op string) error {
	return fhir.Errorf(fhir.Invalid, op, "two entries write the same resource")
}

func (s *Service) step(rq *Request, op string, st *step) (err error) {
	e := st.entry
	conditional := e.target.query
	switch e.Method {
	case "POST":
		conditional = e.IfNoneExist
		err = writable(rq, op, access.Create, e.target.typ)
	case "PUT", "PATCH":
		err = writable(rq, op, access.Update, e.target.typ)
	case "DELETE":
		err = writable(rq, op, access.Delete, e.target.typ)
	}
	if err == nil && st.ref.ID == "" && (e.Method == "POST" || e.Method == "PUT") {
		st.fresh, err = s.newID()
	}
	if err == nil && conditional != "" {
		what := theCriteria
		if e.Method == "POST" {
			what = "If-None-Exist"
		}
		st.criteria, err = s.criteriaOf(rq, op, what, e.line(), e.target.typ, conditional)
	}
	if e.Method == "POST" {
		st.ref.ID = st.fresh
	}
	if err == nil {
		err = s.refuseInTransaction(rq, op, e)
	}
	if err == nil {
		st.pre, err = e.preconditions()
	}
	return err
}

// attempt prepares all writes against the current state and commits them.
func (s *Service) attempt(ctx context.Context, rq *Request, op string, steps []step, out []response,
	returns Return) (store.Seq, error) {
	b := &store.Batch{Seen: s.Store.LastSeq()}
	disc := &disclosures{}
	l, err := s.resolve(ctx, rq, op, steps, disc, returns)
	if err != nil {
		return 0, err
	}
	if err := rq.Principal.Grant.Live(ctx); err != nil {
		return 0, err // the criteria of conditional creates may have taken long
	}
	drafts := make([]*draft, len(steps)) // nil if there is nothing to write
	inCommit := map[fhir.Ref]bool{}
	var live []*draft
	var referred, deleted []string
	for i := range steps {
		st := &steps[i]
		if st.criteria != nil && !st.matched() {
			b.Guards = append(b.Guards, st.criteria.guards()...)
			b.Touches = append(b.Touches, st.criteria.touches()...)
		}
		if !st.idle() {
			d, err := s.draftStep(ctx, rq, op, st, *l)
			if err != nil {
				return 0, at(st.entry.path(), err)
			}
			d.entry = st.entry.path()
			drafts[i], live = d, append(live, d)
			inCommit[st.ref] = d.write.Op == store.Put && !d.done
			referred = append(referred, d.referredPatients()...)
			if !inCommit[st.ref] && !d.done && st.ref.Type == "Patient" {
				deleted = append(deleted, st.ref.ID)
			}
		}
	}
	release, err := s.locks.lockPatients(ctx, referred, deleted)
	if err != nil {
		return 0, err
	}
	defer release()
	if err := s.mustExist(ctx, rq, op, live, inCommit); err != nil {
		return 0, err
	}
	for _, p := range deleted {
		if err := s.unreferenced(ctx, op, p, inCommit); err != nil {
			return 0, err
		}
	}
	b.Refer(referred...)
	b.Abandon(deleted...)
	for _, d := range live {
		if !d.done {
			b.Writes = append(b.Writes, d.write)
			b.Touches = append(b.Touches, d.touches()...)
		}
	}
	b.Guards = append(b.Guards, l.guards...)
	res, err := s.commit(ctx, rq, b, transactionEvents(rq, live, disc)...)
	if err != nil {
		return 0, raced(err)
	}
	n := 0
	for i := range steps {
		switch d := drafts[i]; {
		case d == nil && !steps[i].matched():
			out[steps[i].entry.index] = wrote(Written{Resource: fhir.Resource{Deleted: true}})
		case d == nil:
			out[steps[i].entry.index] = wrote(Written{Resource: *steps[i].criteria.match, Matched: true})
		case d.done:
			out[steps[i].entry.index] = wrote(Written{Resource: d.write.Resource})
		default:
			out[steps[i].entry.index] = wrote(written(d, res.Outcomes[n]))
			n++
		}
	}
	return res.Seq, nil
}

// maxConditional bounds the distinct conditional references of a transaction.
const maxConditional = 1000

// resolve finds what the conditional entries match, the replacement of each fullUrl, and
// then that of each conditional reference. The
// answer has the matches only if it has the resources.
func (s *Service) resolve(ctx context.Context, rq *Request, op string, steps []step, disc *disclosures,
	returns Return) (*links, error) {
	l := &links{ids: map[string]string{}, conditional: map[string]string{}}
	capacity := s.Limits.withDefaults().BundleBytes
	written := map[fhir.Ref]string{} // the method
	for i := range steps {
		st := &steps[i]
		if c := st.criteria; c != nil {
			if err := s.find(ctx, rq, op, c); err != nil {
				return nil, at(st.entry.path(), err)
			}
			disc.add(c)
		}
		if err := st.target(op); err != nil {
			return nil, at(st.entry.path(), st.criteria.disclosing(err))
		}
		ref := st.ref
		if st.matched() {
			match := st.criteria.match
			ref = match.Ref()
			if returns != ReturnRepresentation {
				match.JSON = nil
			}
			if capacity -= len(match.JSON); capacity < 0 { // before more of them take memory
				return nil, at(st.entry.path(), s.errFull(op))
			}
			if written[ref] == "DELETE" {
				return nil, at(st.entry.path(), errOverlap(op))
			}
		} else if ref.ID != "" {
			overlaps, err := s.overlaps(op, st, steps)
			if err == nil && (written[ref] != "" || overlaps) {
				err = errOverlap(op)
			}
			if err != nil {
				return nil, at(st.entry.path(), err)
			}
			written[ref] = st.entry.Method
		}
		if st.entry.FullURL != "" && st.entry.Method != "DELETE" {
			l.ids[st.entry.FullURL] = ref.String()
		}
	}
	for i := range steps {
		st := &steps[i]
		if st.entry.Method == "DELETE" || st.matched() {
			continue
		}
		var failed error
		conditionals(st.entry.path()+".resource", st.entry.body(), func(path, ref string) bool {
			failed = s.conditional(ctx, rq, op, steps, st, l, disc, ref)
			if failed != nil {
				failed = at(path, failed)
			}
			return failed == nil
		})
		if failed != nil {
			return nil, failed
		}
	}
	return l, nil
}

// conditional resolves ref if it is a conditional reference. It must match exactly one
// resource that the caller may find. As R4 resolves these references after all writes
// (http.html#trules), they match what the entries of the transaction leave: the resources
// that they create or update, but none that they delete. What a PATCH makes of a resource
// does not count.
func (s *Service) conditional(ctx context.Context, rq *Request, op string, steps []step, st *step, l *links,
	disc *disclosures, ref string) error {
	typ, query, ok := isConditional(strings.TrimPrefix(ref, s.Base+"/"))
	if !ok || l.ids[ref] != "" || l.conditional[ref] != "" {
		return nil
	}
	if len(l.conditional) == maxConditional {
		return fhir.Errorf(fhir.TooCostly, op,
			"the transaction has more than %d different conditional references; split it", maxConditional)
	}
	c, err := s.criteriaOf(rq, op, "the conditional reference", st.entry.line(), typ, query)
	if err != nil {
		return err
	}
	if err := c.apart(op, steps); err != nil {
		return err
	}
	gone, written := map[fhir.Ref]bool{}, []*step(nil)
	for i := range steps {
		w := &steps[i]
		if w.ref.Type != typ || w.idle() || w.entry.Method == "PATCH" {
			continue
		}
		gone[w.ref] = true // the stored version does not count
		if w.entry.Method != "DELETE" {
			written = append(written, w)
		}
	}
	var made []fhir.Ref
	if err := s.findBeside(ctx, rq, op, c, gone, func() int {
		for _, w := range written {
			if s.matches(w, c.resolved.query) {
				made = append(made, w.ref)
			}
		}
		return len(made)
	}); err != nil {
		return err
	}
	switch {
	case c.match == nil && len(made) == 0:
		return fhir.Errorf(fhir.PreconditionFailed, op, "%s matches no %s", c.what, typ)
	case len(made) > 1:
		return severalMatches(op, c)
	case len(made) == 1:
		l.conditional[ref] = made[0].String()
	default:
		l.conditional[ref] = c.match.Ref().String()
	}
	disc.add(c)
	l.guards = append(l.guards, c.guards()...)
	return nil
}

// overlaps reports whether the criteria of a PUT or PATCH match what a POST of the same
// transaction creates. As POST comes first (R4 http.html#trules), both would write one
// resource.
func (s *Service) overlaps(op string, st *step, steps []step) (bool, error) {
	if st.criteria == nil || st.entry.order() != order["PUT"] {
		return false, nil
	}
	created := created(steps, st.ref.Type)
	if len(created) == 0 {
		return false, nil
	}
	return slices.ContainsFunc(created, func(w *step) bool { return s.matches(w, st.criteria.resolved.query) }),
		st.criteria.apart(op, steps)
}

// apart returns an error if a transaction writes a type that decides a chained parameter,
// _has or _list of the criteria: the joins are evaluated on the state before it.
func (c *criteria) apart(op string, steps []step) error {
	for i := range steps {
		if w := &steps[i]; !w.idle() && slices.Contains(c.joined, w.ref.Type) {
			return fhir.Errorf(fhir.Invalid, op, "%s depends on a %s by a chained parameter, _has or _list, and the "+
				"transaction writes one; send them in two requests", c.what, w.ref.Type)
		}
	}
	return nil
}

// created returns the steps that create a resource of a type under an id of the server.
func created(steps []step, typ string) (out []*step) {
	for i := range steps {
		if w := &steps[i]; w.entry.Method == "POST" && !w.idle() && w.ref.Type == typ {
			out = append(out, w)
		}
	}
	return out
}

// matches reports whether the resource of an entry matches a query. Its references are
// those that the client sent.
func (s *Service) matches(st *step, q *search.Query) bool {
	if st.values == nil || st.registry != q.Registry {
		st.registry, st.values = q.Registry, &search.Values{} // the entry is refused later if it is not valid
		if r, err := s.Validator.Create(st.ref.Type, st.entry.Resource, st.ref.ID); err == nil {
			if v, err := (search.Extractor{Registry: q.Registry}).Extract(r.Type, r.JSON); err == nil {
				st.values = v
			}
		}
	}
	return search.Match(q, st.values)
}

// draftStep prepares one write.
func (s *Service) draftStep(ctx context.Context, rq *Request, op string, st *step, l links) (*draft, error) {
	c := st.criteria
	if st.entry.Method == "DELETE" {
		d, err := s.draftDelete(ctx, rq, op, st.ref, st.pre)
		if err == nil && c != nil && (d.done || d.write.IfVersion != c.match.Version) {
			err = changed(op)
		}
		return d, err
	}
	l.root = rootOf(st.entry.FullURL)
	switch {
	case st.entry.Method == "POST":
		res, err := s.admitNew(op, st.ref.Type, st.ref.ID, st.entry.Resource, &l)
		if err == nil {
			err = s.linkDeferred(&res, l)
		}
		if err != nil {
			return nil, err
		}
		return s.draftPut(ctx, rq, op, res, nil)
	case st.entry.Method == "PATCH":
		found := uint64(0)
		if c != nil {
			found = c.match.Version
		}
		old, err := s.patchable(ctx, rq, op, st.ref, st.pre, found)
		if err != nil {
			return nil, err
		}
		return s.draftPatch(ctx, rq, op, old, st.entry.patch, st.pre, &l)
	case c != nil:
		put := &conditionalPut{typ: st.ref.Type, fresh: st.fresh, bodyID: idOf(st.entry.Resource)}
		return s.draftConditional(ctx, rq, op, put, c, st.entry.Resource, st.pre, &l)
	}
	res, err := s.admit(op, st.ref, st.entry.Resource, &l)
	if err == nil {
		err = s.linkDeferred(&res, l)
	}
	if err != nil {
		return nil, err
	}
	old, err := s.current(ctx, st.ref)
	if err != nil {
		return nil, err
	}
	return s.draftUpdate(ctx, rq, op, res, old, st.pre)
}

// transactionEvents returns one event per patient and interaction that lists the
// written resources, so that a reader of the trail sees one event rather than a
// thousand for a Bundle of a thousand Observations. Matches of conditional creates
// and references are listed likewise, as reads.
func transactionEvents(rq *Request, ds []*draft, disc *disclosures) []audit.Event {
	var evs []audit.Event
	where := map[[2]string]int{}
	for _, d := range ds {
		for _, ev := range d.events(rq) {
			key := [2]string{d.interaction, ev.Patient}
			i, ok := where[key]
			if !ok {
				i = len(evs)
				where[key] = i
				one := ev
				one.Data, one.Extra = nil, inBundle
				evs = append(evs, one)
			}
			evs[i].Data = append(evs[i].Data, ev.Data...)
		}
	}
	evs = append(evs, disc.events(rq, inBundle)...)
	if len(evs) == 0 {
		ev := rq.event("transaction", "")
		ev.Query = rq.Line
		evs = append(evs, ev)
	}
	return evs
}

// elementPath appends element names to a path, up to the first that R4 does not
// define, because that may be any input.
func elementPath(path string, names []string) string {
	for _, n := range names {
		if !r4.IsElement(n) {
			break
		}
		path += "." + n
	}
	return path
}
