package oura_test

import (
	"net/url"
	"strings"
	"testing"
	"time"

	"pulsegate/adapters/simulate"
	"pulsegate/adapters/simulate/oura"
)

const (
	moiAuthorize = "/oauth/v2/ext/oauth-authorize"
	moiToken     = "/oauth/v2/ext/oauth-token"
)

func TestAuthorizationCode(t *testing.T) {
	w := newWorld(t, 2, nil)
	v := authorization(moi, everything)
	v.Set("wearer", "1")
	v.Set("decision", "approve")
	v["granted"] = []string{"", "extapi:daily", "extapi:heartrate"}
	back := w.approve(moiAuthorize, v)
	if back.Get("state") != "state of a session" || back.Get("scope") != "extapi:daily extapi:heartrate" {
		t.Errorf("redirected with %v", back)
	}
	tok, a := w.redeem(moiToken, moi, exchange(back.Get("code")))
	if a.status != 200 || tok.Scope != "extapi:daily extapi:heartrate" || tok.Expires != 86400 ||
		tok.Type != "bearer" ||
		a.header.Get("Cache-Control") != "no-store" {
		t.Fatalf("%d %+v", a.status, tok)
	}
	if got := w.get("/v2/usercollection/personal_info", tok.Access); !strings.Contains(got.body,
		w.cloud.Accounts()[1]) {
		t.Errorf("account of another: %s", got.body)
	}
	if got := w.get("/v2/usercollection/workout", tok.Access); got.status != 403 {
		t.Errorf("a scope that was not granted: %d", got.status)
	}
	if _, again := w.redeem(moiToken, moi, exchange(back.Get("code"))); again.status != 400 {
		t.Errorf("the code works twice: %d", again.status)
	}
	if got := w.get("/v2/usercollection/sleep", tok.Access); got.status != 401 {
		t.Errorf("the grant of a code that was used twice is alive: %d", got.status)
	}
}

func TestRefusedExchanges(t *testing.T) {
	w := newWorld(t, 1, nil)
	for name, c := range map[string]struct {
		change func(url.Values)
		wait   time.Duration
	}{
		"verifier":         {change: func(v url.Values) { v.Set("code_verifier", "another") }},
		"no verifier":      {change: func(v url.Values) { v.Del("code_verifier") }},
		"redirect address": {change: func(v url.Values) { v.Set("redirect_uri", redirect+"/") }},
		"age":              {wait: 10 * time.Minute},
		"code":             {change: func(v url.Values) { v.Set("code", "oc_x") }},
		"grant type":       {change: func(v url.Values) { v.Set("grant_type", "password") }},
	} {
		code := w.code(moi, moiAuthorize, "0", everything)
		form := exchange(code)
		if c.change != nil {
			c.change(form)
		}
		w.clock.Add(c.wait)
		if _, a := w.redeem(moiToken, moi, form); a.status != 400 || !strings.Contains(a.body, `"error":`) {
			t.Errorf("%s: %d %s", name, a.status, a.body)
		}
		if name == "verifier" { // a refused exchange uses the code up
			if _, a := w.redeem(moiToken, moi, exchange(code)); a.status != 400 {
				t.Errorf("the code works after a refused exchange: %d", a.status)
			}
		}
	}
}

func TestRefusedAuthorizations(t *testing.T) {
	w := newWorld(t, 1, nil)
	for name, c := range map[string]struct {
		param, value string
		redirected   string // error, if it is sent to the client
	}{
		"client":           {"client_id", "x", ""},
		"redirect address": {"redirect_uri", "https://attacker.example/", ""},
		"response type":    {"response_type", "token", "unsupported_response_type"},
		"plain challenge":  {"code_challenge_method", "plain", "invalid_request"},
		"scopes":           {"scope", "nonsense", "invalid_scope"},
		"bare scopes":      {"scope", "daily", "invalid_scope"}, // dropped by this provider
		"denied":           {"decision", "deny", "access_denied"},
	} {
		v := authorization(moi, everything)
		v.Set("wearer", "0")
		v.Set("decision", "approve")
		v.Set(c.param, c.value)
		a := w.form(moiAuthorize, v)
		if c.redirected == "" {
			if a.status != 400 || a.header.Get("Location") != "" {
				t.Errorf("%s: %d %s", name, a.status, a.header.Get("Location"))
			}
			continue
		}
		to, err := url.Parse(a.header.Get("Location"))
		if err != nil || to.Query().Get("error") != c.redirected || to.Query().Get("state") == "" ||
			to.Query().Has("code") {
			t.Errorf("%s: %d %s", name, a.status, to)
		}
	}
}

// TestConsentPage checks the page and that the form it contains works.
func TestConsentPage(t *testing.T) {
	w := newWorld(t, 3, nil)
	v := authorization(legacy, "email daily <script>")
	a := w.do(w.request("GET", "/oauth/authorize?"+v.Encode(), ""))
	for _, want := range []string{"Wearer 2 (Europe/London)", `name="granted" value="daily" checked`,
		`name="state" value="state of a session"`, `value="deny"`} {
		if !strings.Contains(a.body, want) {
			t.Errorf("the page lacks %s", want)
		}
	}
	if a.status != 200 || strings.Contains(a.body, "<script>") {
		t.Errorf("%d %s", a.status, a.body)
	}
	many := newWorld(t, 200, nil)
	if b := many.do(many.request("GET", "/oauth/authorize?"+v.Encode(), "")); !strings.Contains(b.body, `max="199"`) {
		t.Error("no field for the number of a wearer")
	}
}

// TestRefreshTokensAreUsedOnce checks rotation, and that the second use of a refresh
// token ends the grant.
func TestRefreshTokensAreUsedOnce(t *testing.T) {
	w := newWorld(t, 1, nil)
	first := w.link(0, everything)
	second, a := w.redeem(moiToken, moi, refresh(first.Refresh))
	if a.status != 200 || second.Refresh == first.Refresh || second.Access == first.Access {
		t.Fatalf("%d %+v", a.status, second)
	}
	for _, tok := range []tokens{first, second} {
		if got := w.get("/v2/usercollection/sleep", tok.Access); got.status != 200 {
			t.Errorf("an access token of the grant: %d", got.status)
		}
	}
	if _, a := w.redeem(moiToken, moi, refresh(first.Refresh)); a.status != 400 ||
		!strings.Contains(a.body, "invalid_grant") {
		t.Errorf("the refresh token works twice: %d %s", a.status, a.body)
	}
	if _, a := w.redeem(moiToken, moi, refresh(second.Refresh)); a.status != 400 {
		t.Errorf("the grant outlives the second use: %d", a.status)
	}
	if got := w.get("/v2/usercollection/sleep", second.Access); got.status != 401 {
		t.Errorf("the access token outlives the grant: %d", got.status)
	}
	if n := w.cloud.Sent().Reused; n != 1 {
		t.Errorf("%d refresh tokens used twice", n)
	}
}

// TestProviders checks that each client belongs to one provider.
func TestProviders(t *testing.T) {
	w := newWorld(t, 1, nil)
	if a := w.do(w.request("GET", "/oauth/authorize?"+authorization(moi, everything).Encode(), "")); a.status != 400 ||
		!strings.Contains(a.body, "Invalid client") {
		t.Errorf("%d %s", a.status, a.body)
	}
	code := w.code(legacy, "/oauth/authorize", "0", "daily spo2Daily")
	if _, a := w.redeem(moiToken, legacy, exchange(code)); a.status != 401 ||
		!strings.Contains(a.body, "Invalid client") {
		t.Errorf("%d %s", a.status, a.body)
	}
	tok, a := w.redeem("/oauth/token", legacy, exchange(code))
	if a.status != 200 || tok.Scope != "daily spo2" {
		t.Errorf("%d %+v", a.status, tok)
	}
	if _, a := w.redeem(moiToken, moi, refresh(tok.Refresh)); a.status != 400 {
		t.Errorf("a refresh token of another client: %d", a.status)
	}
}

func TestClientAuthentication(t *testing.T) {
	w := newWorld(t, 1, nil)
	form := exchange(w.code(moi, moiAuthorize, "0", everything))
	post := func(secret string) answer {
		r := w.request("POST", moiToken, form.Encode(), "Content-Type", "application/x-www-form-urlencoded")
		r.SetBasicAuth(moi.ID, secret)
		return w.do(r)
	}
	if a := post("wrong"); a.status != 401 || !strings.Contains(a.body, "invalid_client") {
		t.Errorf("%d %s", a.status, a.body)
	}
	if a := post(moi.Secret); a.status != 200 {
		t.Errorf("Basic authentication: %d %s", a.status, a.body)
	}
}

func TestTokensExpire(t *testing.T) {
	w := newWorld(t, 1, func(o *oura.Options) { o.TokenLife = time.Hour })
	tok := w.link(0, everything)
	w.clock.Add(time.Hour - time.Second)
	if a := w.get("/v2/usercollection/sleep", tok.Access); a.status != 200 || tok.Expires != 3600 {
		t.Errorf("%d, expires_in %d", a.status, tok.Expires)
	}
	w.clock.Add(time.Second)
	if a := w.get("/v2/usercollection/sleep", tok.Access); a.status != 401 {
		t.Errorf("%d", a.status)
	}
	w.cloud.Faults().SetRates(map[simulate.Fault]float64{simulate.Expire: 1})
	tok, _ = w.redeem(moiToken, moi, refresh(tok.Refresh))
	w.clock.Add(7 * time.Minute)
	if a := w.get("/v2/usercollection/sleep", tok.Access); a.status != 401 || tok.Expires != 3600 {
		t.Errorf("a token that expires early: %d, expires_in %d", a.status, tok.Expires)
	}
}

// TestLostTokens checks that a lost answer has used the refresh token up.
func TestLostTokens(t *testing.T) {
	w := newWorld(t, 1, nil)
	tok := w.link(0, everything)
	w.cloud.Faults().SetRates(map[simulate.Fault]float64{simulate.LostToken: 1})
	if _, a := w.redeem(moiToken, moi, refresh(tok.Refresh)); a.status != 0 {
		t.Errorf("the answer arrives: %d", a.status)
	}
	w.cloud.Faults().SetRates(nil)
	if _, a := w.redeem(moiToken, moi, refresh(tok.Refresh)); a.status != 400 {
		t.Errorf("the refresh token is still valid: %d", a.status)
	}
	if w.cloud.Sent().Injected[simulate.LostToken] != 1 {
		t.Errorf("%v", w.cloud.Sent())
	}
}

func TestRevoke(t *testing.T) {
	w := newWorld(t, 3, nil)
	for i, revoke := range []func(tokens) answer{
		func(tok tokens) answer {
			return w.do(w.request("POST", "/oauth/v2/ext/oauth-revoke?access_token="+tok.Access, ""))
		},
		func(tok tokens) answer {
			return w.do(w.request("POST", "/oauth/v2/ext/oauth-revoke", "", "Authorization", "Bearer "+tok.Refresh))
		},
		func(tokens) answer {
			w.cloud.RevokeGrant(w.cloud.Accounts()[2])
			return answer{status: 200}
		},
	} {
		tok := w.link(i, everything)
		if a := revoke(tok); a.status != 200 {
			t.Errorf("%d: %d %s", i, a.status, a.body)
		}
		if a := w.get("/v2/usercollection/sleep", tok.Access); a.status != 401 {
			t.Errorf("%d: the access token is alive: %d", i, a.status)
		}
		if _, a := w.redeem(moiToken, moi, refresh(tok.Refresh)); a.status != 400 {
			t.Errorf("%d: the refresh token is alive: %d", i, a.status)
		}
		again := w.do(w.request("POST", "/oauth/v2/ext/oauth-revoke", "", "Authorization", "Bearer "+tok.Access))
		if again.status != 401 {
			t.Errorf("%d: revoked twice: %d", i, again.status)
		}
	}
}

func TestIntrospect(t *testing.T) {
	w := newWorld(t, 1, nil)
	tok := w.link(0, everything)
	for token, want := range map[string]string{tok.Access: `"active":true`, "x": `"active":false`} {
		v := url.Values{"token": {token}, "client_id": {moi.ID}, "client_secret": {moi.Secret}}
		if a := w.form("/oauth/v2/ext/oauth-introspect", v); a.status != 200 || !strings.Contains(a.body, want) {
			t.Errorf("%d %s", a.status, a.body)
		}
	}
}
