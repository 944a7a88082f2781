package push

import (
	"context"
	"encoding/json"
	"strings"

	"pulsegate/fhir"
	"pulsegate/fhir/access"
	"pulsegate/fhir/search"
	"pulsegate/fhir/store"
	"pulsegate/fhir/yield"
)

// backfillCommit is the number of rows after which a backfill commits.
const backfillCommit = 16

// backfill queues what is stored of the next patient, or ends the backfill. Rows are
// named by the commit at which it began, so that a repetition after a crash replaces
// them, and they come before those of later changes.
func (s *sender) backfill(ctx context.Context, t Target) error {
	const op = "push.backfill"
	q, err := search.Parse("Patient", nil, search.ParseOptions{Base: s.follower.opts.Base})
	if err != nil {
		return err
	}
	next := *t.Backfill
	patient := ""
	err = s.follower.opts.Store.Find(ctx, store.Find{Query: q, Filter: access.All().Filter(access.Read),
		After: search.Position(next.After), Limit: 1}, func(f *store.Found) bool {
		patient, next.After = f.Resource.ID, string(f.Pos)
		return false
	})
	if err != nil {
		return fhir.Wrap(op, err)
	}
	if patient != "" {
		if err := s.backfillPatient(ctx, &t, patient); err != nil {
			return fhir.Wrap(op, err)
		}
	}
	return s.alter(ctx, func(now *Target) ([]store.StateWrite, error) {
		switch {
		case now.Backfill == nil || now.Backfill.At != next.At:
			// Another one was started meanwhile.
		case patient == "":
			now.Backfill = nil
		default:
			now.Backfill = &next
		}
		return nil, nil
	})
}

// backfillPatient queues what is stored of a patient.
func (s *sender) backfillPatient(ctx context.Context, t *Target, patient string) error {
	grant, err := s.follower.opts.GrantFor(ctx, t.Recipient)
	if err != nil || !grant.May(access.Read, "Observation") {
		return nil // the client may see nothing
	}
	pairs := [][2]string{{"patient", "Patient/" + patient},
		{"date", "ge" + t.Backfill.Since.Format("2006-01-02T15:04:05Z")}, {"_sort", "date"}}
	if len(t.Categories) > 0 {
		pairs = append(pairs, [2]string{"category", strings.Join(t.Categories, ",")})
	}
	if len(t.Codes) > 0 {
		pairs = append(pairs, [2]string{"code", strings.Join(t.Codes, ",")})
	}
	q, err := search.Parse("Observation", pairs, search.ParseOptions{Base: s.follower.opts.Base})
	if err != nil {
		return err
	}
	prefix := rowPrefix("queue", t.Name) + patient + "/"
	var ws []store.StateWrite
	r := &row{seq: t.Backfill.At, number: backfillRow, At: s.follower.opts.Clock().UnixMilli()}
	last := map[string]int64{} // time of the latest value by code
	pace := yield.Counter{Every: yieldEvery}
	var bad error
	finish := func() {
		if len(r.IDs) == 0 || bad != nil {
			return
		}
		var w store.StateWrite
		if w, bad = r.write(prefix); bad == nil {
			ws = append(ws, w)
		}
		r = &row{seq: r.seq, number: r.number + 1, At: r.At}
	}
	err = s.follower.opts.Store.Find(ctx, store.Find{Query: q, Filter: grant.Filter(access.Read)},
		func(f *store.Found) bool {
			pace.Add(1)
			if t.passes(f.Resource.JSON, last) {
				if r.IDs = append(r.IDs, f.Resource.ID); len(r.IDs) >= maxRow {
					finish()
				}
			}
			if len(ws) >= backfillCommit && bad == nil {
				bad = s.follower.commitState(ctx, ws...)
				ws = nil
			}
			return bad == nil
		})
	finish()
	if err == nil {
		err = bad
	}
	if err == nil && len(ws) > 0 {
		err = s.follower.commitState(ctx, ws...)
	}
	return err
}

// passes reports whether a value is far enough from the previous one of its code.
// It only saves space in the queue; claim decides.
func (t *Target) passes(body []byte, last map[string]int64) bool {
	var c content
	if json.Unmarshal(body, &c) != nil || !t.thins(&c) {
		return true
	}
	at, _ := instant(&c)
	key := metricOf(&c)
	if before, ok := last[key]; ok && at-before < t.Every.Milliseconds() {
		return false
	}
	last[key] = at
	return true
}
