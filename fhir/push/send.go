package push

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	"pulsegate/fhir"
	"pulsegate/fhir/access"
	"pulsegate/fhir/audit"
	"pulsegate/fhir/cluster/follow"
	"pulsegate/fhir/egress"
	"pulsegate/fhir/store"
)

// maxAnswer bounds the body of an answer in bytes.
const maxAnswer = 1 << 20

const mediaType = "application/fhir+json"

// call is one request to a target.
type call struct {
	method, path string // path is relative to the base
	header       map[string]string
	body         []byte
	// still reports whether a grant permits the request. It is asked immediately
	// before each attempt.
	still func(*access.Grant) bool
}

// answer is the answer to a call, or to one entry of a batch.
type answer struct {
	status     int
	location   string
	retryAfter time.Duration
	body       []byte // nil unless it is FHIR JSON within the limit
}

func (a *answer) ok() bool { return a.status >= 200 && a.status <= 299 }

func (a *answer) class() string {
	if a.ok() {
		return "malformed-answer"
	}
	return "status-" + strconv.Itoa(a.status)
}

// withheld is the class of requests that were not sent because they are not permitted
// any more.
const withheld = "withheld"

// request sends a call with a token. If the token is refused, it is sent once more
// with a new one.
func (s *sender) request(ctx context.Context, t *Target, c *call) (*answer, *failure) {
	for attempt := 0; ; attempt++ {
		token, err := s.tokens.Token(ctx)
		if err != nil {
			class := "token"
			var e interface{ Class() string }
			if errors.As(err, &e) {
				class = e.Class()
			}
			return nil, &failure{class: class}
		}
		// A consent that was withdrawn at another process must stop the request, and so
		// must the loss of the role.
		if err := s.follower.opts.Store.Sync(ctx); err != nil {
			return nil, internal(err)
		}
		grant, err := s.follower.opts.GrantFor(ctx, t.Recipient)
		if err != nil || !c.still(grant) {
			return nil, &failure{class: withheld}
		}
		a, f := s.exchange(ctx, t, c, token)
		if f != nil || a.status != http.StatusUnauthorized {
			return a, f
		}
		s.tokens.Reject(token)
		if attempt > 0 {
			return nil, &failure{class: a.class()}
		}
	}
}

// exchange sends a call once.
func (s *sender) exchange(ctx context.Context, t *Target, c *call, token string) (*answer, *failure) {
	// At shutdown, wait for a pending answer, so that what was accepted is not sent
	// again.
	stopping := ctx
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.follower.opts.Timeout)
	defer cancel()
	defer context.AfterFunc(stopping, func() {
		if follow.Sleep(ctx, nil, drainTimeout) {
			cancel()
		}
	})()
	var body io.Reader
	if c.body != nil {
		body = bytes.NewReader(c.body)
	}
	rq, err := http.NewRequestWithContext(ctx, c.method, t.Base+c.path, body)
	if err != nil {
		return nil, &failure{class: "request"}
	}
	rq.Header.Set("Accept", mediaType)
	rq.Header.Set("Authorization", "Bearer "+token)
	if c.body != nil {
		rq.Header.Set("Content-Type", mediaType)
	}
	for k, v := range c.header {
		rq.Header.Set(k, v)
	}
	resp, err := s.follower.client.Do(rq)
	if err != nil {
		return nil, &failure{class: networkClass(err)}
	}
	a := &answer{status: resp.StatusCode, location: resp.Header.Get("Location"),
		retryAfter: retryAfter(resp.Header.Get("Retry-After"), s.follower.opts.Clock())}
	// The status decides; a body that cannot be read is like none.
	b, rerr := io.ReadAll(resp.Body)
	if err := resp.Body.Close(); rerr == nil {
		rerr = err
	}
	media, _, merr := mime.ParseMediaType(resp.Header.Get("Content-Type"))
	if rerr == nil && merr == nil && (media == mediaType || media == "application/json") {
		a.body = b
	}
	return a, nil
}

// drainTimeout bounds the wait for a pending answer at shutdown.
const drainTimeout = 2 * time.Second

// networkClass names the kind of a network error without its text, which has the URL.
func networkClass(err error) string {
	var timeout interface{ Timeout() bool }
	switch {
	case errors.Is(err, egress.ErrRefused):
		return "address-refused"
	case errors.As(err, &timeout) && timeout.Timeout():
		return "timeout"
	}
	return "network"
}

// retryAfter parses the header in both of its forms (RFC 9110 10.2.3).
func retryAfter(h string, now time.Time) time.Duration {
	if n, err := strconv.ParseUint(h, 10, 32); err == nil {
		return min(time.Duration(n)*time.Second, maxWait)
	}
	if at, err := http.ParseTime(h); err == nil {
		return min(max(0, at.Sub(now)), maxWait)
	}
	return 0
}

// audit records a disclosure: of the Observations of msgs and, unless it is zero, of
// ref. For messages, it marks the Observations as being sent in the same commit. It
// omits what was recorded before, because a repetition discloses nothing new.
func (s *sender) audit(ctx context.Context, t *Target, patient, operation string, msgs []*message, ref fhir.Ref,
	version uint64) error {
	ev := audit.Event{Type: audit.Disclosure, Interaction: "operation",
		Caller:  audit.Caller{Principal: &access.Principal{ClientID: t.Recipient}, RemoteIP: hostOf(t.Base)},
		Patient: patient, Recipient: origin(t.Base), Extra: [][2]string{{"target", t.Name}, {"push", operation}}}
	if !ref.IsZero() {
		ev.Data = append(ev.Data, audit.DataRef{Ref: ref, Version: version})
	}
	b := &store.Batch{}
	for _, m := range msgs {
		if m.begun.Audited == m.version && m.begun.AuditedAs == m.action {
			continue
		}
		m.begun.Audited, m.begun.AuditedAs = m.version, m.action
		v, err := json.Marshal(m.begun)
		if err != nil {
			return err
		}
		b.State = append(b.State, store.StateWrite{Key: s.sentKey(m.id), Value: v})
		if m.slot != nil {
			b.State = append(b.State, *m.slot)
		}
		ev.Data = append(ev.Data, audit.DataRef{Ref: fhir.Ref{Type: "Observation", ID: m.id}, Version: m.version})
		delete(s.buffered, m.id)
	}
	if len(ev.Data) == 0 {
		return nil
	}
	_, err := audit.Commit(ctx, s.follower.opts.Store, s.follower.opts.Audit, b, ev)
	return err
}

func hostOf(base string) string {
	u, err := url.Parse(base)
	if err != nil {
		return ""
	}
	return u.Host
}

// send sends the messages of one patient, in one request, and applies the answers.
// It sets done on the messages that need no further round.
func (s *sender) send(ctx context.Context, t *Target, patient string, msgs []*message) *failure {
	for _, m := range msgs {
		if f := s.locate(ctx, t, m); f != nil {
			return f
		}
	}
	msgs = slices.DeleteFunc(slices.Clone(msgs), func(m *message) bool { return m.done || m.action == "" })
	if len(msgs) == 0 {
		return nil
	}
	if err := s.audit(ctx, t, patient, operationOf(msgs), msgs, fhir.Ref{}, 0); err != nil {
		return internal(err)
	}
	c, err := callFor(t, msgs)
	if err != nil {
		return internal(err)
	}
	c.still = func(g *access.Grant) bool {
		return !slices.ContainsFunc(msgs, func(m *message) bool { return !visible(g, m.facts) })
	}
	a, f := s.request(ctx, t, c)
	if f != nil {
		if f.class == withheld {
			return nil // the next round leaves out what is not visible any more
		}
		s.follower.requests.Add(ctx, int64(len(msgs)), metric.WithAttributes(attribute.String("result", "failed")))
		return f
	}
	if t.Batch <= 1 {
		return s.apply(ctx, t, msgs[0], a)
	}
	answers, f := batchAnswers(a, len(msgs))
	for i := range answers {
		// Each entry has its own result. The first failure makes the patient wait.
		if g := s.apply(ctx, t, msgs[i], &answers[i]); g != nil && f == nil {
			f = g
		}
	}
	return f
}

func operationOf(msgs []*message) string {
	if len(msgs) == 1 {
		return string(msgs[0].action)
	}
	return "batch"
}

// locate finds the id at the target of what is to be retracted or updated, if it is
// not known.
func (s *sender) locate(ctx context.Context, t *Target, m *message) *failure {
	if m.action == create || m.remote != "" {
		return nil
	}
	if err := s.audit(ctx, t, m.patient, "search", nil, fhir.Ref{Type: "Observation", ID: m.id},
		m.version); err != nil {
		return internal(err)
	}
	a, f := s.request(ctx, t, &call{method: http.MethodGet, path: "/Observation?" + m.ifNoneExist,
		still: func(g *access.Grant) bool { return visible(g, m.facts) }})
	if f != nil {
		if f.class == withheld {
			m.action = "" // the next round drops it
			return nil
		}
		return f
	}
	ids, ok := a.matches("Observation")
	switch {
	case !a.ok():
		return s.apply(ctx, t, m, a)
	case !ok:
		return &failure{class: a.class()}
	case len(ids) > 1:
		s.setAside(m, &answer{status: http.StatusPreconditionFailed})
	case len(ids) == 0 && m.action == retract:
		// It was never created, or the target has deleted it.
		m.accepted.Retracted = true
		s.buffered[m.id] = m.accepted
		m.done = !m.again
		m.action = ""
	case len(ids) == 0:
		m.action, m.remote = create, ""
	default:
		m.remote, m.accepted.Remote, m.accepted.Created = ids[0], ids[0], true
	}
	return nil
}

// callFor returns the request for messages.
func callFor(t *Target, msgs []*message) (*call, error) {
	type entryRequest struct {
		Method      string `json:"method"`
		URL         string `json:"url"`
		IfNoneExist string `json:"ifNoneExist,omitempty"`
	}
	type entry struct {
		Resource json.RawMessage `json:"resource"`
		Request  entryRequest    `json:"request"`
	}
	bundle := struct {
		Type    string  `json:"resourceType"`
		Kind    string  `json:"type"`
		Entries []entry `json:"entry"`
	}{Type: "Bundle", Kind: "batch"}
	for _, m := range msgs {
		e := entry{Resource: m.body, Request: entryRequest{http.MethodPost, "Observation", m.ifNoneExist}}
		if m.action != create {
			body, err := withID(m.body, m.remote)
			if err != nil {
				return nil, err
			}
			e = entry{Resource: body, Request: entryRequest{Method: http.MethodPut, URL: "Observation/" + m.remote}}
		}
		bundle.Entries = append(bundle.Entries, e)
	}
	if t.Batch > 1 {
		body, err := json.Marshal(bundle)
		return &call{method: http.MethodPost, body: body, header: map[string]string{"Prefer": "return=minimal"}}, err
	}
	e := bundle.Entries[0]
	c := &call{method: e.Request.Method, path: "/" + e.Request.URL, body: e.Resource,
		header: map[string]string{"Prefer": "return=minimal"}}
	if e.Request.IfNoneExist != "" {
		c.header["If-None-Exist"] = e.Request.IfNoneExist
	}
	return c, nil
}

// batchAnswers returns the answers to the entries of a batch.
func batchAnswers(a *answer, n int) ([]answer, *failure) {
	if !a.ok() {
		f := &failure{class: a.class(), wait: a.retryAfter}
		// The base refuses batches altogether if it is not a server's fault.
		f.broken = a.status < 500 && !temporary(a.status)
		return nil, f
	}
	var b struct {
		Type  string `json:"resourceType"`
		Kind  string `json:"type"`
		Entry []struct {
			Response struct {
				Status   string          `json:"status"`
				Location string          `json:"location"`
				Outcome  json.RawMessage `json:"outcome"`
			} `json:"response"`
		} `json:"entry"`
	}
	if json.Unmarshal(a.body, &b) != nil || b.Type != "Bundle" || b.Kind != "batch-response" || len(b.Entry) != n {
		return nil, &failure{class: "malformed-answer"}
	}
	out := make([]answer, n)
	for i := range b.Entry {
		r := &b.Entry[i].Response
		code, _, _ := strings.Cut(r.Status, " ")
		status, err := strconv.Atoi(code)
		if err != nil || status < 200 || status > 599 {
			return nil, &failure{class: "malformed-answer"}
		}
		out[i] = answer{status: status, location: r.Location, body: r.Outcome}
	}
	return out, nil
}

// temporary reports whether a status below 500 may change without anybody's doing.
func temporary(status int) bool {
	switch status {
	case http.StatusRequestTimeout, http.StatusConflict, http.StatusTooEarly, http.StatusTooManyRequests,
		http.StatusUnauthorized:
		return true
	}
	return false
}

// apply draws the consequences of the answer to a message.
func (s *sender) apply(ctx context.Context, t *Target, m *message, a *answer) *failure {
	result := "failed"
	defer func() {
		s.follower.requests.Add(ctx, 1, metric.WithAttributes(attribute.String("result", result)))
	}()
	switch {
	case a.ok():
		result = "accepted"
		s.accept(ctx, m, a)
		return nil
	case a.status >= 500 || a.status < 200 || temporary(a.status):
		return &failure{class: a.class(), status: a.status, wait: a.retryAfter}
	case a.status < 400: // a redirect, which is not followed
		return &failure{class: a.class(), broken: true}
	case (a.status == http.StatusNotFound || a.status == http.StatusGone) && m.action == create && t.Batch <= 1:
		return &failure{class: a.class(), broken: true}
	}
	result = "aside"
	s.setAside(m, a)
	return nil
}

// accept records that the target has accepted a message.
func (s *sender) accept(ctx context.Context, m *message, a *answer) {
	r := m.accepted
	r.Audited, r.AuditedAs = m.begun.Audited, m.begun.AuditedAs
	if m.action == create {
		r.Remote = a.created()
		switch {
		case a.status != http.StatusOK:
		case m.begun.Hash != r.Hash:
			// An earlier request that was cut off has created it with other content.
			r.Hash, r.Version, m.again = m.begun.Hash, 0, true
		case s.form.Updates:
			// An earlier request that was cut off has created it, or it is from before:
			// from before this target was added, or retracted. Its content is not known.
			r.Hash, r.Version, m.again = "", 0, true
		}
	}
	if m.repeated {
		s.writes = append(s.writes, store.StateWrite{Key: rowPrefix("aside", s.name) + m.id})
	}
	s.buffered[m.id] = r
	m.done = !m.again
	now := s.follower.opts.Clock()
	s.count(func(st *Stat) { st.Sent++; st.LastSent = now.UTC() })
	s.follower.latency.Record(ctx, now.Sub(m.queued).Seconds())
}

// setAside removes a message from the queue and records why.
func (s *sender) setAside(m *message, a *answer) {
	v, err := json.Marshal(aside{Patient: m.patient, Version: m.version, Status: a.status, Codes: a.codes(),
		At: s.follower.opts.Clock().UTC()})
	if err != nil { // the type has no values that cannot be encoded
		v = []byte("{}")
	}
	s.writes = append(s.writes, store.StateWrite{Key: rowPrefix("aside", s.name) + m.id, Value: v})
	m.done, m.action = true, ""
	s.count(func(st *Stat) { st.Aside++; st.LastError = a.class(); st.LastErrorAt = s.follower.opts.Clock().UTC() })
}
