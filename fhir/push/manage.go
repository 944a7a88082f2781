package push

import (
	"bytes"
	"context"
	"encoding/json"
	"slices"
	"strconv"
	"strings"
	"time"

	"pulsegate/fhir"
	"pulsegate/fhir/cluster/follow"
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

// targetRow is a target with the value of its row.
type targetRow struct {
	Target
	row []byte
}

// rows returns all targets, including those that are being removed.
func (e *Engine) rows(ctx context.Context) ([]targetRow, error) {
	var all []targetRow
	var bad error
	err := e.opts.Store.List(ctx, keyPrefix+"target/", func(_ string, v []byte) bool {
		t := targetRow{row: bytes.Clone(v)}
		if bad = json.Unmarshal(v, &t.Target); bad == nil {
			all = append(all, t)
		}
		return bad == nil
	})
	if err == nil {
		err = bad
	}
	return all, fhir.Wrap("push.rows", err)
}

// find returns a target that is not being removed.
func (e *Engine) find(ctx context.Context, name string) (t targetRow, err error) {
	if !fhir.ValidID(name) {
		return t, notFound()
	}
	if t.row, err = e.opts.Store.Get(ctx, targetKey(name)); err != nil {
		return t, err
	}
	if t.row == nil {
		return t, notFound()
	}
	if err := json.Unmarshal(t.row, &t.Target); err != nil {
		return t, fhir.Wrap("push.find", err)
	}
	if t.Status == removed {
		return t, notFound()
	}
	return t, nil
}

// maxTries bounds the attempts of a change of targets, which fail if another process
// changes targets meanwhile.
const maxTries = 64

// revise commits the writes that prepare returns, and a new revision of the targets. If
// the revision has changed since, prepare is called again.
func (e *Engine) revise(ctx context.Context, commit Commit, prepare func() ([]store.StateWrite, error)) error {
	const op = "push.revise"
	e.manage.Lock()
	defer e.manage.Unlock()
	for range maxTries {
		old, err := e.opts.Store.Get(ctx, revisionKey)
		if err != nil {
			return err
		}
		ws, err := prepare()
		if err != nil {
			return err
		}
		w, err := revision(old)
		if err != nil {
			return err
		}
		if err = commit(ctx, append(ws, w)...); !store.Lost(err) {
			return err
		}
		now, gerr := e.opts.Store.Get(ctx, revisionKey)
		if gerr != nil || bytes.Equal(now, old) {
			return err // the command conflicts with something else
		}
	}
	return fhir.Errorf(fhir.Unavailable, op, "other commands change targets; repeat the command")
}

// revision returns the write of the revision that follows old, which is nil if there is
// none.
func revision(old []byte) (store.StateWrite, error) {
	w := store.StateWrite{Key: revisionKey, Expect: store.StateAbsent}
	var n uint64
	if old != nil {
		var err error
		if n, err = strconv.ParseUint(string(old), 10, 64); err != nil {
			return w, fhir.Wrap("push.revision", err)
		}
		w.Expect, w.Old = store.StateEquals, old
	}
	w.Value = strconv.AppendUint(nil, n+1, 10)
	return w, nil
}

// validate checks a new target and returns it with its initial state.
func (e *Engine) validate(ctx context.Context, t Target, since time.Time) (Target, error) {
	const op = "push.Add"
	if err := t.check(e.opts.Base, e.opts.Policy, e.opts.Forms); err != nil {
		return t, err
	}
	if _, err := e.opts.TokensFor(t); err != nil {
		return t, err
	}
	all, err := e.rows(ctx)
	if err != nil {
		return t, err
	}
	for i := range all {
		switch {
		case all[i].Name != t.Name:
		case all[i].Status == removed:
			return t, fhir.Errorf(fhir.Conflict, op, "name: the former target of this name is still being removed")
		default:
			return t, fhir.Errorf(fhir.Conflict, op, "name: there is such a target already")
		}
	}
	if len(all) >= maxTargets {
		return t, fhir.Errorf(fhir.TooMany, op, "there are %d targets, which is the maximum", maxTargets)
	}
	t.Status, t.Reason, t.Created, t.From = Active, "", e.opts.Clock().UTC(), e.opts.Store.LastSeq()
	t.Backfill, t.Joining = e.backfillFrom(since), true
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
	f := e.role.Current()
	added, err := e.add(ctx, f, t, since, commit)
	if store.Lost(err) && f != nil { // this process may have lost the role
		added, err = e.add(ctx, nil, t, since, commit)
	}
	if err == nil {
		e.refresh(ctx)
	}
	return added, err
}

// add adds a target. With the follower f of this process, which does not pass the target's
// From meanwhile, the target need not be joined later; the commit is bound to the term.
func (e *Engine) add(ctx context.Context, f *follower, t Target, since time.Time, commit Commit) (Target, error) {
	locked := false
	defer func() {
		if locked {
			f.stepping.Unlock()
		}
	}()
	err := e.revise(ctx, commit, func() ([]store.StateWrite, error) {
		if f != nil && !locked { // revise holds manage, which comes first
			f.stepping.Lock()
			locked = true
		}
		var err error
		if t, err = e.validate(ctx, t, since); err != nil {
			return nil, err
		}
		b := &store.Batch{}
		if f != nil {
			t.Joining = false
			f.term.Bind(b)
		}
		w, err := t.write()
		w.Expect = store.StateAbsent
		return append(b.State, w), err
	})
	return t, err
}

// refresh tells the follower of this process, if there is one, about changed targets.
func (e *Engine) refresh(ctx context.Context) {
	f := e.role.Current()
	if f == nil {
		return
	}
	if err := f.refresh(); err != nil && f.ctx.Err() == nil {
		e.opts.Logger.ErrorContext(ctx, "targets cannot be read", "error", err)
		follow.Signal(f.look) // try again
	}
}

// change applies fn to a target and makes the result durable.
func (e *Engine) change(ctx context.Context, name string, commit Commit,
	fn func(*Target) ([]store.StateWrite, error)) error {
	err := e.revise(ctx, commit, func() ([]store.StateWrite, error) {
		t, err := e.find(ctx, name)
		if err != nil {
			return nil, err
		}
		ws, err := fn(&t.Target)
		if err != nil {
			return nil, err
		}
		w, err := t.write()
		w.Expect, w.Old = store.StateEquals, t.row
		return append(ws, w), err
	})
	if err == nil {
		e.refresh(ctx)
	}
	return err
}

// Pause stops sending to a target. Changes are still queued.
func (e *Engine) Pause(ctx context.Context, name string, commit Commit) error {
	return e.change(ctx, name, commit, func(t *Target) ([]store.StateWrite, error) {
		t.Status, t.Reason = Paused, ""
		return nil, nil
	})
}

// Resume sends to a target again that was paused or is in error. since is as in
// Add.
func (e *Engine) Resume(ctx context.Context, name string, since time.Time, commit Commit) error {
	return e.change(ctx, name, commit, func(t *Target) ([]store.StateWrite, error) {
		t.Status, t.Reason = Active, ""
		if b := e.backfillFrom(since); b != nil {
			t.Backfill = b
		}
		return nil, nil
	})
}

// Remove removes a target. The process that sends deletes its state in the background.
// If that is this process, Remove waits for a request that is under way. What was sent
// remains at the target.
func (e *Engine) Remove(ctx context.Context, name string, commit Commit) error {
	var s *sender
	if f := e.role.Current(); f != nil {
		f.mu.Lock()
		s = f.targets[name]
		f.mu.Unlock()
	}
	err := e.change(ctx, name, commit, func(t *Target) ([]store.StateWrite, error) {
		t.Status, t.Backfill = removed, nil
		return nil, nil
	})
	if err == nil && s != nil {
		select {
		case <-s.ended:
		case <-ctx.Done():
		}
	}
	return err
}

// Retry queues what was set aside again and returns the number.
func (e *Engine) Retry(ctx context.Context, name string, commit Commit) (int, error) {
	total := 0
	for {
		n := 0
		err := e.change(ctx, name, commit, func(t *Target) (ws []store.StateWrite, err error) {
			ws, n, err = e.requeue(ctx, t.Name)
			return ws, err
		})
		if err != nil || n == 0 {
			return total, err
		}
		if total += n; n < maxRetry {
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
	all, err := e.rows(ctx)
	if err != nil {
		return nil, err
	}
	out := make([]Summary, 0, len(all))
	for _, t := range all {
		if t.Status == removed {
			continue
		}
		stat, err := e.stat(ctx, t.Name)
		if err != nil {
			return nil, err
		}
		out = append(out, Summary{Target: t.Target, Stat: stat})
	}
	slices.SortFunc(out, func(a, b Summary) int { return strings.Compare(a.Name, b.Name) })
	for i := range out {
		if err := e.summarize(ctx, &out[i]); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// stat returns the counters of a target: the present ones if this process sends, and the
// durable ones otherwise.
func (e *Engine) stat(ctx context.Context, name string) (out Stat, err error) {
	if f := e.role.Current(); f != nil {
		f.mu.Lock()
		defer f.mu.Unlock()
		if s := f.targets[name]; s != nil {
			return s.stat, nil
		}
	}
	v, err := e.opts.Store.Get(ctx, statKey(name))
	if err == nil && v != nil {
		err = json.Unmarshal(v, &out)
	}
	return out, fhir.Wrap("push.stat", err)
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
	var d Details
	t, err := e.find(ctx, name)
	if err != nil {
		return d, err
	}
	d.Target = t.Target
	if d.Stat, err = e.stat(ctx, name); err != nil {
		return d, err
	}
	if err := e.summarize(ctx, &d.Summary); err != nil {
		return d, err
	}
	d.Unmatched, d.Asides = []Unmatched{}, []Aside{}
	var bad error
	prefix := rowPrefix("patient", name)
	err = e.opts.Store.List(ctx, prefix, func(k string, v []byte) bool {
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
