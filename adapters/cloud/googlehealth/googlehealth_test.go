package googlehealth_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"pulsegate/adapters/adaptertest"
	"pulsegate/adapters/cloud"
	"pulsegate/adapters/cloud/cloudtest"
	"pulsegate/adapters/cloud/googlehealth"
	"pulsegate/adapters/fitbit"
)

const (
	token   = "invented-access-token"
	secret  = "Bearer invented-webhook-secret"
	account = "1234567890"
	keyID   = 4_000_000_001
)

var now = time.Date(2026, 3, 11, 8, 0, 0, 0, time.UTC)

// signer holds the key of a simulated vendor.
type signer struct {
	key *ecdsa.PrivateKey
	id  uint32
}

func newSigner(t testing.TB, id uint32) signer {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return signer{k, id}
}

// entry returns the entry of the key in a keyset.
func (s signer) entry(t testing.TB) string {
	t.Helper()
	raw, err := s.key.PublicKey.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	value := append([]byte{0x12, 6, 8, 3, 16, 2, 24, 2, 0x1a, 33, 0}, raw[1:33]...)
	value = append(append(value, 0x22, 33, 0), raw[33:]...)
	return fmt.Sprintf(`{"keyId":%d,"status":"ENABLED","outputPrefixType":"TINK","keyData":{"typeUrl":`+
		`"type.googleapis.com/google.crypto.tink.EcdsaPublicKey","value":%q}}`,
		s.id, base64.StdEncoding.EncodeToString(value))
}

// sign sets the headers of a notification.
func (s signer) sign(n *cloud.Notification) {
	sum := sha256.Sum256(n.Body)
	der, err := ecdsa.SignASN1(rand.Reader, s.key, sum[:])
	if err != nil {
		panic(err)
	}
	raw := binary.BigEndian.AppendUint32([]byte{1}, s.id)
	n.Header.Set("GOOGLE-HEALTH-API-SIGNATURE", base64.StdEncoding.EncodeToString(append(raw, der...)))
	n.Header.Set("Authorization", secret)
}

func keyset(entries ...string) string { return `{"key":[` + strings.Join(entries, ",") + `]}` }

func config(base string) cloud.Config {
	return cloud.Config{
		ClientID: "client", ClientSecret: "secret", APIURL: base, AuthURL: base + "/auth", TokenURL: base + "/token",
		RevokeURL: base + "/revoke", HTTP: http.DefaultClient, Clock: func() time.Time { return now },
		Options: map[string]string{"webhook-secret-file": secret + "\n", "webhook-keys-url": base + "/keys",
			"scopes": "nutrition, logged_symptoms,mindfulness,reproductive_health,profile"},
	}
}

func vendor(t testing.TB, c cloud.Config) cloud.Notifier {
	t.Helper()
	v, err := googlehealth.New(c)
	if err != nil {
		t.Fatal(err)
	}
	return v.(cloud.Notifier)
}

func serve(t testing.TB, h http.HandlerFunc) string {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return s.URL
}

const (
	intervalTypes = "active-energy-burned active-minutes active-zone-minutes activity-level altitude " +
		"basal-energy-burned distance menstrual-period sedentary-period steps swim-lengths-data time-in-heart-rate-zone"
	pointTypes = "blood-glucose body-fat core-body-temperature heart-rate heart-rate-variability height moods " +
		"ovulation-test oxygen-saturation respiratory-rate-sleep-summary run-vo2-max symptoms vo2-max weight"
	dailyTypes = "daily-heart-rate-variability daily-heart-rate-zones daily-oxygen-saturation daily-respiratory-rate " +
		"daily-resting-heart-rate daily-sleep-temperature-derivations daily-vo2-max"
	sessionTypes = "exercise hydration-log irregular-rhythm-notification nutrition-log"
	rollupTypes  = "calories-in-heart-rate-zone floors total-calories"
)

// content returns the times of an item and the pattern of its filter, by the table of
// fitbit-google-health.md 1.2.
func content(typ string) (times, filter string) {
	const instant, date = `"[0-9-]{10}T[0-9:.]+Z"`, `"[0-9]{4}-[0-9]{2}-[0-9]{2}"`
	const span = `"interval":{"startTime":"2026-03-10T10:00:00Z","startUtcOffset":"3600s",` +
		`"endTime":"2026-03-10T10:01:00Z","endUtcOffset":"3600s"}`
	name := strings.ReplaceAll(typ, "-", "_")
	window := func(member, literal string) string {
		return "^" + name + "[.]" + member + " >= " + literal + " AND " + name + "[.]" + member + " < " + literal + "$"
	}
	in := func(list string) bool { return slices.Contains(strings.Fields(list), typ) }
	switch {
	case in(intervalTypes):
		return span, window("interval[.]start_time", instant)
	case in(pointTypes):
		return `"sampleTime":{"physicalTime":"2026-03-10T10:00:00Z","utcOffset":"3600s"}`,
			window("sample_time[.]physical_time", instant)
	case in(dailyTypes):
		return `"date":{"year":2026,"month":3,"day":10}`, window("date", date)
	case in(sessionTypes):
		return span, window("interval[.]civil_start_time", date)
	case typ == "sleep":
		return span, window("interval[.]end_time", instant)
	case typ == "electrocardiogram":
		return span, "^electrocardiogram[.]interval[.]start_time >= " + instant + "$"
	}
	return "", ""
}

// resources are the answers of resources without a window.
var resources = map[string]string{
	"identity":   `{"name":"users/me/identity","legacyUserId":"ABC123","healthUserId":"` + account + `"}`,
	"settings":   `{"name":"users/1/settings","timeZone":"Europe/Berlin","utcOffset":"3600s"}`,
	"profile":    `{"name":"users/1/profile","age":41}`,
	"irnProfile": `{"name":"users/1/irnProfile","onboardingStatus":true}`,
}

// api is a simulated API. Lists have three pages: one with an item, an empty one, and {}.
func api(t testing.TB, keys string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/keys" {
			fmt.Fprint(w, keys)
			return
		}
		if r.Header.Get("Authorization") != "Bearer "+token {
			http.Error(w, `{"error":{"code":401,"status":"UNAUTHENTICATED"}}`, http.StatusUnauthorized)
			return
		}
		path, ok := strings.CutPrefix(r.URL.Path, "/v4/users/me/")
		if body, is := resources[path]; ok && is {
			fmt.Fprint(w, body)
			return
		}
		if path == "pairedDevices" && r.URL.Query().Get("pageSize") == "100" {
			fmt.Fprint(w, `{"pairedDevices":[{"name":"users/1/pairedDevices/2","deviceType":"TRACKER",`+
				`"deviceVersion":"Charge 6","batteryStatus":"High","batteryLevel":80,`+
				`"lastSyncTime":"2026-03-10T12:00:00Z"}]}`)
			return
		}
		typ, op, _ := strings.Cut(strings.TrimPrefix(path, "dataTypes/"), "/")
		switch {
		case op == "dataPoints" && r.Method == http.MethodGet:
			list(t, w, r, typ)
		case op == "dataPoints:dailyRollUp" && r.Method == http.MethodPost:
			rollUp(t, w, r, typ)
		default:
			http.NotFound(w, r)
		}
	})
}

func camel(typ string) string {
	out := ""
	for i, part := range strings.Split(typ, "-") {
		if i > 0 {
			part = strings.ToUpper(part[:1]) + part[1:]
		}
		out += part
	}
	return out
}

func list(t testing.TB, w http.ResponseWriter, r *http.Request, typ string) {
	q := r.URL.Query()
	times, filter := content(typ)
	if filter == "" || !regexp.MustCompile(filter).MatchString(q.Get("filter")) {
		t.Errorf("%s: filter %q", typ, q.Get("filter"))
	}
	size := map[string]string{"sleep": "25", "exercise": "25", "electrocardiogram": "100",
		"irregular-rhythm-notification": "100"}[typ]
	if size == "" {
		size = "10000"
	}
	if q.Get("pageSize") != size {
		t.Errorf("%s: page size %q", typ, q.Get("pageSize"))
	}
	switch q.Get("pageToken") {
	case "":
		fmt.Fprintf(w, `{"dataPoints":[{"dataSource":{},%q:{%s}}],"nextPageToken":"two"}`, camel(typ), times)
	case "two":
		fmt.Fprint(w, `{"nextPageToken":"three"}`)
	case "three":
		fmt.Fprint(w, `{}`)
	}
}

func rollUp(t testing.TB, w http.ResponseWriter, r *http.Request, typ string) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		t.Error(err)
	}
	size := 14
	if typ == "floors" {
		size = 90
	}
	want := `^{"range":{"start":{"date":{"year":2026,"month":3,"day":8}},` +
		`"end":{"date":{"year":2026,"month":3,"day":11}}},` +
		`"windowSizeDays":1,"pageSize":` + fmt.Sprint(size) + `(,"pageToken":"two")?}$`
	if !slices.Contains(strings.Fields(rollupTypes), typ) || !regexp.MustCompile(want).Match(body) {
		t.Errorf("%s: body %s", typ, body)
	}
	if strings.Contains(string(body), "pageToken") {
		fmt.Fprint(w, `{}`)
		return
	}
	fmt.Fprintf(w, `{"rollupDataPoints":[{"civilStartTime":{"date":{"year":2026,"month":3,"day":10},"time":{}},`+
		`"civilEndTime":{"date":{"year":2026,"month":3,"day":11},"time":{}},%q:{}}],"nextPageToken":"two"}`, camel(typ))
}

// message returns the body of a notification with a data type and an interval.
func message(operation, typ, start, end string) []byte {
	return fmt.Appendf(nil, `[{"data":{"version":"1","healthUserId":%q,"operation":%q,"dataType":%q,"intervals":[`+
		`{"physicalTimeInterval":{"startTime":%q,"endTime":%q}}]}}]`, account, operation, typ, start, end)
}

func notification(body []byte) *cloud.Notification {
	return &cloud.Notification{Method: http.MethodPost, Header: http.Header{}, Body: body, Now: now,
		Callback: "https://pulsegate.example/hooks/fitbit"}
}

func TestVendor(t *testing.T) {
	good, wrong := newSigner(t, keyID), newSigner(t, keyID)
	cloudtest.Run(t, cloudtest.Suite{
		New: func(base string) (cloud.Vendor, error) { return googlehealth.New(config(base)) },
		API: api(t, keyset(good.entry(t))), Token: token, Account: []string{account, "ABC123"}, Adapter: fitbit.New(),
		Now: now, From: time.Date(2026, 3, 8, 0, 0, 0, 0, time.UTC), To: time.Date(2026, 3, 11, 0, 0, 0, 0, time.UTC),
		Answers: answers,
		Webhook: &cloudtest.Webhook{
			Genuine: func(time.Time) *cloud.Notification {
				n := notification(message("UPSERT", "steps", "2026-03-10T10:00:00Z", "2026-03-10T10:05:00Z"))
				good.sign(n)
				return n
			},
			Sign:      func(n *cloud.Notification, _ time.Time) { good.sign(n) },
			Forge:     func(n *cloud.Notification, _ time.Time) { wrong.sign(n) },
			Signature: "GOOGLE-HEALTH-API-SIGNATURE",
			Needed:    []string{"GOOGLE-HEALTH-API-SIGNATURE", "Authorization"}, Account: account,
		},
	})
}

// failure returns a google.rpc.Status.
func failure(code int, status, reason string) string {
	return fmt.Sprintf(`{"error":{"code":%d,"message":"words","status":%q,"details":[{"@type":"x"},{"reason":%q}]}}`,
		code, status, reason)
}

// answers are the failures of fitbit-google-health.md 1.5 and 1.6.
var answers = []cloudtest.Answer{
	{Name: "not linked", Status: 400, Body: failure(400, "FAILED_PRECONDITION", "ACCOUNT_NOT_LINKED"),
		Want: cloud.Unlinked, Reason: "ACCOUNT_NOT_LINKED"},
	{Name: "filter", Status: 400, Body: failure(400, "INVALID_ARGUMENT", "INVALID_DATA_POINT_FILTER"),
		Want: cloud.Rejected, Reason: "INVALID_DATA_POINT_FILTER"},
	{Name: "expired", Status: 401, Body: failure(401, "UNAUTHENTICATED", ""), Want: cloud.Unauthorized,
		Reason: "UNAUTHENTICATED"},
	{Name: "scope", Status: 403, Body: failure(403, "PERMISSION_DENIED", "ACCESS_TOKEN_SCOPE_INSUFFICIENT"),
		Want: cloud.Permission, Reason: "ACCESS_TOKEN_SCOPE_INSUFFICIENT"},
	{Name: "project", Status: 403, Body: failure(403, "PERMISSION_DENIED", "SERVICE_DISABLED"),
		Want: cloud.Unavailable, Reason: "SERVICE_DISABLED"},
	{Name: "quota", Status: 429, Body: failure(429, "RESOURCE_EXHAUSTED", "RATE_LIMIT_EXCEEDED"),
		Want: cloud.Throttled, Reason: "RATE_LIMIT_EXCEEDED"},
	{Name: "quota with a time", Status: 429, Body: failure(429, "RESOURCE_EXHAUSTED", ""), Want: cloud.Throttled,
		Reason: "RESOURCE_EXHAUSTED", Header: map[string]string{"Retry-After": "30"}, Wait: 30 * time.Second},
	{Name: "no such point", Status: 404, Body: failure(404, "NOT_FOUND", ""), Want: cloud.NotFound,
		Reason: "NOT_FOUND"},
	{Name: "gone", Status: 410, Body: "<html>", Want: cloud.Gone},
	{Name: "outage", Status: 503, Want: cloud.Unavailable},
}

// TestStreams checks that each readable type of the API is a stream, with its filter.
func TestStreams(t *testing.T) {
	v := vendor(t, config("https://health.example"))
	want := strings.Fields(intervalTypes + " " + pointTypes + " " + dailyTypes + " " + sessionTypes + " " +
		rollupTypes + " sleep electrocardiogram pairedDevices settings profile irnProfile")
	var got []string
	for _, s := range v.Streams() {
		got = append(got, s.Name)
	}
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("streams %q, want %q", got, want)
	}
	plain := config("https://health.example")
	delete(plain.Options, "scopes")
	for _, s := range vendor(t, plain).Streams() {
		if strings.Contains(s.Scope, "reproductive") || strings.Contains(s.Scope, "nutrition") {
			t.Errorf("%s is read although nobody asked for it", s.Name)
		}
	}
}

// TestFilters checks the windows of the kinds.
func TestFilters(t *testing.T) {
	var got url.Values
	v := vendor(t, config(serve(t, func(w http.ResponseWriter, r *http.Request) {
		got = r.URL.Query()
		fmt.Fprint(w, `{}`)
	})))
	c := &cloud.Client{HTTP: http.DefaultClient, Token: token, Clock: func() time.Time { return now }}
	from, to := time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC), time.Date(2026, 3, 8, 0, 0, 0, 0, time.UTC)
	for stream, want := range map[string]string{
		"steps": `steps.interval.start_time >= "2026-03-01T00:00:00Z" AND ` +
			`steps.interval.start_time < "2026-03-08T00:00:00Z"`,
		"heart-rate": `heart_rate.sample_time.physical_time >= "2026-03-01T00:00:00Z" AND ` +
			`heart_rate.sample_time.physical_time < "2026-03-08T00:00:00Z"`,
		"daily-vo2-max": `daily_vo2_max.date >= "2026-03-01" AND daily_vo2_max.date < "2026-03-08"`,
		"exercise": `exercise.interval.civil_start_time >= "2026-02-28" AND ` +
			`exercise.interval.civil_start_time < "2026-03-09"`,
		"sleep": `sleep.interval.end_time >= "2026-03-01T00:00:00Z" AND ` +
			`sleep.interval.end_time < "2026-03-08T00:00:00Z"`,
		"electrocardiogram": `electrocardiogram.interval.start_time >= "2026-03-01T00:00:00Z"`,
	} {
		q := cloud.Query{Stream: cloud.Find(v.Streams(), stream), From: from, To: to, Cursor: "t&2"}
		if _, err := v.Page(t.Context(), c, q); err != nil {
			t.Fatal(err)
		}
		if got.Get("filter") != want || got.Get("pageToken") != "t&2" {
			t.Errorf("%s: %v", stream, got)
		}
	}
	for _, body := range []string{`{"error":{}}`, `{"rollupDataPoints":[]}`, `{"kind":"other"}`} {
		v := vendor(t, config(serve(t, func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, body) })))
		q := cloud.Query{Stream: cloud.Find(v.Streams(), "steps"), From: from, To: to}
		if p, err := v.Page(t.Context(), c, q); err == nil {
			t.Errorf("%s is a page: %+v", body, p)
		}
	}
	q := cloud.Query{Stream: cloud.Find(v.Streams(), "steps"), Object: "1"}
	if _, err := v.Page(t.Context(), c, q); cloud.ProblemOf(err) != cloud.Rejected {
		t.Errorf("an object: %v", err)
	}
}

// TestDiscovery checks types and scopes against Google's discovery document.
func TestDiscovery(t *testing.T) {
	raw, err := os.ReadFile(adaptertest.Fixtures(t, "fitbit/google-health/google-health-v4.discovery.20261030.json"))
	if err != nil {
		t.Fatal(err)
	}
	var doc struct {
		Auth struct {
			OAuth2 struct{ Scopes map[string]any }
		}
		Schemas map[string]struct{ Properties map[string]any }
	}
	if err := json.Unmarshal(raw, &doc); err != nil {
		t.Fatal(err)
	}
	v := vendor(t, config("https://health.example"))
	for _, s := range v.OAuth().Scopes {
		if _, ok := doc.Auth.OAuth2.Scopes[s.Name]; !ok && !strings.HasSuffix(s.Name, ".nutrition.readonly") {
			t.Errorf("scope %s is not documented", s.Name)
		}
	}
	streams := v.Streams()
	for _, s := range streams {
		schema := "DataPoint"
		if slices.Contains(strings.Fields(rollupTypes), s.Name) {
			schema = "RollupDataPoint"
		}
		if _, ok := doc.Schemas[schema].Properties[camel(s.Name)]; !ok && s.Span != cloud.Snapshot {
			t.Errorf("%s is not documented", s.Name)
		}
	}
	// Catalogs have no time, and floors can only be rolled up.
	other := []string{"name", "dataSource", "dataPointName", "food", "foodMeasurementUnit"}
	for name := range doc.Schemas["DataPoint"].Properties {
		read := slices.ContainsFunc(streams, func(s cloud.Stream) bool { return camel(s.Name) == name })
		if read == slices.Contains(other, name) {
			t.Errorf("%s is read: %v", name, read)
		}
	}
}

// TestFacts checks OAuth and the budget.
func TestFacts(t *testing.T) {
	v := vendor(t, cloud.Config{ClientID: "c", ClientSecret: "s"})
	o := v.OAuth()
	if o.AuthURL != "https://accounts.google.com/o/oauth2/v2/auth" ||
		o.TokenURL != "https://oauth2.googleapis.com/token" ||
		o.RevokeURL != "https://oauth2.googleapis.com/revoke" || o.Rotates ||
		o.Params["access_type"] != "offline" || o.Params["prompt"] != "consent" {
		t.Errorf("%+v", o)
	}
	for _, s := range o.Scopes {
		if !strings.HasPrefix(s.Name, "https://www.googleapis.com/auth/googlehealth.") ||
			!strings.HasSuffix(s.Name, ".readonly") || !s.Optional {
			t.Errorf("%+v", s)
		}
	}
	for answer, want := range map[string]time.Duration{
		`{"refresh_token_expires_in":604799}`: 604799 * time.Second, `{}`: 0, `{"refresh_token_expires_in":"7"}`: 0,
		`{"refresh_token_expires_in":-1}`: 0, `{"refresh_token_expires_in":1e300}`: 0,
	} {
		var a map[string]any
		if err := json.Unmarshal([]byte(answer), &a); err != nil {
			t.Fatal(err)
		}
		if got := o.RefreshLife(func(name string) any { return a[name] }); got != want {
			t.Errorf("%s: %v", answer, got)
		}
	}
	if b := v.Budget(); b.Account != (cloud.Rate{Requests: 300, Per: time.Minute}) ||
		b.Application != (cloud.Rate{Requests: 120_000, Per: time.Minute}) {
		t.Errorf("%+v", b)
	}
	c := cloud.Config{ClientID: "c", ClientSecret: "s", Options: map[string]string{"unverified": "true"}}
	if b := vendor(t, c).Budget(); b.Account.Requests != 150 {
		t.Errorf("%+v", b)
	}
	for _, bad := range []map[string]string{
		{"scopes": "everything"}, {"webhook-secret-file": "short"},
		{"webhook-secret-previous-file": "Bearer 0123456789abcdef"}, {"webhook-keys-url": "http://keys.example"},
		{"service-account-file": "{}"},
	} {
		if _, err := googlehealth.New(cloud.Config{ClientID: "c", ClientSecret: "s", Options: bad}); err == nil {
			t.Errorf("%v was accepted", bad)
		}
	}
}
