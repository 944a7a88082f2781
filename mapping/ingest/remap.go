package ingest

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"pulsegate/fhir"
	"pulsegate/fhir/audit"
	"pulsegate/fhir/store"
)

// RemapRequest says which stored samples are mapped again.
type RemapRequest struct {
	Patient string // "" for all patients
	Vendor  string
	Metrics []string  // of the vendor, as the metric table spells them; none for all
	Since   time.Time // leaves out samples that lie wholly before it
	// DryRun finds the differences and writes nothing.
	DryRun bool
	// Examples limits the examples of changes in the report of a dry run.
	Examples int
	// Limit, if not 0, is the number of changes after which the job ends.
	Limit int

	audit.Caller
	// Progress is called with the state of the job after each batch, and may be nil.
	Progress func(RemapJob)
}

// RemapCounts holds the figures of one metric.
type RemapCounts struct {
	Read      int `json:"read"` // Observations with samples
	Unchanged int `json:"unchanged"`
	Changed   int `json:"changed"` // new versions
	// Replaced counts Observations that became entered-in-error, because the new mapping
	// gives the sample another id, under which it is stored now.
	Replaced int `json:"replaced"`
	// Rejected counts the Observations that stay as they are because the table no longer
	// accepts their sample, by the Reason constants of mapping/sample.
	Rejected map[string]int `json:"rejected,omitempty"`
	// Skipped counts the Observations that are not mapped again, by reason.
	Skipped map[string]int `json:"skipped,omitempty"`
	// Kinds counts the Observations that change, by the kinds of their changes.
	Kinds map[string]int `json:"kinds,omitempty"`
}

// Reasons of RemapCounts.Skipped.
const (
	SkippedRetracted = "entered-in-error"
	SkippedNoConsent = "no-consent" // to data of the new category
)

// RejectedAmbiguous is a reason of RemapCounts.Rejected: several samples may have made the
// Observation, and the table now maps them differently.
const RejectedAmbiguous = "ambiguous"

func (c *RemapCounts) add(other *RemapCounts) {
	c.Read += other.Read
	c.Unchanged += other.Unchanged
	c.Changed += other.Changed
	c.Replaced += other.Replaced
	for _, m := range []struct {
		sum   *map[string]int
		terms map[string]int
	}{{&c.Rejected, other.Rejected}, {&c.Skipped, other.Skipped}, {&c.Kinds, other.Kinds}} {
		for name, n := range m.terms {
			increase(m.sum, name, n)
		}
	}
}

func increase(counts *map[string]int, name string, n int) {
	if *counts == nil {
		*counts = map[string]int{}
	}
	(*counts)[name] += n
}

// RemapReport holds the result of a job so far.
type RemapReport struct {
	Patients int `json:"patients"` // whose samples were read
	// WithoutConsent counts the patients whose samples were not read, because no consent
	// covers the vendor.
	WithoutConsent int `json:"withoutConsent"`
	// Unavailable counts the patients that were deleted, or whose data were being deleted.
	Unavailable int `json:"unavailable"`
	RemapCounts
	ByMetric map[string]*RemapCounts `json:"byMetric,omitempty"`
	// Documents counts the changes of samples of series, which become documents. Bytes is
	// the size of the JSON of these documents: of the version before and of the new one.
	Documents int   `json:"documents"`
	Bytes     int64 `json:"bytes"`
	// Items counts the items of the quarantine that were tried, and Released those that
	// became resources.
	Items    int `json:"items"`
	Released int `json:"released"`
	// Limited is set if the job ended because of RemapRequest.Limit.
	Limited bool `json:"limited,omitempty"`
	// Examples is set in the report of a dry run. It holds data of patients.
	Examples []RemapExample `json:"examples,omitempty"`
}

// RemapExample shows the changes of one Observation.
type RemapExample struct {
	Patient     string          `json:"patient"`
	Observation string          `json:"observation"`
	Metric      string          `json:"metric"`
	Changes     []ElementChange `json:"changes"`
}

// changes returns the number of Observations that a job changes.
func (r *RemapReport) changes() int { return r.Changed + r.Replaced }

func (r *RemapReport) metric(name string) *RemapCounts {
	if r.ByMetric == nil {
		r.ByMetric = map[string]*RemapCounts{}
	}
	c := r.ByMetric[name]
	if c == nil {
		c = &RemapCounts{}
		r.ByMetric[name] = c
	}
	return c
}

// add adds the figures of a batch.
func (r *RemapReport) add(part *RemapReport) {
	for name, c := range part.ByMetric {
		r.metric(name).add(c)
		r.RemapCounts.add(c)
	}
	r.Documents += part.Documents
	r.Bytes += part.Bytes
	r.Limited = r.Limited || part.Limited
	r.Examples = append(r.Examples, part.Examples...)
}

// clone returns a copy that shares nothing that changes.
func (r *RemapReport) clone() RemapReport {
	out := *r
	out.RemapCounts = RemapCounts{}
	out.RemapCounts.add(&r.RemapCounts)
	out.ByMetric = map[string]*RemapCounts{}
	for name, c := range r.ByMetric {
		out.metric(name).add(c)
	}
	out.Examples = slices.Clone(r.Examples)
	return out
}

// Remap maps the stored samples of a vendor again with the current metric table, for
// one patient or for all. See "Mapping again" in the package comment.
//
// A job that was interrupted is continued if the request and the packs are the same.
// Remap returns a Conflict error if a job for the vendor is running.
func (p *Pipeline) Remap(ctx context.Context, req RemapRequest) (RemapReport, error) {
	run, err := p.BeginRemap(ctx, req)
	if err != nil {
		return RemapReport{}, err
	}
	return run.Run(ctx)
}

// Remapping is a job that has begun.
type Remapping struct {
	pipeline *Pipeline
	request  RemapRequest
	metrics  map[string]bool // of rows; nil for all
	live     *liveRemap
	meters   remapMeters
	// job is the state of the job. A copy for other goroutines is in live.
	job     RemapJob
	row     []byte // the stored state of the job, or nil
	unsaved int    // batches since the job was stored
	// written holds the new ids that the latest batches have given to samples, which come
	// again with these ids.
	written map[string]bool
	order   []string // of written
}

// checkRemap returns req with the vendor's code and the metrics of its rows.
func (p *Pipeline) checkRemap(req RemapRequest) (RemapRequest, error) {
	const op = "ingest.Remap"
	a := p.adapter(req.Vendor)
	switch {
	case a == nil:
		return req, fhir.Errorf(fhir.Invalid, op, "vendor must be one of %s", p.vendors())
	case req.Patient != "" && !fhir.ValidID(req.Patient):
		return req, fhir.Errorf(fhir.Invalid, op, "patient is not a valid id")
	case req.Limit < 0 || req.Examples < 0 || req.Examples > MaxRemapExamples:
		return req, fhir.Errorf(fhir.Invalid, op, "the limit must not be negative, and there are at most %d examples",
			MaxRemapExamples)
	}
	req.Vendor = a.Vendor()
	req.Metrics = slices.Clone(req.Metrics)
	for i, name := range req.Metrics {
		row := p.Mapper.RowMetric(req.Vendor, name)
		if row == "" {
			return req, fhir.Errorf(fhir.Invalid, op, "the metric table of %s has no row for %s", req.Vendor, name)
		}
		req.Metrics[i] = row
	}
	slices.Sort(req.Metrics)
	req.Metrics = slices.Compact(req.Metrics)
	return req, nil
}

// MaxRemapExamples is the greatest RemapRequest.Examples.
const MaxRemapExamples = 100

// Job returns the state of the job.
func (r *Remapping) Job() RemapJob { return r.live.state() }

// Run runs the job to its end. If ctx ends, the job is interrupted, and the next Remap
// with the same request continues it.
func (r *Remapping) Run(ctx context.Context) (_ RemapReport, err error) {
	defer func() {
		if r.job.Status != RemapRunning {
			r.pipeline.remaps.ended(r.job.ID, err)
		}
		r.pipeline.remaps.end(r.live)
		r.pipeline.remaps.notify()
	}()
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	r.live.onCancel(stop)
	err = r.all(ctx)
	switch {
	case errors.Is(err, errRemapCanceled) || errors.Is(err, errRemapTaken): // another process has stored it
		r.job.Status = RemapInterrupted
		if errors.Is(err, errRemapCanceled) {
			r.job.Status = RemapCanceled
		}
		r.notify()
		return r.job.Report, err
	case errors.Is(context.Cause(ctx), errRemapCanceled):
		err = errRemapCanceled
		r.job.Status = RemapCanceled
	case ctx.Err() != nil:
		return r.job.Report, fhir.Wrap("ingest.Remap", &fhir.Error{Kind: fhir.Unavailable, Err: ctx.Err()})
	case err != nil:
		r.job.Status, r.job.Reason = RemapFailed, fhir.KindOf(err).IssueCode()
	default:
		r.job.Status = RemapDone
	}
	if saveErr := r.record(context.WithoutCancel(ctx)); store.Lost(saveErr) {
		err = errRemapTaken
		if stored := r.holds(context.WithoutCancel(ctx)); stored != nil {
			err = stored
		}
	} else if saveErr != nil {
		err = errors.Join(err, saveErr)
	}
	return r.job.Report, err
}

// all maps the items of the quarantine and the samples of all patients again.
func (r *Remapping) all(ctx context.Context) error {
	if r.job.Cursor == (remapCursor{}) {
		if err := r.quarantine(ctx); err != nil {
			return err
		}
	}
	for !r.job.Report.Limited {
		patient, err := r.nextPatient(ctx)
		if err != nil || patient == "" {
			return err
		}
		if err := r.patient(ctx, patient); err != nil {
			return err
		}
		if r.job.Report.Limited {
			return nil
		}
		r.job.Cursor = remapCursor{Patient: patient, Finished: true}
		r.notify()
	}
	return nil
}

// nextPatient returns the patient at the cursor, or the next one with data of the
// vendor, or "".
func (r *Remapping) nextPatient(ctx context.Context) (next string, err error) {
	at := r.job.Cursor
	if at.Patient != "" && !at.Finished {
		return at.Patient, nil
	}
	if r.request.Patient != "" {
		if at.Finished {
			return "", nil
		}
		return r.request.Patient, nil
	}
	from := prefixChannels
	if at.Finished {
		from += at.Patient + "0" // the character after a slash
	}
	err = r.pipeline.Store.ListFrom(ctx, prefixChannels, from, func(key string, _ []byte) bool {
		patient, vendor, _ := strings.Cut(key[len(prefixChannels):], "/")
		if vendor == r.request.Vendor && patient > at.Patient {
			next = strings.Clone(patient)
		}
		return next == ""
	})
	return next, fhir.Wrap("ingest.Remap", err)
}

// patient maps the samples of one patient again.
func (r *Remapping) patient(ctx context.Context, patient string) error {
	d, err := r.delivery(ctx, patient)
	if err == nil {
		err = r.samples(ctx, d)
	}
	if err == nil && !r.job.Report.Limited {
		err = r.nights(ctx, d)
	}
	switch kind := fhir.KindOf(err); {
	case ctx.Err() != nil:
		return ctx.Err()
	case err == nil:
		r.job.Report.Patients++
	case kind == fhir.Forbidden:
		r.job.Report.WithoutConsent++
	case kind == fhir.NotFound || kind == fhir.Gone || errors.Is(err, errBeingErased):
		r.job.Report.Unavailable++
	default:
		return err
	}
	return nil
}

// delivery returns the delivery that writes the changes of one patient.
func (r *Remapping) delivery(ctx context.Context, patient string) (*delivery, error) {
	req := Request{Patient: patient, Vendor: r.request.Vendor, Since: r.request.Since, Caller: r.request.Caller}
	begin := r.pipeline.begin
	if r.request.DryRun {
		begin = r.pipeline.prepare
	}
	d, err := begin(ctx, req)
	if err != nil {
		return nil, err
	}
	d.ctx, d.remap, d.digest = ctx, r.job.ID, r.job.ID
	d.limits.Batch, d.limits.Samples = 2*remapBatch, 2*remapBatch // so that a batch is never full
	return d, nil
}

// includes reports whether the request selects a metric.
func (r *Remapping) includes(metric string) bool {
	return r.metrics == nil || r.metrics[metric] || r.metrics[r.pipeline.Mapper.RowMetric(r.request.Vendor, metric)]
}
