package authorize

import (
	"context"
	"net/http"
	"strings"
)

// cookie names. Browsers accept a cookie with the prefix __Host- only from the
// host itself over https, so that neither a sibling host nor a plaintext
// connection can set it.
const (
	plainCookie  = "pulsegate-authorize"
	secureCookie = "__Host-pulsegate-authorize"
)

type browserKey struct{}

// WithBrowser returns the context of r with the cookies that identify the
// browser. The methods of Flow require it.
func WithBrowser(r *http.Request) context.Context {
	found := map[string]string{}
	for _, name := range []string{plainCookie, secureCookie} {
		if c, err := r.Cookie(name); err == nil {
			found[name] = c.Value
		}
	}
	return context.WithValue(r.Context(), browserKey{}, found)
}

func (s *Service) secure() bool { return strings.HasPrefix(s.opts.Issuer, "https:") }

func (s *Service) cookieName() string {
	if s.secure() {
		return secureCookie
	}
	return plainCookie
}

// cookie returns the browser's secret from a context of WithBrowser, or "" if
// there is none.
func (s *Service) cookie(ctx context.Context) string {
	found, ok := ctx.Value(browserKey{}).(map[string]string)
	if !ok {
		return ""
	}
	return found[s.cookieName()]
}
