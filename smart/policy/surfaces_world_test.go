package policy_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
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
	"pulsegate/fhir/bulk"
	"pulsegate/fhir/consent"
	"pulsegate/fhir/egress"
	"pulsegate/fhir/interaction"
	"pulsegate/fhir/r4"
	"pulsegate/fhir/rest"
	"pulsegate/fhir/store"
	"pulsegate/fhir/store/pebblestore"
	"pulsegate/fhir/subscription"
	"pulsegate/smart/policy"
	"pulsegate/smart/scope"
)

const (
	fhirBase    = "https://pulse.example.org/fhir"
	catSystem   = "http://terminology.hl7.org/CodeSystem/observation-category"
	loinc       = "http://loinc.org"
	heartRate   = "8867-4"
	steps       = "55423-8"
	vitalSigns  = "vital-signs"
	activity    = "activity"
	observation = "Observation"
)

// item is one version of a resource, and what the interpreter has to know.
type item struct {
	resource
	vendor     string
	categories []string
	version    int
	deleted    bool
	code       string
	value, at  int // at: minutes
	refs       []string
}

func (x *item) ref() string { return x.typ + "/" + x.id }

// agreedTo is a Consent as the interpreter reads it.
type agreedTo struct {
	id, patient, recipient, vendor string
	categories                     []string
	deny, ended                    bool
}

// token is who asks.
type token struct {
	name    string
	scopes  []string
	patient string   // in context
	user    fhir.Ref // zero: a backend
	roles   []string

	acr      string
	signedIn time.Time
}

func (k *token) backend() bool { return k.user.IsZero() }

// surfaces is a server in a process and the truth beside it.
type surfaces struct {
	t        *rapid.T
	fault    fault
	db       *pebblestore.DB
	consents *consent.Engine
	exporter *bulk.Exporter
	subs     *subscription.Engine
	handler  http.Handler
	receiver *httptest.Server
	mu       sync.Mutex
	received [][]byte

	items  []*item // all versions, the oldest first
	agreed []agreedTo
	tokens map[string]*token
	asked  map[string]int
	fail   func(string) // of the control; nil: the test's

	subscribed bool
}

type accessToken = access.Token

// fault is what a server does wrong on purpose, for the control.
type fault int

const (
	noFault     fault = iota
	findsAll          // a search forgets the filter
	countsAll         // a total does
	readsAll          // a read takes any resource for one of the patient asked about
	alwaysAgree       // consents are not asked
	hidesSome         // a search hides an Observation from everybody but the root
	faults
)

type faultyStore struct {
	store.Store
	fault fault
}

func (s faultyStore) Find(ctx context.Context, f store.Find, fn func(*store.Found) bool) error {
	if f.Query.Type == observation && s.fault == findsAll {
		f.Filter = access.All().Filter(access.Search)
	}
	return s.Store.Find(ctx, f, func(x *store.Found) bool {
		if s.fault == hidesSome && x.Resource.ID == "o1" && f.Query.Count < 1000 {
			return true
		}
		return fn(x)
	})
}

func (s faultyStore) Count(ctx context.Context, f store.Find) (uint64, error) {
	if f.Query.Type == observation && s.fault == countsAll {
		f.Filter = access.All().Filter(access.Search)
	}
	return s.Store.Count(ctx, f)
}

func (s faultyStore) Read(ctx context.Context, ref fhir.Ref, at store.T) (fhir.Resource, *access.Facts, error) {
	r, f, err := s.Store.Read(ctx, ref, at)
	if s.fault == readsAll && err == nil && ref.Type == observation {
		f.Patient = "p1"
	}
	return r, f, err
}

var theDoor = sync.OnceValues(func() (*r4.Door, error) { return r4.New(r4.Limits{}) })

// newSurfaces serves nothing yet: see give.
func newSurfaces(outer testing.TB, t *rapid.T, wrong fault) *surfaces {
	w := &surfaces{t: t, fault: wrong, tokens: map[string]*token{}, asked: map[string]int{}}
	must := func(err error) {
		if err != nil {
			t.Fatal(err)
		}
	}
	door, err := theDoor()
	must(err)
	log := slog.New(slog.DiscardHandler)
	w.db, err = pebblestore.Open("", pebblestore.Options{FS: vfs.NewMem(), NoSync: true, CacheBytes: 4 << 20})
	must(err)
	var s store.Store = w.db
	if wrong != noFault {
		s = faultyStore{w.db, wrong}
	}
	rec, err := audit.NewRecorder(audit.Options{Store: w.db, Clock: time.Now, Rand: rand.Reader, Observer: "https://pulse.example.org", Logger: log})
	must(err)
	w.consents, err = consent.New(consent.Options{Store: w.db, Clock: time.Now, Logger: log})
	must(err)
	w.exporter, err = bulk.New(context.Background(), bulk.Options{Store: s, Audit: rec, Clock: time.Now, Rand: rand.Reader, Base: fhirBase, GrantFor: w.grantFor, Logger: log})
	must(err)
	w.receiver = httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		var b bytes.Buffer
		if _, err := b.ReadFrom(r.Body); err == nil {
			w.mu.Lock()
			w.received = append(w.received, b.Bytes())
			w.mu.Unlock()
		}
	}))
	w.subs, err = subscription.New(context.Background(), subscription.Options{Store: s, Audit: rec, Clock: time.Now, Rand: rand.Reader, Base: fhirBase, HandshakeDelay: 1, Logger: log,
		Policy:   egress.Policy{AllowPrivate: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}, AllowHTTP: true},
		GrantFor: func(ctx context.Context, client string) (*access.Grant, error) { return w.grantFor(ctx, client, "") }})
	must(err)
	svc := &interaction.Service{Store: s, Door: door, Audit: rec, Clock: time.Now, Rand: rand.Reader, Base: fhirBase, Checks: map[string]interaction.Check{"Subscription": w.subs.Check, "Device": policy.StepUp{Clock: time.Now}.Check}}
	srv := &rest.Server{Service: svc, Auth: w, Logger: log, Clock: time.Now, Rand: rand.Reader, Metadata: func() []byte { return []byte(`{"resourceType":"CapabilityStatement"}`) },
		Operations: []rest.Mounter{rest.Bulk{Exporter: w.exporter, Base: fhirBase, Service: svc}, rest.Subscriptions{Engine: w.subs, Service: svc}}}
	w.handler = srv.Handler()
	return w
}

func (w *surfaces) close() {
	w.subs.Close()
	w.exporter.Close()
	w.consents.Close()
	w.receiver.Close()
	if err := w.db.Close(); err != nil {
		w.t.Fatal(err)
	}
}

var full = scope.Parser{TokenParam: scope.Registered} // read only

type yes struct{}

func (yes) Permits(string, *access.Facts) bool { return true }

// Authenticate is rest.Authenticator: a token is its name, and what it stands
// for goes through Compile. "root" sees everything.
func (w *surfaces) Authenticate(r *http.Request) (*access.Principal, error) {
	name := strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")
	if name == "root" {
		g := access.All()
		return &access.Principal{ClientID: "root", TokenID: "t-root", Grant: g}, nil
	}
	k := w.tokens[name]
	if k == nil {
		return nil, fhir.Errorf(fhir.Unauthorized, "surfaces", "an access token is needed")
	}
	g, err := w.grant(k)
	return &access.Principal{ClientID: k.name, TokenID: "t-" + k.name, Patient: k.patient, ACR: k.acr, AuthTime: k.signedIn, Grant: g}, err
}

func (w *surfaces) grant(k *token) (*access.Grant, error) {
	set, err := full.Parse(strings.Join(k.scopes, " "))
	if err != nil {
		return nil, err
	}
	g := &access.Grant{Recipient: k.name, Rules: set.Rules(), Consents: w.consents}
	if w.fault == alwaysAgree {
		g.Consents = yes{}
	}
	if !k.backend() {
		g.Person = true
		g.Rules = policy.Compile(policy.Facts{Scopes: set, Patient: k.patient, FHIRUser: k.user, Roles: rulesOf(policy.Counting(k.roles, k.user))})
	}
	return g, nil
}

func (w *surfaces) grantFor(_ context.Context, client, _ string) (*access.Grant, error) {
	if client == "root" {
		return access.All(), nil
	}
	if k := w.tokens[client]; k != nil {
		return w.grant(k)
	}
	return nil, fhir.Errorf(fhir.Forbidden, "surfaces", "no such client")
}

// sees is the whole rule, without a line of the code that it checks.
func (w *surfaces) sees(k *token, do string, x *item) bool {
	if k.backend() {
		if !slices.ContainsFunc(k.scopes, func(s string) bool {
			rest, ok := strings.CutPrefix(s, "system/")
			return ok && covers(rest, do, x.resource)
		}) {
			return false
		}
	} else if !may(k.scopes, do, x.resource, k.patient, k.user, k.roles) {
		return false
	}
	if x.typ != observation && x.typ != "Device" && x.typ != "Provenance" {
		return true
	}
	permitted := false
	for _, a := range w.agreed {
		if a.ended || a.patient != x.patient || a.recipient != k.name && a.recipient != consent.AnyRecipient {
			continue
		}
		if a.deny {
			return false
		}
		covered := a.vendor == "" || x.vendor == "" || a.vendor == x.vendor
		if len(a.categories) > 0 && x.typ == observation {
			for _, c := range x.categories {
				covered = covered && slices.Contains(a.categories, c)
			}
		}
		permitted = permitted || covered
	}
	return permitted
}

// put makes a version of a resource durable, in the store and in the truth.
func (w *surfaces) put(x *item, body map[string]any) {
	b, err := json.Marshal(body)
	if err != nil {
		w.t.Fatal(err)
	}
	r := append([]byte(fhir.Prefix(x.typ, x.id)), append([]byte(`},`), b[1:]...)...)
	w.commit(x, store.Write{Op: store.Put, Resource: fhir.Resource{Type: x.typ, ID: x.id, JSON: r}, Vendor: x.vendor})
}

func (w *surfaces) commit(x *item, wr store.Write) {
	if _, err := w.db.Commit(context.Background(), &store.Batch{Writes: []store.Write{wr}}); err != nil {
		w.t.Fatal(err)
	}
	if x == nil {
		return
	}
	x.version = 1
	for _, o := range w.items {
		if o.ref() == x.ref() {
			x.version++
		}
	}
	w.items = append(w.items, x)
}

// current is the newest version of a resource; nil when there is none.
func (w *surfaces) current(ref string) *item {
	for _, x := range slices.Backward(w.items) {
		if x.ref() == ref {
			return x
		}
	}
	return nil
}

// agree writes a Consent, or ends one.
func (w *surfaces) agree(a agreedTo) {
	r, err := consent.Grant(consent.Terms{ID: a.id, Patient: a.patient, Vendor: a.vendor, Categories: a.categories, Recipient: a.recipient, Now: time.Now()})
	if err == nil && a.ended {
		r, err = consent.Withdraw(r)
	}
	if err != nil {
		w.t.Fatal(err)
	}
	if a.deny {
		r.JSON = bytes.Replace(r.JSON, []byte(`"provision":{"type":"permit"`), []byte(`"provision":{"type":"deny"`), 1)
	}
	x := &item{resource: resource{typ: "Consent", id: a.id, patient: a.patient}}
	w.commit(x, store.Write{Op: store.Put, Resource: r})
	for i := range w.agreed {
		if w.agreed[i].id == a.id {
			w.agreed[i] = a
			return
		}
	}
	w.agreed = append(w.agreed, a)
}

// ask serves one request.
func (w *surfaces) ask(k, method, url, body string, header ...string) *httptest.ResponseRecorder {
	if !strings.HasPrefix(url, "http") {
		url = fhirBase + "/" + url
	}
	q := httptest.NewRequest(method, url, strings.NewReader(body))
	q.Header.Set("Authorization", "Bearer "+k)
	if body != "" {
		q.Header.Set("Content-Type", "application/fhir+json")
	}
	for i := 0; i+1 < len(header); i += 2 {
		q.Header.Set(header[i], header[i+1])
	}
	rec := httptest.NewRecorder()
	w.handler.ServeHTTP(rec, q)
	return rec
}

// bundle is what matters of a Bundle.
type bundle struct {
	Total *int
	Link  []struct{ Relation, URL string }
	Entry []struct {
		FullURL  string
		Search   struct{ Mode string }
		Response struct{ Status string }
		Resource json.RawMessage
	}
}

func (b *bundle) next() string {
	for _, l := range b.Link {
		if l.Relation == "next" {
			return l.URL
		}
	}
	return ""
}

func (w *surfaces) parse(what string, rec *httptest.ResponseRecorder) *bundle {
	var b bundle
	if err := json.Unmarshal(rec.Body.Bytes(), &b); err != nil {
		w.t.Fatalf("%s: %v", what, err)
	}
	return &b
}

func (k *token) String() string {
	return fmt.Sprintf("%s (scopes %v, patient %q, user %v, roles %v)", k.name, k.scopes, k.patient, k.user, k.roles)
}
