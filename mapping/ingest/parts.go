package ingest

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"sync"
	"time"

	"pulsegate/adapters"
	"pulsegate/fhir"
	"pulsegate/fhir/audit"
	"pulsegate/fhir/cluster/follow"
	"pulsegate/fhir/store"
)

// keepPart is the time for which a repeated part is recognized.
const keepPart = 24 * time.Hour

// partLease is the time after which another process may process a part whose delivery
// has committed nothing, because its process has died.
const partLease = time.Minute

// partMark is the state of a part that was delivered, or is being delivered.
type partMark struct {
	At     time.Time `json:"at"`
	Counts Counts    `json:"counts"`
	// Claim identifies the delivery that processes the part until the time Until. It is
	// empty after the delivery.
	Claim string    `json:"claim,omitempty"`
	Until time.Time `json:"until,omitzero"`
}

// errPartTaken is the error of a delivery whose part another process has begun to
// process.
var errPartTaken = fhir.Errorf(fhir.Unavailable, "ingest.deliver", "another server is processing the same part")

// partClaim is the claim of a delivery to process a part. Its first commit stores the
// claim, and each further one renews it, so that no commit of the delivery follows one
// of another process that processes the same part. A nil claim permits everything.
type partClaim struct {
	key, id string
	stored  []byte // latest value that was read or written
	next    []byte // value of the batch under way
	held    bool   // the claim is stored
}

// hold reads the claim before an attempt to commit.
func (c *partClaim) hold(ctx context.Context, p *Pipeline) error {
	if c == nil {
		return nil
	}
	m, raw, err := p.readPart(ctx, c.key)
	switch {
	case err != nil:
		return err
	case c.held && m.Claim != c.id:
		return errPartTaken
	case !c.held && m.isBusy(p.Clock()), !c.held && m.isDelivered(p.Clock()):
		return errPartTaken
	}
	now := p.Clock()
	c.stored = raw
	c.next, err = json.Marshal(partMark{Claim: c.id, Until: now.Add(partLease), At: now})
	return fhir.Wrap("ingest.deliver", err)
}

// write returns the write that replaces the stored claim or mark.
func (c *partClaim) write(value []byte, expires time.Time) store.StateWrite {
	w := store.StateWrite{Key: c.key, Value: value, Expect: store.StateAbsent, Expires: expires}
	if c.stored != nil {
		w.Expect, w.Old = store.StateEquals, c.stored
	}
	return w
}

// bind adds the claim to a batch.
func (c *partClaim) bind(b *store.Batch, now time.Time) {
	if c != nil {
		b.State = append(b.State, c.write(c.next, now.Add(keepPart)))
	}
}

// bound records that a batch with the claim was committed.
func (c *partClaim) bound() {
	if c != nil {
		c.stored, c.held = c.next, true
	}
}

// isBusy reports whether a delivery processes the part.
func (m *partMark) isBusy(now time.Time) bool { return m.Claim != "" && now.Before(m.Until) }

// isDelivered reports whether the part was delivered within keepPart.
func (m *partMark) isDelivered(now time.Time) bool {
	return m.Claim == "" && !m.At.IsZero() && now.Before(m.At.Add(keepPart))
}

// deliver runs a delivery, unless it repeats a part that was delivered before.
func (h *Handler) deliver(ctx context.Context, req Request) (_ Summary, err error) {
	p := h.Pipeline
	session := ""
	if a := p.adapter(req.Vendor); a != nil && req.Delivery != nil {
		session = adapters.Session(a, req.Delivery)
	}
	if session == "" {
		return p.Run(ctx, req)
	}
	d, err := p.begin(ctx, req)
	if err != nil {
		return Summary{}, err
	}
	hash := sha256.New()
	for _, s := range []string{req.Patient, req.Vendor, req.Principal.ClientID, req.Principal.Subject, req.Format,
		req.Name, session} {
		hash.Write([]byte(s))
		hash.Write([]byte{0})
	}
	f, size, err := spool(p.SpoolDir, io.TeeReader(&contextReader{ctx, req.Body}, hash), d.limits.MaxSpool)
	if err != nil {
		return Summary{}, d.recordFailure(ctx, err, "")
	}
	defer func() {
		if cerr := f.Close(); err == nil {
			err = fhir.Wrap("ingest.deliver", cerr)
		}
	}()
	req.At, req.Size, req.Body = f, size, io.NewSectionReader(f, 0, size)
	key := prefixPart + hex.EncodeToString(hash.Sum(nil))
	unlock, err := h.parts.lock(ctx, key)
	if err != nil {
		return Summary{}, d.recordFailure(ctx, err, reasonInterrupted)
	}
	defer unlock()
	for {
		switch mark, err := p.awaitPart(ctx, key); {
		case err != nil:
			return Summary{}, d.recordFailure(ctx, err, reasonInterrupted)
		case mark.isDelivered(p.Clock()):
			return d.repeated(ctx, mark)
		}
		req.part, req.Body = &partClaim{key: key, id: fhir.RandomID()}, io.NewSectionReader(f, 0, size)
		sum, err := p.Run(ctx, req)
		if errors.Is(err, errPartTaken) && !req.part.held {
			continue // another process was faster
		}
		h.mark(ctx, req.part, sum.Counts, err == nil)
		return sum, err
	}
}

// readPart returns the mark of a part, which is zero if there is none.
func (p *Pipeline) readPart(ctx context.Context, key string) (m partMark, raw []byte, err error) {
	raw, err = p.Store.Get(ctx, key)
	if err == nil && raw != nil {
		err = json.Unmarshal(raw, &m)
	}
	return m, raw, fhir.Wrap("ingest.partMark", err)
}

// awaitPart returns the mark of a part once no other process processes it.
func (p *Pipeline) awaitPart(ctx context.Context, key string) (m partMark, err error) {
	m, _, err = p.readPart(ctx, key)
	if err != nil || !m.isBusy(p.Clock()) {
		return m, err
	}
	changed, stop := follow.Watch(p.Store)
	defer stop()
	for {
		if m, _, err = p.readPart(ctx, key); err != nil || !m.isBusy(p.Clock()) {
			return m, err
		}
		timer := time.NewTimer(m.Until.Sub(p.Clock()))
		select {
		case <-changed:
		case <-timer.C:
		case <-ctx.Done():
		}
		timer.Stop()
		if err := ctx.Err(); err != nil {
			return m, err
		}
	}
}

// mark records that a part was delivered, or removes the claim of a delivery that
// failed. If that fails, a repetition is processed like a new part, which is harmless
// unless newer statements have arrived.
func (h *Handler) mark(ctx context.Context, c *partClaim, counts Counts, delivered bool) {
	if !delivered && !c.held {
		return
	}
	ctx = context.WithoutCancel(ctx)
	now := h.Pipeline.Clock().UTC()
	var raw []byte
	var err error
	if delivered {
		raw, err = json.Marshal(partMark{At: now, Counts: counts})
	}
	if err == nil {
		_, err = h.Pipeline.Store.Commit(ctx, &store.Batch{State: []store.StateWrite{c.write(raw, now.Add(keepPart))}})
	}
	if err != nil && h.Logger != nil {
		h.Logger.WarnContext(ctx, "a delivered part could not be marked", "error", err)
	}
}

// repeated records that a part was delivered again, and returns its Summary.
func (d *delivery) repeated(ctx context.Context, m partMark) (Summary, error) {
	event := d.auditEvent(audit.Ingest, audit.Success)
	event.Data = []audit.DataRef{{Ref: d.consentRef}}
	event.Extra = [][2]string{{"vendor", d.request.Vendor}, {"written", "0"}, {"repeated-part", "true"}}
	if err := d.pipeline.Audit.Record(ctx, event); err != nil {
		return Summary{}, fhir.Wrap("ingest.repeated", err)
	}
	return Summary{Counts: m.Counts, ByMetric: map[string]Counts{}, Repeated: true}, nil
}

// partLocks excludes concurrent deliveries of one part in this process. The zero value has no locks.
type partLocks struct {
	mu   sync.Mutex
	busy map[string]chan struct{} // closed when the delivery has ended; guarded by mu
}

// lock waits until no other delivery of the part runs, or ctx ends.
func (l *partLocks) lock(ctx context.Context, key string) (unlock func(), err error) {
	done := make(chan struct{})
	for {
		l.mu.Lock()
		other := l.busy[key]
		if other == nil {
			if l.busy == nil {
				l.busy = map[string]chan struct{}{}
			}
			l.busy[key] = done
			l.mu.Unlock()
			return func() {
				l.mu.Lock()
				defer l.mu.Unlock()
				delete(l.busy, key)
				close(done)
			}, nil
		}
		l.mu.Unlock()
		select {
		case <-other:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}
