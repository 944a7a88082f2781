package pages

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"mime"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"pulsegate/fhir"
	"pulsegate/fhir/access"
	"pulsegate/fhir/audit"
	"pulsegate/smart/people/role"
	"pulsegate/smart/people/session"
	"pulsegate/smart/people/signin"
	"pulsegate/smart/people/user"
)

const maxForm = 64 << 10

// request is one request of a browser.
type request struct {
	p     *Pages
	w     http.ResponseWriter
	r     *http.Request
	visit session.Visit
	// x and u are nil when nobody is signed in.
	x *session.Session
	u *user.User
	// body is what a script posted.
	body []byte
}

type handler func(*request) error

type need bool

const (
	open     need = false
	signedIn need = true
)

// serve finds the session, holds what changes something to its own origin and
// token, and renders errors.
func (p *Pages) serve(n need, h handler) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		q := &request{p: p, w: w, r: r, visit: p.Cookies.Visit(r)}
		err := q.enter(n)
		if err == nil {
			err = h(q)
		}
		if err != nil {
			q.fail(err)
		}
	}
}

var errSignIn = fhir.Errorf(fhir.Unauthorized, "pages", "Please sign in.")

func (q *request) enter(n need) error {
	x, u, err := q.p.Sessions.Find(q.r.Context(), q.p.Cookies.Secret(q.r))
	switch {
	case err == nil:
		q.x, q.u = &x, &u
	case fhir.KindOf(err) != fhir.Unauthorized:
		return err
	}
	if q.r.Method == http.MethodPost {
		if err := q.guard(); err != nil {
			return err
		}
	}
	if n == signedIn && q.x == nil {
		return errSignIn
	}
	return nil
}

// guard refuses a request that a foreign page may have sent.
func (q *request) guard() error {
	q.r.Body = http.MaxBytesReader(q.w, q.r.Body, maxForm)
	foreign := fhir.Errorf(fhir.Forbidden, "pages.guard",
		"This page was open for too long, or the request did not come from it. Please go back, reload it and try again.")
	if !q.p.Cookies.SameOrigin(q.r) {
		return foreign
	}
	token := q.r.Header.Get("X-CSRF-Token")
	switch mt, _, _ := mime.ParseMediaType(q.r.Header.Get("Content-Type")); mt {
	case "application/json":
		b, err := io.ReadAll(q.r.Body)
		if err != nil {
			return fhir.Errorf(fhir.TooLarge, "pages.guard", "The request is too large.")
		}
		q.body = b
	case "application/x-www-form-urlencoded":
		if err := q.r.ParseForm(); err != nil {
			return fhir.Errorf(fhir.Invalid, "pages.guard", "The form cannot be read.")
		}
		token = q.r.PostForm.Get("csrf")
	default:
		return fhir.Errorf(fhir.Unsupported, "pages.guard", "A form is needed.")
	}
	if session.TokenOK(q.visit.CSRF, token) && !q.visit.Expires.IsZero() || q.x != nil &&
		session.TokenOK(q.x.CSRF, token) {
		return nil
	}
	return foreign
}

// csrf is the token that the page's forms carry.
func (q *request) csrf() string {
	if q.x != nil {
		return q.x.CSRF
	}
	return q.visit.CSRF
}

// caller returns the caller of the request, without a principal.
func (q *request) caller() audit.Caller {
	return audit.Caller{RemoteIP: remote(q.r), RequestID: q.w.Header().Get("X-Request-Id")}
}

// from is where the request comes from.
func (q *request) from() signin.From {
	return signin.From{Caller: q.caller(),
		Agent: agent(q.r.UserAgent()), Device: func(id string) string { return q.p.Cookies.Device(q.r, id) }}
}

func remote(r *http.Request) string {
	if host, _, err := net.SplitHostPort(r.RemoteAddr); err == nil {
		return host
	}
	return r.RemoteAddr
}

// by is the person, with what their role may see.
func (q *request) by() audit.Caller {
	p := q.p.SignIn.Principal(q.u)
	rules := q.u.Roles.Rules()
	if !q.u.Roles.Staff() {
		for i := range rules {
			rules[i].Patient = q.u.Patient // the own compartment
		}
	}
	p.Grant = &access.Grant{Rules: rules}
	return q.caller().As(p)
}

func (q *request) glassBy() audit.Caller {
	return q.caller().As(q.p.SignIn.Principal(q.u))
}

func (q *request) actor() signin.Actor { return signin.Actor{User: q.u, Session: q.x} }

// may refuses what the person's role does not do.
func (q *request) may(a role.Action) error {
	if !q.u.Roles.May(a) {
		return fhir.Errorf(fhir.Forbidden, "pages.may", "Your role does not do this.")
	}
	return nil
}

// strong asks for a fresh passkey before a page whose form needs one.
func (q *request) strong(a role.Action) error {
	if err := q.may(a); err != nil {
		return err
	}
	if role.StepUp(a) && !q.x.Meets(session.StepUp(), q.p.Clock()) {
		return signin.ErrStepUp
	}
	return nil
}

// link is one entry of the navigation.
type link struct {
	Href, Text string
	Here       bool
}

// view is what every template gets.
type view struct {
	Title string
	Nav   []link
	User  *user.User
	CSRF  string
	Good  string // something was done
	Bad   string // something is wrong with the form
	// Wrong are errors beside fields, by the id of the field; see wrong.
	Wrong map[string]string
	// Untold is the number of emergency accesses that the patient has not
	// acknowledged.
	Untold  int
	Narrow  bool
	Version string
	Data    any
}

func (q *request) nav() []link {
	if q.u == nil {
		return nil
	}
	all := []struct {
		href, text string
		show       bool
	}{
		{"/auth/", "Account", true},
		{"/auth/apps", "Apps", true},
		{"/auth/notices", "Notices", q.u.Patient != ""},
		{"/auth/launches", "Launch an app", q.p.Launcher != nil && q.u.Roles.May(role.Launch)},
		{"/auth/emergency", "Emergency access", q.u.Roles.May(role.BreakGlass)},
		{"/auth/reviews", "Reviews", q.u.Roles.May(role.Review)},
		{"/auth/users", "People", q.u.Roles.May(role.ManageUsers)},
		{"/auth/clients", "Clients", q.u.Roles.May(role.ManageClients)},
	}
	var out []link
	for _, l := range all {
		if l.show {
			here := q.r.URL.Path == l.href || l.href != "/auth/" && strings.HasPrefix(q.r.URL.Path, l.href+"/")
			out = append(out, link{l.href, l.text, here})
		}
	}
	return out
}

// render writes a page.
func (q *request) render(status int, name string, v view) error {
	v.Bad = v.whole()
	v.User, v.CSRF, v.Nav, v.Version = q.u, q.csrf(), q.nav(), q.p.Version
	if q.x == nil {
		if err := q.p.Cookies.SetVisit(q.w, q.visit); err != nil {
			return err
		}
	}
	if q.u != nil && q.u.Patient != "" && q.r.URL.Path != "/auth/notices" {
		var err error
		if v.Untold, err = q.p.Glass.Untold(q.r.Context(), q.u.Patient); err != nil {
			return err
		}
	}
	var b bytes.Buffer
	if err := q.p.views[name].ExecuteTemplate(&b, "layout.html", v); err != nil {
		return fhir.Wrap("pages.render", err)
	}
	q.w.Header().Set("Content-Type", "text/html; charset=utf-8")
	q.w.WriteHeader(status)
	if _, err := q.w.Write(b.Bytes()); err != nil {
		return nil // the browser has gone
	}
	return nil
}

// to sends the browser on, after a form by GET.
func (q *request) to(path string) error {
	q.w.Header().Set("Location", path)
	q.w.WriteHeader(http.StatusSeeOther)
	return nil
}

// answer is for the script.
func (q *request) answer(status int, v any) error {
	q.w.Header().Set("Content-Type", "application/json")
	q.w.WriteHeader(status)
	if err := json.NewEncoder(q.w).Encode(v); err != nil {
		return nil // the browser has gone
	}
	return nil
}

// words is what a person may read of an error.
func words(err error) string {
	var e *fhir.Error
	if errors.As(err, &e) && len(e.Issues) > 0 {
		s := e.Issues[0].Diagnostics
		if s != "" {
			s = strings.ToUpper(s[:1]) + s[1:]
			if !strings.HasSuffix(s, ".") {
				s += "."
			}
		}
		return s
	}
	return "Something went wrong on our side. It has been logged."
}

// here is the page to come back to after a sign-in or step-up.
func (q *request) here() string {
	if q.r.Method == http.MethodGet {
		return q.r.URL.RequestURI()
	}
	// A form's own page: the same path, or the list that it belongs to.
	for path := q.r.URL.Path; ; path = path[:strings.LastIndexByte(path, '/')] {
		if _, pattern := q.p.mux.Handler(&http.Request{Method: http.MethodGet,
			URL: &url.URL{Path: path}}); pattern != "/" || path == "/auth" {
			if path == "/auth" {
				path = "/auth/"
			}
			return path
		}
	}
}

func (q *request) fail(err error) {
	kind := fhir.KindOf(err)
	script := q.body != nil
	status := kind.HTTPStatus()
	switch {
	case kind == fhir.Internal || kind == fhir.Unavailable:
		q.p.Logger.ErrorContext(q.r.Context(), "page failed", "error", err, "request", q.w.Header().Get("X-Request-Id"))
	case script:
	case errors.Is(err, errSignIn) && q.r.Method == http.MethodGet:
		q.instead(q.to("/auth/signin?" + url.Values{"return": {q.here()}}.Encode()))
		return
	case errors.Is(err, errSignIn):
		q.instead(q.to("/auth/signin?" + url.Values{"return": {q.here()}, "ended": {"1"}}.Encode()))
		return
	case errors.Is(err, signin.ErrStepUp):
		q.instead(q.to("/auth/stepup?" + url.Values{"return": {q.here()}}.Encode()))
		return
	}
	var wait interface{ RetryAfter() time.Duration }
	if errors.As(err, &wait) {
		q.w.Header().Set("Retry-After", strconv.Itoa(int(wait.RetryAfter()/time.Second)+1))
	}
	if script {
		q.instead(q.answer(status, map[string]string{"error": words(err)}))
		return
	}
	title := map[fhir.Kind]string{fhir.NotFound: "Not found", fhir.Forbidden: "Not allowed",
		fhir.TooMany: "Please wait a little"}[kind]
	if title == "" {
		title = "That did not work"
	}
	q.instead(q.render(status, "error", view{Title: title, Narrow: true, Data: words(err)}))
}

// instead notes that what stands for a failed page failed, too.
func (q *request) instead(err error) {
	if err != nil {
		q.p.Logger.ErrorContext(q.r.Context(), "error page failed", "error", err)
	}
}
