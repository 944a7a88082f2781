package ingest

import (
	"context"
	"errors"
	"sync"
	"time"

	"pulsegate/fhir"
	"pulsegate/fhir/audit"
	"pulsegate/fhir/cluster/follow"
	"pulsegate/fhir/store"
)

// StartRemap stores a job, which the process that calls RunRemaps runs. A job that was
// interrupted, or has failed, is continued if the request and the packs are the same. It
// fails with Conflict if a job of the vendor is running.
func (p *Pipeline) StartRemap(ctx context.Context, req RemapRequest) (RemapJob, error) {
	const op = "ingest.Remap"
	if req.DryRun {
		return RemapJob{}, fhir.Errorf(fhir.Internal, op, "a dry run is not stored")
	}
	r, err := p.newRemapping(req)
	if err != nil {
		return RemapJob{}, err
	}
	stored, raw, err := p.remapJob(ctx, r.request.Vendor)
	if err != nil {
		return RemapJob{}, err
	}
	if stored != nil && stored.Status == RemapRunning {
		return RemapJob{}, errRemapRunning(r.request.Vendor)
	}
	r.row = raw
	if stored != nil && stored.continues(&r.job) {
		r.job, r.job.Status, r.job.Reason = *stored, RemapRunning, ""
	}
	r.job.Process = "" // until a process has begun
	w, err := r.stateWrite()
	if err != nil {
		return RemapJob{}, err
	}
	if err := p.recordRemap(ctx, &r.job, w, req.Caller); store.Lost(err) {
		return RemapJob{}, errRemapRunning(r.request.Vendor)
	} else if err != nil {
		return RemapJob{}, err
	}
	p.remaps.notify()
	return r.job, nil
}

// lookEvery is the shortest time between two looks for jobs that other processes have
// started.
const lookEvery = 250 * time.Millisecond

// RunRemaps runs the jobs that any process has started, and those that were interrupted,
// until ctx ends. Only one process of a cluster may call it at a time. by returns the
// caller of a job for the audit trail.
func (p *Pipeline) RunRemaps(ctx context.Context, by func(RemapJob) audit.Caller) {
	var runs sync.WaitGroup
	defer runs.Wait()
	changed, stop := follow.Watch(p.Store)
	defer stop()
	failing := map[string]bool{} // ids of jobs that could not be continued
	for {
		local := p.remaps.next()
		jobs, err := p.InterruptedRemaps(ctx)
		if err != nil && ctx.Err() == nil {
			p.logger().Error("the jobs that map samples again could not be read", "error", err)
		}
		for i := range jobs {
			job := jobs[i]
			run, err := p.beginRemap(ctx, job.Request(by(job)), true)
			if err != nil {
				if ctx.Err() == nil && !failing[job.ID] {
					p.logger().Error("a job that maps samples again could not be continued", "vendor", job.Vendor,
						"error", err)
				}
				failing[job.ID] = true
				continue
			}
			local = p.remaps.next()
			runs.Go(func() {
				_, err := run.Run(ctx)
				if err != nil && ctx.Err() == nil {
					p.logger().Warn("a job that maps samples again has ended early", "vendor", job.Vendor, "error", err)
				}
			})
		}
		if !await(ctx, local, changed) {
			return
		}
	}
}

// await waits for a change in this process, or, at most every lookEvery, for one of the
// store. It reports whether ctx is alive.
func await(ctx context.Context, local, changed <-chan struct{}) bool {
	pause := time.NewTimer(lookEvery)
	defer pause.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-local:
		return true
	case <-pause.C:
	}
	select {
	case <-ctx.Done():
		return false
	case <-local:
	case <-changed:
	}
	return true
}

// FollowRemap calls progress with the states of a job that StartRemap has returned, and
// returns the last one after the job has ended. The error is that of the job.
func (p *Pipeline) FollowRemap(ctx context.Context, job RemapJob, progress func(RemapJob)) (RemapJob, error) {
	const op = "ingest.Remap"
	changed, stop := follow.Watch(p.Store)
	defer stop()
	for {
		local := p.remaps.next()
		now, err := p.currentRemap(ctx, job.Vendor)
		switch {
		case err != nil:
			return job, err
		case now == nil || now.ID != job.ID:
			return job, fhir.Errorf(fhir.Conflict, op, "another job has replaced this one")
		case now.Status == RemapRunning:
			if progress != nil && (now.Updated != job.Updated || now.Process != job.Process ||
				now.Report.Read != job.Report.Read || now.Cursor != job.Cursor) {
				progress(*now)
			}
			job = *now
		default:
			return *now, p.remaps.result(now)
		}
		if !await(ctx, local, changed) {
			return job, &fhir.Error{Kind: fhir.Unavailable, Op: op, Err: ctx.Err()}
		}
	}
}

// currentRemap returns the state of the job of a vendor: that of this process if it runs
// it, or else the stored one.
func (p *Pipeline) currentRemap(ctx context.Context, vendor string) (*RemapJob, error) {
	job, _, err := p.remapJob(ctx, vendor)
	if live := p.remaps.get(vendor); live != nil && job != nil {
		if state := live.state(); state.Status == RemapRunning && state.ID == job.ID {
			return &state, err
		}
	}
	return job, err
}

// ended keeps the error of a job of this process for those who follow it.
func (l *remaps) ended(id string, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.results == nil || len(l.results) >= maxResults {
		l.results = map[string]error{}
	}
	l.results[id] = err
}

// maxResults limits the jobs whose errors are kept.
const maxResults = 100

// result returns the error of a job that has ended.
func (l *remaps) result(job *RemapJob) error {
	l.mu.Lock()
	err, known := l.results[job.ID]
	l.mu.Unlock()
	switch {
	case known && !errors.Is(err, errRemapTaken):
		return err
	case job.Status == RemapCanceled:
		return errRemapCanceled
	case job.Status == RemapFailed:
		return fhir.Errorf(fhir.Internal, "ingest.Remap", "the job has failed (%s)", job.Reason)
	}
	return nil
}
