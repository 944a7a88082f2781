package appconsent_test

import (
	"context"
	"crypto/rand"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"pulsegate/fhir"
	"pulsegate/fhir/access"
	"pulsegate/fhir/audit"
	"pulsegate/fhir/consent"
	"pulsegate/fhir/store"
	"pulsegate/fhir/store/pebblestore"
	"pulsegate/smart/appconsent"
)

// world is a store with patient p1.
type world struct {
	*pebblestore.DB
	t      *testing.T
	engine *consent.Engine
	w      *appconsent.Withdrawals
	// before runs once, between the reading of a withdrawal and its commit.
	before  func()
	commits []*store.Batch
}

func (w *world) Commit(ctx context.Context, b *store.Batch) (store.Result, error) {
	if f := w.before; f != nil {
		w.before = nil
		f()
	}
	w.commits = append(w.commits, b)
	return w.DB.Commit(ctx, b)
}

func open(t *testing.T) *world {
	db, err := pebblestore.Open("", pebblestore.Options{FS: vfs.NewMem(), CacheBytes: 8 << 20})
	if err != nil {
		t.Fatal(err)
	}
	w := &world{DB: db, t: t}
	log := slog.New(slog.DiscardHandler)
	rec, err := audit.NewRecorder(audit.Options{Store: db, Clock: time.Now, Rand: rand.Reader,
		Observer: "https://pulse.example.org", Logger: log})
	if err != nil {
		t.Fatal(err)
	}
	if w.engine, err = consent.New(consent.Options{Store: db, Clock: time.Now, Logger: log}); err != nil {
		t.Fatal(err)
	}
	n := 0
	w.w = &appconsent.Withdrawals{Store: w, Audit: rec, Consents: w.engine, Clock: time.Now,
		Vendors: []string{"apple", "fitbit", "oura"},
		NewID:   func() string { n++; return fmt.Sprint("new", n) }}
	t.Cleanup(func() {
		w.engine.Close()
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	return w
}

// put stores a Consent as the operator or a client does.
func (w *world) put(author string, r fhir.Resource, err error) {
	w.t.Helper()
	if err == nil {
		_, err = w.DB.Commit(w.t.Context(), &store.Batch{Writes: []store.Write{{Resource: r, Author: author}}})
	}
	if err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) grant(id, vendor, recipient string) {
	w.t.Helper()
	r, err := consent.Build(consent.Terms{ID: id, Patient: "p1", Vendor: vendor, Recipient: recipient, Now: time.Now()})
	w.put("", r, err)
}

func (w *world) sees(who, vendor string) bool {
	return w.engine.Permits(who, &access.Facts{Type: "Observation", Patient: "p1", Vendor: vendor,
		Categories: []string{"activity"}})
}

func (w *world) withdraw(vendor string) (appconsent.Withdrawn, error) {
	return w.w.Withdraw(w.t.Context(), audit.Caller{Principal: &access.Principal{Operator: "uid:0",
		Grant: access.All()}, RequestID: "r"}, "p1", vendor)
}

// TestWithdrawVendor: a Consent for all vendors does not keep the data of one
// open, and goes on for the others.
func TestWithdrawVendor(t *testing.T) {
	w := open(t)
	w.grant("apple", "apple", "any")
	w.grant("all", "", "ehr")
	w.put("ehr", fhir.Resource{Type: "Consent", ID: "two",
		JSON: []byte(fhir.Prefix("Consent", "two") +
			`},"status":"active","scope":{"coding":[{"system":"http://terminology.hl7.org/CodeSystem/consentscope","code":"patient-privacy"}]},` +
			`"patient":{"reference":"Patient/p1"},"provision":{"type":"permit","actor":[{"role":{"coding":[{"system":"http://terminology.hl7.org/CodeSystem/v3-ParticipationType","code":"IRCP"}]},` +
			`"reference":{"identifier":{"system":"` + consent.ClientSystem +
			`","value":"ehr"}}}],"code":[{"coding":[{"system":"` + consent.VendorSystem +
			`","code":"apple"},{"system":"` + consent.VendorSystem + `","code":"oura"}]}]}}`)}, nil)
	app, err := consent.ForApp(consent.Allowance{ID: "app-a1", Patient: "p1", Authorization: "a1", Client: "app",
		App: "App", Scope: "patient/*.rs", Types: []string{"Observation"},
		From: time.Now(), Until: time.Now().Add(time.Hour)})
	w.put("", app, err)
	stop, err := consent.Refuse(consent.Refusal{ID: "stop-1", Patient: "p1", Client: "stopped", App: "App",
		Now: time.Now()})
	w.put("", stop, err)
	if !w.sees("ehr", "apple") || !w.sees("lab", "apple") || w.sees("stopped", "apple") {
		t.Fatal("before")
	}
	at := w.LastSeq()
	got, err := w.withdraw("apple")
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(got.Narrowed)
	if !slices.Equal(got.Ended, []string{"apple"}) ||
		!slices.Equal(got.Narrowed, []string{"all", "app-a1", "two"}) || len(got.Denials) != 0 || got.Record == "" {
		t.Errorf("%+v", got)
	}
	b := w.commits[len(w.commits)-1]
	if w.LastSeq() != at+1 || len(b.Leaves) != 2 {
		t.Errorf("%d commits, the last with %d events", w.LastSeq()-at, len(b.Leaves))
	}
	for _, who := range []string{"ehr", "lab", "stopped", "any"} {
		if w.sees(who, "apple") {
			t.Errorf("%s sees apple", who)
		}
	}
	if w.engine.Under("a1").Permits("app", &access.Facts{Type: "Observation", Patient: "p1", Vendor: "apple"}) {
		t.Error("the app sees apple")
	}
	if !w.sees("ehr", "oura") || !w.engine.Under("a1").Permits("app",
		&access.Facts{Type: "Observation", Patient: "p1", Vendor: "oura"}) {
		t.Error("oura was withdrawn too")
	}
	if _, ok, err := w.engine.Collects(t.Context(), "p1", "apple"); ok || err != nil {
		t.Error("apple is collected", err)
	}
	if _, err := w.withdraw("apple"); fhir.KindOf(err) != fhir.NotFound ||
		!strings.Contains(err.Error(), "no active consent") {
		t.Error("a second time:", err)
	}
	w.grant("anew", "apple", "any")
	if !w.sees("ehr", "apple") || w.sees("stopped", "apple") {
		t.Error("after a new consent:", w.sees("ehr", "apple"), w.sees("stopped", "apple"))
	}
}

// TestWithdrawAll leaves denials alone.
func TestWithdrawAll(t *testing.T) {
	w := open(t)
	w.grant("all", "", "any")
	stop, err := consent.Refuse(consent.Refusal{ID: "stop-1", Patient: "p1", Client: "stopped", App: "App",
		Now: time.Now()})
	w.put("", stop, err)
	if got, err := w.withdraw(""); err != nil || !slices.Equal(got.Ended, []string{"all"}) {
		t.Fatal(got, err)
	}
	w.grant("anew", "", "any")
	if w.sees("stopped", "oura") || !w.sees("ehr", "oura") {
		t.Error("after a new consent:", w.sees("stopped", "oura"), w.sees("ehr", "oura"))
	}
}

// TestWithdrawAmongOthers: a Consent that is recorded or changed between the
// reading and the commit does not stay open behind the command's back.
func TestWithdrawAmongOthers(t *testing.T) {
	for name, other := range map[string]func(w *world){
		"recorded": func(w *world) { w.grant("more", "", "lab") },
		"changed":  func(w *world) { w.grant("all", "apple", "lab") },
	} {
		t.Run(name, func(t *testing.T) {
			w := open(t)
			w.grant("all", "", "any")
			w.before = func() { other(w) }
			if _, err := w.withdraw("apple"); err != nil {
				t.Fatal(err)
			}
			if w.sees("ehr", "apple") || w.sees("lab", "apple") {
				t.Error("visible after the withdrawal")
			}
		})
	}
}
