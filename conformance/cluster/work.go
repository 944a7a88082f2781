package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"pulsegate/conformance/blackbox"
	"pulsegate/conformance/cluster/history"
)

// assertionType is the type of a client assertion (RFC 7523).
const assertionType = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"

// consents is the number of patients whose consents are given and withdrawn. They
// follow the patient of the writes in harness.patients.
const consents = 2

// objects are the objects of a round. Every round has its own, so that histories are
// short.
type objects struct {
	round        int
	observations []string // ids
	criteria     []string // identifiers of conditional creates
	conditional  []string // identifiers of all conditional writes
}

// issued is a token that was issued, and the object that stands for it.
type issued struct{ key, token string }

// newObjects makes the objects of a round, and gives the consents of all patients.
func (h *harness) newObjects() (*objects, error) {
	o := &objects{round: h.runs}
	n := h.nodes[0]
	h.issued = nil
	for i := range 2 {
		c, err := h.client(n)
		if err != nil {
			return nil, err
		}
		marker := h.marker()
		status, out, err := c.JSON("POST", "Observation", h.body("", "round", marker))
		if err != nil || status != http.StatusCreated {
			return nil, fmt.Errorf("POST Observation: status %d, %w", status, err)
		}
		id, _ := out["id"].(string)
		o.observations = append(o.observations, id)
		h.record(0, history.Input{Kind: history.Put, Key: id, New: strconv.Itoa(marker)},
			history.Output{Status: history.Done, Version: 1})
		o.criteria = append(o.criteria, fmt.Sprintf("criteria-%d-%d", h.runs, i))
		o.conditional = append(o.conditional, fmt.Sprintf("conditional-%d-%d", h.runs, i))
	}
	for i := 1; i <= consents; i++ {
		if err := h.grant(n, i); err != nil {
			return nil, err
		}
		h.record(0, history.Input{Kind: history.Set, Key: o.consent(i), New: history.Permit},
			history.Output{Status: history.Done})
	}
	return o, nil
}

// consent returns the name of the object that stands for a patient's consent.
func (o *objects) consent(patient int) string { return fmt.Sprintf("consent %d", patient) }

func (h *harness) record(client int, in history.Input, out history.Output) {
	h.history.Begin(client, in).End(out)
}

func (h *harness) grant(n *node, patient int) error {
	return n.server.Run(nil, "consent", "grant", "--patient", h.patients[patient], "--vendor", vendor)
}

// marker returns a number that no resource has.
func (h *harness) marker() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.next++
	return h.next
}

// body returns an Observation with a marker as its value.
func (h *harness) body(id, identifier string, marker int) []byte {
	if id != "" {
		id = `"id":"` + id + `",`
	}
	return fmt.Appendf(nil, `{"resourceType":"Observation",%s"identifier":[{"system":"urn:test","value":"%s"}],`+
		`"status":"final","code":{"coding":[{"system":"http://loinc.org","code":"55423-8"}]},`+
		`"subject":{"reference":"Patient/%s"},"effectiveDateTime":"2026-10-01T08:00:00Z",`+
		`"valueQuantity":{"value":%d,"unit":"steps","system":"http://unitsofmeasure.org","code":"{steps}"}}`,
		id, identifier, h.patients[0], marker)
}

// worker is a client that does one operation after the other, anywhere.
type worker struct {
	*harness
	number   int
	random   *rand.Rand
	objects  *objects
	versions map[string]uint64 // that this client saw last
	avoid    *node             // a process that it sends nothing; may be nil
}

func newWorker(h *harness, number int, o *objects) *worker {
	return &worker{harness: h, number: number + 1, objects: o, versions: map[string]uint64{},
		random: rand.New(rand.NewPCG(h.settings.seed, uint64(h.runs*100+number)))}
}

// work does operations until stop is closed.
func (w *worker) work(stop <-chan struct{}) {
	for {
		select {
		case <-stop:
			return
		default:
		}
		n := w.anywhere(w.random, w.avoid)
		if w.step(n) {
			n.acknowledged.Add(1)
		} else {
			time.Sleep(20 * time.Millisecond)
		}
	}
}

// step does an operation and reports whether it was done.
func (w *worker) step(n *node) bool {
	id := w.objects.observations[w.random.IntN(2)]
	switch w.random.IntN(25) {
	case 0, 1, 2:
		return w.read(n, id)
	case 3, 4, 5:
		return w.update(n, id)
	case 6, 7:
		return w.createOnce(n, w.objects.criteria[w.random.IntN(2)])
	case 8, 9, 10:
		return w.create(n) == nil
	case 11, 12, 13, 14:
		return w.disclose(n, 1+w.random.IntN(consents))
	case 15, 16:
		return w.decide(n, 1+w.random.IntN(consents))
	case 17:
		return w.issue(n)
	case 18:
		return w.use(n)
	case 20, 21, 22, 23, 24:
		return w.conditionally(n, w.objects.conditional[w.random.IntN(2)])
	default:
		return w.revoke(n)
	}
}

// json sends a request to a process. The status is 0 if there is no answer.
func (h *harness) json(n *node, method, path string, body []byte, header ...string) (int, map[string]any) {
	c, err := h.client(n)
	if err != nil {
		h.note("token", 0)
		return 0, nil
	}
	status, out, err := c.JSON(method, path, body, header...)
	if err != nil {
		status, out = 0, nil
	}
	h.note(method, status)
	return status, out
}

// note counts an answer, so that a run shows what its clients met.
func (h *harness) note(what string, status int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.answers[fmt.Sprintf("%s %d", what, status)]++
}

func value(r map[string]any) string {
	q, _ := r["valueQuantity"].(map[string]any)
	f, _ := q["value"].(float64)
	return strconv.Itoa(int(f))
}

// version returns the version of a resource, or 0.
func version(r map[string]any) uint64 {
	m, _ := r["meta"].(map[string]any)
	s, _ := m["versionId"].(string)
	v, _ := strconv.ParseUint(s, 10, 64)
	return v
}

func (w *worker) read(n *node, id string) bool {
	o := w.history.Begin(w.number, history.Input{Kind: history.Read, Key: id})
	status, out := w.json(n, "GET", "Observation/"+id, nil)
	if status != http.StatusOK {
		return false
	}
	w.versions[id] = version(out)
	o.End(history.Output{Status: history.Done, Version: version(out), Value: value(out)})
	return true
}

func (w *worker) update(n *node, id string) bool {
	marker, v := w.marker(), max(w.versions[id], 1)
	o := w.history.Begin(w.number,
		history.Input{Kind: history.Update, Key: id, Version: v, New: strconv.Itoa(marker)})
	status, out := w.json(n, "PUT", "Observation/"+id, w.body(id, "round", marker), "If-Match",
		fmt.Sprintf(`W/"%d"`, v))
	switch status {
	case http.StatusOK:
		w.versions[id] = version(out)
		o.End(history.Output{Status: history.Done, Version: version(out)})
		return true
	case http.StatusPreconditionFailed, http.StatusConflict:
		delete(w.versions, id)
		o.End(history.Output{Status: history.Refused})
		w.read(n, id)
		return true
	}
	return false
}

// createOnce creates an Observation unless one has the identifier. Its value tells who
// created it.
func (w *worker) createOnce(n *node, key string) bool {
	marker := w.marker()
	o := w.history.Begin(w.number, history.Input{Kind: history.Create, Key: key, New: strconv.Itoa(marker)})
	c, err := w.client(n)
	if err != nil {
		return false
	}
	r, err := c.Do("POST", "Observation", w.body("", key, marker), "If-None-Exist", "identifier=urn:test|"+key)
	if err != nil {
		w.note("create", 0)
		return false
	}
	_ = r.Body.Close()
	w.note("create", r.StatusCode)
	switch r.StatusCode {
	case http.StatusCreated:
		o.End(history.Output{Status: history.Done, Value: strconv.Itoa(marker)})
		return true
	case http.StatusPreconditionFailed:
		o.End(history.Output{Status: history.Done, Value: "more than one match"})
		return true
	case http.StatusOK:
		// The resource never changes, so it may be read later.
		_, rest, _ := strings.Cut(r.Header.Get("Location"), "/Observation/")
		id, _, _ := strings.Cut(rest, "/")
		status, out := w.json(n, "GET", "Observation/"+id, nil)
		if status != http.StatusOK {
			return false
		}
		o.End(history.Output{Status: history.Done, Value: value(out)})
		return true
	}
	return false
}

// errNoAnswer reports that an operation was not done, or that it is unknown.
var errNoAnswer = errors.New("no answer, or a refusal")

// create creates an Observation with an identifier of its own.
func (h *harness) create(n *node) error {
	marker, begin := h.marker(), time.Now()
	h.created(marker, false)
	status, out := h.json(n, "POST", "Observation", h.body("", fmt.Sprintf("creation-%d", marker), marker))
	if status != http.StatusCreated {
		return fmt.Errorf("%w: status %d: %v", errNoAnswer, status, out)
	}
	h.created(marker, true)
	h.stamp(begin, out)
	return nil
}

func (h *harness) created(marker int, acknowledged bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.creations[fmt.Sprintf("creation-%d", marker)] = acknowledged
}

// disclose searches the samples of a patient, which a consent covers.
func (w *worker) disclose(n *node, patient int) bool {
	o := w.history.Begin(w.number, history.Input{Kind: history.Disclose, Key: w.objects.consent(patient)})
	status, out := w.json(n, "GET", "Observation?code=8867-4&patient="+w.patients[patient], nil)
	if status != http.StatusOK {
		return false
	}
	entries, _ := out["entry"].([]any)
	s := history.Refused
	if len(entries) > 0 {
		s = history.Done
	}
	o.End(history.Output{Status: s})
	return true
}

// nothingToWithdraw is part of the answer to a withdrawal without a consent.
const nothingToWithdraw = "no active consent"

// decide gives or withdraws a consent with the operator's command. A withdrawal is
// refused if no consent is active.
func (w *worker) decide(n *node, patient int) bool {
	key := w.objects.consent(patient)
	if w.random.IntN(2) == 0 {
		o := w.history.Begin(w.number, history.Input{Kind: history.Set, Key: key, New: history.Permit})
		if w.grant(n, patient) != nil {
			w.note("grant", 0)
			return false
		}
		o.End(history.Output{Status: history.Done})
		return true
	}
	o := w.history.Begin(w.number, history.Input{Kind: history.Swap, Key: key, Old: history.Permit, New: "deny"})
	err := n.server.Run(nil, "consent", "withdraw", "--patient", w.patients[patient], "--vendor", vendor)
	switch {
	case err == nil:
		o.End(history.Output{Status: history.Done})
	case strings.Contains(err.Error(), nothingToWithdraw):
		o.End(history.Output{Status: history.Refused})
	default:
		w.note("withdraw", 0)
		return false
	}
	return true
}

// issue requests a token, which use and revoke use at any process.
func (w *worker) issue(n *node) bool {
	c := w.backend(n)
	key := fmt.Sprintf("token %d", w.marker())
	o := w.history.Begin(w.number, history.Input{Kind: history.Set, Key: key, New: "live"})
	token, err := c.Token()
	if err != nil {
		w.note("token", 0)
		return false
	}
	o.End(history.Output{Status: history.Done})
	w.mu.Lock()
	defer w.mu.Unlock()
	w.issued = append(w.issued, issued{key, token})
	return true
}

// anyToken returns one of the last tokens that were issued in this round.
func (w *worker) anyToken() (issued, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.issued) == 0 {
		return issued{}, false
	}
	return w.issued[max(0, len(w.issued)-1-w.random.IntN(3))], true
}

func (w *worker) use(n *node) bool {
	t, ok := w.anyToken()
	if !ok {
		return false
	}
	c := w.backend(n)
	c.Static = t.token
	o := w.history.Begin(w.number, history.Input{Kind: history.Read, Key: t.key})
	status, _, err := c.JSON("GET", "Patient/"+w.patients[0], nil)
	if err != nil {
		w.note("use", 0)
		return false
	}
	w.note("use", status)
	switch status {
	case http.StatusOK:
		o.End(history.Output{Status: history.Done, Value: "live"})
		return true
	case http.StatusUnauthorized:
		o.End(history.Output{Status: history.Done})
		return true
	}
	return false
}

func (w *worker) revoke(n *node) bool {
	t, ok := w.anyToken()
	if !ok {
		return false
	}
	c := w.backend(n)
	assertion, err := c.Assertion(blackbox.NewJTI())
	if err != nil {
		return false
	}
	o := w.history.Begin(w.number, history.Input{Kind: history.Set, Key: t.key})
	r, err := n.http.PostForm(base+"/oauth/revoke", url.Values{"token": {t.token},
		"client_assertion_type": {assertionType}, "client_assertion": {assertion}})
	if err != nil {
		return false
	}
	_ = r.Body.Close()
	w.note("revoke", r.StatusCode)
	if r.StatusCode != http.StatusOK {
		return false
	}
	o.End(history.Output{Status: history.Done})
	return true
}

// identifierOf returns the first identifier of a resource.
func identifierOf(r json.RawMessage) string {
	var out struct{ Identifier []struct{ Value string } }
	if json.Unmarshal(r, &out) != nil || len(out.Identifier) == 0 {
		return ""
	}
	return out.Identifier[0].Value
}
