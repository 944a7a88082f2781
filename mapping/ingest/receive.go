package ingest

import (
	"bytes"
	"context"
	"errors"
	"strings"

	"pulsegate/adapters"
	"pulsegate/fhir"
	"pulsegate/mapping"
	"pulsegate/mapping/sample"
)

// Repaired is the Observation that a payload of one item becomes.
type Repaired struct {
	// ID is the id under which the Observation is, or would be, stored.
	ID   string
	JSON []byte // nil for a deletion
	// Barred is set if the patient does not exist, or if no consent covers the collection.
	Barred bool
	// Deletion is set if the item says that the sample was deleted.
	Deletion bool
}

// Repair maps the only item of req.Body, an Observation, and writes nothing. An item that
// cannot be mapped gives an error of kind Unprocessable that names the element and the
// rule. Components that break a rule are left out. The errors contain nothing of the
// payload.
func (p *Pipeline) Repair(ctx context.Context, req Request) (Repaired, error) {
	const op = "ingest.Repair"
	a := p.adapter(req.Vendor)
	if a == nil {
		return Repaired{}, fhir.Errorf(fhir.Internal, op, "there is no adapter for this vendor")
	}
	req.Vendor = a.Vendor()
	d, err := p.prepare(ctx, req)
	barred := err != nil && (fhir.KindOf(err) == fhir.Forbidden || fhir.KindOf(err) == fhir.NotFound)
	if err != nil && !barred {
		return Repaired{}, err
	}
	if barred {
		d = &delivery{pipeline: p, request: req, adapter: a}
	}
	sink := &single{}
	in := adapters.Input{Format: req.Format, Body: req.Body, Zone: d.zone, Received: p.Clock()}
	if err := a.Decode(ctx, in, sink); err != nil {
		return Repaired{}, bodyError(err)
	}
	s, err := sink.only(op)
	if err != nil {
		return Repaired{}, err
	}
	res, err := p.Mapper.Map(nil, req.Vendor, s, req.Patient, d.zone)
	if err == nil && !s.IsDeletion() && d.inFuture(res.Start.UnixMicro()) {
		err = &mapping.RejectError{Reason: sample.ReasonBadTime, Rule: "the time is in the future"}
	}
	if err == nil && res.JSON == nil && !s.IsDeletion() {
		err = &mapping.RejectError{Reason: sample.ReasonUnmapped, Rule: "it describes a device only"}
	}
	var reject *mapping.RejectError
	if errors.As(err, &reject) {
		return Repaired{}, unprocessable(op, reject.Reason, reject.Rule)
	} else if err != nil {
		return Repaired{}, err
	}
	out := Repaired{ID: res.ID, JSON: res.JSON, Barred: barred, Deletion: s.IsDeletion()}
	if out.Deletion {
		out.ID, err = p.storedID(ctx, res.ID)
	} else if !barred {
		var covered bool
		covered, err = p.Consents.CollectsCategory(ctx, req.Patient, req.Vendor, res.Categories...)
		out.Barred = !covered
	}
	return out, fhir.Wrap(op, err)
}

// Receive ingests a payload of one item that Repair has accepted, and returns the id
// under which its Observation is stored and whether it is new. The id is empty if the
// consent does not cover it any more.
func (p *Pipeline) Receive(ctx context.Context, req Request, body []byte) (id string, created bool, err error) {
	req.Body = bytes.NewReader(body)
	repaired, err := p.Repair(ctx, req)
	if err != nil || repaired.Barred && !repaired.Deletion {
		return "", false, err
	}
	req.Body = bytes.NewReader(body)
	d, err := p.begin(ctx, req)
	if err == nil {
		if err = d.payload(ctx); err != nil && !d.overtaken {
			err = d.recordFailure(ctx, err, "")
		}
	}
	switch {
	case fhir.KindOf(err) == fhir.Forbidden || fhir.KindOf(err) == fhir.NotFound:
		return "", false, nil
	case err != nil:
		return "", false, err
	case repaired.Deletion:
		return repaired.ID, false, nil
	}
	if id, err = p.storedID(ctx, repaired.ID); err != nil {
		return "", false, err
	}
	heads, err := p.Store.Heads(ctx, []fhir.Ref{{Type: "Observation", ID: id}})
	if err != nil {
		return "", false, fhir.Wrap("ingest.Receive", err)
	}
	if heads[0].Version == 0 || heads[0].Deleted {
		return "", false, nil
	}
	return id, heads[0].Version == 1 && d.summary.Created > 0 && id == repaired.ID, nil
}

// Received is an Observation that ReceiveAll has found stored.
type Received struct {
	ID      string // empty if it is not stored
	Version uint64
}

// ReceiveAll ingests a payload of bodies that Repair has accepted, with the ids that it has
// returned for them, and returns under which ids and versions they are stored.
func (p *Pipeline) ReceiveAll(ctx context.Context, req Request, ids []string, bodies [][]byte) ([]Received, error) {
	const op = "ingest.ReceiveAll"
	req.Body = bytes.NewReader(bytes.Join(bodies, []byte{'\n'}))
	d, err := p.begin(ctx, req)
	if err == nil {
		if err = d.payload(ctx); err != nil {
			err = d.recordFailure(ctx, err, "")
		}
	}
	if err != nil {
		return nil, err
	}
	refs := make([]fhir.Ref, len(ids))
	for i, id := range ids {
		if id, err = p.storedID(ctx, id); err != nil {
			return nil, err
		}
		refs[i] = fhir.Ref{Type: "Observation", ID: id}
	}
	heads, err := p.Store.Heads(ctx, refs)
	if err != nil {
		return nil, fhir.Wrap(op, err)
	}
	out := make([]Received, len(ids))
	for i, h := range heads {
		if h.Version > 0 && !h.Deleted {
			out[i] = Received{refs[i].ID, h.Version}
		}
	}
	return out, nil
}

// storedID returns the id under which the store has the Observation that another channel
// may have delivered under another id.
func (p *Pipeline) storedID(ctx context.Context, id string) (string, error) {
	raw, err := p.Store.Get(ctx, prefixSame+id)
	if err != nil {
		return "", fhir.Wrap("ingest.Repair", err)
	}
	if same, _, _ := strings.Cut(string(raw), "/"); same != "" {
		return same, nil
	}
	return id, nil
}

// single is an adapters.Sink for a payload of one item.
type single struct {
	collector
	reason, rule string
	dropped      bool
}

// Reject implements adapters.Sink. The rest of a sample is kept if only a component is
// rejected.
func (t *single) Reject(reject *sample.Reject) error {
	if reject.Component == "" {
		t.reason, t.rule = reject.Reason, strings.Clone(reject.Detail)
	}
	return nil
}

// Drop implements adapters.Sink.
func (t *single) Drop(string, string, int) { t.dropped = true }

// only returns the only sample.
func (t *single) only(op string) (*sample.Sample, error) {
	switch {
	case t.reason != "":
		return nil, unprocessable(op, t.reason, t.rule)
	case len(t.samples) == 1:
		return &t.samples[0], nil
	case t.dropped:
		return nil, unprocessable(op, sample.ReasonUnmapped, "this type is not stored by itself")
	}
	return nil, unprocessable(op, sample.ReasonMissing, "it states no sample")
}

// placeOf maps the reason of a reject to the element of an Observation.
var placeOf = map[string]string{ // read only
	sample.ReasonUnmapped: "Observation.code", sample.ReasonBadTime: "Observation.effective",
	sample.ReasonBadValue: "Observation.value", sample.ReasonBadUnit: "Observation.value",
	sample.ReasonUnknownZone: "Observation.effective",
	sample.DropPlaceholder:   "Observation.value",
}

// codeOf maps the reason of a reject to an IssueType.
var codeOf = map[string]string{ // read only
	sample.ReasonUnmapped: "not-supported", sample.ReasonMissing: "required", sample.ReasonTooLarge: "too-long",
}

// unprocessable returns the error for an Observation that cannot be mapped.
func unprocessable(op, reason, rule string) error {
	place, code := placeOf[reason], codeOf[reason]
	if place == "" {
		place = "Observation"
	}
	if code == "" {
		code = "value"
	}
	return &fhir.Error{Kind: fhir.Unprocessable, Op: op, Issues: []fhir.Issue{{
		Severity: "error", Code: code, Expression: []string{place},
		Diagnostics: place + ": the phone-made Observation cannot be repaired (" + reason + "): " + rule,
	}}}
}
