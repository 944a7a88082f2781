package preferred

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"maps"
	"slices"
	"strconv"

	"pulsegate/fhir"
	"pulsegate/fhir/audit"
	"pulsegate/fhir/element"
	"pulsegate/fhir/store"
)

// write is the write of one preferred value with the facts for its records.
type write struct {
	store.Write
	patient      string
	ids, streams []string
}

// stored returns the current version of a preferred value. Its Version is 0 if there never
// was one.
func (st *step) stored(ctx context.Context, r *reader, c *Concept, day int64, nth int) (fhir.Resource, error) {
	res, _, err := r.store.Read(ctx, fhir.Ref{Type: "Observation", ID: st.follower.id(r.patient, c, day, nth)}, r.at)
	if fhir.KindOf(err) == fhir.NotFound {
		return fhir.Resource{}, nil
	}
	return res, err
}

// value compares a preferred value, or nil, with the stored one and adds the difference to
// the step.
func (st *step) value(ctx context.Context, r *reader, k *collector, day int64, nth int, d *derived) error {
	f, c := st.follower, k.concept
	old, err := st.stored(ctx, r, c, day, nth)
	if err != nil {
		return err
	}
	if d == nil {
		return st.withdraw(ctx, r, k, day, &old)
	}
	id := f.id(r.patient, c, day, nth)
	before := ""
	if old.Version > 0 && !old.Deleted {
		before = statusOf(old.JSON)
	}
	open := d.preliminary || f.opts.Clock().Before(d.closes)
	if f.opts.Clock().Before(d.closes) {
		st.open(openKey{d.closes.Unix(), r.patient, c.Name, day})
	}
	status := "final"
	switch before {
	case "final", "amended":
		if status = before; !bytes.Equal(f.opts.Policy.render(id, r.patient, before, c, d), unstamped(&old)) {
			status = "amended"
		}
	case statusRetracted:
		status = "amended"
	default:
		if open {
			status = "preliminary"
		}
	}
	body := f.opts.Policy.render(id, r.patient, status, c, d)
	if before != "" && bytes.Equal(body, unstamped(&old)) {
		return nil
	}
	st.put(id, d.vendor, body, &old, r.patient, d.ids, d.streams)
	return nil
}

// open adds the key of a day or night that may still grow, once.
func (st *step) open(o openKey) {
	key := o.String()
	if !slices.ContainsFunc(st.state, func(w store.StateWrite) bool { return w.Key == key }) {
		st.state = append(st.state, store.StateWrite{Key: key, Value: []byte{}})
	}
}

// withdraw retracts a stored value that has no source any more. It deletes the value if
// some of its inputs are not entered in error but gone, because nothing of erased data may
// remain.
func (st *step) withdraw(ctx context.Context, r *reader, k *collector, day int64, old *fhir.Resource) error {
	if old.Version == 0 || old.Deleted {
		return nil
	}
	status := statusOf(old.JSON)
	facts, err := st.vendorOf(ctx, old)
	if err != nil {
		return err
	}
	if !k.exist(old.JSON, day) {
		st.writes = append(st.writes, write{patient: r.patient, Write: store.Write{Op: store.Remove, Vendor: facts,
			Resource: fhir.Resource{Type: "Observation", ID: old.ID}, Expect: store.Version, IfVersion: old.Version}})
		return nil
	}
	if status == statusRetracted {
		return nil
	}
	body := bytes.Replace(unstamped(old), []byte(`,"status":"`+status+`",`),
		[]byte(`,"status":"`+statusRetracted+`",`), 1)
	st.put(old.ID, facts, body, old, r.patient, nil, nil)
	return nil
}

// exist reports whether all inputs of a stored value still exist, possibly entered in error.
func (k *collector) exist(body []byte, day int64) bool {
	var d struct {
		DerivedFrom []element.Reference `json:"derivedFrom"`
	}
	if err := json.Unmarshal(body, &d); err != nil {
		return false
	}
	for _, in := range d.DerivedFrom {
		if i := in.Identifier; i != nil {
			if !k.seen[streamDay(i.Value, day)] && !k.seen[streamDay(i.Value, day-1)] {
				return false // the samples of a night may begin on the day before
			}
		} else if ref, ok := fhir.ParseRef(in.Reference); !ok || !k.seen[ref.ID] {
			return false
		}
	}
	return true
}

// vendorOf returns the vendor of a stored value.
func (st *step) vendorOf(ctx context.Context, old *fhir.Resource) (string, error) {
	_, facts, err := st.follower.opts.Store.ReadVersion(ctx, old.Ref(), old.Version)
	if err != nil {
		return "", err
	}
	return facts.Vendor, nil
}

// put adds the write of a new version.
func (st *step) put(id, vendor string, body []byte, old *fhir.Resource, patient string, ids, streams []string) {
	w := store.Write{Op: store.Put, Vendor: vendor, Expect: store.Absent,
		Resource: fhir.Resource{Type: "Observation", ID: id, JSON: body}}
	if old.Version > 0 {
		w.Expect, w.IfVersion = store.Version, old.Version
	}
	st.writes = append(st.writes, write{w, patient, ids, streams})
}

// commit makes the collected values durable, with a Provenance for each patient and vendor
// and an AuditEvent for each patient.
func (st *step) commit(ctx context.Context) error {
	const op = "preferred.commit"
	f := st.follower
	batch := &store.Batch{State: st.state}
	type group struct {
		patient, vendor string
		op              store.Op
		retracted       bool
	}
	groups := map[group][]*write{}
	for i := range st.writes {
		w := &st.writes[i]
		batch.Writes = append(batch.Writes, w.Write)
		g := group{w.patient, w.Vendor, w.Op, w.Op == store.Put && statusOf(w.Resource.JSON) == statusRetracted}
		groups[g] = append(groups[g], w)
	}
	keys := slices.SortedFunc(maps.Keys(groups), func(a, b group) int {
		return cmp.Or(cmp.Compare(a.patient, b.patient), cmp.Compare(a.vendor, b.vendor), cmp.Compare(a.op, b.op))
	})
	var events []audit.Event
	for _, g := range keys {
		event := audit.Event{Type: audit.Rest, Interaction: "update", Outcome: audit.Success, At: f.opts.Clock(),
			Patient: g.patient, Extra: [][2]string{{"policy", f.opts.Policy.Version},
				{"written", strconv.Itoa(len(groups[g]))}}}
		if g.op == store.Remove {
			event.Interaction = "delete"
		} else {
			batch.Writes = append(batch.Writes, f.provenance(groups[g], g.retracted))
		}
		for _, w := range groups[g] {
			event.Data = append(event.Data, audit.DataRef{Ref: w.Resource.Ref()})
		}
		events = append(events, event)
	}
	if _, err := audit.Commit(ctx, f.opts.Store, f.opts.Audit, batch, events...); err != nil {
		return fhir.Wrap(op, err)
	}
	f.meters.values.Add(ctx, int64(len(st.writes)))
	st.writes, st.state = nil, nil
	return nil
}

// provenance returns the Provenance of values of one patient and vendor. It names nothing
// of other vendors.
func (e *Engine) provenance(ws []*write, retracted bool) store.Write {
	parts := []string{"Provenance"}
	refs := map[string]bool{}
	for _, w := range ws {
		parts = append(parts, w.Resource.ID, strconv.FormatUint(w.IfVersion, 10))
		for _, id := range w.ids {
			refs[`{"reference":"`+observationRef(id)+`"}`] = true
		}
		for _, s := range w.streams {
			refs[streamRef(s)] = true
		}
	}
	id := e.hash(parts...)
	b := append([]byte(fhir.Prefix("Provenance", id)), `},"target":[{"reference":"Patient/`+ws[0].patient+`"}`...)
	for _, w := range ws {
		b = append(b, `,{"reference":"`+w.Resource.Ref().String()+`"}`...)
	}
	b = append(b, `],"recorded":"`+e.opts.Clock().UTC().Format(fhir.InstantLayout)+
		`","activity":{"coding":[{"system":"`+element.ISO21089Lifecycle...)
	if retracted {
		b = append(b, `","code":"deprecate"}],"text":"retracted, because no source is left"}`...)
	} else {
		b = append(b, `","code":"transform","display":"Transform/Translate Record Lifecycle Event"}],`+
			`"text":"preferred value derived by a policy"}`...)
	}
	b = append(b, `,"agent":[{"type":{"coding":[{"system":"`+element.ProvenanceParticipantType+
		`","code":"assembler","display":"Assembler"}]},"who":{"display":"Pulsegate"},`+
		`"onBehalfOf":{"reference":"Organization/pulsegate"}}],"entity":[{"role":"source","what":{"identifier":`+
		`{"system":"`+fhir.Canonical+`/identifier/preferred-policy","value":"`+e.opts.Policy.Version+`"}}}`...)
	for _, ref := range sorted(refs) {
		b = append(b, `,{"role":"derivation","what":`+ref+`}`...)
	}
	b = append(b, `]}`...)
	return store.Write{Op: store.Put, Vendor: ws[0].Vendor, Expect: store.Absent,
		Resource: fhir.Resource{Type: "Provenance", ID: id, JSON: b}}
}

// unstamped returns a stored version without its version id and time.
func unstamped(v *fhir.Resource) []byte {
	p := fhir.Prefix(v.Type, v.ID)
	stamp := fhir.Stamp([]byte(p+"}"), v.Type, v.ID, v.Version, v.LastUpdated)
	rest := v.JSON[len(stamp)-1:]
	return append([]byte(p), bytes.TrimPrefix(rest, []byte(","))...)
}
