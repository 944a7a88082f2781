package ingest

import (
	"cmp"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"strings"
	"time"

	"pulsegate/fhir"
	"pulsegate/fhir/series"
	"pulsegate/mapping"
	"pulsegate/mapping/sample"
	"pulsegate/mapping/stream"
)

// decodeAndCommit runs source, which passes samples to d, while another
// goroutine commits the full batches. Then it updates the nights.
func (d *delivery) decodeAndCommit(ctx context.Context, source func(context.Context) error) error {
	decodeCtx, cancel := context.WithCancel(ctx)
	defer cancel()
	d.ctx, d.full, d.batch = decodeCtx, make(chan *batch, 1), newBatch()
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
	decodeErr := source(decodeCtx)
	d.batch.last, d.batch.truncated = true, decodeErr != nil
	d.batch.seal()
	d.full <- d.batch
	close(d.full)
	if err := <-done; err != nil {
		return err
	}
	var sweepErr error
	if d.complete != nil && decodeErr == nil {
		sweepErr = d.sweep(ctx, d.complete)
	}
	if err := cmp.Or(sweepErr, d.updateNights(ctx)); err != nil && decodeErr == nil {
		return err
	}
	if decodeErr != nil {
		if err := ctx.Err(); err != nil {
			return &fhir.Error{Kind: fhir.Unavailable, Op: "ingest.Run", Err: err,
				Issues: []fhir.Issue{{Code: "transient",
					Diagnostics: "the import was interrupted; what was acknowledged before is kept"}}}
		}
		return bodyError(decodeErr)
	}
	return nil
}

// Sample implements adapters.Sink.
func (d *delivery) Sample(s *sample.Sample) error {
	if d.tooOld(s) {
		d.Drop("", s.Metric, 1)
		return nil
	}
	if st := d.streams.Place(s, &d.row); st != nil && (d.row.Start <= d.horizon || !d.inFuture(d.row.Start)) {
		d.pace.Add(1)
		return d.addSample(st)
	}
	d.pace.Add(documentSteps)
	b := d.batch
	if b.arena == nil {
		b.arena = d.newArena()
	}
	res, err := d.pipeline.Mapper.Observation(b.arena, d.streams.Resolve(s), s, d.zone)
	if err == nil && d.inFuture(res.Start.UnixMicro()) {
		err = &mapping.RejectError{Reason: sample.ReasonBadTime, Rule: "the time is in the future"}
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
		return d.quarantine(itemOfSample(d, s, re), timeOfItem(s, re))
	}
	delivered := s
	if len(res.Left) > 0 {
		if err := d.quarantineLeftOut(s, &res); err != nil {
			return err
		}
		if s = res.Kept; res.Stream != "" {
			if st := d.streams.Place(s, &d.row); st != nil {
				return d.addSample(st)
			}
		}
	}
	return d.addDocument(s, delivered, res)
}

// addSample adds d.row, a sample of st, to the batch.
func (d *delivery) addSample(st *stream.Stream) error {
	b, use := d.batch, d.lastUse
	if use == nil || use.stream != st {
		use = d.useFor(st)
		d.lastUse = use
	}
	use.latest = max(use.latest, d.row.Start)
	b.seq++
	b.samples++
	d.row.Commit.Seq = b.seq
	if c := use.group.columns; c.Len() == cap(c.Start) {
		use.group.columns = d.spares.grown(c, use.stream.Template.Values)
	}
	use.group.columns.Append(&d.row, st.Template.Values)
	return d.flush()
}

// useFor returns what the batch holds of st.
func (d *delivery) useFor(st *stream.Stream) *streamUse {
	b := d.batch
	if use := b.byStream[st]; use != nil {
		return use
	}
	group := b.byTemplate[st.Template]
	if group == nil {
		group = &seriesGroup{template: st.Template, metric: st.Metric, device: st.Device, vague: st.Vague,
			segments: st.SegmentsOf, source: st.Described.Source.Name, coarse: st.Coarse, columns: &series.Columns{}}
		b.byTemplate[st.Template] = group
		b.groups = append(b.groups, group)
	}
	use := &streamUse{stream: st, group: group, latest: d.row.Start}
	b.byStream[st] = use
	b.uses = append(b.uses, use)
	group.exemplars = append(group.exemplars, st.Exemplar)
	if st.Device.ID != "" {
		b.device(st.Device)
	}
	return use
}

// addDocument adds the resource that s was mapped to. delivered is s with the components
// that could not be written.
func (d *delivery) addDocument(s, delivered *sample.Sample, res mapping.Result) error {
	b := d.batch
	if b.arena == nil { // flush has replaced the batch since s was mapped
		b.arena = d.newArena()
	}
	if res.Device.ID != "" {
		device := b.device(res.Device)
		device.Learn(s, res.Start)
		if res.JSON == nil {
			device.written, device.described = true, append(device.described, res.Metric)
		}
	}
	c := Counts{Read: 1}
	if res.JSON != nil || s.IsDeletion() {
		if n := len(b.arena) + len(res.JSON); n <= cap(b.arena) {
			b.arena = b.arena[:n]
		} else { // the JSON did not fit and has its own buffer
			b.arena = d.newArena()
		}
		b.seq++
		obs := observation{Result: res, seq: b.seq, preliminary: s.Status == sample.Preliminary,
			retracted: s.Status == sample.Retracted, revision: s.Revision, vendorID: s.VendorID, coarse: s.Coarse,
			shared: s.SharedID, source: s.Source.Name}
		if res.JSON != nil {
			obs.kept = d.keep(delivered, false)
		}
		b.bytes += len(res.JSON) + obs.keptBytes()
		if i, twice := d.byID[res.ID]; twice {
			// The payload states the Observation twice; the later statement counts.
			if b.observations[i].revision <= obs.revision {
				b.observations[i] = obs
			}
			c.Dropped = 1
		} else {
			d.byID[res.ID] = len(b.observations)
			b.observations = append(b.observations, obs)
		}
	}
	b.count(res.Metric, c)
	return d.flush()
}

const (
	// firstArena and maxArena are the sizes in bytes of the first and of the largest
	// buffers for the JSON of documents.
	firstArena = 8 << 10
	maxArena   = 256 << 10
	// batchBytes is the size in bytes of the documents after which a batch is
	// full. These are about 100 documents, which are committed in 5 ms while
	// other writers wait. The memory that a commit needs is several times as
	// large.
	batchBytes = 256 << 10
)

// newArena returns a buffer for the JSON of documents, larger than the one before.
func (d *delivery) newArena() []byte {
	d.arena = min(max(4*d.arena, firstArena), maxArena)
	return make([]byte, 0, d.arena)
}

// inFuture reports whether a start, in Unix microseconds, is more than 48 hours
// ahead.
func (d *delivery) inFuture(start int64) bool {
	if start > d.horizon {
		d.horizon = d.pipeline.Clock().Add(48 * time.Hour).UnixMicro()
	}
	return start > d.horizon
}

// Reject implements adapters.Sink.
func (d *delivery) Reject(reject *sample.Reject) error {
	if reject.Component != "" && reject.Reason == sample.DropPlaceholder {
		d.batch.count(strings.Clone(reject.Metric), Counts{LeftOut: 1})
		return nil
	}
	return d.quarantine(itemOfReject(d, reject), "")
}

// quarantineLeftOut accounts for the components of s that mapping left out. A
// component that breaks a rule goes to quarantine with the whole sample, so
// that a retry can complete the Observation. A zero that means that nothing was
// measured is only counted.
func (d *delivery) quarantineLeftOut(s *sample.Sample, res *mapping.Result) error {
	var raw json.RawMessage
	for _, left := range res.Left {
		if left.Reason == sample.DropPlaceholder {
			d.batch.count(res.Metric, Counts{LeftOut: 1})
			continue
		}
		if raw == nil {
			b, err := json.Marshal(s)
			if raw = b; err != nil || len(b) > d.limits.KeepRaw {
				raw = json.RawMessage{}
			}
		}
		item := d.item(left.Reason, res.Metric, "", componentDetail(left.Component, left.Rule))
		item.Component, item.VendorID = left.Component, s.VendorID
		if item.Component == "" {
			item.Component = "series"
		}
		item.Observation, item.Content = res.ID, hex.EncodeToString(res.Hash[:])
		if len(raw) > 0 {
			item.Sample = raw
		} else {
			item.Detail += "; too large to keep"
		}
		item.ID = itemID(item.Vendor, item.Format, item.Metric, item.Reason, item.Component, res.ID, string(raw))
		if err := d.quarantine(item, ""); err != nil {
			return err
		}
	}
	return nil
}

// quarantine adds an item to the batch. at is the time of its sample as in
// timeOfItem. Beyond Limits.KeepPerMetric, items are only counted.
func (d *delivery) quarantine(item Item, at string) error {
	b := d.batch
	item.Metric = strings.Clone(item.Metric) // the adapter may reuse its buffer
	d.protect(&item, at)
	if item.Component == "" {
		b.count(item.Metric, Counts{Read: 1, Quarantined: 1})
	} else {
		b.count(item.Metric, Counts{LeftOut: 1})
	}
	metricKey := item.Reason + "\x00" + item.Metric + "\x00" + item.Component
	if d.rawItems[metricKey]++; d.rawItems[metricKey] > d.limits.KeepPerMetric {
		if b.overrun == nil {
			b.overrun = map[string]Item{}
		}
		item.Raw, item.Sample, item.Where, item.VendorID = nil, nil, "", ""
		item.Detail = "more of the same, counted without raw bytes"
		item.Count = d.rawItems[metricKey] - d.limits.KeepPerMetric
		item.ID = itemID(d.request.Vendor, d.format, metricKey, d.digest)
		b.overrun[metricKey] = item
		return d.flush()
	}
	item.Where, item.Detail = strings.Clone(item.Where), strings.Clone(item.Detail)
	b.items = append(b.items, item)
	return d.flush()
}

// Drop implements adapters.Sink.
func (d *delivery) Drop(_, metric string, n int) {
	if _, seen := d.batch.counts[metric]; !seen {
		metric = strings.Clone(metric)
	}
	d.batch.count(metric, Counts{Read: n, Dropped: n})
}

// Progress implements adapters.Sink.
func (d *delivery) Progress(n int64) {
	if d.request.Progress != nil {
		d.request.Progress(n)
	}
}

// yieldEvery is the number of samples after which decoding yields the
// processor, about every 200 µs.
const yieldEvery = 256

// documentSteps is the cost of mapping a document, in samples.
const documentSteps = 16

// flush hands the batch to the committing goroutine if it is full.
func (d *delivery) flush() error {
	b := d.batch
	if b.samples < d.limits.Samples && len(b.observations) < d.limits.Batch && b.bytes < batchBytes &&
		len(b.items) < d.limits.Batch && len(b.devices) < d.limits.Batch && len(b.unread.hashes) < maxUnread &&
		!d.streams.Full() {
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
