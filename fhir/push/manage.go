package push

import (
	"context"
	"encoding/json"
	"slices"
	"strings"
	"time"

	"pulsegate/fhir"
	"pulsegate/fhir/store"
)

// Commit makes a change of targets durable, together with the record of the command
// that it belongs to.
type Commit func(ctx context.Context, ws ...store.StateWrite) error

func notFound() error { return fhir.Errorf(fhir.NotFound, "push", "no such target") }

// write returns the write of a target.
func (t *Target) write() (store.StateWrite, error) {
	v, err := json.Marshal(t)
	return store.StateWrite{Key: targetKey(t.Name), Value: v}, fhir.Wrap("push.write", err)
}

// validate checks a new target and returns it with its initial state. The caller holds
// stepping, so that the follower has processed nothing after From.
func (e *Engine) validate(t Target, since time.Time) (Target, error) {
	if err := t.check(e.opts.Base, e.opts.Policy, e.opts.Forms); err != nil {
		return t, err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.targets[t.Name] != nil {
		return t, fhir.Errorf(fhir.Conflict, "push.Add", "name: there is such a target already")
	}
	if len(e.targets) >= maxTargets {
		return t, fhir.Errorf(fhir.TooMany, "push.Add", "there are %d targets, which is the maximum", maxTargets)
	}
	t.Status, t.Reason, t.Created, t.From = Active, "", e.opts.Clock().UTC(), e.opts.Store.LastSeq()
	t.Backfill = e.backfillFrom(since)
	return t, nil
}

func (e *Engine) backfillFrom(since time.Time) *Backfill {
	if since.IsZero() {
		return nil
	}
	return &Backfill{Since: since.UTC(), At: e.opts.Store.LastSeq()}
}

// Add adds a target. What changes from now on is sent; if since is not zero, also what
// is stored with an effective time from since on.
func (e *Engine) Add(ctx context.Context, t Target, since time.Time, commit Commit) (Target, error) {
	e.manage.Lock()
	defer e.manage.Unlock()
	e.stepping.Lock()
	defer e.stepping.Unlock()
	t, err := e.validate(t, since)
	if err != nil {
		return t, err
	}
	// A target of this name that is being removed still has state.
	old, err := e.opts.Store.Get(ctx, targetKey(t.Name))
	if err != nil {
		return t, err
	}
	if old != nil {
		return t, fhir.Errorf(fhir.Conflict, "push.Add", "name: the former target of this name is still being removed")
	}
	w, err := t.write()
	if err != nil {
		return t, err
	}
	w.Expect = store.StateAbsent
	if err := commit(ctx, w); err != nil {
		return t, err
	}
	if err := e.launch(ctx, t); err != nil {
		return t, err
	}
	signal(e.wake)
	return t, nil
}

// change applies fn to a target and makes the result durable.
func (e *Engine) change(ctx context.Context, name string, commit Commit,
	fn func(*Target) ([]store.StateWrite, error)) (*sender, error) {
	e.manage.Lock()
	defer e.manage.Unlock()
	e.mu.Lock()
	s := e.targets[name]
	var t Target
	if s != nil {
		t = s.target
	}
	e.mu.Unlock()
	if s == nil {
		return nil, notFound()
	}
	ws, err := fn(&t)
	if err != nil {
		return nil, err
	}
	w, err := t.write()
	if err != nil {
		return nil, err
	}
	if err := commit(ctx, append(ws, w)...); err != nil {
		return nil, err
	}
	e.mu.Lock()
	s.target = t
	e.mu.Unlock()
	signal(s.wake)
	return s, nil
}

// Pause stops sending to a target. Changes are still queued.
func (e *Engine) Pause(ctx context.Context, name string, commit Commit) error {
	_, err := e.change(ctx, name, commit, func(t *Target) ([]store.StateWrite, error) {
		t.Status, t.Reason = Paused, ""
		return nil, nil
	})
	return err
}

// Resume sends to a target again that was paused or is in error. since is as in
// Add.
func (e *Engine) Resume(ctx context.Context, name string, since time.Time, commit Commit) error {
	_, err := e.change(ctx, name, commit, func(t *Target) ([]store.StateWrite, error) {
		t.Status, t.Reason = Active, ""
		if b := e.backfillFrom(since); b != nil {
			t.Backfill = b
		}
		return nil, nil
	})
	return err
}

// fail sets the status of a target to error, unless an operator has changed it.
func (e *Engine) fail(ctx context.Context, s *sender, class string) error {
	_, err := e.change(ctx, s.name, e.commitState, func(t *Target) ([]store.StateWrite, error) {
		if t.Status == Active {
			t.Status, t.Reason = Failed, class
		}
		return nil, nil
	})
	return err
}

// commitState is a Commit for changes that no command made.
func (e *Engine) commitState(ctx context.Context, ws ...store.StateWrite) error {
	_, err := e.opts.Store.Commit(ctx, &store.Batch{State: ws})
	return err
}

// Remove removes a target and deletes its state in the background. A request that is
// under way is finished. What was sent remains at the target.
func (e *Engine) Remove(ctx context.Context, name string, commit Commit) error {
	s, err := e.change(ctx, name, commit, func(t *Target) ([]store.StateWrite, error) {
		t.Status, t.Backfill = removed, nil
		return nil, nil
	})
	if err != nil {
		return err
	}
	s.cancel()
	<-s.ended
	e.stepping.Lock() // a step that began before may queue for the target
	//lint:ignore SA2001 no step that knows the target runs after this point
	e.stepping.Unlock()
	e.mu.Lock()
	delete(e.targets, name)
	e.mu.Unlock()
	e.wg.Go(func() { e.purge(e.ctx, name) })
	return nil
}

// purge deletes the state of a removed target, its own row last. After a crash, the
// next start continues.
func (e *Engine) purge(ctx context.Context, name string) {
	if err := e.deleteRows(ctx, name); err != nil && ctx.Err() == nil {
		e.opts.Logger.Error("the state of a removed target cannot be deleted", "target", name, "error", err)
	}
}

func (e *Engine) deleteRows(ctx context.Context, name string) error {
	for _, kind := range rowKinds() {
		for {
			var ws []store.StateWrite
			err := e.opts.Store.List(ctx, rowPrefix(kind, name), func(k string, _ []byte) bool {
				ws = append(ws, store.StateWrite{Key: k})
				return len(ws) < 1000
			})
			if err == nil && len(ws) > 0 {
				err = e.commitState(ctx, ws...)
			}
			if err != nil {
				return fhir.Wrap("push.deleteRows", err)
			}
			if len(ws) == 0 {
				break
			}
		}
	}
	return e.commitState(ctx, store.StateWrite{Key: statKey(name)}, store.StateWrite{Key: targetKey(name)})
}

// Retry queues what was set aside again and returns the number.
func (e *Engine) Retry(ctx context.Context, name string, commit Commit) (int, error) {
	total := 0
	for {
		n := 0
		s, err := e.change(ctx, name, commit, func(t *Target) (ws []store.StateWrite, err error) {
			ws, n, err = e.requeue(ctx, t.Name)
			return ws, err
		})
		if err != nil || n == 0 {
			return total, err
		}
		if total += n; n < maxRetry {
			// Patients whose request failed for this reason need not wait.
			signal(s.wake)
			return total, nil
		}
	}
}

// maxRetry is the number of Observations that one commit queues again.
const maxRetry = 2000

// requeue returns the writes that move Observations from the rows of what was set
// aside to the queue.
func (e *Engine) requeue(ctx context.Context, name string) ([]store.StateWrite, int, error) {
	var ws []store.StateWrite
	var bad error
	prefix, seq, now := rowPrefix("aside", name), e.opts.Store.LastSeq(), e.opts.Clock().UnixMilli()
	rows := map[string][]*row{}
	n := 0
	err := e.opts.Store.List(ctx, prefix, func(k string, v []byte) bool {
		var a aside
		if bad = json.Unmarshal(v, &a); bad != nil {
			return false
		}
		ws = append(ws, store.StateWrite{Key: k})
		rs := rows[a.Patient]
		if len(rs) == 0 || len(rs[len(rs)-1].IDs) >= maxRow {
			// The high bit keeps these rows apart from those of changes.
			rs = append(rs, &row{At: now, seq: seq, number: retryRow + len(rs)})
			rows[a.Patient] = rs
		}
		r := rs[len(rs)-1]
		r.IDs = append(r.IDs, strings.TrimPrefix(k, prefix))
		n++
		return n < maxRetry
	})
	if err == nil {
		err = bad
	}
	for patient, rs := range rows {
		for _, r := range rs {
			w, werr := r.write(rowPrefix("queue", name) + patient + "/")
			if werr != nil {
				err = werr
			}
			ws = append(ws, w)
		}
	}
	return ws, n, fhir.Wrap("push.requeue", err)
}

// The first row numbers of backfills and of Retry, above those of changes.
const (
	backfillRow = 1 << 30
	retryRow    = 1 << 31
)

// Summary describes a target for operators.
type Summary struct {
	Target
	Stat
	// Waiting is the number of queued Observations, and Patients that of their patients.
	Waiting  int `json:"waiting"`
	Patients int `json:"patients"`
	// Lag is the time since the first of them was queued.
	Lag time.Duration `json:"lag"`
	// SetAside is the number of Observations that are set aside now.
	SetAside int `json:"setAside"`
}

// Details describes a target with what does not get on.
type Details struct {
	Summary
	// Unmatched lists patients who have no Patient at the target, and Asides
	// Observations that were set aside, at most maxList of each.
	Unmatched []Unmatched `json:"unmatched"`
	Asides    []Aside     `json:"asides"`
}

// Unmatched is a patient without a Patient at the target.
type Unmatched struct {
	Patient string `json:"patient"`
	// Reason is no-match, several-matches, no-identifier or not-visible.
	Reason string    `json:"reason"`
	At     time.Time `json:"at"`
}

// Aside is an Observation that was set aside.
type Aside struct {
	ID      string    `json:"id"`
	Patient string    `json:"patient"`
	Status  int       `json:"status"` // HTTP status of the answer
	Codes   []string  `json:"codes,omitempty"`
	At      time.Time `json:"at"`
}

// List describes all targets, ordered by name.
func (e *Engine) List(ctx context.Context) ([]Summary, error) {
	e.mu.Lock()
	out := make([]Summary, 0, len(e.targets))
	for _, s := range e.targets {
		out = append(out, Summary{Target: s.target, Stat: s.stat})
	}
	e.mu.Unlock()
	slices.SortFunc(out, func(a, b Summary) int { return strings.Compare(a.Name, b.Name) })
	for i := range out {
		if err := e.summarize(ctx, &out[i]); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// summarize adds what the rows of a target say.
func (e *Engine) summarize(ctx context.Context, s *Summary) error {
	var bad error
	prefix, oldest, patient := rowPrefix("queue", s.Name), int64(0), ""
	err := e.opts.Store.List(ctx, prefix, func(k string, v []byte) bool {
		var q queued
		if q, bad = decode(prefix, k, v); bad != nil {
			return false
		}
		s.Waiting += len(q.IDs)
		if q.patient != patient {
			patient = q.patient
			s.Patients++
		}
		if oldest == 0 || q.At < oldest {
			oldest = q.At
		}
		return true
	})
	if oldest > 0 {
		s.Lag = max(0, e.opts.Clock().Sub(time.UnixMilli(oldest)))
	}
	if err == nil && bad == nil {
		err = e.opts.Store.List(ctx, rowPrefix("aside", s.Name), func(string, []byte) bool {
			s.SetAside++
			return true
		})
	}
	if err == nil {
		err = bad
	}
	return fhir.Wrap("push.summarize", err)
}

// Show describes one target.
func (e *Engine) Show(ctx context.Context, name string) (Details, error) {
	e.mu.Lock()
	s := e.targets[name]
	var d Details
	if s != nil {
		d.Target, d.Stat = s.target, s.stat
	}
	e.mu.Unlock()
	if s == nil {
		return d, notFound()
	}
	if err := e.summarize(ctx, &d.Summary); err != nil {
		return d, err
	}
	d.Unmatched, d.Asides = []Unmatched{}, []Aside{}
	var bad error
	prefix := rowPrefix("patient", name)
	err := e.opts.Store.List(ctx, prefix, func(k string, v []byte) bool {
		var m match
		if bad = json.Unmarshal(v, &m); bad == nil && m.Remote == "" {
			d.Unmatched = append(d.Unmatched, Unmatched{strings.TrimPrefix(k, prefix), m.Waits, m.At})
		}
		return bad == nil && len(d.Unmatched) < maxList
	})
	if err == nil && bad == nil {
		prefix := rowPrefix("aside", name)
		err = e.opts.Store.List(ctx, prefix, func(k string, v []byte) bool {
			var a aside
			if bad = json.Unmarshal(v, &a); bad == nil {
				d.Asides = append(d.Asides, Aside{strings.TrimPrefix(k, prefix), a.Patient, a.Status, a.Codes, a.At})
			}
			return bad == nil && len(d.Asides) < maxList
		})
	}
	if err == nil {
		err = bad
	}
	return d, fhir.Wrap("push.Show", err)
}
