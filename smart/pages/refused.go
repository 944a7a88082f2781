package pages

import (
	"net/http"
	"path"
	"strings"
)

type refusedData struct{ Text string }

// Refused shows a person why an app's request cannot continue if the error
// cannot be sent to the app. It is used as authorize.Options.Refused.
func (p *Pages) Refused(w http.ResponseWriter, r *http.Request, status int, text string) {
	p.headers(w.Header())
	p.serve(open, func(req *request) error {
		return req.render(status, "refused",
			view{Title: "This app cannot be connected", Narrow: true, Data: refusedData{text}})
	})(w, asGet(r))
}

// Unavailable answers any request for a page with an error, without reading the
// store.
func (p *Pages) Unavailable(w http.ResponseWriter, r *http.Request, err error) {
	p.headers(w.Header())
	(&request{pages: p, writer: w, http: r, visit: p.Cookies.Visit(r)}).fail(err)
}

// IsStatic reports whether r is a request for a file that all visitors share, such
// as a style sheet.
func IsStatic(r *http.Request) bool {
	at := r.URL.Path
	return strings.HasPrefix(at, "/auth/static/") && path.Clean(at) == at && r.URL.EscapedPath() == at
}

// asGet returns r as a GET request, because a form that the app sent is not one
// of ours.
func asGet(r *http.Request) *http.Request {
	page := *r
	page.Method, page.Body = http.MethodGet, http.NoBody
	return &page
}
