package withings

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"pulsegate/adapters/simulate"
)

const redirect = "https://app.example/callback"

var start = time.Date(2026, 3, 20, 0, 0, 0, 0, time.UTC)

// world is a simulated cloud with one client.
type world struct {
	t     *testing.T
	clock *simulate.Clock
	*Server
}

func newWorld(t *testing.T, change func(*Options)) *world {
	t.Helper()
	all, err := simulate.Wearers(1, 3)
	if err != nil {
		t.Fatal(err)
	}
	w := &world{t: t, clock: simulate.NewClock(nil, start.AddDate(0, 0, 20), 0)}
	o := Options{Clock: w.clock, Start: start, Seed: 1, Wearers: all, AllowHTTP: true,
		Clients: []Client{{ID: "client", Secret: "secret", RedirectURIs: []string{redirect}}}}
	if change != nil {
		change(&o)
	}
	w.Server = New(o)
	return w
}

// post sends a form and returns the status in the body, and the body.
func (w *world) post(path, token string, pairs ...string) (int, map[string]any) {
	w.t.Helper()
	form := url.Values{}
	for i := 0; i < len(pairs); i += 2 {
		form.Set(pairs[i], pairs[i+1])
	}
	rq := httptest.NewRequest(http.MethodPost, path, strings.NewReader(form.Encode()))
	rq.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	rq.Header.Set("Authorization", "Bearer "+token)
	rec := httptest.NewRecorder()
	w.ServeHTTP(rec, rq)
	if to := rec.Header().Get("Location"); to != "" {
		u, err := url.Parse(to)
		if err != nil {
			w.t.Fatal(err)
		}
		return rec.Code, map[string]any{"code": u.Query().Get("code"), "error": u.Query().Get("error")}
	}
	var out struct {
		Status int
		Body   map[string]any
	}
	if err := json.Unmarshal(rec.Body.Bytes(), &out); err != nil || rec.Code != http.StatusOK {
		w.t.Fatalf("%s: HTTP %d, %v", path, rec.Code, err)
	}
	return out.Status, out.Body
}

func (w *world) code(scope string) string {
	w.t.Helper()
	status, back := w.post("/oauth2_user/authorize2", "", "response_type", "code", "client_id", "client", "state", "s",
		"redirect_uri", redirect, "scope", scope, "wearer", "0", "decision", "approve")
	if status != http.StatusFound || back["code"] == "" {
		w.t.Fatalf("the consent page answers %d, %v", status, back)
	}
	return back["code"].(string)
}

func (w *world) exchange(code string) (int, map[string]any) {
	return w.post("/v2/oauth2", "", "action", "requesttoken", "grant_type", "authorization_code", "client_id", "client",
		"client_secret", "secret", "redirect_uri", redirect, "code", code)
}

func (w *world) refresh(token string) (int, map[string]any) {
	return w.post("/v2/oauth2", "", "action", "requesttoken", "grant_type", "refresh_token", "client_id", "client",
		"client_secret", "secret", "refresh_token", token)
}

// link returns the tokens of a new grant.
func (w *world) link(scope string) (access, refresh string) {
	w.t.Helper()
	status, body := w.exchange(w.code(scope))
	if status != 0 || body["expires_in"] != 10800.0 || body["scope"] != scope ||
		body["userid"] != float64(Account(&w.opts.Wearers[0])) {
		w.t.Fatalf("status %d, %v", status, body)
	}
	return body["access_token"].(string), body["refresh_token"].(string)
}

// read reads measures and returns the status.
func (w *world) read(token string, pairs ...string) (int, map[string]any) {
	return w.post("/measure", token, append([]string{"action", "getmeas", "category", "1"}, pairs...)...)
}

// TestTokens checks how long codes and tokens live.
func TestTokens(t *testing.T) {
	w := newWorld(t, nil)
	late := w.code("user.metrics")
	w.clock.Add(30 * time.Second)
	if status, _ := w.exchange(late); status != statusInvalid {
		t.Errorf("a code of 30 seconds: %d", status)
	}
	once := w.code("user.metrics")
	first, _ := w.exchange(once)
	if second, _ := w.exchange(once); first != 0 || second != statusInvalid {
		t.Errorf("a code used twice: %d, %d", first, second)
	}

	access, refresh := w.link("user.metrics,user.activity")
	if status, _ := w.read(access, "lastupdate", "0"); status != 0 {
		t.Errorf("a new access token: %d", status)
	}
	w.clock.Add(3 * time.Hour)
	if status, _ := w.read(access, "lastupdate", "0"); status != statusToken {
		t.Errorf("an access token of three hours: %d", status)
	}
	_, lost := w.refresh(refresh) // whose answer was lost
	status, body := w.refresh(refresh)
	if status != 0 || body["refresh_token"] == lost["refresh_token"] {
		t.Fatalf("a repeated refresh: %d", status)
	}
	if status, _ := w.read(body["access_token"].(string), "lastupdate", "0"); status != 0 {
		t.Errorf("the new access token: %d", status)
	}
	if status, _ := w.refresh(refresh); status != statusInvalid {
		t.Errorf("a refresh token whose successor was used: %d", status)
	}
	former := body["refresh_token"].(string)
	if status, _ := w.refresh(former); status != 0 {
		t.Errorf("the second refresh: %d", status)
	}
	w.clock.Add(8 * time.Hour)
	if status, _ := w.refresh(former); status != statusInvalid {
		t.Errorf("a refresh token eight hours after it was replaced: %d", status)
	}
}

// TestStatuses checks the statuses of refused requests.
func TestStatuses(t *testing.T) {
	w := newWorld(t, func(o *Options) { o.RateLimit = 20 })
	metrics, _ := w.link("user.metrics")
	for name, c := range map[string]struct {
		path, token string
		form        []string
		want        int
	}{
		"token":  {"/measure", "x", []string{"action", "getmeas", "lastupdate", "0"}, statusToken},
		"window": {"/measure", metrics, []string{"action", "getmeas"}, statusInvalid},
		"offset": {"/measure", metrics, []string{"action", "getmeas", "lastupdate", "0", "offset", "-1"}, statusInvalid},
		"action": {"/measure", metrics, []string{"action", "getactivity", "lastupdate", "0"}, statusInvalid},
		"scope":  {"/v2/sleep", metrics, []string{"action", "getsummary", "lastupdate", "0"}, statusPermission},
		"hook":   {"/notify", metrics, []string{"action", "subscribe", "appli", "44", "callbackurl", "http://x"}, statusPermission},
		"appli":  {"/notify", metrics, []string{"action", "subscribe", "appli", "7", "callbackurl", "http://x"}, statusInvalid},
		"absent": {"/notify", metrics, []string{"action", "revoke", "appli", "1", "callbackurl", "http://x"}, statusInvalid},
	} {
		if status, _ := w.post(c.path, c.token, c.form...); status != c.want {
			t.Errorf("%s: status %d, want %d", name, status, c.want)
		}
	}
	limited := 0
	for range 20 {
		if status, _ := w.read(metrics, "lastupdate", "0"); status == statusTooMany {
			limited++
		}
	}
	w.clock.Add(time.Minute)
	if status, _ := w.read(metrics, "lastupdate", "0"); limited != 7 || status != 0 {
		t.Errorf("%d of 27 requests in a minute were refused, %d after it", limited, status)
	}
}

// groups returns the measures of all pages, by id.
func (w *world) groups(token string, pairs ...string) (out map[int]map[string]any, pages int) {
	w.t.Helper()
	out = map[int]map[string]any{}
	for offset := "0"; ; pages++ {
		status, body := w.read(token, append([]string{"offset", offset}, pairs...)...)
		if status != 0 {
			w.t.Fatalf("status %d", status)
		}
		for _, g := range body["measuregrps"].([]any) {
			g := g.(map[string]any)
			if id := int(g["grpid"].(float64)); out[id] == nil {
				out[id] = g
			} else {
				w.t.Errorf("group %d is on two pages", id)
			}
		}
		if body["more"] == nil {
			return out, pages + 1
		}
		offset = fmt.Sprint(body["offset"])
	}
}

// TestChanges follows the measures of a month: restated ones have a later "modified",
// deleted ones vanish, and "lastupdate" returns what has changed.
func TestChanges(t *testing.T) {
	w := newWorld(t, func(o *Options) { o.PageSize, o.RateLimit = 6, 1<<30 })
	from := fmt.Sprint(start.Unix())
	var before map[int]map[string]any
	restated, deleted, most := 0, 0, 0
	for range 30 * 4 {
		w.clock.Add(6 * time.Hour)
		token, _ := w.link("user.metrics")
		now := w.clock.Now()
		all, pages := w.groups(token, "startdate", from, "enddate", fmt.Sprint(now.Unix()))
		recent, _ := w.groups(token, "lastupdate", fmt.Sprint(now.Add(-6*time.Hour).Unix()))
		most = max(most, pages)
		for id, g := range all {
			changed := before != nil && (before[id] == nil || before[id]["modified"] != g["modified"])
			if changed && recent[id] == nil {
				t.Errorf("group %d is not among the latest changes", id)
			}
			if changed && before[id] != nil {
				restated++
				if fmt.Sprint(before[id]["measures"]) == fmt.Sprint(g["measures"]) {
					t.Errorf("the restated group %d has the same measures", id)
				}
			}
		}
		for id := range before {
			if all[id] == nil {
				deleted++
			}
		}
		before = all
	}
	if restated == 0 || deleted == 0 || most < 5 {
		t.Errorf("%d restated, %d deleted, %d pages", restated, deleted, most)
	}
}

// TestDeterministic checks that the data depend on the seed of the wearers alone.
func TestDeterministic(t *testing.T) {
	a, b := newWorld(t, nil), newWorld(t, func(o *Options) { o.Seed = 9 })
	for i := range 3 {
		if fmt.Sprintf("%s", a.Truth(i)) != fmt.Sprintf("%s", b.Truth(i)) {
			t.Errorf("wearer %d differs", i)
		}
	}
	if fmt.Sprintf("%s", a.Truth(0)) == fmt.Sprintf("%s", a.Truth(1)) {
		t.Error("two wearers have equal data")
	}
}

// TestNotifications checks the verification of a callback, and the cycles in which a
// notification is repeated until it is accepted.
func TestNotifications(t *testing.T) {
	w := newWorld(t, nil)
	token, _ := w.link("user.metrics,user.activity")
	var got []time.Time
	var form url.Values
	status := http.StatusNotFound
	app := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPost && r.ParseForm() == nil {
			got, form = append(got, w.clock.Now()), r.PostForm
		}
		rw.WriteHeader(status)
	}))
	defer app.Close()
	subscribe := func(callback string) int {
		s, _ := w.post("/notify", token, "action", "subscribe", "appli", "44", "callbackurl", callback)
		return s
	}
	if s := subscribe(app.URL + "/hook"); s != statusInvalid || w.Subscriptions() != 0 {
		t.Errorf("a callback that answers 404 to HEAD: %d", s)
	}
	status = http.StatusOK
	for range 2 {
		if s := subscribe(app.URL + "/hook"); s != 0 || w.Subscriptions() != 1 {
			t.Fatalf("a callback that answers HEAD: %d", s)
		}
	}
	_, body := w.post("/notify", token, "action", "list")
	if fmt.Sprint(body) != fmt.Sprintf("map[profiles:[map[appli:44 callbackurl:%s/hook comment:]]]", app.URL) {
		t.Errorf("subscriptions %v", body)
	}
	status = http.StatusInternalServerError
	for len(got) == 0 {
		w.clock.Add(time.Minute)
		if err := w.Advance(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	want := []string{"appli", "enddate", "startdate", "userid"}
	names := []string{}
	for name := range form {
		names = append(names, name)
	}
	if slices.Sort(names); !slices.Equal(names, want) || form.Get("userid") != fmt.Sprint(Account(&w.opts.Wearers[0])) {
		t.Errorf("notification %v", form)
	}
	w.clock.Add(12 * time.Second)
	for range 8 * 60 {
		if err := w.Advance(t.Context()); err != nil {
			t.Fatal(err)
		}
		w.clock.Add(time.Minute)
	}
	if s := w.Stats(); s.Failed == 0 || s.Sent < 10 || s.Accepted != 0 {
		t.Errorf("an application that fails: %+v", s)
	}
	status = http.StatusOK
	w.clock.Add(24 * time.Hour)
	if err := w.Advance(t.Context()); err != nil {
		t.Fatal(err)
	}
	if w.Stats().Accepted == 0 {
		t.Error("no notification was accepted")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := w.Run(ctx); err == nil {
		t.Error("Run does not end with its context")
	}
}

// TestCallbacks checks the rules for callbacks.
func TestCallbacks(t *testing.T) {
	w := newWorld(t, func(o *Options) { o.AllowHTTP = false })
	for callback, want := range map[string]bool{"https://app.example/hook": true, "https://app.example:443/": true,
		"http://app.example/": false, "https://127.0.0.1/": false, "https://localhost/": false,
		"https://app.example:8443/": false, "https://app.example/" + strings.Repeat("x", 255): false, "": false} {
		if got := w.acceptable(callback); got != want {
			t.Errorf("%.60s: %v", callback, got)
		}
	}
}

// TestRevoke checks that a signed request ends the grant and its subscriptions, and that
// a nonce is accepted once.
func TestRevoke(t *testing.T) {
	w := newWorld(t, nil)
	token, refresh := w.link("user.metrics")
	w.subs[subscription{client: "client", account: Account(&w.opts.Wearers[0]), appli: 1}] = struct{}{}
	at := fmt.Sprint(w.clock.Now().Unix())
	if status, _ := w.post("/v2/signature", "", "action", "getnonce", "client_id", "client", "timestamp", at,
		"signature", "00"); status != statusToken {
		t.Errorf("a nonce without a signature: %d", status)
	}
	status, body := w.post("/v2/signature", "", "action", "getnonce", "client_id", "client", "timestamp", at,
		"signature", sign("secret", "getnonce", "client", at))
	if status != 0 {
		t.Fatalf("getnonce: %d", status)
	}
	nonce := body["nonce"].(string)
	form := []string{"action", "revoke", "client_id", "client", "nonce", nonce, "userid",
		fmt.Sprint(Account(&w.opts.Wearers[0])), "signature", sign("secret", "revoke", "client", nonce)}
	for _, want := range []int{0, statusToken} {
		if status, _ := w.post("/v2/oauth2", "", form...); status != want {
			t.Errorf("revoke: %d, want %d", status, want)
		}
	}
	if status, _ := w.read(token, "lastupdate", "0"); status != statusToken || w.Subscriptions() != 0 {
		t.Errorf("after the revocation: %d, %d subscriptions", status, w.Subscriptions())
	}
	if status, _ := w.refresh(refresh); status != statusInvalid {
		t.Errorf("a refresh after the revocation: %d", status)
	}
}
