package server

import (
	"context"

	"pulsegate/adapters/vendors"
	"pulsegate/cmd/internal/admin"
	"pulsegate/fhir"
	"pulsegate/fhir/audit"
	"pulsegate/fhir/cluster/role"
	"pulsegate/mapping/ingest"
)

// remapRuns runs jobs that map stored samples again. They end with the server, and the
// next one continues them.
type remapRuns struct {
	ctx context.Context // ends with the server
}

// startRemaps runs the jobs of all servers while this one has the role "remap". They end
// before the store is closed.
func (s *services) startRemaps(ctx context.Context) {
	ctx, stop := context.WithCancel(ctx)
	s.remaps = &remapRuns{ctx: ctx}
	done := make(chan struct{})
	s.closers.add(func() error {
		stop()
		<-done
		return nil
	})
	go func() {
		defer close(done)
		s.roles.Run(ctx, "remap", func(ctx context.Context, _ role.Term) {
			s.pipeline.RunRemaps(ctx, func(job ingest.RemapJob) audit.Caller {
				return audit.Caller{Principal: principal(admin.Operator{Name: job.By}), RequestID: fhir.RandomID()}
			})
		})
	}()
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
	if err := ops.onePacks(ctx); err != nil {
		return ingest.RemapJob{}, err
	}
	job, err := ops.pipeline.StartRemap(ctx, req)
	if err != nil {
		return ingest.RemapJob{}, err
	}
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	defer context.AfterFunc(ops.remaps.ctx, stop)()
	job, err = ops.pipeline.FollowRemap(ctx, job, progress)
	if err != nil && ops.remaps.ctx.Err() != nil {
		err = admin.Advise(err, "the server continues the job when it starts again")
	}
	return job, err
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
