package ingest

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"time"

	"pulsegate/adapters"
	"pulsegate/fhir"
	"pulsegate/fhir/audit"
	"pulsegate/fhir/series"
	"pulsegate/fhir/yield"
	"pulsegate/mapping"
	"pulsegate/mapping/sample"
)

// run is one payload on its way. The decoding goroutine owns cur, seen, kept
// and what is beside streams; the committing one sum, devices and categories.
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

	streams *mapping.Streams
	row     series.Sample
	use     *use // of the last sample
	pace    yield.Counter
	horizon int64 // what begins later than this lies in the future, if the clock says so still
	spare   spares

	sum        Summary
	consentRef fhir.Ref
	categories map[kind]bool
	devices    map[string]*mapping.DeviceFacts
	sourced    map[string]bool     // see learnSources
	open       map[string][]string // see openItems; nil before it is needed
	meters     meters
	wrote      bool
	batches    int
}

// observation is one mapped sample in a batch.
type observation struct {
	mapping.Result
	seq         uint64 // its place in the batch
	preliminary bool
	retracted   bool
	revision    int64
	source      string
	coarse      bool
	joined      bool // stored for two ids of the vendor's: what it leaves out stands
	vendorID    string
}

// batch is what one commit will take. It belongs to one goroutine at a time.
type batch struct {
	arena      []byte
	obs        []observation
	seq        uint64 // samples so far, documents included
	samples    int    // in groups
	bytes      int    // of documents
	groups     []*group
	uses       map[*mapping.Stream]*use
	placed     []*use // as they came
	byTemplate map[*series.Template]*group
	facts      map[string]*deviceFacts // by id
	order      []*deviceFacts          // as they came
	items      []Item
	counts     map[string]Counts
	last       bool
	failed     bool            // the last, of a payload that could not be read to its end
	overrun    map[string]Item // per reason and metric: counted without raw
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
	key       mapping.DeviceKey
	wanted    bool     // something that is stored names it, or the payload describes it
	described []string // metrics of the samples that are about the Device itself
}

func newBatch() *batch {
	return &batch{counts: map[string]Counts{}, facts: map[string]*deviceFacts{}, uses: map[*mapping.Stream]*use{},
		byTemplate: map[*series.Template]*group{}}
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
	r.ctx, r.out, r.cur = dctx, make(chan *batch, 1), newBatch()
	r.streams = r.p.Mapper.Streams(r.q.Vendor, r.q.Patient, r.zone)
	r.spare.most = r.limits.Samples
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
	r.cur.seal()
	r.out <- r.cur
	close(r.out)
	if err := <-done; err != nil {
		return err
	}
	if err := r.nights(ctx); err != nil && derr == nil {
		return err
	}
	if derr != nil {
		if err := ctx.Err(); err != nil {
			return &fhir.Error{Kind: fhir.Unavailable, Op: "ingest.Run", Err: err,
				Issues: []fhir.Issue{{Code: "transient",
					Diagnostics: "the import was interrupted; what was acknowledged before is kept"}}}
		}
		return bodyError(derr)
	}
	return nil
}

// yieldEvery is the number of samples after which the decoding yields the
// processor, about 200 us.
const yieldEvery = 256

// documentSteps is what a document takes to map, in samples.
const documentSteps = 16

// flush hands the batch on when it is full.
func (r *run) flush() error {
	b := r.cur
	if b.samples < r.limits.Samples && len(b.obs) < r.limits.Batch && b.bytes < batchBytes &&
		len(b.items) < r.limits.Batch && len(b.order) < r.limits.Batch && !r.streams.Full() {
		return nil
	}
	b.seal()
	select {
	case r.out <- b:
	case <-r.ctx.Done():
		return r.ctx.Err()
	}
	r.cur, r.use = newBatch(), nil
	clear(r.seen)
	if r.streams.Full() {
		r.streams.Reset()
	}
	return nil
}

// Sample is adapters.Sink.
func (r *run) Sample(s *sample.Sample) error {
	legacy, err := r.legacy(s)
	if err != nil {
		return err
	}
	if !legacy {
		if st := r.streams.Place(s, &r.row); st != nil && (r.row.Start <= r.horizon || !r.future(r.row.Start)) {
			r.pace.Add(1)
			return r.place(st)
		}
	}
	r.pace.Add(documentSteps)
	b := r.cur
	if b.arena == nil {
		b.arena = make([]byte, 0, arenaSize)
	}
	toResource := r.p.Mapper.Map
	if legacy {
		toResource = r.p.Mapper.MapLegacy
	}
	res, err := toResource(b.arena, r.q.Vendor, s, r.q.Patient, r.zone)
	if err == nil && r.future(res.Start.UnixMicro()) {
		err = &mapping.RejectError{Reason: sample.ReasonBadTime, Rule: "the time lies in the future"}
	}
	if err != nil {
		var re *mapping.RejectError
		if !errors.As(err, &re) {
			return err
		}
		if re.Reason == sample.DropPlaceholder {
			r.Drop(re.Reason, s.Metric, 1)
			return nil
		}
		return r.hold(itemOfSample(r, s, re))
	}
	if len(res.Left) > 0 {
		if err := r.leave(s, &res); err != nil {
			return err
		}
		if s = res.Kept; !legacy && res.Stream != "" {
			if st := r.streams.Place(s, &r.row); st != nil {
				return r.place(st)
			}
		}
	}
	return r.document(s, res)
}

// document adds the resource that s was mapped to to the batch.
func (r *run) document(s *sample.Sample, res mapping.Result) error {
	b := r.cur
	if b.arena == nil { // the batch has changed since it was mapped
		b.arena = make([]byte, 0, arenaSize)
	}
	if res.Device.ID != "" {
		f := b.device(res.Device)
		f.Learn(s, res.Start)
		if res.JSON == nil {
			f.wanted, f.described = true, append(f.described, res.Metric)
		}
	}
	c := Counts{Read: 1}
	if res.JSON != nil {
		if n := len(b.arena) + len(res.JSON); n <= cap(b.arena) {
			b.arena = b.arena[:n]
		} else { // it did not fit and was written elsewhere
			b.arena = make([]byte, 0, arenaSize)
		}
		b.seq++
		b.bytes += len(res.JSON)
		o := observation{Result: res, seq: b.seq, preliminary: s.Status == sample.Preliminary,
			retracted: s.Status == sample.Retracted, revision: s.Revision, vendorID: s.VendorID, coarse: s.Coarse,
			source: s.Source.Name}
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

const (
	// arenaSize is how much JSON of documents lies together.
	arenaSize = 256 << 10
	// batchBytes of JSON are enough for a commit: while its some 100
	// documents are written, 5 ms, whoever else commits waits; and with what
	// is worked out of it on the way it takes several times as much memory.
	batchBytes = 256 << 10
)

// future reports whether a start, in Unix microseconds, is too far ahead.
func (r *run) future(start int64) bool {
	if start > r.horizon {
		r.horizon = r.p.Clock().Add(48 * time.Hour).UnixMicro()
	}
	return start > r.horizon
}

// legacy reports whether the store has s under the id that it had before
// there were streams: it stays that document.
func (r *run) legacy(s *sample.Sample) (bool, error) {
	if !r.p.LegacyIDs {
		return false, nil
	}
	id := r.p.Mapper.LegacyID(r.q.Vendor, s, r.q.Patient, r.zone)
	if id == "" {
		return false, nil
	}
	heads, err := r.p.Store.Heads(r.ctx, []fhir.Ref{{Type: "Observation", ID: id}})
	if err != nil {
		return false, fhir.Wrap("ingest.legacy", err)
	}
	return heads[0].Version > 0, nil
}

// device is what b knows of a Device.
func (b *batch) device(k mapping.DeviceKey) *deviceFacts {
	f := b.facts[k.ID]
	if f == nil {
		f = &deviceFacts{key: k}
		b.facts[k.ID] = f
		b.order = append(b.order, f)
	}
	return f
}

// want has the Device of a stored Observation written.
func (b *batch) want(k mapping.DeviceKey) {
	if f := b.facts[k.ID]; f != nil {
		f.wanted = true
	}
}

// Reject is adapters.Sink.
func (r *run) Reject(x *sample.Reject) error {
	if x.Component != "" && x.Reason == sample.DropPlaceholder {
		r.cur.count(strings.Clone(x.Metric), Counts{LeftOut: 1})
		return nil
	}
	return r.hold(itemOfReject(r, x))
}

// hold puts an item into the batch's quarantine.
func (r *run) hold(it Item) error {
	b := r.cur
	it.Metric = strings.Clone(it.Metric) // the adapter's buffer may be used again
	if it.Component == "" {
		b.count(it.Metric, Counts{Read: 1, Quarantined: 1})
	} else {
		b.count(it.Metric, Counts{LeftOut: 1})
	}
	group := it.Reason + "\x00" + it.Metric + "\x00" + it.Component
	if r.kept[group]++; r.kept[group] > r.limits.KeepPerMetric {
		if b.overrun == nil {
			b.overrun = map[string]Item{}
		}
		it.Raw, it.Sample, it.Where, it.VendorID = nil, nil, "", ""
		it.Detail = "more of the same, counted without raw bytes"
		it.Count = r.kept[group] - r.limits.KeepPerMetric
		it.ID = itemID(r.q.Vendor, r.format, group, r.digest)
		b.overrun[group] = it
		return nil
	}
	it.Where, it.Detail = strings.Clone(it.Where), strings.Clone(it.Detail)
	b.items = append(b.items, it)
	return r.flush()
}

// Drop is adapters.Sink.
func (r *run) Drop(_, metric string, n int) {
	if _, known := r.cur.counts[metric]; !known {
		metric = strings.Clone(metric)
	}
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
		return fhir.Errorf(fhir.Forbidden, "ingest.consent", "no active consent of this patient covers data of %s",
			r.q.Vendor)
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

func (r *run) event(k audit.EventType, outcome string) audit.Event {
	return audit.Event{Type: k, Interaction: "ingest", Outcome: outcome, At: r.p.Clock(), Caller: r.q.Caller,
		Patient: r.q.Patient}
}
