package server

import (
	"context"
	"sync"

	"pulsegate/adapters/vendors"
	"pulsegate/cmd/internal/admin"
	"pulsegate/fhir"
	"pulsegate/fhir/audit"
	"pulsegate/mapping/ingest"
)

// remapRuns holds the jobs that map stored samples again. They end with the server, and
// the next one continues them.
type remapRuns struct {
	ctx  context.Context
	runs sync.WaitGroup
}

// startRemaps continues the jobs that were interrupted. They end before the store is
// closed.
func (s *services) startRemaps(ctx context.Context) error {
	ctx, stop := context.WithCancel(ctx)
	s.remaps = &remapRuns{ctx: ctx}
	s.closers.add(func() error {
		stop()
		s.remaps.runs.Wait()
		return nil
	})
	jobs, err := s.pipeline.InterruptedRemaps(ctx)
	if err != nil {
		return err
	}
	for i := range jobs {
		by := audit.Caller{Principal: principal(admin.Operator{Name: jobs[i].By}), RequestID: fhir.RandomID()}
		run, err := s.pipeline.BeginRemap(ctx, jobs[i].Request(by))
		if err != nil {
			s.log.Error("a job that maps samples again could not be continued", "vendor", jobs[i].Vendor, "error", err)
			continue
		}
		s.runRemap(run)
	}
	return nil
}

// runRemap runs a job in the background and returns a channel that is closed at its end.
func (s *services) runRemap(run *ingest.Remapping) (ended <-chan error) {
	done := make(chan error, 1)
	s.remaps.runs.Go(func() {
		_, err := run.Run(s.remaps.ctx)
		if err != nil && s.remaps.ctx.Err() == nil {
			s.log.Warn("a job that maps samples again has ended early", "vendor", run.Job().Vendor, "error", err)
		}
		done <- err
		close(done)
	})
	return done
}

// Remap maps stored samples again.
func (ops operations) Remap(ctx context.Context, op admin.Operator, in admin.Remap,
	progress func(ingest.RemapJob)) (ingest.RemapJob, error) {
	req := ingest.RemapRequest{Vendor: vendors.Code(in.Vendor), Patient: in.Patient, Metrics: in.Metrics,
		Since: in.Since, DryRun: in.DryRun, Examples: in.Examples, Limit: in.Limit, Caller: ops.request(op).Caller}
	if err := ops.knownVendor(req.Vendor); err != nil {
		return ingest.RemapJob{}, err
	}
	if in.Patient != "" {
		if err := ops.havePatient(ctx, in.Patient); err != nil {
			return ingest.RemapJob{}, err
		}
	}
	if in.DryRun {
		req.Progress = progress
		return ops.compareRemap(ctx, op, req)
	}
	states := make(chan ingest.RemapJob, 1) // the latest state
	req.Progress = func(job ingest.RemapJob) {
		select {
		case <-states:
		default:
		}
		states <- job
	}
	run, err := ops.pipeline.BeginRemap(ctx, req)
	if err != nil {
		return ingest.RemapJob{}, err
	}
	ended := ops.runRemap(run)
	for {
		select {
		case job := <-states:
			progress(job)
		case err := <-ended:
			if err != nil && ops.remaps.ctx.Err() != nil {
				err = admin.Advise(err, "the server continues the job when it starts again")
			}
			return run.Job(), err
		case <-ctx.Done():
			return ingest.RemapJob{}, &fhir.Error{Kind: fhir.Unavailable, Op: "server.Remap", Err: ctx.Err()}
		}
	}
}

// compareRemap makes a dry run. The examples disclose data of patients, so that the
// access is recorded before they are returned.
func (ops operations) compareRemap(ctx context.Context, op admin.Operator,
	req ingest.RemapRequest) (ingest.RemapJob, error) {
	run, err := ops.pipeline.BeginRemap(ctx, req)
	if err != nil {
		return ingest.RemapJob{}, err
	}
	report, err := run.Run(ctx)
	if err != nil {
		return ingest.RemapJob{}, err
	}
	var disclosed []string
	for i := range report.Examples {
		disclosed = append(disclosed, report.Examples[i].Patient)
	}
	job := run.Job()
	job.Report = report
	return job, ops.recordAll(ctx, ops.request(op), "remap dry-run", disclosed)
}

// RemapJobs lists the latest job of each vendor.
func (ops operations) RemapJobs(ctx context.Context, op admin.Operator) (admin.RemapJobs, error) {
	jobs, err := ops.pipeline.RemapJobs(ctx)
	if err != nil {
		return admin.RemapJobs{}, err
	}
	if jobs == nil {
		jobs = []ingest.RemapJob{}
	}
	return admin.RemapJobs{Jobs: jobs}, ops.record(ctx, ops.request(op), "remap status", "")
}

// CancelRemap ends the job of a vendor.
func (ops operations) CancelRemap(ctx context.Context, op admin.Operator,
	in admin.VendorName) (admin.VendorName, error) {
	in.Vendor = vendors.Code(in.Vendor)
	return in, ops.pipeline.CancelRemap(ctx, in.Vendor, ops.request(op).Caller)
}
