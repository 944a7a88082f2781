package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"time"

	"pulsegate/conformance/blackbox"
	"pulsegate/conformance/clusterrun"
)

const (
	// maxRSS bounds the resident memory of the server in bytes.
	maxRSS = 512 << 20
	// maxCPU bounds the processor time that all processes of the server spend on one
	// request. The costliest, 512 MiB of small elements out of an archive, takes 4 to 6
	// seconds.
	maxCPU = 20 * time.Second
	// hung is the time after which a request counts as hung. It is no bound on the work of
	// the server, because time by the clock measures the machine, too.
	hung = 10 * time.Minute
	// canary is part of every name, token and text that must not be disclosed.
	canary = "Zanaria"
)

// canaries must not occur in logs, metrics or errors.
var canaries = []string{canary, strings.ToLower(canary), "1931-07-13", "61.73519", "eyJ"}

// world is the state that the sections share.
type world struct {
	bin, dir, section string
	srv               *clusterrun.Servers
	key               *blackbox.Key
	ehr               *blackbox.Client
	patient           string
	kept              []map[string]any // the Observations accepted before the attacks
	slow              slowRun
	strict            *blackbox.Server // a second server, which allows no private networks
	strictEHR         *blackbox.Client // of the second server

	passed, failed int
	open           []row // known defects
	peak           int64 // memory in bytes
	costliest      cost
	listed         []row
}

// cost is the processor time that the server spent on one request.
type cost struct {
	name string
	time time.Duration
}

// row is one attack in the list.
type row struct{ section, name, answer string }

// client returns a client with the key of the test.
func (w *world) client(id, scope string) *blackbox.Client {
	return &blackbox.Client{Base: w.srv.Base, ID: id, Scope: scope, Key: w.key,
		HTTP: &http.Client{Timeout: hung}}
}

func (w *world) setUp() error {
	jwks, err := w.key.JWKS()
	if err != nil {
		return err
	}
	if err := os.WriteFile(w.path("jwks.json"), jwks, 0o600); err != nil {
		return err
	}
	if w.ehr, err = w.register("system/*.cruds"); err != nil {
		return err
	}
	if w.patient, err = w.wearer("any", "apple", "fitbit", "oura"); err != nil {
		return err
	}
	for _, name := range []string{"export.xml", "sleep.json"} {
		if err := w.ingestFile(w.patient, name, good[name]); err != nil {
			return err
		}
	}
	if err := w.setUpStrict(); err != nil {
		return err
	}
	w.kept, err = w.window()
	if err == nil && len(w.kept) < 6 {
		err = fmt.Errorf("%d Observations accepted before the attacks, want at least 6", len(w.kept))
	}
	return err
}

// setUpStrict starts the second server.
func (w *world) setUpStrict() error {
	var err error
	if w.strict, err = blackbox.StartWith(w.bin, w.path("strict"), "127.0.0.1:0",
		[]string{"PULSEGATE_EGRESS_ALLOW="}); err != nil {
		return err
	}
	var c struct {
		ID string `json:"client_id"`
	}
	if err := w.strict.Run(&c, "client", "add", "--name", "strict", "--jwks", w.path("jwks.json"), "--scope",
		"system/*.cruds"); err != nil {
		return err
	}
	w.strictEHR = &blackbox.Client{Base: w.strict.Base, ID: c.ID, Scope: "system/*.cruds", Key: w.key, HTTP: w.ehr.HTTP}
	if err := w.strict.Run(nil, "patient", "add", "--id", "strict", "--given", canary, "--family", canary); err != nil {
		return err
	}
	return w.strict.Run(nil, "consent", "grant", "--patient", "strict", "--vendor", "oura")
}

// path returns a path in the directory of the test.
func (w *world) path(name string) string { return filepath.Join(w.dir, name) }

// register registers a client with the key of the test.
func (w *world) register(scope string) (*blackbox.Client, error) {
	var c struct {
		ID string `json:"client_id"`
	}
	err := w.srv.Run(&c, "client", "add", "--name", canary, "--jwks", w.path("jwks.json"), "--scope", scope)
	return w.client(c.ID, scope), err
}

// wearer adds a patient who consents to the vendors for one recipient.
func (w *world) wearer(recipient string, vendors ...string) (string, error) {
	var p struct{ ID string }
	if err := w.srv.Run(&p, "patient", "add", "--given", canary, "--family", canary+"-Muster", "--birthdate",
		"1931-07-13", "--timezone", "Europe/Berlin"); err != nil {
		return "", err
	}
	for _, v := range vendors {
		if err := w.srv.Run(nil, "consent", "grant", "--patient", p.ID, "--vendor", v, "--recipient",
			recipient); err != nil {
			return "", err
		}
	}
	return p.ID, nil
}

// ingestFile ingests a payload of good by the command line.
func (w *world) ingestFile(patient, name string, body []byte) error {
	f := w.path(name)
	if err := os.WriteFile(f, body, 0o600); err != nil {
		return err
	}
	vendor := "apple"
	if name == "sleep.json" {
		vendor = "oura"
	}
	return w.srv.Run(nil, "ingest", "--patient", patient, "--vendor", vendor, f)
}

// window returns all Observations of the days that the set-up filled, except for preferred
// values, which the server derives some time later. Attacks use other days.
func (w *world) window() ([]map[string]any, error) {
	out, err := w.ehr.Search("Observation?patient=" + w.patient + "&date=ge2026-10-01&date=lt2026-10-05&_count=500" +
		"&_tag:not=https://pulsegate.dev/fhir/CodeSystem/measures|preferred")
	slices.SortFunc(out, func(a, b map[string]any) int {
		return strings.Compare(fmt.Sprint(a["id"]), fmt.Sprint(b["id"]))
	})
	return out, err
}

// probe checks that the server is alive, within its memory limit, and has kept the
// accepted Observations.
func (w *world) probe() error {
	resp, err := http.Get(w.srv.Base + "/livez")
	if err != nil {
		return fmt.Errorf("not alive: %w", err)
	}
	if err := resp.Body.Close(); err != nil {
		return err
	}
	rss, err := w.srv.RSS()
	if err != nil {
		return err
	}
	w.peak = max(w.peak, rss)
	if resp.StatusCode != 200 || rss > maxRSS {
		return fmt.Errorf("livez %d, resident memory %d MiB", resp.StatusCode, rss>>20)
	}
	now, err := w.window()
	if err != nil {
		return err
	}
	if !reflect.DeepEqual(now, w.kept) {
		return fmt.Errorf("the accepted data has changed: %d Observations, before %d", len(now), len(w.kept))
	}
	return nil
}

// secret returns an error if text contains a canary.
func (w *world) secret(where, text string) error {
	for _, c := range canaries {
		if i := strings.Index(text, c); i >= 0 {
			return fmt.Errorf("%s contains %q: …%s…", where, c, text[max(0, i-120):min(len(text), i+60)])
		}
	}
	return nil
}

// fail counts a failed attack.
func (w *world) fail(name string, err error) {
	w.failed++
	fmt.Printf("FAIL  %s: %s: %v\n", w.section, name, err)
}

// note counts an attack. If it passed, and the server is unharmed, note lists it.
func (w *world) note(name, answer string, err error) {
	if err == nil {
		err = w.probe()
	}
	if err != nil {
		w.fail(name, err)
		return
	}
	w.passed++
	w.listed = append(w.listed, row{w.section, name, answer})
}

// attack is one request and the answer that it must get.
type attack struct {
	name         string
	method, path string // path below the FHIR base, or from the root with /
	body         func() io.Reader
	header       []string         // names and values in turn; an empty value removes a header
	by           *blackbox.Client // the EHR if nil
	want         []int            // allowed status codes
	free         bool             // the answer need not be an OperationOutcome
	// open describes a known defect. It is printed and listed, and does not fail the
	// run, but the server must be unharmed.
	open string
}

// text returns a body.
func text(s string) func() io.Reader { return func() io.Reader { return strings.NewReader(s) } }

// try sends h and notes the answer.
func (w *world) try(h attack) {
	answer, err := w.attempt(h)
	if err != nil && h.open != "" {
		fmt.Printf("OPEN  %s: %s: %s\n", w.section, h.name, h.open)
		w.open = append(w.open, row{w.section, h.name, h.open})
		if err = w.probe(); err != nil {
			w.fail(h.name, err)
		}
		return
	}
	w.note(h.name, answer, err)
}

// attempt sends h and checks the answer and its cost. If the server refuses a body early,
// it may close the connection before the answer can be read; then attempt sends h again.
func (w *world) attempt(h attack) (answer string, err error) {
	for range 4 {
		status, body, rerr := w.send(h)
		if err = rerr; err == nil {
			return w.checkAnswer(h, status, body)
		}
		if errors.Is(err, errCostly) {
			return "", err
		}
	}
	return "", err
}

// errCostly says that the server spent too much processor time.
var errCostly = errors.New("too much processor time")

// costs calls do, which sends requests, and returns an error if the server has spent more
// processor time meanwhile than limit. Requests of others at the same time would count.
func (w *world) costs(name string, limit time.Duration, do func()) error {
	before, err := w.srv.CPU()
	if err != nil {
		return err
	}
	do()
	after, err := w.srv.CPU()
	if err != nil {
		return err
	}
	spent := after - before
	if spent > w.costliest.time {
		w.costliest = cost{name, spent}
	}
	if spent > limit {
		return fmt.Errorf("%w: the server spent %v, the limit is %v", errCostly, spent, limit)
	}
	return nil
}

// send sends h alone and returns status and body. It fails if that costs the server more
// than maxCPU.
func (w *world) send(h attack) (status int, body []byte, err error) {
	var sent error
	err = w.costs(h.name, maxCPU, func() { status, body, sent = w.exchange(h) })
	return status, body, errors.Join(err, sent)
}

// exchange sends h and returns status and body.
func (w *world) exchange(h attack) (int, []byte, error) {
	u := w.srv.Base + "/fhir/" + h.path
	if strings.HasPrefix(h.path, "/") {
		u = w.srv.Base + h.path
	}
	var rd io.Reader
	if h.body != nil {
		rd = h.body()
	}
	method := h.method
	if method == "" {
		method = "POST"
	}
	req, err := http.NewRequest(method, u, rd)
	if err != nil {
		return 0, nil, err
	}
	by := h.by
	if by == nil {
		by = w.ehr
	}
	tok, err := by.Token()
	if err != nil {
		return 0, nil, err
	}
	if tok != "-" {
		req.Header.Set("Authorization", "Bearer "+tok)
	}
	if h.body != nil {
		req.Header.Set("Content-Type", "application/fhir+json")
	}
	for i := 0; i+1 < len(h.header); i += 2 {
		if req.Header.Set(h.header[i], h.header[i+1]); h.header[i+1] == "" {
			req.Header.Del(h.header[i])
		}
	}
	resp, err := by.HTTP.Do(req)
	if err != nil {
		return 0, nil, err
	}
	b, err := io.ReadAll(io.LimitReader(resp.Body, 8<<20))
	return resp.StatusCode, b, errors.Join(err, resp.Body.Close(), hardened(resp.Header))
}

// hardened checks the security headers of an answer (ASVS 5.0 3.4). Answers of net/http
// to malformed requests have none.
func hardened(h http.Header) error {
	if h.Get("X-Request-Id") == "" {
		return nil
	}
	if h.Get("X-Content-Type-Options") != "nosniff" || h.Get("X-Frame-Options") != "DENY" ||
		!strings.Contains(h.Get("Content-Security-Policy"), "frame-ancestors 'none'") {
		return fmt.Errorf("an answer without its security headers: %v", h)
	}
	return nil
}

// checkAnswer checks status and body of the answer to h.
func (w *world) checkAnswer(h attack, status int, body []byte) (string, error) {
	if !slices.Contains(h.want, status) {
		return "", fmt.Errorf("status %d, want %v: %.300s", status, h.want, body)
	}
	if status < 400 || h.free {
		if status >= 400 {
			return fmt.Sprint(status), w.secret("the answer", string(body))
		}
		return fmt.Sprint(status), nil
	}
	text, err := diagnostics(body)
	if err != nil {
		return "", fmt.Errorf("%d: %w: %.300s", status, err, body)
	}
	if len(body) > 64<<10 {
		return "", fmt.Errorf("an error of %d bytes", len(body))
	}
	return fmt.Sprintf("%d %s", status, text), w.secret("the answer", string(body))
}

// diagnostics returns the text of an OperationOutcome.
func diagnostics(body []byte) (string, error) {
	var o struct {
		ResourceType string
		Issue        []struct {
			Code, Diagnostics string
			Expression        []string
			Details           struct{ Text string }
		}
	}
	if err := json.Unmarshal(body, &o); err != nil || o.ResourceType != "OperationOutcome" || len(o.Issue) == 0 {
		return "", errors.New("not an OperationOutcome")
	}
	issue := o.Issue[0]
	s := issue.Diagnostics
	if s == "" {
		s = issue.Details.Text
	}
	if s == "" || issue.Code == "" {
		return "", errors.New("the OperationOutcome has no text")
	}
	if len(issue.Expression) > 0 {
		s = issue.Expression[0] + ": " + s
	}
	return s, nil
}

// markdown returns the list of the attacks.
func (w *world) markdown() []byte {
	var b bytes.Buffer
	b.WriteString("# Invalid input and the answers to it\n\nWritten by `go run ./conformance/hostile -bin bin/pulsegate -list conformance/HOSTILE.md`.\n" +
		"After each attack, the server is alive, uses at most " + fmt.Sprint(maxRSS>>20) +
		" MiB of memory, and has kept every Observation accepted before.\n" +
		"No answer, log line or metric contains a name, value or token of the input, except for known defects listed at the end.\n")
	last := ""
	for _, r := range w.listed {
		if r.section != last {
			fmt.Fprintf(&b, "\n## %s\n\n| attack | answer |\n|---|---|\n", r.section)
			last = r.section
		}
		fmt.Fprintf(&b, "| %s | %s |\n", cell(r.name), cell(r.answer))
	}
	if len(w.open) > 0 {
		b.WriteString("\n## Known defects\n\n| attack | defect |\n|---|---|\n")
		for _, r := range w.open {
			fmt.Fprintf(&b, "| %s: %s | %s |\n", cell(r.section), cell(r.name), cell(r.answer))
		}
	}
	return b.Bytes()
}

// cell escapes a cell of a table.
func cell(s string) string {
	return strings.NewReplacer("|", `\|`, "\n", " ", "<", "&lt;").Replace(s)
}
