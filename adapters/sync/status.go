package sync

import (
	"context"
	"maps"
	"slices"
	"time"

	"pulsegate/adapters/link"
	"pulsegate/fhir"
	"pulsegate/fhir/store"
)

// Status describes the flow of a link for people.
type Status struct {
	Link    link.Link      `json:"link"`
	Data    time.Time      `json:"data,omitzero"` // data last arrived
	Late    bool           `json:"late"`          // data should have arrived by now
	Paused  bool           `json:"paused"`        // there is no consent
	Next    time.Time      `json:"next,omitzero"` // of the next turn
	Events  int            `json:"events"`        // announced and not yet read
	Past    float64        `json:"past"`          // part of the past that was read, 0 to 1
	Streams []StreamStatus `json:"streams"`
}

// StreamStatus describes one stream of a link.
type StreamStatus struct {
	Name    string    `json:"name"`
	Polled  time.Time `json:"polled,omitzero"`
	Due     time.Time `json:"due,omitzero"`
	Through time.Time `json:"through,omitzero"`
	Back    time.Time `json:"back,omitzero"`
	Items   uint64    `json:"items"`
	// Problem is the code of what prevents reading, "not-granted" if the patient
	// left out the scope, or "".
	Problem string `json:"problem,omitempty"`
}

// status is the part of Status that comes from the plan.
type status struct {
	data    time.Time
	paused  bool
	past    float64
	streams []StreamStatus
}

// status returns the state of the plan after a turn.
func (t *task) status() status {
	s := status{data: t.plan.Data, paused: t.plan.Paused}
	var read, all time.Duration
	for _, name := range slices.Sorted(maps.Keys(t.plan.Streams)) {
		p := t.plan.Streams[name]
		one := StreamStatus{Name: name, Polled: p.Polled, Due: p.Due, Through: p.Through, Back: p.Back, Items: p.Items,
			Problem: p.Problem}
		if p.Uncovered {
			one.Problem = "not-granted"
		} else {
			all += p.Start.Sub(p.Floor)
			read += p.Start.Sub(maxTime(p.Back, p.Floor))
		}
		s.streams = append(s.streams, one)
	}
	if s.past = 1; all > 0 {
		s.past = float64(read) / float64(all)
	}
	return s
}

// Status returns the state of a link as of its latest turn.
func (e *Engine) Status(id string) (Status, error) {
	e.mu.Lock()
	t := e.tasks[id]
	leads := e.term != nil
	e.mu.Unlock()
	if t == nil && !leads {
		var err error
		if t, err = e.storedTask(context.Background(), id); err != nil {
			return Status{}, err
		}
	}
	if t == nil {
		return Status{}, noLink("sync.Status")
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	since := maxTime(t.shown.data, t.link.Connected)
	return Status{Link: t.link, Data: t.shown.data, Paused: t.shown.paused, Past: t.shown.past, Next: t.due,
		Late:   t.link.Status == link.Working && !t.shown.paused && e.Clock().Sub(since) > e.LateAfter,
		Events: len(t.events), Streams: t.shown.streams}, nil
}

// Pull polls all streams of a link now, as far back as items may still appear.
func (e *Engine) Pull(id string) error {
	if !e.shared || e.leads() {
		return e.pull(id)
	}
	ctx := context.Background()
	if _, err := e.storedTask(ctx, id); err != nil {
		return err
	}
	_, err := e.Store.Commit(ctx, &store.Batch{State: []store.StateWrite{{Key: pullPrefix + id,
		Value: []byte(fhir.RandomID())}}})
	return fhir.Wrap("sync.Pull", err)
}

func noLink(op string) error { return fhir.Errorf(fhir.NotFound, op, "there is no such connection") }

// pull is Pull at the process that reads the link.
func (e *Engine) pull(id string) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	t := e.tasks[id]
	if t == nil {
		return noLink("sync.Pull")
	}
	t.pull, t.blocked = true, time.Time{}
	e.schedule(t, e.Clock())
	return nil
}
