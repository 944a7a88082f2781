package authorize

import (
	"context"
	"net/http"
)

const cookieName = "pulsegate-authorize"

type browserKey struct{}

// Bound returns r's context with the browser that sent it, for the methods of
// Flow.
func Bound(r *http.Request) context.Context {
	c, err := r.Cookie(cookieName)
	if err != nil {
		return r.Context()
	}
	return context.WithValue(r.Context(), browserKey{}, c.Value)
}

// browser is the binding in ctx; "" none.
func browser(ctx context.Context) string {
	s, ok := ctx.Value(browserKey{}).(string)
	if !ok {
		return ""
	}
	return s
}
