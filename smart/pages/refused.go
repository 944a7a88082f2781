package pages

import "net/http"

type refusedData struct{ Text string }

// Refused shows a person why an app's request cannot go on, when there is no
// app to tell: authorize.Options.Refused.
func (p *Pages) Refused(w http.ResponseWriter, r *http.Request, status int, text string) {
	p.headers(w.Header())
	p.serve(open, func(q *request) error {
		return q.render(status, "refused",
			view{Title: "This app cannot be connected", Narrow: true, Data: refusedData{text}})
	})(w, shown(r))
}

// shown is r as a request for a page: a form that an app sent is none of ours.
func shown(r *http.Request) *http.Request {
	page := *r
	page.Method, page.Body = http.MethodGet, http.NoBody
	return &page
}
