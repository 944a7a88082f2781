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

// index returns the write that lists an override for its patient.
func (override *Override) index() store.StateWrite {
	return store.StateWrite{Key: prefixPatient + override.Patient + "/" + override.ID,
		Value: strconv.AppendInt(nil, override.Start.Unix(), 10), Expect: store.StateAbsent}
}

// ByPatient lists all overrides of a patient's data for that patient, most
// recent first, regardless of their reviews.
func (s *Service) ByPatient(ctx context.Context, patient string) ([]Override, error) {
	const op = "breakglass.ByPatient"
	var ids []string
	err := s.each(ctx, patient, func(id string, _ int64) { ids = append(ids, id) })
	if err != nil {
		return nil, err
	}
	out := make([]Override, 0, len(ids))
	for _, id := range ids {
		override, err := s.get(ctx, id)
		if err != nil {
			return nil, fhir.Wrap(op, err)
		}
		out = append(out, override)
	}
	slices.SortStableFunc(out, func(a, b Override) int { return b.Start.Compare(a.Start) })
	return out, nil
}

// each calls fn with the id and the start, in Unix seconds, of every override
// of a patient's data.
func (s *Service) each(ctx context.Context, patient string, fn func(id string, start int64)) error {
	const op = "breakglass.ByPatient"
	if !fhir.ValidID(patient) {
		return fhir.Errorf(fhir.Invalid, op, "patient: an id is required")
	}
	prefix, bad := prefixPatient+patient+"/", error(nil)
	err := s.store.List(ctx, prefix, func(k string, v []byte) bool {
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

// Unacknowledged returns the number of overrides of a patient's data that the
// patient has not acknowledged.
func (s *Service) Unacknowledged(ctx context.Context, patient string) (int, error) {
	read, err := s.acknowledged(ctx, patient)
	if err != nil {
		return 0, err
	}
	n := 0
	err = s.each(ctx, patient, func(id string, _ int64) {
		if !read[id] {
			n++
		}
	})
	return n, err
}

// acknowledged returns the ids of the overrides that a patient has
// acknowledged.
func (s *Service) acknowledged(ctx context.Context, patient string) (map[string]bool, error) {
	out := map[string]bool{}
	prefix := prefixTold + patient + "/"
	err := s.store.List(ctx, prefix, func(k string, _ []byte) bool {
		out[strings.Clone(strings.TrimPrefix(k, prefix))] = true
		return true
	})
	return out, fhir.Wrap("breakglass.acknowledged", err)
}

// Acknowledge records that a patient has read about the overrides with these
// ids. It returns NotFound if one of them does not concern the patient's data.
func (s *Service) Acknowledge(ctx context.Context, by audit.Caller, patient string, ids []string) error {
	const op = "breakglass.Acknowledge"
	mine := map[string]bool{}
	if err := s.each(ctx, patient, func(id string, _ int64) { mine[id] = true }); err != nil {
		return err
	}
	read, err := s.acknowledged(ctx, patient)
	if err != nil {
		return err
	}
	ev := audit.Event{Type: audit.Security, Interaction: "configuration", Caller: by, Patient: patient,
		Extra: [][2]string{{"change", "emergency-access-acknowledged"}}}
	var b store.Batch
	for _, id := range ids {
		if !mine[id] {
			return fhir.Errorf(fhir.NotFound, op, "no such emergency access")
		}
		if read[id] {
			continue
		}
		read[id] = true
		ev.Extra = append(ev.Extra, [2]string{"break-glass", id})
		b.State = append(b.State, store.StateWrite{Key: prefixTold + patient + "/" + id,
			Value: strconv.AppendInt(nil, s.clock().Unix(), 10)})
	}
	if len(b.State) == 0 {
		return nil
	}
	_, err = audit.Commit(ctx, s.store, s.audit, &b, ev)
	return fhir.Wrap(op, err)
}
