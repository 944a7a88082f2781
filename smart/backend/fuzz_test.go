package backend

import (
	"net/http"
	"strings"
	"testing"
)

// FuzzTokenResponse checks that what an authorization server answers gives a token that a
// header can hold, for a bounded time, or an error without what was answered.
func FuzzTokenResponse(f *testing.F) {
	for _, s := range []string{"", "{}", `{"access_token":"a","token_type":"Bearer","expires_in":300}`,
		`{"access_token":"a","token_type":"bearer","expires_in":1e308}`, `{"access_token":"a\r\nb","token_type":"Bearer"}`,
		`{"access_token":"a","token_type":"mac"}`, `{"access_token":"a","token_type":"Bearer","expires_in":-1}`,
		`{"error":"invalid_client","error_description":"secret"}`, `{"error":"secret"}`, `[`} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, body string) {
		token, life, err := parse([]byte(body))
		if err == nil && (token == "" || strings.ContainsFunc(token, func(r rune) bool { return r <= ' ' || r > '~' }) ||
			life < 0 || life > maxCache) {
			t.Errorf("%q: token %q for %v", body, token, life)
		}
		for _, status := range []int{http.StatusBadRequest, http.StatusUnauthorized, http.StatusServiceUnavailable} {
			if err := refusal(status, []byte(body)); err == nil || strings.Contains(err.Error(), "secret") {
				t.Errorf("%d %q: %v", status, body, err)
			}
		}
	})
}
