package server

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/gin-gonic/gin"

	"pulsegate/adapters/pushkey"
	"pulsegate/adapters/vendors"
	"pulsegate/cmd/internal/admin"
	"pulsegate/fhir/access"
	"pulsegate/fhir/search"
	"pulsegate/fhir/store"
	"pulsegate/mapping/ingest"
)

// phone is a server with a patient and an app that sends data with a push key.
type phone struct {
	*services
	t   *testing.T
	srv *httptest.Server
	log *lockedBuffer
	key admin.CreatedPushKey
	ops operations
}

// newPhone starts a server, over TLS or not. change may change its settings.
func newPhone(t *testing.T, encrypted bool, change func(*services)) *phone {
	t.Helper()
	gin.SetMode(gin.TestMode)
	p := &phone{t: t, log: &lockedBuffer{}}
	s, err := open(t, t.TempDir(), p.log)
	if err != nil {
		t.Fatal(err)
	}
	if change != nil {
		change(s)
	}
	p.services, p.ops = s, operations{s}
	h, err := s.handler(&health{store: s.embedded, draining: make(chan struct{})})
	if err != nil {
		t.Fatal(err)
	}
	if p.srv = httptest.NewUnstartedServer(h); encrypted {
		p.srv.StartTLS()
	} else {
		p.srv.Start()
	}
	t.Cleanup(p.srv.Close)
	for _, id := range []string{"ada", "ben"} {
		if _, err := p.ops.AddPatient(t.Context(), operatorOfTest, admin.NewPatient{ID: id, Given: id,
			Family: "Beispiel", TimeZone: "Europe/Berlin"}); err != nil {
			t.Fatal(err)
		}
		if _, err := p.ops.GrantConsent(t.Context(), operatorOfTest, admin.NewConsent{Patient: id, Vendor: "apple",
			Recipient: "any"}); err != nil {
			t.Fatal(err)
		}
	}
	p.key, err = p.ops.CreatePushKey(t.Context(), operatorOfTest, admin.NewPushKey{Patient: "ada", Vendor: "apple",
		Name: "Phone"})
	if err != nil || !p.key.Consented {
		t.Fatalf("%+v, %v", p.key, err)
	}
	return p
}

// haePayload returns the test payload of Health Auto Export.
func haePayload(t *testing.T) string {
	t.Helper()
	b, err := os.ReadFile("../../../adapters/apple/testdata/health-auto-export/all.json")
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// send sends a delivery as the app does: with the settings that the operator was shown,
// and its own headers, which more overrides in pairs.
func (p *phone) send(path, body string, more ...string) (int, string) {
	p.t.Helper()
	set := p.key.Settings[0]
	if path == "" {
		path = strings.TrimPrefix(set.URL, p.base)
	}
	req, err := http.NewRequest(set.Method, p.srv.URL+path, strings.NewReader(body))
	if err != nil {
		p.t.Fatal(err)
	}
	for k, v := range map[string]string{set.Header: set.Value, "Content-Type": "application/json",
		"automation-name": "Clinic\u202e", "automation-id": "A-1", "automation-aggregation": "None",
		"automation-period": "Default", "session-id": "5F0C"} {
		req.Header.Set(k, v)
	}
	for i := 0; i < len(more); i += 2 {
		if req.Header.Set(more[i], more[i+1]); more[i+1] == "" {
			req.Header.Del(more[i])
		}
	}
	resp, err := p.srv.Client().Do(req)
	if err != nil {
		p.t.Fatal(err)
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		p.t.Fatal(err)
	}
	return resp.StatusCode, string(raw)
}

// documents returns the resources of a type, Observations in series included.
func (p *phone) documents(typ string) (out []string) {
	p.t.Helper()
	q, err := search.Parse(typ, nil, search.ParseOptions{Base: p.fhirBase()})
	if err != nil {
		p.t.Fatal(err)
	}
	if err := p.store.Find(p.t.Context(), store.Find{Query: q, Filter: access.All().Filter(access.Search)},
		func(f *store.Found) bool { out = append(out, string(f.Resource.JSON)); return true }); err != nil {
		p.t.Fatal(err)
	}
	return out
}

// TestPushKeyEndToEnd sends a payload of Health Auto Export with a key as the app
// would, twice, and revokes the key.
func TestPushKeyEndToEnd(t *testing.T) {
	p := newPhone(t, true, nil)
	payload := haePayload(t)
	code, body := p.send("", payload)
	var sum ingest.Summary
	if err := json.Unmarshal([]byte(body), &sum); err != nil || code != http.StatusOK || sum.Created < 10 ||
		sum.Repeated {
		t.Fatalf("%d %s", code, body)
	}
	stored := p.documents("Observation")
	if len(stored) < sum.Created/2 {
		t.Errorf("%d Observations of %d created", len(stored), sum.Created)
	}
	for _, o := range stored {
		if !strings.Contains(o, `"reference":"Patient/ada"`) {
			t.Errorf("of another patient: %s", o)
		}
	}
	// The answer was lost: the app sends the part again.
	code, body = p.send("", payload)
	var again ingest.Summary
	if err := json.Unmarshal([]byte(body), &again); err != nil || code != http.StatusOK || !again.Repeated ||
		again.Created != sum.Created || len(p.documents("Observation")) != len(stored) {
		t.Errorf("%d %s", code, body)
	}
	list, err := p.ops.ListPushKeys(t.Context(), operatorOfTest, "ada", "apple")
	if err != nil || len(list.Keys) != 1 || list.Keys[0].Use.Automation != "Clinic" || list.Keys[0].Use.At.IsZero() {
		t.Errorf("%+v, %v", list, err)
	}
	p.checkTrail()
	for path, want := range map[string]int{"/ingest/apple/health-auto-export?patient=ada": 200,
		"/ingest/apple/health-auto-export?patient=ben": 403, "/ingest/oura/oura": 403} {
		if code, body := p.send(path, payload); code != want {
			t.Errorf("%s: %d, want %d: %s", path, code, want, body)
		}
	}
	if _, err := p.ops.WithdrawConsent(t.Context(), operatorOfTest, admin.WithdrawConsent{Patient: "ada",
		Vendor: "apple"}); err != nil {
		t.Fatal(err)
	}
	if code, body := p.send("", payload, "session-id", "6"); code != http.StatusForbidden {
		t.Errorf("without a consent: %d %s", code, body)
	}
	if _, err := p.ops.RevokePushKeys(t.Context(), operatorOfTest,
		admin.RevokePushKeys{ID: p.key.PushKey.ID}); err != nil {
		t.Fatal(err)
	}
	if code, body := p.send("", payload); code != http.StatusUnauthorized || !strings.Contains(body, "revoked") {
		t.Errorf("after the revocation: %d %s", code, body)
	}
	p.checkSecrecy()
}

// checkTrail checks that the AuditEvents of deliveries name the key and the patient as
// agents.
func (p *phone) checkTrail() {
	p.t.Helper()
	found := 0
	for _, e := range p.documents("AuditEvent") {
		if !strings.Contains(e, `"push-key:`) {
			continue
		}
		var event struct {
			Agent []struct {
				Who struct {
					Reference  string
					Identifier struct{ Value string }
				}
				Requestor bool
			}
		}
		if err := json.Unmarshal([]byte(e), &event); err != nil {
			p.t.Fatal(err)
		}
		found++
		last := event.Agent[len(event.Agent)-1]
		if event.Agent[0].Who.Identifier.Value != "push-key:"+p.key.PushKey.ID || last.Who.Reference != "Patient/ada" ||
			!last.Requestor {
			p.t.Errorf("the agents do not name the key and the patient: %s", e)
		}
	}
	if found < 2 {
		p.t.Errorf("%d AuditEvents of deliveries", found)
	}
}

// checkSecrecy checks that the secret is neither in the log, nor in the audit trail,
// nor in the small state of the store.
func (p *phone) checkSecrecy() {
	p.t.Helper()
	secret := p.key.Key[len(pushkey.Prefix)+9:]
	all := p.log.String() + strings.Join(p.documents("AuditEvent"), "") + strings.Join(p.documents("Provenance"), "")
	if err := p.store.List(p.t.Context(), "", func(key string, value []byte) bool {
		all += key + string(value)
		return true
	}); err != nil {
		p.t.Fatal(err)
	}
	if strings.Contains(all, secret) || strings.Contains(all, secret[:20]) {
		p.t.Error("the secret of the key is in the log, the audit trail or the store")
	}
	if !strings.Contains(p.log.String(), "/ingest/:vendor/:format") {
		p.t.Error("control: the log has no line of the deliveries")
	}
}

// parameter matches a parameter of a gin route.
var parameter = regexp.MustCompile(`[:*][^/]+`)

// TestPushKeyReachesIngestOnly sends a key to every route of the server, in both
// headers. Only the delivery may succeed; every other answer must be a refusal, or the
// same as without a credential.
func TestPushKeyReachesIngestOnly(t *testing.T) {
	p := newPhone(t, true, nil)
	if code, body := p.send("", haePayload(t)); code != http.StatusOK {
		t.Fatalf("%d %s", code, body)
	}
	e, err := p.engine(&health{store: p.embedded, draining: make(chan struct{})})
	if err != nil {
		t.Fatal(err)
	}
	ask := func(method, path, header, value string) (int, string) {
		req := httptest.NewRequest(method, "https://localhost:8080"+path, strings.NewReader(`{}`))
		req.TLS = &tls.ConnectionState{}
		if header != "" {
			req.Header.Set(header, value)
		}
		w := httptest.NewRecorder()
		e.ServeHTTP(w, req)
		return w.Code, w.Body.String()
	}
	refusals, others := 0, 0
	for _, route := range e.Routes() {
		if route.Path == "/ingest/:vendor/:format" || route.Method == http.MethodConnect {
			continue
		}
		var paths []string
		switch {
		case strings.HasPrefix(route.Path, "/auth/"):
			paths = []string{"/auth/", "/auth/apps", "/auth/devices", "/auth/signin", "/auth/devices/keys"}
		case strings.Contains(route.Path, ":type"):
			for _, typ := range []string{"Observation", "Patient", "Device", "Consent", "AuditEvent", "Provenance"} {
				paths = append(paths, parameter.ReplaceAllString(strings.Replace(route.Path, ":type", typ, 1), "ada"))
			}
		default:
			paths = []string{parameter.ReplaceAllString(route.Path, "ada")}
		}
		for _, path := range paths {
			without, _ := ask(route.Method, path, "", "")
			for header, value := range map[string]string{"Authorization": "Bearer " + p.key.Key,
				"X-API-Key": p.key.Key} {
				code, body := ask(route.Method, path, header, value)
				switch {
				case code == http.StatusUnauthorized || code == http.StatusForbidden:
					refusals++
				case code == without || code == http.StatusTooManyRequests:
					others++
				default:
					t.Errorf("%s %s with %s: %d, and %d without: %s", route.Method, path, header, code, without, body)
				}
				if strings.Contains(body, "valueQuantity") || strings.Contains(body, `"Patient/ada"`) {
					t.Errorf("%s %s with %s discloses: %s", route.Method, path, header, body)
				}
			}
		}
	}
	if refusals < 100 || others == 0 {
		t.Errorf("%d refusals, %d other answers: are routes missing?", refusals, others)
	}
}

// TestPushKeyNeedsTLS checks on which connections a key is accepted.
func TestPushKeyNeedsTLS(t *testing.T) {
	proxied := func(s *services) { s.config.TrustedProxies = []string{"127.0.0.0/8", "::1/128"} }
	demo := func(s *services) { s.config.Demo = true }
	for name, c := range map[string]struct {
		encrypted bool
		change    func(*services)
		headers   []string
		want      int
	}{
		"plain":                      {false, nil, nil, 403},
		"plain, claims https":        {false, nil, []string{"X-Forwarded-Proto", "https"}, 403},
		"TLS":                        {true, nil, nil, 200},
		"proxy, https":               {false, proxied, []string{"X-Forwarded-Proto", "https"}, 200},
		"proxy, http":                {false, proxied, []string{"X-Forwarded-Proto", "http"}, 403},
		"proxy that names no scheme": {false, proxied, nil, 403}, // the base URL is not https
		"TLS to the proxy only":      {true, proxied, []string{"X-Forwarded-Proto", "http"}, 403},
		"demo":                       {false, demo, nil, 200},
		"demo through a proxy": {false, func(s *services) { demo(s); proxied(s) },
			[]string{"X-Forwarded-For", "192.0.2.1"}, 403},
		"demo with a public base URL": {false, func(s *services) {
			demo(s)
			s.pushKeys.Secure = publicDemo(s).secure
		}, nil, 403},
	} {
		p := newPhone(t, c.encrypted, c.change)
		if code, body := p.send("", haePayload(t), c.headers...); code != c.want {
			t.Errorf("%s: %d, want %d: %s", name, code, c.want, body)
		}
		if c.want == 403 && len(p.documents("Observation")) > 0 {
			t.Errorf("%s: stored", name)
		}
	}
}

// publicDemo returns the environment of a demo that is reached from other machines.
func publicDemo(s *services) environment {
	e := s.environment
	e.base = "http://demo.example.org"
	return e
}

// TestPushKeysOfPages checks what the pages get from the server.
func TestPushKeysOfPages(t *testing.T) {
	p := newPhone(t, true, nil)
	ctx := context.Background()
	all, err := pagePushKeys{p.services}.Vendors(ctx, "ada")
	if err != nil || len(all) != len(vendors.All()) || all[0].Code != "apple" || !all[0].Consented ||
		len(all[0].Apps) != 1 ||
		all[1].Consented {
		t.Errorf("%+v, %v", all, err)
	}
	ev := commandEvent(p.ops.request(operatorOfTest), "test", "")
	if _, err := (pagePushKeys{p.services}).Create(ctx, "ada", "nothing", "", 0, ev); err == nil {
		t.Error("a key for an unknown vendor")
	}
	k, err := pagePushKeys{p.services}.Create(ctx, "ada", "apple", "Tablet", 0, ev)
	if err != nil || !k.Consented || len(k.Settings) < 2 || !strings.Contains(k.Settings[0].Value, k.Key) ||
		k.Vendor != "Apple Health" {
		t.Fatalf("%+v, %v", k, err)
	}
	list, err := pagePushKeys{p.services}.List(ctx, "ada")
	if err != nil || len(list) != 2 || list[0].Operator == list[1].Operator {
		t.Errorf("%+v, %v", list, err)
	}
	if err := (pagePushKeys{p.services}).Revoke(ctx, "ben", k.ID, ev); err == nil {
		t.Error("another patient's key was revoked")
	}
	if err := (pagePushKeys{p.services}).Revoke(ctx, "ada", k.ID, ev); err != nil {
		t.Error(err)
	}
}
