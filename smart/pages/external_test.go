package pages_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"github.com/lestrrat-go/jwx/v2/jwa"
	"github.com/lestrrat-go/jwx/v2/jwk"
	"github.com/lestrrat-go/jwx/v2/jws"

	"pulsegate/smart/people/authn"
)

// hospital is an OpenID provider that signs everyone in as sub, with acr.
type hospital struct {
	srv             *httptest.Server
	sub, acr, nonce string
}

func newHospital(w *world) *hospital {
	h := &hospital{}
	raw, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(w.t, err)
	key, err := jwk.FromRaw(raw)
	must(w.t, err)
	pub, err := key.PublicKey()
	must(w.t, err)
	set := jwk.NewSet()
	must(w.t, set.AddKey(pub))
	mux := http.NewServeMux()
	write := func(rw http.ResponseWriter, v any) {
		if err := json.NewEncoder(rw).Encode(v); err != nil {
			w.t.Error(err)
		}
	}
	mux.HandleFunc("/.well-known/openid-configuration", func(rw http.ResponseWriter, _ *http.Request) {
		write(rw, map[string]string{"issuer": h.srv.URL, "authorization_endpoint": h.srv.URL + "/authorize",
			"token_endpoint": h.srv.URL + "/token", "jwks_uri": h.srv.URL + "/jwks"})
	})
	mux.HandleFunc("/jwks", func(rw http.ResponseWriter, _ *http.Request) { write(rw, set) })
	mux.HandleFunc("/authorize", func(rw http.ResponseWriter, r *http.Request) {
		q := r.URL.Query()
		h.nonce = q.Get("nonce")
		http.Redirect(rw, r, q.Get("redirect_uri")+"?"+
			url.Values{"code": {"c"}, "state": {q.Get("state")}, "iss": {h.srv.URL}}.Encode(), http.StatusSeeOther)
	})
	mux.HandleFunc("/token", func(rw http.ResponseWriter, _ *http.Request) {
		now := w.now().Unix()
		p, err := json.Marshal(map[string]any{"iss": h.srv.URL, "sub": h.sub, "aud": "pulsegate", "nonce": h.nonce,
			"acr": h.acr, "iat": now, "exp": now + 60})
		if err != nil {
			w.t.Error(err)
		}
		b, err := jws.Sign(p, jws.WithKey(jwa.ES256, key))
		if err != nil {
			w.t.Error(err)
		}
		write(rw, map[string]string{"access_token": "x", "token_type": "Bearer", "id_token": string(b)})
	})
	h.srv = httptest.NewTLSServer(mux)
	w.t.Cleanup(h.srv.Close)
	for _, s := range w.allSigns {
		s.Provider = &authn.Provider{Issuer: h.srv.URL, ClientID: "pulsegate",
			Redirect: w.base + "/auth/external/callback", Name: "General Hospital",
			MFA: []string{"gold"}, HTTP: h.srv.Client(), Clock: w.now}
	}
	return h
}

// TestHospitalSignIn checks that an account can be connected with a one-time
// link and then used to sign in, that staff need a second factor, and that
// other identities are refused.
func TestHospitalSignIn(t *testing.T) {
	w := newWorld(t)
	h := newHospital(w)
	h.sub, h.acr = "doc-1", "silver"
	b := w.browser()
	link := w.invite("doc", "Dr. Doc", "practitioner")
	accept := func() {
		t.Helper()
		b.get(link).post("/auth/invite",
			url.Values{"token": {strings.SplitN(link, "token=", 2)[1]}}).has("Connect with General Hospital")
	}
	accept()
	b.get("/auth/enrol/external").status(403).has("second factor")
	h.acr = "gold"
	accept() // the refused response did not use up the link
	b.get("/auth/enrol/external").at("/auth/").status(200).has("Dr. Doc")

	c := w.browser()
	c.get("/auth/signin").has("Sign in with General Hospital").get(
		"/auth/external?return=/auth/apps").at("/auth/apps").status(200)
	h.acr = "silver"
	w.browser().get("/auth/external").status(401).has("was not accepted here")
	h.sub, h.acr = "stranger", "gold"
	w.browser().get("/auth/external").status(401).has("was not accepted here")
	// A response that this browser did not request.
	w.browser().get("/auth/external/callback?code=c&state=s").status(400)
	// A sign-in at the hospital does not count as a passkey, so a step-up is
	// required.
	c.get("/auth/emergency").at("/auth/stepup")
}
