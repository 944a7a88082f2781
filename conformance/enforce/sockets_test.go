package enforce

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/coder/websocket"

	"pulsegate/fhir"
	"pulsegate/fhir/store"
	"pulsegate/fhir/subscription/topic"
)

// shapedTopic is a topic of the operator: every change of an Observation, with its Device and
// its Provenances.
const shapedTopic = `{"resourceType":"SubscriptionTopic","id":"shaped","status":"active",` +
	`"url":"https://example.org/SubscriptionTopic/shaped","resourceTrigger":[{"resource":"Observation",` +
	`"supportedInteraction":["create","update"]}],"notificationShape":[{"resource":"Observation",` +
	`"include":["Observation:device"],"revInclude":["Provenance:target"]}]}`

// topicBody returns a topic as a Basic.
func topicBody(id string) []byte {
	x := must(topic.Parse([]byte(strings.ReplaceAll(shapedTopic, "shaped", id)), base))
	x.ID = id
	return must(x.Basic())
}

// subscribeSocket creates a Subscription of a client to the topic of the operator, with the
// channel websocket.
func (r *run) subscribeSocket(id, client string) {
	write := func(typ, id, author string, body []byte) {
		must(r.w.db.Commit(r.ctx(), &store.Batch{Writes: []store.Write{{Author: author,
			Resource: fhir.Resource{Type: typ, ID: id, JSON: body}}}}))
	}
	write("Basic", "shaped", "", topicBody("shaped"))
	write("Subscription", id, client, []byte(fhir.Prefix("Subscription", id)+
		`},"status":"requested","reason":"test","criteria":"https://example.org/SubscriptionTopic/shaped",`+
		`"channel":{"type":"websocket","payload":"application/fhir+json","_payload":{"extension":[{"url":`+
		`"http://hl7.org/fhir/uv/subscriptions-backport/StructureDefinition/backport-payload-content","valueCode":"`+
		r.tc.content+`"}]}}}`))
}

// active waits until a Subscription is active.
func (r *run) active(id string) error {
	for end := time.Now().Add(2 * time.Minute); ; time.Sleep(200 * time.Microsecond) {
		res, _, err := r.w.db.Read(r.ctx(), fhir.Ref{Type: "Subscription", ID: id}, 0)
		if err != nil {
			return err
		}
		if strings.Contains(string(res.JSON), `"status":"active"`) {
			return nil
		}
		if time.Now().After(end) {
			return fmt.Errorf("Subscription %s is not active: %s", id, res.JSON)
		}
	}
}

// resent checks that $resend sends again what the owner may see now. The status of the
// answer is status.
func (r *run) resent(owner *token, bearer string, status int, events []*version) error {
	if err := r.active("s1"); err != nil {
		return err
	}
	r.w.mu.Lock()
	before := len(r.w.received)
	r.w.mu.Unlock()
	if a := r.w.do(bearer, "POST", "/Subscription/s1/$resend", ""); a.status != status {
		return fmt.Errorf("$resend: %d %s, want %d", a.status, a.body, status)
	}
	r.w.mu.Lock()
	defer r.w.mu.Unlock()
	var got, want []string
	for _, b := range r.w.received[before:] {
		refs, _, err := observed(b)
		if err != nil {
			return err
		}
		got = append(got, refs...)
	}
	if status == http.StatusOK {
		for _, v := range events {
			if owner.sees(r.provisions, "r", v) {
				want = append(want, v.reference)
			} else {
				r.count("resent without a hidden event")
			}
		}
		r.count("resent")
	}
	if !slices.Equal(sorted(got), sorted(want)) {
		return fmt.Errorf("sent again %v, want %v", got, want)
	}
	return nil
}

// told holds the content of notifications.
type told struct {
	events  int
	refs    []string // of focus and of what accompanies it
	entries []string // references of entries with a fullUrl
}

// socket binds a socket to the Subscription w1 of the owner after its events have been
// numbered, and checks that it gets what the owner may see now, and again by $resend.
// The owner's requests answer with status.
func (r *run) socket(owner *token, bearer string, status int, events []*version) error {
	if err := r.active("w1"); err != nil {
		return err
	}
	a := r.w.get(bearer, "/Subscription/w1/$get-ws-binding-token")
	if a.status != status {
		return fmt.Errorf("$get-ws-binding-token: %d %s, want %d", a.status, a.body, status)
	}
	if status != http.StatusOK {
		return nil
	}
	if err := r.numbered("w1", len(events)); err != nil && len(events) > 0 {
		return err
	}
	ctx, cancel := context.WithTimeout(r.ctx(), 2*time.Minute)
	defer cancel()
	header := http.Header{}
	message := "bind-with-token " + a.json["parameter"].([]any)[0].(map[string]any)["valueString"].(string)
	if len(r.tc.docs)%2 == 0 { // R4's message, with the access token
		header.Set("Authorization", "Bearer "+bearer)
		message = "bind w1"
	}
	conn, resp, err := websocket.Dial(ctx, r.w.listener.URL+"/fhir/$subscription-ws",
		&websocket.DialOptions{HTTPHeader: header})
	if err != nil {
		return fmt.Errorf("socket: %w", err)
	}
	if resp.Body != nil {
		defer resp.Body.Close()
	}
	defer func() { _ = conn.CloseNow() }()
	conn.SetReadLimit(4 << 20)
	if err := conn.Write(ctx, websocket.MessageText, []byte(message)); err != nil {
		return err
	}
	for i, what := range []string{"socket", "socket after $resend"} {
		if i == 1 && len(events) > 0 {
			if a := r.w.do(bearer, "POST", "/Subscription/w1/$resend", ""); a.status != http.StatusOK {
				return fmt.Errorf("$resend of a socket: %d %s", a.status, a.body)
			}
		}
		if err := r.overSocket(ctx, conn, owner, events); err != nil {
			return fmt.Errorf("%s: %w", what, err)
		}
		r.count(what)
	}
	return nil
}

// overSocket reads the notifications of events from a socket and compares them with what the
// owner may see.
func (r *run) overSocket(ctx context.Context, conn *websocket.Conn, owner *token, events []*version) error {
	var got told
	for got.events < len(events) {
		_, text, err := conn.Read(ctx)
		if err != nil {
			return err
		}
		if !strings.HasPrefix(string(text), "{") {
			continue // bound
		}
		if err := got.read(text); err != nil {
			return err
		}
	}
	var want []string
	for _, v := range events {
		if !owner.sees(r.provisions, "r", v) {
			r.count("socket without a hidden event")
			continue
		}
		want = append(want, v.reference)
		for _, ref := range r.accompanying(v) {
			if c := r.d.current(ref); c != nil && owner.sees(r.provisions, "r", c) {
				want = append(want, ref)
			} else if c != nil && c.typ == "Device" {
				r.count("socket with a hidden Device")
			}
		}
	}
	distinct := slices.Compact(sorted(want))
	if !slices.Equal(sorted(got.refs), sorted(want)) || !slices.Equal(slices.Compact(sorted(got.entries)), distinct) {
		return fmt.Errorf("notified of %v with the entries %v, want %v", got.refs, got.entries, want)
	}
	return nil
}

// accompanying returns the references of the resources that the topic sends with v.
func (r *run) accompanying(v *version) (out []string) {
	out = append(out, v.refs["device"]...)
	for _, ref := range r.of("Provenance") {
		if slices.Contains(r.d.current(ref).refs["target"], v.reference) {
			out = append(out, ref)
		}
	}
	return out
}

// read adds what a notification tells.
func (t *told) read(text []byte) error {
	var b struct {
		Entry []struct {
			FullURL  string
			Resource struct {
				Parameter []struct {
					Name string
					Part []struct {
						Name           string
						ValueReference struct{ Reference string }
					}
				}
			}
		}
	}
	if err := json.Unmarshal(text, &b); err != nil {
		return err
	}
	for _, e := range b.Entry {
		if ref, ok := strings.CutPrefix(e.FullURL, base+"/"); ok {
			t.entries = append(t.entries, ref)
		}
		for _, p := range e.Resource.Parameter {
			if p.Name != "notification-event" {
				continue
			}
			t.events++
			for _, part := range p.Part {
				if part.Name == "focus" || part.Name == "additional-context" {
					t.refs = append(t.refs, strings.TrimPrefix(part.ValueReference.Reference, base+"/"))
				}
			}
		}
	}
	return nil
}

// topics checks that no client can write a topic of subscriptions, by any write, regardless
// of its scopes, and that no Subscription can name what it has tried to write.
func (r *run) topics() error {
	author := token{client: "topics", scopes: []string{"system/*.cruds"}}
	r.w.register(&author, author.scopes)
	bearer := r.w.issue(&author)
	const plain = `{"resourceType":"Basic","id":"b1","code":{"text":"x"}}`
	if status, _ := r.request(bearer, "PUT", "Basic/b1", plain, 0); status != http.StatusCreated {
		return fmt.Errorf("a Basic that is no topic: %d", status)
	}
	body := func(id string) string {
		return string((&fhir.Resource{Type: "Basic", ID: id, JSON: topicBody(id)}).Sendable())
	}
	var x map[string]json.RawMessage
	if err := json.Unmarshal(topicBody("b1"), &x); err != nil {
		return err
	}
	patch := `[{"op":"replace","path":"/code","value":` + string(x["code"]) + `},{"op":"add","path":"/extension","value":` +
		string(x["extension"]) + `}]`
	for how := range 3 {
		for _, c := range []struct{ method, url, body string }{
			{"POST", "Basic", body("t1")}, {"PUT", "Basic/t1", body("t1")}, {"PUT", "Basic?_id=t1", body("t1")},
			{"PUT", "Basic/b1", body("b1")}, {"PATCH", "Basic/b1", patch},
		} {
			if status, _ := r.request(bearer, c.method, c.url, c.body, how); status != http.StatusForbidden {
				return fmt.Errorf("%s %s of a topic: %d, want 403", c.method, c.url, status)
			}
			r.count("topic refused")
		}
	}
	for _, id := range []string{"t1", "b1"} {
		a := r.w.do(bearer, "POST", "/Subscription", `{"resourceType":"Subscription","status":"requested",`+
			`"reason":"test","criteria":"https://example.org/SubscriptionTopic/`+id+`","channel":{"type":"websocket",`+
			`"payload":"application/fhir+json"}}`)
		if a.status != http.StatusUnprocessableEntity {
			return fmt.Errorf("a Subscription to the topic %s of a client: %d %s", id, a.status, a.body)
		}
	}
	return nil
}
