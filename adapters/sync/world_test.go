package sync_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	gosync "sync"
	"testing"
	"time"

	"pulsegate/adapters/cloud"
	"pulsegate/adapters/link"
	"pulsegate/adapters/sync"
	"pulsegate/fhir"
	"pulsegate/fhir/access"
	"pulsegate/fhir/audit"
	"pulsegate/fhir/clocktest"
	"pulsegate/fhir/store"
	"pulsegate/fhir/store/pebblestore"
	"pulsegate/mapping/ingest"
)

// item is a measurement that the vendor acme holds.
type item struct {
	ID string    `json:"id"`
	At time.Time `json:"at"`
	V  int       `json:"v"`
}

// acme is a vendor in memory, with two streams of measurements and one of state.
type acme struct {
	mu     gosync.Mutex
	clock  *clocktest.Clock
	tokens string // URL of the token endpoint
	// items are the measurements by account, stream and id.
	items map[string]map[string]map[string]item
	// fail is called before each page and may return an error.
	fail  func(account string, q cloud.Query) error
	after func(q cloud.Query) // called after each page
	pages int                 // requests so far
}

var streams = []cloud.Stream{
	{Name: "beats", Format: "beats", Span: cloud.Instants, Chunk: 5 * 24 * time.Hour, Every: time.Hour,
		Trailing: 48 * time.Hour, Types: []string{"beats"}},
	{Name: "days", Format: "days", Scope: "daily", Span: cloud.Days, Every: 6 * time.Hour,
		Trailing: 7 * 24 * time.Hour, Types: []string{"days"}, Coarse: true, Notified: true},
	{Name: "ring", Format: "ring", Span: cloud.Snapshot, Every: 24 * time.Hour},
}

func (*acme) Code() string            { return "acme" }
func (*acme) Streams() []cloud.Stream { return streams }
func (*acme) Budget() cloud.Budget {
	return cloud.Budget{Account: cloud.Rate{Requests: 600, Per: time.Minute}}
}

func (a *acme) OAuth() cloud.OAuth {
	return cloud.OAuth{AuthURL: "https://acme.example/authorize", TokenURL: a.tokens, ClientID: "pg", ClientSecret: "s",
		Rotates: true, Scopes: []cloud.Scope{{Name: "daily", Words: "your days"}, {Name: "other", Optional: true}}}
}

func (a *acme) Account(_ context.Context, c *cloud.Client) ([]string, error) {
	return []string{account(c.Token)}, nil
}

// account returns the account of a token "ACCOUNT.N".
func account(token string) string {
	s, _, _ := strings.Cut(token, ".")
	return s
}

const pageSize = 3

func (a *acme) Page(ctx context.Context, c *cloud.Client, q cloud.Query) (cloud.Page, error) {
	p, err := a.page(ctx, c, q)
	if a.after != nil {
		a.after(q)
	}
	return p, err
}

func (a *acme) page(ctx context.Context, c *cloud.Client, q cloud.Query) (cloud.Page, error) {
	if err := c.Spend(ctx); err != nil {
		return cloud.Page{}, err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.pages++
	who := account(c.Token)
	if a.fail != nil {
		if err := a.fail(who, q); err != nil {
			return cloud.Page{}, err
		}
	}
	all := a.items[who][q.Stream.Name]
	if q.Object != "" {
		one, ok := all[q.Object]
		if !ok {
			return cloud.Page{}, &cloud.Error{Problem: cloud.NotFound, Status: 404}
		}
		return page([]item{one}, "")
	}
	var in []item
	for _, id := range slices.Sorted(maps.Keys(all)) {
		if it := all[id]; q.Stream.Span == cloud.Snapshot || !it.At.Before(q.From) && it.At.Before(q.To) {
			in = append(in, it)
		}
	}
	from := 0
	if q.Cursor != "" {
		_, _ = fmt.Sscan(q.Cursor, &from) // written below
	}
	to, next := min(from+pageSize, len(in)), ""
	if to < len(in) {
		next = fmt.Sprint(to)
	}
	return page(in[from:to], next)
}

func page(items []item, next string) (cloud.Page, error) {
	var b bytes.Buffer
	for _, it := range items {
		_ = json.NewEncoder(&b).Encode(it) // a buffer does not fail
	}
	return cloud.Page{Body: b.Bytes(), Next: next, Items: len(items)}, nil
}

// note is the body of a notification of acme. Its signature is the header "Good".
type note struct {
	Account, Stream, Object string
	From, To                time.Time
	Deleted                 bool
	Nonce                   string
}

func (a *acme) Receive(_ context.Context, n *cloud.Notification) (cloud.Receipt, error) {
	if n.Header.Get("Signature") != "good" {
		return cloud.Receipt{Status: http.StatusUnauthorized}, errors.New("the signature is wrong")
	}
	r := cloud.Receipt{Status: http.StatusNoContent, Store: true, Keep: time.Hour}
	sum := store.ContentHash(n.Body)
	copy(r.Key[:], sum[:])
	return r, nil
}

func (a *acme) Events(body []byte) ([]cloud.Event, error) {
	var notes []note
	if err := json.Unmarshal(body, &notes); err != nil {
		return nil, errors.New("not a list of changes")
	}
	var out []cloud.Event
	for _, n := range notes {
		out = append(out, cloud.Event{Account: n.Account, Stream: n.Stream, Object: n.Object, From: n.From, To: n.To,
			Deleted: n.Deleted})
	}
	return out, nil
}

func (a *acme) Subscribe(context.Context, string) (time.Time, error) {
	return a.clock.Now().Add(24 * time.Hour), nil
}

// chart stores what was read, as package ingest does: by patient, type and id.
type chart struct {
	mu   gosync.Mutex
	held map[string]map[string]item // by patient/type
	// windows holds the latest complete window by format.
	windows map[string]ingest.Window
	writes  int
	refuse  bool  // there is no consent
	fail    error // of every call
	db      store.State
}

func (c *chart) Run(_ context.Context, rq ingest.Request) (ingest.Summary, error) {
	body, failure := io.ReadAll(rq.Body) // may call the vendor, which may call back
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.fail != nil {
		return ingest.Summary{}, c.fail
	}
	if c.refuse {
		return ingest.Summary{}, fhir.Errorf(fhir.Forbidden, "chart.Run", "there is no consent")
	}
	key := rq.Patient + "/" + rq.Format
	if c.held[key] == nil {
		c.held[key] = map[string]item{}
	}
	before := maps.Clone(c.held[key])
	stated := map[string]bool{}
	dec := json.NewDecoder(bytes.NewReader(body))
	for {
		var it item
		if err := dec.Decode(&it); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return ingest.Summary{}, err
		}
		if it.At.Before(rq.Since) {
			continue
		}
		stated[it.ID] = true
		if c.held[key][it.ID] != it {
			c.held[key][it.ID] = it
			c.writes++
		}
	}
	if failure != nil {
		return ingest.Summary{}, failure
	}
	if rq.Bind != nil {
		b := &store.Batch{State: []store.StateWrite{{Key: "chart/commit", Value: []byte("1")}}}
		if rq.Bind(b); c.db != nil {
			if _, err := c.db.Commit(context.Background(), b); err != nil {
				c.held[key] = before
				return ingest.Summary{}, err
			}
		}
	}
	if w := rq.Complete; w != nil {
		c.windows[rq.Format] = *w
		for id, it := range c.held[key] {
			if !stated[id] && !it.At.Before(rq.Since) && !it.At.Before(w.From) && it.At.Before(w.To) {
				delete(c.held[key], id)
			}
		}
	}
	return ingest.Summary{}, nil
}

func (c *chart) Retract(_ context.Context, r ingest.Retraction) (ingest.Summary, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, typ := range r.Types {
		delete(c.held[r.Patient+"/"+typ], r.VendorID)
	}
	return ingest.Summary{}, nil
}

// world is an engine with the vendor acme.
type world struct {
	t      testing.TB
	dir    string
	db     *pebblestore.DB
	clock  *clocktest.Clock
	commit func() time.Time // clock of the store
	acme   *acme
	chart  *chart
	links  *link.Links
	engine *sync.Engine
	hooks  http.Handler
	issued int      // tokens so far
	tokens []string // answers of the token endpoint, if not the usual one
	posts  int      // requests to the token endpoint
}

// Collects implements sync.Consents.
func (w *world) Collects(context.Context, string, string) (fhir.Ref, bool, error) {
	return fhir.Ref{}, !w.chart.refuse, nil
}

type plainVault struct{}

func (plainVault) Seal(purpose string, plain []byte) []byte {
	return append([]byte(purpose+"\x00"+fhir.RandomID()+"\x00"), plain...)
}

func (plainVault) Open(purpose string, sealed []byte) ([]byte, error) {
	parts := bytes.SplitN(sealed, []byte{0}, 3)
	if len(parts) != 3 || string(parts[0]) != purpose {
		return nil, errors.New("not sealed for this purpose")
	}
	return parts[2], nil
}

var start = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func newWorld(t testing.TB) *world {
	t.Helper()
	w := &world{t: t, dir: t.TempDir(), clock: clocktest.At(start),
		chart: &chart{held: map[string]map[string]item{}, windows: map[string]ingest.Window{}}}
	w.commit = clocktest.Distinct(w.clock.Now)
	srv := httptest.NewServer(http.HandlerFunc(w.token))
	t.Cleanup(srv.Close)
	w.acme = &acme{clock: w.clock, tokens: srv.URL, items: map[string]map[string]map[string]item{}}
	w.open()
	t.Cleanup(func() { _ = w.db.Close() }) // may be closed
	return w
}

// open opens the store and a new engine, as a start of the server does.
func (w *world) open() {
	w.t.Helper()
	db, err := pebblestore.Open(w.dir, pebblestore.Options{Clock: w.commit, NoSync: true})
	if err != nil {
		w.t.Fatal(err)
	}
	w.db = db
	rec, err := audit.NewRecorder(audit.Options{Store: db, Clock: w.clock.Now, Rand: rand.Reader,
		Observer: "https://pg.example"})
	if err != nil {
		w.t.Fatal(err)
	}
	w.links = link.New(link.Options{Store: db, Audit: rec, Vault: plainVault{}, Vendors: []cloud.Vendor{w.acme},
		HTTP: http.DefaultClient, Callback: "https://pg.example/cb", Clock: w.clock.Now,
		API: func(_ cloud.Vendor, token string) *cloud.Client {
			return &cloud.Client{Token: token, Clock: w.clock.Now}
		}})
	w.engine, err = sync.New(context.Background(), sync.Options{Store: db, Links: w.links, Ingest: w.chart, Consents: w,
		Clock: w.clock.Now, Hooks: "https://pg.example/hooks", Backfill: 20 * 24 * time.Hour})
	if err != nil {
		w.t.Fatal(err)
	}
	e := newRouter()
	w.engine.Mount(e)
	w.hooks = e
}

// restart stands for the end of the process and a new one.
func (w *world) restart() {
	w.t.Helper()
	if err := w.db.Close(); err != nil {
		w.t.Fatal(err)
	}
	w.open()
}

// token answers as a token endpoint. A code is the name of an account.
func (w *world) token(rw http.ResponseWriter, rq *http.Request) {
	w.posts++
	who := rq.PostFormValue("code")
	if who == "" {
		who = account(rq.PostFormValue("refresh_token"))
	}
	rw.Header().Set("Content-Type", "application/json")
	if len(w.tokens) > 0 {
		answer := w.tokens[0]
		w.tokens = w.tokens[1:]
		if answer == "cut" {
			panic(http.ErrAbortHandler)
		}
		status, body, _ := strings.Cut(answer, " ")
		var code int
		_, _ = fmt.Sscan(status, &code) // written by a test
		rw.WriteHeader(code)
		_, _ = io.WriteString(rw, body) // the client may have gone
		return
	}
	w.issued++
	fmt.Fprintf(rw, `{"access_token":"%s.%d","refresh_token":"%s.r%d","token_type":"Bearer","expires_in":3600}`, who,
		w.issued, who, w.issued)
}

// link links an account to a patient.
func (w *world) link(patient, account string) link.Link {
	w.t.Helper()
	ctx := context.Background()
	session := "session of " + patient
	to, err := w.links.Begin(ctx, patient, "acme", session)
	if err != nil {
		w.t.Fatal(err)
	}
	u, err := url.Parse(to)
	if err != nil {
		w.t.Fatal(err)
	}
	l, err := w.links.Complete(ctx, caller, session, link.Answer{State: u.Query().Get("state"), Code: account})
	if err != nil {
		w.t.Fatal(err)
	}
	return l
}

func (w *world) put(account, stream string, it item) {
	if w.acme.items[account] == nil {
		w.acme.items[account] = map[string]map[string]item{"beats": {}, "days": {}, "ring": {}}
	}
	w.acme.items[account][stream][it.ID] = it
}

// notify sends a notification and returns the status of the answer.
func (w *world) notify(notes ...note) int {
	b, err := json.Marshal(notes)
	if err != nil {
		w.t.Fatal(err)
	}
	return w.post(b, "good")
}

func (w *world) post(body []byte, signature string) int {
	rq := httptest.NewRequest(http.MethodPost, "/hooks/acme", bytes.NewReader(body))
	rq.Header.Set("Signature", signature)
	rec := httptest.NewRecorder()
	w.hooks.ServeHTTP(rec, rq)
	return rec.Code
}

// advance moves the clock in steps and does what is due at each.
func (w *world) advance(d, step time.Duration) {
	for range int(d / step) {
		w.clock.Add(step)
		w.engine.Drain(context.Background())
	}
}

// check compares the chart of a patient with the account.
func (w *world) check(patient, account string) {
	w.t.Helper()
	for _, s := range []string{"beats", "days", "ring"} {
		want, got := w.acme.items[account][s], w.chart.held[patient+"/"+s]
		if len(want) == 0 && len(got) == 0 {
			continue
		}
		if !maps.Equal(want, got) {
			w.t.Errorf("%s of %s: the chart has %d items, the vendor %d; %v, want %v", s, patient, len(got), len(want),
				got, want)
		}
	}
}

// inbox returns the number of notifications that were not handled.
func (w *world) inbox() (n int) {
	err := w.db.List(context.Background(), "sync/inbox/", func(string, []byte) bool { n++; return true })
	if err != nil {
		w.t.Fatal(err)
	}
	return n
}

var caller = audit.Caller{Principal: &access.Principal{Operator: "test", Grant: access.All()}}
