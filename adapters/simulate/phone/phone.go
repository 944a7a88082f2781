package phone

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"io"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/klauspost/compress/zstd"

	"pulsegate/adapters/simulate"
)

// Format is the format in which a phone pushes.
type Format string

// The formats. They are the last segment of Pulsegate's addresses, too.
const (
	HealthAutoExport Format = "health-auto-export"
	Companion        Format = "companion"
)

// Options configures a Phone. Clock, Wearer, Start and URL are required.
type Options struct {
	Clock  *simulate.Clock
	Wearer simulate.Wearer
	Start  time.Time // first day with data
	Seed   uint64    // of the faults
	Format Format    // "" means HealthAutoExport
	// URL is the address that batches are posted to.
	URL string
	// Header and Value authenticate the phone: "Authorization" and "Bearer KEY".
	Header, Value string
	// Zstd compresses the bodies of the companion app.
	Zstd bool
	// Faults uses Outage (the phone is offline at a sync), Drop (the answer is lost),
	// Duplicate (a batch is sent twice) and Reorder (a batch arrives after the next one).
	Faults simulate.Faults
	// MostDays bounds the days that a batch covers. 0 means 7.
	MostDays int
	// HTTP sends the batches. If it is nil, a client with a timeout of 30 s is used.
	HTTP *http.Client
}

// Phone is a simulated phone. It is safe for concurrent use.
type Phone struct {
	opts   Options
	first  simulate.Day
	faults *simulate.Injector
	zstd   *zstd.Encoder

	sending sync.Mutex // held by Advance

	mu       sync.Mutex
	acked    time.Time // the server has everything up to this sync; guarded by mu
	tried    time.Time // latest sync at which a push was tried; guarded by mu
	sequence int       // number of batches; guarded by mu
	late     *batch    // to be sent after the next one; guarded by sending
	stats    Stats     // guarded by mu
	accepted time.Time // of the last accepted request; guarded by mu
}

// Stats counts what a phone has done.
type Stats struct {
	Syncs    int // syncs with a push
	Requests int
	Accepted int // requests answered 2xx
	Refused  int // requests answered otherwise, or not
	Injected map[simulate.Fault]uint64
}

// New returns a phone that has pushed nothing yet.
func New(o Options) (*Phone, error) {
	o.Format, o.MostDays = cmp.Or(o.Format, HealthAutoExport), cmp.Or(o.MostDays, 7)
	if o.Format != HealthAutoExport && o.Format != Companion {
		return nil, fmt.Errorf("phone: %q is not a format; use %s or %s", o.Format, HealthAutoExport, Companion)
	}
	if o.HTTP == nil {
		o.HTTP = &http.Client{Timeout: 30 * time.Second}
	}
	enc, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1))
	if err != nil {
		return nil, fmt.Errorf("phone: %w", err)
	}
	p := &Phone{opts: o, first: simulate.DayOf(o.Start), zstd: enc,
		faults: simulate.NewInjector(o.Seed, fmt.Sprint("phone ", o.Wearer.Index), o.Faults)}
	p.acked = p.first.At(o.Wearer.Zone, 0, 0).Add(-1) // data of midnight are not acknowledged
	return p, nil
}

// Advance pushes at the syncs up to the time of the clock. After a failure it goes on
// with the latest sync, and once more in a later call. It returns the error of ctx.
func (p *Phone) Advance(ctx context.Context) error {
	p.sending.Lock()
	defer p.sending.Unlock()
	now := p.opts.Clock.Now()
	p.mu.Lock()
	acked, tried := p.acked, p.tried
	p.mu.Unlock()
	last := p.opts.Wearer.LastSync(now)
	if tried.After(acked) && last.After(acked) {
		return p.catchUp(ctx, last)
	}
	for s := p.opts.Wearer.NextSync(acked); !s.IsZero() && !s.After(now); s = p.opts.Wearer.NextSync(s) {
		if p.faults.Draw(simulate.Outage, "sync") {
			p.mu.Lock()
			p.tried = s
			p.mu.Unlock()
			continue
		}
		if err := p.catchUp(ctx, s); err != nil {
			return err
		}
	}
	return ctx.Err()
}

// Run calls Advance as time passes, until ctx ends.
func (p *Phone) Run(ctx context.Context) error {
	for {
		if err := p.Advance(ctx); err != nil {
			return err
		}
		t := time.NewTimer(min(max(p.opts.Clock.Wall(time.Minute), 20*time.Millisecond), 5*time.Second))
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return ctx.Err()
		}
	}
}

// catchUp pushes everything since the last acknowledged batch, as far as it is known at
// the sync, in batches of MostDays. It stops at the first failure.
func (p *Phone) catchUp(ctx context.Context, sync time.Time) error {
	p.mu.Lock()
	p.tried = sync
	p.stats.Syncs++
	from := p.acked
	p.mu.Unlock()
	for from.Before(sync) {
		to := sync
		if limit := from.AddDate(0, 0, p.opts.MostDays); limit.Before(sync) {
			to = limit
		}
		for _, b := range p.batches(from, to, sync) {
			if ok, err := p.push(ctx, b); !ok {
				return err
			}
		}
		p.mu.Lock()
		p.acked = to
		p.mu.Unlock()
		from = to
	}
	return nil
}

// batch is one request.
type batch struct {
	body   []byte
	header [][2]string
	// inOrder is set if later batches restate values, and nothing in them tells which one
	// is newer.
	inOrder bool
}

// batches returns the requests for the interval from a time up to another, as known at
// the sync.
func (p *Phone) batches(from, to, sync time.Time) []batch {
	if p.opts.Format == HealthAutoExport {
		return p.automations(from, to)
	}
	p.mu.Lock()
	p.sequence++
	n := p.sequence
	p.mu.Unlock()
	b := batch{body: p.companionBody(from, to, sync, n), header: [][2]string{{"Content-Type", "application/json"}}}
	if p.opts.Zstd {
		b.body = p.zstd.EncodeAll(b.body, nil)
		b.header = append(b.header, [2]string{"Content-Encoding", "zstd"})
	}
	return []batch{b}
}

// push sends a request, twice if Duplicate occurs, and after the next one if Reorder
// occurs: iOS sends the files of background sessions in any order. It reports whether the
// phone need not send it again; the error is that of ctx.
func (p *Phone) push(ctx context.Context, b batch) (bool, error) {
	if p.late == nil && !b.inOrder && p.faults.Draw(simulate.Reorder, "batch") {
		p.late = &b
		return true, ctx.Err()
	}
	ok := p.post(ctx, b)
	if ok && p.late != nil {
		if ok = p.post(ctx, *p.late); ok {
			p.late = nil
		}
	}
	if ok && p.faults.Draw(simulate.Duplicate, "batch") {
		ok = p.post(ctx, b)
	}
	if ok && p.faults.Draw(simulate.Drop, "batch") {
		return false, ctx.Err()
	}
	return ok, ctx.Err()
}

func (p *Phone) post(ctx context.Context, b batch) bool {
	ok := p.request(ctx, b)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.stats.Requests++
	if ok {
		p.stats.Accepted++
		p.accepted = p.opts.Clock.Now()
	} else {
		p.stats.Refused++
	}
	return ok
}

// request sends one request and reports whether it was answered 2xx.
func (p *Phone) request(ctx context.Context, b batch) bool {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, p.opts.URL, bytes.NewReader(b.body))
	if err != nil {
		return false
	}
	for _, h := range b.header {
		req.Header.Set(h[0], h[1])
	}
	if p.opts.Header != "" {
		req.Header.Set(p.opts.Header, p.opts.Value)
	}
	res, err := p.opts.HTTP.Do(req)
	if err != nil {
		return false
	}
	_, err = io.Copy(io.Discard, io.LimitReader(res.Body, 1<<20))
	if closed := res.Body.Close(); err != nil || closed != nil {
		return false
	}
	return res.StatusCode/100 == 2
}

// Record is a value that the server must hold.
type Record struct {
	Type string    // metric of Health Auto Export, or type of HealthKit
	ID   string    // UUID, or "" if the format has none
	At   time.Time // beginning
	JSON []byte    // with sorted members, as sent last
}

// Truth returns what the server must hold after the last acknowledged sync: the samples
// that have not been deleted, or the latest row of each metric and time, by time. A batch
// that Reorder holds back counts as sent.
func (p *Phone) Truth() []Record {
	p.mu.Lock()
	acked := p.acked
	p.mu.Unlock()
	var out []Record
	if p.opts.Format == Companion {
		for _, e := range p.entries(p.first.At(p.opts.Wearer.Zone, 0, 0).Add(-48*time.Hour), acked) {
			if e.deleted.IsZero() || e.deleted.After(acked) {
				out = append(out, Record{e.typ, e.uuid, e.start, canonical(e.doc)})
			}
		}
	} else {
		out = p.rows(acked)
	}
	slices.SortStableFunc(out, func(a, b Record) int { return a.At.Compare(b.At) })
	return out
}

// Acknowledged returns the time up to which the phone knows that the server has all data.
func (p *Phone) Acknowledged() time.Time {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.acked
}

// Accepted returns the time when the server last accepted a request. By this time, it
// tells whether a value of a day can still change.
func (p *Phone) Accepted() time.Time {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.accepted
}

// Sent returns statistics of the work done so far.
func (p *Phone) Sent() Stats {
	p.mu.Lock()
	defer p.mu.Unlock()
	out := p.stats
	out.Injected = p.faults.Injected()
	return out
}

// Faults returns the injector. Its rates can be changed while the phone runs.
func (p *Phone) Faults() *simulate.Injector { return p.faults }
