package breakglass

import (
	"context"
	"slices"
	"strconv"
	"strings"

	"pulsegate/fhir"
	"pulsegate/fhir/audit"
	"pulsegate/fhir/store"
)

// about is the write by which a patient finds an opening.
func (o *Opening) about() store.StateWrite {
	return store.StateWrite{Key: roomPatient + o.Patient + "/" + o.ID,
		Value: strconv.AppendInt(nil, o.Start.Unix(), 10), Expect: store.StateAbsent}
}

// About lists every opening of a patient's data, the newest first, for that
// patient: whatever became of the review.
func (g *Glass) About(ctx context.Context, patient string) ([]Opening, error) {
	const op = "breakglass.About"
	var ids []string
	err := g.each(ctx, patient, func(id string, _ int64) { ids = append(ids, id) })
	if err != nil {
		return nil, err
	}
	out := make([]Opening, 0, len(ids))
	for _, id := range ids {
		o, err := g.get(ctx, id)
		if err != nil {
			return nil, fhir.Wrap(op, err)
		}
		out = append(out, o)
	}
	slices.SortStableFunc(out, func(a, b Opening) int { return b.Start.Compare(a.Start) })
	return out, nil
}

// each calls fn with the openings of a patient's data and when they began, in
// Unix seconds.
func (g *Glass) each(ctx context.Context, patient string, fn func(id string, start int64)) error {
	const op = "breakglass.About"
	if !fhir.ValidID(patient) {
		return fhir.Errorf(fhir.Invalid, op, "patient: an id is needed")
	}
	prefix, bad := roomPatient+patient+"/", error(nil)
	err := g.store.List(ctx, prefix, func(k string, v []byte) bool {
		var start int64
		if start, bad = strconv.ParseInt(string(v), 10, 64); bad == nil {
			fn(strings.Clone(strings.TrimPrefix(k, prefix)), start)
		}
		return bad == nil
	})
	if err == nil {
		err = bad
	}
	return fhir.Wrap(op, err)
}

// Untold counts the openings of a patient's data that the patient has not
// acknowledged.
func (g *Glass) Untold(ctx context.Context, patient string) (int, error) {
	read, err := g.told(ctx, patient)
	if err != nil {
		return 0, err
	}
	n := 0
	err = g.each(ctx, patient, func(id string, _ int64) {
		if !read[id] {
			n++
		}
	})
	return n, err
}

// told is the openings that a patient has acknowledged.
func (g *Glass) told(ctx context.Context, patient string) (map[string]bool, error) {
	out := map[string]bool{}
	prefix := roomTold + patient + "/"
	err := g.store.List(ctx, prefix, func(k string, _ []byte) bool {
		out[strings.Clone(strings.TrimPrefix(k, prefix))] = true
		return true
	})
	return out, fhir.Wrap("breakglass.told", err)
}

// Acknowledge notes that a patient has read of the openings with these ids. An
// opening that is not of that patient's data is NotFound.
func (g *Glass) Acknowledge(ctx context.Context, by audit.Caller, patient string, ids []string) error {
	const op = "breakglass.Acknowledge"
	mine := map[string]bool{}
	if err := g.each(ctx, patient, func(id string, _ int64) { mine[id] = true }); err != nil {
		return err
	}
	read, err := g.told(ctx, patient)
	if err != nil {
		return err
	}
	ev := audit.Event{Type: audit.Security, Interaction: "configuration", Caller: by, Patient: patient,
		Extra: [][2]string{{"change", "emergency-access-acknowledged"}}}
	var b store.Batch
	for _, id := range ids {
		if !mine[id] {
			return fhir.Errorf(fhir.NotFound, op, "no such opening")
		}
		if read[id] {
			continue
		}
		read[id] = true
		ev.Extra = append(ev.Extra, [2]string{"break-glass", id})
		b.State = append(b.State, store.StateWrite{Key: roomTold + patient + "/" + id,
			Value: strconv.AppendInt(nil, g.clock().Unix(), 10)})
	}
	if len(b.State) == 0 {
		return nil
	}
	_, err = audit.Commit(ctx, g.store, g.audit, &b, ev)
	return fhir.Wrap(op, err)
}
