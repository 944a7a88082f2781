package ingest

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"io"
	"sync"
	"time"

	"pulsegate/adapters"
	"pulsegate/fhir"
	"pulsegate/fhir/audit"
	"pulsegate/fhir/store"
)

// keepPart is the time for which a repeated part is recognized.
const keepPart = 24 * time.Hour

// partMark is the state of a part that was delivered.
type partMark struct {
	At     time.Time `json:"at"`
	Counts Counts    `json:"counts"`
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
	if mark, ok, err := p.partMark(ctx, key); err != nil {
		return Summary{}, d.recordFailure(ctx, err, "")
	} else if ok {
		return d.repeated(ctx, mark)
	}
	sum, err := p.Run(ctx, req)
	if err == nil {
		h.mark(ctx, key, sum.Counts)
	}
	return sum, err
}

// partMark returns the mark of a part that was delivered within keepPart.
func (p *Pipeline) partMark(ctx context.Context, key string) (m partMark, ok bool, err error) {
	raw, err := p.Store.Get(ctx, key)
	if err != nil || raw == nil {
		return m, false, fhir.Wrap("ingest.partMark", err)
	}
	if err := json.Unmarshal(raw, &m); err != nil {
		return m, false, fhir.Wrap("ingest.partMark", err)
	}
	return m, p.Clock().Before(m.At.Add(keepPart)), nil
}

// mark records that a part was delivered. If that fails, a repetition is processed
// like a new part, which is harmless unless newer statements have arrived.
func (h *Handler) mark(ctx context.Context, key string, counts Counts) {
	now := h.Pipeline.Clock().UTC()
	raw, err := json.Marshal(partMark{At: now, Counts: counts})
	if err == nil {
		_, err = h.Pipeline.Store.Commit(ctx, &store.Batch{State: []store.StateWrite{{Key: key, Value: raw,
			Expires: now.Add(keepPart)}}})
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

// partLocks excludes concurrent deliveries of one part. The zero value has no locks.
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
