package googlehealth_test

import (
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"pulsegate/adapters/simulate"
	"pulsegate/adapters/simulate/googlehealth"
)

func scope(group string) string {
	return "https://www.googleapis.com/auth/googlehealth." + group + ".readonly"
}

// grantError exchanges something at the token endpoint and returns the OAuth error.
func (c *cloud) grantError(v url.Values) string {
	c.Helper()
	a := c.form("/token", v)
	if a.code == http.StatusOK {
		return ""
	}
	name, _ := a.json(c.T)["error"].(string)
	return name
}

func TestConsentPage(t *testing.T) {
	c := newCloud(t, googlehealth.Options{Wearers: 3, Unlinked: 1})
	v := request(scope("sleep"), scope("ecg"))
	v.Set("state", `"><script>`)
	a := c.do(http.MethodGet, "/o/oauth2/v2/auth?"+v.Encode(), "", nil)
	page := string(a.raw)
	if a.code != http.StatusOK || strings.Count(page, "<option") != 4 || strings.Count(page, `type="checkbox"`) != 2 ||
		strings.Contains(page, "<script>") {
		t.Errorf("%d, %s", a.code, page)
	}
	for name, change := range map[string][2]string{
		"client": {"client_id", "other"}, "redirect": {"redirect_uri", "https://evil.example/"},
		"response type":    {"response_type", "token"},
		"scope":            {"scope", "https://www.googleapis.com/auth/googlehealth.sleep"},
		"challenge method": {"code_challenge_method", "S512"}, "access type": {"access_type", "always"},
	} {
		v := request(scope("sleep"))
		v.Set(change[0], change[1])
		a := c.do(http.MethodGet, "/o/oauth2/v2/auth?"+v.Encode(), "", nil)
		if a.code < 400 || a.header.Get("Location") != "" {
			t.Errorf("a wrong %s is answered %d", name, a.code)
		}
	}
}

func TestDecision(t *testing.T) {
	c := newCloud(t, googlehealth.Options{Wearers: 3})
	v := request(scope("sleep"), scope("ecg"))
	v.Set("account", c.Accounts()[1])
	v.Set("decision", "deny")
	if back := c.decide(v); back.Get("error") != "access_denied" || back.Get("state") != "st" || back.Has("code") {
		t.Errorf("denied: %v", back)
	}
	v.Set("decision", "allow")
	v.Set("granular", "1")
	v.Set("grant", scope("ecg"))
	back := c.decide(v)
	if back.Get("scope") != scope("ecg") || back.Get("state") != "st" {
		t.Errorf("allowed: %v", back)
	}
	body := c.form("/token", exchange(back.Get("code"))).json(t)
	if body["scope"] != scope("ecg") || body["token_type"] != "Bearer" || body["expires_in"] != 3599.0 ||
		body["refresh_token"] == nil || body["refresh_token_expires_in"] != nil {
		t.Errorf("token: %v", body)
	}
	token := body["access_token"].(string)
	if a := c.do(http.MethodGet, points("electrocardiogram"), token, nil); a.code != http.StatusOK {
		t.Errorf("granted: %d", a.code)
	}
	a := c.do(http.MethodGet, points("sleep"), token, nil)
	if a.code != http.StatusForbidden || a.reason(t) != "ACCESS_TOKEN_SCOPE_INSUFFICIENT" {
		t.Errorf("not granted: %d, %s", a.code, a.raw)
	}
}

func TestCodes(t *testing.T) {
	c := newCloud(t, googlehealth.Options{Wearers: 1})
	code := func() string {
		v := request(scope("sleep"))
		v.Set("account", c.Accounts()[0])
		v.Set("decision", "allow")
		return c.decide(v).Get("code")
	}
	for name, change := range map[string][3]string{
		"wrong verifier":   {"code_verifier", strings.Repeat("x", 43), "invalid_grant"},
		"missing verifier": {"code_verifier", "", "invalid_grant"},
		"wrong redirect":   {"redirect_uri", "https://pulsegate.example/other", "redirect_uri_mismatch"},
		"wrong secret":     {"client_secret", "guess", "invalid_client"},
		"unknown client":   {"client_id", "other", "invalid_client"},
		"unknown code":     {"code", "4/0Aguess", "invalid_grant"},
		"grant type":       {"grant_type", "password", "unsupported_grant_type"},
	} {
		v := exchange(code())
		v.Set(change[0], change[1])
		if got := c.grantError(v); got != change[2] {
			t.Errorf("%s: %q, want %q", name, got, change[2])
		}
	}
	once := code()
	if got := c.grantError(exchange(once)); got != "" {
		t.Errorf("first use: %q", got)
	}
	if got := c.grantError(exchange(once)); got != "invalid_grant" {
		t.Errorf("second use: %q", got)
	}
	late := code()
	c.clock.Add(11 * time.Minute)
	if got := c.grantError(exchange(late)); got != "invalid_grant" {
		t.Errorf("after 11 minutes: %q", got)
	}
}

func TestTokensExpire(t *testing.T) {
	c := newCloud(t, googlehealth.Options{Wearers: 1, Testing: true})
	body := c.link(c.Accounts()[0])
	if body["refresh_token_expires_in"] != 604799.0 {
		t.Errorf("token: %v", body)
	}
	token, again := body["access_token"].(string), body["refresh_token"].(string)
	status := func() int { return c.do(http.MethodGet, "/v4/users/me/identity", token, nil).code }
	c.clock.Add(3598 * time.Second)
	if got := status(); got != http.StatusOK {
		t.Errorf("after 3598 s: %d", got)
	}
	c.clock.Add(time.Second)
	if got := status(); got != http.StatusUnauthorized {
		t.Errorf("after 3599 s: %d", got)
	}
	for range 2 { // the refresh token is not rotated
		body = c.form("/token", refresh(again)).json(t)
		if body["refresh_token"] != nil || body["refresh_token_expires_in"] == nil {
			t.Errorf("refreshed: %v", body)
		}
	}
	token = body["access_token"].(string)
	if got := status(); got != http.StatusOK {
		t.Errorf("refreshed: %d", got)
	}
	c.clock.Add(7 * 24 * time.Hour)
	if got := c.grantError(refresh(again)); got != "invalid_grant" {
		t.Errorf("after seven days: %q", got)
	}
}

func TestUnusedRefreshTokenExpires(t *testing.T) {
	c := newCloud(t, googlehealth.Options{Wearers: 1})
	token := c.link(c.Accounts()[0])["refresh_token"].(string)
	for range 2 {
		c.clock.Add(100 * 24 * time.Hour)
		if got := c.grantError(refresh(token)); got != "" {
			t.Errorf("in use: %q", got)
		}
	}
	c.clock.Add(181 * 24 * time.Hour)
	if got := c.grantError(refresh(token)); got != "invalid_grant" {
		t.Errorf("after six months: %q", got)
	}
}

// TestRefreshTokenNeedsPrompt checks that a repeated consent without prompt=consent, or
// access_type=online, yields no refresh token.
func TestRefreshTokenNeedsPrompt(t *testing.T) {
	c := newCloud(t, googlehealth.Options{Wearers: 1})
	c.access(c.Accounts()[0])
	for _, name := range []string{"prompt", "access_type"} {
		v := request(scope("sleep"))
		v.Del(name)
		v.Set("account", c.Accounts()[0])
		v.Set("decision", "allow")
		if body := c.form("/token", exchange(c.decide(v).Get("code"))).json(t); body["refresh_token"] != nil {
			t.Errorf("without %s: %v", name, body)
		}
	}
}

func TestRevoke(t *testing.T) {
	c := newCloud(t, googlehealth.Options{Wearers: 2})
	body := c.link(c.Accounts()[0])
	other := c.access(c.Accounts()[1])
	if a := c.form("/revoke", url.Values{"token": {body["refresh_token"].(string)}}); a.code != http.StatusOK {
		t.Errorf("revoke: %d", a.code)
	}
	if a := c.form("/revoke", url.Values{"token": {body["refresh_token"].(string)}}); a.code != http.StatusBadRequest {
		t.Errorf("revoke again: %d", a.code)
	}
	if got := c.do(http.MethodGet, "/v4/users/me/identity", body["access_token"].(string), nil).code; got != 401 {
		t.Errorf("access token: %d", got)
	}
	if got := c.grantError(refresh(body["refresh_token"].(string))); got != "invalid_grant" {
		t.Errorf("refresh token: %q", got)
	}
	if got := c.do(http.MethodGet, "/v4/users/me/identity", other, nil).code; got != http.StatusOK {
		t.Errorf("another account: %d", got)
	}
	if !c.RevokeGrant(c.Accounts()[1]) || c.RevokeGrant(c.Accounts()[1]) {
		t.Error("RevokeGrant does not revoke once")
	}
	if got := c.do(http.MethodGet, "/v4/users/me/identity", other, nil).code; got != 401 {
		t.Errorf("after RevokeGrant: %d", got)
	}
}

func TestErrors(t *testing.T) {
	c := newCloud(t, googlehealth.Options{Wearers: 2, Unlinked: 1, PerMinute: 300})
	token := c.access(c.Accounts()[0])
	for _, tt := range []struct {
		name, method, target, token, reason string
		code                                int
	}{
		{"no token", "GET", points("steps"), "", "UNAUTHENTICATED", 401},
		{"bad token", "GET", points("steps"), "ya29.guess", "UNAUTHENTICATED", 401},
		{"not linked", "GET", points("steps"), c.access(c.Accounts()[2]), "ACCOUNT_NOT_LINKED", 400},
		{"another user", "GET", strings.Replace(points("steps"), "me", c.Accounts()[1], 1), token,
			"PERMISSION_DENIED", 403},
		{"own id", "GET", strings.Replace(points("steps"), "me", c.Accounts()[0], 1), token, "", 200},
		{"unknown type", "GET", points("blood-pressure"), token, "INVALID_PARENT_DATA_TYPE_COLLECTION", 400},
		{"no such point", "GET", points("sleep") + "/17", token, "NOT_FOUND", 404},
		{"not identifiable", "GET", points("steps") + "/17", token, "INVALID_PARENT_DATA_TYPE_COLLECTION", 400},
		{"bad page token", "GET", points("steps") + "?pageToken=x", token, "INVALID_ARGUMENT", 400},
		{"bad page size", "GET", points("steps") + "?pageSize=-1", token, "INVALID_ARGUMENT", 400},
		{"unknown parameter", "GET", points("steps") + "?limit=5", token, "INVALID_ARGUMENT", 400},
		{"family of sleep", "GET", points("sleep") +
			"?dataSourceFamily=users/me/dataSourceFamilies/google-wearables", token,
			"INVALID_DATA_POINT_DATA_SOURCE_FAMILY", 400},
		{"family", "GET", points("steps") + "?dataSourceFamily=users/me/dataSourceFamilies/google-wearables", token,
			"", 200},
		{"unknown family", "GET", points("steps") + "?dataSourceFamily=users/me/dataSourceFamilies/all", token,
			"INVALID_DATA_POINT_DATA_SOURCE_FAMILY", 400},
		{"write", "POST", points("steps"), token, "UNIMPLEMENTED", 501},
		{"subscribers", "GET", "/v4/projects/" + project + "/subscribers", token, "ACCESS_TOKEN_SCOPE_INSUFFICIENT",
			403},
	} {
		a := c.do(tt.method, tt.target, tt.token, nil)
		if a.code != tt.code || tt.reason != "" && a.reason(t) != tt.reason {
			t.Errorf("%s: %d, %.300s", tt.name, a.code, a.raw)
		}
	}
}

func TestQuota(t *testing.T) {
	c := newCloud(t, googlehealth.Options{Wearers: 2, PerMinute: 300})
	first, second := c.access(c.Accounts()[0]), c.access(c.Accounts()[1])
	for n := range 301 {
		a := c.do(http.MethodGet, "/v4/users/me/identity", first, nil)
		if (a.code == http.StatusOK) != (n < 300) {
			t.Fatalf("request %d: %d", n, a.code)
		}
		if n == 300 && (a.code != 429 || a.json(t)["error"].(map[string]any)["status"] != "RESOURCE_EXHAUSTED" ||
			a.header.Get("Retry-After") != "") {
			t.Errorf("%d, %s", a.code, a.raw)
		}
	}
	if a := c.do(http.MethodGet, "/v4/users/me/identity", second, nil); a.code != http.StatusOK {
		t.Errorf("another user: %d", a.code)
	}
	c.clock.Add(time.Minute)
	if a := c.do(http.MethodGet, "/v4/users/me/identity", first, nil); a.code != http.StatusOK {
		t.Errorf("a minute later: %d", a.code)
	}
}

// TestFaults checks that injected faults have the form of the API and that two clouds with
// the same seed inject the same.
func TestFaults(t *testing.T) {
	run := func() (out []int) {
		c := newCloud(t, googlehealth.Options{Wearers: 1})
		token := c.access(c.Accounts()[0])
		c.Faults().SetRates(map[simulate.Fault]float64{simulate.Outage: 0.2, simulate.RateLimit: 0.2})
		for range 60 {
			out = append(out, c.do(http.MethodGet, points("weight"), token, nil).code)
		}
		return out
	}
	a, b := run(), run()
	seen := map[int]bool{}
	for i := range a {
		if a[i] != b[i] {
			t.Fatalf("request %d: %d and %d", i, a[i], b[i])
		}
		seen[a[i]] = true
	}
	if !seen[200] || !seen[429] || len(seen) < 3 {
		t.Errorf("answers %v", seen)
	}
	c := newCloud(t, googlehealth.Options{Wearers: 1})
	token := c.access(c.Accounts()[0])
	c.Outage(c.Now().Add(20*time.Minute), c.Now().Add(40*time.Minute))
	for _, want := range []int{200, 503, 200} {
		if a := c.do(http.MethodGet, points("steps"), token, nil); a.code != want {
			t.Errorf("outage: %d, want %d", a.code, want)
		}
		c.clock.Add(20 * time.Minute)
	}
}

// serviceAccount returns an account and a function that signs assertions.
func serviceAccount(t *testing.T) (googlehealth.ServiceAccount, func(claims map[string]any) string) {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	part := func(v any) string {
		b, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		return base64.RawURLEncoding.EncodeToString(b)
	}
	sign := func(claims map[string]any) string {
		signed := part(map[string]any{"alg": "RS256", "typ": "JWT", "kid": "k1"}) + "." + part(claims)
		sum := sha256.Sum256([]byte(signed))
		sig, err := rsa.SignPKCS1v15(rand.Reader, key, crypto.SHA256, sum[:])
		if err != nil {
			t.Fatal(err)
		}
		return signed + "." + base64.RawURLEncoding.EncodeToString(sig)
	}
	return googlehealth.ServiceAccount{Email: "hooks@project.iam.gserviceaccount.com", KeyID: "k1",
		Key: &key.PublicKey}, sign
}

func (c *cloud) claims(account googlehealth.ServiceAccount) map[string]any {
	return map[string]any{"iss": account.Email, "scope": "https://www.googleapis.com/auth/cloud-platform",
		"aud": "https://oauth2.googleapis.com/token", "iat": c.Now().Unix(), "exp": c.Now().Add(time.Hour).Unix()}
}

func assertion(jwt string) url.Values {
	return url.Values{"grant_type": {"urn:ietf:params:oauth:grant-type:jwt-bearer"}, "assertion": {jwt}}
}

func TestServiceAccount(t *testing.T) {
	account, sign := serviceAccount(t)
	c := newCloud(t, googlehealth.Options{Wearers: 1, ServiceAccounts: []googlehealth.ServiceAccount{account}})
	for name, change := range map[string]struct {
		claim string
		value any
		err   string
	}{
		"valid":     {"iss", account.Email, ""},
		"issuer":    {"iss", "someone@else", "invalid_grant"},
		"audience":  {"aud", "https://evil.example", "invalid_grant"},
		"scope":     {"scope", scope("sleep"), "invalid_scope"},
		"expired":   {"exp", c.Now().Add(-time.Hour).Unix(), "invalid_grant"},
		"long life": {"exp", c.Now().Add(2 * time.Hour).Unix(), "invalid_grant"},
	} {
		claims := c.claims(account)
		claims[change.claim] = change.value
		if got := c.grantError(assertion(sign(claims))); got != change.err {
			t.Errorf("%s: %q, want %q", name, got, change.err)
		}
	}
	_, other := serviceAccount(t)
	if got := c.grantError(assertion(other(c.claims(account)))); got != "invalid_grant" {
		t.Errorf("another key: %q", got)
	}
	token := c.form("/token", assertion(sign(c.claims(account)))).json(t)["access_token"].(string)
	if a := c.do(http.MethodGet, points("steps"), token, nil); a.code != http.StatusUnauthorized {
		t.Errorf("data with the token of a service account: %d", a.code)
	}
}

// TestOverHTTP drops a connection, which needs a real server.
func TestOverHTTP(t *testing.T) {
	c := newCloud(t, googlehealth.Options{Wearers: 1})
	server := httptest.NewServer(c.Server)
	defer server.Close()
	v := request(scope("sleep"))
	v.Set("account", c.Accounts()[0])
	v.Set("decision", "allow")
	code := c.decide(v).Get("code")
	c.Faults().SetRates(map[simulate.Fault]float64{simulate.LostToken: 1})
	if resp, err := http.PostForm(server.URL+"/token", exchange(code)); err == nil {
		_ = resp.Body.Close()
		t.Errorf("the answer is not lost: %d", resp.StatusCode)
	}
	c.Faults().SetRates(nil)
	if got := c.grantError(exchange(code)); got != "invalid_grant" {
		t.Errorf("the code after a lost answer: %q", got)
	}
	if stats := c.Stats(); stats.Tokens != 1 || stats.Answers[0] == 0 {
		t.Errorf("stats: %+v", stats)
	}
}

// TestWriteScopes checks that a token that may only write reads nothing but its own data,
// of which there is none.
func TestWriteScopes(t *testing.T) {
	c := newCloud(t, googlehealth.Options{Wearers: 1})
	write := func(group string) string { return strings.Replace(scope(group), ".readonly", ".writeonly", 1) }
	token := c.access(c.Accounts()[0], write("nutrition"), write("sleep"), write("activity_and_fitness"))
	family := "?dataSourceFamily=users/me/dataSourceFamilies/"
	for target, want := range map[string]int{
		points("hydration-log"):                           http.StatusOK,
		points("hydration-log") + family + "all-sources":  http.StatusForbidden,
		points("hydration-log") + family + "self-sources": http.StatusOK,
		points("sleep"):                http.StatusForbidden,
		points("sleep") + ":reconcile": http.StatusOK,
		points("weight"):               http.StatusForbidden,
	} {
		a := c.do(http.MethodGet, target, token, nil)
		if a.code != want || want == http.StatusOK && strings.TrimSpace(string(a.raw)) != "{}" {
			t.Errorf("%s: %d, %s", target, a.code, a.raw)
		}
	}
	if a := c.form("/o/oauth2/v2/auth", request(write("ecg"))); a.code != http.StatusBadRequest {
		t.Errorf("a scope that does not exist: %d", a.code)
	}
}

// TestTokenDiesEarly checks the fault Expire: the token dies before the stated time.
func TestTokenDiesEarly(t *testing.T) {
	c := newCloud(t, googlehealth.Options{Wearers: 1})
	c.Faults().SetRates(map[simulate.Fault]float64{simulate.Expire: 1})
	body := c.link(c.Accounts()[0])
	c.clock.Add(6 * time.Minute)
	if a := c.do(http.MethodGet, points("weight"), body["access_token"].(string), nil); body["expires_in"] != 3599.0 ||
		a.code != http.StatusUnauthorized {
		t.Errorf("%v, %d", body["expires_in"], a.code)
	}
}
