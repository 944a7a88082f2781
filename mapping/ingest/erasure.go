package ingest

import (
	"context"
	"encoding/json"
	"errors"
	"sync"
	"time"

	"pulsegate/fhir"
	"pulsegate/fhir/store"
)

const (
	// erasureLease is the time after which an Erase that has committed nothing counts as
	// ended, because its process has died.
	erasureLease = time.Minute
	// keepErasure is the time for which an erasure is remembered. It is longer than any
	// delivery.
	keepErasure = 7 * 24 * time.Hour
)

// erasureMark is the state of the latest Erase of a patient and vendor. It keeps
// deliveries and the erasure of the same data apart in all processes: the first commit
// of an Erase changes it and touches the guard of deliveries, and a delivery fails if
// it has changed since the delivery began.
type erasureMark struct {
	ID string `json:"id"`
	// Process identifies the process that erases.
	Process string `json:"process"`
	// Until is the time until which the process is believed to erase, or the zero time
	// after its end.
	Until time.Time `json:"until,omitzero"`
}

func erasureKey(patient, vendor string) string { return prefixErasure + patient + "/" + vendor }

// erasures holds the running calls of Erase of this process.
type erasures struct {
	mu      sync.Mutex
	process string          // random id of this process; guarded by mu
	running map[string]bool // by erasureKey; guarded by mu
}

// begin registers a call of Erase. It reports false if one is running.
func (l *erasures) begin(key string) (process string, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.running == nil {
		l.running, l.process = map[string]bool{}, fhir.RandomID()
	}
	if l.running[key] {
		return "", false
	}
	l.running[key] = true
	return l.process, true
}

func (l *erasures) end(key string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.running, key)
}

// erasureMark returns the mark of a patient and vendor, which is zero if nothing was
// erased within keepErasure.
func (p *Pipeline) erasureMark(ctx context.Context, patient, vendor string) (m erasureMark, err error) {
	m, _, err = p.readErasure(ctx, erasureKey(patient, vendor))
	return m, err
}

func (p *Pipeline) readErasure(ctx context.Context, key string) (m erasureMark, raw []byte, err error) {
	raw, err = p.Store.Get(ctx, key)
	if err == nil && raw != nil {
		err = json.Unmarshal(raw, &m)
	}
	return m, raw, fhir.Wrap("ingest.erasure", err)
}

// isErasing reports whether a process erases the data of a mark now.
func (p *Pipeline) isErasing(m *erasureMark, patient, vendor string) bool {
	if m.Until.IsZero() {
		return false
	}
	p.erasures.mu.Lock()
	defer p.erasures.mu.Unlock()
	if m.Process == p.erasures.process {
		return p.erasures.running[erasureKey(patient, vendor)]
	}
	return p.Clock().Before(m.Until)
}

// latestErasure returns the id of the latest erasure, or "". It fails while an Erase
// runs. If a process has died while it erased, or is slow, latestErasure ends its
// erasure, so that it cannot continue between deliveries.
func (p *Pipeline) latestErasure(ctx context.Context, patient, vendor string) (id string, err error) {
	const op = "ingest.Run"
	key := erasureKey(patient, vendor)
	err = store.Retry(maxTries, op, errErasing(op).Error(), func() error {
		m, raw, err := p.readErasure(ctx, key)
		if id = m.ID; err != nil || m.Until.IsZero() {
			return err
		}
		if p.isErasing(&m, patient, vendor) {
			return errErasing(op)
		}
		m.Until, m.ID = time.Time{}, fhir.RandomID()
		next, err := json.Marshal(m)
		if err != nil {
			return fhir.Wrap(op, err)
		}
		id = m.ID
		_, err = p.Store.Commit(ctx, &store.Batch{State: []store.StateWrite{{Key: key, Value: next,
			Expect: store.StateEquals, Old: raw, Expires: p.Clock().Add(keepErasure)}}})
		return err
	})
	return id, err
}

// errBeingErased is the cause of errErasing.
var errBeingErased = errors.New("the data are being erased")

// errErasing is returned for a delivery or an Erase that overlaps with an Erase of the
// same data.
func errErasing(op string) error {
	err := fhir.Errorf(fhir.Unavailable, op, "the data of this vendor and patient are being deleted")
	err.Err = errBeingErased
	return err
}

// begin stores the mark of an erasure, after which no delivery that has begun before
// can commit. end stores that the erasure has ended.
func (e *erasing) begin(ctx context.Context) (end func(context.Context), err error) {
	const op = "ingest.Erase"
	p := e.pipeline
	key := erasureKey(e.request.Patient, e.request.Vendor)
	var found erasureMark
	if found, e.mark, err = p.readErasure(ctx, key); err != nil {
		return nil, err
	}
	if p.isErasing(&found, e.request.Patient, e.request.Vendor) {
		return nil, errErasing(op)
	}
	process, ok := p.erasures.begin(key)
	if !ok {
		return nil, errErasing(op)
	}
	e.id, e.process = fhir.RandomID(), process
	if err := e.store(ctx, p.Clock().Add(erasureLease)); err != nil {
		p.erasures.end(key)
		if store.Lost(err) {
			err = errErasing(op) // another process was faster
		}
		return nil, err
	}
	return func(ctx context.Context) {
		defer p.erasures.end(key)
		// If that fails, other processes wait for the end of the lease.
		_ = e.store(context.WithoutCancel(ctx), time.Time{})
	}, nil
}

// store commits the mark alone.
func (e *erasing) store(ctx context.Context, until time.Time) error {
	b := &store.Batch{Touches: []string{e.pairGuard()}}
	renewed, err := e.renew(b, until)
	if err != nil {
		return err
	}
	if _, err := e.pipeline.Store.Commit(ctx, b); err != nil {
		return fhir.Wrap("ingest.Erase", err)
	}
	e.mark = renewed
	return nil
}

// renew adds the mark to a batch, under the condition that no other process has taken
// over the erasure.
func (e *erasing) renew(b *store.Batch, until time.Time) ([]byte, error) {
	raw, err := json.Marshal(erasureMark{ID: e.id, Process: e.process, Until: until})
	w := store.StateWrite{Key: erasureKey(e.request.Patient, e.request.Vendor), Value: raw, Expect: store.StateAbsent,
		Expires: e.pipeline.Clock().Add(keepErasure)}
	if e.mark != nil {
		w.Expect, w.Old = store.StateEquals, e.mark
	}
	b.State = append(b.State, w)
	return raw, fhir.Wrap("ingest.Erase", err)
}
