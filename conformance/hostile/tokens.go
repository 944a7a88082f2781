package main

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"pulsegate/conformance/blackbox"
)

const assertionType = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"

// claims are the claims or the header of a JWT.
type claims map[string]any

func b64(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }

// unsigned returns the part of a JWS that is signed.
func unsigned(header, body claims) (string, error) {
	h, err := json.Marshal(header)
	if err != nil {
		return "", err
	}
	c, err := json.Marshal(body)
	return b64(h) + "." + b64(c), err
}

// claims returns valid claims of a client assertion.
func (w *world) claims(c *blackbox.Client) claims {
	now := time.Now().Unix()
	return claims{"iss": c.ID, "sub": c.ID, "aud": w.srv.Base + "/oauth/token", "jti": blackbox.NewJTI(),
		"iat": now, "exp": now + 200}
}

func (w *world) tokens() error {
	for _, part := range []func() error{w.assertions, w.replays, w.scopes, w.forms, w.accessTokens} {
		if err := part(); err != nil {
			return err
		}
	}
	return nil
}

// ask posts a form to the token endpoint and notes the answer.
func (w *world) ask(name string, form url.Values, wantCode string, want ...int) {
	answer, err := w.request("POST", form.Encode(), "application/x-www-form-urlencoded", wantCode, want)
	w.note("token: "+name, answer, err)
}

// request sends a request to the token endpoint, repeatedly while it is throttled, and
// checks the answer.
func (w *world) request(method, body, mime, wantCode string, want []int) (string, error) {
	for range 40 {
		req, err := http.NewRequest(method, w.srv.Base+"/oauth/token", strings.NewReader(body))
		if err != nil {
			return "", err
		}
		req.Header.Set("Content-Type", mime)
		resp, err := w.ehr.HTTP.Do(req)
		if err != nil {
			return "", err
		}
		b, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
		if err := errors.Join(err, resp.Body.Close()); err != nil {
			return "", err
		}
		if resp.StatusCode == http.StatusTooManyRequests {
			time.Sleep(250 * time.Millisecond)
			continue
		}
		var out struct {
			Error       string
			Description string `json:"error_description"`
		}
		if err := json.Unmarshal(b, &out); err != nil || !slices.Contains(want, resp.StatusCode) ||
			out.Error != wantCode || out.Description == "" {
			return "", fmt.Errorf("%d %q, want %v %s", resp.StatusCode, out.Error, want, wantCode)
		}
		return fmt.Sprintf("%d %s: %s", resp.StatusCode, out.Error, out.Description), w.secret("the answer", string(b))
	}
	return "", errors.New("throttled for 10 s")
}

// form returns a token request with a client assertion.
func form(assertion, scope string) url.Values {
	return url.Values{"grant_type": {"client_credentials"}, "scope": {scope},
		"client_assertion_type": {assertionType}, "client_assertion": {assertion}}
}

func (w *world) assertions() error {
	header := claims{"alg": "ES384", "kid": "k1", "typ": "JWT"}
	other, err := blackbox.NewKey()
	if err != nil {
		return err
	}
	jwks, err := w.key.JWKS()
	if err != nil {
		return err
	}
	signed := func(key *blackbox.Key, header, body claims) (string, error) {
		s, err := unsigned(header, body)
		if err != nil {
			return "", err
		}
		sig, err := key.Sign([]byte(s))
		return s + "." + b64(sig), err
	}
	with := func(base claims, kv ...any) claims {
		out := claims{}
		for k, v := range base {
			out[k] = v
		}
		for i := 0; i+1 < len(kv); i += 2 {
			if out[kv[i].(string)] = kv[i+1]; kv[i+1] == nil {
				delete(out, kv[i].(string))
			}
		}
		return out
	}
	now := time.Now().Unix()
	for _, c := range []struct {
		name   string
		key    *blackbox.Key
		header claims
		body   []any
	}{
		{"the key of another client", other, header, nil},
		{"another kid", w.key, with(header, "kid", canary), nil},
		{"another algorithm in the header (RS384)", w.key, with(header, "alg", "RS384"), nil},
		{"the key in the header (jwk)", other, with(header, "jwk", json.RawMessage(`{"kty":"EC"}`)), nil},
		{"the URL of the key in the header (jku)", other, with(header, "jku", "http://169.254.169.254/zanaria"), nil},
		{"crit", w.key, with(header, "crit", []string{canary}), nil},
		{"wrong aud", w.key, header, []any{"aud", "https://zanaria.example/token"}},
		{"no aud", w.key, header, []any{"aud", nil}},
		{"exp an hour ahead", w.key, header, []any{"exp", now + 3600}},
		{"expired", w.key, header, []any{"exp", now - 120}},
		{"no exp", w.key, header, []any{"exp", nil}},
		{"exp of 1e300", w.key, header, []any{"exp", 1e300}},
		{"iat in the future", w.key, header, []any{"iat", now + 600}},
		{"no jti", w.key, header, []any{"jti", nil}},
		{"a jti of 5000 characters", w.key, header, []any{"jti", strings.Repeat(canary, 714)}},
		{"iss and sub differ", w.key, header, []any{"iss", canary}},
		{"an unknown client", w.key, header, []any{"iss", "nobody", "sub", "nobody"}},
	} {
		a, err := signed(c.key, c.header, with(w.claims(w.ehr), c.body...))
		if err != nil {
			return err
		}
		w.ask(c.name, form(a, "system/Patient.rs"), "invalid_client", 400, 401)
	}
	s, err := unsigned(with(header, "alg", "none"), w.claims(w.ehr))
	if err != nil {
		return err
	}
	w.ask("alg none without a signature", form(s+".", "system/Patient.rs"), "invalid_client", 401)
	w.ask("alg none with a signature", form(s+".AAAA", "system/Patient.rs"), "invalid_client", 401)
	if s, err = unsigned(with(header, "alg", "HS256"), w.claims(w.ehr)); err != nil {
		return err
	}
	mac := hmac.New(sha256.New, jwks)
	mac.Write([]byte(s))
	w.ask("HS256 with the public key as the secret", form(s+"."+b64(mac.Sum(nil)), "system/Patient.rs"),
		"invalid_client", 401)
	a, err := w.ehr.Assertion(blackbox.NewJTI())
	if err != nil {
		return err
	}
	w.ask("a signature with one character changed", form(flip(a), "system/Patient.rs"), "invalid_client", 401)
	w.ask("a megabyte of dots", form(strings.Repeat(".", 1<<20), "x"), "invalid_request", 400, 413)
	return nil
}

// flip changes one character in the middle of the signature of a token.
func flip(tok string) string {
	i := len(tok) - 40
	c := byte('A')
	if tok[i] == c {
		c = 'B'
	}
	return tok[:i] + string(c) + tok[i+1:]
}

func (w *world) replays() error {
	a, err := w.ehr.Assertion(blackbox.NewJTI())
	if err != nil {
		return err
	}
	status, _, err := w.ehr.TokenRequest(a, "system/Patient.rs")
	if err != nil || status != 200 {
		return fmt.Errorf("a valid assertion: %d %v", status, err)
	}
	w.ask("an assertion used twice", form(a, "system/Patient.rs"), "invalid_client", 400, 401)
	if err := w.restart(); err != nil {
		return err
	}
	w.ask("… after kill -9 and restart", form(a, "system/Patient.rs"), "invalid_client", 400, 401)
	return nil
}

// restart kills and restarts the server.
func (w *world) restart() error {
	if err := w.srv.Kill(); err != nil {
		return err
	}
	if err := w.secret("the log before kill -9", w.srv.Log()); err != nil {
		w.fail("log", err)
	}
	if err := noErrors(w.srv.Log()); err != nil {
		w.fail("errors in the log before kill -9", err)
	}
	return w.srv.Restart()
}

const category = "category=http://terminology.hl7.org/CodeSystem/observation-category|"

func (w *world) scopes() error {
	const granular = "system/Observation.rs?" + category + "vital-signs"
	for _, c := range []struct{ name, registered, requested string }{
		{"another type than registered", "system/Observation.rs", "system/Patient.rs"},
		{"v1 write, for a reader", "system/Observation.rs", "system/Observation.write"},
		{"a user's scope", "system/Observation.rs", "user/Observation.rs"},
		{"a malformed scope", "system/Observation.rs", canary},
	} {
		client, err := w.register(c.registered)
		if err != nil {
			return err
		}
		a, err := client.Assertion(blackbox.NewJTI())
		if err != nil {
			return err
		}
		w.ask("scope: "+c.name, form(a, c.requested), "invalid_scope", 400)
	}
	for _, c := range []struct{ name, registered, requested, wider string }{
		{"more than the registered interactions", "system/Observation.rs", "system/Observation.cruds", "Device"},
		{"everything, for a reader", "system/Observation.rs", "system/*.cruds", "Device"},
		{"the whole type, for a granular client", granular, "system/Observation.rs",
			"Observation?" + category + "activity"},
		{"another category, for a granular client", granular, "system/Observation.rs?" + category + "activity",
			"Observation?" + category + "activity&_count=500"},
	} {
		answer, err := w.narrowed(c.registered, c.requested, c.wider)
		w.note("scope: "+c.name, answer, err)
	}
	reader, err := w.register("system/Observation.rs system/Patient.rs")
	if err != nil {
		return err
	}
	id := fmt.Sprint(w.kept[0]["id"])
	for _, h := range []attack{
		{name: "a reader creates", path: "Observation", body: text(fmt.Sprintf(vital, w.patient, ""))},
		{name: "a reader updates", method: "PUT", path: "Observation/" + id,
			body: text(strings.Replace(fmt.Sprintf(vital, w.patient, ""), `"status"`, `"id":"`+id+`","status"`, 1))},
		{name: "a reader deletes", method: "DELETE", path: "Observation/" + id},
		{name: "a reader ingests", path: "/ingest/oura/auto?patient=" + w.patient,
			body: text(string(good["sleep.json"]))},
		{name: "a reader of other types reads Consents", method: "GET", path: "Consent"},
		{name: "a reader of other types reads AuditEvents", method: "GET", path: "AuditEvent"},
	} {
		h.by, h.want = reader, []int{403}
		w.try(h)
	}
	return nil
}

// narrowed requests more than the registered scope. The server may refuse, or grant
// less and report that (RFC 6749 3.3). The token must not allow more than the
// registration, neither the search wider nor a create.
func (w *world) narrowed(registered, requested, wider string) (string, error) {
	client, err := w.register(registered)
	if err != nil {
		return "", err
	}
	a, err := client.Assertion(blackbox.NewJTI())
	if err != nil {
		return "", err
	}
	status, out, err := client.TokenRequest(a, requested)
	if err != nil {
		return "", err
	}
	if status == 400 && out["error"] == "invalid_scope" {
		return "400 invalid_scope", nil
	}
	granted := fmt.Sprint(out["scope"])
	if status != 200 || granted == requested {
		return "", fmt.Errorf("%d, granted %s", status, granted)
	}
	client.Static = fmt.Sprint(out["access_token"])
	status, body, err := w.send(attack{path: "Observation", body: text(fmt.Sprintf(vital, w.patient, "")), by: client})
	if err == nil && status != 403 {
		err = fmt.Errorf("a create with the token: %d %s", status, body)
	}
	if err != nil {
		return "", err
	}
	if status, body, err = w.send(attack{method: "GET", path: wider, by: client}); err != nil {
		return "", err
	}
	var b struct {
		Entry []struct{ Resource map[string]any }
	}
	if err := json.Unmarshal(body, &b); err != nil {
		return "", err
	}
	if status != 403 && status != 200 {
		return "", fmt.Errorf("a search with the token: %d", status)
	}
	for _, e := range b.Entry {
		if !vitalSign(e.Resource) {
			return "", fmt.Errorf("the token shows %v", e.Resource["id"])
		}
	}
	return "200, narrowed to " + granted, nil
}

func (w *world) forms() error {
	fresh := func() url.Values {
		a, err := w.ehr.Assertion(blackbox.NewJTI())
		if err != nil {
			w.fail("assertion", err)
		}
		return form(a, "system/Patient.rs")
	}
	for _, missing := range []string{"grant_type", "client_assertion_type", "client_assertion"} {
		f := fresh()
		f.Del(missing)
		w.ask("without "+missing, f, "invalid_request", 400)
	}
	f := fresh()
	f.Del("scope")
	w.ask("without scope", f, "invalid_scope", 400)
	for _, twice := range []string{"grant_type", "scope", "client_assertion"} {
		f := fresh()
		f.Add(twice, canary)
		w.ask("two "+twice, f, "invalid_request", 400)
	}
	f = fresh()
	f.Set("grant_type", "password")
	w.ask("another grant_type", f, "unsupported_grant_type", 400)
	f = fresh()
	f.Set("client_id", canary)
	w.ask("another client_id", f, "invalid_request", 400)
	for _, m := range []string{"GET", "PUT", "DELETE"} {
		answer, err := w.request(m, "", "", "invalid_request", []int{405})
		w.note("token: "+m, answer, err)
	}
	answer, err := w.request("POST", `{"grant_type":"Zanaria"}`, "application/json", "invalid_request", []int{400, 415})
	w.note("token: JSON", answer, err)
	answer, err = w.request("POST", "%zz=Zanaria", "application/x-www-form-urlencoded", "invalid_request", []int{400})
	w.note("token: a malformed form", answer, err)
	return nil
}

func (w *world) accessTokens() error {
	good, err := w.ehr.Token()
	if err != nil {
		return err
	}
	parts := strings.Split(good, ".")
	body, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		return err
	}
	none := b64([]byte(`{"alg":"none","typ":"at+jwt"}`))
	wide := b64(bytes.Replace(body, []byte(`"exp":`), []byte(`"exp":9`), 1))
	assertion, err := w.ehr.Assertion(blackbox.NewJTI())
	if err != nil {
		return err
	}
	for _, c := range []struct{ name, token string }{
		{"one character of the signature changed", flip(good)},
		{"a later exp, the old signature", parts[0] + "." + wide + "." + parts[2]},
		{"alg none", none + "." + parts[1] + "."},
		{"without its signature", parts[0] + "." + parts[1] + "."},
		{"a client assertion instead", assertion},
		{"no token", "-"},
		{"10 KiB of letters", strings.Repeat("z", 10<<10)},
		{"not a token", canary},
	} {
		by := w.client("nobody", "")
		by.Static = c.token
		w.try(attack{name: "access token: " + c.name, method: "GET", path: "Observation", by: by, want: []int{401}})
		w.try(attack{name: "access token at /ingest: " + c.name, path: "/ingest/oura/auto?patient=" + w.patient,
			body: text("{}"), by: by, want: []int{401}})
	}
	w.try(attack{name: "access token in the URL", method: "GET", path: "Observation?access_token=" + good,
		by: anonymous(w), want: []int{401}})
	gone, err := w.register("system/Observation.rs")
	if err != nil {
		return err
	}
	if _, err := gone.Token(); err != nil {
		return err
	}
	if err := w.srv.Run(nil, "client", "disable", gone.ID); err != nil {
		return err
	}
	w.try(attack{name: "access token of a client that has been disabled", method: "GET", path: "Observation", by: gone,
		want: []int{401}})
	a, err := gone.Assertion(blackbox.NewJTI())
	if err != nil {
		return err
	}
	w.ask("an assertion of a disabled client", form(a, "system/Observation.rs"), "invalid_client", 401)
	return nil
}

// anonymous returns a client that sends no token.
func anonymous(w *world) *blackbox.Client {
	c := w.client("nobody", "")
	c.Static = "-"
	return c
}
