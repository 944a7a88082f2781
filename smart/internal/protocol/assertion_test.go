package protocol

import (
	"net/url"
	"testing"

	"pulsegate/smart/client"
	"pulsegate/smart/oauth/token"
)

// backendToken returns an access token of a backend client.
func (w *world) backendToken(c client.Client, scopes string) string {
	w.t.Helper()
	s, out, _ := w.postForm(token.Path, c, url.Values{"grant_type": {"client_credentials"}, "scope": {scopes}}, nil)
	if s != 200 {
		w.t.Fatal(s, out)
	}
	return out["access_token"].(string)
}

// TestReplayedAssertionAfterRestart checks that a used assertion stays used.
func TestReplayedAssertionAfterRestart(t *testing.T) {
	w := newWorld(t)
	back := w.backend("system/*.rs")
	form := url.Values{"grant_type": {"client_credentials"}, "scope": {"system/*.rs"},
		"client_assertion":      {w.assertion(back.ID)},
		"client_assertion_type": {"urn:ietf:params:oauth:client-assertion-type:jwt-bearer"}}
	post := func() int {
		res := must(w.browser.PostForm(w.base+token.Path, form))
		if err := res.Body.Close(); err != nil {
			t.Fatal(err)
		}
		return res.StatusCode
	}
	if s := post(); s != 200 {
		t.Fatal(s)
	}
	w.reopen()
	if s := post(); s != 401 {
		t.Error("after a restart:", s)
	}
}
