package bulk

import (
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"pulsegate/fhir"
	"pulsegate/fhir/access"
	"pulsegate/fhir/audit"
	"pulsegate/fhir/cluster/role"
	"pulsegate/fhir/search"
	"pulsegate/fhir/store"
)

// Options configures an Exporter.
type Options struct {
	Store store.Store
	Audit *audit.Recorder
	Clock func() time.Time
	Rand  io.Reader
	// Base is the FHIR base URL without a trailing slash.
	Base string
	// Parameters returns the search parameters of the moment, for _typeFilter. If it is nil,
	// they are those of R4.
	Parameters func() *search.Registry
	// GrantFor compiles the grant of a client from the scopes stored at the
	// kick-off and the current consents. It is used for jobs that continue after a
	// restart; requests have their own grant.
	GrantFor func(ctx context.Context, clientID, scope string) (*access.Grant, error)
	// Expires is the time after the kick-off at which a job is deleted. The default
	// is 24 hours.
	Expires time.Duration
	// MaxRunning bounds the jobs of one client that are in progress, MaxKept all of
	// its jobs. The defaults are 4 and 200.
	MaxRunning, MaxKept int
	// FileBytes bounds an output file in bytes, unless a single resource is larger. The
	// default is 128 MiB.
	FileBytes int64
	// ManifestFiles bounds the files of one manifest for clients that take several
	// (allowPartialManifests). The default is 1,000.
	ManifestFiles int
	// Roles gives the role "exports", whose holder prepares the jobs of all processes.
	// The default is role.Alone.
	Roles role.Roles
	// Delivery puts copies of the files of some clients elsewhere, in the process with the role
	// "deliveries". If it is nil, there are no copies.
	Delivery *Delivery
	Logger   *slog.Logger
}

// parseOptions returns the options with which the queries of _typeFilter are parsed.
func (e *Exporter) parseOptions() search.ParseOptions {
	o := search.ParseOptions{Base: e.opts.Base}
	if e.opts.Parameters != nil {
		o.Registry = e.opts.Parameters()
	}
	return o
}

// Exporter runs exports. Close interrupts running jobs; the next process with the role
// "exports" continues them.
type Exporter struct {
	opts   Options
	cancel context.CancelFunc
	wg     sync.WaitGroup
	stop   func()
	epoch  atomic.Uint64 // counts commits that touched a Consent
	// kicking serializes the kick-offs of this process, so that they do not void each
	// other.
	kicking sync.Mutex
	mu      sync.Mutex
	holder  *holder // while this process has the role; guarded by mu
}

// Job states.
const (
	running  = "running"
	complete = "complete"
	failed   = "failed"
)

// job is the durable state of an export.
type job struct {
	ID      string `json:"id"`
	Client  string `json:"client"`
	Scope   string `json:"scope"`
	State   string `json:"state"`
	Level   Level  `json:"level"`
	GroupID string `json:"group,omitempty"`
	spec
	// Format is jobFormat. Jobs of earlier versions of the server are not shown.
	Format      int       `json:"format"`
	Seq         store.Seq `json:"t"` // commit of the snapshot; 0 until the kick-off is acknowledged
	Transaction time.Time `json:"transactionTime,omitzero"`
	Request     string    `json:"request"`
	Created     time.Time `json:"created"`
	Expires     time.Time `json:"expires"`
	// Deleted is set if there is a file of deletions. It is known when the job is complete.
	Deleted bool `json:"deleted,omitempty"`
}

const jobFormat = 2

func key(id string) string        { return "bulk/" + id }
func runningKey(id string) string { return runningPrefix + id }

// runningPrefix begins the key of a mark for each job that is to be prepared.
const runningPrefix = "bulk-running/"

// unacknowledged is the time after which a job without a snapshot is one whose kick-off
// was interrupted, so that no client knows its id.
const unacknowledged = time.Minute

// New returns an Exporter. It continues the jobs of a previous process when it gets the
// role.
func New(ctx context.Context, o Options) (*Exporter, error) {
	const op = "bulk.New"
	if o.Store == nil || o.Audit == nil || o.Clock == nil || o.Rand == nil || o.GrantFor == nil {
		return nil, fhir.Errorf(fhir.Internal, op, "Store, Audit, Clock, Rand and GrantFor are required")
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
	if o.FileBytes <= 0 {
		o.FileBytes = 128 << 20
	}
	if o.ManifestFiles <= 0 {
		o.ManifestFiles = 1000
	}
	if o.Roles == nil {
		o.Roles = role.Alone{}
	}
	if o.Delivery != nil {
		o.Delivery = o.Delivery.withDefaults()
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	e := &Exporter{opts: o}
	ctx, e.cancel = context.WithCancel(context.WithoutCancel(ctx))
	e.stop = o.Store.Watch(func(c store.Commit) {
		for i := range c.Changes {
			if c.Changes[i].Ref.Type == "Consent" {
				e.epoch.Add(1)
				break
			}
		}
		e.look()
	})
	e.wg.Go(func() { o.Roles.Run(ctx, "exports", e.prepareAll) })
	if o.Delivery != nil {
		e.wg.Go(func() { o.Roles.Run(ctx, "deliveries", e.deliverAll) })
	}
	return e, nil
}

// Close stops preparing and delivering jobs and waits for it. Downloads end with their own
// requests.
func (e *Exporter) Close() {
	e.cancel()
	e.stop()
	e.wg.Wait()
}

func (e *Exporter) each(ctx context.Context, fn func(*job)) error {
	var bad int
	err := e.opts.Store.List(ctx, "bulk/", func(_ string, v []byte) bool {
		j := new(job)
		if json.Unmarshal(v, j) != nil {
			bad++
			return true
		}
		if e.opts.Clock().Before(j.Expires) {
			fn(j)
		}
		return true
	})
	if bad > 0 {
		e.opts.Logger.ErrorContext(ctx, "export jobs cannot be read", "jobs", bad)
	}
	return err
}

func (e *Exporter) put(j *job, expect store.StateExpect, old []byte) (store.StateWrite, []byte, error) {
	v, err := json.Marshal(j)
	return store.StateWrite{Key: key(j.ID), Value: v, Expect: expect, Old: old, Expires: j.Expires}, v, err
}

// KickOff validates a request and stores its job together with the audit event.
// It returns the polling URL.
func (e *Exporter) KickOff(ctx context.Context, c audit.Caller, r Request) (string, error) {
	const op = "bulk.KickOff"
	p := c.Principal
	if p == nil || p.ClientID == "" {
		return "", fhir.Errorf(fhir.Unauthorized, op, "an export needs an access token")
	}
	s, err := r.check(p.Grant, e.parseOptions())
	if err != nil {
		return "", err
	}
	var members []string
	if r.Level == Group {
		if members, err = e.members(ctx, r.GroupID, 0, p.Grant); err != nil {
			return "", err
		}
	}
	if err := e.checkListed(ctx, &r, s, members); err != nil {
		return "", err
	}
	j, old, err := e.create(ctx, c, &r, s)
	if err != nil {
		return "", err
	}
	sw, _, err := e.put(j, store.StateEquals, old)
	if err != nil {
		return "", fhir.Wrap(op, err)
	}
	_, err = e.opts.Store.Commit(ctx, &store.Batch{State: []store.StateWrite{sw,
		{Key: runningKey(j.ID), Value: []byte("1"), Expires: j.Expires}}})
	if store.Lost(err) {
		return "", fhir.Errorf(fhir.Unavailable, op, "the export could not be started in time; start it again")
	}
	if err != nil {
		return "", fhir.Wrap(op, err)
	}
	e.prepareHere(j, p.Grant)
	return e.statusURL(j.ID), nil
}

// create stores a job without its snapshot, which is the commit that stores it. It
// returns the job with the snapshot, and the stored bytes. If another process starts an
// export of the client meanwhile, the limits are checked again.
func (e *Exporter) create(ctx context.Context, c audit.Caller, r *Request, s *spec) (*job, []byte, error) {
	const op = "bulk.KickOff"
	e.kicking.Lock()
	defer e.kicking.Unlock()
	p := c.Principal
	id, err := fhir.NewID(e.opts.Rand)
	if err != nil {
		return nil, nil, fhir.Wrap(op, err)
	}
	now := e.opts.Clock().UTC()
	j := &job{
		ID:     id,
		Client: p.ClientID, Scope: p.Scope, State: running, Level: r.Level, GroupID: r.GroupID, spec: *s,
		Format: jobFormat, Request: r.URL, Created: now, Expires: now.Add(e.opts.Expires),
	}
	sw, old, err := e.put(j, store.StateAbsent, nil)
	if err != nil {
		return nil, nil, fhir.Wrap(op, err)
	}
	guard := "bulk/" + p.ClientID
	err = store.Retry(attempts, op, "other exports of this client are being started; try again", func() error {
		seen := e.opts.Store.LastSeq()
		if err := e.limits(ctx, p.ClientID); err != nil {
			return err
		}
		res, err := audit.Commit(ctx, e.opts.Store, e.opts.Audit, &store.Batch{State: []store.StateWrite{sw},
			Guards: []string{guard}, Touches: []string{guard}, Seen: seen},
			audit.Event{Type: audit.Export, Interaction: "operation", Caller: c, Query: r.URL,
				Extra: [][2]string{{"job", j.ID}}})
		if err == nil {
			j.Seq, j.Transaction = res.Seq, res.Outcomes[0].LastUpdated.Add(-time.Millisecond)
		}
		return err
	})
	return j, old, fhir.Wrap(op, err)
}

// attempts bounds the retries of a kick-off that loses to other processes.
const attempts = 16

func (e *Exporter) limits(ctx context.Context, client string) error {
	active, kept := 0, 0
	err := e.each(ctx, func(j *job) {
		if j.Client != client || e.isUnacknowledged(j) {
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
	if active >= e.opts.MaxRunning {
		return fhir.Errorf(fhir.TooMany, "bulk.KickOff",
			"this client has %d exports in progress; wait until one is complete, or delete one", active)
	}
	if kept >= e.opts.MaxKept {
		return fhir.Errorf(fhir.TooMany, "bulk.KickOff", "this client has %d exports; delete completed ones first",
			kept)
	}
	return nil
}

// checkListed checks that the patients of the parameter patient are part of the export. A
// Patient that the token may not read is treated like one that does not exist.
func (e *Exporter) checkListed(ctx context.Context, r *Request, s *spec, members []string) error {
	if !s.Listed {
		return nil
	}
	filter := r.grant.Filter(access.Read)
	kept := s.Patients[:0]
	for _, id := range s.Patients {
		res, facts, err := e.opts.Store.Read(ctx, fhir.Ref{Type: "Patient", ID: id}, 0)
		if err != nil && fhir.KindOf(err) != fhir.NotFound {
			return fhir.Wrap("bulk.KickOff", err)
		}
		if err == nil && !res.Deleted && filter.Allow(facts) && (r.Level != Group || slices.Contains(members, id)) {
			kept = append(kept, id)
			continue
		}
		const text = "the parameter patient names a Patient that is not part of this export"
		if !r.Lenient {
			return fhir.Errorf(fhir.Invalid, "bulk.KickOff", text)
		}
		if !slices.Contains(s.Warnings, text) {
			s.Warnings = append(s.Warnings, text)
		}
	}
	s.Patients = kept
	return nil
}

// localRef parses a reference to a resource of this server.
func (e *Exporter) localRef(s string) (fhir.Ref, bool) {
	return fhir.ParseRef(strings.TrimPrefix(s, e.opts.Base+"/"))
}

// members returns the patients of a Group at a snapshot, in the order of
// Group.member. If g is not nil, a Group that it may not read is NotFound.
func (e *Exporter) members(ctx context.Context, id string, at store.Seq, g *access.Grant) ([]string, error) {
	const op = "bulk.members"
	absent := fhir.Errorf(fhir.NotFound, op, "there is no such Group")
	// checked first, so that the error does not reveal whether the Group exists
	if g != nil && !g.May(access.Read, "Group") {
		return nil, fhir.Errorf(fhir.Forbidden, op, "the token's scopes do not cover reading Group")
	}
	if !fhir.ValidID(id) {
		return nil, absent
	}
	res, facts, err := e.opts.Store.Read(ctx, fhir.Ref{Type: "Group", ID: id}, at)
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
		ref, ok := e.localRef(m.Entity.Reference)
		if ok && ref.Type == "Patient" && !m.Inactive && !seen[ref.ID] {
			seen[ref.ID] = true
			out = append(out, ref.ID)
		}
	}
	return out, nil
}

// load returns a job of the client p. Jobs of other clients are NotFound.
func (e *Exporter) load(ctx context.Context, p *access.Principal, id string) (*job, error) {
	const op = "bulk.load"
	absent := fhir.Errorf(fhir.NotFound, op, "there is no such export")
	if p == nil || p.ClientID == "" || p.Grant != nil && p.Grant.Person || !fhir.ValidID(id) {
		return nil, absent
	}
	v, err := e.opts.Store.Get(ctx, key(id))
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
	if j.Client != p.ClientID || j.Seq == 0 || j.Format != jobFormat || !e.opts.Clock().Before(j.Expires) {
		return nil, absent
	}
	return j, nil
}

// Delete deletes a job and its files.
func (e *Exporter) Delete(ctx context.Context, c audit.Caller, id string) error {
	j, err := e.load(ctx, c.Principal, id)
	if err != nil {
		return err
	}
	b := &store.Batch{State: []store.StateWrite{{Key: key(j.ID)}, {Key: runningKey(j.ID)}}}
	err = e.opts.Store.List(ctx, filePrefix+j.ID+"/", func(k string, _ []byte) bool {
		b.State = append(b.State, store.StateWrite{Key: k})
		return true
	})
	if err != nil {
		return fhir.Wrap("bulk.Delete", err)
	}
	fixed := len(b.State)
	err = store.Retry(attempts, "bulk.Delete", "the export is being changed; try again", func() error {
		more, err := e.removal(ctx, j)
		if err != nil {
			return err
		}
		b.State = append(b.State[:fixed], more...)
		_, err = audit.Commit(ctx, e.opts.Store, e.opts.Audit, b,
			audit.Event{Type: audit.Rest, Interaction: "operation", Caller: c, Query: "DELETE " + e.statusURL(id),
				Extra: [][2]string{{"job", id}}})
		return err
	})
	return fhir.Wrap("bulk.Delete", err)
}
