package authorize

import (
	"context"
	"net/http"
	"strings"
)

// The browser takes a cookie of the second name from this very host over
// https only: no sibling host and no plain connection can plant it.
const (
	plainCookie  = "pulsegate-authorize"
	secureCookie = "__Host-pulsegate-authorize"
)

type browserKey struct{}

// WithBrowser returns r's context with the browser that sent it, for the methods of
// Flow.
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

// cookie is the binding in ctx; "" none.
func (s *Service) cookie(ctx context.Context) string {
	found, ok := ctx.Value(browserKey{}).(map[string]string)
	if !ok {
		return ""
	}
	return found[s.cookieName()]
}
