package ingest

import (
	"context"
	"strconv"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	"pulsegate/fhir"
	"pulsegate/fhir/audit"
)

// maxTries limits the attempts to commit a batch if other writers change what it was
// derived from.
const maxTries = 32

// commit commits one batch. It checks the caller and the consent again, which may
// have ended during the delivery.
func (d *delivery) commit(ctx context.Context, b *batch) error {
	began := d.pipeline.Clock()
	b.deduplicate()
	written := b.writtenDevices()
	var a *commitAttempt
	err := d.exclusively(ctx, func() error {
		if err := d.checkCaller(ctx); err != nil {
			return err
		}
		if err := d.checkConsent(ctx); err != nil {
			return err
		}
		a = newAttempt()
		for i, dev := range b.devices {
			dev.written = written[i] // an earlier attempt may have wanted it
		}
		return d.tryCommit(ctx, b, a)
	})
	if err != nil {
		return err
	}
	d.account(ctx, b, a, began)
	d.recycle(b)
	return nil
}

// tryCommit compares b with the current state of the store and commits the
// differences.
func (d *delivery) tryCommit(ctx context.Context, b *batch, a *commitAttempt) error {
	if err := d.collect(b); err != nil {
		return err
	}
	if err := d.learnChannels(ctx, b, a); err != nil {
		return err
	}
	others, err := d.addSeries(ctx, b, a)
	if err != nil {
		return err
	}
	list, err := d.resolveNights(ctx, b.observations, a)
	if err != nil {
		return err
	}
	if list, err = d.resolveIdentities(ctx, list, a); err != nil {
		return err
	}
	if err := d.addObservations(ctx, b, mergeByID(list, others, a), a); err != nil {
		return err
	}
	d.addRetractions(a)
	if err := d.addDevices(ctx, b, a); err != nil {
		return err
	}
	if err := d.releaseResolved(ctx, b, a); err != nil {
		return err
	}
	if err := d.addItems(ctx, b, &a.batch); err != nil {
		return err
	}
	if err := d.addDueNights(ctx, a); err != nil {
		return err
	}
	return d.write(ctx, a, b.last && !d.wroteResources && !b.truncated)
}

// write commits a with its Provenance and its AuditEvent. If always is set, it
// records an AuditEvent even if nothing is written.
func (d *delivery) write(ctx context.Context, a *commitAttempt, always bool) error {
	batch := &a.batch
	resources := len(batch.Writes) + a.samples
	if resources+len(a.streams)+len(a.targets) > 0 {
		d.provenance(a)
	}
	// Commits with quarantined items only are audited too.
	if len(batch.Writes)+a.samples > 0 || len(batch.State) > 0 || always {
		event := d.auditEvent(audit.Ingest, audit.Success)
		event.Data = []audit.DataRef{{Ref: d.consentRef}}
		if len(batch.Writes) > 0 {
			event.Data = append(event.Data, audit.DataRef{Ref: batch.Writes[len(batch.Writes)-1].Resource.Ref()})
		}
		event.Extra = d.auditDetails(resources)
		if err := audit.Append(d.pipeline.Audit, batch, event); err != nil {
			return fhir.Wrap("ingest.commit", err)
		}
	}
	if len(batch.Writes) == 0 && len(batch.State) == 0 {
		return nil
	}
	d.guard(batch)
	res, err := d.pipeline.Store.Commit(ctx, batch)
	if err != nil {
		return fhir.Wrap("ingest.commit", err)
	}
	d.committed(res.Seq)
	for i, metric := range a.metrics {
		switch outcome := &res.Outcomes[i]; {
		case outcome.Unchanged:
			a.count(metric, Counts{Unchanged: 1})
		case outcome.Created:
			a.count(metric, Counts{Created: 1})
		case a.sweeping:
			a.count(metric, Counts{Retracted: 1})
		default:
			a.count(metric, Counts{Updated: 1})
		}
	}
	d.wroteResources = d.wroteResources || resources > 0
	return nil
}

// auditDetails returns the details of a commit's AuditEvent.
func (d *delivery) auditDetails(written int) [][2]string {
	format := d.format
	switch {
	case d.retracting:
		format = "retraction"
	case d.remap != "":
		format = "remap"
	}
	return [][2]string{{"vendor", d.request.Vendor}, {"format", format}, {"written", strconv.Itoa(written)},
		{d.digestName(), d.digest}}
}

// account adds the outcome of b to the summary and the metrics.
func (d *delivery) account(ctx context.Context, b *batch, a *commitAttempt, began time.Time) {
	d.commits++
	var all Counts
	for metricName, c := range a.counts {
		b.count(metricName, c)
	}
	for metricName, c := range b.counts {
		all.add(c)
		d.summary.count(metricName, c)
	}
	d.summary.Counts.add(all)
	d.meters.count(ctx, d.request.Vendor, all)
	d.meters.countLeftOut(ctx, d.request.Vendor, all.LeftOut)
	vendor := metric.WithAttributes(attribute.String("pulsegate.vendor", d.request.Vendor))
	d.meters.size.Record(ctx, int64(len(a.batch.Writes)+a.samples), vendor)
	d.meters.seconds.Record(ctx, d.pipeline.Clock().Sub(began).Seconds(), vendor)
}

// addRetractions adds the retractions of a, each once. An Observation that the
// batch writes anyway is not retracted.
func (d *delivery) addRetractions(a *commitAttempt) {
	if len(a.retractions) == 0 {
		return
	}
	written := map[fhir.Ref]bool{}
	for i := range a.batch.Writes {
		written[a.batch.Writes[i].Resource.Ref()] = true
	}
	for i := range a.retractions {
		if ref := a.retractions[i].ref; !written[ref] {
			written[ref] = true
			d.retract(a, &a.retractions[i])
		}
	}
}

// mergeByID appends others, the documents that samples of a batch have become,
// to list and keeps one document for each id. Of two documents with one id, the
// later one wins unless it comes from a coarse channel and the earlier one does
// not.
func mergeByID(list, others []observation, a *commitAttempt) []observation {
	if len(others) == 0 {
		return list
	}
	out := append(make([]observation, 0, len(list)+len(others)), list...)
	at := make(map[string]int, len(list)+len(others))
	for i := range list {
		at[list[i].ID] = i
	}
	for _, obs := range others {
		j, twice := at[obs.ID]
		switch {
		case !twice:
			at[obs.ID], out = len(out), append(out, obs)
			continue
		case out[j].coarse || !obs.coarse:
			out[j] = obs
		}
		a.count(obs.Metric, Counts{Dropped: 1})
	}
	return out
}

// recycle releases the columns of a committed batch for reuse.
func (d *delivery) recycle(b *batch) {
	for _, group := range b.groups {
		d.spares.put(group.columns)
	}
}
