package oura_test

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	decoder "pulsegate/adapters/oura"

	"pulsegate/adapters/adaptertest"
	"pulsegate/adapters/cloud"
	"pulsegate/adapters/cloud/cloudtest"
	"pulsegate/adapters/cloud/oura"
)

const (
	secret  = "invented-client-secret"
	token   = "invented-access-token"
	account = "user-0001"
	hook    = "https://pulsegate.example/hooks/oura"
)

var now = time.Date(2026, 7, 13, 8, 0, 0, 0, time.UTC)

// config returns a configuration with all URLs below base.
func config(base string) cloud.Config {
	return cloud.Config{
		ClientID: "client", ClientSecret: secret, APIURL: base, AuthURL: base + "/authorize", TokenURL: base + "/token",
		RevokeURL: base + "/revoke", HTTP: http.DefaultClient, Clock: func() time.Time { return now },
	}
}

func vendor(t testing.TB, c cloud.Config) cloud.Notifier {
	t.Helper()
	v, err := oura.New(c)
	if err != nil {
		t.Fatal(err)
	}
	return v.(cloud.Notifier)
}

const hour = `"start_datetime":"2026-07-12T10:00:00+02:00","end_datetime":"2026-07-12T11:00:00+02:00"`

// documents has one invented document of each type.
var documents = map[string]string{
	"sleep": `"bedtime_start":"2026-07-12T23:00:00+02:00","bedtime_end":"2026-07-13T06:30:00+02:00",` +
		`"total_sleep_duration":24000,"time_in_bed":27000,"type":"long_sleep"`,
	"heartrate":          `"timestamp":"2026-07-12T10:00:00.000Z","bpm":61,"source":"awake"`,
	"daily_activity":     `"equivalent_walking_distance":4100,"steps":5000,"timestamp":"2026-07-12T04:00:00+02:00"`,
	"daily_readiness":    `"score":80,"contributors":{"recovery_index":70}`,
	"daily_sleep":        `"score":81,"contributors":{"restfulness":77}`,
	"daily_spo2":         `"spo2_percentage":{"average":97.1}`,
	"daily_stress":       `"stress_high":600,"recovery_high":0,"day_summary":"normal"`,
	"daily_resilience":   `"level":"solid","contributors":{"sleep_recovery":50.5}`,
	"workout":            `"activity":"rowing",` + hour,
	"session":            `"type":"rest",` + hour,
	"vO2_max":            `"vo2_max":41`,
	"tag":                `"text":"","timestamp":"2026-07-12T10:00:00+02:00","tags":["tag_generic_coffee"]`,
	"enhanced_tag":       `"tag_type_code":"t","start_time":"2026-07-12T10:00:00+02:00","start_day":"2026-07-12"`,
	"rest_mode_period":   `"start_day":"2026-07-12","episodes":[]`,
	"sleep_time":         `"optimal_bedtime":{"day_tz":7200,"start_offset":-3600,"end_offset":0}`,
	"ring_configuration": `"hardware_type":"gen4","set_up_at":"1970-01-01T00:00:00+00:00"`,
	"ring_battery_level": `"timestamp":"2026-07-12T10:00:00.000Z","level":61`,
	"personal_info":      `"age":41,"weight":71.5,"height":1.8,"biological_sex":"female"`,

	"daily_cardiovascular_age": `"vascular_age":39`,
}

// api is a simulated API. It has two pages of each list, and answers 422 if a page is
// asked for with other parameters than the first.
func api() http.Handler {
	fail := func(w http.ResponseWriter, status int, body string) {
		w.WriteHeader(status)
		fmt.Fprint(w, body)
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		typ, id, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/v2/usercollection/"), "/")
		doc, ok := documents[typ]
		switch {
		case !ok:
			fail(w, 404, `{"detail":"Not Found"}`)
			return
		case r.Header.Get("Authorization") != "Bearer "+token:
			fail(w, 401, ``)
			return
		case typ == "personal_info":
			fmt.Fprintf(w, `{"id":%q,%s}`, account, doc)
			return
		case id == "gone":
			fail(w, 404, `{"detail":"Document not found."}`)
			return
		case id != "":
			fmt.Fprintf(w, `{"id":%q,"day":"2026-07-12",%s}`, id, doc)
			return
		}
		q := r.URL.Query()
		next := q.Get("next_token")
		q.Del("next_token")
		item := fmt.Sprintf(`{"id":"doc%s","day":"2026-07-12",%s}`, next, doc)
		switch {
		case next == "":
			fmt.Fprintf(w, `{"data":[%s],"next_token":%q}`, item, q.Encode()+"#2")
		case next == q.Encode()+"#2" && typ == "heartrate": // the key may be missing
			fmt.Fprintf(w, `{"data":[%s]}`, item)
		case next == q.Encode()+"#2":
			fmt.Fprintf(w, `{"data":[],"next_token":null}`)
		default:
			fail(w, 422, `{"detail":[{"type":"value_error","loc":["query","next_token"],"msg":"","input":""}]}`)
		}
	})
}

func sign(key, stamp string, body []byte) string {
	m := hmac.New(sha256.New, []byte(key))
	m.Write([]byte(stamp))
	m.Write(body)
	return strings.ToUpper(hex.EncodeToString(m.Sum(nil)))
}

func signWith(key string) func(*cloud.Notification, time.Time) {
	return func(n *cloud.Notification, at time.Time) {
		stamp := strconv.FormatInt(at.Unix(), 10)
		n.Header.Set("x-oura-timestamp", stamp)
		n.Header.Set("x-oura-signature", sign(key, stamp, n.Body))
	}
}

// message returns a signed notification.
func message(operation, dataType string, at time.Time) *cloud.Notification {
	n := &cloud.Notification{
		Method: http.MethodPost, Path: operation + "/" + dataType, Header: http.Header{}, Now: at, Callback: hook,
		Body: fmt.Appendf(nil, `{"event_type":%q,"data_type":%q,"object_id":"12345abc",`+
			`"event_time":"2026-07-13T08:00:00+00:00","user_id":%q}`, operation, dataType, account),
	}
	signWith(secret)(n, at)
	return n
}

func TestVendor(t *testing.T) {
	for _, provider := range []string{"moi", "legacy"} {
		answers := answers
		if provider == "legacy" { // TestAssumedScope has the rest
			answers = slices.DeleteFunc(slices.Clone(answers), func(a cloudtest.Answer) bool {
				return a.Reason == "forbidden"
			})
		}
		t.Run(provider, func(t *testing.T) {
			cloudtest.Run(t, cloudtest.Suite{
				New: func(base string) (cloud.Vendor, error) {
					c := config(base)
					c.Options = map[string]string{"identity-provider": provider}
					return oura.New(c)
				},
				API: api(), Token: token, Account: []string{account}, Adapter: decoder.New(),
				Now: now, From: now.AddDate(0, 0, -3), To: now, Answers: answers,
				Webhook: &cloudtest.Webhook{
					Genuine:   func(at time.Time) *cloud.Notification { return message("update", "sleep", at) },
					Sign:      signWith(secret),
					Forge:     signWith("another"),
					Signature: "x-oura-signature", Needed: []string{"x-oura-signature", "x-oura-timestamp"},
					MaxAge: 2 * time.Hour, Account: account,
				},
			})
		})
	}
}

// answers are the failures of oura-and-peers.md A5.
var answers = []cloudtest.Answer{
	{Name: "no token", Status: 400, Body: `{"detail":"Token is missing"}`, Want: cloud.Rejected},
	{Name: "expired", Status: 401, Want: cloud.Unauthorized},
	{Name: "forbidden", Status: 403, Body: `{"detail":"Forbidden"}`, Want: cloud.Membership, Reason: "forbidden"},
	{Name: "no body", Status: 403, Want: cloud.Membership, Reason: "forbidden"},
	{Name: "scope", Status: 403, Body: `{"detail":"The token lacks the required Scope."}`, Want: cloud.Permission,
		Reason: "scope"},
	{Name: "membership", Status: 403, Body: `{"detail":"The user's Oura Membership has expired."}`,
		Want: cloud.Membership, Reason: "membership"},
	{Name: "deleted", Status: 404, Body: `{"detail":"Document not found."}`, Want: cloud.NotFound},
	{Name: "bad parameter", Status: 422, Want: cloud.Rejected, Reason: "date_parsing",
		Body: `{"detail":[{"type":"date_parsing","loc":["query","start_date"],"msg":"m","input":"i"}]}`},
	{Name: "throttled", Status: 429, Want: cloud.Throttled, Wait: 17 * time.Second,
		Header: map[string]string{"Retry-After": "17", "X-RateLimit-Reset": stamp(time.Minute)}},
	{Name: "throttled until", Status: 429, Want: cloud.Throttled, Wait: time.Minute,
		Header: map[string]string{"X-RateLimit-Reset": stamp(time.Minute), "X-RateLimit-Tier": "token"}},
	{Name: "throttled without a time", Status: 429, Want: cloud.Throttled,
		Header: map[string]string{"X-RateLimit-Reset": "soon"}},
	{Name: "outage", Status: 503, Header: map[string]string{"Retry-After": "60"}, Want: cloud.Unavailable,
		Wait: time.Minute},
}

func stamp(after time.Duration) string { return strconv.FormatInt(now.Add(after).Unix(), 10) }

// TestProviders checks the endpoints and the scopes of both identity providers, and that
// the configuration overrides URLs.
func TestProviders(t *testing.T) {
	for name, want := range map[string][3]string{
		"": {"https://moi.ouraring.com/oauth/v2/ext/oauth-authorize",
			"https://moi.ouraring.com/oauth/v2/ext/oauth-token", "https://moi.ouraring.com/oauth/v2/ext/oauth-revoke"},
		"legacy": {"https://cloud.ouraring.com/oauth/authorize", "https://api.ouraring.com/oauth/token",
			"https://api.ouraring.com/oauth/revoke"},
	} {
		v := vendor(t, cloud.Config{ClientID: "c", ClientSecret: "s",
			Options: map[string]string{"identity-provider": name}})
		o := v.OAuth()
		if got := [3]string{o.AuthURL, o.TokenURL, o.RevokeURL}; got != want {
			t.Errorf("%q: %q", name, got)
		}
		if !o.Rotates || !o.FormSecret {
			t.Errorf("%q: refresh tokens rotate, and the secret is in the form", name)
		}
		prefixed := 0
		for _, s := range o.Scopes {
			if strings.HasPrefix(s.Name, "extapi:") {
				prefixed++
			}
			if strings.Contains(s.Name, "email") {
				t.Error("the e-mail address is asked for")
			}
		}
		if legacy := name == "legacy"; legacy && prefixed != 0 || !legacy && prefixed != len(o.Scopes) {
			t.Errorf("%q: scopes %+v", name, o.Scopes)
		}
		got := o.Granted([]string{"extapi:daily", "heartrate", "spo2Daily", "email"})
		if len(got) != 3 || !slices.ContainsFunc(got, func(s string) bool { return strings.HasSuffix(s, "spo2") }) {
			t.Errorf("%q: granted %q", name, got)
		}
	}
	o := vendor(t, config("https://oura.example")).OAuth()
	if o.AuthURL != "https://oura.example/authorize" || o.TokenURL != "https://oura.example/token" ||
		o.RevokeURL != "https://oura.example/revoke" {
		t.Errorf("%+v", o)
	}
	for _, bad := range []cloud.Config{
		{ClientID: "c"}, {ClientSecret: "s"},
		{ClientID: "c", ClientSecret: "s", Options: map[string]string{"identity-provider": "both"}},
		{ClientID: "c", ClientSecret: "s", TokenURL: "http://oura.example/token"},
		{ClientID: "c", ClientSecret: "s", APIURL: "oura.example"},
	} {
		if _, err := oura.New(bad); err == nil || strings.Contains(err.Error(), "oura.example") {
			t.Errorf("%+v: %v", bad, err)
		}
	}
}

// TestAssumedScope checks that a plain refusal of a stream for which the legacy provider
// documents no scope does not stop the others: it is no sign of a lapsed membership.
func TestAssumedScope(t *testing.T) {
	base := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		http.Error(w, `{"detail":"Forbidden"}`, http.StatusForbidden)
	})
	for provider, want := range map[string]map[string]cloud.Problem{
		"legacy": {"vO2_max": cloud.Permission, "ring_configuration": cloud.Permission, "sleep": cloud.Membership},
		"moi":    {"vO2_max": cloud.Membership, "sleep": cloud.Membership},
	} {
		cfg := config(base)
		cfg.Options = map[string]string{"identity-provider": provider}
		v := vendor(t, cfg)
		for name, problem := range want {
			_, err := v.Page(t.Context(), &cloud.Client{HTTP: http.DefaultClient, Token: "t", Clock: time.Now},
				cloud.Query{Stream: cloud.Find(v.Streams(), name), From: time.Unix(0, 0), To: time.Unix(86400, 0)})
			if got := cloud.ProblemOf(err); got != problem {
				t.Errorf("%s: %s: %v, want %v", provider, name, got, problem)
			}
		}
	}
}

// TestRevoke checks the request of the legacy provider.
func TestRevoke(t *testing.T) {
	c := cloud.Config{ClientID: "c", ClientSecret: "s", Options: map[string]string{"identity-provider": "legacy"}}
	rq, err := vendor(t, c).OAuth().Revoke(t.Context(), "a&b", "r")
	if err != nil || rq.Method != http.MethodPost ||
		rq.URL.String() != "https://api.ouraring.com/oauth/revoke?access_token=a%26b" {
		t.Errorf("%+v, %v", rq, err)
	}
}

// TestDateWindows checks the parameters of reads.
func TestDateWindows(t *testing.T) {
	var got url.Values
	var path string
	base := serve(t, func(w http.ResponseWriter, r *http.Request) {
		got, path = r.URL.Query(), r.URL.Path
		fmt.Fprint(w, `{"data":[],"next_token":null}`)
	})
	v := vendor(t, config(base))
	c := &cloud.Client{HTTP: http.DefaultClient, Token: token, Clock: func() time.Time { return now }}
	from, to := time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC), time.Date(2026, 3, 8, 0, 0, 0, 0, time.UTC)
	for _, w := range []struct{ stream, path, query string }{
		{"daily_activity", "daily_activity", "end_date=2026-03-10&start_date=2026-02-27"},
		{"vO2_max", "vO2_max", "end_date=2026-03-10&start_date=2026-02-27"},
		{"heartrate", "heartrate", "end_datetime=2026-03-08T00:01:00Z&start_datetime=2026-02-28T23:59:00Z"},
		{"ring_configuration", "ring_configuration", ""},
	} {
		q := cloud.Query{Stream: cloud.Find(v.Streams(), w.stream), From: from, To: to, Cursor: "t&2"}
		if _, err := v.Page(t.Context(), c, q); err != nil {
			t.Fatal(err)
		}
		if got.Get("next_token") != "t&2" {
			t.Errorf("%s: cursor %q", w.stream, got.Get("next_token"))
		}
		got.Del("next_token")
		want, _ := url.ParseQuery(w.query)
		if got.Encode() != want.Encode() || path != "/v2/usercollection/"+w.path {
			t.Errorf("%s: %s?%s", w.stream, path, got.Encode())
		}
	}
}

// TestOpenAPI checks routes, parameters and types of webhooks against Oura's OpenAPI
// description. Version 1.29 does not know meals yet.
func TestOpenAPI(t *testing.T) {
	raw, err := os.ReadFile(adaptertest.Fixtures(t, "oura/openapi/openapi-1.29.json"))
	if err != nil {
		t.Fatal(err)
	}
	type operation struct{ Parameters []struct{ Name string } }
	var api struct {
		Paths      map[string]map[string]operation
		Components struct {
			Schemas map[string]struct{ Enum []string }
		}
	}
	if err := json.Unmarshal(raw, &api); err != nil {
		t.Fatal(err)
	}
	var path string
	var query url.Values
	v := vendor(t, config(serve(t, func(w http.ResponseWriter, r *http.Request) {
		path, query = r.URL.Path, r.URL.Query()
		fmt.Fprint(w, `{"data":[],"id":"x"}`)
	})))
	c := &cloud.Client{HTTP: http.DefaultClient, Token: token, Clock: func() time.Time { return now }}
	for _, s := range v.Streams() {
		q := cloud.Query{Stream: &s, From: now.AddDate(0, 0, -1), To: now, Cursor: "c"}
		if s.Name == "personal_info" {
			q.Cursor = ""
		}
		if _, err := v.Page(t.Context(), c, q); err != nil {
			t.Fatal(err)
		}
		get, ok := api.Paths[path]["get"]
		for name := range query {
			ok = ok && slices.ContainsFunc(get.Parameters, func(p struct{ Name string }) bool { return p.Name == name })
		}
		if !ok {
			t.Errorf("%s?%s is not documented", path, query.Encode())
		}
		if _, ok := api.Paths[path+"/{document_id}"]; ok != s.Notified {
			t.Errorf("%s: documents by id: %v", s.Name, ok)
		}
	}
	for _, typ := range api.Components.Schemas["ExtApiV2DataType"].Enum {
		events, err := v.Events(message("update", typ, now).Body)
		if err != nil {
			t.Error(err)
		}
		if _, read := documents[strings.Replace(typ, "vo2", "vO2", 1)]; read != (len(events) == 1) {
			t.Errorf("%s: events %+v", typ, events)
		}
	}
}

// TestObject reads single documents.
func TestObject(t *testing.T) {
	base := serve(t, api().ServeHTTP)
	v := vendor(t, config(base))
	c := &cloud.Client{HTTP: http.DefaultClient, Token: token, Clock: func() time.Time { return now }}
	read := func(stream, id string) (cloud.Page, error) {
		return v.Page(t.Context(), c, cloud.Query{Stream: cloud.Find(v.Streams(), stream), Object: id})
	}
	for _, st := range v.Streams() {
		p, err := read(st.Name, "abc-1")
		if !st.Notified {
			if cloud.ProblemOf(err) != cloud.Rejected {
				t.Errorf("%s: %v", st.Name, err)
			}
			continue
		}
		if err != nil || p.Items != 1 || p.Next != "" {
			t.Fatalf("%s: %+v, %v", st.Name, p, err)
		}
		rec := adaptertest.NewRecorder()
		in := adaptersInput(st.Format, p.Body)
		if err := decoder.New().Decode(t.Context(), in, rec); err != nil {
			t.Errorf("%s: %v", st.Name, err)
		}
	}
	if _, err := read("sleep", "gone"); cloud.ProblemOf(err) != cloud.NotFound {
		t.Errorf("a deleted document: %v", err)
	}
	for _, id := range []string{"..", ".", "a/b", "a?b", "a%2fb", strings.Repeat("a", 65)} {
		if _, err := read("sleep", id); cloud.ProblemOf(err) != cloud.Rejected {
			t.Errorf("%q: %v", id, err)
		}
	}
}

// TestRemaining reads the headers of the limit.
func TestRemaining(t *testing.T) {
	b := vendor(t, config("https://oura.example")).Budget()
	if b.Application != (cloud.Rate{Requests: 5000, Per: 5 * time.Minute}) {
		t.Errorf("%+v", b)
	}
	for _, c := range []struct {
		header map[string]string
		left   int
		ok     bool
	}{
		{map[string]string{"X-RateLimit-Reset": stamp(time.Minute), "X-RateLimit-Remaining": "12"}, 12, true},
		{map[string]string{"X-RateLimit-Reset": stamp(time.Minute), "Retry-After": "60"}, 0, true},
		{map[string]string{"X-RateLimit-Reset": stamp(time.Minute)}, 0, false},
		{map[string]string{"X-RateLimit-Reset": stamp(-time.Minute), "Retry-After": "60"}, 0, false},
		{map[string]string{"X-RateLimit-Reset": "99999999999999999", "Retry-After": "60"}, 0, false},
		{map[string]string{"Retry-After": "60"}, 0, false},
	} {
		h := http.Header{}
		for k, v := range c.header {
			h.Set(k, v)
		}
		left, reset, ok := b.Remaining(h, now)
		if left != c.left || ok != c.ok || ok && !reset.Equal(now.Add(time.Minute)) {
			t.Errorf("%v: %d, %v, %v", c.header, left, reset, ok)
		}
	}
}

// TestVectors checks signature vectors: our own, and those of the fixtures.
func TestVectors(t *testing.T) {
	t.Run("own", func(t *testing.T) { vectors(t, "testdata/signatures.json") })
	t.Run("fixtures", func(t *testing.T) {
		vectors(t, adaptertest.Fixtures(t, "oura/derived/webhook-signature-vectors.json"))
	})
}

func vectors(t *testing.T, file string) {
	raw, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var all struct {
		Cases []struct {
			Name, Note string
			Secret     string            `json:"client_secret"`
			Headers    map[string]string `json:"headers"`
			Body       string            `json:"raw_body"`
			Valid      bool
		}
	}
	if err := json.Unmarshal(raw, &all); err != nil || len(all.Cases) == 0 {
		t.Fatalf("%d cases, %v", len(all.Cases), err)
	}
	for _, c := range all.Cases {
		var m struct {
			Event string `json:"event_type"`
			Type  string `json:"data_type"`
		}
		_ = json.Unmarshal([]byte(c.Body), &m) // a vector may have no JSON
		n := &cloud.Notification{Method: http.MethodPost, Path: m.Event + "/" + m.Type, Header: http.Header{},
			Body: []byte(c.Body), Now: time.Unix(1783929600, 0), Callback: hook}
		for k, v := range c.Headers {
			n.Header.Set(k, v)
		}
		cfg := config("https://oura.example")
		cfg.ClientSecret = c.Secret
		r, err := vendor(t, cfg).Receive(t.Context(), n)
		if (err == nil) != c.Valid || r.Store != c.Valid {
			t.Errorf("%s: status %d, %v; valid is %v", c.Name, r.Status, err, c.Valid)
		}
	}
}

func FuzzEvents(f *testing.F) {
	cloudtest.FuzzEvents(f, vendor(f, config("https://oura.example")),
		string(message("update", "sleep", now).Body), string(message("delete", "vo2_max", now).Body))
}
