package interaction_test

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"encoding/json"
	"flag"
	"fmt"
	mrand "math/rand/v2"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"pgregory.net/rapid"

	"pulsegate/fhir"
	"pulsegate/fhir/access"
	"pulsegate/fhir/audit"
	"pulsegate/fhir/interaction"
	"pulsegate/fhir/store"
	"pulsegate/fhir/store/pebblestore"
)

// TestMain runs few random tests unless -rapid.checks is given.
func TestMain(m *testing.M) {
	if f := flag.Lookup("rapid.checks"); f != nil {
		if err := f.Value.Set("25"); err != nil {
			panic(err)
		}
	}
	os.Exit(m.Run())
}

// batchBase is the base URL of the services of these tests.
const batchBase = "https://pg.example/fhir"

// slow is a store that holds the commits of a batch until all entries have started that do
// not wait for them. Then it commits what it holds in another order.
type slow struct {
	store.Store
	order  func(n int) []int // a permutation of n commits; nil commits those with the text "later" first
	expect int               // the number of commits for which release waits

	mu      sync.Mutex
	hold    bool
	held    []*heldCommit
	arrived chan struct{} // receives a value for each commit that is held
}

type heldCommit struct {
	ctx    context.Context
	batch  *store.Batch
	result store.Result
	err    error
	done   chan struct{}
}

// Commit implements store.Store.
func (s *slow) Commit(ctx context.Context, b *store.Batch) (store.Result, error) {
	s.mu.Lock()
	if !s.hold {
		s.mu.Unlock()
		return s.Store.Commit(ctx, b)
	}
	c := &heldCommit{ctx: ctx, batch: b, done: make(chan struct{})}
	s.held = append(s.held, c)
	s.mu.Unlock()
	select {
	case s.arrived <- struct{}{}:
	default: // more than any test waits for
	}
	<-c.done
	return c.result, c.err
}

// holds holds all commits from now on.
func (s *slow) holds() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.hold = true
}

// release commits what is held, and holds no further commits.
func (s *slow) release() {
	for range s.expect {
		<-s.arrived
	}
	s.expect = 0
	s.mu.Lock()
	held := s.held
	s.held, s.hold = nil, false
	s.mu.Unlock()
	if s.order != nil {
		ordered := make([]*heldCommit, len(held))
		for i, j := range s.order(len(held)) {
			ordered[i] = held[j]
		}
		held = ordered
	} else {
		slices.SortStableFunc(held, func(a, b *heldCommit) int { return cmp.Compare(b.later(), a.later()) })
	}
	for _, c := range held {
		c.result, c.err = s.Store.Commit(c.ctx, c.batch)
		close(c.done)
	}
}

// later returns the number of writes with the text "later".
func (c *heldCommit) later() (n int) {
	for i := range c.batch.Writes {
		if bytes.Contains(c.batch.Writes[i].Resource.JSON, []byte("later")) {
			n++
		}
	}
	return n
}

// batchWorld is a server with a store of its own.
type batchWorld struct {
	*interaction.Service
	store *slow
	rq    *interaction.Request
}

// fatal is the part of testing.TB that rapid has, too.
type fatal interface {
	Helper()
	Fatal(args ...any)
	Fatalf(format string, args ...any)
}

// newBatchWorld returns a server whose store is slow in each batch, and an operator.
func newBatchWorld(t fatal) (w *batchWorld, closes func()) {
	t.Helper()
	db, err := pebblestore.Open("", pebblestore.Options{FS: vfs.NewMem()})
	if err != nil {
		t.Fatal(err)
	}
	w = &batchWorld{store: &slow{Store: db, arrived: make(chan struct{}, 100)}}
	rec, err := audit.NewRecorder(audit.Options{Store: w.store, Clock: time.Now, Rand: rand.Reader,
		Observer: "https://pg.example"})
	if err != nil {
		t.Fatal(err)
	}
	v, err := validator()
	if err != nil {
		t.Fatal(err)
	}
	w.Service = &interaction.Service{Store: w.store, Validator: v, Audit: rec, Clock: time.Now, Rand: rand.Reader,
		Base: batchBase}
	w.OnBatchRun(w.store.holds, w.store.release)
	w.rq = operator
	return w, func() {
		if err := db.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// batchOf returns a batch of entries.
func batchOf(entries ...string) string {
	return `{"resourceType":"Bundle","type":"batch","entry":[` + strings.Join(entries, ",") + `]}`
}

// answered is an entry of the answer to a batch.
type answered struct {
	status string
	body   string // of the whole entry, without generated ids, times and positions
}

var generatedText = regexp.MustCompile(`__page=[A-Za-z0-9_-]+|[a-z0-9]{26}|\d{4}-\d\d-\d\dT[0-9:.]+Z`)

func plain(s string) string { return generatedText.ReplaceAllString(s, "*") }

// send sends a batch of entries.
func (w *batchWorld) send(t fatal, minimal bool, entries ...string) []answered {
	t.Helper()
	returns := interaction.ReturnRepresentation
	if minimal {
		returns = interaction.ReturnMinimal
	}
	p, err := w.Bundle(context.Background(), w.rq, []byte(batchOf(entries...)), returns)
	if err != nil {
		t.Fatalf("%v", err)
	}
	var bundle struct{ Entry []json.RawMessage }
	if err := json.Unmarshal(p.Bytes(), &bundle); err != nil {
		t.Fatal(err)
	}
	out := make([]answered, len(bundle.Entry))
	for i, raw := range bundle.Entry {
		var e struct{ Response struct{ Status string } }
		if err := json.Unmarshal(raw, &e); err != nil {
			t.Fatal(err)
		}
		out[i] = answered{e.Response.Status, plain(string(raw))}
	}
	return out
}

// statuses returns the statuses of an answer.
func statuses(as []answered) (out []string) {
	for _, a := range as {
		out = append(out, a.status)
	}
	return out
}

// state returns all versions and all AuditEvents of the store, without generated ids and
// times, sorted.
func (w *batchWorld) state(t fatal) (out []string) {
	t.Helper()
	err := w.store.Scan(context.Background(), store.ScanRange{Types: fhir.Types, At: w.store.LastSeq(),
		Filter: access.All().Filter(access.Read)}, func(f *store.Found) bool {
		r := f.Resource
		out = append(out, plain(fmt.Sprintf("%s %d %v %s %s", r.Ref(), r.Version, r.Deleted, f.Facts.Author, r.JSON)))
		return true
	})
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(out)
	return out
}

func entryOf(method, url, resource, more string) string {
	if resource != "" {
		resource = `"resource":` + resource + `,`
	}
	return `{` + resource + `"request":{` + more + `"method":"` + method + `","url":"` + url + `"}}`
}

func patient(id string) string {
	return entryOf("PUT", "Patient/"+id, `{"resourceType":"Patient","id":"`+id+`"}`, "")
}

func later(entry string) string {
	return strings.Replace(entry, `"id":"`, `"language":"en-later","id":"`, 1)
}

// measurement returns an Observation about a subject.
func measurement(id, subject, text string) string {
	if id != "" {
		id = `"id":"` + id + `",`
	}
	return `{"resourceType":"Observation",` + id + `"status":"final","code":{"text":"` + text +
		`"},"subject":{"reference":"` + subject + `"}}`
}

func organizationOf(identifier, ifNoneExist string) string {
	if ifNoneExist != "" {
		ifNoneExist = `"ifNoneExist":"identifier=urn:t|` + ifNoneExist + `",`
	}
	return entryOf("POST", "Organization",
		`{"resourceType":"Organization","name":"x","identifier":[{"system":"urn:t","value":"`+
			identifier+`"}]}`, ifNoneExist)
}

const (
	groupG        = `{"resourceType":"Group","id":"g","type":"person","actual":true}`
	organizationO = `{"resourceType":"Organization","id":"o","name":"x"}`
)

// TestBatchEntriesThatMeet sends batches whose last entries concern each other. The answer
// must be that of a server which performs one entry after the other. A server that takes
// all entries for independent, which is the control, must give another answer if its
// store holds as many commits as it gets.
func TestBatchEntriesThatMeet(t *testing.T) {
	create := func(subject string) string { return entryOf("POST", "Observation", measurement("", subject, "t"), "") }
	read := func(url string) string { return entryOf("GET", url, "", "") }
	remove := func(url string) string { return entryOf("DELETE", url, "", "") }
	group, organization := entryOf("PUT", "Group/g", groupG, ""), entryOf("PUT", "Organization/o", organizationO, "")
	for _, test := range []struct {
		name    string
		held    int // commits of the control; those of an audit trail that waits for another are none
		entries []string
	}{
		{"subject", 2, []string{patient("x"), create("Patient/x")}},
		{"subject below the base URL", 2, []string{patient("x"), create(batchBase + "/Patient/x")}},
		{"subject with escapes", 2, []string{patient("x"), create(`Patient\/\u0078`)}},
		{"update with a subject", 2, []string{patient("x"),
			entryOf("PUT", "Observation/a", measurement("a", "Patient/x", "t"), "")}},
		{"another subject than a Patient", 2, []string{group, create("Group/g")}},
		{"deleted subject", 2, []string{group, read("Group?_id=g"), remove("Group/g"), create("Group/g")}},
		{"two updates", 2, []string{patient("x"), later(patient("x"))}},
		{"update and read", 2, []string{patient("x"), read("Patient/x")}},
		{"update and read of a version", 2, []string{patient("x"), read("Patient/x/_history/1")}},
		{"update and history", 2, []string{patient("x"), read("Patient/x/_history")}},
		{"update and delete", 2, []string{patient("x"), remove("Patient/x")}},
		{"delete and update", 3, []string{organization, read("Organization?_id=o"), remove("Organization/o"),
			later(organization)}},
		{"If-Match", 3, []string{patient("x"), read("Patient?_id=x"), patient("x"),
			entryOf("PUT", "Patient/x", `{"resourceType":"Patient","id":"x"}`, `"ifMatch":"W/\"2\"",`)}},
		{"create and search", 2, []string{organizationOf("7", ""), read("Organization?identifier=7")}},
		{"conditional creates", 2, []string{organizationOf("7", "7"),
			strings.Replace(organizationOf("7", "7"), `"x"`, `"later"`, 1)}},
		{"create and delete of its subject", 2, []string{patient("x"), read("Patient?_id=x"), create("Patient/x"),
			remove("Patient/x")}},
	} {
		t.Run(test.name, func(t *testing.T) {
			answer := func(held int, change func(*interaction.Service)) ([]answered, []string) {
				w, closes := newBatchWorld(t)
				defer closes()
				w.WithoutLocks() // an entry that waits for a lock would wait for the store
				change(w.Service)
				w.store.expect = held
				a := w.send(t, false, test.entries...)
				return a, w.state(t)
			}
			want, left := answer(0, (*interaction.Service).SerialBatches)
			got, state := answer(0, func(*interaction.Service) {})
			if !slices.Equal(got, want) || !slices.Equal(state, left) {
				t.Errorf("%v, want %v\n%v\n%v", statuses(got), statuses(want), got, want)
			}
			if blind, _ := answer(test.held, (*interaction.Service).BlindBatches); slices.Equal(blind, want) {
				t.Errorf("the control has the same answer: %v", statuses(blind))
			}
		})
	}
}

// randomEntry draws an entry about few resources, so that many entries of a batch
// concern each other.
func randomEntry(t *rapid.T) string {
	draw := func(what string, of ...string) string { return rapid.SampledFrom(of).Draw(t, what) }
	person, obs := draw("patient", "x", "y"), draw("observation", "a", "b", "c")
	subject := draw("subject", "Patient/", batchBase+"/Patient/", `Patient\/`, "Patient/no") + person
	precondition := draw("precondition", "", "", "", `"ifMatch":"W/\"1\"",`, `"ifNoneMatch":"*",`, `"ifMatch":"x",`)
	text := draw("text", "t", "u", strings.Repeat("long ", 2000))
	switch draw("kind", "patient", "observation", "observation", "measured", "measured", "measured", "organization",
		"organization", "once", "once", "read", "read", "version", "history", "search", "forget", "leave", "bad",
		"denied") {
	case "patient":
		return entryOf("PUT", "Patient/"+person,
			`{"resourceType":"Patient","id":"`+person+`","name":[{"text":"`+text+`"}]}`,
			precondition)
	case "observation":
		return entryOf("PUT", "Observation/"+obs, measurement(obs, subject, text), precondition)
	case "measured":
		return entryOf("POST", "Observation", measurement("", subject, text), "")
	case "organization":
		return organizationOf(obs, "")
	case "once":
		return organizationOf(obs, draw("criteria", "a", "b", "c"))
	case "read":
		return entryOf("GET", draw("read", "Patient/"+person, "Observation/"+obs), "", precondition)
	case "version":
		return entryOf("GET", "Observation/"+obs+"/_history/2", "", "")
	case "history":
		return entryOf("GET", "Observation/"+obs+"/_history", "", "")
	case "search":
		return entryOf("GET", draw("search", "Observation?_summary=count&patient="+person,
			"Organization?_summary=count&identifier="+obs), "", "")
	case "forget":
		return entryOf("DELETE", "Observation/"+obs, "", precondition)
	case "leave":
		return entryOf("DELETE", "Patient/"+person, "", "")
	case "bad":
		return draw("bad", entryOf("POST", "Observation", `{"resourceType":"Observation","code":{}}`, ""),
			entryOf("PATCH", "Patient/x", "{}", ""), entryOf("PUT", "Patient?identifier=1", "{}", ""), "7",
			entryOf("PUT", "Patient/x", `{"resourceType":"Patient","id":"y"}`, ""), entryOf("GET", "Nothing/1", "", ""))
	}
	return entryOf("DELETE", "AuditEvent/x", "", "")
}

// TestBatchEqualsSerial sends random batches to a server whose store commits what waits
// for it in any order, and to one that performs one entry after the other. All answers,
// all resources and all AuditEvents must be equal, also if the answer becomes full.
func TestBatchEqualsSerial(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		got, closes := newBatchWorld(t)
		defer closes()
		want, closesToo := newBatchWorld(t)
		defer closesToo()
		rnd := mrand.New(mrand.NewPCG(rapid.Uint64().Draw(t, "order"), 1))
		got.store.order = func(n int) []int {
			return rnd.Perm(n)
		}
		want.SerialBatches()
		limit := rapid.SampledFrom([]int{0, 0, 30_000, 60_000}).Draw(t, "limit")
		got.Limits.BundleBytes, want.Limits.BundleBytes = limit, limit
		minimal := rapid.Bool().Draw(t, "minimal")
		for range 3 {
			entries := rapid.SliceOfN(rapid.Custom(randomEntry), 1, 12).Draw(t, "entries")
			a, b := got.send(t, minimal, entries...), want.send(t, minimal, entries...)
			for i := range b {
				if a[i] != b[i] {
					t.Fatalf("entry %d: %s\n%s\nwant\n%s", i, entries[i], a[i].body, b[i].body)
				}
			}
		}
		if a, b := got.state(t), want.state(t); !slices.Equal(a, b) {
			t.Fatalf("%s\nwant\n%s", strings.Join(a, "\n"), strings.Join(b, "\n"))
		}
	})
}

// waiting is a store that commits nothing before as many commits wait for it as can.
type waiting struct {
	store.Store
	mu      sync.Mutex
	changed sync.Cond
	waiting int
	most    int
	arrived int
	fill    int // commits that wait together
	total   int // commits of the test, the last of which may be fewer
}

// Commit implements store.Store.
func (s *waiting) Commit(ctx context.Context, b *store.Batch) (store.Result, error) {
	s.mu.Lock()
	s.waiting++
	s.arrived++
	s.most = max(s.most, s.waiting)
	s.changed.Broadcast()
	for target := (s.arrived + s.fill - 1) / s.fill * s.fill; s.arrived < min(target, s.total); {
		s.changed.Wait()
	}
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		s.waiting--
		s.mu.Unlock()
	}()
	return s.Store.Commit(ctx, b)
}

// TestBatchWaitsTogether sends a batch of creates to a store that commits nothing before
// it has as many commits as a batch may have in progress. One create after the other
// would never end. More would be too many for the memory and for other requests.
func TestBatchWaitsTogether(t *testing.T) {
	w, closes := newBatchWorld(t)
	defer closes()
	w.OnBatchRun(nil, nil)
	const n = 3*interaction.Together + 5
	c := &waiting{Store: w.store.Store, fill: interaction.Together, total: n}
	c.changed.L = &c.mu
	w.Store = c
	var entries []string
	for range n {
		entries = append(entries, organizationOf("7", ""))
	}
	for i, a := range w.send(t, true, entries...) {
		if a.status != "201 Created" {
			t.Errorf("entry %d: %s", i, a.status)
		}
	}
	if c.most != interaction.Together {
		t.Errorf("%d commits at the same time, want %d", c.most, interaction.Together)
	}
}

// TestBatchEnds tests that a batch whose grant or context ends starts no further entry,
// waits for those that it has started, and returns no result.
func TestBatchEnds(t *testing.T) {
	entries := slices.Repeat([]string{organizationOf("7", "")}, 20)
	ended := fhir.Errorf(fhir.Unauthorized, "test", "the token was revoked")
	for _, test := range []struct {
		name string
		want fhir.Kind
	}{{"grant", fhir.Unauthorized}, {"context", fhir.Unavailable}} {
		t.Run(test.name, func(t *testing.T) {
			w, closes := newBatchWorld(t)
			defer closes()
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			grant, checks := *access.All(), 0
			grant.Recheck = func(context.Context) error {
				if checks++; checks < 10 {
					return nil
				}
				if test.name == "context" {
					cancel()
					return nil
				}
				return ended
			}
			rq := &interaction.Request{Caller: audit.Caller{Principal: &access.Principal{Operator: "uid:0",
				Grant: &grant}}}
			p, err := w.Bundle(ctx, rq, []byte(batchOf(entries...)), interaction.ReturnRepresentation)
			if p != nil || fhir.KindOf(err) != test.want {
				t.Errorf("%v", err)
			}
			created := 0
			for _, r := range w.state(t) {
				if strings.HasPrefix(r, "Organization/") {
					created++
				}
			}
			// Entries in progress may fail when the context ends.
			if created > 10 || created < 10 && test.name == "grant" {
				t.Errorf("%d entries were performed", created)
			}
		})
	}
}

// panicking is a validator that panics for a resource with the text "panic".
type panicking struct{ interaction.Validator }

func (v panicking) Create(typ string, body []byte, id string) (fhir.Resource, error) {
	if strings.Contains(string(body), "panic") {
		panic("in the validator")
	}
	return v.Validator.Create(typ, body, id)
}

// TestBatchPanics tests that a panic in an entry reaches the goroutine of the caller,
// which recovers it, with the stack of the entry, after the other entries have ended.
func TestBatchPanics(t *testing.T) {
	w, closes := newBatchWorld(t)
	defer closes()
	w.Validator = panicking{w.Validator}
	defer func() {
		p, ok := recover().(*interaction.EntryPanic)
		if !ok || p.Value != "in the validator" || !strings.Contains(string(p.Stack), "panicking.Create") {
			t.Errorf("%v", p)
		}
		if s := w.state(t); len(s) != 4 { // two Organizations and their events
			t.Errorf("%d: %v", len(s), s)
		}
	}()
	w.send(t, false, organizationOf("7", ""), organizationOf("panic", ""), organizationOf("8", ""))
}
