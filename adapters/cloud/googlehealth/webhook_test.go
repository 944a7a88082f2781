package googlehealth_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"pulsegate/adapters/adaptertest"
	"pulsegate/adapters/cloud/cloudtest"
)

// TestVerification checks the two requests by which Google verifies an endpoint.
func TestVerification(t *testing.T) {
	v := vendor(t, config("https://health.example"))
	for value, want := range map[string]int{
		secret: 201, "": 401, "Bearer": 401, "Bearer other": 401, strings.TrimPrefix(secret, "Bearer "): 401,
		secret + " ": 401,
	} {
		n := notification([]byte(`{"type":"verification"}`))
		if value != "" {
			n.Header.Set("Authorization", value)
		}
		r, err := v.Receive(t.Context(), n)
		if r.Status != want || r.Store || (err == nil) != (want == 201) {
			t.Errorf("%q: %+v, %v", value, r, err)
		}
	}
	c := config("https://health.example")
	delete(c.Options, "webhook-secret-file")
	n := notification([]byte(`{"type":"verification"}`))
	if r, err := vendor(t, c).Receive(t.Context(), n); r.Status != 401 || err == nil {
		t.Errorf("without a secret: %+v, %v", r, err)
	}
}

// TestSecrets checks that the present and the previous secret are accepted, and both
// names of the header of the signature.
func TestSecrets(t *testing.T) {
	s := newSigner(t, keyID)
	c := config(serve(t, func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, keyset(s.entry(t))) }))
	c.Options["webhook-secret-file"] = "the-next-secret-0123456789"
	c.Options["webhook-secret-previous-file"] = secret
	v := vendor(t, c)
	for value, ok := range map[string]bool{"Bearer the-next-secret-0123456789": true, secret: true,
		"Bearer an-older-secret": false, "the-next-secret-0123456789": false} {
		n := notification(message("UPSERT", "steps", "2026-03-10T10:00:00Z", "2026-03-10T10:05:00Z"))
		s.sign(n)
		n.Header.Set("Authorization", value)
		n.Header.Set("X-HEALTHAPI-SIGNATURE", n.Header.Get("GOOGLE-HEALTH-API-SIGNATURE"))
		n.Header.Del("GOOGLE-HEALTH-API-SIGNATURE")
		r, err := v.Receive(t.Context(), n)
		if (err == nil) != ok || r.Store != ok || ok && r.Status != 204 {
			t.Errorf("%q: %+v, %v", value, r, err)
		}
	}
}

// clock is a clock that tests set.
type clock struct{ nanos atomic.Int64 }

func (c *clock) now() time.Time      { return time.Unix(0, c.nanos.Load()) }
func (c *clock) add(d time.Duration) { c.nanos.Add(int64(d)) }

// TestKeys checks that keys are fetched once, again for an unknown id but at most once a
// minute, and again daily; and that known keys survive an outage.
func TestKeys(t *testing.T) {
	first, second := newSigner(t, 1), newSigner(t, 2)
	var mu sync.Mutex
	fetched, answer := 0, ""
	set := func(s string) {
		mu.Lock()
		defer mu.Unlock()
		answer = s
	}
	count := func() int {
		mu.Lock()
		defer mu.Unlock()
		return fetched
	}
	c := config(serve(t, func(w http.ResponseWriter, _ *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		fetched++
		if answer == "" {
			w.WriteHeader(500)
		}
		fmt.Fprint(w, answer)
	}))
	clk := &clock{}
	clk.nanos.Store(now.UnixNano())
	c.Clock = clk.now
	v := vendor(t, c)
	receive := func(s signer) int {
		n := notification(message("UPSERT", "steps", "2026-03-10T10:00:00Z", "2026-03-10T10:05:00Z"))
		s.sign(n)
		r, err := v.Receive(t.Context(), n)
		if (err == nil) != (r.Status == 204) {
			t.Errorf("%+v, %v", r, err)
		}
		return r.Status
	}
	check := func(what string, s signer, status, fetches int) {
		t.Helper()
		if got, n := receive(s), count(); got != status || n != fetches {
			t.Errorf("%s: status %d after %d fetches, want %d after %d", what, got, n, status, fetches)
		}
	}
	check("outage at the start", first, 503, 1)
	check("within a minute", first, 503, 1)
	clk.add(time.Minute)
	set(keyset(first.entry(t)))
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			if got := receive(first); got != 204 {
				t.Errorf("at once: status %d", got)
			}
		})
	}
	all.Wait()
	check("cached", first, 204, 2)
	check("unknown key within a minute", second, 401, 2)
	clk.add(time.Minute)
	check("unknown key", second, 401, 3)
	set(keyset(first.entry(t), second.entry(t)))
	check("new key within a minute", second, 401, 3)
	clk.add(time.Minute)
	check("new key", second, 204, 4)
	clk.add(24 * time.Hour)
	set("")
	check("outage after a day", first, 204, 5)
	set(keyset(second.entry(t)))
	check("within a minute of the outage", first, 204, 5)
	clk.add(time.Minute)
	check("withdrawn key", first, 401, 6)
	for _, bad := range []string{"{}", "[]", keyset(),
		strings.Replace(keyset(first.entry(t)), "ENABLED", "DISABLED", 1),
		strings.Replace(keyset(first.entry(t)), "TINK", "RAW", 1)} {
		clk.add(24 * time.Hour)
		set(bad)
		if got := receive(first); got != 503 && got != 401 {
			t.Errorf("%s: status %d", bad, got)
		}
	}
}

// TestVectors checks signature vectors: our own, and those of the fixtures.
func TestVectors(t *testing.T) {
	read := func(t *testing.T, file string, into any) []byte {
		t.Helper()
		raw, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if into != nil {
			if err := json.Unmarshal(raw, into); err != nil {
				t.Fatal(err)
			}
		}
		return raw
	}
	check := func(t *testing.T, keys []byte, name, signature string, body []byte, valid bool) {
		t.Helper()
		v := vendor(t, config(serve(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(keys) })))
		n := notification(body)
		n.Header.Set("Authorization", secret)
		n.Header.Set("GOOGLE-HEALTH-API-SIGNATURE", signature)
		r, err := v.Receive(t.Context(), n)
		if (err == nil) != valid || r.Store != valid || !valid && r.Status != 401 {
			t.Errorf("%s: %+v, %v; valid is %v", name, r, err, valid)
		}
	}
	t.Run("own", func(t *testing.T) {
		var all struct {
			Cases []struct {
				Name, Signature, Body string
				Valid                 bool
			}
		}
		read(t, "testdata/signatures.json", &all)
		keys := read(t, "testdata/keyset.json", nil)
		for _, c := range all.Cases {
			check(t, keys, c.Name, c.Signature, []byte(c.Body), c.Valid)
		}
	})
	t.Run("fixtures", func(t *testing.T) {
		dir := adaptertest.Fixtures(t, "fitbit/webhook")
		var all struct {
			Vectors []struct {
				Signature string `json:"GOOGLE-HEALTH-API-SIGNATURE"`
				BodyFile  string
				Valid     bool
			}
		}
		read(t, filepath.Join(dir, "google_signature_vectors.json"), &all)
		keys := read(t, filepath.Join(dir, "google_test_keyset.json"), nil)
		if len(all.Vectors) == 0 {
			t.Error("no vectors")
		}
		for _, c := range all.Vectors {
			body := read(t, filepath.Join(dir, c.BodyFile), nil)
			check(t, keys, c.BodyFile, c.Signature, body, c.Valid)
			check(t, keys, c.BodyFile+" without its last byte", c.Signature, body[:len(body)-1], false)
		}
	})
}

// TestEvents checks the windows of events.
func TestEvents(t *testing.T) {
	v := vendor(t, config("https://health.example"))
	at := func(s string) time.Time {
		t.Helper()
		out, err := time.Parse(time.RFC3339, s)
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	civil := func(operation, typ, start, end string) string {
		return fmt.Sprintf(`{"data":{"healthUserId":"1","operation":%q,"dataType":%q,"intervals":[`+
			`{"physicalTimeInterval":{"startTime":"2026-03-10T22:00:00Z","endTime":"2026-03-11T05:00:00Z"},`+
			`"civilIso8601TimeInterval":{"startTime":%q,"endTime":%q}}]}}`, operation, typ, start, end)
	}
	const from, to, late = "2026-03-10T22:00:00Z", "2026-03-11T05:00:00Z", "2026-03-11T05:00:01Z"
	for _, c := range []struct {
		body, stream, from, to string
		deleted                bool
	}{
		{string(message("UPSERT", "steps", from, to)), "steps", from, late, false},
		{string(message("DELETE", "steps", from, to)), "steps", from, to, true},
		{string(message("DELETE", "weight", from, from)), "weight", from, "2026-03-10T22:00:01Z", true},
		{string(message("UPSERT", "sleep", from, to)), "sleep", from, late, false},
		{string(message("DELETE", "sleep", from, to)), "sleep", from, late, true},
		{civil("UPSERT", "exercise", "2026-03-10T23:00:00", "2026-03-11T06:00:00"), "exercise", from, late, false},
		{civil("DELETE", "exercise", "2026-03-10T23:00:00", "2026-03-11T06:00:00"), "exercise", from, to, true},
		{civil("UPSERT", "daily-vo2-max", "", ""), "", "", "", false}, // it has no notifications
		{civil("UPSERT", "daily-respiratory-rate", "2026-03-10T00:00:00", "2026-03-11T00:00:00"),
			"daily-respiratory-rate", "2026-03-10T00:00:00Z", "2026-03-11T00:00:00Z", false},
		{civil("DELETE", "daily-respiratory-rate", "2026-03-10T00:00:00", "2026-03-10T00:00:00"),
			"daily-respiratory-rate", "2026-03-10T00:00:00Z", "2026-03-11T00:00:00Z", true},
		{civil("UPSERT", "daily-respiratory-rate", "then", "2026-03-10T00:00:00"), "daily-respiratory-rate",
			"2026-03-10T00:00:00Z", "2026-03-12T00:00:00Z", false},
		{civil("DELETE", "floors", "2026-03-10T23:00:00", "2026-03-10T23:30:00"), "floors", "2026-03-10T00:00:00Z",
			"2026-03-11T00:00:00Z", false},
		{civil("UPSERT", "unheard-of", "", ""), "", "", "", false},
		{string(message("UPSERT", "steps", to, from)), "", "", "", false},
	} {
		events, err := v.Events([]byte(c.body))
		if err != nil {
			t.Errorf("%s: %v", c.body, err)
			continue
		}
		if c.stream == "" {
			if len(events) > 0 {
				t.Errorf("%s: %+v", c.body, events)
			}
			continue
		}
		if len(events) != 1 {
			t.Errorf("%s: %+v", c.body, events)
			continue
		}
		cloudtest.CheckEvent(t, v, events[0])
		e := events[0]
		if e.Stream != c.stream || !e.From.Equal(at(c.from)) || !e.To.Equal(at(c.to)) || e.Deleted != c.deleted {
			t.Errorf("%s: %+v", c.body, e)
		}
	}
	mixed := `[7,{"data":{"healthUserId":"../1","operation":"UPSERT","dataType":"steps"}},` +
		strings.TrimPrefix(string(message("UPSERT", "steps", from, to)), "[")
	if events, err := v.Events([]byte(mixed)); err != nil || len(events) != 1 {
		t.Errorf("%+v, %v", events, err)
	}
	object := strings.TrimSuffix(strings.TrimPrefix(string(message("UPSERT", "steps", from, to)), "["), "]")
	one, err1 := v.Events([]byte(object))
	many, err2 := v.Events([]byte("[" + object + "]"))
	if err1 != nil || err2 != nil || !reflect.DeepEqual(one, many) {
		t.Errorf("object %+v, %v; array %+v, %v", one, err1, many, err2)
	}
}

// TestReplays checks that only a copy of a notification has its key: a second change of
// one interval has the same body.
func TestReplays(t *testing.T) {
	s := newSigner(t, keyID)
	v := vendor(t, config(serve(t, func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, keyset(s.entry(t))) })))
	n := notification(message("UPSERT", "steps", "2026-03-10T10:00:00Z", "2026-03-10T10:05:00Z"))
	key := func() [32]byte {
		r, err := v.Receive(t.Context(), n)
		if err != nil || r.Keep < 7*24*time.Hour {
			t.Fatalf("%+v, %v", r, err)
		}
		return r.Key
	}
	s.sign(n)
	first := key()
	if key() != first {
		t.Error("a copy has another key")
	}
	s.sign(n)
	if key() == first {
		t.Error("a second change has the key of the first")
	}
}

func FuzzEvents(f *testing.F) {
	cloudtest.FuzzEvents(f, vendor(f, config("https://health.example")),
		string(message("UPSERT", "steps", "2026-03-10T10:00:00Z", "2026-03-10T10:05:00Z")),
		string(message("DELETE", "sleep", "2026-03-10T10:00:00Z", "2026-03-10T10:05:00Z")),
		string(message("UPSERT", "floors", "2026-03-10T10:00:00Z", "2026-03-10T10:05:00Z")))
}
