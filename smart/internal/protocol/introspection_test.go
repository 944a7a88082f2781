package protocol

import (
	"fmt"
	"net/http"
	"net/url"
	"testing"

	"pulsegate/smart/client"
	"pulsegate/smart/oauth/introspect"
	"pulsegate/smart/oauth/token"
)

func TestIntrospectionAndRevocation(t *testing.T) {
	w := newWorld(t)
	c, other := w.app(client.SecretBasic, nil), w.app(client.SecretPost, nil)
	rs := w.app(client.PrivateKeyJWT, func(c *client.Client) { c.Inspects = true })
	public := w.app(client.None, nil)
	out := w.authorize(c, "openid fhirUser launch/patient offline_access patient/*.rs")
	look := func(as client.Client, tok any) (int, m) {
		s, a, _ := w.postForm(introspect.Path, as, url.Values{"token": {fmt.Sprint(tok)}}, nil)
		return s, a
	}
	_, id := claimsOf(t, out["id_token"])
	for _, as := range []client.Client{c, rs} {
		s, a := look(as, out["access_token"])
		if s != 200 || a["active"] != true || a["client_id"] != c.ID || a["scope"] != out["scope"] ||
			a["patient"] != "p1" || a["exp"] == nil ||
			a["iss"] != id["iss"] || a["sub"] != id["sub"] || a["fhirUser"] != id["fhirUser"] {
			t.Errorf("%d %v", s, a)
		}
	}
	if s, a := look(c, out["refresh_token"]); s != 200 || a["active"] != true || a["scope"] != out["scope"] {
		t.Error(s, a)
	}
	dead := func(name string, as client.Client, tok any) {
		t.Helper()
		if s, a := look(as, tok); s != 200 || len(a) != 1 || a["active"] != false {
			t.Errorf("%s: %d %v", name, s, a)
		}
	}
	dead("another client's access token", other, out["access_token"])
	dead("another client's refresh token", other, out["refresh_token"])
	dead("nonsense", c, "nonsense")
	dead("an id_token", c, out["id_token"])
	dead("a guess", c, unknownRefreshToken)
	if s, a := look(public, out["access_token"]); s != 401 || a["error"] != "invalid_client" {
		t.Error("a public client:", s, a)
	}
	bad := c
	bad.ID = "nobody"
	if s, _ := look(bad, out["access_token"]); s != 401 {
		t.Error("an unknown client:", s)
	}
	if s, a, _ := w.postForm(introspect.Path, public, url.Values{"token": {out["access_token"].(string)}},
		func(r *http.Request) {
			r.Header.Set("Authorization", "Bearer "+out["access_token"].(string))
		}); s != 200 || a["active"] != true {
		t.Error("with a bearer token:", s, a)
	}
	revoke := func(as client.Client, tok any) {
		t.Helper()
		if s, a, _ := w.postForm(introspect.RevokePath, as, url.Values{"token": {fmt.Sprint(tok)}}, nil); s != 200 {
			t.Fatal(s, a)
		}
	}
	revoke(other, out["access_token"])
	revoke(other, out["refresh_token"])
	revoke(c, "nonsense")
	if s := w.read(out["access_token"], "Patient/p1"); s != 200 {
		t.Error("another client revoked:", s)
	}
	revoke(c, out["access_token"])
	if s := w.read(out["access_token"], "Patient/p1"); s != 401 {
		t.Error("after revocation:", s)
	}
	dead("a revoked token", c, out["access_token"])
	s, next := w.refresh(c, out["refresh_token"], nil)
	if s != 200 {
		t.Fatal("the refresh token went with the access token:", s, next)
	}
	revoke(c, next["refresh_token"])
	if s := w.read(next["access_token"], "Patient/p1"); s != 401 {
		t.Error("after revocation of the refresh token:", s)
	}
	if s, _ := w.refresh(c, next["refresh_token"], nil); s != 400 {
		t.Error(s)
	}
	w.reopen()
	dead("after a restart", c, out["access_token"])
	back := w.backend("system/*.rs")
	_, bt, _ := w.postForm(token.Path, back, url.Values{"grant_type": {"client_credentials"}, "scope": {"system/*.rs"}},
		nil)
	if s := w.read(bt["access_token"], "Patient/p1"); s != 200 {
		t.Fatal(s, bt)
	}
	revoke(back, bt["access_token"])
	if s := w.read(bt["access_token"], "Patient/p1"); s != 401 {
		t.Error("a backend's revoked token:", s)
	}
}
