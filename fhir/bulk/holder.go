package bulk

import (
	"context"
	"encoding/json"
	"strings"
	"sync"
	"time"

	"pulsegate/fhir"
	"pulsegate/fhir/access"
	"pulsegate/fhir/cluster/follow"
	"pulsegate/fhir/cluster/role"
	"pulsegate/fhir/store"
)

// holder prepares the jobs of all processes, while its process has the role.
type holder struct {
	exporter *Exporter
	ctx      context.Context // ends with the role
	term     role.Term
	wake     chan struct{} // has an element after a commit
	wg       sync.WaitGroup
	active   map[string]bool // ids of jobs that are being prepared; guarded by Exporter.mu
}

// lookEvery is the shortest time between two looks for jobs of other processes.
const lookEvery = 250 * time.Millisecond

// prepareAll prepares jobs until ctx ends.
func (e *Exporter) prepareAll(ctx context.Context, t role.Term) {
	h := &holder{exporter: e, ctx: ctx, term: t, wake: make(chan struct{}, 1), active: map[string]bool{}}
	e.mu.Lock()
	e.holder = h
	e.mu.Unlock()
	defer func() {
		e.mu.Lock()
		e.holder = nil
		e.mu.Unlock()
		h.wg.Wait()
	}()
	if err := h.resume(); err != nil {
		e.log(ctx, "unfinished exports could not be read", "", err)
	}
	follow.Signal(h.wake)
	loop := follow.Loop{Wake: h.wake, Pause: lookEvery, MinBackoff: lookEvery, MaxBackoff: time.Minute,
		Failed: func(err error) { e.log(ctx, "started exports could not be read", "", err) }}
	loop.Run(ctx, func(context.Context) (next time.Duration, err error) { return 0, h.follow() })
}

func (e *Exporter) log(ctx context.Context, what, id string, err error) {
	if ctx.Err() == nil {
		e.opts.Logger.ErrorContext(ctx, what, "job", id, "error", err)
	}
}

// look makes the holder look for jobs that other processes have started.
func (e *Exporter) look() {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.holder != nil {
		follow.Signal(e.holder.wake)
	}
}

// prepareHere prepares a job of a kick-off at this process if it has the role. The grant
// is that of the kick-off.
func (e *Exporter) prepareHere(j *job, g *access.Grant) {
	e.mu.Lock()
	h := e.holder
	e.mu.Unlock()
	if h != nil {
		h.start(j, g)
	}
}

// isUnacknowledged reports whether the kick-off of a job was interrupted.
func (e *Exporter) isUnacknowledged(j *job) bool {
	return j.Seq == 0 && e.opts.Clock().Sub(j.Created) >= unacknowledged
}

// resume starts the unfinished jobs of earlier holders, and removes those whose kick-off
// was interrupted.
func (h *holder) resume() error {
	e := h.exporter
	var dropped []*job
	err := e.each(h.ctx, func(j *job) {
		switch {
		case e.isUnacknowledged(j):
			dropped = append(dropped, j)
		case j.State == running && j.Seq != 0 && j.Format == jobFormat:
			h.start(j, nil)
		}
	})
	for _, j := range dropped {
		if err != nil {
			break
		}
		var old []byte
		if old, err = json.Marshal(j); err != nil {
			break
		}
		b := &store.Batch{State: []store.StateWrite{{Key: key(j.ID), Expect: store.StateEquals, Old: old}}}
		h.term.Bind(b)
		if _, err = e.opts.Store.Commit(h.ctx, b); store.Lost(err) {
			err = nil // it was acknowledged after all
		}
	}
	return err
}

// follow starts the jobs that were started by kick-offs since the last call.
func (h *holder) follow() error {
	e := h.exporter
	var ids []string
	err := e.opts.Store.List(h.ctx, runningPrefix, func(k string, _ []byte) bool {
		ids = append(ids, strings.TrimPrefix(k, runningPrefix))
		return true
	})
	for _, id := range ids {
		if err != nil {
			return err
		}
		var v []byte
		if v, err = e.opts.Store.Get(h.ctx, key(id)); err != nil || v == nil {
			continue
		}
		j := new(job)
		if json.Unmarshal(v, j) == nil && j.State == running && j.Format == jobFormat {
			h.start(j, nil)
		}
	}
	return err
}

// start determines in the background which files the job has, unless that is under way.
func (h *holder) start(j *job, g *access.Grant) {
	e := h.exporter
	e.mu.Lock()
	defer e.mu.Unlock()
	if h.active[j.ID] || e.holder != h {
		return
	}
	h.active[j.ID] = true
	h.wg.Go(func() {
		h.finish(j, g)
		e.mu.Lock()
		defer e.mu.Unlock()
		delete(h.active, j.ID)
	})
}

// finish prepares a job and stores the result.
func (h *holder) finish(j *job, g *access.Grant) {
	e := h.exporter
	var left []store.StateWrite
	old, err := json.Marshal(j)
	if err == nil {
		left, err = e.prepare(h.ctx, j, g, h.save)
	}
	if h.ctx.Err() != nil {
		return // the job keeps its state, and the next holder continues it
	}
	j.State = complete
	if err != nil {
		e.opts.Logger.ErrorContext(h.ctx, "export failed", "job", j.ID, "error", err)
		j.State = failed
	}
	sw, _, err := e.put(j, store.StateEquals, old)
	if err == nil {
		b := &store.Batch{State: append(left, sw, store.StateWrite{Key: runningKey(j.ID)})}
		if j.State == complete && e.delivers(j) {
			var first store.StateWrite
			if first, err = (&delivery{Job: j.ID, State: delivering, Expires: j.Expires}).write(nil); err != nil {
				e.log(h.ctx, "the state of an export cannot be written", j.ID, err)
				return
			}
			b.State = append(b.State, first)
		}
		h.term.Bind(b)
		_, err = e.opts.Store.Commit(h.ctx, b)
	}
	if err != nil && fhir.KindOf(err) != fhir.Conflict { // Conflict: the job was deleted, or the role is lost
		e.log(h.ctx, "the state of an export cannot be written", j.ID, err)
	}
}

// save stores files of a job that is being prepared.
func (h *holder) save(files []store.StateWrite) error {
	b := &store.Batch{State: files}
	h.term.Bind(b)
	_, err := h.exporter.opts.Store.Commit(h.ctx, b)
	return fhir.Wrap("bulk.prepare", err)
}
