package subscription

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"pulsegate/fhir"
	"pulsegate/fhir/audit"
	"pulsegate/fhir/validate"
)

// postbox refuses and sends nothing.
type postbox struct{}

func (postbox) Allowed(to string) bool                             { return !strings.HasSuffix(to, "@evil.example") }
func (postbox) Mail(context.Context, string, string, string) error { return nil }

// mailbox keeps the mails it gets.
type mailbox struct {
	postbox
	mu    sync.Mutex
	mails []string
	fail  bool
}

func (m *mailbox) Mail(_ context.Context, to, subject, text string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.fail {
		return errors.New("refused")
	}
	m.mails = append(m.mails, to+"\n"+subject+"\n"+text)
	return nil
}

func (m *mailbox) all() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return append([]string(nil), m.mails...)
}

// broker is a Publisher that keeps what is published, and fails at first.
type broker struct {
	mu   sync.Mutex
	fail int
	got  []Publication
}

func (b *broker) Publish(_ context.Context, m Publication) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.fail > 0 {
		b.fail--
		return errors.New("the broker is down")
	}
	b.got = append(b.got, m)
	return nil
}

func (b *broker) all() []Publication {
	b.mu.Lock()
	defer b.mu.Unlock()
	return append([]Publication(nil), b.got...)
}

// request is a request as an endpoint got it.
type request struct {
	method, path string
	header       http.Header
	body         []byte
}

type endpoint struct {
	*httptest.Server
	mu  sync.Mutex
	got []request
}

func newEndpoint(t *testing.T) *endpoint {
	e := &endpoint{}
	e.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return
		}
		e.mu.Lock()
		defer e.mu.Unlock()
		e.got = append(e.got, request{r.Method, r.URL.Path, r.Header.Clone(), body})
	}))
	t.Cleanup(e.Close)
	return e
}

func (e *endpoint) all() []request {
	e.mu.Lock()
	defer e.mu.Unlock()
	return append([]request(nil), e.got...)
}

// newWorldWith is newWorld with other options.
func newWorldWith(t *testing.T, edit func(*Options)) *world {
	t.Helper()
	w := newStore(t)
	edit(&w.opts)
	w.start()
	t.Cleanup(func() { w.engine.Close() })
	return w
}

// plain returns a Subscription of R4 without a topic.
func plain(criteria, channel string) string {
	return `"status":"requested","reason":"test","criteria":"` + criteria + `","channel":{` + channel + `}}`
}

// TestPlainRestHook checks R4's criteria with rest-hook: an update of each resource at the
// endpoint with a payload, an empty POST without, no handshake, and nothing for a deletion
// or for what no longer matches.
func TestPlainRestHook(t *testing.T) {
	w, full, ping := newWorld(t), newEndpoint(t), newEndpoint(t)
	settler := w.settler()
	w.subscribe("full", plain("Observation?patient=Patient/p1&code=http://loinc.org|8867-4&value-quantity=gt50",
		`"type":"rest-hook","endpoint":"`+full.URL+`/base","payload":"application/fhir+json","header":["X-A: b"]`))
	w.subscribe("ping", plain("Observation?patient=p1&status=final", `"type":"rest-hook","endpoint":"`+ping.URL+`/on"`))
	w.active("full", "ping")
	o1 := w.observe("p1", "8867-4")
	w.observe("p2", "8867-4")
	w.write("Observation", "e", observation("p1", "entered-in-error", "8867-4"))
	w.until("both requests", func() bool { return len(full.all()) == 1 && len(ping.all()) == 1 })
	w.remove("Observation", o1)
	w.settled(settler)
	w.numbered("full", 1)
	w.numbered("ping", 1)
	got := full.all()[0]
	if got.method != http.MethodPut || got.path != "/base/Observation/"+o1 || got.header.Get("X-A") != "b" ||
		got.header.Get("Content-Type") != "application/fhir+json" {
		t.Errorf("%s %s %v", got.method, got.path, got.header)
	}
	if got := ping.all()[0]; got.method != http.MethodPost || got.path != "/on" || len(got.body) != 0 ||
		got.header.Get("Content-Type") != "" {
		t.Errorf("%s %s %s %v", got.method, got.path, got.body, got.header)
	}
	// A deleted resource is not sent, but the next one is.
	o3 := w.observe("p1", "8867-4")
	w.until("the next", func() bool {
		all := full.all()
		return all[len(all)-1].path == "/base/Observation/"+o3
	})
	for name, c := range map[string][2]string{
		"AuditEvents":      {"AuditEvent?action=R", `"type":"rest-hook","endpoint":"http://127.0.0.1/"`},
		"Subscriptions":    {"Subscription?status=off", `"type":"rest-hook","endpoint":"http://127.0.0.1/"`},
		"unknown type":     {"Nothing?x=y", `"type":"rest-hook","endpoint":"http://127.0.0.1/"`},
		"chained":          {"Observation?subject:Patient.name=x", `"type":"rest-hook","endpoint":"http://127.0.0.1/"`},
		"sorted":           {"Observation?_sort=date", `"type":"rest-hook","endpoint":"http://127.0.0.1/"`},
		"empty value":      {"Observation?code=", `"type":"rest-hook","endpoint":"http://127.0.0.1/"`},
		"payload in XML":   {"Observation?code=x", `"type":"rest-hook","endpoint":"http://127.0.0.1/","payload":"application/fhir+xml"`},
		"websocket data":   {"Observation?code=x", `"type":"websocket","payload":"application/fhir+json"`},
		"sms":              {"Observation?code=x", `"type":"sms","endpoint":"tel:1"`},
		"message of empty": {"Observation?code=x", `"type":"message","endpoint":"http://127.0.0.1/"`},
	} {
		_, err := w.engine.Check(context.Background(), w.principal("ehr"), &fhir.Resource{Type: "Subscription", ID: "x",
			JSON: []byte(fhir.Prefix("Subscription", "x") + `},` + plain(c[0], c[1]))}, nil)
		if fhir.KindOf(err) != fhir.Unprocessable {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestPlainWithoutConsent checks that a resource is not sent after its consent was
// withdrawn, and that this does not stop later ones.
func TestPlainWithoutConsent(t *testing.T) {
	w, full := newWorld(t), newEndpoint(t)
	w.engine.Close()
	w.opts.HandshakeDelay = time.Hour // nothing is sent before
	w.start()
	w.subscribe("full", plain("Observation", `"type":"rest-hook","endpoint":"`+full.URL+`","payload":"application/fhir+json"`))
	w.observe("p1", "a")
	o2 := w.observe("p2", "a")
	w.until("numbered", func() bool { return w.engine.count("full") == 2 })
	w.consents.withdraw("p1")
	w.engine.Close()
	w.opts.HandshakeDelay = time.Millisecond
	w.start()
	w.until("the second", func() bool { return len(full.all()) == 1 })
	if got := full.all()[0].path; got != "/Observation/"+o2 {
		t.Errorf("sent %s", got)
	}
}

// TestMessages checks the channel message, with a topic and with criteria of R4.
func TestMessages(t *testing.T) {
	w, e := newWorld(t), newEndpoint(t)
	w.subscribe("topic", strings.Replace(subscriptionJSON(e.URL+"/fhir", fullResource, "Observation?patient=p1", ""), `"rest-hook"`, `"message"`, 1))
	w.subscribe("plain", plain("Observation?patient=p1", `"type":"message","endpoint":"`+e.URL+`/r4","payload":"application/fhir+json"`))
	w.active("topic", "plain")
	id := w.observe("p1", "8867-4")
	w.until("messages", func() bool { return len(e.all()) == 3 })
	v := validate.New(validate.Options{})
	handshakes := 0
	for _, r := range e.all() {
		var b struct {
			Type  string
			Entry []struct {
				FullURL  string
				Resource struct {
					ResourceType, ID, EventURI string
					Focus                      []struct{ Reference string }
				}
			}
		}
		if err := json.Unmarshal(r.body, &b); err != nil || b.Type != "message" || len(b.Entry) != 2 ||
			r.method != http.MethodPost {
			t.Fatalf("%s %s: %v %s", r.method, r.path, err, r.body)
		}
		head, body := b.Entry[0], b.Entry[1]
		if head.Resource.ResourceType != "MessageHeader" || len(head.Resource.Focus) != 1 ||
			head.Resource.Focus[0].Reference != body.FullURL {
			t.Errorf("header: %s", r.body)
		}
		var raw struct {
			Entry []struct{ Resource json.RawMessage }
		}
		if err := json.Unmarshal(r.body, &raw); err != nil {
			t.Fatal(err)
		}
		if d, err := v.Resource(validate.Request{Op: "test", Type: "MessageHeader"}, raw.Entry[0].Resource); err == nil {
			d.Release()
		} else {
			t.Errorf("%s is not valid: %v", raw.Entry[0].Resource, err)
		}
		switch r.path {
		case "/fhir/$process-message":
			if body.Resource.ResourceType != "Bundle" || head.Resource.EventURI != Topic {
				t.Errorf("%s", r.body)
			}
			if strings.Contains(string(r.body), "handshake") {
				handshakes++
			}
		case "/r4/$process-message":
			if body.Resource.ResourceType != "Observation" || body.Resource.ID != id {
				t.Errorf("%s", r.body)
			}
		default:
			t.Errorf("path %s", r.path)
		}
	}
	if handshakes != 1 {
		t.Errorf("%d handshakes", handshakes)
	}
}

// TestEmail checks that e-mails say that there is something new and nothing else, that the
// address must be allowed, and that a failure leads to error.
func TestEmail(t *testing.T) {
	box := &mailbox{}
	w := newWorldWith(t, func(o *Options) { o.Mail = box })
	mail := func(address string, content Content, payload string) string {
		s := subscriptionJSON("mailto:"+address, content, "Observation?patient=p1", "")
		s = strings.Replace(strings.Replace(s, `"rest-hook"`, `"email"`, 1), "application/fhir+json", payload, 1)
		return strings.Replace(s, `,"header":["X-Secret: s3","Authorization: Bearer abc"]`, "", 1)
	}
	w.subscribe("s", mail("on-call@hospital.example", empty, "text/plain"))
	w.subscribe("plain", plain("Observation?patient=p1", `"type":"email","endpoint":"mailto:r4@hospital.example"`))
	w.active("s", "plain")
	id := w.observe("p1", "8867-4")
	w.until("mails", func() bool { return len(box.all()) == 3 })
	for _, m := range box.all() {
		for _, secret := range []string{id, "p1", "8867-4", "62"} {
			if strings.Contains(m, secret) {
				t.Errorf("%q contains %s", m, secret)
			}
		}
	}
	if all := strings.Join(box.all(), "\n"); !strings.Contains(all, base+"/Subscription/s/$events?eventsSinceNumber=1") ||
		!strings.Contains(all, "r4@hospital.example") {
		t.Errorf("%s", all)
	}
	for name, body := range map[string]string{
		"content":        mail("a@hospital.example", iDOnly, "text/plain"),
		"attachment":     mail("a@hospital.example", empty, "text/plain;attach=application/fhir+json"),
		"bundle":         mail("a@hospital.example", empty, "application/fhir+json"),
		"another domain": mail("a@evil.example", empty, "text/plain"),
		"two addresses":  mail("a@hospital.example,b@hospital.example", empty, "text/plain"),
		"a header":       mail(`a@hospital.example?bcc=b@evil.example`, empty, "text/plain"),
		"a name":         mail(`A <a@hospital.example>`, empty, "text/plain"),
		"a line":         mail(`a@hospital.example\r\nBcc: b@evil.example`, empty, "text/plain"),
	} {
		_, err := w.engine.Check(context.Background(), w.principal("ehr"), &fhir.Resource{Type: "Subscription", ID: "x",
			JSON: []byte(fhir.Prefix("Subscription", "x") + `},` + body)}, nil)
		if fhir.KindOf(err) != fhir.Unprocessable {
			t.Errorf("%s: %v", name, err)
		}
	}
	box.mu.Lock()
	box.fail = true
	box.mu.Unlock()
	w.observe("p1", "8867-4")
	w.until("error", func() bool { return w.status("s") == "error" })
	without := newWorld(t)
	if _, err := without.engine.Check(context.Background(), without.principal("ehr"), &fhir.Resource{Type: "Subscription", ID: "x",
		JSON: []byte(fhir.Prefix("Subscription", "x") + `},` + mail("a@hospital.example", empty, "text/plain"))}, nil); fhir.KindOf(err) != fhir.Unprocessable {
		t.Errorf("without a Mailer: %v", err)
	}
}

// TestPublisher checks a channel of a Publisher: events are published in order, each at
// least once although the broker fails, under a subject that the client cannot choose.
func TestPublisher(t *testing.T) {
	b := &broker{fail: 3}
	w := newWorldWith(t, func(o *Options) { o.Publishers = map[string]Publisher{"broker": b} })
	body := func(endpoint, code string) string {
		s := subscriptionJSON(endpoint, fullResource, "Observation?patient=p1", "")
		s = strings.Replace(s, `"type":"rest-hook"`, `"type":"message","_type":{"extension":[{"url":"`+extBase+
			`backport-channel-type","valueCoding":{"system":"`+ChannelSystem+`","code":"`+code+`"}}]}`, 1)
		s = strings.Replace(s, `,"header":["X-Secret: s3","Authorization: Bearer abc"]`, "", 1)
		return strings.Replace(s, `"endpoint":"",`, "", 1)
	}
	w.subscribe("s.1", body("", "broker"))
	w.active("s.1")
	for range 5 {
		w.observe("p1", "8867-4")
	}
	w.until("5 events", func() bool {
		n := 0
		for _, p := range b.all() {
			n += len(readNotification(t, p.Body).numbers)
		}
		return n == 5
	})
	var numbers []uint64
	for _, p := range b.all() {
		if p.Subject != "ehr.s_1" || p.ContentType != "application/fhir+json" || p.ID == "" {
			t.Errorf("%+v", p)
		}
		numbers = append(numbers, readNotification(t, p.Body).numbers...)
	}
	if fmt.Sprint(numbers) != fmt.Sprint(upTo(5)) {
		t.Errorf("events %v", numbers)
	}
	for name, s := range map[string]string{"an endpoint": body("nats://evil.example", "broker"), "another channel": body("", "kafka")} {
		if _, err := w.engine.Check(context.Background(), w.principal("ehr"), &fhir.Resource{Type: "Subscription", ID: "x",
			JSON: []byte(fhir.Prefix("Subscription", "x") + `},` + s)}, nil); fhir.KindOf(err) != fhir.Unprocessable {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestSignature verifies the signature of a notification as Standard Webhooks says. Control:
// another body or secret does not verify.
func TestSignature(t *testing.T) {
	w, e := newWorld(t), newEndpoint(t)
	secret := []byte("0123456789abcdef0123456789abcdef")
	w.subscribe("s", subscriptionJSON(e.URL, iDOnly, "", `"extension":[{"url":"`+SigningSecret+`","valueString":"whsec_`+
		base64.StdEncoding.EncodeToString(secret)+`"}],`))
	w.active("s")
	r := e.all()[0]
	verify := func(secret, body []byte) bool {
		mac := hmac.New(sha256.New, secret)
		mac.Write([]byte(r.header.Get("webhook-id") + "." + r.header.Get("webhook-timestamp") + "."))
		mac.Write(body)
		got, ok := strings.CutPrefix(r.header.Get("webhook-signature"), "v1,")
		raw, err := base64.StdEncoding.DecodeString(got)
		return ok && err == nil && hmac.Equal(raw, mac.Sum(nil))
	}
	if !verify(secret, r.body) || verify(secret, append(r.body, ' ')) || verify([]byte("other"), r.body) {
		t.Errorf("signature %v", r.header)
	}
	for _, bad := range []string{"short", "whsec_" + base64.StdEncoding.EncodeToString([]byte("short")), "!!"} {
		_, err := newParser(loopback()).parse([]byte(`{` + subscriptionJSON(e.URL, iDOnly, "", `"extension":[{"url":"`+
			SigningSecret+`","valueString":"`+bad+`"}],`)))
		if fhir.KindOf(err) != fhir.Unprocessable || strings.Contains(err.Error(), bad) {
			t.Errorf("%s: %v", bad, err)
		}
	}
}

// TestAuthorize checks that a configured token replaces the client's header, goes to the
// owner's endpoint only, and that no request is made without it.
func TestAuthorize(t *testing.T) {
	e := newEndpoint(t)
	var mu sync.Mutex
	broken := true
	w := newWorldWith(t, func(o *Options) {
		o.Authorize = func(_ context.Context, client string, u *url.URL) (string, error) {
			mu.Lock()
			defer mu.Unlock()
			switch {
			case client != "ehr" || u.Path != "/hook":
				return "", nil
			case broken:
				broken = false
				return "", errors.New("the token endpoint is down")
			}
			return "Bearer configured", nil
		}
	})
	w.subscribe("s", subscriptionJSON(e.URL+"/hook", iDOnly, "", ""))
	w.subscribe("other", subscriptionJSON(e.URL+"/other", iDOnly, "", ""))
	w.active("s", "other")
	for _, r := range e.all() {
		want := map[string]string{"/hook": "Bearer configured", "/other": "Bearer abc"}[r.path]
		if got := r.header.Values("Authorization"); len(got) != 1 || got[0] != want {
			t.Errorf("%s: %v", r.path, got)
		}
	}
}

// TestResend sends events again, with their numbers and under current consents.
func TestResend(t *testing.T) {
	w, r := newWorld(t), newReceiver(t)
	ctx := context.Background()
	w.subscribe("s1", subscriptionJSON(r.URL, fullResource, "", ""))
	w.active("s1")
	for _, p := range []string{"p1", "p2", "p1", "p1"} {
		w.observe(p, "8867-4")
	}
	w.until("4 events", func() bool { n, _ := r.events(); return len(n) == 4 })
	w.consents.withdraw("p2")
	rq := Request{Caller: audit.Caller{Principal: w.principal("ehr")}}
	b, err := w.engine.Resend(ctx, rq, "s1", Range{Since: 2, Until: 3})
	if err != nil || !strings.Contains(string(b), "events 2 to 3 were sent again") {
		t.Fatalf("%v %s", err, b)
	}
	n, all := r.events()
	last := all[len(all)-1]
	if len(n) != 6 || fmt.Sprint(last.numbers) != "[2 3]" || last.typ != "event-notification" || len(last.resources) != 1 {
		t.Errorf("%v %+v", n, last)
	}
	if w.engine.count("s1") != 4 {
		t.Errorf("%d events", w.engine.count("s1"))
	}
	b, err = w.engine.Resend(ctx, rq, "s1", Range{From: time.Now().Add(time.Hour)})
	if err != nil || !strings.Contains(string(b), "not-found") {
		t.Errorf("a range without events: %v %s", err, b)
	}
	if b, err := w.engine.Resend(ctx, rq, "s1", Range{To: time.Now()}); err != nil || !strings.Contains(string(b), "events 1 to 4") {
		t.Errorf("by time: %v %s", err, b)
	}
	other := Request{Caller: audit.Caller{Principal: w.principal("other")}}
	if _, err := w.engine.Resend(ctx, other, "s1", Range{}); fhir.KindOf(err) != fhir.NotFound {
		t.Errorf("by another client: %v", err)
	}
	r.mu.Lock()
	r.fail = func(int) bool { return true }
	r.mu.Unlock()
	if _, err := w.engine.Resend(ctx, rq, "s1", Range{}); fhir.KindOf(err) != fhir.Unavailable ||
		strings.Contains(err.Error(), "127.0.0.1") {
		t.Errorf("to an endpoint that fails: %v", err)
	}
	w.observe("p1", "8867-4")
	w.until("error", func() bool { return w.status("s1") == "error" })
	if _, err := w.engine.Resend(ctx, rq, "s1", Range{}); fhir.KindOf(err) != fhir.Conflict {
		t.Errorf("in status error: %v", err)
	}
}
