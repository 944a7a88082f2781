package server

import (
	_ "embed"
	"html/template"
	"net/http"

	"pulsegate/adapters/vendors"
)

//go:embed landing.html
var landingHTML string

// landing answers GET / with a page that tells people what the server is, whether
// it is healthy, and which addresses it has.
type landing struct {
	base  string
	ready func() error
	page  *template.Template
}

func newLanding(base string, ready func() error) (*landing, error) {
	t, err := template.New("landing").Parse(landingHTML)
	if err != nil {
		return nil, err
	}
	return &landing{base: base, ready: ready, page: t}, nil
}

func (l *landing) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'; img-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("Cache-Control", "no-store")
	data := struct {
		Base, Problem, Vendors string
	}{Base: l.base, Vendors: vendors.Names()}
	if err := l.ready(); err != nil {
		data.Problem = err.Error()
	}
	if err := l.page.Execute(w, data); err != nil {
		return // the client has closed the connection
	}
}
