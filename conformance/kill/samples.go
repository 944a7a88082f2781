package main

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"strings"
	"time"

	"pulsegate/conformance/blackbox"
)

// payload is what a vendor sent at once: perPayload heart rates from at on.
// One of them may have been changed or removed afterwards, and so have left
// its series.
type payload struct {
	at    time.Time
	acked bool
	id    string // of the one
	fate  fate
	done  bool // its end was acknowledged
}

type fate int

const (
	kept fate = iota
	changed
	removed
)

const (
	perPayload   = 20
	payloadEvery = 10 * time.Minute
	bpm          = 61 // and up to 79
	changedTo    = 200
)

// wear sends payloads until the server is gone.
func (h *harness) wear(rnd *rand.Rand, stop chan struct{}, sent *[]*payload) {
	for {
		select {
		case <-stop:
			return
		default:
		}
		h.mu.Lock()
		p := &payload{at: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC).Add(time.Duration(h.payloads) * payloadEvery)}
		h.payloads++
		*sent = append(*sent, p)
		h.mu.Unlock()
		if !h.send(p) {
			return
		}
		if rnd.IntN(2) == 0 && !h.take(rnd, p) {
			return
		}
	}
}

// send reports whether p was acknowledged.
func (h *harness) send(p *payload) bool {
	var items []string
	for i := range perPayload {
		t := p.at.Add(time.Duration(i) * 20 * time.Second)
		items = append(items, fmt.Sprintf(`{"timestamp":%q,"timestamp_unix":%d,"bpm":%d,"source":"awake"}`,
			t.Format("2006-01-02T15:04:05.000Z"), t.UnixMilli(), bpm+i%19))
	}
	resp, err := h.c.Do("POST", h.srv.Base+"/ingest/oura/v2?patient="+h.patient+"&name=heartrate.json",
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

// take changes or removes one sample of p over REST.
func (h *harness) take(rnd *rand.Rand, p *payload) bool {
	found, err := h.found(p)
	if err != nil || len(found) == 0 {
		return false
	}
	one := found[rnd.IntN(len(found))]
	id, _ := one["id"].(string)
	p.id, p.fate = id, changed
	want := 200
	method, body := "PUT", []byte(nil)
	if rnd.IntN(2) == 0 {
		p.fate, method, want = removed, "DELETE", 204
	} else {
		q, _ := one["valueQuantity"].(map[string]any)
		q["value"] = changedTo
		if body, err = json.Marshal(one); err != nil {
			return false
		}
	}
	status, _, err := h.c.JSON(method, "Observation/"+id, body)
	p.done = err == nil && status == want
	return p.done
}

// found are the samples of p that the server has.
func (h *harness) found(p *payload) ([]map[string]any, error) {
	path := fmt.Sprintf("Observation?patient=%s&code=http://loinc.org%%7C8867-4&date=ge%s&date=lt%s&_count=100",
		h.patient, p.at.Format(time.RFC3339), p.at.Add(payloadEvery).Format(time.RFC3339))
	status, out, err := h.c.JSON("GET", path, nil)
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

// worn verifies payloads: all of what was acknowledged, all or nothing of what
// was under way, and what became of single samples.
func (h *harness) worn(sent []*payload) error {
	for _, p := range sent {
		found, err := h.found(p)
		if err != nil {
			return err
		}
		n, value := len(found), -1.
		for _, r := range found {
			if q, _ := r["valueQuantity"].(map[string]any); r["id"] == p.id && p.id != "" {
				value, _ = q["value"].(float64)
			}
		}
		switch {
		case !p.acked && n == 0:
		case n == perPayload-1 && p.fate == removed && value < 0:
		case n != perPayload:
			return fmt.Errorf("payload of %s: %d samples, acknowledged: %v", p.at, n, p.acked)
		case p.fate == removed && p.done:
			return fmt.Errorf("sample %s: removed, and there", p.id)
		case p.fate == changed && p.done && value != changedTo:
			return fmt.Errorf("sample %s: value %v, acknowledged was %d", p.id, value, changedTo)
		case p.fate == changed && !p.done && value != changedTo && value > bpm+19:
			return fmt.Errorf("sample %s: value %v, which nobody wrote", p.id, value)
		}
	}
	return nil
}

// signIn asks for tokens until the server is gone, and keeps the last
// assertion for which one was given.
func (h *harness) signIn(stop chan struct{}) (used string) {
	for {
		select {
		case <-stop:
			return used
		case <-time.After(10 * time.Millisecond):
		}
		a, err := h.c.Assertion(blackbox.NewJTI())
		if err != nil {
			return used
		}
		status, _, err := h.c.TokenRequest(a, scope)
		if err != nil {
			return used
		}
		if status == 200 {
			used = a
		}
	}
}

// replayed verifies that an assertion that gave a token gives none again.
func (h *harness) replayed(used string) error {
	if used == "" {
		return nil
	}
	status, _, err := h.c.TokenRequest(used, scope)
	if err == nil && status != 400 && status != 401 {
		err = fmt.Errorf("an assertion is taken twice: %d", status)
	}
	h.replays++
	return err
}
