package push

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"pulsegate/conformance/blackbox"
)

// bin is the binary under test.
var bin string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "pulsegate-push-")
	if err == nil {
		bin, err = blackbox.Build(dir)
	}
	code := 1
	if err == nil {
		code = m.Run()
	}
	if err = errors.Join(err, os.RemoveAll(dir)); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

const mrn = "urn:oid:1.2.3.4"

// node is a server with a client that may read and write everything.
type node struct {
	t      *testing.T
	srv    *blackbox.Server
	listen string
	client *blackbox.Client
}

func start(t *testing.T) *node {
	t.Helper()
	port, err := blackbox.FreePort()
	if err != nil {
		t.Fatal(err)
	}
	n := &node{t: t, listen: fmt.Sprintf("127.0.0.1:%d", port)}
	if n.srv, err = blackbox.StartAt(bin, filepath.Join(t.TempDir(), "data"), n.listen); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := n.srv.Stop(); err != nil {
			t.Error(err)
		}
	})
	key, err := blackbox.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	jwks, err := key.JWKS()
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "jwks.json")
	if err := os.WriteFile(file, jwks, 0o600); err != nil {
		t.Fatal(err)
	}
	const scope = "system/Observation.cruds system/Patient.cruds system/AuditEvent.rs"
	n.client = &blackbox.Client{Base: n.srv.Base, ID: n.addClient("--jwks", file, "--scope", scope), Scope: scope,
		Key:  key,
		HTTP: &http.Client{Timeout: 2 * time.Minute}}
	return n
}

func (n *node) run(out any, args ...string) {
	n.t.Helper()
	if err := n.srv.Run(out, args...); err != nil {
		n.t.Fatal(err)
	}
}

func (n *node) addClient(args ...string) string {
	n.t.Helper()
	var c struct {
		ID string `json:"client_id"`
	}
	n.run(&c, append([]string{"client", "add", "--name", "Test"}, args...)...)
	return c.ID
}

// patient stores a patient with a record number and a time zone.
func (n *node) patient(id, number string) {
	n.t.Helper()
	status, out, err := n.client.JSON("PUT", "Patient/"+id, []byte(fmt.Sprintf(`{"resourceType":"Patient","id":%q,`+
		`"identifier":[{"system":%q,"value":%q}]}`, id, mrn, number)))
	if err != nil || status != 201 {
		n.t.Fatal(status, out, err)
	}
}

// reboot ends the server and starts it again on the same data.
func (n *node) reboot(end func() error) {
	n.t.Helper()
	if err := end(); err != nil {
		n.t.Fatal(err)
	}
	n.start()
}

func (n *node) start() {
	n.t.Helper()
	srv, err := blackbox.StartAt(bin, n.srv.Data, n.listen)
	if err != nil {
		n.t.Fatal(err)
	}
	*n.srv = *srv
}

// summary is the answer of `target show`.
type summary struct {
	Status, Reason string
	Sent           int
	Waiting        int
	SetAside       int
	LastError      string
	Unmatched      []struct{ Patient, Reason string }
	Asides         []struct {
		Status int
		Codes  []string
	}
}

func (n *node) target() (s summary) {
	n.t.Helper()
	n.run(&s, "target", "show", "ehr")
	return s
}

func until(t *testing.T, what string, cond func() bool) {
	t.Helper()
	for end := time.Now().Add(3 * time.Minute); !cond(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal(what, ": never")
		}
	}
}

// values returns what a server has for a patient: values by time and code, with the
// number of Observations that have them.
func (n *node) values(patient string) map[string]int {
	n.t.Helper()
	all, err := n.client.Search("Observation?patient=" + patient + "&_count=200")
	if err != nil {
		n.t.Fatal(err)
	}
	out := map[string]int{}
	for _, o := range all {
		b, err := json.Marshal([]any{o["status"], o["code"], o["effectiveDateTime"], o["effectivePeriod"],
			o["valueQuantity"],
			o["valueCodeableConcept"], o["component"], o["valueString"]})
		if err != nil {
			n.t.Fatal(err)
		}
		out[string(b)]++
	}
	return out
}

// equal reports whether two servers have the same values.
func equal(a, b map[string]int) bool {
	if len(a) != len(b) {
		return false
	}
	for k, n := range a {
		if b[k] != n {
			return false
		}
	}
	return true
}

// pair starts a sender and an EHR where the sender is registered by the URL of its
// keys, with patient ada at both under other ids.
func pair(t *testing.T) (sender, ehr *node, clientID string) {
	t.Helper()
	sender, ehr = start(t), start(t)
	sender.patient("ada", "1001")
	ehr.patient("lovelace", "1001")
	id := ehr.addClient("--jwks-url", sender.srv.Base+"/.well-known/client-jwks.json", "--scope",
		"system/Observation.crus system/Patient.rs")
	sender.run(nil, "consent", "grant", "--patient", "ada", "--vendor", "apple")
	return sender, ehr, id
}

func (n *node) ingest(payload string) {
	n.t.Helper()
	file := filepath.Join(n.t.TempDir(), "payload.json")
	if err := os.WriteFile(file, []byte(payload), 0o600); err != nil {
		n.t.Fatal(err)
	}
	n.run(nil, "ingest", "--patient", "ada", "--vendor", "apple", "--format", "health-auto-export", file)
}

// heartRates returns a payload with a value per minute.
func heartRates(first, n int) string {
	var b bytes.Buffer
	b.WriteString(`{"data":{"metrics":[{"name":"heart_rate","units":"count/min","data":[`)
	for i := first; i < first+n; i++ {
		if i > first {
			b.WriteByte(',')
		}
		at := time.Date(2026, 5, 1, 0, i, 0, 0, time.UTC)
		fmt.Fprintf(&b, `{"date":%q,"Min":%d,"Avg":%[2]d,"Max":%[2]d,"source":"Watch"}`,
			at.Format("2006-01-02 15:04:05 -0700"), 50+i%100)
	}
	b.WriteString(`]}]}}`)
	return b.String()
}

// TestPush follows data from a vendor payload at one server to a search at another.
func TestPush(t *testing.T) {
	sender, ehr, id := pair(t)
	sender.run(nil, "target", "add", "ehr", "--url", ehr.srv.Base+"/fhir", "--client-id", id, "--every", "0",
		"--patient-system", mrn)
	ehr.run(nil, "consent", "grant", "--patient", "lovelace", "--vendor", "apple") // for the reader there
	sender.ingest(heartRates(0, 40))
	have := sender.values("ada")
	if len(have) == 0 {
		t.Fatal("nothing was ingested")
	}
	until(t, "arrival", func() bool { return equal(sender.values("ada"), ehr.values("lovelace")) })
	if s := sender.target(); s.Status != "active" || s.Waiting != 0 || s.SetAside != 0 || s.LastError != "" {
		t.Errorf("%+v", s)
	}
	// The first send is in the audit trail, with patient, resource and target.
	evs, err := sender.client.Search("AuditEvent?subtype=disclose&patient=ada&_count=5")
	if err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(evs)
	if err != nil || !strings.Contains(string(text), "Observation/") || !strings.Contains(string(text), `"ehr"`) ||
		strings.Contains(string(text), "1001") {
		t.Errorf("%v %s", err, text)
	}

	// Kill the sender in the middle, and the EHR while the sender goes on.
	sender.ingest(heartRates(40, 200))
	sender.reboot(sender.srv.Kill)
	if err := ehr.srv.Kill(); err != nil {
		t.Fatal(err)
	}
	sender.ingest(heartRates(240, 20))
	until(t, "failure", func() bool { return sender.target().LastError != "" })
	ehr.start()
	until(t, "arrival after the kills", func() bool {
		return sender.target().Waiting == 0 && equal(sender.values("ada"), ehr.values("lovelace"))
	})

	// An Observation that waits when the consent is withdrawn is not sent. Other
	// patients are not affected.
	sender.run(nil, "target", "pause", "ehr")
	sender.ingest(heartRates(300, 10))
	until(t, "queued", func() bool { return sender.target().Waiting == 10 })
	before := ehr.values("lovelace")
	sender.run(nil, "consent", "withdraw", "--patient", "ada")
	sender.run(nil, "target", "resume", "ehr")
	sender.patient("bo", "1002")
	ehr.patient("boole", "1002")
	sender.run(nil, "consent", "grant", "--patient", "bo", "--vendor", "apple")
	ehr.run(nil, "consent", "grant", "--patient", "boole", "--vendor", "apple")
	write := func(patient string) {
		status, out, err := sender.client.JSON("POST", "Observation",
			[]byte(`{"resourceType":"Observation","status":"final",`+
				`"code":{"text":"x"},"subject":{"reference":"Patient/`+patient+`"},"valueString":"v"}`))
		if err != nil || status != 201 {
			t.Fatal(status, out, err)
		}
	}
	write("bo")
	until(t, "arrival for bo", func() bool { return sender.target().Waiting == 0 && len(ehr.values("boole")) == 1 })
	if !equal(before, ehr.values("lovelace")) {
		t.Error("data was sent after the consent had been withdrawn")
	}

	// An EHR that does not know the patient, and one that ends the registration.
	sender.patient("cy", "1003")
	sender.run(nil, "consent", "grant", "--patient", "cy", "--vendor", "apple")
	write("cy")
	until(t, "cy waits", func() bool {
		s := sender.target()
		return len(s.Unmatched) == 1 && s.Unmatched[0].Patient == "cy" && s.Unmatched[0].Reason == "no-match"
	})
	ehr.run(nil, "client", "disable", id)
	write("bo")
	until(t, "the refusal is visible", func() bool {
		e := sender.target().LastError
		return e == "invalid_client" || e == "status-401"
	})
	sender.run(nil, "target", "remove", "ehr")
	if err := sender.srv.Run(nil, "target", "show", "ehr"); err == nil {
		t.Error("the removed target is shown")
	}
}

// TestUSCore sends vital signs in the form of US Core, thinned, and retracts one. The
// EHR validates what it stores.
func TestUSCore(t *testing.T) {
	sender, ehr, id := pair(t)
	ehr.run(nil, "consent", "grant", "--patient", "lovelace", "--vendor", "apple")
	sender.ingest(heartRates(0, 150)) // before there is a target
	sender.run(nil, "target", "add", "ehr", "--url", ehr.srv.Base+"/fhir", "--client-id", id, "--form", "us-core",
		"--patient-system", mrn, "--category", "vital-signs", "--batch", "10", "--since", "2026-05-01")
	received := func() []map[string]any {
		all, err := ehr.client.Search("Observation?patient=lovelace&_sort=date")
		if err != nil {
			t.Fatal(err)
		}
		return all
	}
	until(t, "arrival", func() bool { return len(received()) == 3 }) // one per hour
	for i, o := range received() {
		text, err := json.Marshal(o)
		if err != nil || !strings.Contains(string(text), "patient-supplied") ||
			!strings.Contains(string(text), "us-core-heart-rate|9.0.0") || o["effectiveDateTime"] == nil ||
			!strings.Contains(fmt.Sprint(o["effectiveDateTime"]), fmt.Sprintf("T%02d:00", i)) {
			t.Errorf("%v %s", err, text)
		}
	}
	own, err := sender.client.Search("Observation?patient=ada&date=2026-05-01T01:00:00Z")
	if err != nil || len(own) != 1 {
		t.Fatal(own, err)
	}
	resp, err := sender.client.Do("DELETE", "Observation/"+fmt.Sprint(own[0]["id"]), nil)
	if err != nil || resp.StatusCode > 204 || resp.Body.Close() != nil {
		t.Fatal(resp, err)
	}
	until(t, "retraction", func() bool {
		all := received()
		return len(all) == 3 && all[0]["status"] == "final" && all[1]["status"] == "entered-in-error" &&
			all[2]["status"] == "final"
	})
	if s := sender.target(); s.Waiting != 0 || s.SetAside != 0 || s.LastError != "" {
		t.Errorf("%+v", s)
	}
}
