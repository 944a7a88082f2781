package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// receiver is the rest-hook endpoint of the EHR.
type receiver struct {
	srv      *httptest.Server
	received chan map[string]any // notifications
	auth     chan string         // their Authorization headers
}

func newReceiver() (*receiver, error) {
	r := &receiver{received: make(chan map[string]any, 100), auth: make(chan string, 100)}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	r.srv = &httptest.Server{Listener: l,
		Config: &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
			b, err := io.ReadAll(io.LimitReader(req.Body, 1<<20))
			var m map[string]any
			if err != nil || json.Unmarshal(b, &m) != nil {
				w.WriteHeader(http.StatusBadRequest)
				return
			}
			r.received <- m
			r.auth <- req.Header.Get("Authorization")
			w.WriteHeader(http.StatusOK)
		}), ReadHeaderTimeout: 5 * time.Second}}
	r.srv.Start()
	return r, nil
}

// next waits for a notification of the given type.
func (r *receiver) next(typ string) (map[string]any, error) {
	limit := time.After(15 * time.Second)
	for {
		select {
		case m := <-r.received:
			if strings.Contains(fmt.Sprint(m["entry"]), "name:type valueCode:"+typ) {
				return m, nil
			}
		case <-limit:
			return nil, fmt.Errorf("no %s in 15 s", typ)
		}
	}
}

func (w *world) subscribes() error {
	r, err := newReceiver()
	if err != nil {
		return err
	}
	w.hook = r
	sub := []byte(`{"resourceType":"Subscription","status":"requested","reason":"smoke","criteria":"https://pulsegate.dev/fhir/SubscriptionTopic/observation-recorded",
"_criteria":{"extension":[{"url":"http://hl7.org/fhir/uv/subscriptions-backport/StructureDefinition/backport-filter-criteria","valueString":"Observation?patient=Patient/` + w.patient + `"}]},
"channel":{"type":"rest-hook","endpoint":"` + r.srv.URL +
		`/hook","header":["Authorization: Bearer smoke-secret"],"payload":"application/fhir+json","_payload":{"extension":[{"url":"http://hl7.org/fhir/uv/subscriptions-backport/StructureDefinition/backport-payload-content","valueCode":"full-resource"}]}}}`)
	status, out, err := w.ehr.JSON("POST", "Subscription", sub)
	if err != nil {
		return err
	}
	if status != 201 || out["status"] != "requested" {
		return fmt.Errorf("create: %d %v", status, out)
	}
	id := out["id"].(string)
	if _, err := r.next("handshake"); err != nil {
		return err
	}
	if a := <-r.auth; a != "Bearer smoke-secret" {
		return fmt.Errorf("channel header: %q", a)
	}
	// The server may still be reading the answer to the handshake.
	for end := time.Now().Add(2 * time.Minute); time.Now().Before(end); {
		if _, out, err = w.ehr.JSON("GET", "Subscription/"+id, nil); err != nil {
			return err
		}
		if out["status"] == "active" {
			break
		}
		time.Sleep(20 * time.Millisecond)
	}
	if out["status"] != "active" {
		return fmt.Errorf("status after the handshake: %v", out["status"])
	}
	if err := w.ingestsHeartRates("2026-10-04"); err != nil {
		return err
	}
	n, err := r.next("event-notification")
	if err != nil {
		return err
	}
	if !strings.Contains(fmt.Sprint(n), "resourceType:Observation") {
		return fmt.Errorf("full-resource notification without an Observation: %v", n)
	}
	if status, out, err = w.ehr.JSON("GET", "Subscription/"+id+"/$status", nil); err != nil || status != 200 ||
		out["resourceType"] != "Bundle" {
		return fmt.Errorf("$status: %d %v", status, err)
	}
	if status, _, err = w.ehr.JSON("GET", "Subscription/"+id+"/$events?eventsSinceNumber=1", nil); err != nil ||
		status != 200 {
		return fmt.Errorf("$events: %d %v", status, err)
	}
	private := []byte(strings.Replace(string(sub), r.srv.URL, "https://10.1.2.3", 1))
	if status, _, err = w.ehr.JSON("POST", "Subscription", private); err != nil {
		return err
	}
	return expect(status == 400 || status == 422, "endpoint on a private network: %d", status)
}

// ingestsHeartRates ingests the heart rates of a payload as those of another day.
func (w *world) ingestsHeartRates(day string) error {
	f := filepath.Join(w.dir, "heartrate.json")
	body := strings.ReplaceAll(string(payloads["heartrate.json"]), "2026-10-01T08:", day+"T08:")
	if err := os.WriteFile(f, []byte(body), 0o600); err != nil {
		return err
	}
	return w.srv.Run(nil, "ingest", "--patient", w.patient, "--vendor", "oura", f)
}
