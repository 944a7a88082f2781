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

// nights makes the nights again whose segments this run or one that was
// interrupted has written, and those that may have ended by now.
func (d *delivery) updateNights(ctx context.Context) error {
	for _, of := range d.pipeline.Mapper.Segments(d.request.Vendor) {
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
				if more, err = d.updatePiece(ctx, of, key); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// somePiece makes the nights of one piece of one source again, in one commit
// with the state that says so.
func (d *delivery) updatePiece(ctx context.Context, of mapping.Segments, key string) (more bool, err error) {
	defer d.pipeline.lock(d.request.Patient, d.request.Vendor)()
	raw, err := d.pipeline.Store.Get(ctx, key)
	if err != nil || raw == nil {
		return false, fhir.Wrap("ingest.nights", err)
	}
	var n sourceNights
	if err := json.Unmarshal(raw, &n); err != nil {
		return false, fhir.Wrap("ingest.nights", err)
	}
	now := d.pipeline.Clock()
	n.Open = slices.DeleteFunc(n.Open, func(p period) bool {
		over := ended(time.Unix(p[1], 0), now)
		if over {
			n.Due = append(n.Due, p)
		}
		return over
	})
	if n.Due = mergePeriods(n.Due); len(n.Due) == 0 {
		return false, nil
	}
	if err := d.checkConsent(ctx); err != nil {
		return false, err
	}
	a, err := d.deriveFirstPiece(ctx, of, &n, now)
	if err != nil {
		return false, err
	}
	w, err := n.stateWrite(key)
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
	return len(n.Due) > 0, nil
}

// firstPiece makes the nights of the first piece that is due and takes it from
// n. A piece is shorter than usual where segments are many.
func (d *delivery) deriveFirstPiece(ctx context.Context, of mapping.Segments, n *sourceNights, now time.Time) (*commitAttempt, error) {
	due := n.Due[0]
	for length := min(due[1]-due[0], pieceSeconds); ; length = max(length/4, secondsPerDay) {
		p := period{due[0], due[0] + length}
		sessions, err := d.readSessions(ctx, of, n, p)
		if errors.Is(err, errTooManySegments) && length > secondsPerDay {
			continue
		}
		if err != nil && !errors.Is(err, errTooManySegments) {
			return nil, err
		}
		if p[1] < due[1] {
			n.Due[0][0] = p[1]
		} else {
			n.Due = n.Due[1:]
		}
		a := newAttempt()
		return a, d.deriveNights(ctx, of, n, p, sessions, now, a)
	}
}

// ended reports whether a night that ends at end cannot go on at now.
func ended(end, now time.Time) bool { return now.Sub(end) >= sleep.Gap }

// derive puts into a the nights that the sessions around p make in it, and takes
// back those that are none any more.
func (d *delivery) deriveNights(ctx context.Context, of mapping.Segments, n *sourceNights, p period, read sessionWindow,
	now time.Time, a *commitAttempt) error {
	sessions, from, to := read.sessions, read.from, read.to
	first := time.Unix(p[0]-daySeconds, 0).UTC().Format(time.DateOnly)
	last := time.Unix(p[1]+daySeconds, 0).UTC().Format(time.DateOnly)
	for i := range sessions {
		x := &sessions[i]
		if x.End.Unix() >= p[0]-int64(sleep.Gap.Seconds()) && x.Start.Unix() <= p[1]+int64(sleep.Gap.Seconds()) {
			first, last = min(first, x.Day), max(last, x.Day)
		}
	}
	prefix := "night/" + sourceHash(n.Source) + "/"
	var obs []observation
	made := map[string]bool{}
	for i := range sessions {
		x := &sessions[i]
		if x.Day < first || x.Day > last {
			continue
		}
		o, err := d.nightObservation(of, n.Source, prefix, x, now)
		if err != nil {
			return err
		}
		if o.preliminary {
			n.Open = append(n.Open, period{x.Start.Unix(), x.End.Unix()})
		}
		made[o.ID] = true
		obs = append(obs, o)
	}
	n.Open = mergePeriods(n.Open)
	known, err := d.storedNights(ctx, of, prefix, from, to)
	if err != nil {
		return err
	}
	joint, err := d.jointNights(ctx, of, n.Source, from, to)
	if err != nil {
		return err
	}
	known = append(known, joint...)
	if err := d.addObservations(ctx, newBatch(), obs, a); err != nil {
		return err
	}
	for i := range known {
		k := &known[i]
		stale := !made[k.ref.ID] && k.day >= first && k.day <= last
		if k.whole { // by the source as a whole: its segments say it better
			stale = slices.ContainsFunc(sessions, func(x sleep.Session) bool {
				return x.Day >= first && x.Day <= last && x.Start.Before(k.to) && k.from.Before(x.End)
			})
		}
		if stale && k.status != statusRetracted {
			d.retract(a, k)
		}
	}
	return nil
}

// night is a session as an Observation.
func (d *delivery) nightObservation(of mapping.Segments, source, prefix string, x *sleep.Session,
	now time.Time) (o observation, err error) {
	s := x.Sample()
	s.Metric, s.Source.Name, s.VendorID = of.Of, source, prefix+x.Name
	if !ended(x.End, now) {
		s.Status = sample.Preliminary
	}
	res, err := d.pipeline.Mapper.Map(nil, d.request.Vendor, &s, d.request.Patient, d.zone)
	if err != nil {
		return o, fhir.Wrap("ingest.night", err)
	}
	if device := x.Device(); device != "" {
		res.JSON, _ = mapping.KeepSource(res.JSON, []byte(`,"device":{"reference":"`+device+`"}`))
		res.Hash = store.ContentHash(res.JSON)
	}
	return observation{Result: res, preliminary: s.Status == sample.Preliminary}, nil
}
