package sync

import (
	"context"
	"encoding/json"
	"hash/fnv"
	"time"

	"pulsegate/adapters/cloud"
	"pulsegate/adapters/link"
	"pulsegate/fhir"
	"pulsegate/fhir/store"
)

const planPrefix = "sync/plan/"

// plan is the schedule of one link.
type plan struct {
	Streams map[string]*progress `json:"streams"`
	// Since is the time before which nothing is read, because there was no consent
	// then. It is zero if there always was one.
	Since time.Time `json:"since,omitzero"`
	// Paused is set while there is no consent.
	Paused bool `json:"paused,omitempty"`
	// Data is the time at which data last arrived.
	Data time.Time `json:"data,omitzero"`
	// Hook is the state of the subscriptions of the account, for cloud.AccountNotifier.
	Hook hook `json:"hook,omitzero"`

	// Budget is the state of the account's budget, if several processes share the store.
	Budget level `json:"budget,omitzero"`

	saved time.Time // time of the latest save
}

// hook is the state of the subscriptions of one account.
type hook struct {
	Due time.Time `json:"due,omitzero"` // when they are looked at next
	// Tried is the time of the latest attempt. A grant that is newer needs new
	// subscriptions.
	Tried  time.Time `json:"tried,omitzero"`
	Failed bool      `json:"failed,omitempty"` // at the latest attempt
}

// progress is the state of one stream of a link.
type progress struct {
	Due     time.Time `json:"due"`               // of the next poll
	Through time.Time `json:"through"`           // polled up to
	Polled  time.Time `json:"polled,omitzero"`   // time of the last successful poll
	Swept   time.Time `json:"swept,omitzero"`    // time of the latest poll of all that may still appear
	Back    time.Time `json:"back,omitzero"`     // the past was read down to
	Floor   time.Time `json:"floor,omitzero"`    // the past is read down to
	Start   time.Time `json:"start,omitzero"`    // where reading the past began
	Problem string    `json:"problem,omitempty"` // of the last attempt
	Items   uint64    `json:"items,omitempty"`   // read so far
	// Empty is set if the last poll returned no item.
	Empty bool `json:"empty,omitempty"`
	// Uncovered is set if the patient did not grant the scope.
	Uncovered bool `json:"uncovered,omitempty"`
}

// pastDone reports whether the past has been read.
func (p *progress) pastDone() bool { return !p.Back.After(p.Floor) }

// complete adds the streams that the plan lacks, and follows a change of the granted
// scopes.
func (p *plan) complete(l *link.Link, streams []cloud.Stream, now time.Time, backfill time.Duration) {
	for i := range streams {
		s := &streams[i]
		have := p.Streams[s.Name]
		if have == nil {
			have = &progress{Due: now, Through: l.Created, Swept: l.Created, Start: l.Created, Back: l.Created,
				Floor: l.Created.Add(-backfill)}
			if s.Span == cloud.Snapshot {
				have.Start, have.Back, have.Floor = time.Time{}, time.Time{}, time.Time{}
			}
			p.Streams[s.Name] = have
		}
		have.Uncovered = !l.Covers(s)
	}
}

// dailyPoll is the time between two polls of a stream whose changes are notified.
const dailyPoll = 24 * time.Hour

// silence is the time without any notification of a vendor after which its streams are
// polled as if there were none: a subscription may have ended unnoticed.
const silence = 48 * time.Hour

// every returns the time between two polls of a stream of a link.
func (e *Engine) every(v *vendor, p *plan, s *cloud.Stream) time.Duration {
	e.mu.Lock()
	defer e.mu.Unlock()
	_, own := v.Vendor.(cloud.AccountNotifier)
	subscribed := !own || !p.Hook.Failed && !p.Hook.Tried.IsZero()
	if s.Notified && subscribed && e.Clock().Sub(v.heard) < silence {
		return max(s.Every, dailyPoll)
	}
	return s.Every
}

// jitter spreads the polls of links and streams: it returns between 0.9 and 1.1
// times d, always the same for one poll.
func jitter(d time.Duration, id, stream string, at time.Time) time.Duration {
	h := fnv.New64a()
	_, _ = h.Write([]byte(id + "/" + stream + "/" + at.Format(time.RFC3339Nano))) // never fails
	return d*9/10 + time.Duration(h.Sum64()%1000)*(d/5)/1000
}

// spread returns between half of d and d, always the same for one stream of a link. Links
// that begin at one time, as after an import, are thereby polled at different times.
func spread(d time.Duration, id, stream string) time.Duration {
	h := fnv.New64a()
	_, _ = h.Write([]byte(id + "/" + stream)) // never fails
	return d/2 + time.Duration(h.Sum64()%1000)*(d/2)/1000
}

// due returns the time of the next turn.
func (p *plan) due(now time.Time) time.Time {
	at := farFuture
	if !p.Paused && !p.Hook.Due.IsZero() {
		at = p.Hook.Due
	}
	for _, s := range p.Streams {
		if s.Uncovered {
			continue
		}
		if !p.Paused && !s.pastDone() && s.Problem == "" {
			return now
		}
		at = minTime(at, s.Due)
	}
	return at
}

// farFuture is later than any turn.
var farFuture = time.Date(9999, 1, 1, 0, 0, 0, 0, time.UTC)

func (e *Engine) loadPlan(ctx context.Context, id string) (*plan, error) {
	b, err := e.Store.Get(ctx, planPrefix+id)
	if err != nil || b == nil {
		return nil, err
	}
	p := &plan{}
	if err := json.Unmarshal(b, p); err != nil {
		return nil, fhir.Wrap("sync.plan", err)
	}
	if p.Streams == nil {
		p.Streams = map[string]*progress{}
	}
	return p, nil
}

func (e *Engine) deletePlan(ctx context.Context, id string) error {
	return fhir.Wrap("sync.plan", e.commit(ctx, store.StateWrite{Key: planPrefix + id}))
}

// savePlan stores the plan of a link, unless the link has ended.
func (e *Engine) savePlan(ctx context.Context, t *task) error {
	if e.shared {
		e.mu.Lock()
		t.plan.Budget = t.account.level(e.Clock())
		t.plan.Budget.Blocked = t.blocked
		e.mu.Unlock()
	}
	b, err := json.Marshal(t.plan)
	if err != nil {
		return fhir.Wrap("sync.plan", err)
	}
	if err = e.commit(ctx, store.StateWrite{Key: planPrefix + t.id, Value: b}); err == nil {
		t.plan.saved = e.Clock()
	}
	return fhir.Wrap("sync.plan", err)
}
