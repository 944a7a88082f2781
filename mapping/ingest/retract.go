package ingest

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"slices"
	"strings"
	"time"

	"pulsegate/fhir"
	"pulsegate/fhir/audit"
	"pulsegate/fhir/store"
)

// Retraction says that a vendor has deleted data of a patient: one object, or
// everything of some types in a time.
type Retraction struct {
	Patient, Vendor string
	// Types holds the vendor's types as in Window.Types. It may be empty if VendorID
	// is set.
	Types []string
	// VendorID is the vendor's id of the object, as in sample.Sample.VendorID. All
	// Observations of Types that come from the object are retracted.
	VendorID string
	// From, To, ByEnd and Days are those of a Window if VendorID is "".
	From, To    time.Time
	ByEnd, Days bool
	// Origin tells how the vendor's statement arrived.
	Origin Origin
	// Bind has the meaning of Request.Bind.
	Bind func(*store.Batch)

	audit.Caller
}

// Retract sets the status of the Observations that r names to entered-in-error,
// like a payload with retracted samples. The Observations of all channels of the
// vendor are retracted, except those that another delivery writes meanwhile. Items
// in quarantine with the id of the object are removed. A later delivery that
// states the data again makes them valid again.
//
// Each commit has a Provenance and an AuditEvent. If there is nothing to retract,
// Retract writes only an AuditEvent.
func (p *Pipeline) Retract(ctx context.Context, r Retraction) (_ Summary, err error) {
	began := p.Clock()
	var d *delivery
	ctx, span := startSpan(ctx)
	defer func() { endSpan(span, d, err) }()
	if a := p.adapter(r.Vendor); a != nil {
		r.Vendor = a.Vendor()
	}
	req := Request{Patient: r.Patient, Vendor: r.Vendor, Origin: r.Origin, Caller: r.Caller,
		Bind: r.Bind}
	sw, err := p.newSweep(&r)
	if err != nil {
		return Summary{}, p.recordRefusal(ctx, &req, err, reasonBadRetraction)
	}
	if d, err = p.begin(ctx, req); err != nil {
		return Summary{}, err
	}
	d.retracting, d.digest = true, r.digest()
	if err = d.retractSweep(ctx, sw, r.VendorID); err != nil {
		err = d.recordFailure(ctx, err, "")
	}
	d.summary.Seconds = p.Clock().Sub(began).Seconds()
	if d.summary.ByMetric == nil {
		d.summary.ByMetric = map[string]Counts{}
	}
	return d.summary, err
}

// newSweep returns the sweep of r.
func (p *Pipeline) newSweep(r *Retraction) (*sweep, error) {
	const op = "ingest.Retract"
	sw := &sweep{at: p.Store.LastSeq()}
	if r.VendorID != "" {
		if !r.From.IsZero() || !r.To.IsZero() || slices.Contains(r.Types, "") {
			return nil, fhir.Errorf(fhir.Invalid, op, "a retraction names one object or a time, not both, "+
				"and no empty type")
		}
		sw.metrics = p.Mapper.ObjectTypesOf(r.Vendor, r.Types)
		return sw, nil
	}
	sw.window = &Window{Types: r.Types, From: r.From, To: r.To, ByEnd: r.ByEnd, Days: r.Days}
	sw.metrics = p.Mapper.TypesOf(r.Vendor, r.Types)
	return sw, sw.window.check(op)
}

// digest identifies the content of r in its Provenance, like the digest of a
// payload.
func (r *Retraction) digest() string {
	h := sha256.New()
	for _, part := range append([]string{"retraction", r.Vendor, r.VendorID, r.From.UTC().Format(time.RFC3339Nano),
		r.To.UTC().Format(time.RFC3339Nano)}, r.Types...) {
		h.Write([]byte(part + "\x00"))
	}
	return hex.EncodeToString(h.Sum(nil))
}

// retractSweep retracts the Observations of sw, or of the object with the given
// id of the vendor's. If there are none, it writes an AuditEvent.
func (d *delivery) retractSweep(ctx context.Context, sw *sweep, vendorID string) error {
	if vendorID == "" {
		if err := d.sweep(ctx, sw); err != nil {
			return err
		}
	} else {
		ids, err := d.objectIDs(ctx, sw, vendorID)
		if err != nil {
			return err
		}
		for chunk := range slices.Chunk(ids, sweepBatch) {
			if err := d.retractAll(ctx, sw, chunk, true); err != nil {
				return err
			}
		}
		if err := d.releaseObject(ctx, sw, vendorID); err != nil {
			return err
		}
	}
	if err := d.updateNights(ctx); err != nil {
		return err
	}
	if d.wroteResources {
		return nil
	}
	return d.exclusively(ctx, func() error { return d.write(ctx, newAttempt(), true) })
}

// objectIDs returns the ids of the Observations of an object: those with its
// identifier, and those that have the id of one, or are stored for one, because
// another channel stated them without the identifier.
func (d *delivery) objectIDs(ctx context.Context, sw *sweep, vendorID string) ([]string, error) {
	ids, err := d.idsOf(ctx, vendorID)
	if err != nil {
		return nil, err
	}
	for metric := range sw.metrics {
		id := d.pipeline.Mapper.ObjectID(d.request.Vendor, d.request.Patient, metric, vendorID)
		raw, err := d.pipeline.Store.Get(ctx, prefixSame+id)
		if err != nil {
			return nil, fhir.Wrap("ingest.Retract", err)
		}
		if raw != nil {
			id, _, _ = strings.Cut(string(raw), "/")
		}
		ids = append(ids, id)
	}
	slices.Sort(ids)
	return slices.Compact(ids), nil
}

// releaseObject removes the items of an object from quarantine, so that a retry
// does not make it valid again.
func (d *delivery) releaseObject(ctx context.Context, sw *sweep, vendorID string) error {
	return d.exclusively(ctx, func() error { return d.tryRelease(ctx, sw, vendorID) })
}

// tryRelease is one attempt of releaseObject.
func (d *delivery) tryRelease(ctx context.Context, sw *sweep, vendorID string) error {
	if err := d.loadOpenItems(ctx); err != nil || len(d.openItems) == 0 {
		return err
	}
	a := newAttempt()
	subjects := map[string]bool{}
	for metric, member := range sw.metrics {
		subjects[subjectID(d.request.Vendor, metric, vendorID)] = true
		subjects[subjectID(d.request.Vendor, member.Type, vendorID)] = true
	}
	for subject := range subjects {
		for _, id := range d.openItems[subject] {
			key := prefixQuarantine + d.request.Patient + "/" + id
			raw, err := d.pipeline.Store.Get(ctx, key)
			if err != nil {
				return fhir.Wrap("ingest.Retract", err)
			}
			var item Item
			if raw != nil && json.Unmarshal(raw, &item) == nil && item.VendorID == vendorID {
				a.batch.State = append(a.batch.State, store.StateWrite{Key: key},
					store.StateWrite{Key: prefixOpen + d.request.Patient + "/" + subject + "/" + id})
			}
		}
	}
	if len(a.batch.State) == 0 {
		return nil
	}
	d.wroteResources = true // the commit has an AuditEvent
	return d.write(ctx, a, false)
}
