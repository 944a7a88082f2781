package ingest

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"time"

	"pulsegate/fhir"
	"pulsegate/fhir/series"
	"pulsegate/fhir/store"
	"pulsegate/mapping"
	"pulsegate/mapping/sample"
)

// KeptObservation is a stored Observation with the samples of which it was made.
type KeptObservation struct {
	Resource        fhir.Resource // the current version
	Patient, Vendor string
	// Kept has several elements if several samples were joined (Kept.Joined), or if the
	// Observation is a row of a series and samples that differ could have made it.
	Kept []Kept
	// Position is the position of the Observation among those of EachKept.
	Position string
}

// Kept returns the samples of which an Observation was made. It returns none if no
// payload made its current version, if it is deleted, or if it was stored before samples
// were kept. If a deletion by the vendor made the current version, these are the samples
// of the version before.
//
// Several samples were joined to one Observation, if Kept.Joined is set, or else are
// candidates: all of them map to what is stored. The candidates of a row of a series are
// the samples with its numbers and times, one for each way in which the stream was
// delivered, such as in two units.
func (p *Pipeline) Kept(ctx context.Context, id string) ([]Kept, error) {
	o, err := p.KeptObservation(ctx, id)
	if err != nil || o == nil {
		return nil, err
	}
	return o.Kept, nil
}

// KeptObservation returns an Observation with the samples of which it was made, or nil if
// there are none; see Kept.
func (p *Pipeline) KeptObservation(ctx context.Context, id string) (*KeptObservation, error) {
	res, facts, err := p.Store.Read(ctx, fhir.Ref{Type: "Observation", ID: id}, 0)
	if err != nil {
		return nil, fhir.Wrap("ingest.Kept", err)
	}
	if res.Deleted || facts.Vendor == "" || facts.Patient == "" {
		return nil, nil
	}
	reader := keptReader{pipeline: p, patient: facts.Patient, vendor: facts.Vendor}
	list, err := reader.of(ctx, &res)
	if err != nil || len(list) == 0 {
		return nil, err
	}
	return &KeptObservation{Resource: res, Patient: facts.Patient, Vendor: facts.Vendor, Kept: list}, nil
}

// EachKept calls fn for the Observations that payloads of a vendor have made for a
// patient and that have kept samples, in order of their time, until fn returns false. It
// begins after the position from, or with the first one if from is "". A position stays
// valid when Observations are written; fn must not write. The JSON of the resource is
// valid during the call. Deleted Observations, and those whose current version a client
// has written, are left out.
func (p *Pipeline) EachKept(ctx context.Context, patient, vendor, from string, fn func(*KeptObservation) bool) error {
	const op = "ingest.EachKept"
	f, err := findObservations([2]string{"patient", patient}, [2]string{"_sort", "date"})
	if err != nil {
		return err
	}
	f.After = from
	reader := keptReader{pipeline: p, patient: patient, vendor: vendor}
	var failure error
	err = p.Store.Find(ctx, f, func(found *store.Found) bool {
		if found.Facts.Vendor != vendor || found.Facts.Patient != patient {
			return true
		}
		var list []Kept
		if list, failure = reader.of(ctx, &found.Resource); failure != nil || len(list) == 0 {
			return failure == nil
		}
		return fn(&KeptObservation{Resource: found.Resource, Patient: patient, Vendor: vendor, Kept: list,
			Position: found.Pos})
	})
	return fhir.Wrap(op, cmp.Or(err, failure))
}

// keptReader reads the samples of the Observations of a patient and vendor.
type keptReader struct {
	pipeline        *Pipeline
	patient, vendor string
	exemplars       map[string][]*keptExemplar // by stream
	epochs          []packEpoch                // nil until they are needed
}

// maxStreams limits the streams whose exemplars a keptReader holds.
const maxStreams = 1024

// of returns the samples of the current version of an Observation.
func (r *keptReader) of(ctx context.Context, current *fhir.Resource) ([]Kept, error) {
	const op = "ingest.Kept"
	k, streamed := series.ParseID(current.ID)
	streamID := mapping.StreamID(k.Identity)
	if streamed && current.Version == 1 {
		list, err := r.ofRow(ctx, streamID, current)
		if err != nil || len(list) > 0 {
			if err == nil {
				list, err = r.inForce(ctx, current, list)
			}
			return list, err
		}
	}
	raw, err := r.pipeline.Store.Get(ctx, sampleKey(r.patient, r.vendor, current.ID))
	if err != nil {
		return nil, fhir.Wrap(op, err)
	}
	if raw != nil {
		hash, samples, err := cutContent(raw)
		if err != nil {
			return nil, err
		}
		if ours, err := r.isOurs(ctx, current, hash); err != nil || !ours {
			return nil, err
		}
		return decodeAll(samples)
	}
	if !streamed || current.Version == 1 || statusOf(current.JSON) != statusRetracted {
		return nil, nil // a client has written it
	}
	// A retraction has taken the row out of its series.
	first, _, err := r.pipeline.Store.ReadVersion(ctx, current.Ref(), 1)
	if err != nil {
		return nil, fhir.Wrap(op, err)
	}
	return r.ofRow(ctx, streamID, &first)
}

// isOurs reports whether ingest has written the current version of an Observation, of
// which the content that the samples make has a hash. A retraction keeps the samples.
func (r *keptReader) isOurs(ctx context.Context, current *fhir.Resource, hash [16]byte) (bool, error) {
	if statusOf(current.JSON) == statusRetracted {
		return true, nil
	}
	heads, err := r.pipeline.Store.Heads(ctx, []fhir.Ref{current.Ref()})
	if err != nil {
		return false, fhir.Wrap("ingest.Kept", err)
	}
	return heads[0].Hash == hash || heads[0].Version != current.Version, nil
}

// ofRow returns the samples that may have made a row of a series.
func (r *keptReader) ofRow(ctx context.Context, streamID string, version *fhir.Resource) (list []Kept, err error) {
	exemplars, known := r.exemplars[streamID]
	if !known {
		if exemplars, err = r.load(ctx, streamID); err != nil {
			return nil, err
		}
	}
	if len(exemplars) == 0 || version.Deleted {
		return nil, nil
	}
	body := unstamped(version)
	for _, x := range exemplars {
		if k, ok := x.rebuild(body); ok {
			list = append(list, k)
		}
	}
	return list, nil
}

// load reads the exemplars of a stream.
func (r *keptReader) load(ctx context.Context, streamID string) (list []*keptExemplar, err error) {
	var failure error
	err = r.pipeline.Store.List(ctx, exemplarPrefix(r.patient, r.vendor)+streamID+"/",
		func(_ string, value []byte) bool {
			x := &keptExemplar{}
			failure = json.Unmarshal(value, x)
			list = append(list, x)
			return failure == nil
		})
	if err = cmp.Or(err, failure); err != nil {
		return nil, fhir.Wrap("ingest.Kept", err)
	}
	if r.exemplars == nil || len(r.exemplars) >= maxStreams {
		r.exemplars = map[string][]*keptExemplar{}
	}
	r.exemplars[streamID] = list
	return list, nil
}

// ErrAmbiguous is the error of MapAgain if an Observation has several candidates, which
// the table no longer maps to one content.
var ErrAmbiguous = errors.New("several samples may have made the Observation, and they now differ")

// MapAgain maps the samples of o with the Mapper of p and returns the content that the
// Observation would have, without its version and time. If the table has not changed, it
// is the stored content. The id, the identifiers and the status are the stored ones, and
// so is the device if the samples do not name it. The zone is that of the first mapping.
// The error is a *mapping.RejectError if the table does not accept a sample, or
// ErrAmbiguous.
func (p *Pipeline) MapAgain(o *KeptObservation) ([]byte, error) {
	stored := unstamped(&o.Resource)
	var out []byte
	for i := range o.Kept {
		k := &o.Kept[i]
		body, err := p.mapKept(o, k, stored)
		switch {
		case err != nil:
			return nil, err
		case i > 0 && k.Joined:
			obs := observation{Result: mapping.Result{JSON: body}}
			obs.addComponents(out)
			body = obs.JSON
		case i > 0 && !bytes.Equal(out, body):
			return nil, ErrAmbiguous
		}
		out = body
	}
	if len(o.Kept) > 1 && o.Kept[0].Joined {
		out = orderLike(out, stored)
	}
	return out, nil
}

// SameContent reports whether body is the stored content of o.
func (o *KeptObservation) SameContent(body []byte) bool {
	return bytes.Equal(unstamped(&o.Resource), body)
}

// StateWrite returns the state that keeps the samples of o when a version that the row
// with the given name has mapped is written with the given store.Write.Hash.
func (o *KeptObservation) StateWrite(row string, hash [16]byte) (store.StateWrite, error) {
	var all [][]byte
	for i := range o.Kept {
		k := o.Kept[i]
		k.Row = row
		raw, err := k.encode()
		if err != nil {
			return store.StateWrite{}, err
		}
		all = append(all, raw)
	}
	return store.StateWrite{Key: sampleKey(o.Patient, o.Vendor, o.Resource.ID),
		Value: withContent(hash, joinEncoded(all))}, nil
}

// mapKept maps one sample of o.
func (p *Pipeline) mapKept(o *KeptObservation, k *Kept, stored []byte) ([]byte, error) {
	var zone *time.Location
	if k.Zone != "" {
		var err error
		if zone, err = time.LoadLocation(k.Zone); err != nil {
			return nil, fhir.Wrap("ingest.MapAgain", err)
		}
	}
	res, err := p.Mapper.Map(nil, o.Vendor, &k.Sample, o.Patient, zone)
	if err != nil {
		return nil, err
	}
	if res.JSON == nil {
		return nil, &mapping.RejectError{Reason: sample.ReasonUnmapped, Rule: "the row makes no Observation"}
	}
	body := res.JSON
	if res.Vague || k.Derived {
		body, _ = mapping.KeepSource(body, stored)
	}
	return withIdentity(body, stored, o.Resource.ID), nil
}

const identifierOpen = `,"identifier":[`

// withIdentity returns body with an id, and the identifiers and the status of stored.
func withIdentity(body, stored []byte, id string) []byte {
	part := func(b []byte) (from, to int) {
		from, to = bytes.Index(b, []byte(identifierOpen)), bytes.Index(b, statusKey)
		if to >= 0 {
			to += len(statusKey)
			to += max(bytes.IndexByte(b[to:], '"'), 0)
		}
		return from, to
	}
	from, to := part(body)
	storedFrom, storedTo := part(stored)
	meta := bytes.Index(body, []byte(`,"meta":{`))
	if from < 0 || to < from || meta < 0 || meta > from || storedFrom < 0 || storedTo < storedFrom {
		return body
	}
	out := append([]byte(nil), fhir.Prefix("Observation", id)...)
	out = append(out, body[meta+len(`,"meta":{`):from]...)
	out = append(out, stored[storedFrom:storedTo]...)
	return append(out, body[to:]...)
}

// orderLike returns body with its components in the order of those of stored that have
// the same codes.
func orderLike(body, stored []byte) []byte {
	list, codes := componentsOf(body)
	_, order := componentsOf(stored)
	if len(list) < 2 {
		return body
	}
	at := make([]int, len(list))
	for i := range at {
		at[i] = i
	}
	place := func(i int) int {
		if j := slices.Index(order, codes[i]); j >= 0 {
			return j
		}
		return len(order)
	}
	slices.SortStableFunc(at, func(i, j int) int { return cmp.Compare(place(i), place(j)) })
	var parts []string
	for _, i := range at {
		parts = append(parts, string(list[i]))
	}
	head := bytes.Index(body, []byte(componentOpen))
	return []byte(string(body[:head]) + componentOpen + strings.Join(parts, ",") + "]}")
}
