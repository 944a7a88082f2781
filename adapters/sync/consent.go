package sync

import (
	"context"
	"encoding/json"
	"strings"
	"time"

	"pulsegate/adapters/link"
	"pulsegate/fhir"
	"pulsegate/fhir/store"
)

const consentPrefix = "sync/consent/"

// collection is the stored state of a patient's consent to the collection of a vendor's
// data. It outlives links, so that an account that is linked again is not read for the
// time without consent. There is none before the first consent.
type collection struct {
	Given bool `json:"given"`
	// Since is the time of the latest consent that followed a time without one. It is
	// zero after the first consent, which covers the past.
	Since time.Time `json:"since,omitzero"`
}

// follow reports whether a patient's consent permits collection, and since when if
// it did not once. It stores a change, so that a time without consent is known even
// if no turn falls into it.
func (e *Engine) follow(ctx context.Context, patient, vendor string) (ok bool, since time.Time, err error) {
	const op = "sync.consent"
	key := consentPrefix + patient + "/" + vendor
	err = store.Retry(attempts, op, "the consent is changing", func() error {
		_, ok, err = e.Consents.Collects(ctx, patient, vendor)
		if err != nil {
			return err
		}
		old, err := e.Store.Get(ctx, key)
		if err != nil {
			return err
		}
		var c collection
		if old != nil {
			if err := json.Unmarshal(old, &c); err != nil {
				return err
			}
		}
		if since = c.Since; ok == c.Given {
			return nil
		}
		w := store.StateWrite{Key: key, Expect: store.StateAbsent}
		if c.Given = ok; old != nil {
			w.Expect, w.Old = store.StateEquals, old
			if ok {
				c.Since = e.Clock()
			}
		}
		since = c.Since
		if w.Value, err = json.Marshal(c); err != nil {
			return err
		}
		_, err = e.Store.Commit(ctx, &store.Batch{State: []store.StateWrite{w}})
		return err
	})
	return ok, since, fhir.Wrap(op, err)
}

// attempts bounds the retries of a change that loses to other writers.
const attempts = 16

// permitted reports whether the patient's consent permits collection, and follows
// its changes in the plan.
func (e *Engine) permitted(ctx context.Context, t *task, l *link.Link) (bool, error) {
	ok, since, err := e.follow(ctx, l.Patient, l.Vendor)
	if err != nil {
		return false, err
	}
	now := e.Clock()
	if !ok {
		if !t.plan.Paused {
			t.plan.Paused = true
			err = e.savePlan(ctx, t)
		}
		e.forget(ctx, t)
		return false, err
	}
	if renewed := since.After(t.plan.Since); renewed || t.plan.Paused {
		if !renewed {
			since = now // the account was linked before the first consent
		}
		t.plan.begin(since, now)
		err = e.savePlan(ctx, t)
	}
	return true, err
}

// begin makes the plan read what is measured from since on, and nothing before.
func (p *plan) begin(since, now time.Time) {
	p.Paused, p.Since = false, since
	for _, s := range p.Streams {
		s.Due = now
		if !s.Start.IsZero() {
			s.Floor = maxTime(s.Floor, since)
			s.Start = maxTime(s.Start, s.Floor)
		}
	}
}

// ConsentChanged makes the engine look at the consent of a patient again. It does not
// block.
func (e *Engine) ConsentChanged(patient string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.changed[patient] = struct{}{}
	select {
	case e.consent <- struct{}{}:
	default: // the receiver will see this change, too
	}
}

// followChanges follows the changes of consents that ConsentChanged has announced.
func (e *Engine) followChanges(ctx context.Context) {
	e.mu.Lock()
	changed := e.changed
	if len(changed) > 0 {
		e.changed = map[string]struct{}{}
	}
	e.mu.Unlock()
	if len(changed) == 0 {
		return
	}
	for patient := range changed {
		for _, v := range e.Links.Vendors {
			if _, _, err := e.follow(ctx, patient, v.Code()); err != nil && ctx.Err() == nil {
				// The duty "consent" and the turns of the patient's links repeat it.
				e.Logger.Warn("sync: a consent could not be read", "vendor", v.Code(), "error", err.Error())
			}
		}
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, t := range e.tasks {
		if _, ok := changed[t.link.Patient]; ok {
			e.schedule(t, e.Clock())
		}
	}
}

// followConsents follows changes of consents until ctx ends. Turns are no substitute:
// a link whose turns are suspended may miss a time without consent.
func (e *Engine) followConsents(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-e.consent:
			e.followChanges(ctx)
		}
	}
}

// followAll follows the consents of all patients who have given one: nothing announces
// that a consent has ended by its period, or one that changed while the server was
// stopped.
func (e *Engine) followAll(ctx context.Context) (time.Time, error) {
	var all [][2]string
	err := e.Store.List(ctx, consentPrefix, func(key string, _ []byte) bool {
		patient, vendor, _ := strings.Cut(strings.TrimPrefix(key, consentPrefix), "/")
		all = append(all, [2]string{patient, vendor})
		return true
	})
	for _, one := range all {
		if err != nil {
			break
		}
		_, _, err = e.follow(ctx, one[0], one[1])
	}
	return e.Clock().Add(time.Hour), err
}
