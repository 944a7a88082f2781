package ingest

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"time"

	"pulsegate/fhir"
	"pulsegate/fhir/store"
	"pulsegate/mapping"
	"pulsegate/mapping/sample"
	"pulsegate/mapping/sleep"
)

// updateNights derives the nights again whose segments this delivery, or an
// interrupted one, has written, and those that may have ended since they were
// derived.
func (d *delivery) updateNights(ctx context.Context) error {
	for _, row := range d.pipeline.Mapper.Segments(d.request.Vendor) {
		var keys []string
		err := d.pipeline.Store.List(ctx, d.nightPrefix(), func(key string, _ []byte) bool {
			keys = append(keys, strings.Clone(key))
			return true
		})
		if err != nil {
			return fhir.Wrap("ingest.nights", err)
		}
		for _, key := range keys {
			for more := true; more; {
				if more, err = d.updatePeriod(ctx, row, key); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// updatePeriod derives the nights of the first due period of one source. The
// nights and the state that the period is done are in one commit.
func (d *delivery) updatePeriod(ctx context.Context, row mapping.Segments, key string) (more bool, err error) {
	err = d.exclusively(ctx, func() error {
		more, err = d.tryPeriod(ctx, row, key)
		return err
	})
	return more, err
}

// tryPeriod is one attempt of updatePeriod.
func (d *delivery) tryPeriod(ctx context.Context, row mapping.Segments, key string) (more bool, err error) {
	raw, err := d.pipeline.Store.Get(ctx, key)
	if err != nil || raw == nil {
		return false, fhir.Wrap("ingest.nights", err)
	}
	var nights sourceNights
	if err := json.Unmarshal(raw, &nights); err != nil {
		return false, fhir.Wrap("ingest.nights", err)
	}
	now := d.pipeline.Clock()
	nights.Open = slices.DeleteFunc(nights.Open, func(p period) bool {
		over := ended(time.Unix(p[1], 0), now)
		if over {
			nights.Due = append(nights.Due, p)
		}
		return over
	})
	if nights.Due = mergePeriods(nights.Due); len(nights.Due) == 0 {
		return false, nil
	}
	if err := d.checkConsent(ctx); err != nil {
		return false, err
	}
	a, err := d.deriveFirstPeriod(ctx, row, &nights, now)
	if err != nil {
		return false, err
	}
	w, err := nights.stateWrite(key)
	if err != nil {
		return false, err
	}
	a.batch.State = append(a.batch.State, w)
	if err := d.write(ctx, a, false); err != nil {
		return false, err
	}
	b := newBatch()
	for m, c := range a.counts {
		c.Read, c.Unchanged = c.Created+c.Updated, 0
		a.counts[m] = c
	}
	d.account(ctx, b, a, now)
	return len(nights.Due) > 0, nil
}

// deriveFirstPeriod derives the nights of the first period that is due and
// removes it from nights. The period is shortened if it has too many segments.
func (d *delivery) deriveFirstPeriod(ctx context.Context, row mapping.Segments, nights *sourceNights,
	now time.Time) (*commitAttempt, error) {
	due := nights.Due[0]
	for length := min(due[1]-due[0], maxPeriod); ; length = max(length/4, secondsPerDay) {
		p := period{due[0], due[0] + length}
		sessions, err := d.readSessions(ctx, row, nights, p)
		if errors.Is(err, errTooManySegments) && length > secondsPerDay {
			continue
		}
		if err != nil && !errors.Is(err, errTooManySegments) {
			return nil, err
		}
		if p[1] < due[1] {
			nights.Due[0][0] = p[1]
		} else {
			nights.Due = nights.Due[1:]
		}
		a := newAttempt()
		return a, d.deriveNights(ctx, row, nights, p, sessions, now, a)
	}
}

// ended reports whether a night that ends at end cannot continue at now.
func ended(end, now time.Time) bool { return now.Sub(end) >= sleep.Gap }

// deriveNights adds the nights of the sessions in window that lie in p to a,
// and retracts the stored nights that no longer exist.
func (d *delivery) deriveNights(ctx context.Context, row mapping.Segments, nights *sourceNights, p period,
	window sessionWindow,
	now time.Time, a *commitAttempt) error {
	sessions, from, to := window.sessions, window.from, window.to
	first := time.Unix(p[0]-dayMargin, 0).UTC().Format(time.DateOnly)
	last := time.Unix(p[1]+dayMargin, 0).UTC().Format(time.DateOnly)
	for i := range sessions {
		session := &sessions[i]
		if session.End.Unix() >= p[0]-int64(sleep.Gap.Seconds()) &&
			session.Start.Unix() <= p[1]+int64(sleep.Gap.Seconds()) {
			first, last = min(first, session.Day), max(last, session.Day)
		}
	}
	prefix := "night/" + sourceHash(nights.Source) + "/"
	var list []observation
	derived := map[string]bool{}
	for i := range sessions {
		session := &sessions[i]
		if session.Day < first || session.Day > last {
			continue
		}
		obs, err := d.nightObservation(row, nights.Source, prefix, session, now)
		if err != nil {
			return err
		}
		if obs.preliminary {
			nights.Open = append(nights.Open, period{session.Start.Unix(), session.End.Unix()})
		}
		derived[obs.ID] = true
		list = append(list, obs)
	}
	nights.Open = mergePeriods(nights.Open)
	stored, err := d.storedNights(ctx, row, prefix, from, to)
	if err != nil {
		return err
	}
	jointNights, err := d.jointNights(ctx, row, nights.Source, from, to)
	if err != nil {
		return err
	}
	stored = append(stored, jointNights...)
	if err := d.addObservations(ctx, newBatch(), list, a); err != nil {
		return err
	}
	for i := range stored {
		night := &stored[i]
		stale := !derived[night.ref.ID] && night.day >= first && night.day <= last
		if night.stated { // nights that are derived from segments take precedence
			stale = slices.ContainsFunc(sessions, func(session sleep.Session) bool {
				return session.Day >= first && session.Day <= last && session.Start.Before(night.to) &&
					night.from.Before(session.End)
			})
		}
		if stale && night.status != statusRetracted {
			d.retract(a, &night.retraction)
		}
	}
	return nil
}

// nightObservation returns the Observation of a session.
func (d *delivery) nightObservation(row mapping.Segments, source, prefix string, session *sleep.Session,
	now time.Time) (obs observation, err error) {
	s := session.Sample()
	s.Metric, s.Source.Name, s.VendorID = row.Of, source, prefix+session.Name
	if !ended(session.End, now) {
		s.Status = sample.Preliminary
	}
	res, err := d.pipeline.Mapper.Map(nil, d.request.Vendor, &s, d.request.Patient, d.zone)
	if err != nil {
		return obs, fhir.Wrap("ingest.nights", err)
	}
	if device := session.Device(); device != "" {
		res.JSON, _ = mapping.KeepSource(res.JSON, []byte(`,"device":{"reference":"`+device+`"}`))
		res.Hash = store.ContentHash(res.JSON)
	}
	return observation{Result: res, preliminary: s.Status == sample.Preliminary, kept: d.keep(&s, true)}, nil
}
