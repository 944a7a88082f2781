package rest

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"

	"pulsegate/fhir"
	"pulsegate/fhir/store"
	"pulsegate/fhir/subscription"
)

// dial opens a socket to the server of o.
func (o *operations) dial(ctx context.Context, header http.Header) (*websocket.Conn, *http.Response, error) {
	return websocket.Dial(ctx, "ws"+strings.TrimPrefix(o.srv.URL, "http")+"/fhir"+subscription.SocketPath,
		&websocket.DialOptions{HTTPHeader: header})
}

// read returns the next message.
func read(t *testing.T, ctx context.Context, c *websocket.Conn) string {
	t.Helper()
	typ, b, err := c.Read(ctx)
	if err != nil || typ != websocket.MessageText {
		t.Fatalf("%v %v", typ, err)
	}
	return string(b)
}

// subscribe stores a Subscription of the client ehr.
func (o *operations) subscribe(id, members string) {
	o.t.Helper()
	if _, err := o.st.Commit(context.Background(), &store.Batch{Writes: []store.Write{{Author: "ehr",
		Resource: fhir.Resource{Type: "Subscription", ID: id,
			JSON: []byte(fhir.Prefix("Subscription", id) + `},"status":"requested","reason":"x",` + members + `}`)}}}}); err != nil {
		o.t.Fatal(err)
	}
}

// active waits until a Subscription is active.
func (o *operations) active(id string) {
	o.t.Helper()
	for end := time.Now().Add(2 * time.Minute); ; time.Sleep(5 * time.Millisecond) {
		res, _, err := o.st.Read(context.Background(), fhir.Ref{Type: "Subscription", ID: id}, 0)
		if err == nil && strings.Contains(string(res.JSON), `"status":"active"`) {
			return
		}
		if time.Now().After(end) {
			o.t.Fatalf("%s: %v %s", id, err, res.JSON)
		}
	}
}

const overSocket = `"criteria":"` + subscription.Topic + `","channel":{"type":"websocket","payload":"application/fhir+json",
"_payload":{"extension":[{"url":"http://hl7.org/fhir/uv/subscriptions-backport/StructureDefinition/backport-payload-content","valueCode":"full-resource"}]}}`

// TestSocketOverHTTP takes a binding token and binds a real WebSocket: handshake, event,
// and the end when the Subscription is deleted. Then it offends against the protocol.
func TestSocketOverHTTP(t *testing.T) {
	o := newOperations(t)
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	o.subscribe("s1", overSocket)
	o.subscribe("s2", `"criteria":"Observation?code=x","channel":{"type":"websocket"}`)
	o.active("s1")
	o.active("s2")
	for url, want := range map[string]int{"/Subscription/s9/$get-ws-binding-token": 404, "/Patient/s1/$get-ws-binding-token": 404,
		"/Subscription/$get-ws-binding-token?x=y": 400} {
		if resp, b := o.do("GET", url, "ehr", ""); resp.StatusCode != want {
			t.Errorf("%s: %d %s", url, resp.StatusCode, b)
		}
	}
	resp, b := o.do("POST", "/Subscription/$get-ws-binding-token", "ehr",
		`{"resourceType":"Parameters","parameter":[{"name":"id","valueId":"s1"}]}`)
	var p struct {
		Parameter []struct{ Name, ValueString, ValueURL string }
	}
	if err := json.Unmarshal(b, &p); err != nil || resp.StatusCode != 200 || len(p.Parameter) != 4 ||
		p.Parameter[0].Name != "token" || p.Parameter[2].ValueString != "s1" || resp.Header.Get("Cache-Control") != "no-store" {
		t.Fatalf("%d %v %s", resp.StatusCode, err, b)
	}
	if resp, _ := o.do("GET", "/Subscription/s2/$get-ws-binding-token?id=s1", "ehr", ""); resp.StatusCode != 200 {
		t.Errorf("of one Subscription: %d", resp.StatusCode)
	}
	bind := []byte("bind-with-token " + p.Parameter[0].ValueString)
	c, _, err := o.dial(ctx, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Write(ctx, websocket.MessageText, bind); err != nil {
		t.Fatal(err)
	}
	if m := read(t, ctx, c); !strings.Contains(m, `"valueCode":"handshake"`) {
		t.Errorf("%s", m)
	}
	o.put("Observation", "o1", `,"status":"final","code":{"coding":[{"code":"x"}]},"valueString":"`+canary+`"`)
	if m := read(t, ctx, c); !strings.Contains(m, `"valueCode":"event-notification"`) || !strings.Contains(m, canary) {
		t.Errorf("%s", m)
	}
	if _, err := o.st.Commit(ctx, &store.Batch{Writes: []store.Write{{Op: store.Remove,
		Resource: fhir.Resource{Type: "Subscription", ID: "s1"}}}}); err != nil {
		t.Fatal(err)
	}
	if _, _, err := c.Read(ctx); websocket.CloseStatus(err) != websocket.StatusNormalClosure {
		t.Errorf("after the deletion: %v", err)
	}
	// R4: an access token on the request, bind, bound and ping.
	c, _, err = o.dial(ctx, http.Header{"Authorization": {"Bearer ehr"}})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Write(ctx, websocket.MessageText, []byte("bind s2")); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"bound s2", "ping s2"} { // o1 matched before
		if m := read(t, ctx, c); m != want {
			t.Errorf("%s, want %s", m, want)
		}
	}
	if err := c.Close(websocket.StatusNormalClosure, ""); err != nil {
		t.Error(err)
	}
	if _, resp, err := o.dial(ctx, http.Header{"Authorization": {"Bearer wrong"}}); err == nil || resp.StatusCode != http.StatusUnauthorized {
		t.Errorf("a wrong access token: %v", err)
	}
	if resp, _ := o.do("GET", subscription.SocketPath, "", ""); resp.StatusCode != http.StatusUpgradeRequired {
		t.Errorf("without an upgrade: %d", resp.StatusCode)
	}
	for name, x := range map[string]struct {
		typ  websocket.MessageType
		text string
		want websocket.StatusCode
	}{
		"unknown token": {websocket.MessageText, "bind-with-token x", websocket.StatusPolicyViolation},
		"unknown verb":  {websocket.MessageText, "subscribe", websocket.StatusPolicyViolation},
		"binary":        {websocket.MessageBinary, string(bind), websocket.StatusUnsupportedData},
		"too long":      {websocket.MessageText, strings.Repeat("x", maxSocketMessage+1), websocket.StatusMessageTooBig},
	} {
		c, _, err := o.dial(ctx, nil)
		if err != nil {
			t.Fatal(err)
		}
		if err := c.Write(ctx, x.typ, []byte(x.text)); err != nil && !errors.Is(err, context.Canceled) {
			t.Logf("%s: %v", name, err) // the server may have closed the connection already
		}
		if _, _, err := c.Read(ctx); websocket.CloseStatus(err) != x.want {
			t.Errorf("%s: %v, want %v", name, err, x.want)
		}
	}
}

// TestResendOverHTTP checks the parameters of $resend.
func TestResendOverHTTP(t *testing.T) {
	o := newOperations(t)
	o.subscribe("s1", overSocket)
	o.active("s1")
	for _, c := range []struct {
		method, url, body string
		want              int
	}{
		{"POST", "/Subscription/s1/$resend", "", 200},
		{"POST", "/Subscription/s1/$resend?eventsSinceNumber=1&eventsUntilNumber=2", "", 200},
		{"POST", "/Subscription/s1/$resend", `{"resourceType":"Parameters","parameter":[{"name":"eventsSinceInstant","valueInstant":"2026-01-01T00:00:00Z"}]}`, 200},
		{"POST", "/Subscription/s1/$resend?eventsSinceInstant=yesterday", "", 400},
		{"POST", "/Subscription/s1/$resend?eventsSinceNumber=-1", "", 400},
		{"POST", "/Subscription/s1/$resend?content=empty", "", 400},
		{"POST", "/Subscription/s1/$resend", "[", 400},
		{"POST", "/Subscription/s9/$resend", "", 404},
		{"POST", "/Patient/s1/$resend", "", 404},
	} {
		if resp, b := o.do(c.method, c.url, "ehr", c.body); resp.StatusCode != c.want {
			t.Errorf("%s %s %s: %d %s", c.method, c.url, c.body, resp.StatusCode, b)
		}
	}
	if resp, _ := o.do("POST", "/Subscription/s1/$resend", "other", ""); resp.StatusCode != 404 {
		t.Errorf("by another client: %d", resp.StatusCode)
	}
}
