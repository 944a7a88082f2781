package interaction

import (
	"bytes"
	"context"
	"io"
	"runtime/debug"
	"strings"

	"github.com/go-json-experiment/json/jsontext"

	"pulsegate/fhir"
)

const (
	// maxOutcome bounds the size of an OperationOutcome in bytes. It has few issues, with
	// short texts.
	maxOutcome = 16 << 10
	// envelope bounds the size of an entry of the answer without its resource in bytes.
	envelope = 1 << 10
)

// batch performs each entry like a separate request. The outcome is that of one request
// after the other, but entries that cannot affect each other wait for the store
// together, and so share its groups and the commits of the audit trail.
func (s *Service) batch(ctx context.Context, rq *Request, entries []entry, p *Page, returns Return) error {
	named := targets(entries)
	for len(entries) > 0 {
		r := &batchRun{service: s, rq: rq, named: named, size: p.size(), capacity: s.remaining(p),
			written: map[fhir.Ref]bool{}, used: map[fhir.Ref]bool{},
			slots: make(chan struct{}, s.Limits.withDefaults().BatchTogether)}
		n, err := r.perform(ctx, entries)
		if err != nil {
			return err
		}
		// Results of earlier entries must not be returned either.
		if err := rq.Principal.Grant.Live(ctx); err != nil {
			return err
		}
		for _, one := range r.out {
			p.response(s.Base, &one.response, returns)
		}
		entries = entries[n:]
		if err := rq.Principal.Grant.Live(ctx); err != nil {
			return err
		}
	}
	return nil
}

// targets returns the resources that entries update or delete.
func targets(entries []entry) map[fhir.Ref]bool {
	out := map[fhir.Ref]bool{}
	for i := range entries {
		if e := &entries[i]; e.err == nil && (e.Method == "PUT" || e.Method == "PATCH" || e.Method == "DELETE") {
			out[e.target.ref()] = true
		}
	}
	return out
}

// batchRun is a number of consecutive entries of a batch that cannot affect each other. Its
// methods are for the goroutine of the batch.
type batchRun struct {
	service *Service
	rq      *Request
	named   map[fhir.Ref]bool // the resources that entries of the batch update or delete
	size    int               // of the answer in bytes, estimated for the entries in progress
	// capacity is the number of bytes left in the answer before the run; 0 if it was full.
	capacity int
	out      []*performed
	// written are the resources that the run updates or deletes, and used those that it
	// reads, writes or refers to.
	written, used map[fhir.Ref]bool
	slots         chan struct{} // taken by the entries in progress
}

// performed is an entry of a run. response and panicked are valid when the entry has
// given back its slot.
type performed struct {
	response response
	panicked *EntryPanic
}

// batchTests changes batches for tests.
type batchTests struct {
	blind bool // no entry is alone, and no two entries have anything to do with each other
	// starts is called when a run starts, and waits before it waits for its entries, and
	// before an entry that is alone. They may be nil.
	starts, waits func()
}

func (t *batchTests) start() {
	if t.starts != nil {
		t.starts()
	}
}

func (t *batchTests) wait() {
	if t.waits != nil {
		t.waits()
	}
}

// EntryPanic is the value of a panic in a batch, whose entries have goroutines of their
// own. The batch panics with it on the goroutine of its caller.
type EntryPanic struct {
	Value any
	Stack []byte // of the goroutine of the entry
}

// perform performs the entries of the run, which are the first n of entries, and at least
// one.
func (r *batchRun) perform(ctx context.Context, entries []entry) (n int, err error) {
	r.service.batches.start()
	defer func() {
		r.service.batches.wait()
		for range cap(r.slots) { // all entries have ended when all slots are free
			r.slots <- struct{}{}
		}
		for _, one := range r.out {
			if one.panicked != nil {
				panic(one.panicked)
			}
		}
	}()
	for ; n < len(entries); n++ {
		e := &entries[n]
		f := footprint{alone: cap(r.slots) == 1} // of an entry that is only refused
		if e.err == nil && r.capacity > 0 && !f.alone {
			f = r.service.footprint(r.rq, e, r.named)
		}
		if n > 0 && (f.alone || r.concerns(&f) || !r.roomy()) {
			break
		}
		if err := ctx.Err(); err != nil {
			return n, &fhir.Error{Kind: fhir.Unavailable, Op: "interaction.Batch", Err: err}
		}
		if n > 0 {
			if err := r.rq.Principal.Grant.Live(ctx); err != nil {
				return n, err
			}
		}
		if f.alone {
			r.service.batches.wait()
			r.out = append(r.out, &performed{response: r.service.batchEntry(ctx, r.rq, e, r.capacity, nil)})
			return 1, nil
		}
		r.add(&f)
		r.start(ctx, e)
	}
	return n, nil
}

// start starts an entry and returns when it waits for the store or has ended. So the
// entries of a batch compute one after the other, as if there were no goroutines, and
// reach the store in about their order.
func (r *batchRun) start(ctx context.Context, e *entry) {
	one, size := &performed{}, make(chan int, 1)
	r.out = append(r.out, one)
	r.slots <- struct{}{}
	go func() {
		defer func() { <-r.slots }()
		waits := func(n int) {
			select {
			case size <- n:
			default: // not the first time
			}
		}
		defer waits(maxOutcome)
		defer func() {
			if v := recover(); v != nil {
				one.panicked = &EntryPanic{v, debug.Stack()}
			}
		}()
		one.response = r.service.batchEntry(ctx, r.rq, e, r.capacity, waits)
	}()
	r.size += <-size + envelope
}

// roomy reports whether the answer certainly has room for another entry, or had none before
// the run. If not, the entries in progress must end first, so that their size is known.
func (r *batchRun) roomy() bool {
	if r.capacity == 0 {
		return true
	}
	limit := r.service.Limits.withDefaults().BundleBytes
	return limit-r.size > limit/32
}

// footprint describes how an entry may affect others of its batch, or depend on them.
type footprint struct {
	// alone is set if the entry must begin after the entries before it have ended, and end
	// before the next one begins.
	alone  bool
	ref    fhir.Ref // read or written; zero for none
	writes bool
	refers []fhir.Ref // references to resources that entries of the batch update or delete
}

// footprint returns the footprint of an entry. An entry is alone if it depends on more
// than its resource, the subjects to which that refers, and the consents: searches,
// operations and criteria, the deletion of Patients, phone-made Observations, and types with a Check.
// Consents are alone, because all other entries depend on them.
func (s *Service) footprint(rq *Request, e *entry, named map[fhir.Ref]bool) (f footprint) {
	t := e.target
	if s.batches.blind {
		return f
	}
	if e.reads() {
		return footprint{alone: t.several(), ref: t.ref()}
	}
	if t.typ == "Consent" || s.Checks[t.typ] != nil || e.IfNoneExist != "" || e.Method == "PATCH" ||
		e.Method != "POST" && t.id == "" {
		return footprint{alone: true}
	}
	switch e.Method {
	case "DELETE":
		return footprint{alone: t.typ == "Patient", ref: t.ref(), writes: true}
	case "PUT":
		f = footprint{ref: t.ref(), writes: true}
	default:
		f = footprint{alone: s.maybePhoneMade(rq, e)}
	}
	if len(named) > 0 && !f.alone {
		var ok bool
		f.refers, ok = refersTo(e.Resource, named)
		f.alone = !ok
	}
	return f
}

// maybePhoneMade is like phoneMade, but does not parse most Observations.
func (s *Service) maybePhoneMade(rq *Request, e *entry) bool {
	if s.Receiver == nil || e.target.typ != "Observation" {
		return false
	}
	if !rq.Principal.Grant.PhoneMade && bytes.IndexByte(e.Resource, '\\') < 0 &&
		!bytes.Contains(e.Resource, []byte(PhoneMadeProfile)) {
		return false
	}
	return s.phoneMade(rq, e.target.typ, e.Resource)
}

// refersTo returns those of named whose type and id are in a string of body with a slash
// between them, as in each form of a reference. ok is false if body is not JSON.
func refersTo(body []byte, named map[fhir.Ref]bool) (refs []fhir.Ref, ok bool) {
	dec := jsontext.NewDecoder(bytes.NewReader(bytes.TrimPrefix(body, []byte("\ufeff"))))
	for {
		tok, err := dec.ReadToken()
		if err != nil {
			return refs, err == io.EOF
		}
		if tok.Kind() != '"' {
			continue
		}
		v := tok.String()
		for i := strings.IndexByte(v, '/'); i >= 0; {
			left, right := v[:i], v[i+1:]
			typ := left[strings.LastIndexFunc(left, notInID)+1:]
			id := right
			if end := strings.IndexFunc(right, notInID); end >= 0 {
				id = right[:end]
			}
			if ref := (fhir.Ref{Type: typ, ID: id}); named[ref] {
				refs = append(refs, ref)
			}
			next := strings.IndexByte(right, '/')
			if next < 0 {
				break
			}
			i += 1 + next
		}
	}
}

// notInID reports whether neither an id nor the name of a type can contain r.
func notInID(r rune) bool {
	return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '-' || r == '.')
}

// concerns reports whether an entry may affect an entry of the run, or the other way
// round.
func (r *batchRun) concerns(f *footprint) bool {
	if f.writes && r.used[f.ref] || r.written[f.ref] {
		return true
	}
	for _, ref := range f.refers {
		if r.written[ref] {
			return true
		}
	}
	return false
}

// add adds an entry to the run.
func (r *batchRun) add(f *footprint) {
	if f.writes {
		r.written[f.ref] = true
	}
	if !f.ref.IsZero() {
		r.used[f.ref] = true
	}
	for _, ref := range f.refers {
		r.used[ref] = true
	}
}

// batchEntry performs one entry of a batch. The capacity is the maximum size of its
// answer in bytes. waits may be nil (see Request).
func (s *Service) batchEntry(ctx context.Context, rq *Request, e *entry, capacity int, waits func(int)) response {
	const op = "interaction.Batch"
	one := *rq
	one.Line, one.capacity, one.waits = e.line(), capacity, waits
	t := e.target
	pre, err := e.preconditions()
	switch {
	case e.err != nil:
		err = e.err
	case capacity == 0:
		err = at(e.path(), s.errFull(op))
	}
	if err != nil {
		return failed(s.refuse(ctx, &one, "batch", t.ref(), err))
	}
	var w Written
	switch {
	case e.reads():
		return s.get(ctx, &one, e, pre, 0)
	case e.Method == "POST":
		w, err = s.Create(ctx, &one, t.typ, e.Resource, e.IfNoneExist)
	default:
		w, err = s.batchWrite(ctx, &one, e, pre)
	}
	if err != nil {
		return failed(err)
	}
	return wrote(w)
}

// batchWrite performs a PUT, PATCH or DELETE of a batch.
func (s *Service) batchWrite(ctx context.Context, rq *Request, e *entry, pre Preconditions) (Written, error) {
	t := e.target
	switch {
	case e.Method == "PUT" && t.id == "":
		return s.ConditionalUpdate(ctx, rq, t.typ, t.query, e.Resource, pre)
	case e.Method == "PUT":
		return s.Update(ctx, rq, t.ref(), e.Resource, pre)
	case e.Method == "PATCH" && t.id == "":
		return s.ConditionalPatch(ctx, rq, t.typ, t.query, e.patch, pre)
	case e.Method == "PATCH":
		return s.Patch(ctx, rq, t.ref(), e.patch, pre)
	case t.id == "":
		return s.ConditionalDelete(ctx, rq, t.typ, t.query, pre)
	}
	return s.Delete(ctx, rq, t.ref(), pre)
}
