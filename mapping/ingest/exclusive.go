package ingest

import (
	"context"

	"github.com/cespare/xxhash/v2"

	"pulsegate/fhir"
	"pulsegate/fhir/store"
)

// lock excludes other commits of this process for the same patient and vendor until
// unlock is called.
func (p *Pipeline) lock(patient, vendor string) (unlock func()) {
	m := &p.locks[xxhash.Sum64String(patient+"/"+vendor)%uint64(len(p.locks))]
	m.Lock()
	return m.Unlock
}

// pairGuard returns the guard that every commit of the delivery's patient and vendor
// touches.
func (d *delivery) pairGuard() string { return "ingest/" + d.request.Patient + "/" + d.request.Vendor }

// exclusively calls attempt, which reads what is stored of the patient and vendor and
// commits what follows from it. If another process commits for the same patient and
// vendor meanwhile, or a Consent of the patient changes, the commit of the attempt
// fails, and attempt is called again. So deliveries at several processes have the same
// result as one after another. It fails if an Erase of the same data has begun since
// the delivery began.
func (d *delivery) exclusively(ctx context.Context, attempt func() error) error {
	const op = "ingest.commit"
	defer d.pipeline.lock(d.request.Patient, d.request.Vendor)()
	for range maxTries {
		if at := d.pipeline.Store.LastSeq(); at != d.asOf {
			d.forget() // another writer may have changed what the caches hold
			d.asOf = at
		}
		if d.request.Again != nil {
			if err := d.request.Again(ctx); err != nil {
				d.overtaken = true
				return err
			}
		}
		erased, err := d.pipeline.erasureMark(ctx, d.request.Patient, d.request.Vendor)
		if err != nil {
			return err
		}
		if erased.ID != d.erasure {
			return errErasing(op)
		}
		if err := d.request.part.hold(ctx, d.pipeline); err != nil {
			return err
		}
		if err := attempt(); !store.Lost(err) || ctx.Err() != nil {
			return err
		}
		d.asOf = 0
		if err := d.pipeline.Store.Sync(ctx); err != nil {
			return fhir.Wrap(op, err)
		}
	}
	return fhir.Errorf(fhir.Unavailable, op, "other deliveries of this patient are being stored; try again")
}

// forget clears the caches of stored state.
func (d *delivery) forget() {
	clear(d.devices)
	clear(d.learned)
	clear(d.exemplars)
	d.openItems = nil
}

// guard ties a batch of an attempt to what the attempt has read.
func (d *delivery) guard(b *store.Batch) {
	pair := d.pairGuard()
	b.Guards = append(b.Guards, pair, store.ConsentGuard(d.request.Patient))
	b.Touches = append(b.Touches, pair)
	b.Seen = d.asOf
	if d.request.Bind != nil {
		d.request.Bind(b)
	}
	d.request.part.bind(b, d.pipeline.Clock())
}

// committed records the result of a commit with guards: until then no other commit has
// changed what the caches hold.
func (d *delivery) committed(at store.Seq) {
	d.asOf = at
	d.request.part.bound()
}
