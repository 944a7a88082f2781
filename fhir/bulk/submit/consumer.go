package submit

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"log/slog"
	"net/http"
	"net/url"
	"slices"
	"sync"
	"time"

	"pulsegate/fhir"
	"pulsegate/fhir/access"
	"pulsegate/fhir/audit"
	"pulsegate/fhir/cluster/role"
	"pulsegate/fhir/egress"
	"pulsegate/fhir/interaction"
	"pulsegate/fhir/store"
)

// Writer performs batches and receives phone-made Observations. *interaction.Service
// implements it.
type Writer interface {
	Bundle(ctx context.Context, rq *interaction.Request, body []byte,
		returns interaction.Return) (*interaction.Page, error)
	IsPhoneMade(rq *interaction.Request, body []byte) bool
	RepairAll(ctx context.Context, rq *interaction.Request, list []*interaction.PhoneMade) error
	ReceiveAll(ctx context.Context, rq *interaction.Request, list []*interaction.PhoneMade) error
}

// Options configures a Consumer. All fields but Expires, MaxKept, Roles and Logger are
// required.
type Options struct {
	Store store.Store
	// Writer stores the lines.
	Writer Writer
	Audit  *audit.Recorder
	Clock  func() time.Time
	// Base is the FHIR base URL without a trailing slash.
	Base string
	// Policy decides which addresses are fetched. Its limits apply to manifests; for files,
	// they are FileTimeout and FileBytes.
	Policy egress.Policy
	// FileTimeout and FileBytes bound the fetching of a file. The defaults are an hour and
	// 4 GiB.
	FileTimeout time.Duration
	FileBytes   int64
	// Pause is half of the time before the first repetition of a failed fetch; it doubles with
	// each. The default is a second.
	Pause time.Duration
	// GrantFor compiles the grant of a client from the scopes of its request and the
	// current consents.
	GrantFor func(ctx context.Context, clientID, scope string) (*access.Grant, error)
	// Expires is the time after the last request at which a submission is forgotten. The
	// default is 30 days.
	Expires time.Duration
	// MaxKept bounds the submissions of one client. The default is 100.
	MaxKept int
	Roles   role.Roles
	Logger  *slog.Logger
}

// Consumer receives submissions.
type Consumer struct {
	opts            Options
	manifests, data *http.Client
	cancel          context.CancelFunc
	stop            func()
	wake            chan struct{}
	wg              sync.WaitGroup
}

// submission is the durable state of one submission.
type submission struct {
	ID           string     `json:"id"`
	Client       string     `json:"client"`
	Scope        string     `json:"scope"`
	TokenID      string     `json:"token"`
	Submitter    Identifier `json:"submitter"`
	SubmissionID string     `json:"submission"`
	Status       string     `json:"status"`
	Manifests    []manifest `json:"manifests,omitempty"`
	// Undone is set once a stopped submission has no data any more.
	Undone  bool      `json:"undone,omitempty"`
	Updated time.Time `json:"updated"`
	Expires time.Time `json:"expires"`
}

// Manifest states.
const (
	pending  = "pending"
	done     = "done"
	failed   = "failed"
	replaced = "replaced" // its data have been removed
)

type manifest struct {
	URL      string   `json:"url"`
	Base     string   `json:"base"`
	Headers  []Header `json:"headers,omitempty"`
	Replaces string   `json:"replaces,omitempty"`
	State    string   `json:"state"`
	// The position: lines up to Line of the file with this index are processed.
	position
	// Intent is the position at which the latest resources of Created were announced.
	Intent position `json:"intent,omitzero"`
	// Chunks of outcomes and of created resources.
	Outcomes int            `json:"outcomes,omitempty"`
	Created  int            `json:"created,omitempty"`
	Count    map[string]int `json:"count,omitempty"` // reported issues by severity
	Stored   int            `json:"stored,omitempty"`
	Dropped  int            `json:"dropped,omitempty"` // outcomes that were not reported
}

// position is the file and the line up to which lines are processed.
type position struct {
	File int `json:"file,omitempty"`
	Line int `json:"line,omitempty"`
}

const prefix = "bulk-submit/"

func key(id string) string { return prefix + id }

// idOf returns the id of a submission of a client.
func idOf(client string, s Identifier, submission string) string {
	h := sha256.New()
	for _, part := range []string{client, s.System, s.Value, submission} {
		sum := sha256.Sum256([]byte(part))
		_, _ = h.Write(sum[:]) // never fails
	}
	return hex.EncodeToString(h.Sum(nil))[:32]
}

// maxManifests bounds the manifests of a submission.
const maxManifests = 1000

// New returns a Consumer. It works on submissions when it gets the role "submissions".
func New(ctx context.Context, o Options) (*Consumer, error) {
	if o.Store == nil || o.Writer == nil || o.Audit == nil || o.Clock == nil || o.GrantFor == nil {
		return nil, fhir.Errorf(fhir.Internal, "submit.New", "Store, Writer, Audit, Clock and GrantFor are required")
	}
	if o.FileTimeout <= 0 {
		o.FileTimeout = time.Hour
	}
	if o.FileBytes <= 0 {
		o.FileBytes = 4 << 30
	}
	if o.Pause <= 0 {
		o.Pause = time.Second
	}
	if o.Expires <= 0 {
		o.Expires = 30 * 24 * time.Hour
	}
	if o.MaxKept <= 0 {
		o.MaxKept = 100
	}
	if o.Roles == nil {
		o.Roles = role.Alone{}
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	files := o.Policy
	files.Timeout, files.MaxResponse = o.FileTimeout, o.FileBytes
	c := &Consumer{opts: o, manifests: egress.New(o.Policy), data: egress.New(files), wake: make(chan struct{}, 1)}
	ctx, c.cancel = context.WithCancel(context.WithoutCancel(ctx))
	c.stop = o.Store.Watch(func(store.Commit) { c.signal() })
	c.wg.Go(func() { o.Roles.Run(ctx, "submissions", c.work) })
	return c, nil
}

// Close ends the work. The next process with the role continues it.
func (c *Consumer) Close() {
	c.cancel()
	c.stop()
	c.wg.Wait()
}

func (c *Consumer) signal() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// load returns a submission of a client and its stored bytes, or nil.
func (c *Consumer) load(ctx context.Context, id string) (*submission, []byte, error) {
	v, err := c.opts.Store.Get(ctx, key(id))
	if err != nil || v == nil {
		return nil, nil, fhir.Wrap("submit.load", err)
	}
	s := new(submission)
	if err := json.Unmarshal(v, s); err != nil {
		return nil, nil, fhir.Wrap("submit.load", err)
	}
	if !c.opts.Clock().Before(s.Expires) {
		return nil, v, nil
	}
	return s, v, nil
}

func put(s *submission, old []byte) (store.StateWrite, []byte, error) {
	v, err := json.Marshal(s)
	w := store.StateWrite{Key: key(s.ID), Value: v, Expect: store.StateAbsent, Expires: s.Expires}
	if old != nil {
		w.Expect, w.Old = store.StateEquals, old
	}
	return w, v, fhir.Wrap("submit.put", err)
}

// authorize checks that a principal is a client that may store something without a person.
func authorize(p *access.Principal) error {
	const op = "submit.Submit"
	if p == nil || p.ClientID == "" {
		return fhir.Errorf(fhir.Unauthorized, op, "a submission needs an access token")
	}
	if !slices.ContainsFunc(fhir.Types, func(t string) bool {
		return p.Grant.MayUnattended(access.Create|access.Update, t)
	}) {
		return fhir.Errorf(fhir.Forbidden, op, "the token's scopes do not cover writing any resource type")
	}
	return nil
}

// Submit accepts a request of $bulk-submit.
func (c *Consumer) Submit(ctx context.Context, by audit.Caller, p *Params) error {
	const op = "submit.Submit"
	if err := authorize(by.Principal); err != nil {
		return err
	}
	if p.ManifestURL != "" {
		u, err := url.Parse(p.ManifestURL)
		if err == nil {
			err = c.opts.Policy.Check(u)
		}
		if err != nil {
			return fhir.Errorf(fhir.Invalid, op, "the server does not fetch from the address in manifestUrl")
		}
	}
	return store.Retry(16, op, "the submission is being changed; try again", func() error {
		return c.submitOnce(ctx, by, p)
	})
}

func (c *Consumer) submitOnce(ctx context.Context, by audit.Caller, p *Params) error {
	const op = "submit.Submit"
	who, now := by.Principal, c.opts.Clock().UTC()
	seen := c.opts.Store.LastSeq()
	id := idOf(who.ClientID, p.Submitter, p.SubmissionID)
	s, old, err := c.load(ctx, id)
	if err != nil {
		return err
	}
	if s == nil {
		if err := c.limit(ctx, who.ClientID); err != nil {
			return err
		}
		s = &submission{ID: id, Client: who.ClientID, Submitter: p.Submitter, SubmissionID: p.SubmissionID,
			Status: inProgress}
	}
	if s.Status != inProgress {
		return fhir.Errorf(fhir.Invalid, op, "the submission is %s; it takes no more requests", s.Status)
	}
	if err := s.accept(p); err != nil {
		return err
	}
	s.Scope, s.TokenID, s.Status = who.Scope, who.TokenID, p.Status
	s.Updated, s.Expires = now, now.Add(c.opts.Expires)
	w, _, err := put(s, old)
	if err != nil {
		return err
	}
	guard := prefix + who.ClientID
	_, err = audit.Commit(ctx, c.opts.Store, c.opts.Audit,
		&store.Batch{State: []store.StateWrite{w}, Guards: []string{guard}, Touches: []string{guard}, Seen: seen},
		audit.Event{Type: audit.Rest, Interaction: "operation", Caller: by,
			Query: "POST " + c.opts.Base + "/$bulk-submit",
			Extra: [][2]string{{"submission", id}}})
	if err == nil {
		c.signal()
	}
	return err
}

// accept adds the manifest of a request to the submission.
func (s *submission) accept(p *Params) error {
	const op = "submit.Submit"
	index := func(u string) int {
		return slices.IndexFunc(s.Manifests, func(m manifest) bool { return m.URL == u })
	}
	if p.Replaces != "" && index(p.Replaces) < 0 {
		return fhir.Errorf(fhir.Invalid, op, "replacesManifestUrl names no manifest of this submission")
	}
	if p.ManifestURL == "" {
		if p.Replaces != "" { // the data are removed, and nothing takes their place
			s.Manifests = append(s.Manifests, manifest{Replaces: p.Replaces, State: pending})
		}
		return nil
	}
	if index(p.ManifestURL) >= 0 {
		return fhir.Errorf(fhir.Invalid, op, "manifestUrl was submitted before")
	}
	if len(s.Manifests) >= maxManifests {
		return fhir.Errorf(fhir.TooMany, op, "a submission has at most %d manifests", maxManifests)
	}
	s.Manifests = append(s.Manifests, manifest{URL: p.ManifestURL, Base: p.Base, Headers: p.Headers,
		Replaces: p.Replaces, State: pending})
	return nil
}

func (c *Consumer) limit(ctx context.Context, client string) error {
	n := 0
	err := c.each(ctx, func(s *submission, _ []byte) {
		if s.Client == client {
			n++
		}
	})
	if err == nil && n >= c.opts.MaxKept {
		err = fhir.Errorf(fhir.TooMany, "submit.Submit",
			"this client has %d submissions; delete completed ones first", n)
	}
	return err
}

// each calls fn for all submissions that have not expired.
func (c *Consumer) each(ctx context.Context, fn func(*submission, []byte)) error {
	now := c.opts.Clock()
	return fhir.Wrap("submit.each", c.opts.Store.List(ctx, prefix, func(_ string, v []byte) bool {
		s := new(submission)
		if json.Unmarshal(v, s) == nil && now.Before(s.Expires) {
			fn(s, slices.Clone(v))
		}
		return true
	}))
}
