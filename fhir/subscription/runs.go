package subscription

import (
	"context"
	"encoding/json"
	"errors"

	"pulsegate/fhir"
	"pulsegate/fhir/store"
	"pulsegate/fhir/yield"
)

// leastRun is the number of events from which a run is stored as one row. Fewer
// events are faster to read from rows of their own.
const leastRun = 64

// run is a run of events from consecutive changes of one commit. A row holds a
// run or, if Count is zero, a single event.
type run struct {
	event           // the first event; ID, Version and Created are set if Count is zero
	Count uint64    `json:"count,omitempty"`
	Seq   store.Seq `json:"t,omitempty"`
	Index uint64    `json:"place,omitempty"` // of the first change within commit Seq

	few []event // the first leastRun events
}

// follows reports whether a change directly follows the run.
func (r *run) follows(seq store.Seq, index uint64) bool {
	return r.Seq == seq && r.Index+r.Count == index
}

func (r *run) add(c *store.Change) {
	if len(r.few) < leastRun {
		r.few = append(r.few, r.eventOf(r.Count, c))
	}
	r.Count++
}

// eventOf returns the event of the i-th change of the run.
func (r *run) eventOf(i uint64, c *store.Change) event {
	ev := event{Number: r.Number + i, At: r.At, ID: c.Ref.ID, Version: c.Version, Created: c.Created,
		Deleted: c.Deleted}
	if c.Ref.Type != "Observation" {
		ev.Type = c.Ref.Type
	}
	return ev
}

// rows appends the rows that store the run.
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

// events reads at most n events of a Subscription, starting with number from.
// Events that are not stored any more are omitted.
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
			r.Number, r.Index, r.Count = r.Number+skip, r.Index+skip, r.Count-skip
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

// read appends the first n events of a run, which it reads from the change log.
func (e *Engine) read(ctx context.Context, r *run, n int, out []event) ([]event, error) {
	index, got, pace := uint64(0), 0, yield.Counter{Every: yieldEvery}
	err := e.opts.Store.Changes(ctx, r.Seq-1, func(c *store.Change) bool {
		if c.Seq != r.Seq {
			return false
		}
		if index >= r.Index {
			out = append(out, r.eventOf(uint64(got), c))
			got++
		}
		index++
		pace.Add(1)
		return got < n
	})
	if err == nil && got < n {
		err = errors.New("the change log lacks changes of numbered events")
	}
	return out, err
}
