package bulk

import (
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"pulsegate/fhir"
	"pulsegate/fhir/access"
	"pulsegate/fhir/audit"
	"pulsegate/fhir/store"
	"pulsegate/fhir/yield"
)

// Options of an Exporter.
type Options struct {
	Store store.Store
	Audit *audit.Recorder
	Clock func() time.Time
	Rand  io.Reader
	// Base is the FHIR base URL, without a slash at the end.
	Base string
	// GrantFor compiles what a client may do from the scopes stored at the
	// kick-off and the consents of now. It is used when a job goes on after a
	// restart; every request from outside brings its own grant.
	GrantFor func(ctx context.Context, clientID, scope string) (*access.Grant, error)
	// Expires is how long a job can be fetched. Zero: 24 h.
	Expires time.Duration
	// MaxRunning and MaxKept bound the jobs of one client that are being
	// prepared, and that are kept. Zero: 4 and 200.
	MaxRunning, MaxKept int
	Logger              *slog.Logger
}

// Exporter runs exports. Close ends what is running; it goes on after the
// next New.
type Exporter struct {
	opts   Options
	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup
	stop   func()
	epoch  atomic.Uint64 // counts commits that touched a Consent
	mu     sync.Mutex    // serialises kick-offs, so that limits hold
}

// Job states.
const (
	running  = "running"
	complete = "complete"
	failed   = "failed"
)

// job is the durable form.
type job struct {
	ID          string    `json:"id"`
	Client      string    `json:"client"`
	Scope       string    `json:"scope"`
	State       string    `json:"state"`
	Level       Level     `json:"level"`
	GroupID     string    `json:"group,omitempty"`
	Types       []string  `json:"types"`
	Since       time.Time `json:"since,omitzero"`
	T           store.Seq `json:"t"` // 0 until the kick-off is acknowledged
	Transaction time.Time `json:"transactionTime,omitzero"`
	Request     string    `json:"request"`
	Created     time.Time `json:"created"`
	Expires     time.Time `json:"expires"`
	Warnings    []string  `json:"warnings,omitempty"`
	// Found: the types of which there is anything, known when complete.
	Found   []string `json:"found,omitempty"`
	Deleted bool     `json:"deleted,omitempty"`
}

func key(id string) string { return "bulk/" + id }

// New starts an Exporter and takes up the jobs a previous process left.
func New(ctx context.Context, o Options) (*Exporter, error) {
	const op = "bulk.New"
	if o.Store == nil || o.Audit == nil || o.Clock == nil || o.Rand == nil || o.GrantFor == nil {
		return nil, fhir.Errorf(fhir.Internal, op, "store, audit, clock, randomness and GrantFor are needed")
	}
	if o.Expires <= 0 {
		o.Expires = 24 * time.Hour
	}
	if o.MaxRunning <= 0 {
		o.MaxRunning = 4
	}
	if o.MaxKept <= 0 {
		o.MaxKept = 200
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	x := &Exporter{opts: o}
	x.ctx, x.cancel = context.WithCancel(context.WithoutCancel(ctx))
	x.stop = o.Store.Watch(func(c store.Commit) {
		for i := range c.Changes {
			if c.Changes[i].Ref.Type == "Consent" {
				x.epoch.Add(1)
				return
			}
		}
	})
	var left []*job
	err := x.each(ctx, func(j *job) {
		if j.State == running {
			left = append(left, j)
		}
	})
	if err != nil {
		x.Close()
		return nil, fhir.Wrap(op, err)
	}
	for _, j := range left {
		if j.T == 0 {
			// Its kick-off was never acknowledged; nobody can ask for it.
			if err := x.drop(ctx, j.ID); err != nil {
				x.Close()
				return nil, fhir.Wrap(op, err)
			}
			continue
		}
		x.start(j, nil)
	}
	return x, nil
}

// Close stops preparing jobs and waits for it. Downloads end with their own
// requests.
func (x *Exporter) Close() {
	x.cancel()
	x.stop()
	x.wg.Wait()
}

func (x *Exporter) each(ctx context.Context, fn func(*job)) error {
	var bad int
	err := x.opts.Store.List(ctx, "bulk/", func(_ string, v []byte) bool {
		j := new(job)
		if json.Unmarshal(v, j) != nil {
			bad++
			return true
		}
		if x.opts.Clock().Before(j.Expires) {
			fn(j)
		}
		return true
	})
	if bad > 0 {
		x.opts.Logger.ErrorContext(ctx, "export jobs that cannot be read", "jobs", bad)
	}
	return err
}

func (x *Exporter) put(j *job, expect store.StateExpect, old []byte) (store.StateWrite, []byte, error) {
	v, err := json.Marshal(j)
	return store.StateWrite{Key: key(j.ID), Value: v, Expect: expect, Old: old, Expires: j.Expires}, v, err
}

func (x *Exporter) drop(ctx context.Context, id string) error {
	_, err := x.opts.Store.Commit(ctx, &store.Batch{State: []store.StateWrite{{Key: key(id)}}})
	return err
}

// KickOff checks a request and makes its job durable together with its audit
// record. It returns the polling location.
func (x *Exporter) KickOff(ctx context.Context, c audit.Caller, r Request) (string, error) {
	const op = "bulk.KickOff"
	p := c.Principal
	if p == nil || p.ClientID == "" {
		return "", fhir.Errorf(fhir.Unauthorized, op, "an export needs an access token")
	}
	s, err := r.check(p.Grant)
	if err != nil {
		return "", err
	}
	if r.Level == Group {
		if _, err := x.members(ctx, r.GroupID, 0, p.Grant); err != nil {
			return "", err
		}
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	if err := x.limits(ctx, p.ClientID); err != nil {
		return "", err
	}
	id, err := fhir.NewID(x.opts.Rand)
	if err != nil {
		return "", err
	}
	now := x.opts.Clock().UTC()
	j := &job{
		ID: id, Client: p.ClientID, Scope: p.Scope, State: running, Level: r.Level, GroupID: r.GroupID, Types: s.types,
		Since: s.since, Request: r.URL, Created: now, Expires: now.Add(x.opts.Expires), Warnings: s.warnings,
	}
	sw, old, err := x.put(j, store.StateAbsent, nil)
	if err != nil {
		return "", fhir.Wrap(op, err)
	}
	res, err := audit.Commit(ctx, x.opts.Store, x.opts.Audit, &store.Batch{State: []store.StateWrite{sw}},
		audit.Event{Type: audit.Export, Interaction: "operation", Caller: c, Query: r.URL,
			Extra: [][2]string{{"job", j.ID}}})
	if err != nil {
		return "", fhir.Wrap(op, err)
	}
	// The snapshot is the commit of the kick-off itself.
	j.T, j.Transaction = res.Seq, res.Outcomes[0].LastUpdated.Add(-time.Millisecond)
	if sw, _, err = x.put(j, store.StateEquals, old); err != nil {
		return "", fhir.Wrap(op, err)
	}
	if _, err := x.opts.Store.Commit(ctx, &store.Batch{State: []store.StateWrite{sw}}); err != nil {
		return "", fhir.Wrap(op, err)
	}
	x.start(j, p.Grant)
	return x.statusURL(j.ID), nil
}

func (x *Exporter) limits(ctx context.Context, client string) error {
	active, kept := 0, 0
	err := x.each(ctx, func(j *job) {
		if j.Client != client {
			return
		}
		kept++
		if j.State == running {
			active++
		}
	})
	if err != nil {
		return fhir.Wrap("bulk.KickOff", err)
	}
	if active >= x.opts.MaxRunning {
		return fhir.Errorf(fhir.TooMany, "bulk.KickOff",
			"this client has %d exports in progress; wait for one, or delete it", active)
	}
	if kept >= x.opts.MaxKept {
		return fhir.Errorf(fhir.TooMany, "bulk.KickOff", "this client keeps %d exports; delete those that are done",
			kept)
	}
	return nil
}

// start looks in the background which files there will be.
func (x *Exporter) start(j *job, g *access.Grant) {
	x.wg.Go(func() {
		old, err := json.Marshal(j)
		if err == nil {
			err = x.prepare(x.ctx, j, g)
		}
		if x.ctx.Err() != nil {
			return // shutting down: the job stays as it is and goes on later
		}
		j.State = complete
		if err != nil {
			x.opts.Logger.ErrorContext(x.ctx, "export failed", "job", j.ID, "err", err)
			j.State = failed
		}
		sw, _, err := x.put(j, store.StateEquals, old)
		if err == nil {
			_, err = x.opts.Store.Commit(x.ctx, &store.Batch{State: []store.StateWrite{sw}})
		}
		if err != nil && fhir.KindOf(err) != fhir.Conflict { // Conflict: deleted meanwhile
			x.opts.Logger.ErrorContext(x.ctx, "export state could not be written", "job", j.ID, "err", err)
		}
	})
}

func (x *Exporter) prepare(ctx context.Context, j *job, g *access.Grant) error {
	if g == nil {
		var err error
		if g, err = x.opts.GrantFor(ctx, j.Client, j.Scope); err != nil {
			return err
		}
	}
	for _, t := range j.Types {
		any := false
		err := x.scan(ctx, j, t, false, g, func(*store.Found) bool { any = true; return false })
		if err != nil {
			return err
		}
		if any {
			j.Found = append(j.Found, t)
		}
		if j.Since.IsZero() || j.Deleted {
			continue
		}
		err = x.scan(ctx, j, t, true, g, func(f *store.Found) bool {
			j.Deleted = j.Deleted || f.Resource.Deleted
			return !j.Deleted
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// yieldEvery is the number of resources after which a scan yields the
// processor, about 100 us.
const yieldEvery = 64

// scan calls fn for what j holds of one type: live resources, or with
// deletions also the markers.
func (x *Exporter) scan(ctx context.Context, j *job, typ string, deleted bool, g *access.Grant,
	fn func(*store.Found) bool) error {
	r := store.ScanRange{Types: []string{typ}, Since: j.Since, At: j.T, Filter: g.Filter(access.Read), Deleted: deleted}
	more, pace := true, yield.Counter{Every: yieldEvery}
	take := func(f *store.Found) bool {
		pace.Add(1)
		if j.Level != System && typ != "Patient" && (f.Facts == nil || f.Facts.Patient == "") {
			return true
		}
		more = ctx.Err() == nil && fn(f)
		return more
	}
	if j.Level != Group {
		if err := x.opts.Store.Scan(ctx, r, take); err != nil {
			return err
		}
		return ctx.Err()
	}
	members, err := x.members(ctx, j.GroupID, j.T, nil)
	if err != nil {
		return err
	}
	for _, m := range members {
		r.Patient = m
		if err := x.opts.Store.Scan(ctx, r, take); err != nil {
			return err
		}
		if !more {
			break
		}
	}
	return ctx.Err()
}

// members returns the patients of a Group at a snapshot, in the order in
// which they stand there. With a grant, a group it may not read is NotFound.
func (x *Exporter) members(ctx context.Context, id string, at store.Seq, g *access.Grant) ([]string, error) {
	const op = "bulk.members"
	absent := fhir.Errorf(fhir.NotFound, op, "there is no such Group")
	if g != nil && !g.May(access.Read, "Group") { // before anything tells whether it is there
		return nil, fhir.Errorf(fhir.Forbidden, op, "the token's scopes do not cover reading Group")
	}
	if !fhir.ValidID(id) {
		return nil, absent
	}
	res, facts, err := x.opts.Store.Read(ctx, fhir.Ref{Type: "Group", ID: id}, at)
	switch {
	case err != nil && fhir.KindOf(err) == fhir.NotFound:
		return nil, absent
	case err != nil:
		return nil, fhir.Wrap(op, err)
	case res.Deleted:
		return nil, absent
	case g != nil && !g.Filter(access.Read).Allow(facts):
		return nil, absent
	}
	var body struct {
		Member []struct {
			Entity   struct{ Reference string }
			Inactive bool
		}
	}
	if err := json.Unmarshal(res.JSON, &body); err != nil {
		return nil, fhir.Wrap(op, err)
	}
	seen := map[string]bool{}
	var out []string
	for _, m := range body.Member {
		ref, ok := fhir.ParseRef(strings.TrimPrefix(m.Entity.Reference, x.opts.Base+"/"))
		if ok && ref.Type == "Patient" && !m.Inactive && !seen[ref.ID] {
			seen[ref.ID] = true
			out = append(out, ref.ID)
		}
	}
	return out, nil
}

// load returns a client's own job; anybody else's is NotFound.
func (x *Exporter) load(ctx context.Context, p *access.Principal, id string) (*job, error) {
	const op = "bulk.load"
	absent := fhir.Errorf(fhir.NotFound, op, "there is no such export")
	if p == nil || p.ClientID == "" || p.Grant != nil && p.Grant.Person || !fhir.ValidID(id) {
		return nil, absent
	}
	v, err := x.opts.Store.Get(ctx, key(id))
	if err != nil {
		return nil, fhir.Wrap(op, err)
	}
	j := new(job)
	if v == nil {
		return nil, absent
	}
	if err := json.Unmarshal(v, j); err != nil {
		return nil, fhir.Wrap(op, err)
	}
	if j.Client != p.ClientID || j.T == 0 || !x.opts.Clock().Before(j.Expires) {
		return nil, absent
	}
	return j, nil
}

// Delete ends a job and makes its files gone.
func (x *Exporter) Delete(ctx context.Context, c audit.Caller, id string) error {
	j, err := x.load(ctx, c.Principal, id)
	if err != nil {
		return err
	}
	_, err = audit.Commit(ctx, x.opts.Store, x.opts.Audit,
		&store.Batch{State: []store.StateWrite{{Key: key(j.ID)}}},
		audit.Event{Type: audit.Rest, Interaction: "operation", Caller: c, Query: "DELETE " + x.statusURL(id),
			Extra: [][2]string{{"job", id}}})
	return fhir.Wrap("bulk.Delete", err)
}
