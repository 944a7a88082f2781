package ingest

import (
	"bytes"
	"context"
	"encoding/json"
	"slices"
	"sync"
	"time"

	"pulsegate/fhir"
	"pulsegate/fhir/audit"
	"pulsegate/fhir/store"
)

// prefixRemap is the prefix of the state ingest/remap/VENDOR, which holds the latest
// RemapJob of a vendor as JSON.
const prefixRemap = "ingest/remap/"

// States of a RemapJob.
const (
	RemapRunning     = "running"
	RemapInterrupted = "interrupted" // was running when the process ended
	RemapDone        = "done"
	RemapCanceled    = "canceled"
	RemapFailed      = "failed"
)

// RemapPacksChanged is the reason of a failed job that cannot be continued, because the
// server was started with other packs.
const RemapPacksChanged = "packs-changed"

// RemapJob is the state of a job that maps samples again. It holds ids of patients, but
// no data about them.
type RemapJob struct {
	ID      string    `json:"id"`
	Vendor  string    `json:"vendor"`
	Patient string    `json:"patient,omitempty"`
	Metrics []string  `json:"metrics,omitempty"`
	Since   time.Time `json:"since,omitzero"`
	Limit   int       `json:"limit,omitempty"`
	DryRun  bool      `json:"dryRun,omitempty"`
	By      string    `json:"by"` // name of the operator
	// Process identifies the process that runs the job, or is "" if none has begun.
	Process string `json:"process,omitempty"`
	// Packs holds the names and versions of the packs that the job maps with.
	Packs   []string  `json:"packs"`
	Status  string    `json:"status"`
	Reason  string    `json:"reason,omitempty"` // of a failure: an issue code of FHIR or RemapPacksChanged
	Started time.Time `json:"started"`
	Updated time.Time `json:"updated"`
	// Cursor is the position up to which the job has come.
	Cursor remapCursor `json:"cursor"`
	Report RemapReport `json:"report"`
}

// remapCursor is the position after the latest batch.
type remapCursor struct {
	Patient  string `json:"patient,omitempty"`
	Position string `json:"position,omitempty"` // as KeptObservation.Position
	// Last is the id of the Observation at Position. A new version of it comes again.
	Last     string `json:"last,omitempty"`
	Finished bool   `json:"finished,omitempty"` // all of Patient was read
}

// Request returns the request that continues the job.
func (j *RemapJob) Request(by audit.Caller) RemapRequest {
	return RemapRequest{Patient: j.Patient, Vendor: j.Vendor, Metrics: j.Metrics, Since: j.Since, Limit: j.Limit,
		Caller: by}
}

// continues reports whether j, which did not end, is the beginning of next.
func (j *RemapJob) continues(next *RemapJob) bool {
	return (j.Status == RemapRunning || j.Status == RemapFailed) && j.Vendor == next.Vendor &&
		j.Patient == next.Patient && slices.Equal(j.Metrics, next.Metrics) && j.Since.Equal(next.Since) &&
		j.Limit == next.Limit && slices.Equal(j.Packs, next.Packs)
}

var (
	errRemapCanceled = fhir.Errorf(fhir.Conflict, "ingest.Remap", "the job was canceled")
	errRemapTaken    = fhir.Errorf(fhir.Unavailable, "ingest.Remap", "another server has taken over the job")
)

// errRemapRunning is the error of a job whose vendor has a running one.
func errRemapRunning(vendor string) error {
	return fhir.Errorf(fhir.Conflict, "ingest.Remap", "a job that maps data of %s again is running", vendor)
}

// remaps holds the jobs that run in this process. It is zero until the first one.
type remaps struct {
	mu       sync.Mutex
	process  string                // random id of this process; guarded by mu
	byVendor map[string]*liveRemap // guarded by mu
	changed  chan struct{}         // closed when a job was started or has changed; guarded by mu
	results  map[string]error      // of jobs that have ended, by id; guarded by mu
}

// id returns the id of this process.
func (l *remaps) id() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.process == "" {
		l.process = fhir.RandomID()
	}
	return l.process
}

// next returns a channel that is closed when a job of this process changes.
func (l *remaps) next() <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.changed == nil {
		l.changed = make(chan struct{})
	}
	return l.changed
}

func (l *remaps) notify() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.changed != nil {
		close(l.changed)
		l.changed = nil
	}
}

// liveRemap is a running job.
type liveRemap struct {
	mu       sync.Mutex
	job      RemapJob                // copy; guarded by mu
	cancel   context.CancelCauseFunc // nil until the job runs; guarded by mu
	canceled bool                    // guarded by mu
	progress func(RemapJob)
}

// begin registers a job unless one of the vendor is running.
func (l *remaps) begin(live *liveRemap) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	vendor := live.job.Vendor
	if l.byVendor[vendor] != nil {
		return errRemapRunning(vendor)
	}
	if l.byVendor == nil {
		l.byVendor = map[string]*liveRemap{}
	}
	l.byVendor[vendor] = live
	return nil
}

func (l *remaps) end(live *liveRemap) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.byVendor, live.job.Vendor)
}

func (l *remaps) get(vendor string) *liveRemap {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.byVendor[vendor]
}

// onCancel sets the function that cancels the job, and calls it if the job was canceled
// before.
func (live *liveRemap) onCancel(cancel context.CancelCauseFunc) {
	live.mu.Lock()
	defer live.mu.Unlock()
	live.cancel = cancel
	if live.canceled {
		cancel(errRemapCanceled)
	}
}

func (live *liveRemap) stop() {
	live.mu.Lock()
	defer live.mu.Unlock()
	live.canceled = true
	if live.cancel != nil {
		live.cancel(errRemapCanceled)
	}
}

// notify wakes those who follow the job.
func (r *Remapping) notify() {
	r.live.update(&r.job)
	r.pipeline.remaps.notify()
}

// update copies the state of the job for other goroutines and reports the progress.
func (live *liveRemap) update(job *RemapJob) {
	out := *job
	out.Report = job.Report.clone()
	out.Report.Examples = nil
	live.mu.Lock()
	live.job = out
	live.mu.Unlock()
	if live.progress != nil {
		live.progress(out)
	}
}

// state returns a copy of the state of the job.
func (live *liveRemap) state() RemapJob {
	live.mu.Lock()
	defer live.mu.Unlock()
	out := live.job
	out.Report = live.job.Report.clone()
	return out
}

// BeginRemap registers a job, or continues the one that was interrupted. The caller must
// call Run. It fails with Conflict if a job of the vendor is running in another process.
func (p *Pipeline) BeginRemap(ctx context.Context, req RemapRequest) (*Remapping, error) {
	return p.beginRemap(ctx, req, false)
}

// beginRemap is BeginRemap. If takeOver is set, no other process may run jobs, so that the
// stored one is continued.
func (p *Pipeline) beginRemap(ctx context.Context, req RemapRequest, takeOver bool) (*Remapping, error) {
	r, err := p.newRemapping(req)
	if err != nil {
		return nil, err
	}
	if err := p.remaps.begin(r.live); err != nil {
		return nil, err
	}
	if err := r.resume(ctx, takeOver); err != nil {
		p.remaps.end(r.live)
		return nil, err
	}
	return r, nil
}

// newRemapping returns a new job that is not registered.
func (p *Pipeline) newRemapping(req RemapRequest) (*Remapping, error) {
	req, err := p.checkRemap(req)
	if err != nil {
		return nil, err
	}
	r := &Remapping{pipeline: p, request: req, written: map[string]bool{}}
	if len(req.Metrics) > 0 {
		r.metrics = map[string]bool{}
		for _, m := range req.Metrics {
			r.metrics[m] = true
		}
	}
	if r.meters, err = newRemapMeters(); err != nil {
		return nil, err
	}
	now := p.Clock().UTC().Truncate(time.Second)
	r.job = RemapJob{ID: fhir.RandomID(), Vendor: req.Vendor, Patient: req.Patient, Metrics: req.Metrics,
		Since: req.Since, Limit: req.Limit, DryRun: req.DryRun, Packs: p.packs(req.Vendor), Status: RemapRunning,
		Process: p.remaps.id(), Started: now, Updated: now}
	if req.Principal != nil {
		r.job.By = req.Principal.Operator
	}
	r.live = &liveRemap{job: r.job, progress: req.Progress}
	return r, nil
}

// remapLease is the time after which a job that has stored nothing counts as
// interrupted. A running job stores its state after half of it.
const remapLease = time.Minute

// runsElsewhere reports whether another process runs the job.
func (p *Pipeline) runsElsewhere(j *RemapJob) bool {
	return j.Status == RemapRunning && j.Process != p.remaps.id() && p.Clock().Sub(j.Updated) < remapLease
}

// resume continues the stored job if it did not end, and stores the state.
func (r *Remapping) resume(ctx context.Context, takeOver bool) error {
	stored, raw, err := r.pipeline.remapJob(ctx, r.request.Vendor)
	if err != nil {
		return err
	}
	if stored != nil && !takeOver && r.pipeline.runsElsewhere(stored) {
		return errRemapRunning(r.request.Vendor)
	}
	if r.request.DryRun {
		return nil
	}
	r.row = raw
	process := r.job.Process
	if stored != nil && stored.continues(&r.job) {
		r.job, r.job.Status, r.job.Reason, r.job.Process = *stored, RemapRunning, "", process
		if stored.Process == "" && stored.Status == RemapRunning { // StartRemap has recorded it
			r.notify()
			return nil
		}
	}
	err = r.record(ctx)
	if store.Lost(err) {
		return errRemapRunning(r.request.Vendor)
	}
	return err
}

// stateWrite returns the write of the job's state. The commit fails with Conflict if the
// job was canceled, or if another process has taken it over.
func (r *Remapping) stateWrite() (store.StateWrite, error) {
	r.job.Updated = r.pipeline.Clock().UTC().Truncate(time.Second)
	raw, err := json.Marshal(&r.job)
	w := store.StateWrite{Key: prefixRemap + r.job.Vendor, Value: raw, Expect: store.StateAbsent}
	if r.row != nil {
		w.Expect, w.Old = store.StateEquals, r.row
	}
	return w, fhir.Wrap("ingest.Remap", err)
}

// holds returns an error if the job was canceled, or if another process has taken it
// over.
func (r *Remapping) holds(ctx context.Context) error {
	if r.request.DryRun {
		return nil
	}
	stored, raw, err := r.pipeline.remapJob(ctx, r.request.Vendor)
	switch {
	case err != nil || bytes.Equal(raw, r.row):
		return err
	case stored != nil && stored.ID == r.job.ID && stored.Status == RemapCanceled:
		return errRemapCanceled
	}
	return errRemapTaken
}

// record stores the state of the job when it begins and ends, with an AuditEvent.
func (r *Remapping) record(ctx context.Context) error {
	r.notify()
	if r.request.DryRun {
		return nil
	}
	w, err := r.stateWrite()
	if err != nil {
		return err
	}
	if err = r.pipeline.recordRemap(ctx, &r.job, w, r.request.Caller); err == nil {
		r.row = w.Value
	}
	return err
}

// recordRemap writes the state of a job and an AuditEvent in one commit.
func (p *Pipeline) recordRemap(ctx context.Context, job *RemapJob, w store.StateWrite, by audit.Caller) error {
	_, err := audit.Commit(ctx, p.Store, p.Audit, &store.Batch{State: []store.StateWrite{w}},
		audit.Event{Type: audit.Operator, Interaction: "remap", At: p.Clock(), Caller: by, Patient: job.Patient,
			Extra: [][2]string{{"vendor", job.Vendor}, {"job", job.ID}, {"status", job.Status}}})
	return fhir.Wrap("ingest.Remap", err)
}

// save stores the position of the job. A dry run leaves none.
func (r *Remapping) save(ctx context.Context) error {
	r.notify()
	if r.request.DryRun {
		return nil
	}
	w, err := r.stateWrite()
	if err != nil {
		return err
	}
	r.unsaved = 0
	_, err = r.pipeline.Store.Commit(ctx, &store.Batch{State: []store.StateWrite{w}})
	switch {
	case store.Lost(err):
		if err = r.holds(ctx); err == nil {
			err = errRemapTaken
		}
		return err
	case err == nil:
		r.row = w.Value
	}
	return fhir.Wrap("ingest.Remap", err)
}

// remapJob returns the stored job of a vendor, or nil, and its bytes.
func (p *Pipeline) remapJob(ctx context.Context, vendor string) (job *RemapJob, raw []byte, err error) {
	raw, err = p.Store.Get(ctx, prefixRemap+vendor)
	if err != nil || raw == nil {
		return nil, nil, fhir.Wrap("ingest.Remap", err)
	}
	job = &RemapJob{}
	if err := json.Unmarshal(raw, job); err != nil {
		return nil, nil, fhir.Wrap("ingest.Remap", err)
	}
	return job, bytes.Clone(raw), nil
}

// RemapJobs returns the latest job of each vendor.
func (p *Pipeline) RemapJobs(ctx context.Context) (out []RemapJob, err error) {
	var failure error
	err = p.Store.List(ctx, prefixRemap, func(_ string, raw []byte) bool {
		var job RemapJob
		if failure = json.Unmarshal(raw, &job); failure != nil {
			return false
		}
		if job.Status == RemapRunning && !p.runsElsewhere(&job) {
			job.Status = RemapInterrupted
		}
		out = append(out, job)
		return true
	})
	if err == nil {
		err = failure
	}
	for _, a := range p.Adapters {
		if live := p.remaps.get(a.Vendor()); live != nil {
			job := live.state()
			out = slices.DeleteFunc(out, func(j RemapJob) bool { return j.Vendor == job.Vendor })
			out = append(out, job)
		}
	}
	return out, fhir.Wrap("ingest.Remap", err)
}

// CancelRemap ends the job of a vendor after its current batch. What it has changed
// stays. It returns a NotFound error if there is no job that has not ended.
func (p *Pipeline) CancelRemap(ctx context.Context, vendor string, by audit.Caller) error {
	if a := p.adapter(vendor); a != nil {
		vendor = a.Vendor()
	}
	if live := p.remaps.get(vendor); live != nil {
		live.stop()
		return nil
	}
	return store.Retry(maxTries, "ingest.Remap", "the job is changing; try again", func() error {
		job, raw, err := p.remapJob(ctx, vendor)
		if err != nil {
			return err
		}
		if job == nil || job.Status != RemapRunning {
			return fhir.Errorf(fhir.NotFound, "ingest.Remap", "no job that maps data of this vendor again is running")
		}
		job.Status = RemapCanceled
		return p.setRemap(ctx, job, raw, by)
	})
}

// setRemap stores the state of a job that this process does not run, in place of raw.
func (p *Pipeline) setRemap(ctx context.Context, job *RemapJob, raw []byte, by audit.Caller) error {
	next, err := json.Marshal(job)
	if err != nil {
		return fhir.Wrap("ingest.Remap", err)
	}
	return p.recordRemap(ctx, job, store.StateWrite{Key: prefixRemap + job.Vendor, Value: next,
		Expect: store.StateEquals, Old: raw}, by)
}

// InterruptedRemaps returns the jobs that are to be run and do not run in this process. A
// job whose packs have changed since it began is set to failed and left out: it must be
// started again, because what it has done so far was mapped with other packs. It is for
// the only process that runs jobs.
func (p *Pipeline) InterruptedRemaps(ctx context.Context) (out []RemapJob, err error) {
	for _, a := range p.Adapters {
		job, raw, err := p.remapJob(ctx, a.Vendor())
		if err != nil {
			return nil, err
		}
		if job == nil || job.Status != RemapRunning || p.remaps.get(a.Vendor()) != nil {
			continue
		}
		if slices.Equal(job.Packs, p.packs(job.Vendor)) {
			job.Status = RemapInterrupted
			out = append(out, *job)
			continue
		}
		job.Status, job.Reason = RemapFailed, RemapPacksChanged
		if err := p.setRemap(ctx, job, raw, audit.Caller{}); err != nil && !store.Lost(err) {
			return nil, err
		}
	}
	return out, nil
}
