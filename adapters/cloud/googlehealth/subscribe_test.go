package googlehealth_test

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/lestrrat-go/jwx/v2/jwa"
	"github.com/lestrrat-go/jwx/v2/jwt"

	"pulsegate/adapters/cloud"
	"pulsegate/adapters/cloud/googlehealth"
)

const hook = "https://pulsegate.example/hooks/fitbit"

var rsaKey = sync.OnceValue(func() *rsa.PrivateKey {
	k, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		panic(err)
	}
	return k
})

// accountKey returns the key of a service account as Google hands it out.
func accountKey(t testing.TB, tokenURL string) string {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(rsaKey())
	if err != nil {
		t.Fatal(err)
	}
	b, err := json.Marshal(map[string]string{
		"type": "service_account", "client_email": "robot@project.example", "private_key_id": "key-1",
		"token_uri":   tokenURL,
		"private_key": string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})),
	})
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

type subscriberResource struct {
	Name    string `json:"name"`
	URI     string `json:"endpointUri"`
	State   string `json:"state"`
	Configs []struct {
		DataTypes []string `json:"dataTypes"`
		Policy    string   `json:"subscriptionCreatePolicy"`
	} `json:"subscriberConfigs"`
	Auth struct {
		Secret string `json:"secret,omitempty"`
	} `json:"endpointAuthorization"`
}

// project is a simulated Google Cloud project.
type project struct {
	t        *testing.T
	vendor   cloud.Notifier
	clk      clock
	all      []subscriberResource
	requests []string
	grants   int
	polls    int    // polls until an operation is done
	left     int    // polls left of the operation
	lost     bool   // operations are unknown
	refuse   string // reason for which operations fail
	token    string // access token
}

func (p *project) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path == "/sa-token" {
		p.grant(w, r)
		return
	}
	if r.Header.Get("Authorization") != "Bearer "+p.token || p.token == "" {
		http.Error(w, `{"error":{"status":"UNAUTHENTICATED"}}`, http.StatusUnauthorized)
		return
	}
	p.requests = append(p.requests, r.Method+" "+strings.TrimPrefix(r.URL.Path, "/v4/"))
	path := strings.TrimPrefix(r.URL.Path, "/v4/projects/123456/subscribers")
	at := slices.IndexFunc(p.all, func(s subscriberResource) bool {
		return strings.HasSuffix(s.Name, path) && path != ""
	})
	switch {
	case strings.HasPrefix(r.URL.Path, "/v4/projects/123456/operations/"):
		if p.lost {
			http.Error(w, `{"error":{"status":"NOT_FOUND"}}`, http.StatusNotFound)
			return
		}
		p.left--
		p.answer(w)
	case r.Method == http.MethodGet && path == "":
		if r.URL.Query().Get("pageToken") == "" && len(p.all) > 0 {
			fmt.Fprint(w, `{"nextPageToken":"two"}`)
			return
		}
		_ = json.NewEncoder(w).Encode(map[string]any{"subscribers": p.all}) // the client may have gone
	case r.Method == http.MethodPost && path == "":
		id := r.URL.Query().Get("subscriberId")
		p.change(w, r, &subscriberResource{Name: "projects/my-project/subscribers/" + id})
	case r.Method == http.MethodPatch && at >= 0:
		if r.URL.Query().Get("updateMask") != "endpoint_uri,subscriber_configs,endpoint_authorization" {
			p.t.Errorf("mask %q", r.URL.Query().Get("updateMask"))
		}
		p.change(w, r, &p.all[at])
	default:
		http.NotFound(w, r)
	}
}

// grant answers a JWT bearer grant.
func (p *project) grant(w http.ResponseWriter, r *http.Request) {
	p.grants++
	if r.FormValue("grant_type") != "urn:ietf:params:oauth:grant-type:jwt-bearer" {
		p.t.Errorf("grant type %q", r.FormValue("grant_type"))
	}
	a, err := jwt.ParseString(r.FormValue("assertion"), jwt.WithKey(jwa.RS256, rsaKey().Public()),
		jwt.WithValidate(true), jwt.WithClock(jwt.ClockFunc(p.clk.now)), jwt.WithIssuer("robot@project.example"),
		jwt.WithAudience("http://"+r.Host+"/sa-token"),
		jwt.WithClaimValue("scope", "https://www.googleapis.com/auth/cloud-platform"))
	parts := strings.Split(r.FormValue("assertion"), ".")
	claims, decodeErr := base64.RawURLEncoding.DecodeString(parts[min(1, len(parts)-1)])
	if decodeErr != nil || !strings.Contains(string(claims), `"aud":"http`) {
		p.t.Errorf("the audience is not a string: %s", claims)
	}
	if err != nil || a.Expiration().Sub(a.IssuedAt()) > time.Hour {
		p.t.Errorf("assertion: %v", err)
	}
	p.token = fmt.Sprintf("service-token-%d", p.grants)
	fmt.Fprintf(w, `{"access_token":%q,"expires_in":3600,"token_type":"Bearer"}`, p.token)
}

// change changes a subscriber if its endpoint passes the verification.
func (p *project) change(w http.ResponseWriter, r *http.Request, s *subscriberResource) {
	var in subscriberResource
	if err := json.NewDecoder(r.Body).Decode(&in); err != nil {
		p.t.Error(err)
	}
	for _, auth := range []string{in.Auth.Secret, ""} {
		n := notification([]byte(`{"type":"verification"}`))
		want := 401
		if auth != "" {
			n.Header.Set("Authorization", auth)
			want = 201
		}
		if got, _ := p.vendor.Receive(p.t.Context(), n); got.Status != want { // the status decides
			p.t.Errorf("verification: status %d, want %d", got.Status, want)
		}
	}
	if p.refuse == "" {
		in.Name, in.State = s.Name, "ACTIVE"
		known := s.URI != ""
		*s = in
		s.Auth.Secret = "" // Google does not tell it
		if !known {
			p.all = append(p.all, in)
		}
	}
	p.left = p.polls
	p.answer(w)
}

// answer states the operation.
func (p *project) answer(w http.ResponseWriter) {
	switch {
	case p.left > 0:
		fmt.Fprint(w, `{"name":"projects/123456/operations/op-1"}`)
	case p.refuse != "":
		fmt.Fprintf(w, `{"name":"projects/123456/operations/op-1","done":true,"error":{"code":9,"message":"m",`+
			`"details":[{"reason":%q}]}}`, p.refuse)
	default:
		fmt.Fprint(w, `{"name":"projects/123456/operations/op-1","done":true,"response":{}}`)
	}
}

// newProject returns a project and a function that calls Subscribe.
func newProject(t *testing.T) (*project, func() (time.Duration, error)) {
	p := &project{t: t}
	p.clk.nanos.Store(now.UnixNano())
	c := config(serve(t, p.ServeHTTP))
	c.Clock = p.clk.now
	c.Options["service-account-file"] = accountKey(t, c.APIURL+"/sa-token")
	c.Options["project-number"] = "123456"
	p.vendor = vendor(t, c)
	return p, func() (time.Duration, error) {
		p.requests = nil
		next, err := p.vendor.Subscribe(t.Context(), hook)
		return next.Sub(p.clk.now()), err
	}
}

// did checks the requests and the result of one call of Subscribe.
func (p *project) did(subscribe func() (time.Duration, error), next time.Duration, requests ...string) {
	p.t.Helper()
	got, err := subscribe()
	var short []string
	for _, r := range p.requests {
		short = append(short, strings.ReplaceAll(r, "projects/123456/", ""))
	}
	if err != nil || got != next || !slices.Equal(short, requests) {
		p.t.Errorf("requests %q, next %v, %v; want %q, %v", short, got, err, requests, next)
	}
}

const (
	daily = 24 * time.Hour
	soon  = 10 * time.Second

	list2 = "GET subscribers"
	patch = "PATCH subscribers/pulsegate"
)

// TestSubscribe creates a subscriber, waits for the operation, and then leaves it alone.
func TestSubscribe(t *testing.T) {
	p, subscribe := newProject(t)
	p.polls = 2
	p.did(subscribe, soon, list2, "POST subscribers")
	p.did(subscribe, soon, "GET operations/op-1")
	p.did(subscribe, daily, "GET operations/op-1", list2, list2)
	p.did(subscribe, daily, list2, list2)
	if p.grants != 1 {
		t.Errorf("%d grants", p.grants)
	}
	s := p.all[0]
	if s.URI != hook || len(s.Configs) != 1 || s.Configs[0].Policy != "AUTOMATIC" {
		t.Errorf("%+v", s)
	}
	want := strings.Fields("active-zone-minutes activity-level altitude blood-glucose body-fat " +
		"calories-in-heart-rate-zone daily-heart-rate-variability daily-heart-rate-zones " +
		"daily-oxygen-saturation daily-respiratory-rate " +
		"daily-resting-heart-rate daily-sleep-temperature-derivations distance exercise floors heart-rate " +
		"heart-rate-variability height hydration-log nutrition-log respiratory-rate-sleep-summary run-vo2-max " +
		"sedentary-period sleep steps time-in-heart-rate-zone total-calories weight")
	if !slices.Equal(s.Configs[0].DataTypes, want) {
		t.Errorf("types %q", s.Configs[0].DataTypes)
	}
	p.clk.add(2 * time.Hour)
	p.did(subscribe, daily, list2, list2)
	if p.grants != 2 {
		t.Errorf("%d grants after the token has expired", p.grants)
	}
}

// TestSubscriberChanges checks that a subscriber that differs is changed, once.
func TestSubscriberChanges(t *testing.T) {
	for name, change := range map[string]func(*subscriberResource){
		"URL":    func(s *subscriberResource) { s.URI = "https://old.example" },
		"types":  func(s *subscriberResource) { s.Configs[0].DataTypes = s.Configs[0].DataTypes[1:] },
		"policy": func(s *subscriberResource) { s.Configs[0].Policy = "MANUAL" },
		"state":  func(s *subscriberResource) { s.State = "INACTIVE" },
		"none":   func(s *subscriberResource) { s.Configs = nil },
	} {
		t.Run(name, func(t *testing.T) {
			p, subscribe := newProject(t)
			p.did(subscribe, daily, list2, "POST subscribers")
			change(&p.all[0])
			p.did(subscribe, daily, list2, list2, patch)
			p.did(subscribe, daily, list2, list2)
		})
	}
	t.Run("restart", func(t *testing.T) { // the secret may have changed meanwhile
		p, subscribe := newProject(t)
		p.did(subscribe, daily, list2, "POST subscribers")
		q, again := newProject(t)
		q.all = p.all
		q.did(again, daily, list2, list2, patch)
		q.did(again, daily, list2, list2)
	})
}

// TestSubscribeFailures checks failed operations, unknown operations and lost tokens.
func TestSubscribeFailures(t *testing.T) {
	p, subscribe := newProject(t)
	p.refuse, p.polls = "ENDPOINT_VERIFICATION_FAILED", 1
	p.did(subscribe, soon, list2, "POST subscribers")
	next, err := subscribe()
	if cloud.ProblemOf(err) != cloud.Rejected || !strings.Contains(err.Error(), p.refuse) || next != time.Hour {
		t.Errorf("next %v, %v", next, err)
	}
	p.refuse = ""
	p.did(subscribe, soon, list2, "POST subscribers")
	p.lost = true
	p.did(subscribe, daily, "GET operations/op-1", list2, list2)
	p.token = "replaced"
	if next, err := subscribe(); cloud.ProblemOf(err) != cloud.Unauthorized || next != time.Hour {
		t.Errorf("next %v, %v", next, err)
	}
	p.did(subscribe, daily, list2, list2)

	c := config("https://health.example")
	if next, err := vendor(t, c).Subscribe(t.Context(), hook); err != nil || !next.Equal(now.Add(daily)) {
		t.Errorf("without a service account: %v, %v", next, err)
	}
	delete(c.Options, "webhook-secret-file")
	if _, err := vendor(t, c).Subscribe(t.Context(), hook); cloud.ProblemOf(err) != cloud.Rejected {
		t.Errorf("without a secret: %v", err)
	}
}

// TestHostileProject checks that answers that are not documented are errors without a
// quotation.
func TestHostileProject(t *testing.T) {
	for name, h := range map[string]func(w http.ResponseWriter, r *http.Request){
		"token": func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, `{"access_token":"canary"}`) },
		"token error": func(w http.ResponseWriter, _ *http.Request) {
			http.Error(w, `{"error":"invalid_grant","error_description":"canary"}`, http.StatusBadRequest)
		},
		"operation": func(w http.ResponseWriter, r *http.Request) {
			switch {
			case r.URL.Path == "/sa-token":
				fmt.Fprint(w, `{"access_token":"a","expires_in":3600,"token_type":"Bearer"}`)
			case r.Method == http.MethodGet:
				fmt.Fprint(w, `{}`)
			default:
				fmt.Fprint(w, `{"name":"../../canary"}`)
			}
		},
		"endless list": func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/sa-token" {
				fmt.Fprint(w, `{"access_token":"a","expires_in":3600,"token_type":"Bearer"}`)
				return
			}
			fmt.Fprint(w, `{"nextPageToken":"canary"}`)
		},
	} {
		c := config(serve(t, h))
		c.Options["service-account-file"] = accountKey(t, c.APIURL+"/sa-token")
		c.Options["project-number"] = "123456"
		_, err := vendor(t, c).Subscribe(t.Context(), hook)
		if err == nil || strings.Contains(err.Error(), "canary") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestSubscriberOptions checks that wrong options are refused, without quoting keys.
func TestSubscriberOptions(t *testing.T) {
	good := func() map[string]string {
		return map[string]string{"webhook-secret-file": secret, "project-number": "123456",
			"service-account-file": accountKey(t, "https://token.example")}
	}
	for name, change := range map[string]func(map[string]string){
		"project id":    func(o map[string]string) { o["project-number"] = "my-project" },
		"no project":    func(o map[string]string) { delete(o, "project-number") },
		"subscriber id": func(o map[string]string) { o["subscriber-id"] = "A" },
		"no secret":     func(o map[string]string) { delete(o, "webhook-secret-file") },
		"no JSON":       func(o map[string]string) { o["service-account-file"] = "canary" },
		"no PEM": func(o map[string]string) {
			o["service-account-file"] = `{"type":"service_account","client_email":"a","private_key":"canary"}`
		},
		"plain HTTP": func(o map[string]string) {
			o["service-account-file"] = strings.Replace(o["service-account-file"], "https:", "http:", 1)
		},
	} {
		o := good()
		change(o)
		_, err := googlehealth.New(cloud.Config{ClientID: "c", ClientSecret: "s", Options: o})
		if err == nil || strings.Contains(err.Error(), "canary") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := googlehealth.New(cloud.Config{ClientID: "c", ClientSecret: "s", Options: good()}); err != nil {
		t.Error(err)
	}
}
