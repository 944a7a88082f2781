package ingest

import (
	"context"
	"log/slog"
	"slices"
	"strconv"
	"strings"

	"pulsegate/fhir"
	"pulsegate/fhir/access"
	"pulsegate/fhir/audit"
	"pulsegate/fhir/store"
	"pulsegate/mapping"
)

// Erasure names the data of one vendor and patient.
type Erasure struct {
	Patient, Vendor string
	// Progress is called with the number of resources deleted so far. It may be nil.
	Progress func(deleted int)

	audit.Caller
}

const (
	eraseBatch = 256     // resources or state keys of one commit of Erase
	eraseScan  = 1 << 16 // resources of one scan of Erase
)

// Erase deletes the Observations and Devices that a vendor's payloads have
// created for a patient, their items in quarantine, and the state that ingest
// keeps about them. A Device stays if another Observation names it. No consent is
// required.
//
// Deleted is meant as in FHIR: earlier versions remain in the history. Provenance
// resources remain too. They hold no values: they name the patient, ids, the
// vendor, times, and a hash of the payload.
//
// The commits are bounded and have one AuditEvent each. After an error, another
// call continues. Deliveries for the same patient and vendor do not interleave:
// one that has begun before Erase or begins while it runs fails with an
// Unavailable error.
func (p *Pipeline) Erase(ctx context.Context, e Erasure) (_ Summary, err error) {
	began := p.Clock()
	req := Request{Patient: e.Patient, Vendor: e.Vendor, Caller: e.Caller}
	a := p.adapter(e.Vendor)
	switch {
	case a == nil:
		err = fhir.Errorf(fhir.Invalid, "ingest.Erase", "vendor must be one of %s", p.vendors())
	case !fhir.ValidID(e.Patient):
		err = fhir.Errorf(fhir.Invalid, "ingest.Erase", "patient is not a valid id")
	}
	if err != nil {
		return Summary{}, p.recordRefusal(ctx, &req, err, reasonUnknown)
	}
	req.Vendor = a.Vendor()
	d := &delivery{pipeline: p, request: req, adapter: a, log: slog.New(slog.DiscardHandler)}
	run := &erasing{delivery: d, progress: e.Progress, confirmed: map[string]bool{}}
	end, err := run.begin(ctx)
	if err == nil {
		err = run.all(ctx)
		end(ctx)
	}
	if err != nil {
		err = d.recordFailure(ctx, err, "")
	}
	return Summary{Erased: run.deleted, ByMetric: map[string]Counts{}, Seconds: p.Clock().Sub(began).Seconds()}, err
}

// erasing is one call of Erase.
type erasing struct {
	*delivery
	progress  func(int)
	deleted   int
	channels  channels
	confirmed map[string]bool // targets of prefixConfirmed that have been removed
	commits   int
	state     []store.StateWrite // to be written with the next commit
	mark      []byte             // the stored erasureMark
	id        string             // of this call
	process   string             // that calls Erase
}

// all erases everything. The channels are last, because they say which state
// there is.
func (e *erasing) all(ctx context.Context) error {
	key, err := e.loadChannels(ctx, &e.channels)
	if err != nil {
		return err
	}
	if e.channels.hasCoarse() {
		if err := e.aliases(ctx); err != nil {
			return err
		}
	}
	if err := e.observations(ctx); err != nil {
		return err
	}
	if err := e.devices(ctx); err != nil {
		return err
	}
	if err := e.quarantine(ctx); err != nil {
		return err
	}
	for _, prefix := range []string{e.nightPrefix(), e.sourceKey(""),
		sampleKey(e.request.Patient, e.request.Vendor, ""), exemplarPrefix(e.request.Patient, e.request.Vendor)} {
		if err := e.keys(ctx, prefix); err != nil {
			return err
		}
	}
	if len(e.channels.Named)+len(e.channels.Streams) > 0 || e.channels.Fine || e.channels.Unnamed {
		if err := e.add(ctx, store.StateWrite{Key: key}); err != nil {
			return err
		}
	}
	if len(e.state) == 0 && e.commits > 0 {
		return nil
	}
	return e.commit(ctx, nil)
}

// commit deletes resources, together with the collected state.
func (e *erasing) commit(ctx context.Context, refs []fhir.Ref) error {
	if err := ctx.Err(); err != nil {
		return &fhir.Error{Kind: fhir.Unavailable, Op: "ingest.Erase", Err: err,
			Issues: []fhir.Issue{{Code: "transient", Diagnostics: "the deletion was interrupted; it can be continued"}}}
	}
	defer e.pipeline.lock(e.request.Patient, e.request.Vendor)()
	batch := &store.Batch{State: e.state, Touches: []string{e.pairGuard()}}
	renewed, err := e.renew(batch, e.pipeline.Clock().Add(erasureLease))
	if err != nil {
		return err
	}
	for _, ref := range refs {
		batch.Writes = append(batch.Writes, store.Write{Op: store.Remove, Vendor: e.request.Vendor,
			Resource: fhir.Resource{Type: ref.Type, ID: ref.ID}})
	}
	event := e.auditEvent(audit.Rest, audit.Success)
	event.Interaction = "delete"
	event.Extra = [][2]string{{"vendor", e.request.Vendor}, {"deleted", strconv.Itoa(len(refs))}}
	switch _, err := audit.Commit(ctx, e.pipeline.Store, e.pipeline.Audit, batch, event); {
	case store.Lost(err):
		return errErasing("ingest.Erase") // another process has taken over
	case err != nil:
		return fhir.Wrap("ingest.Erase", err)
	}
	e.state, e.mark = nil, renewed
	e.commits++
	e.deleted += len(refs)
	if e.progress != nil && len(refs) > 0 {
		e.progress(e.deleted)
	}
	return nil
}

// add deletes state with the next commit.
func (e *erasing) add(ctx context.Context, writes ...store.StateWrite) error {
	e.state = append(e.state, writes...)
	if len(e.state) < eraseBatch {
		return nil
	}
	return e.commit(ctx, nil)
}

// found is a resource to be deleted.
type found struct {
	ref    fhir.Ref
	stream string
}

// scan returns up to eraseScan resources of the vendor and patient.
func (e *erasing) scan(ctx context.Context, typ string) (list []found, err error) {
	err = e.pipeline.Store.Scan(ctx, store.ScanRange{Types: []string{typ}, Patient: e.request.Patient,
		Filter: access.All().Filter(access.Read)}, func(f *store.Found) bool {
		if f.Facts.Vendor == e.request.Vendor && f.Facts.Patient == e.request.Patient {
			next := found{ref: fhir.Ref{Type: typ, ID: strings.Clone(f.Resource.ID)}}
			if typ == "Observation" && e.channels.hasCoarse() {
				if obs, err := e.statement(f.Resource.JSON); err == nil {
					next.stream = obs.identifier(mapping.StreamSystem)
				}
			}
			list = append(list, next)
		}
		return len(list) < eraseScan
	})
	return list, fhir.Wrap("ingest.Erase", err)
}

// observations deletes the Observations with the state about them.
func (e *erasing) observations(ctx context.Context) error {
	for {
		list, err := e.scan(ctx, "Observation")
		if err != nil || len(list) == 0 {
			return err
		}
		for chunk := range slices.Chunk(list, eraseBatch) {
			var refs []fhir.Ref
			for _, f := range chunk {
				refs = append(refs, f.ref)
				if err := e.stateOf(ctx, f); err != nil {
					return err
				}
			}
			if err := e.commit(ctx, refs); err != nil {
				return err
			}
		}
	}
}

// stateOf collects the state about an Observation.
func (e *erasing) stateOf(ctx context.Context, f found) error {
	keys := []string{prefixRevision + f.ref.ID, sampleKey(e.request.Patient, e.request.Vendor, f.ref.ID)}
	if e.channels.hasCoarse() {
		for _, target := range []string{f.stream, f.ref.ID} {
			if target == "" || e.confirmed[target] {
				continue
			}
			if target == f.stream {
				e.confirmed[target] = true
			}
			err := e.pipeline.Store.List(ctx, prefixConfirmed+target+"/", func(key string, _ []byte) bool {
				keys = append(keys, strings.Clone(key))
				return true
			})
			if err != nil {
				return fhir.Wrap("ingest.Erase", err)
			}
		}
	}
	for _, key := range keys {
		e.state = append(e.state, store.StateWrite{Key: key})
	}
	return nil
}

// aliases deletes the ids under which Observations of the vendor and patient are
// not stored. It precedes the Observations, which tell where an alias belongs.
func (e *erasing) aliases(ctx context.Context) error {
	owned := map[string]bool{} // by the id of the Observation
	var keys []string
	var failure error
	err := e.pipeline.Store.List(ctx, prefixSame, func(key string, value []byte) bool {
		id, _, _ := strings.Cut(string(value), "/")
		mine, known := owned[id]
		if !known {
			_, facts, err := e.pipeline.Store.Read(ctx, fhir.Ref{Type: "Observation", ID: id}, 0)
			if err != nil && fhir.KindOf(err) != fhir.NotFound {
				failure = err
				return false
			}
			mine = err == nil && facts.Patient == e.request.Patient && facts.Vendor == e.request.Vendor
			if len(owned) < eraseScan {
				owned[id] = mine
			}
		}
		if mine {
			keys = append(keys, strings.Clone(key))
		}
		return len(keys) < eraseScan
	})
	if err == nil {
		err = failure
	}
	for _, key := range keys {
		if err == nil {
			err = e.add(ctx, store.StateWrite{Key: key})
		}
	}
	if err == nil && len(keys) == eraseScan {
		return e.aliases(ctx)
	}
	return fhir.Wrap("ingest.Erase", err)
}

// devices deletes the Devices that no Observation names.
func (e *erasing) devices(ctx context.Context) error {
	list, err := e.scan(ctx, "Device")
	if err != nil {
		return err
	}
	for _, f := range list {
		used, err := e.isUsed(ctx, f.ref)
		if err != nil {
			return err
		}
		if used {
			continue
		}
		e.state = append(e.state, store.StateWrite{Key: prefixDevice + f.ref.ID})
		if err := e.commit(ctx, []fhir.Ref{f.ref}); err != nil {
			return err
		}
	}
	return nil
}

// quarantine deletes the items in quarantine.
func (e *erasing) quarantine(ctx context.Context) error {
	for {
		var writes []store.StateWrite
		err := e.pipeline.List(ctx, e.request.Patient, func(item *Item) bool {
			if item.Vendor == e.request.Vendor {
				writes = append(writes, store.StateWrite{Key: item.key()})
				if item.VendorID != "" {
					writes = append(writes, store.StateWrite{Key: prefixOpen + item.Patient + "/" +
						subjectID(item.Vendor, item.Metric, item.VendorID) + "/" + item.ID})
				}
			}
			return len(writes) < eraseScan
		})
		if err != nil || len(writes) == 0 {
			return err
		}
		for _, w := range writes {
			if err := e.add(ctx, w); err != nil {
				return err
			}
		}
		if len(writes) < eraseScan {
			return nil
		}
		if err := e.commit(ctx, nil); err != nil {
			return err
		}
	}
}

// keys deletes the state under a prefix.
func (e *erasing) keys(ctx context.Context, prefix string) error {
	for {
		var keys []string
		err := e.pipeline.Store.List(ctx, prefix, func(key string, _ []byte) bool {
			keys = append(keys, strings.Clone(key))
			return len(keys) < eraseScan
		})
		for _, key := range keys {
			if err == nil {
				err = e.add(ctx, store.StateWrite{Key: key})
			}
		}
		if err != nil || len(keys) < eraseScan {
			return fhir.Wrap("ingest.Erase", err)
		}
		if err := e.commit(ctx, nil); err != nil {
			return err
		}
	}
}

// isUsed reports whether an Observation names a Device. Preferred values do not count: one
// that was derived during the erasure follows its inputs.
func (e *erasing) isUsed(ctx context.Context, device fhir.Ref) (bool, error) {
	f, err := findObservations([2]string{"device", device.String()},
		[2]string{"_tag:not", fhir.Canonical + "/CodeSystem/measures|preferred"})
	if err != nil {
		return false, err
	}
	f.Limit = 1
	n, err := e.pipeline.Store.Count(ctx, f)
	return n > 0, fhir.Wrap("ingest.Erase", err)
}
