package ingest

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"time"

	"pulsegate/fhir"
	"pulsegate/fhir/series"
	"pulsegate/fhir/store"
	"pulsegate/mapping"
	"pulsegate/mapping/sample"
	"pulsegate/mapping/stream"
)

const (
	// remapBatch and remapBytes limit the Observations of one batch and the size of
	// their JSON in bytes. Other deliveries of the patient wait for a batch.
	remapBatch = 256
	remapBytes = 512 << 10
	// saveEvery is the number of batches without changes after which the position is
	// stored.
	saveEvery = 32
)

// samples maps the stored samples of the patient of d again, batch by batch.
func (r *Remapping) samples(ctx context.Context, d *delivery) error {
	at := &r.job.Cursor
	if at.Patient != d.request.Patient || at.Finished {
		*at = remapCursor{Patient: d.request.Patient}
	}
	d.streams = stream.New(d.pipeline.Mapper, d.request.Vendor, d.request.Patient, d.zone)
	for more := true; more; {
		if err := ctx.Err(); err != nil {
			return err
		}
		var err error
		if more, err = r.batch(ctx, d); err != nil {
			return err
		}
		if r.unsaved++; r.unsaved >= saveEvery || d.pipeline.Clock().Sub(r.job.Updated) > remapLease/2 {
			if err := r.save(ctx); err != nil {
				return err
			}
		}
		r.notify()
	}
	return nil
}

// remapAttempt is one attempt to map a batch again and to commit it.
type remapAttempt struct {
	*commitAttempt
	batch   *batch // of the samples that are stored under another id
	part    RemapReport
	written []string // ids
}

// batch maps the next samples again, and commits the changes together with the
// position after them. While it runs, other deliveries of the patient and vendor wait.
func (r *Remapping) batch(ctx context.Context, d *delivery) (more bool, err error) {
	if r.request.DryRun {
		return r.tryBatch(ctx, d)
	}
	var ended error
	err = d.exclusively(ctx, func() error {
		if ended = r.holds(ctx); ended != nil {
			return nil
		}
		if err := d.checkConsent(ctx); err != nil {
			return err
		}
		more, err = r.tryBatch(ctx, d)
		return err
	})
	return more, cmp.Or(err, ended)
}

// tryBatch is one attempt of batch.
func (r *Remapping) tryBatch(ctx context.Context, d *delivery) (more bool, err error) {
	list, err := r.read(ctx, d)
	if err != nil || len(list) == 0 {
		return false, err
	}
	d.batch, d.lastUse = newBatch(), nil
	clear(d.byID)
	a := &remapAttempt{commitAttempt: newAttempt(), batch: d.batch}
	next := r.job.Cursor
	for i := range list {
		if r.request.Limit > 0 && r.job.Report.changes()+a.changes() >= r.request.Limit {
			a.part.Limited = true
			break
		}
		if format := list[i].Kept[0].Format; i == 0 {
			d.format = format
		} else if format != d.format {
			break // the batch keeps one format with its samples
		}
		if err := r.observation(ctx, d, &list[i], a); err != nil {
			return false, err
		}
		next.Position, next.Last = list[i].Position, list[i].Resource.ID
	}
	before := r.job
	r.job.Report = before.Report.clone()
	r.job.Report.Examples = before.Report.Examples
	r.job.Report.add(&a.part)
	r.job.Cursor = next
	if err := r.commit(ctx, d, a); err != nil {
		r.job = before
		return false, err
	}
	r.meters.count(ctx, d.request.Vendor, &a.part)
	r.remember(a.written)
	return !a.part.Limited, nil
}

// maxWritten limits the ids that a job remembers.
const maxWritten = 16 * remapBatch

// remember records ids that a batch has written.
func (r *Remapping) remember(ids []string) {
	for _, id := range ids {
		if !r.written[id] {
			r.written[id] = true
			r.order = append(r.order, id)
		}
	}
	for len(r.order) > maxWritten {
		delete(r.written, r.order[0])
		r.order = r.order[1:]
	}
}

// changes returns the number of Observations that the batch changes.
func (a *remapAttempt) changes() (n int) {
	for _, c := range a.part.ByMetric {
		n += c.Changed + c.Replaced
	}
	return n
}

// commit commits the changes of a batch, if there are any, with the state of the job.
func (r *Remapping) commit(ctx context.Context, d *delivery, a *remapAttempt) error {
	if r.request.DryRun || a.changes() == 0 {
		return nil
	}
	began := d.pipeline.Clock()
	a.batch.seal()
	a.batch.deduplicate()
	if err := refreshItems(ctx, d, a); err != nil {
		return err
	}
	w, err := r.stateWrite()
	if err != nil {
		return err
	}
	a.commitAttempt.batch.State = append(a.commitAttempt.batch.State, w)
	if err := d.tryCommit(ctx, a.batch, a.commitAttempt); err != nil {
		return err
	}
	d.commits++
	r.unsaved, r.row = 0, w.Value
	r.meters.duration(ctx, d.request.Vendor, d.pipeline.Clock().Sub(began))
	return nil
}

// read returns the next Observations of the patient with their samples.
func (r *Remapping) read(ctx context.Context, d *delivery) (list []KeptObservation, err error) {
	size := 0
	err = d.pipeline.EachKept(ctx, d.request.Patient, d.request.Vendor, r.job.Cursor.Position,
		func(o *KeptObservation) bool {
			own := *o
			own.Resource.JSON = bytes.Clone(o.Resource.JSON)
			list = append(list, own)
			size += len(own.Resource.JSON)
			return len(list) < remapBatch && size < remapBytes
		})
	return list, fhir.Wrap("ingest.Remap", err)
}

// observation maps the samples of one Observation again, and adds what changes to a.
func (r *Remapping) observation(ctx context.Context, d *delivery, o *KeptObservation, a *remapAttempt) error {
	kept := &o.Kept[0]
	s := &kept.Sample
	if kept.Derived || r.written[o.Resource.ID] || o.Resource.ID == r.job.Cursor.Last || !r.includes(s.Metric) ||
		d.tooOld(s) {
		return nil
	}
	metric := d.pipeline.Mapper.RowMetric(d.request.Vendor, s.Metric)
	if metric == "" {
		metric = s.Metric
	}
	c := a.part.metric(metric)
	c.Read++
	if statusOf(o.Resource.JSON) == statusRetracted {
		increase(&c.Skipped, SkippedRetracted, 1)
		return nil
	}
	body, err := d.pipeline.MapAgain(o)
	var res mapping.Result
	if err == nil {
		res, err = d.pipeline.Mapper.Map(nil, d.request.Vendor, s, d.request.Patient, zoneThen(kept))
	}
	var reject *mapping.RejectError
	switch {
	case errors.As(err, &reject):
		increase(&c.Rejected, reject.Reason, 1)
		return nil
	case errors.Is(err, ErrAmbiguous):
		increase(&c.Rejected, RejectedAmbiguous, 1)
		return nil
	case err != nil:
		return fhir.Wrap("ingest.Remap", err)
	}
	other := otherID(d, o, &res)
	if other == nil && o.SameContent(body) {
		c.Unchanged++
		return nil
	}
	if ok, err := d.covered(ctx, res.Categories); err != nil || !ok {
		increase(&c.Skipped, SkippedNoConsent, 1)
		return err
	}
	if other != nil {
		return r.replace(d, o, other, &res, a)
	}
	return r.change(d, o, body, &res, a)
}

// otherID returns the sample of o to which the table gives another id than the stored
// one, and sets res to its mapping. It returns nil if the id is the stored one.
func otherID(d *delivery, o *KeptObservation, res *mapping.Result) *sample.Sample {
	for i := range o.Kept {
		k := &o.Kept[i]
		if k.Joined || !k.Sample.KeyValue {
			continue
		}
		own := *res
		if i > 0 {
			var err error
			own, err = d.pipeline.Mapper.Map(nil, d.request.Vendor, &k.Sample, d.request.Patient, zoneThen(k))
			if err != nil {
				continue
			}
		}
		if replacesID(o, &k.Sample, &own) {
			*res = own
			return &k.Sample
		}
	}
	return nil
}

// zoneThen returns the zone in which a sample was mapped, or nil.
func zoneThen(k *Kept) *time.Location {
	if k.Zone == "" {
		return nil
	}
	if zone, err := time.LoadLocation(k.Zone); err == nil {
		return zone
	}
	return nil
}

// replacesID reports whether the table gives a sample another id than the stored one:
// the numbers of a sample of a stream with KeyValue are part of its id, in the unit of
// the row. Another id of the Observation has another reason: it was delivered through
// several channels, and has the id that it got first.
func replacesID(o *KeptObservation, s *sample.Sample, res *mapping.Result) bool {
	if res.ID == o.Resource.ID || !s.KeyValue {
		return false
	}
	was, ok := series.ParseID(o.Resource.ID)
	is, ok2 := series.ParseID(res.ID)
	if !ok || !ok2 || was.Identity != is.Identity || was.Start != is.Start {
		return false
	}
	// A coarse channel may have stored the sample without KeyValue, or without its end.
	unkeyed := series.Template{Identity: is.Identity}
	end := s.End.UnixMicro()
	if s.End.IsZero() || end == was.Start {
		end = series.NoEnd
	}
	return was.Check != 0 && was.Check != unkeyed.Check(&series.Sample{Start: is.Start, End: end})
}

// change adds a new version of o.
func (r *Remapping) change(d *delivery, o *KeptObservation, body []byte, res *mapping.Result, a *remapAttempt) error {
	c := a.part.metric(res.Metric)
	c.Changed++
	if err := r.describe(d, o, body, false, res.Metric, &a.part); err != nil || r.request.DryRun {
		return err
	}
	s := &o.Kept[0].Sample
	hash := res.Hash
	if !bytes.Equal(withStatus(body, statusOf(res.JSON)), res.JSON) { // has the identity or parts of other samples
		hash = store.ContentHash(body)
	}
	if statusOf(body) != statusPreliminary {
		body = withStatus(body, "amended")
	}
	ref := fhir.Ref{Type: "Observation", ID: o.Resource.ID}
	a.commitAttempt.batch.Writes = append(a.commitAttempt.batch.Writes, store.Write{Op: store.Put,
		Vendor: d.request.Vendor, Expect: store.Version, IfVersion: o.Resource.Version, Hash: hash,
		Resource: fhir.Resource{Type: ref.Type, ID: ref.ID, JSON: body}})
	a.metrics = append(a.metrics, res.Metric)
	a.targets = append(a.targets, ref)
	a.addRow(res.Metric)
	row := d.pipeline.Mapper.Row(d.request.Vendor, s.Metric)
	w, err := o.StateWrite(row.Pack.RowURI(row.Metric), hash)
	if err != nil {
		return err
	}
	a.commitAttempt.batch.State = append(a.commitAttempt.batch.State, w)
	if res.SegmentsOf != "" {
		a.addSegment(&observation{Result: *res, source: s.Source.Name}, body)
	}
	if len(res.Left) == 0 {
		return nil
	}
	left := *res
	left.ID, left.Hash = ref.ID, hash
	return d.quarantineLeftOut(s, &left)
}

// replace retracts o and stores its sample under its new id, like a delivered sample.
func (r *Remapping) replace(d *delivery, o *KeptObservation, s *sample.Sample, res *mapping.Result,
	a *remapAttempt) error {
	a.part.metric(res.Metric).Replaced++
	if err := r.describe(d, o, res.JSON, true, res.Metric, &a.part); err != nil || r.request.DryRun {
		return err
	}
	ref := fhir.Ref{Type: "Observation", ID: o.Resource.ID}
	a.commitAttempt.batch.Writes = append(a.commitAttempt.batch.Writes, store.Write{Op: store.Put,
		Vendor: d.request.Vendor, Expect: store.Version, IfVersion: o.Resource.Version,
		Resource: fhir.Resource{Type: ref.Type, ID: ref.ID,
			JSON: withStatus(unstamped(&o.Resource), statusRetracted)}})
	a.metrics = append(a.metrics, res.Metric)
	a.targets = append(a.targets, ref)
	a.written = append(a.written, res.ID)
	was := *o // as it was made
	was.Kept = []Kept{o.Kept[0]}
	was.Kept[0].Sample = *s
	w, err := was.StateWrite(was.Kept[0].Row, [16]byte{})
	if err != nil {
		return err
	}
	a.commitAttempt.batch.State = append(a.commitAttempt.batch.State, w)
	if res.SegmentsOf != "" {
		a.addSegment(&observation{Result: *res, source: s.Source.Name}, res.JSON)
	}
	return d.Sample(s)
}

// describe adds the differences between o and its new content to part.
func (r *Remapping) describe(d *delivery, o *KeptObservation, body []byte, replaced bool, metric string,
	part *RemapReport) error {
	changes, err := compareObservations(o.Resource.JSON, body)
	if err != nil {
		return err
	}
	kinds := map[string]bool{}
	for _, change := range changes {
		kinds[change.Kind] = true
	}
	if replaced {
		kinds[ChangeIdentity] = true
	}
	for kind := range kinds {
		increase(&part.metric(metric).Kinds, kind, 1)
	}
	if o.Kept != nil && o.Kept[0].Rebuilt && o.Resource.Version == 1 {
		part.Documents++
		part.Bytes += int64(len(o.Resource.JSON))
		if replaced {
			part.Bytes += int64(len(o.Resource.JSON))
		} else {
			part.Bytes += int64(len(body))
		}
	}
	if r.request.DryRun && len(r.job.Report.Examples)+len(part.Examples) < r.request.Examples {
		part.Examples = append(part.Examples, RemapExample{Patient: d.request.Patient, Observation: o.Resource.ID,
			Metric: metric, Changes: changes})
	}
	return nil
}

// refreshItems updates the items in quarantine for components that the new mapping
// leaves out too. They name the content of the Observation, which changes.
func refreshItems(ctx context.Context, d *delivery, a *remapAttempt) error {
	for i := range a.batch.items {
		item := &a.batch.items[i]
		raw, err := d.pipeline.Store.Get(ctx, item.key())
		if err != nil || raw == nil {
			if err != nil {
				return fhir.Wrap("ingest.Remap", err)
			}
			continue // addItems stores it
		}
		var stored Item
		if err := json.Unmarshal(raw, &stored); err != nil {
			return fhir.Wrap("ingest.Remap", err)
		}
		stored.Content = item.Content
		if raw, err = json.Marshal(&stored); err != nil {
			return fhir.Wrap("ingest.Remap", err)
		}
		a.commitAttempt.batch.State = append(a.commitAttempt.batch.State,
			store.StateWrite{Key: item.key(), Value: raw})
	}
	return nil
}
