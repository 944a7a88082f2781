package main

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"strings"
	"time"

	"pulsegate/conformance/blackbox"
)

// payload is a delivery of perPayload heart rates, the first of them at start. One of
// them may be changed or deleted afterwards, which moves it out of its series.
type payload struct {
	start     time.Time
	acked     bool
	edit      edit   // of one of the samples
	edited    string // id of that sample
	editAcked bool
}

// edit is a change of a single sample.
type edit int

const (
	unchanged edit = iota
	updated
	deleted
)

const (
	perPayload   = 20
	payloadEvery = 10 * time.Minute
	lowestRate   = 61  // heart rates are up to 18 above it
	updatedRate  = 200 // of an updated sample
)

// sendPayloads sends payloads until the server is killed.
func (h *harness) sendPayloads(rnd *rand.Rand, stop chan struct{}, sent *[]*payload) {
	for {
		select {
		case <-stop:
			return
		default:
		}
		h.mu.Lock()
		p := &payload{start: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC).Add(time.Duration(h.payloads) * payloadEvery)}
		h.payloads++
		*sent = append(*sent, p)
		h.mu.Unlock()
		if !h.send(p) {
			return
		}
		if rnd.IntN(2) == 0 && !h.editSample(rnd, p) {
			return
		}
	}
}

// send sends p and reports whether it was acknowledged.
func (h *harness) send(p *payload) bool {
	var items []string
	for i := range perPayload {
		t := p.start.Add(time.Duration(i) * 20 * time.Second)
		items = append(items, fmt.Sprintf(`{"timestamp":%q,"timestamp_unix":%d,"bpm":%d,"source":"awake"}`,
			t.Format("2006-01-02T15:04:05.000Z"), t.UnixMilli(), lowestRate+i%19))
	}
	resp, err := h.client.Do("POST", h.srv.Base+"/ingest/oura/v2?patient="+h.patient+"&name=heartrate.json",
		[]byte(`{"data":[`+strings.Join(items, ",")+`],"next_token":null}`), "Content-Type", "application/json")
	if err != nil {
		return false
	}
	var sum struct{ Created int }
	err = json.NewDecoder(resp.Body).Decode(&sum)
	if cerr := resp.Body.Close(); err != nil || cerr != nil || resp.StatusCode != 200 {
		return false
	}
	p.acked = true
	h.mu.Lock()
	h.samples += perPayload
	h.mu.Unlock()
	return true
}

// editSample updates or deletes one sample of p by the FHIR API. It reports whether
// that was acknowledged.
func (h *harness) editSample(rnd *rand.Rand, p *payload) bool {
	found, err := h.search(p)
	if err != nil || len(found) == 0 {
		return false
	}
	one := found[rnd.IntN(len(found))]
	id, _ := one["id"].(string)
	p.edited, p.edit = id, updated
	want := 200
	method, body := "PUT", []byte(nil)
	if rnd.IntN(2) == 0 {
		p.edit, method, want = deleted, "DELETE", 204
	} else {
		q, _ := one["valueQuantity"].(map[string]any)
		q["value"] = updatedRate
		if body, err = json.Marshal(one); err != nil {
			return false
		}
	}
	status, _, err := h.client.JSON(method, "Observation/"+id, body)
	p.editAcked = err == nil && status == want
	return p.editAcked
}

// search returns the samples of p that the server has stored.
func (h *harness) search(p *payload) ([]map[string]any, error) {
	path := fmt.Sprintf("Observation?patient=%s&code=http://loinc.org%%7C8867-4&date=ge%s&date=lt%s&_count=100",
		h.patient, p.start.Format(time.RFC3339), p.start.Add(payloadEvery).Format(time.RFC3339))
	status, out, err := h.client.JSON("GET", path, nil)
	if err != nil {
		return nil, err
	}
	if status != 200 {
		return nil, fmt.Errorf("search of samples: %d", status)
	}
	var found []map[string]any
	entries, _ := out["entry"].([]any)
	for _, e := range entries {
		m, _ := e.(map[string]any)
		r, _ := m["resource"].(map[string]any)
		found = append(found, r)
	}
	return found, nil
}

// verifyPayloads checks that acknowledged payloads are complete, that the others are
// complete or absent, and that acknowledged edits of samples are present.
func (h *harness) verifyPayloads(sent []*payload) error {
	for _, p := range sent {
		found, err := h.search(p)
		if err != nil {
			return err
		}
		n, value := len(found), -1.
		for _, r := range found {
			if q, _ := r["valueQuantity"].(map[string]any); r["id"] == p.edited && p.edited != "" {
				value, _ = q["value"].(float64)
			}
		}
		switch {
		case !p.acked && n == 0:
		case n == perPayload-1 && p.edit == deleted && value < 0:
		case n != perPayload:
			return fmt.Errorf("payload of %s: %d samples, acknowledged: %v", p.start, n, p.acked)
		case p.edit == deleted && p.editAcked:
			return fmt.Errorf("sample %s: present after its deletion", p.edited)
		case p.edit == updated && p.editAcked && value != updatedRate:
			return fmt.Errorf("sample %s: value %v, acknowledged was %d", p.edited, value, updatedRate)
		case p.edit == updated && !p.editAcked && value != updatedRate && value > lowestRate+19:
			return fmt.Errorf("sample %s: value %v, which was never written", p.edited, value)
		}
	}
	return nil
}

// requestTokens requests tokens until the server is killed. It returns the last
// assertion that was accepted.
func (h *harness) requestTokens(stop chan struct{}) (used string) {
	for {
		select {
		case <-stop:
			return used
		case <-time.After(10 * time.Millisecond):
		}
		a, err := h.client.Assertion(blackbox.NewJTI())
		if err != nil {
			return used
		}
		status, _, err := h.client.TokenRequest(a, scope)
		if err != nil {
			return used
		}
		if status == 200 {
			used = a
		}
	}
}

// verifyReplay checks that the server refuses an assertion that it has accepted before.
func (h *harness) verifyReplay(used string) error {
	if used == "" {
		return nil
	}
	status, _, err := h.client.TokenRequest(used, scope)
	if err == nil && status != 400 && status != 401 {
		err = fmt.Errorf("an assertion was accepted twice: status %d", status)
	}
	h.replays++
	return err
}
