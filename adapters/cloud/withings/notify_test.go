package withings_test

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"pulsegate/adapters/cloud"
	"pulsegate/adapters/cloud/cloudtest"
	"pulsegate/adapters/cloud/withings"
)

const callback = "https://pg.example/hooks/withings"

// user is a simulated user with subscriptions.
type user struct {
	t        *testing.T
	profiles []string // "APPLI URL"
	refuse   bool     // the signed request
	revoked  string   // user of the signed request
	requests []string
}

func sign(values ...string) string {
	h := hmac.New(sha256.New, []byte("secret"))
	h.Write([]byte(strings.Join(values, ",")))
	return hex.EncodeToString(h.Sum(nil))
}

func (u *user) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f := func(name string) string { return r.PostFormValue(name) }
	what := r.URL.Path + " " + f("action")
	one := f("appli") + " " + f("callbackurl")
	u.requests = append(u.requests, strings.TrimSpace(what+" "+f("appli")))
	if r.URL.Path == "/notify" && r.Header.Get("Authorization") != "Bearer "+token {
		fmt.Fprint(w, `{"status":401}`)
		return
	}
	switch what {
	case "/notify list":
		var list []string
		for _, p := range u.profiles {
			appli, to, _ := strings.Cut(p, " ")
			list = append(list, fmt.Sprintf(`{"appli":%s,"callbackurl":%q,"comment":""}`, appli, to))
		}
		fmt.Fprintf(w, `{"status":0,"body":{"profiles":[%s]}}`, strings.Join(list, ","))
		return
	case "/notify subscribe":
		u.profiles = append(u.profiles, one)
	case "/notify revoke":
		u.profiles = slices.DeleteFunc(u.profiles, func(p string) bool { return p == one })
	case "/v2/signature getnonce":
		if f("signature") != sign("getnonce", "client", f("timestamp")) || f("timestamp") != fmt.Sprint(now.Unix()) {
			u.t.Errorf("the request for a nonce is not signed: %v", r.PostForm)
		}
		fmt.Fprint(w, `{"status":0,"body":{"nonce":"n0nce"}}`)
		return
	case "/token revoke":
		if f("signature") != sign("revoke", "client", "n0nce") || f("nonce") != "n0nce" || f("client_id") != "client" {
			u.t.Errorf("the revocation is not signed: %v", r.PostForm)
		}
		if u.refuse {
			fmt.Fprint(w, `{"status":503}`)
			return
		}
		u.revoked = f("userid")
	default:
		u.t.Errorf("request %s", what)
	}
	fmt.Fprint(w, `{"status":0,"body":{}}`)
}

// connect returns the vendor for a simulated user, with a client.
func (u *user) connect() (cloud.AccountNotifier, *cloud.Client) {
	u.t.Helper()
	srv := cloudtest.Serve(u.t, u)
	clock := func() time.Time { return now }
	v, err := withings.New(cloud.Config{ClientID: "client", ClientSecret: "secret", TokenURL: srv.URL + "/token",
		AuthURL: srv.URL, APIURL: srv.URL, Clock: clock})
	if err != nil {
		u.t.Fatal(err)
	}
	return v.(cloud.AccountNotifier), &cloud.Client{HTTP: srv.Client(), Token: token, Clock: clock}
}

// path returns the secret segment of the callback, as the vendor subscribes it.
func path(t *testing.T) string {
	t.Helper()
	u := &user{t: t}
	v, c := u.connect()
	if _, err := v.SubscribeAccount(t.Context(), c, callback, []string{"user.metrics"}); err != nil {
		t.Fatal(err)
	}
	_, secret, ok := strings.Cut(u.profiles[0], callback+"/")
	if !ok || len(secret) < 40 || strings.Contains(secret, "/") {
		t.Fatalf("subscribed to %q", u.profiles)
	}
	return secret
}

func webhook(t *testing.T) *cloudtest.Webhook {
	secret := path(t)
	same := func(*cloud.Notification, time.Time) {}
	return &cloudtest.Webhook{
		Genuine: func(time.Time) *cloud.Notification {
			return &cloud.Notification{Method: http.MethodPost, Path: secret, Callback: callback, Header: http.Header{},
				Body: []byte("userid=363&appli=44&startdate=1767654000&enddate=1767681000")}
		},
		Sign:   same,
		Forge:  func(n *cloud.Notification, _ time.Time) { n.Callback = "https://other.example/hooks/withings" },
		Verify: http.MethodHead, Account: account,
	}
}

// TestSubscribeAccount checks which subscriptions are made and ended.
func TestSubscribeAccount(t *testing.T) {
	to := callback + "/" + path(t)
	other := "1 https://other.example/hooks/withings/x"
	for name, c := range map[string]struct {
		granted, have, want []string
	}{
		"all": {granted: []string{"user.metrics", "user.activity"},
			want: []string{"1 " + to, "2 " + to, "4 " + to, "16 " + to, "44 " + to}},
		"one scope": {granted: []string{"user.metrics"}, have: []string{other, "2 " + to},
			want: []string{other, "2 " + to, "1 " + to, "4 " + to}},
		"no longer needed": {granted: []string{"user.activity"},
			have: []string{"1 " + to, "16 " + to, "44 " + callback + "/former", "50 " + to},
			want: []string{"16 " + to, "44 " + to}},
	} {
		u := &user{t: t, profiles: c.have}
		v, client := u.connect()
		for range 2 {
			next, err := v.SubscribeAccount(t.Context(), client, callback, c.granted)
			if err != nil || !next.Equal(now.AddDate(0, 0, 1)) {
				t.Errorf("%s: %v, %v", name, next, err)
			}
			if !slices.Equal(u.profiles, c.want) {
				t.Errorf("%s: %q, want %q", name, u.profiles, c.want)
			}
		}
		if last := u.requests[len(u.requests)-1]; last != "/notify list" {
			t.Errorf("%s: the second call changes something: %q", name, u.requests)
		}
	}
}

// TestCallback checks that a callback that Withings refuses is not sent.
func TestCallback(t *testing.T) {
	v, err := withings.New(cloud.Config{ClientID: "client", ClientSecret: "secret"})
	if err != nil {
		t.Fatal(err)
	}
	for _, to := range []string{"http://pg.example/hooks", "https://127.0.0.1/hooks", "https://localhost/hooks",
		"https://pg.example:8443/hooks", "https://pg.example/" + strings.Repeat("x", 255), "https://[::1]/hooks"} {
		_, err := v.(cloud.AccountNotifier).SubscribeAccount(t.Context(), nil, to, nil) // no client: nothing is sent
		if err == nil || !strings.Contains(err.Error(), "the URL of the webhook") {
			t.Errorf("%s: %v", to, err)
		}
	}
}

// TestRevoke checks the signed revocation, which ends subscriptions even if it is refused.
func TestRevoke(t *testing.T) {
	for _, refuse := range []bool{false, true} {
		u := &user{t: t, refuse: refuse, profiles: []string{"1 https://a.example/x", "44 https://a.example/x"}}
		v, c := u.connect()
		err := v.(cloud.Revoker).Revoke(t.Context(), c.HTTP, cloud.Grant{Access: token, Accounts: []string{account}})
		if refuse != (err != nil) || err != nil && cloud.ProblemOf(err) != cloud.Rejected {
			t.Errorf("refused %v: %v", refuse, err)
		}
		if len(u.profiles) > 0 || !refuse && u.revoked != account {
			t.Errorf("refused %v: subscriptions %q, revoked %q", refuse, u.profiles, u.revoked)
		}
	}
	u := &user{t: t}
	v, c := u.connect()
	expired := cloud.Grant{Access: "expired", Accounts: []string{account}}
	if err := v.(cloud.Revoker).Revoke(t.Context(), c.HTTP, expired); err != nil || u.revoked != account {
		t.Errorf("with an expired token: %v, revoked %q", err, u.revoked)
	}
	if err := v.(cloud.Revoker).Revoke(t.Context(), c.HTTP, cloud.Grant{Access: token}); err == nil {
		t.Error("a grant without an account was revoked")
	}
}

// TestEvents checks the windows of notifications.
func TestEvents(t *testing.T) {
	v, err := vendor("https://withings.example")
	if err != nil {
		t.Fatal(err)
	}
	for body, want := range map[string]string{
		"userid=363&appli=1&startdate=1767596400&enddate=1767596460": "measure 2026-01-04T07:00:00Z 2026-01-06T07:01:00Z",
		"userid=363&appli=16&date=2026-01-05":                        "activity 2026-01-04T00:00:00Z 2026-01-07T00:00:00Z",
		"userid=363&appli=1&startdate=0&enddate=1767596460":          "measure 2025-01-05T07:01:00Z 2026-01-06T07:01:00Z",
		"userid=363&appli=46&action=unlink":                          "",
		"userid=363&appli=1":                                         "error",
		"userid=363&appli=1&startdate=9&enddate=8":                   "error",
		"userid=363&appli=16&date=yesterday":                         "error",
		"userid=../x&appli=16&date=2026-01-05":                       "error",
	} {
		got := ""
		events, err := v.(cloud.Notifier).Events([]byte(body))
		if err != nil {
			got = "error"
		}
		for _, e := range events {
			cloudtest.CheckEvent(t, v, e)
			got = e.Stream + " " + e.From.Format(time.RFC3339) + " " + e.To.Format(time.RFC3339)
		}
		if got != want {
			t.Errorf("%s: %q, want %q", body, got, want)
		}
	}
}

func FuzzEvents(f *testing.F) {
	v, err := vendor("https://withings.example")
	if err != nil {
		f.Fatal(err)
	}
	cloudtest.FuzzEvents(f, v.(cloud.Notifier), "userid=363&appli=16&date=2026-01-05", "userid=%zz",
		"userid=363&appli=1&startdate=1767596400&enddate=1767596460")
}
