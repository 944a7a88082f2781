package interaction_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"pulsegate/fhir"
	"pulsegate/fhir/access"
	"pulsegate/fhir/audit"
	"pulsegate/fhir/consent"
	"pulsegate/fhir/interaction"
	"pulsegate/fhir/r4"
	"pulsegate/fhir/store"
	"pulsegate/fhir/store/pebblestore/pebbletest"
)

var validator = sync.OnceValues(func() (*r4.Validator, error) { return r4.New(r4.Limits{}) })

// interposed is the store of one process. Before a commit it lets another process go
// first.
type interposed struct {
	store.Store
	before    func() // called before the next commit; nil for none
	always    bool   // before each commit
	unguarded bool   // commits ignore guards, as a control
	commits   int
	reads     func() // called before the next read; nil for none
}

func (s *interposed) Read(ctx context.Context, ref fhir.Ref, at store.Seq) (fhir.Resource, *access.Facts, error) {
	if f := s.reads; f != nil {
		s.reads = nil
		f()
	}
	return s.Store.Read(ctx, ref, at)
}

func (s *interposed) Commit(ctx context.Context, b *store.Batch) (store.Result, error) {
	if f := s.before; f != nil {
		if !s.always {
			s.before = nil
		}
		f()
	}
	if s.unguarded {
		b.Guards = nil
	}
	s.commits++
	return s.Store.Commit(ctx, b)
}

// twoProcesses returns two services over one store. The first one commits through a
// store that the test interposes.
func twoProcesses(t *testing.T) (here, there *interaction.Service, mine *interposed) {
	t.Helper()
	db := pebbletest.Open(t)
	v, err := validator()
	if err != nil {
		t.Fatal(err)
	}
	process := func(st store.Store) *interaction.Service {
		rec, err := audit.NewRecorder(audit.Options{Store: db, Clock: time.Now, Rand: rand.Reader,
			Observer: "https://pg.example"})
		if err != nil {
			t.Fatal(err)
		}
		return &interaction.Service{Store: st, Validator: v, Audit: rec, Clock: time.Now, Rand: rand.Reader,
			Base: "https://pg.example/fhir"}
	}
	mine = &interposed{Store: db}
	return process(mine), process(db), mine
}

const (
	ada      = `{"resourceType":"Patient","id":"ada"}`
	measured = `"status":"final","code":{"text":"x"},"subject":{"reference":"Patient/ada"}`
	named    = `{"resourceType":"Organization","name":"x","identifier":[{"system":"urn:t","value":"7"}]}`
)

// act is a request to a service.
type act func(s *interaction.Service) (interaction.Written, error)

func put(typ, id, body string) act {
	return func(s *interaction.Service) (interaction.Written, error) {
		return s.Update(context.Background(), operator, fhir.Ref{Type: typ, ID: id}, []byte(body),
			interaction.Preconditions{})
	}
}

func post(typ, body, ifNoneExist string) act {
	return func(s *interaction.Service) (interaction.Written, error) {
		return s.Create(context.Background(), operator, typ, []byte(body), ifNoneExist)
	}
}

func remove(typ, id string) act {
	return func(s *interaction.Service) (interaction.Written, error) {
		return s.Delete(context.Background(), operator, fhir.Ref{Type: typ, ID: id}, interaction.Preconditions{})
	}
}

// transact sends a transaction of entries. For conditional creates, Matched reports
// whether the answer has the status 200.
func transact(entries ...string) act {
	return func(s *interaction.Service) (interaction.Written, error) {
		p, err := s.Bundle(context.Background(), operator, []byte(
			`{"resourceType":"Bundle","type":"transaction","entry":[`+strings.Join(entries, ",")+`]}`),
			interaction.ReturnMinimal)
		if err != nil {
			return interaction.Written{}, err
		}
		return interaction.Written{Matched: bytes.Contains(p.Bytes(), []byte(`"status":"200`))}, nil
	}
}

// consents writes a Consent of ada as the pages do, past the interactions.
func consents(s *interaction.Service) (interaction.Written, error) {
	r, err := consent.Build(consent.Terms{ID: "c", Patient: "ada", Vendor: "oura", VendorName: "Oura", Now: time.Now()})
	if err == nil {
		_, err = s.Store.Commit(context.Background(), &store.Batch{Writes: []store.Write{{Resource: r}}})
	}
	return interaction.Written{}, err
}

// violations describes what one process would never have let happen: two resources with
// the same identifier, and references to a deleted Patient.
func violations(t *testing.T, st store.Store) (out []string) {
	t.Helper()
	organizations, references := 0, 0
	err := st.Scan(t.Context(), store.ScanRange{Types: []string{"Organization", "Observation", "Device", "Consent"},
		At: st.LastSeq(), Filter: access.All().Filter(access.Read)}, func(f *store.Found) bool {
		if f.Resource.Type == "Organization" {
			organizations++
		}
		if f.Facts.Patient == "ada" {
			references++
		}
		return true
	})
	if err != nil {
		t.Fatal(err)
	}
	if organizations > 1 {
		out = append(out, fmt.Sprint(organizations, " resources of one identifier"))
	}
	r, _, err := st.Read(t.Context(), fhir.Ref{Type: "Patient", ID: "ada"}, 0)
	if err != nil {
		t.Fatal(err)
	}
	if r.Deleted && references > 0 {
		out = append(out, fmt.Sprint(references, " references to a deleted Patient"))
	}
	return out
}

// entries of transactions
const (
	createNamed = `{"resource":` + named +
		`,"request":{"method":"POST","url":"Organization","ifNoneExist":"identifier=urn:t|7"}}`
	putMeasured = `{"resource":{"resourceType":"Observation","id":"m",` + measured +
		`},"request":{"method":"PUT","url":"Observation/m"}}`
	deleteAda = `{"request":{"method":"DELETE","url":"Patient/ada"}}`
)

// TestGuards lets a request at one process overtake one at another, between its checks
// and its commit. The outcome must be that of one after the other. Without guards, which
// is the control, each case must violate a rule.
func TestGuards(t *testing.T) {
	conditional := post("Organization", named, "identifier=urn:t|7")
	measure := put("Observation", "m", `{"resourceType":"Observation","id":"m",`+measured+`}`)
	for _, test := range []struct {
		name            string
		overtaken, fast act
		matched         bool      // the overtaken request finds what the other one has made
		want            fhir.Kind // else the error of the overtaken request
	}{
		{"conditional creates", conditional, conditional, true, 0},
		{"conditional creates, other spelling", conditional, post("Organization", named, "?identifier=7"), true, 0},
		{"conditional create after a transaction", conditional, transact(createNamed), true, 0},
		{"transaction after a conditional create", transact(createNamed), conditional, true, 0},
		{"create after delete", post("Observation", `{"resourceType":"Observation",`+measured+`}`, ""),
			remove("Patient", "ada"), false, fhir.Unprocessable},
		{"update as create after delete", measure, remove("Patient", "ada"), false, fhir.Unprocessable},
		{"another type after delete", post("Device",
			`{"resourceType":"Device","patient":{"reference":"Patient/ada"}}`, ""), remove("Patient", "ada"), false,
			fhir.Unprocessable},
		{"transaction after delete", transact(putMeasured), remove("Patient", "ada"), false, fhir.Unprocessable},
		{"delete after create", remove("Patient", "ada"), measure, false, fhir.Conflict},
		{"delete after transaction", remove("Patient", "ada"), transact(putMeasured), false, fhir.Conflict},
		{"delete after a consent", remove("Patient", "ada"), consents, false, fhir.Conflict},
		{"delete in a transaction after create", transact(deleteAda), measure, false, fhir.Conflict},
		{"create after delete in a transaction", measure, transact(deleteAda), false, fhir.Unprocessable},
	} {
		t.Run(test.name, func(t *testing.T) {
			for _, unguarded := range []bool{false, true} {
				here, there, mine := twoProcesses(t)
				if _, err := put("Patient", "ada", ada)(there); err != nil {
					t.Fatal(err)
				}
				mine.unguarded = unguarded
				mine.before = func() {
					if _, err := test.fast(there); err != nil {
						t.Errorf("the fast request: %v", err)
					}
				}
				w, err := test.overtaken(here)
				bad := violations(t, mine.Store)
				switch {
				case mine.before != nil:
					t.Error("the overtaken request has not committed")
				case unguarded:
					if err != nil || len(bad) == 0 {
						t.Errorf("without guards: %v, and no violation", err)
					}
				case len(bad) > 0:
					t.Errorf("with guards: %v", bad)
				case test.matched && (err != nil || !w.Matched):
					t.Errorf("%+v, %v", w, err)
				case !test.matched && fhir.KindOf(err) != test.want:
					t.Errorf("%v, want kind %v", err, test.want)
				}
			}
		})
	}
}

// TestGuardsUpdate moves an Observation to a Patient that is deleted meanwhile.
func TestGuardsUpdate(t *testing.T) {
	here, there, mine := twoProcesses(t)
	for _, do := range []act{put("Patient", "ada", ada), put("Patient", "ben", `{"resourceType":"Patient","id":"ben"}`),
		put("Observation", "m", `{"resourceType":"Observation","id":"m",`+
			strings.Replace(measured, "ada", "ben", 1)+`}`)} {
		if _, err := do(there); err != nil {
			t.Fatal(err)
		}
	}
	mine.before = func() {
		if _, err := remove("Patient", "ada")(there); err != nil {
			t.Error(err)
		}
	}
	_, err := put("Observation", "m", `{"resourceType":"Observation","id":"m",`+measured+`}`)(here)
	if err == nil || fhir.KindOf(err) != fhir.Unprocessable || len(violations(t, mine.Store)) > 0 {
		t.Errorf("%v, %v", err, violations(t, mine.Store))
	}
}

// TestGuardsGiveUp overtakes a request again and again. It must end with an error that
// says so.
func TestGuardsGiveUp(t *testing.T) {
	here, there, mine := twoProcesses(t)
	if _, err := put("Patient", "ada", ada)(there); err != nil {
		t.Fatal(err)
	}
	n := 0
	mine.always, mine.before = true, func() {
		n++
		id := fmt.Sprint("m", n)
		if _, err := put("Observation", id,
			`{"resourceType":"Observation","id":"`+id+`",`+measured+`}`)(there); err != nil {
			t.Error(err)
		}
		if _, err := remove("Observation", id)(there); err != nil {
			t.Error(err)
		}
	}
	_, err := remove("Patient", "ada")(here)
	if err == nil || fhir.KindOf(err) != fhir.Conflict || !strings.Contains(err.Error(), "try again") {
		t.Error(err)
	}
	if mine.commits < 2 || mine.commits > 40 {
		t.Errorf("%d attempts", mine.commits)
	}
	mine.before = nil
	if _, err := remove("Patient", "ada")(here); err != nil {
		t.Errorf("left alone: %v", err)
	}
}

// TestGuardsConcern checks that a request is not delayed by requests that concern other
// patients and other criteria.
func TestGuardsConcern(t *testing.T) {
	here, there, mine := twoProcesses(t)
	for _, id := range []string{"ada", "ben"} {
		if _, err := put("Patient", id, strings.Replace(ada, "ada", id, 1))(there); err != nil {
			t.Fatal(err)
		}
	}
	for _, do := range []act{put("Observation", "m", `{"resourceType":"Observation","id":"m",`+measured+`}`),
		post("Organization", named, "identifier=urn:t|7"), remove("Observation", "m"), remove("Patient", "ada")} {
		mine.commits, mine.before = 0, func() {
			for _, other := range []act{post("Observation", `{"resourceType":"Observation",`+
				strings.Replace(measured, "ada", "ben", 1)+`}`, ""),
				post("Organization", strings.Replace(named, `"7"`, `"8"`, 1), "identifier=urn:t|8")} {
				if _, err := other(there); err != nil {
					t.Error(err)
				}
			}
		}
		if _, err := do(here); err != nil || mine.commits != 1 {
			t.Errorf("%d attempts: %v", mine.commits, err)
		}
	}
}

// TestConcurrentCreatesWithoutLocks tests that concurrent conditional creates at two
// processes, whose locks are off, make one resource.
func TestConcurrentCreatesWithoutLocks(t *testing.T) {
	here, there, mine := twoProcesses(t)
	here.Store = mine.Store // concurrent requests cannot be interposed
	here.WithoutLocks()
	there.WithoutLocks()
	if _, err := put("Patient", "ada", ada)(there); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for i := range 12 {
		s := []*interaction.Service{here, there}[i%2]
		wg.Go(func() {
			if _, err := post("Organization", named, "identifier=urn:t|7")(s); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if bad := violations(t, mine.Store); len(bad) > 0 {
		t.Error(bad)
	}
}
