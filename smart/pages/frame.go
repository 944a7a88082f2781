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

// request holds the state of one HTTP request to a page.
type request struct {
	pages  *Pages
	writer http.ResponseWriter
	http   *http.Request
	visit  session.Visit
	// session and user are nil if the browser has no session.
	session *session.Session
	user    *user.User
	// body is the JSON that a script posted, nil for other requests.
	body []byte
}

type handler func(*request) error

type need bool

const (
	open     need = false
	signedIn need = true
)

// serve wraps a page handler: it finds the session, checks the origin and CSRF
// token of requests that change state, and renders errors.
func (p *Pages) serve(n need, h handler) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		req := &request{pages: p, writer: w, http: r, visit: p.Cookies.Visit(r)}
		err := req.enter(n)
		if err == nil {
			err = h(req)
		}
		if err != nil {
			req.fail(err)
		}
	}
}

var errSignIn = fhir.Errorf(fhir.Unauthorized, "pages", "Please sign in.")

func (req *request) enter(n need) error {
	x, u, err := req.pages.Sessions.Find(req.http.Context(), req.pages.Cookies.Secret(req.http))
	switch {
	case err == nil:
		req.session, req.user = &x, &u
	case fhir.KindOf(err) != fhir.Unauthorized:
		return err
	}
	if req.http.Method == http.MethodPost {
		if err := req.checkForgery(); err != nil {
			return err
		}
	}
	if n == signedIn && req.session == nil {
		return errSignIn
	}
	return nil
}

// checkForgery refuses cross-site requests. It also reads the body.
func (req *request) checkForgery() error {
	req.http.Body = http.MaxBytesReader(req.writer, req.http.Body, maxForm)
	foreign := fhir.Errorf(fhir.Forbidden, "pages.checkForgery",
		"This page was open for too long, or the request did not come from it. Please go back, reload it and try again.")
	if !req.pages.Cookies.SameOrigin(req.http) {
		return foreign
	}
	token := req.http.Header.Get("X-CSRF-Token")
	switch mt, _, _ := mime.ParseMediaType(req.http.Header.Get("Content-Type")); mt {
	case "application/json":
		b, err := io.ReadAll(req.http.Body)
		if err != nil {
			return fhir.Errorf(fhir.TooLarge, "pages.checkForgery", "The request is too large.")
		}
		req.body = b
	case "application/x-www-form-urlencoded":
		if err := req.http.ParseForm(); err != nil {
			return fhir.Errorf(fhir.Invalid, "pages.checkForgery", "The form cannot be read.")
		}
		token = req.http.PostForm.Get("csrf")
	default:
		return fhir.Errorf(fhir.Unsupported, "pages.checkForgery", "Send an HTML form or JSON.")
	}
	if session.TokenOK(req.visit.CSRF, token) && !req.visit.Expires.IsZero() || req.session != nil &&
		session.TokenOK(req.session.CSRF, token) {
		return nil
	}
	return foreign
}

// csrf returns the CSRF token for the forms of the page.
func (req *request) csrf() string {
	if req.session != nil {
		return req.session.CSRF
	}
	return req.visit.CSRF
}

// caller returns the caller of the request, without a principal.
func (req *request) caller() audit.Caller {
	return audit.Caller{RemoteIP: remote(req.http), RequestID: req.writer.Header().Get("X-Request-Id")}
}

// from describes the origin of the request for a sign-in.
func (req *request) from() signin.From {
	return signin.From{Caller: req.caller(),
		Agent:  agent(req.http.UserAgent()),
		Device: func(id string) string { return req.pages.Cookies.Device(req.http, id) }}
}

func remote(r *http.Request) string {
	if host, _, err := net.SplitHostPort(r.RemoteAddr); err == nil {
		return host
	}
	return r.RemoteAddr
}

// by returns the signed-in person with the rules of their roles.
func (req *request) by() audit.Caller {
	p := req.pages.SignIn.Principal(req.user)
	rules := req.user.Roles.Rules()
	if !req.user.Roles.Staff() {
		for i := range rules {
			rules[i].Patient = req.user.Patient // a patient sees only their own compartment
		}
	}
	p.Grant = &access.Grant{Rules: rules}
	return req.caller().As(p)
}

func (req *request) glassBy() audit.Caller {
	return req.caller().As(req.pages.SignIn.Principal(req.user))
}

func (req *request) actor() signin.Actor { return signin.Actor{User: req.user, Session: req.session} }

// may refuses an action that the person's roles do not allow.
func (req *request) may(a role.Action) error {
	if !req.user.Roles.May(a) {
		return fhir.Errorf(fhir.Forbidden, "pages.may", "Your role does not allow this.")
	}
	return nil
}

// strong refuses an action unless the person may do it and, if the action needs
// it, has used a passkey recently. Pages call it before they show a form, so
// that the step-up comes before the input.
func (req *request) strong(a role.Action) error {
	if err := req.may(a); err != nil {
		return err
	}
	if role.StepUp(a) && !req.session.Meets(session.StepUp(), req.pages.Clock()) {
		return signin.ErrStepUp
	}
	return nil
}

// link is an entry of the navigation.
type link struct {
	Href, Text string
	Here       bool
}

// view holds the data of a template.
type view struct {
	Title string
	Nav   []link
	User  *user.User
	CSRF  string
	Good  string // message about a completed action
	Bad   string // error message for the whole page
	// Wrong maps the ID of a form field to its error message; see wrong.
	Wrong map[string]string
	// Unacknowledged counts the emergency accesses that the patient has not
	// acknowledged.
	Unacknowledged int
	Narrow         bool
	Version        string
	Data           any
}

func (req *request) nav() []link {
	if req.user == nil {
		return nil
	}
	all := []struct {
		href, text string
		show       bool
	}{
		{"/auth/", "Account", true},
		{"/auth/apps", "Apps", true},
		{"/auth/devices", "Devices", req.user.Patient != ""},
		{"/auth/notices", "Notices", req.user.Patient != ""},
		{"/auth/launches", "Launch an app", req.pages.Launcher != nil && req.user.Roles.May(role.Launch)},
		{"/auth/emergency", "Emergency access", req.user.Roles.May(role.BreakGlass)},
		{"/auth/reviews", "Reviews", req.user.Roles.May(role.Review)},
		{"/auth/users", "People", req.user.Roles.May(role.ManageUsers)},
		{"/auth/clients", "Clients", req.user.Roles.May(role.ManageClients)},
	}
	var out []link
	for _, entry := range all {
		if entry.show {
			here := req.http.URL.Path == entry.href || entry.href != "/auth/" &&
				strings.HasPrefix(req.http.URL.Path, entry.href+"/")
			out = append(out, link{entry.href, entry.text, here})
		}
	}
	return out
}

// render writes a page.
func (req *request) render(status int, name string, v view) error {
	v.Bad = v.summary()
	v.User, v.CSRF, v.Nav, v.Version = req.user, req.csrf(), req.nav(), req.pages.Version
	if req.session == nil {
		if err := req.pages.Cookies.SetVisit(req.writer, req.visit); err != nil {
			return err
		}
	}
	if req.user != nil && req.user.Patient != "" && req.http.URL.Path != "/auth/notices" {
		var err error
		if v.Unacknowledged, err = req.pages.Glass.Unacknowledged(req.http.Context(), req.user.Patient); err != nil {
			return err
		}
	}
	var b bytes.Buffer
	if err := req.pages.views[name].ExecuteTemplate(&b, "layout.html", v); err != nil {
		return fhir.Wrap("pages.render", err)
	}
	req.writer.Header().Set("Content-Type", "text/html; charset=utf-8")
	req.writer.WriteHeader(status)
	if _, err := req.writer.Write(b.Bytes()); err != nil {
		return nil // the browser has disconnected
	}
	return nil
}

// redirect sends the browser to another page with a GET request.
func (req *request) redirect(path string) error {
	req.writer.Header().Set("Location", path)
	req.writer.WriteHeader(http.StatusSeeOther)
	return nil
}

// writeJSON responds to the script.
func (req *request) writeJSON(status int, v any) error {
	req.writer.Header().Set("Content-Type", "application/json")
	req.writer.WriteHeader(status)
	if err := json.NewEncoder(req.writer).Encode(v); err != nil {
		return nil // the browser has disconnected
	}
	return nil
}

// message returns the text of an error that a person may read.
func message(err error) string {
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

// here returns the path of the page to return to after a sign-in or step-up.
func (req *request) here() string {
	if req.http.Method == http.MethodGet {
		return req.http.URL.RequestURI()
	}
	// The form may be posted to a path without a page. Return to the closest
	// parent that has one.
	for path := req.http.URL.Path; ; path = path[:strings.LastIndexByte(path, '/')] {
		if _, pattern := req.pages.mux.Handler(&http.Request{Method: http.MethodGet,
			URL: &url.URL{Path: path}}); pattern != "/" || path == "/auth" {
			if path == "/auth" {
				path = "/auth/"
			}
			return path
		}
	}
}

func (req *request) fail(err error) {
	kind := fhir.KindOf(err)
	script := req.body != nil
	status := kind.HTTPStatus()
	switch {
	case kind == fhir.Internal || kind == fhir.Unavailable:
		req.pages.Logger.ErrorContext(req.http.Context(), "page failed", "error", err, "request_id",
			req.writer.Header().Get("X-Request-Id"))
	case script:
	case errors.Is(err, errSignIn) && req.http.Method == http.MethodGet:
		req.logFailure(req.redirect("/auth/signin?" + url.Values{"return": {req.here()}}.Encode()))
		return
	case errors.Is(err, errSignIn):
		req.logFailure(req.redirect("/auth/signin?" + url.Values{"return": {req.here()}, "ended": {"1"}}.Encode()))
		return
	case errors.Is(err, signin.ErrStepUp):
		req.logFailure(req.redirect("/auth/stepup?" + url.Values{"return": {req.here()}}.Encode()))
		return
	}
	var wait interface{ RetryAfter() time.Duration }
	if errors.As(err, &wait) {
		req.writer.Header().Set("Retry-After", strconv.Itoa(int(wait.RetryAfter()/time.Second)+1))
	}
	if script {
		req.logFailure(req.writeJSON(status, map[string]string{"error": message(err)}))
		return
	}
	title := map[fhir.Kind]string{fhir.NotFound: "Not found", fhir.Forbidden: "Not allowed",
		fhir.TooMany: "Please wait a moment"}[kind]
	if title == "" {
		title = "That did not work"
	}
	req.logFailure(req.render(status, "error", view{Title: title, Narrow: true, Data: message(err)}))
}

// logFailure logs that the response to a failed request failed as well.
func (req *request) logFailure(err error) {
	if err != nil {
		req.pages.Logger.ErrorContext(req.http.Context(), "error page failed", "error", err)
	}
}
