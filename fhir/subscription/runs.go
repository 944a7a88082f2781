package subscription

import (
	"context"
	"encoding/json"
	"errors"

	"pulsegate/fhir"
	"pulsegate/fhir/store"
	"pulsegate/fhir/yield"
)

// leastRun is from how many events on they share a row: few are read sooner
// one by one.
const leastRun = 64

// run is events of one commit whose changes follow one another in the change
// log. As a row it stands for them, or, without a count, for one event.
type run struct {
	event           // the first; ID, Version and Created only without a count
	Count uint64    `json:"count,omitempty"`
	T     store.Seq `json:"t,omitempty"`
	Place uint64    `json:"place,omitempty"` // of the first change among those of T

	few []event // the first leastRun
}

// follows reports whether a change goes on where the run ends.
func (r *run) follows(t store.Seq, place uint64) bool {
	return r.T == t && r.Place+r.Count == place
}

func (r *run) add(c *store.Change) {
	if len(r.few) < leastRun {
		r.few = append(r.few, r.of(r.Count, c))
	}
	r.Count++
}

// of is the event of the i-th change of the run.
func (r *run) of(i uint64, c *store.Change) event {
	return event{Number: r.Number + i, At: r.At, ID: c.Ref.ID, Version: c.Version, Created: c.Created}
}

// rows appends the state of the run.
func (r *run) rows(to []store.StateWrite, id string) ([]store.StateWrite, error) {
	if r.Count >= leastRun {
		v, err := json.Marshal(r)
		return append(to, store.StateWrite{Key: eventKey(id, r.Number+r.Count-1), Value: v}), err
	}
	for i := range r.few {
		v, err := json.Marshal(&r.few[i])
		if err != nil {
			return to, err
		}
		to = append(to, store.StateWrite{Key: eventKey(id, r.few[i].Number), Value: v})
	}
	return to, nil
}

// events reads the events of a Subscription from a number on, at most n of
// them. Those that are not kept any more are left out.
func (e *Engine) events(ctx context.Context, id string, from uint64, n int) ([]event, error) {
	const op = "subscription.events"
	var rows []run
	var bad error
	have := 0
	err := e.opts.Store.ListFrom(ctx, eventPrefix(id), eventKey(id, from), func(_ string, v []byte) bool {
		var r run
		if bad = json.Unmarshal(v, &r); bad != nil {
			return false
		}
		if skip := from - min(from, r.Number); skip > 0 && skip < r.Count {
			r.Number, r.Place, r.Count = r.Number+skip, r.Place+skip, r.Count-skip
		}
		rows = append(rows, r)
		have += int(max(r.Count, 1))
		return have < n
	})
	if err := firstOf(err, bad); err != nil {
		return nil, fhir.Wrap(op, err)
	}
	var out []event
	for i := range rows {
		r := &rows[i]
		if r.Count == 0 {
			out = append(out, r.event)
			continue
		}
		if out, err = e.read(ctx, r, int(min(r.Count, uint64(n-len(out)))), out); err != nil {
			return nil, fhir.Wrap(op, err)
		}
	}
	return out, nil
}

// read appends the first n events of a run, from the change log.
func (e *Engine) read(ctx context.Context, r *run, n int, out []event) ([]event, error) {
	place, got := uint64(0), 0
	pace := yield.Counter{Every: yieldEvery}
	err := e.opts.Store.Changes(ctx, r.T-1, func(c *store.Change) bool {
		if c.Seq != r.T {
			return false
		}
		if place >= r.Place {
			out = append(out, r.of(uint64(got), c))
			got++
		}
		place++
		pace.Add(1)
		return got < n
	})
	if err == nil && got < n {
		err = errors.New("changes of numbered events are missing")
	}
	return out, err
}
