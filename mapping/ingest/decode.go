package ingest

import (
	"context"
	"errors"
	"log/slog"
	"runtime"
	"strings"
	"time"

	"pulsegate/adapters"
	"pulsegate/fhir"
	"pulsegate/fhir/audit"
	"pulsegate/fhir/series"
	"pulsegate/mapping"
	"pulsegate/mapping/sample"
	"pulsegate/mapping/stream"
)

// run is one payload on its way. The decoding goroutine owns cur, seen, kept
// and what is beside streams; the committing one sum, devices and categories.
type delivery struct {
	pipeline *Pipeline
	request  Request
	adapter  adapters.Adapter
	limits   Limits
	zone     *time.Location
	format   string
	digest   string
	log      *slog.Logger

	batch    *batch
	full     chan *batch
	ctx      context.Context // of the decoding: ends when committing fails
	byID     map[string]int  // id -> index in cur
	rawItems map[string]int  // metric -> raw items kept

	streams    *stream.Mapper
	row        series.Sample
	lastUse    *streamUse // of the last sample
	sinceYield int        // since others went first
	horizon    int64      // what begins later than this lies in the future, if the clock says so still
	spares     spares

	summary        Summary
	consentRef     fhir.Ref
	categories     map[categoryPair]bool
	devices        map[string]*mapping.DeviceFacts
	learned        map[string]bool     // see learnSources
	openItems      map[string][]string // see openItems; nil before it is needed
	meters         meters
	wroteResources bool
	commits        int
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
	groups     []*seriesGroup
	byStream   map[*stream.Stream]*streamUse
	uses       []*streamUse // as they came
	byTemplate map[*series.Template]*seriesGroup
	byDevice   map[string]*batchDevice // by id
	devices    []*batchDevice          // as they came
	items      []Item
	counts     map[string]Counts
	last       bool
	truncated  bool            // the last, of a payload that could not be read to its end
	overrun    map[string]Item // per reason and metric: counted without raw
}

// kind is the categories of one row: one, or one and its refinement.
type categoryPair [2]string

func pairOf(categories []string) (k categoryPair) {
	copy(k[:], categories)
	return k
}

// deviceFacts is what a batch says of one Device.
type batchDevice struct {
	mapping.DeviceFacts
	key       mapping.DeviceKey
	written   bool     // something that is stored names it, or the payload describes it
	described []string // metrics of the samples that are about the Device itself
}

func newBatch() *batch {
	return &batch{counts: map[string]Counts{}, byDevice: map[string]*batchDevice{}, byStream: map[*stream.Stream]*streamUse{},
		byTemplate: map[*series.Template]*seriesGroup{}}
}

func (b *batch) count(metric string, c Counts) {
	x := b.counts[metric]
	x.add(c)
	b.counts[metric] = x
}

// execute runs the source into r (a sink) beside the committing goroutine.
func (d *delivery) decodeAndCommit(ctx context.Context, source func(context.Context) error) error {
	dctx, cancel := context.WithCancel(ctx)
	defer cancel()
	d.ctx, d.full, d.batch = dctx, make(chan *batch, 1), newBatch()
	d.streams = stream.New(d.pipeline.Mapper, d.request.Vendor, d.request.Patient, d.zone)
	d.spares.max = d.limits.Samples
	done := make(chan error, 1)
	go func() {
		var err error
		for b := range d.full {
			if err == nil {
				if err = d.commit(ctx, b); err != nil {
					cancel()
				}
			}
		}
		done <- err
	}()
	derr := source(dctx)
	d.batch.last, d.batch.truncated = true, derr != nil
	d.batch.seal()
	d.full <- d.batch
	close(d.full)
	if err := <-done; err != nil {
		return err
	}
	if err := d.updateNights(ctx); err != nil && derr == nil {
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

// yieldEvery so many samples the decoding lets others go first: some 200 us.
const yieldEvery = 256

// documentSteps is what a document takes to map, in samples.
const documentSteps = 16

// step counts what was taken in. A goroutine that decodes holds its core until
// the scheduler takes it away, 10 ms each time, while a request waits for a
// turn at every step it takes.
func (d *delivery) yield(n int) {
	if d.sinceYield += n; d.sinceYield >= yieldEvery {
		d.sinceYield = 0
		runtime.Gosched()
	}
}

// flush hands the batch on when it is full.
func (d *delivery) flush() error {
	b := d.batch
	if b.samples < d.limits.Samples && len(b.obs) < d.limits.Batch && b.bytes < batchBytes &&
		len(b.items) < d.limits.Batch && len(b.devices) < d.limits.Batch && !d.streams.Full() {
		return nil
	}
	b.seal()
	select {
	case d.full <- b:
	case <-d.ctx.Done():
		return d.ctx.Err()
	}
	d.batch, d.lastUse = newBatch(), nil
	clear(d.byID)
	if d.streams.Full() {
		d.streams.Reset()
	}
	return nil
}

// Sample implements adapters.Sink.
func (d *delivery) Sample(s *sample.Sample) error {
	st, resolved := d.streams.Place(s, &d.row)
	if st != nil && (d.row.Start <= d.horizon || !d.inFuture(d.row.Start)) {
		d.yield(1)
		return d.addSample(st)
	}
	d.yield(documentSteps)
	b := d.batch
	if b.arena == nil {
		b.arena = make([]byte, 0, arenaSize)
	}
	res, err := d.pipeline.Mapper.Observation(b.arena, resolved, s, d.zone)
	if err == nil && d.inFuture(res.Start.UnixMicro()) {
		err = &mapping.RejectError{Reason: sample.ReasonBadTime, Rule: "the time lies in the future"}
	}
	if err != nil {
		var re *mapping.RejectError
		if !errors.As(err, &re) {
			return err
		}
		if re.Reason == sample.DropPlaceholder {
			d.Drop(re.Reason, s.Metric, 1)
			return nil
		}
		return d.quarantine(itemOfSample(d, s, re))
	}
	if len(res.Left) > 0 {
		if err := d.quarantineLeftOut(s, &res); err != nil {
			return err
		}
		if s = res.Kept; res.Stream != "" {
			if st, _ := d.streams.Place(s, &d.row); st != nil {
				return d.addSample(st)
			}
		}
	}
	return d.addDocument(s, res)
}

// document adds the resource that s was mapped to to the batch.
func (d *delivery) addDocument(s *sample.Sample, res mapping.Result) error {
	b := d.batch
	if b.arena == nil { // the batch has changed since it was mapped
		b.arena = make([]byte, 0, arenaSize)
	}
	if res.Device.ID != "" {
		f := b.device(res.Device)
		f.Learn(s, res.Start)
		if res.JSON == nil {
			f.written, f.described = true, append(f.described, res.Metric)
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
		if i, twice := d.byID[res.ID]; twice {
			// The payload states it twice: its last word counts.
			b.obs[i] = o
			c.Dropped = 1
		} else {
			d.byID[res.ID] = len(b.obs)
			b.obs = append(b.obs, o)
		}
	}
	b.count(res.Metric, c)
	return d.flush()
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
func (d *delivery) inFuture(start int64) bool {
	if start > d.horizon {
		d.horizon = d.pipeline.Clock().Add(48 * time.Hour).UnixMicro()
	}
	return start > d.horizon
}

// device is what b knows of a Device.
func (b *batch) device(k mapping.DeviceKey) *batchDevice {
	f := b.byDevice[k.ID]
	if f == nil {
		f = &batchDevice{key: k}
		b.byDevice[k.ID] = f
		b.devices = append(b.devices, f)
	}
	return f
}

// want has the Device of a stored Observation written.
func (b *batch) wantDevice(k mapping.DeviceKey) {
	if f := b.byDevice[k.ID]; f != nil {
		f.written = true
	}
}

// Reject is adapters.Sink.
func (d *delivery) Reject(x *sample.Reject) error {
	if x.Component != "" && x.Reason == sample.DropPlaceholder {
		d.batch.count(strings.Clone(x.Metric), Counts{LeftOut: 1})
		return nil
	}
	return d.quarantine(itemOfReject(d, x))
}

// hold puts an item into the batch's quarantine.
func (d *delivery) quarantine(it Item) error {
	b := d.batch
	it.Metric = strings.Clone(it.Metric) // the adapter's buffer may be used again
	if it.Component == "" {
		b.count(it.Metric, Counts{Read: 1, Quarantined: 1})
	} else {
		b.count(it.Metric, Counts{LeftOut: 1})
	}
	group := it.Reason + "\x00" + it.Metric + "\x00" + it.Component
	if d.rawItems[group]++; d.rawItems[group] > d.limits.KeepPerMetric {
		if b.overrun == nil {
			b.overrun = map[string]Item{}
		}
		it.Raw, it.Sample, it.Where, it.VendorID = nil, nil, "", ""
		it.Detail = "more of the same, counted without raw bytes"
		it.Count = d.rawItems[group] - d.limits.KeepPerMetric
		it.ID = itemID(d.request.Vendor, d.format, group, d.digest)
		b.overrun[group] = it
		return nil
	}
	it.Where, it.Detail = strings.Clone(it.Where), strings.Clone(it.Detail)
	b.items = append(b.items, it)
	return d.flush()
}

// Drop is adapters.Sink.
func (d *delivery) Drop(_, metric string, n int) {
	if _, known := d.batch.counts[metric]; !known {
		metric = strings.Clone(metric)
	}
	d.batch.count(metric, Counts{Read: n, Dropped: n})
}

// Progress is adapters.Sink.
func (d *delivery) Progress(n int64) {
	if d.request.Progress != nil {
		d.request.Progress(n)
	}
}

// consent asks for the consent, which may have been withdrawn meanwhile.
func (d *delivery) checkConsent(ctx context.Context) error {
	ref, ok, err := d.pipeline.Consents.Collects(ctx, d.request.Patient, d.request.Vendor)
	if err != nil {
		return fhir.Wrap("ingest.consent", err)
	}
	if !ok {
		return fhir.Errorf(fhir.Forbidden, "ingest.consent", "no active consent of this patient covers data of %s",
			d.request.Vendor)
	}
	d.consentRef = ref
	clear(d.categories)
	return nil
}

// covered remembers the answer until the consent is asked for again.
func (d *delivery) covered(ctx context.Context, categories []string) (bool, error) {
	category := pairOf(categories)
	ok, known := d.categories[category]
	if known {
		return ok, nil
	}
	ok, err := d.pipeline.Consents.CollectsCategory(ctx, d.request.Patient, d.request.Vendor, categories...)
	if err != nil {
		return false, fhir.Wrap("ingest.consent", err)
	}
	d.categories[category] = ok
	return ok, nil
}

func (d *delivery) auditEvent(k audit.EventType, outcome string) audit.Event {
	return audit.Event{Type: k, Interaction: "ingest", Outcome: outcome, At: d.pipeline.Clock(), Principal: d.request.Principal,
		RemoteIP: d.request.RemoteIP, RequestID: d.request.RequestID, Patient: d.request.Patient}
}
