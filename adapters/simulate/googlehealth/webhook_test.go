package googlehealth_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"pulsegate/adapters/adaptertest"
	"pulsegate/adapters/simulate"
	"pulsegate/adapters/simulate/googlehealth"
)

const secret = "Bearer endpoint-secret"

// endpoint is a webhook endpoint. It verifies every notification.
type endpoint struct {
	*httptest.Server
	t      *testing.T
	keyset func() []byte

	mu       sync.Mutex
	secret   string
	status   int // answer to notifications
	verified int // answer to the verification with authorization
	requests int // notifications received
	entries  []entry
	forms    map[byte]int // first bytes of bodies
}

// entry is a notification.
type entry struct {
	Data struct {
		Version      string `json:"version"`
		Subscription string `json:"clientProvidedSubscriptionName"`
		User         string `json:"healthUserId"`
		Operation    string `json:"operation"`
		DataType     string `json:"dataType"`
		Intervals    []struct {
			Physical struct {
				Start time.Time `json:"startTime"`
				End   time.Time `json:"endTime"`
			} `json:"physicalTimeInterval"`
			Civil    map[string]any    `json:"civilDateTimeInterval"`
			CivilISO map[string]string `json:"civilIso8601TimeInterval"`
		} `json:"intervals"`
	} `json:"data"`
}

func newEndpoint(t *testing.T, c *cloud) *endpoint {
	e := &endpoint{t: t, secret: secret, status: http.StatusNoContent, verified: http.StatusCreated,
		forms: map[byte]int{},
		keyset: func() []byte {
			return c.do(http.MethodGet, "/googlehealthapi/webhooks/webhooks_public_keyset.json", "", nil).raw
		}}
	e.Server = httptest.NewTLSServer(e)
	t.Cleanup(e.Close)
	return e
}

// ServeHTTP implements http.Handler.
func (e *endpoint) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	raw, err := io.ReadAll(r.Body)
	if err != nil {
		e.t.Error(err)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if !strings.HasPrefix(r.UserAgent(), "Google-Health-API-Webhooks") ||
		r.Header.Get("Content-Type") != "application/json" {
		e.t.Errorf("headers %v", r.Header)
	}
	if r.Header.Get("Authorization") != e.secret {
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	if bytes.Equal(raw, []byte(`{"type": "verification"}`)) {
		w.WriteHeader(e.verified)
		return
	}
	e.requests++
	if err := verify(e.keyset(), r.Header.Get("GOOGLE-HEALTH-API-SIGNATURE"), raw); err != nil {
		e.t.Errorf("signature: %v", err)
	}
	if e.status == http.StatusNoContent {
		e.forms[raw[0]]++
		entries, err := parse(raw)
		if err != nil {
			e.t.Errorf("%v in %s", err, raw)
		}
		e.entries = append(e.entries, entries...)
	}
	w.WriteHeader(e.status)
}

// take returns the notifications received since the last call.
func (e *endpoint) take() []entry {
	e.mu.Lock()
	defer e.mu.Unlock()
	out := e.entries
	e.entries = nil
	return out
}

func (e *endpoint) answer(status int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.status = status
}

// parse reads a notification in either form. Unknown members are errors.
func parse(raw []byte) ([]entry, error) {
	if raw[0] != '[' {
		raw = slices.Concat([]byte{'['}, raw, []byte{']'})
	}
	var out []entry
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.DisallowUnknownFields()
	return out, dec.Decode(&out)
}

// verify checks a Tink signature with the keys of a keyset.
func verify(keyset []byte, header string, body []byte) error {
	sig, err := base64.StdEncoding.DecodeString(header)
	if err != nil || len(sig) < 6 || sig[0] != 1 {
		return fmt.Errorf("%q is not a Tink signature", header)
	}
	var set struct {
		Key []struct {
			KeyID            uint32 `json:"keyId"`
			Status           string `json:"status"`
			OutputPrefixType string `json:"outputPrefixType"`
			KeyData          struct {
				TypeURL string `json:"typeUrl"`
				Value   []byte `json:"value"`
			} `json:"keyData"`
		} `json:"key"`
	}
	if err := json.Unmarshal(keyset, &set); err != nil {
		return err
	}
	for _, k := range set.Key {
		if k.KeyID != binary.BigEndian.Uint32(sig[1:5]) || k.Status != "ENABLED" || k.OutputPrefixType != "TINK" ||
			k.KeyData.TypeURL != "type.googleapis.com/google.crypto.tink.EcdsaPublicKey" {
			continue
		}
		v := k.KeyData.Value // 8 bytes of parameters; tag, length and 33 bytes for x and y
		if len(v) != 78 || v[8] != 0x1a || v[43] != 0x22 {
			return errors.New("the public key has an unknown form")
		}
		public, err := ecdsa.ParseUncompressedPublicKey(elliptic.P256(), slices.Concat([]byte{4}, v[11:43], v[46:78]))
		if err != nil || v[10] != 0 || v[45] != 0 {
			return errors.New("the public key has no point of the curve")
		}
		sum := sha256.Sum256(body)
		if !ecdsa.VerifyASN1(public, sum[:], sig[5:]) {
			return errors.New("the signature is wrong")
		}
		return nil
	}
	return errors.New("no key has the id of the signature")
}

// TestVerifyOnVectors checks the verification of this test on vectors from elsewhere.
func TestVerifyOnVectors(t *testing.T) {
	dir := adaptertest.Fixtures(t, "fitbit/webhook")
	read := func(name string) []byte {
		b, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	var file struct {
		Vectors []struct {
			Signature string `json:"GOOGLE-HEALTH-API-SIGNATURE"`
			BodyFile  string `json:"bodyFile"`
			Valid     bool   `json:"valid"`
		} `json:"vectors"`
	}
	if err := json.Unmarshal(read("google_signature_vectors.json"), &file); err != nil || len(file.Vectors) == 0 {
		t.Fatalf("%d vectors, %v", len(file.Vectors), err)
	}
	for _, v := range file.Vectors {
		body := read(v.BodyFile)
		if err := verify(read("google_test_keyset.json"), v.Signature, body); (err == nil) != v.Valid {
			t.Errorf("%s: %v", v.BodyFile, err)
		}
		if _, err := parse(bytes.TrimSpace(body)); err != nil {
			t.Errorf("%s: %v", v.BodyFile, err)
		}
		if err := verify(read("google_test_keyset.json"), v.Signature, append(body, ' ')); err == nil {
			t.Errorf("%s: a changed body is accepted", v.BodyFile)
		}
	}
}

// hooked is a cloud with an endpoint and a token of a service account.
type hooked struct {
	*cloud
	endpoint *endpoint
	sign     func(map[string]any) string
	account  googlehealth.ServiceAccount
}

func newHooked(t *testing.T, wearers int) *hooked {
	t.Helper()
	account, sign := serviceAccount(t)
	h := &hooked{account: account, sign: sign}
	tls := &http.Client{Transport: roundTripper(func(r *http.Request) (*http.Response, error) {
		return h.endpoint.Client().Transport.RoundTrip(r)
	})}
	h.cloud = newCloud(t, googlehealth.Options{Wearers: wearers, HTTP: tls, Every: 20 * time.Minute,
		ServiceAccounts: []googlehealth.ServiceAccount{account}})
	h.endpoint = newEndpoint(t, h.cloud)
	return h
}

type roundTripper func(*http.Request) (*http.Response, error)

// RoundTrip implements http.RoundTripper.
func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// admin calls the API of subscribers.
func (h *hooked) admin(method, path string, body any) *answer {
	h.Helper()
	token := h.form("/token", assertion(h.sign(h.claims(h.account)))).json(h.T)["access_token"].(string)
	return h.do(method, "/v4/projects/"+project+"/subscribers"+path, token, body)
}

// hookTypes lists the types with webhooks.
var hookTypes = []string{"active-zone-minutes", "activity-level", "altitude", "blood-glucose", "body-fat",
	"calories-in-heart-rate-zone", "daily-heart-rate-variability", "daily-heart-rate-zones", "daily-oxygen-saturation",
	"daily-respiratory-rate", "daily-resting-heart-rate", "daily-sleep-temperature-derivations", "distance", "exercise",
	"floors", "heart-rate", "heart-rate-variability", "height", "hydration-log", "nutrition-log",
	"respiratory-rate-sleep-summary", "run-vo2-max", "sedentary-period", "sleep", "steps", "time-in-heart-rate-zone",
	"total-calories", "weight"}

func (h *hooked) payload(policy string, types ...string) map[string]any {
	return map[string]any{"endpointUri": h.endpoint.URL + "/hook",
		"endpointAuthorization": map[string]any{"secret": secret},
		"subscriberConfigs":     []any{map[string]any{"dataTypes": types, "subscriptionCreatePolicy": policy}}}
}

// subscribe creates the subscriber "sub-1".
func (h *hooked) subscribe(policy string, types ...string) {
	h.Helper()
	a := h.admin(http.MethodPost, "?subscriberId=sub-1", h.payload(policy, types...))
	if a.code != http.StatusOK || a.json(h.T)["done"] != true {
		h.Fatalf("create: %d, %s", a.code, a.raw)
	}
}

func (h *hooked) deliver() {
	h.Helper()
	if _, err := h.Deliver(context.Background()); err != nil {
		h.Fatal(err)
	}
}

func TestVerificationHandshake(t *testing.T) {
	h := newHooked(t, 1)
	for name, tt := range map[string]struct {
		change func(map[string]any)
		status int
		code   int
	}{
		"204":  {func(map[string]any) {}, http.StatusNoContent, 400},
		"404":  {func(map[string]any) {}, http.StatusNotFound, 400},
		"201":  {func(map[string]any) {}, http.StatusCreated, 200},
		"200":  {func(map[string]any) {}, http.StatusOK, 200},
		"http": {func(m map[string]any) { m["endpointUri"] = "http://pulsegate.example/hook" }, 201, 400},
		"no scheme": {func(m map[string]any) { m["endpointAuthorization"] = map[string]any{"secret": "x"} },
			201, 400},
		"another secret": {func(m map[string]any) {
			m["endpointAuthorization"] = map[string]any{"secret": "Bearer x"}
		}, 201, 400},
		"no webhook": {func(m map[string]any) {
			m["subscriberConfigs"] = []any{map[string]any{"dataTypes": []string{"electrocardiogram"},
				"subscriptionCreatePolicy": "AUTOMATIC"}}
		}, 201, 400},
	} {
		h.endpoint.verified = tt.status
		m := h.payload("AUTOMATIC", "steps")
		tt.change(m)
		if a := h.admin(http.MethodPost, "", m); a.code != tt.code {
			t.Errorf("%s: %d, %s", name, a.code, a.raw)
		}
	}
	// An endpoint that accepts everybody fails, too.
	open := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(201) }))
	defer open.Close()
	m := h.payload("AUTOMATIC", "steps")
	m["endpointUri"] = open.URL
	if a := h.admin(http.MethodPost, "", m); a.code != http.StatusBadRequest {
		t.Errorf("an open endpoint: %d", a.code)
	}
	if list := h.admin(http.MethodGet, "", nil).json(t); list["totalSize"] != 2.0 {
		t.Errorf("subscribers: %v", list)
	}
	token := h.form("/token", assertion(h.sign(h.claims(h.account)))).json(t)["access_token"].(string)
	if a := h.do(http.MethodGet, "/v4/projects/my-project/subscribers", token, nil); a.code != http.StatusBadRequest {
		t.Errorf("a project id instead of the number: %d", a.code)
	}
}

func TestSubscriberLifecycle(t *testing.T) {
	h := newHooked(t, 2)
	h.subscribe("MANUAL", "steps", "sleep")
	if a := h.admin(http.MethodPost, "?subscriberId=sub-1",
		h.payload("MANUAL", "steps")); a.code != http.StatusConflict {
		t.Errorf("created twice: %d", a.code)
	}
	account := h.Accounts()[0]
	user := map[string]any{"user": "users/" + account, "dataTypes": []string{"steps"}}
	if a := h.admin(http.MethodPost, "/sub-1/subscriptions", user); a.code != http.StatusBadRequest {
		t.Errorf("without consent: %d", a.code)
	}
	h.link(account)
	h.link(h.Accounts()[1])
	a := h.admin(http.MethodPost, "/sub-1/subscriptions?subscriptionId=first", user)
	if a.code != http.StatusOK || a.json(t)["user"] != "users/"+account {
		t.Fatalf("subscription: %d, %s", a.code, a.raw)
	}
	user["dataTypes"] = []string{"weight"}
	if a := h.admin(http.MethodPatch, "/sub-1/subscriptions/first", user); a.code != http.StatusBadRequest {
		t.Errorf("a type that the subscriber lacks: %d", a.code)
	}
	for filter, want := range map[string]int{"": 1,
		`user = "users/` + account + `" AND (data_type = "sleep" OR data_type = "steps")`: 1,
		`user = "users/7"`: 0} {
		list := h.admin(http.MethodGet, "/sub-1/subscriptions?filter="+
			strings.ReplaceAll(strings.ReplaceAll(filter, " ", "%20"), `"`, "%22"), nil).json(t)
		if got, _ := list["subscriptions"].([]any); len(got) != want {
			t.Errorf("filter %q: %v", filter, list)
		}
	}
	h.clock.Add(24 * time.Hour)
	h.deliver()
	for _, e := range h.endpoint.take() {
		if e.Data.User != account || e.Data.DataType != "steps" || e.Data.Subscription != "first" {
			t.Errorf("not subscribed: %+v", e.Data)
		}
	}
	next := "Bearer rotated"
	patch := map[string]any{"endpointAuthorization": map[string]any{"secret": next}}
	if a := h.admin(http.MethodPatch, "/sub-1?updateMask=endpointAuthorization",
		patch); a.code != http.StatusBadRequest {
		t.Errorf("a secret that the endpoint refuses: %d", a.code)
	}
	h.endpoint.mu.Lock()
	h.endpoint.secret = next
	h.endpoint.mu.Unlock()
	if a := h.admin(http.MethodPatch, "/sub-1?updateMask=endpointAuthorization", patch); a.code != http.StatusOK {
		t.Errorf("patch: %d, %s", a.code, a.raw)
	}
	h.clock.Add(24 * time.Hour)
	h.deliver()
	if len(h.endpoint.take()) == 0 {
		t.Error("no notification with the new secret")
	}
	if a := h.admin(http.MethodDelete, "/sub-1", nil); a.code != http.StatusBadRequest {
		t.Errorf("delete with subscriptions: %d", a.code)
	}
	if a := h.admin(http.MethodDelete, "/sub-1?force=true", nil); a.code != http.StatusOK {
		t.Errorf("delete: %d, %s", a.code, a.raw)
	}
	h.clock.Add(24 * time.Hour)
	h.deliver()
	if got := h.endpoint.take(); len(got) > 0 {
		t.Errorf("%d notifications after the deletion", len(got))
	}
}

// TestNotificationsCoverEveryChange compares the truth before and after each step of the
// clock: every point that appeared, changed or disappeared lies in an interval that a
// notification named. Keys are rotated on the way, and both forms of bodies occur.
func TestNotificationsCoverEveryChange(t *testing.T) {
	h := newHooked(t, 4)
	account := h.Accounts()[3] // Australia/Sydney or the like: far from UTC
	h.link(account)
	h.subscribe("AUTOMATIC", hookTypes...)
	types := []string{"sleep", "exercise", "weight", "daily-resting-heart-rate", "daily-respiratory-rate",
		"hydration-log",
		"heart-rate-variability", "active-zone-minutes", "respiratory-rate-sleep-summary", "sedentary-period"}
	hold := func() map[string]googlehealth.Record {
		out := map[string]googlehealth.Record{}
		for _, r := range h.Truth(account, types...) {
			out[r.Type+" "+r.Key] = r
		}
		return out
	}
	before, changes := hold(), 0
	for step := range 22 {
		h.clock.Add(5 * time.Hour)
		if step%7 == 6 {
			h.RotateKey()
		}
		if step == 10 {
			if err := h.DeleteDay(account, "heart-rate-variability", simulate.DayOf(h.Now())-2); err != nil {
				t.Fatal(err)
			}
		}
		h.deliver()
		entries, after := h.endpoint.take(), hold()
		covered := func(r googlehealth.Record, operation string) {
			changes++
			if !slices.ContainsFunc(entries, func(e entry) bool {
				p := e.Data.Intervals[0].Physical
				return e.Data.DataType == r.Type && e.Data.User == account && e.Data.Operation == operation &&
					!r.Time.Before(p.Start) && r.Time.Before(p.End)
			}) {
				t.Errorf("step %d: no %s of %s %s", step, operation, r.Type, r.Key)
			}
		}
		for key, r := range after {
			if !bytes.Equal(before[key].JSON, r.JSON) {
				covered(r, "UPSERT")
			}
		}
		for key, r := range before {
			if after[key].JSON == nil {
				covered(r, "DELETE")
			}
		}
		before = after
	}
	if changes < 300 || h.endpoint.forms['['] == 0 || h.endpoint.forms['{'] == 0 {
		t.Errorf("%d changes, bodies %v", changes, h.endpoint.forms)
	}
}

// TestRetries checks that everything but 204 is retried until seven days have passed.
func TestRetries(t *testing.T) {
	h := newHooked(t, 1)
	h.link(h.Accounts()[0])
	h.subscribe("AUTOMATIC", "steps")
	h.endpoint.answer(http.StatusOK)
	at, ok := h.Next()
	if !ok {
		t.Fatal("no notification is expected")
	}
	h.clock.Set(at)
	h.deliver()
	if h.endpoint.requests != 1 {
		t.Fatalf("%d requests", h.endpoint.requests)
	}
	h.clock.Add(59 * time.Second)
	h.deliver()
	if h.endpoint.requests != 1 {
		t.Error("retried before a minute")
	}
	h.clock.Add(time.Second)
	h.deliver()
	if h.endpoint.requests != 2 {
		t.Error("not retried after a minute")
	}
	h.endpoint.answer(http.StatusNoContent)
	h.clock.Add(2 * time.Minute)
	h.deliver()
	if got := h.endpoint.take(); len(got) != 1 {
		t.Errorf("%d notifications accepted", len(got))
	}
	h.endpoint.answer(http.StatusInternalServerError)
	limit := h.Now().Add(9 * 24 * time.Hour)
	for h.Now().Before(limit) {
		h.clock.Add(6 * time.Hour)
		h.deliver()
	}
	if stats := h.Stats(); stats.Dropped == 0 || stats.Accepted != 1 || stats.Queued == 0 {
		t.Errorf("%+v", stats)
	}
}

// TestRevocationIsNotified checks that a withdrawn consent deletes everything, and that
// nothing follows.
func TestRevocationIsNotified(t *testing.T) {
	h := newHooked(t, 2)
	first, second := h.Accounts()[0], h.Accounts()[1]
	h.link(first, scope("sleep"))
	h.link(second)
	h.subscribe("AUTOMATIC", "sleep", "steps")
	h.RevokeGrant(first)
	h.deliver()
	got := h.endpoint.take()
	if len(got) != 1 || got[0].Data.Operation != "DELETE" || got[0].Data.DataType != "sleep" ||
		got[0].Data.User != first {
		t.Errorf("%+v", got)
	}
	h.clock.Add(48 * time.Hour)
	h.deliver()
	if rest := h.endpoint.take(); len(rest) == 0 ||
		slices.ContainsFunc(rest, func(e entry) bool { return e.Data.User != second }) {
		t.Errorf("%d notifications", len(rest))
	}
}

// TestWebhookFaults checks that events can be lost and doubled.
func TestWebhookFaults(t *testing.T) {
	counts := map[simulate.Fault]int{}
	for _, f := range []simulate.Fault{"", simulate.Duplicate, simulate.LostEvent, simulate.Reorder} {
		h := newHooked(t, 1)
		h.link(h.Accounts()[0])
		h.subscribe("AUTOMATIC", "steps")
		h.Faults().SetRates(map[simulate.Fault]float64{f: 1})
		at, _ := h.Next()
		h.clock.Set(at)
		h.deliver()
		counts[f] = len(h.endpoint.take())
		h.clock.Add(21 * time.Minute)
		h.deliver()
		counts[f] += 10 * len(h.endpoint.take())
	}
	if counts[""] != 1 || counts[simulate.Duplicate] != 11 || counts[simulate.LostEvent] != 0 ||
		counts[simulate.Reorder] != 10 {
		t.Errorf("%v", counts)
	}
}

// TestRun checks that Run delivers while the clock advances and ends with its context.
func TestRun(t *testing.T) {
	h := newHooked(t, 1)
	h.link(h.Accounts()[0])
	h.subscribe("AUTOMATIC", "steps")
	h.clock.Add(24 * time.Hour)
	ctx, cancel := context.WithCancel(context.Background())
	h.endpoint.mu.Lock()
	wrapped := h.endpoint.Config.Handler
	h.endpoint.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		wrapped.ServeHTTP(w, r)
		cancel()
	})
	h.endpoint.mu.Unlock()
	if err := h.Server.Run(ctx); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if len(h.endpoint.take()) == 0 {
		t.Error("nothing was delivered")
	}
}

// TestKeyRotation checks that the key is rotated every 30 days, and that the keyset keeps
// the key before for notifications under way.
func TestKeyRotation(t *testing.T) {
	h := newHooked(t, 1)
	ids := func() (primary float64, all int) {
		set := h.do(http.MethodGet, "/googlehealthapi/webhooks/webhooks_public_keyset.json", "", nil).json(t)
		return set["primaryKeyId"].(float64), len(set["key"].([]any))
	}
	first, _ := ids()
	h.clock.Add(29 * 24 * time.Hour)
	h.deliver()
	if same, n := ids(); same != first || n != 1 {
		t.Errorf("after 29 days: %v, %d keys", same, n)
	}
	for range 2 {
		h.clock.Add(30 * 24 * time.Hour)
		h.deliver()
		if next, n := ids(); next == first || n != 2 {
			t.Errorf("after 30 days more: %v, %d keys", next, n)
		}
	}
}

// TestConsentIsNotBackfilled checks that nothing from before a repeated consent is
// notified.
func TestConsentIsNotBackfilled(t *testing.T) {
	h := newHooked(t, 1)
	account := h.Accounts()[0]
	h.link(account)
	h.subscribe("AUTOMATIC", "steps")
	h.RevokeGrant(account)
	h.deliver()
	h.endpoint.take()
	h.clock.Add(72 * time.Hour)
	h.link(account)
	h.deliver()
	if got := h.endpoint.take(); len(got) > 0 {
		t.Errorf("%d notifications from before the consent", len(got))
	}
}

// TestConcurrentUse reads, delivers, links, deletes and moves the clock at the same time,
// for the race detector.
func TestConcurrentUse(t *testing.T) {
	h := newHooked(t, 4)
	for _, account := range h.Accounts() {
		h.link(account)
	}
	h.subscribe("AUTOMATIC", "sleep", "steps")
	token := h.access(h.Accounts()[0])
	var wg sync.WaitGroup
	for _, work := range []func(int){
		func(int) { h.clock.Add(time.Minute) },
		func(int) { h.deliver() },
		func(i int) { // only the consent, because its code may be revoked at any time
			v := request(scope("sleep"))
			v.Set("account", h.Accounts()[1+i%3])
			v.Set("decision", "allow")
			h.decide(v)
		},
		func(i int) { h.RevokeGrant(h.Accounts()[1+i%3]) },
		func(i int) {
			if err := h.DeleteDay(h.Accounts()[1], "steps", simulate.DayOf(start)+simulate.Day(i)); err != nil {
				t.Error(err)
			}
		},
		func(int) { h.do(http.MethodGet, points("steps")+"?pageSize=20", token, nil) },
		func(i int) {
			h.Next()
			h.Stats()
			h.Truth(h.Accounts()[2], "sleep")
			if i == 5 { // once, because a set of keys holds the former key, but not the one before
				h.RotateKey()
			}
		},
	} {
		wg.Go(func() {
			for i := range 10 {
				work(i)
			}
		})
	}
	wg.Wait()
}
