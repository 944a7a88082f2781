package ingest

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"pulsegate/adapters"
	"pulsegate/fhir"
	"pulsegate/fhir/audit"
	"pulsegate/mapping"
	"pulsegate/mapping/sample"
)

// run is one payload on its way. The decoding goroutine owns cur, seen and
// kept; the committing one sum, devices and categories.
type run struct {
	p       *Pipeline
	q       Request
	adapter adapters.Adapter
	limits  Limits
	zone    *time.Location
	format  string
	digest  string
	log     *slog.Logger

	cur  *batch
	out  chan *batch
	ctx  context.Context // of the decoding: ends when committing fails
	seen map[string]int  // id -> index in cur
	kept map[string]int  // metric -> raw items kept

	sum        Summary
	consentRef fhir.Ref
	categories map[kind]bool
	devices    map[string]*mapping.DeviceFacts
	meters     meters
	repeated   bool // a payload with this beginning came before
	wrote      bool
	batches    int
}

// observation is one mapped sample in a batch.
type observation struct {
	mapping.Result
	preliminary bool
	retracted   bool
}

// batch is what one commit will take. It belongs to one goroutine at a time.
type batch struct {
	arena   []byte
	obs     []observation
	facts   map[string]*deviceFacts // by id
	order   []*deviceFacts          // as they came
	items   []Item
	counts  map[string]Counts
	last    bool
	failed  bool            // the last, of a payload that could not be read to its end
	overrun map[string]Item // per reason and metric: counted without raw
}

// kind is the categories of one row: one, or one and its refinement.
type kind [2]string

func kindOf(categories []string) (k kind) {
	copy(k[:], categories)
	return k
}

// deviceFacts is what a batch says of one Device.
type deviceFacts struct {
	mapping.DeviceFacts
	key    mapping.DeviceKey
	wanted bool // something that is stored names it, or the payload describes it
}

func newBatch(n int) *batch {
	return &batch{arena: make([]byte, 0, n*900), obs: make([]observation, 0, n), counts: map[string]Counts{}, facts: map[string]*deviceFacts{}}
}

func (b *batch) count(metric string, c Counts) {
	x := b.counts[metric]
	x.add(c)
	b.counts[metric] = x
}

// execute runs the source into r (a sink) beside the committing goroutine.
func (r *run) execute(ctx context.Context, source func(context.Context) error) error {
	dctx, cancel := context.WithCancel(ctx)
	defer cancel()
	r.ctx, r.out, r.cur = dctx, make(chan *batch, 2), newBatch(r.limits.Batch)
	if err := r.recall(ctx); err != nil {
		return err
	}
	done := make(chan error, 1)
	go func() {
		var err error
		for b := range r.out {
			if err == nil {
				if err = r.commit(ctx, b); err != nil {
					cancel()
				}
			}
		}
		done <- err
	}()
	derr := source(dctx)
	r.cur.last, r.cur.failed = true, derr != nil
	r.out <- r.cur
	close(r.out)
	if err := <-done; err != nil {
		return err
	}
	if derr != nil {
		if err := ctx.Err(); err != nil {
			return &fhir.Error{Kind: fhir.Unavailable, Op: "ingest.Run", Err: err, Issues: []fhir.Issue{{Code: "transient", Diagnostics: "the import was interrupted; what was acknowledged before is kept"}}}
		}
		return bodyError(derr)
	}
	return nil
}

// flush hands the batch on when it is full.
func (r *run) flush() error {
	if len(r.cur.obs) < r.limits.Batch && len(r.cur.items) < r.limits.Batch && len(r.cur.order) < r.limits.Batch {
		return nil
	}
	select {
	case r.out <- r.cur:
	case <-r.ctx.Done():
		return r.ctx.Err()
	}
	r.cur = newBatch(r.limits.Batch)
	clear(r.seen)
	return nil
}

// Sample is adapters.Sink.
func (r *run) Sample(s *sample.Sample) error {
	b := r.cur
	res, err := r.p.Mapper.Map(b.arena, r.q.Vendor, s, r.q.Patient, r.zone)
	if err == nil && res.Start.After(r.p.Clock().Add(48*time.Hour)) {
		err = &mapping.RejectError{Reason: sample.ReasonBadTime, Rule: "the time lies in the future"}
	}
	if err != nil {
		var re *mapping.RejectError
		if !errors.As(err, &re) {
			return err
		}
		return r.hold(itemOfSample(r, s, re))
	}
	r.device(s, &res)
	c := Counts{Read: 1}
	if res.JSON != nil {
		if n := len(b.arena) + len(res.JSON); n <= cap(b.arena) {
			b.arena = b.arena[:n]
		} else { // it did not fit and was written elsewhere
			b.arena = make([]byte, 0, cap(b.arena))
		}
		o := observation{res, s.Status == sample.Preliminary, s.Status == sample.Retracted}
		if i, twice := r.seen[res.ID]; twice {
			// The payload states it twice: its last word counts.
			b.obs[i] = o
			c.Dropped = 1
		} else {
			r.seen[res.ID] = len(b.obs)
			b.obs = append(b.obs, o)
		}
	}
	b.count(res.Metric, c)
	return r.flush()
}

// device notes what the sample says of its device.
func (r *run) device(s *sample.Sample, res *mapping.Result) {
	if res.Device.ID == "" {
		return
	}
	b := r.cur
	f := b.facts[res.Device.ID]
	if f == nil {
		f = &deviceFacts{key: res.Device}
		b.facts[res.Device.ID] = f
		b.order = append(b.order, f)
	}
	f.Learn(s, res.Start)
	f.wanted = f.wanted || res.JSON == nil
}

// want has the Device of a stored Observation written.
func (b *batch) want(o *observation) {
	if f := b.facts[o.Device.ID]; f != nil {
		f.wanted = true
	}
}

// Reject is adapters.Sink.
func (r *run) Reject(x *sample.Reject) error { return r.hold(itemOfReject(r, x)) }

// hold puts an item into the batch's quarantine.
func (r *run) hold(it Item) error {
	b := r.cur
	b.count(it.Metric, Counts{Read: 1, Quarantined: 1})
	group := it.Reason + "\x00" + it.Metric
	if r.kept[group]++; r.kept[group] > r.limits.KeepPerMetric {
		if b.overrun == nil {
			b.overrun = map[string]Item{}
		}
		it.Raw, it.Sample, it.Where = nil, nil, ""
		it.Detail = "more of the same, counted without raw bytes"
		it.Count = r.kept[group] - r.limits.KeepPerMetric
		it.ID = itemID(r.q.Vendor, r.format, group, r.digest)
		b.overrun[group] = it
		return nil
	}
	b.items = append(b.items, it)
	return r.flush()
}

// Drop is adapters.Sink.
func (r *run) Drop(_, metric string, n int) {
	r.cur.count(metric, Counts{Read: n, Dropped: n})
}

// Progress is adapters.Sink.
func (r *run) Progress(n int64) {
	if r.q.Progress != nil {
		r.q.Progress(n)
	}
}

// consent asks for the consent, which may have been withdrawn meanwhile.
func (r *run) consent(ctx context.Context) error {
	ref, ok, err := r.p.Consents.Collects(ctx, r.q.Patient, r.q.Vendor)
	if err != nil {
		return fhir.Wrap("ingest.consent", err)
	}
	if !ok {
		return fhir.Errorf(fhir.Forbidden, "ingest.consent", "no active consent of this patient covers data of %s", r.q.Vendor)
	}
	r.consentRef = ref
	clear(r.categories)
	return nil
}

// covered remembers the answer until the consent is asked for again.
func (r *run) covered(ctx context.Context, categories []string) (bool, error) {
	category := kindOf(categories)
	ok, known := r.categories[category]
	if known {
		return ok, nil
	}
	ok, err := r.p.Consents.CollectsCategory(ctx, r.q.Patient, r.q.Vendor, categories...)
	if err != nil {
		return false, fhir.Wrap("ingest.consent", err)
	}
	r.categories[category] = ok
	return ok, nil
}

func (r *run) event(k audit.Kind, outcome string) audit.Event {
	return audit.Event{Kind: k, Interaction: "ingest", Outcome: outcome, At: r.p.Clock(), Principal: r.q.Principal,
		RemoteIP: r.q.RemoteIP, RequestID: r.q.RequestID, Patient: r.q.Patient}
}
