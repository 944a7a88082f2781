package cli

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"pulsegate/conformance/blackbox"
)

// sleepNight is a night as Oura states it.
const sleepNight = `{"data":[{"id":"n1","bedtime_start":"2026-10-01T23:00:00+02:00","bedtime_end":"2026-10-02T07:00:00+02:00","day":"2026-10-02","deep_sleep_duration":5400,"light_sleep_duration":14400,"rem_sleep_duration":7200,"total_sleep_duration":27000,"time_in_bed":28800,"type":"long_sleep","period":0}],"next_token":null}`

// TestRemap starts a server with a tenant's pack and then with a corrected one, and maps
// what is stored again: a dry run shows the differences, the job makes new versions, and a
// subscriber gets them.
func TestRemap(t *testing.T) {
	dir := t.TempDir()
	packs := filepath.Join(dir, "packs")
	if err := os.Mkdir(packs, 0o700); err != nil {
		t.Fatal(err)
	}
	write := func(version, name string) {
		t.Helper()
		text := "pack: acme\nversion: " + version + "\nvendor: oura\nmetrics:\n  - {metric: sleep, name: " + name +
			"}\n"
		if err := os.WriteFile(filepath.Join(packs, "acme.yaml"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	serve := func() *blackbox.Server {
		t.Helper()
		srv, err := blackbox.StartWith(bin, filepath.Join(dir, "pulsegate-data"), "127.0.0.1:0",
			[]string{"PULSEGATE_MAPPING_PACKS=" + packs, "PULSEGATE_EGRESS_ALLOW=127.0.0.0/8"})
		if err != nil {
			t.Fatal(err)
		}
		return srv
	}
	stop := func(srv *blackbox.Server) {
		t.Helper()
		if err := srv.Stop(); err != nil {
			t.Error(err)
		}
	}
	write("1.0.0", "Slep")
	srv := serve()
	s := &shell{t: t, dir: dir}
	id := strings.TrimSpace(s.must("patient", "add", "--given", "Ada", "--family", "Muster"))
	s.must("consent", "grant", "--patient", id, "--vendor", "oura")
	if err := os.WriteFile(filepath.Join(dir, "sleep.json"), []byte(sleepNight), 0o600); err != nil {
		t.Fatal(err)
	}
	s.must("ingest", "--patient", id, "--vendor", "oura", "sleep.json")
	if out := s.must("remap", "--vendor", "oura", "--dry-run"); !strings.Contains(out, "would be changed 0") {
		t.Errorf("nothing has changed yet:\n%s", out)
	}
	stop(srv)

	write("1.1.0", "Night's rest")
	srv = serve()
	defer func() { stop(srv) }()
	out := s.must("remap", "--vendor", "oura", "--dry-run")
	for _, want := range []string{"would be changed 1", "text=1", "code.text", "Slep", "Night's rest",
		"patient " + id} {
		if !strings.Contains(out, want) {
			t.Errorf("the dry run does not show %q:\n%s", want, out)
		}
	}
	notified := subscribe(s, srv, id)
	out, progress, ok := s.run("remap", "--vendor", "Oura", "--metric", "sleep", "--since", "2026-01-01")
	if !ok || !strings.Contains(out, "patients 1  read 1  changed 1") ||
		!strings.Contains(progress, "done: patients 1") {
		t.Errorf("%v\n%s\n%s", ok, out, progress)
	}
	// The preferred value of the night may be notified, too.
	got := <-notified
	for strings.Contains(got, "/identifier/preferred") && !strings.Contains(got, "Night's rest") {
		got = <-notified
	}
	if !strings.Contains(got, `"status":"amended"`) || !strings.Contains(got, "Night's rest") {
		t.Errorf("the subscriber got %s", got)
	}
	var list struct {
		Jobs []struct {
			Status string
			Packs  []string
			Report struct{ Changed int }
		}
	}
	if err := json.Unmarshal([]byte(s.must("remap", "status", "--json")), &list); err != nil {
		t.Fatal(err)
	}
	if len(list.Jobs) != 1 || list.Jobs[0].Status != "done" || list.Jobs[0].Report.Changed != 1 ||
		!strings.Contains(strings.Join(list.Jobs[0].Packs, " "), "acme|1.1.0") {
		t.Errorf("%+v", list)
	}
	if out := s.must("remap", "--vendor", "oura"); !strings.Contains(out, "changed 0  replaced 0  unchanged") {
		t.Errorf("a second time:\n%s", out)
	}
	s.fails("no row for steps", "pulsegate remap --help", "remap", "--vendor", "oura", "--metric", "steps")
	s.fails("neither a day nor an instant", "2026-01-31", "remap", "--vendor", "oura", "--since", "May")
	s.fails("no job", "", "remap", "cancel", "--vendor", "oura")
	s.fails("vendor", "", "remap", "--vendor", "acme")
}

// subscribe registers a client, subscribes it to the Observations of a patient, and
// returns the notifications that contain one, after the handshake.
func subscribe(s *shell, srv *blackbox.Server, patient string) <-chan string {
	t := s.t
	t.Helper()
	handshake, notified := make(chan struct{}, 10), make(chan string, 100)
	hook := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(io.LimitReader(r.Body, 1<<20))
		if err != nil {
			t.Error(err)
		}
		if strings.Contains(string(body), `"Observation"`) {
			notified <- string(body)
		} else {
			handshake <- struct{}{}
		}
	}))
	t.Cleanup(hook.Close)
	key, err := blackbox.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	jwks, err := key.JWKS()
	if err == nil {
		err = os.WriteFile(filepath.Join(s.dir, "jwks.json"), jwks, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	const scope = "system/Observation.rs system/Subscription.crus"
	id := strings.TrimSpace(s.must("client", "add", "--name", "EHR", "--jwks", "jwks.json", "--scope", scope))
	client := &blackbox.Client{Base: srv.Base, ID: id, Scope: scope, Key: key,
		HTTP: &http.Client{Timeout: 2 * time.Minute}}
	status, out, err := client.JSON("POST", "Subscription", []byte(`{"resourceType":"Subscription",`+
		`"status":"requested","reason":"test","criteria":"https://pulsegate.dev/fhir/SubscriptionTopic/`+
		`observation-recorded","_criteria":{"extension":[{"url":"http://hl7.org/fhir/uv/subscriptions-backport/`+
		`StructureDefinition/backport-filter-criteria","valueString":"Observation?patient=Patient/`+patient+`"}]},`+
		`"channel":{"type":"rest-hook","endpoint":"`+hook.URL+`/hook","payload":"application/fhir+json","_payload":`+
		`{"extension":[{"url":"http://hl7.org/fhir/uv/subscriptions-backport/StructureDefinition/`+
		`backport-payload-content","valueCode":"full-resource"}]}}}`))
	if err != nil || status != http.StatusCreated {
		t.Fatalf("create of the subscription: %d %v %v", status, out, err)
	}
	<-handshake
	for deadline := time.Now().Add(2 * time.Minute); ; { // the server may be reading the answer to the handshake
		_, now, err := client.JSON("GET", "Subscription/"+out["id"].(string), nil)
		if err != nil {
			t.Fatal(err)
		}
		if now["status"] == "active" {
			return notified
		}
		if time.Now().After(deadline) {
			t.Fatalf("the subscription is %v", now["status"])
		}
	}
}
