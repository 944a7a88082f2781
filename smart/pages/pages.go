package pages

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"embed"
	"encoding/base64"
	"html/template"
	"io"
	"io/fs"
	"log/slog"
	"net/http"
	"strings"
	"time"

	"github.com/gin-gonic/gin"

	"pulsegate/fhir"
	"pulsegate/fhir/audit"
	"pulsegate/fhir/consent"
	"pulsegate/fhir/store"
	"pulsegate/smart/appconsent"
	"pulsegate/smart/authz"
	"pulsegate/smart/client"
	"pulsegate/smart/oauth/authorize"
	"pulsegate/smart/people/breakglass"
	"pulsegate/smart/people/session"
	"pulsegate/smart/people/signin"
	"pulsegate/smart/people/user"
	"pulsegate/smart/scope"
)

// Apps is a token.Endpoint.
type Apps interface {
	Authorizations(ctx context.Context, subject string) ([]authz.Authorization, error)
	// About are those of anybody with a patient in context.
	About(ctx context.Context, patient string) ([]authz.Authorization, error)
	// Revoke ends an authorization with all its tokens, in one commit with
	// its AuditEvent, which by says who it is of.
	Revoke(ctx context.Context, by audit.Caller, subject, id string) error
}

// Refusals is an appconsent.Refusals.
type Refusals interface {
	Refused(ctx context.Context, patient string) ([]appconsent.Refusal, error)
	Opened(ctx context.Context, patient, client string) ([]consent.Summary, error)
	Refuse(ctx context.Context, by audit.Caller, patient, client, app string) error
	Allow(ctx context.Context, by audit.Caller, patient, client string) error
}

// Clients is a client.Registry.
type Clients interface {
	Get(ctx context.Context, id string) (client.Client, error)
	List(ctx context.Context) ([]client.Client, error)
	Prepare(c client.Client) (client.Client, store.StateWrite, error)
	PrepareChange(ctx context.Context, id string, edit func(*client.Client) error) (client.Client, store.StateWrite,
		error)
}

// Launch is what an app is launched with.
type Launch struct {
	Client, Patient, Encounter, Intent string
	User                               string // Practitioner/1
	Maker                              authz.Subject
	By                                 audit.Caller
}

// Launcher makes launch handles, as an EHR does.
type Launcher interface {
	// Launch returns the app's launch URL with iss and launch.
	Launch(ctx context.Context, l Launch) (string, error)
}

// Person is a patient on a page.
type Person struct{ ID, Name, Born, Gender string }

// Patients finds patients as the person on whose behalf it is may.
type Patients interface {
	Find(ctx context.Context, by audit.Caller, text string) ([]Person, error)
	Get(ctx context.Context, by audit.Caller, id string) (Person, error)
	// Visits are those that the patient's data is from, the latest first.
	Visits(ctx context.Context, by audit.Caller, patient string) ([]Visit, error)
}

// Visit is an encounter on a page.
type Visit struct {
	ID, Name string    // Name may be ""
	Last     time.Time // when something was measured last; zero: not known
}

// Options of Pages. Launcher may be nil; Rand is that of the system when it
// is.
type Options struct {
	Base     string // the server's base URL
	Version  string
	SignIn   *signin.Service
	Sessions *session.Sessions
	Users    *user.Registry
	Cookies  session.Cookies
	Flow     authorize.Flow
	Apps     Apps
	Refusals Refusals
	Clients  Clients
	Launcher Launcher
	Glass    *breakglass.Glass
	// UserLife is the lifetime of an access token for a person
	// (token.UserLife).
	UserLife time.Duration
	Patients Patients
	Scopes   scope.Parser
	Audit    audit.Trail
	Clock    func() time.Time
	Rand     io.Reader
	Logger   *slog.Logger
}

// Pages serves them.
type Pages struct {
	Options
	views map[string]*template.Template
	files map[string]file // by name with its hash
	names map[string]string
	mux   *http.ServeMux
}

type file struct {
	kind string
	body []byte
}

//go:embed templates/*.html
var templates embed.FS

//go:embed static
var static embed.FS

// New parses the templates.
func New(o Options) (*Pages, error) {
	const op = "pages.New"
	if o.SignIn == nil || o.Sessions == nil || o.Users == nil || o.Flow == nil || o.Apps == nil ||
		o.Refusals == nil || o.Clients == nil || o.Glass == nil || o.Patients == nil || o.Audit == nil ||
		o.Clock == nil {
		return nil, fhir.Errorf(fhir.Internal, op, "an option is missing")
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Rand == nil {
		o.Rand = rand.Reader
	}
	p := &Pages{Options: o, views: map[string]*template.Template{}, files: map[string]file{},
		names: map[string]string{}}
	for name, kind := range map[string]string{"style.css": "text/css; charset=utf-8",
		"pulsegate.js": "text/javascript; charset=utf-8", "favicon.svg": "image/svg+xml"} {
		b, err := static.ReadFile("static/" + name)
		if err != nil {
			return nil, fhir.Wrap(op, err)
		}
		sum := sha256.Sum256(b)
		hashed := base64.RawURLEncoding.EncodeToString(sum[:9]) + "-" + name
		p.files[hashed], p.names[name] = file{kind, b}, "/auth/static/"+hashed
	}
	layout, err := template.New("layout.html").Funcs(p.funcs()).ParseFS(templates, "templates/layout.html")
	if err != nil {
		return nil, fhir.Wrap(op, err)
	}
	names, err := fs.Glob(templates, "templates/*.html")
	if err != nil {
		return nil, fhir.Wrap(op, err)
	}
	for _, n := range names {
		short := strings.TrimSuffix(strings.TrimPrefix(n, "templates/"), ".html")
		if short == "layout" {
			continue
		}
		t, err := layout.Clone()
		if err == nil {
			t, err = t.ParseFS(templates, n)
		}
		if err != nil {
			return nil, fhir.Wrap(op, err)
		}
		p.views[short] = t
	}
	p.mux = p.routes()
	return p, nil
}

func (p *Pages) funcs() template.FuncMap {
	return template.FuncMap{
		"asset": func(name string) string { return p.names[name] },
		"day":   func(t time.Time) template.HTML { return instant(t, "day", "2 January 2006") },
		"time":  func(t time.Time) template.HTML { return instant(t, "time", "2 January 2006, 15:04 UTC") },
		"initial": func(s string) string {
			for _, r := range s {
				return strings.ToUpper(string(r))
			}
			return "?"
		},
		// html/template knows no otpauth:; the URI is built by authn.KeyURI.
		"otpauth": func(s string) template.URL { return template.URL(s) },
	}
}

// instant is a point in time as an element: in UTC, until the script has put
// it into the time zone of the person's browser.
func instant(t time.Time, kind, layout string) template.HTML {
	t = t.UTC()
	// no input in it
	return template.HTML(`<time datetime="` + t.Format(time.RFC3339) + `" data-time="` + kind + `">` +
		t.Format(layout) + `</time>`)
}

// Mount puts the pages below /auth/.
func (p *Pages) Mount(m gin.IRouter) { m.Any("/auth/*page", gin.WrapH(p)) }

// ServeHTTP serves a page.
func (p *Pages) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	p.headers(w.Header())
	p.mux.ServeHTTP(w, r)
}

// headers sets the headers of every page.
func (p *Pages) headers(h http.Header) {
	h.Set("Content-Security-Policy", policy(""))
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("X-Frame-Options", "DENY")
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("Cross-Origin-Opener-Policy", "same-origin")
	h.Set("Cross-Origin-Resource-Policy", "same-origin")
	h.Set("Permissions-Policy", "camera=(), microphone=(), geolocation=(), publickey-credentials-get=(self), publickey-credentials-create=(self)")
	h.Set("Cache-Control", "no-store")
	if p.Cookies.Secure() {
		h.Set("Strict-Transport-Security", "max-age=31536000")
	}
}

// policy is the Content-Security-Policy; form is one more source that a form's
// answer may lead to.
func policy(form string) string {
	s := "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; base-uri 'none'; frame-ancestors 'none'; form-action 'self'"
	if form != "" {
		s += " " + form
	}
	return s
}

// Favicon serves the icon of every page at the path where browsers look for
// it.
func Favicon(w http.ResponseWriter, _ *http.Request) {
	b, err := static.ReadFile("static/favicon.svg")
	if err != nil {
		http.Error(w, "not found", http.StatusNotFound)
		return
	}
	w.Header().Set("Content-Type", "image/svg+xml")
	w.Header().Set("Cache-Control", "public, max-age=86400")
	if _, err := w.Write(b); err != nil {
		return // the browser has gone
	}
}

func (p *Pages) serveStatic(w http.ResponseWriter, r *http.Request) {
	f, ok := p.files[r.PathValue("name")]
	if !ok {
		http.NotFound(w, r)
		return
	}
	w.Header().Set("Content-Type", f.kind)
	w.Header().Set("Cache-Control", "public, max-age=31536000, immutable")
	if _, err := w.Write(f.body); err != nil {
		return // the browser has gone
	}
}

func (p *Pages) routes() *http.ServeMux {
	m := http.NewServeMux()
	m.HandleFunc("GET /auth/static/{name}", p.serveStatic)
	for pattern, h := range map[string]handler{
		"GET /auth/signin": signinPage, "POST /auth/signin": signinPassword,
		"POST /auth/passkey/options": passkeyOptions, "POST /auth/passkey": passkeyFinish,
		"GET /auth/external": externalBegin, "GET /auth/external/callback": externalFinish,
		"GET /auth/invite": invitePage, "POST /auth/invite": inviteAccept,
		"GET /auth/enrol": enrolPage, "POST /auth/enrol/passkey/options": enrolOptions,
		"POST /auth/enrol/passkey": enrolPasskey,
		"GET /auth/enrol/password": passwordPage, "POST /auth/enrol/password": passwordSet,
		"GET /auth/enrol/external": externalConnect,
		"GET /auth/signedout":      signedOut,
	} {
		m.HandleFunc(pattern, p.serve(open, h))
	}
	for pattern, h := range map[string]handler{
		"GET /auth/{$}": accountPage, "POST /auth/remove": accountRemove, "POST /auth/recovery": accountRecovery,
		"POST /auth/sessions": sessionsEnd, "POST /auth/signout": signOut,
		"GET /auth/stepup": stepupPage, "POST /auth/stepup/options": stepupOptions, "POST /auth/stepup": passkeyFinish,
		"GET /auth/consent": consentPage, "POST /auth/consent": consentDecide, "GET /auth/patient": patientPage,
		"GET /auth/apps": appsPage, "POST /auth/apps": appsRevoke, "POST /auth/apps/refusals": appsRefuse,
		"GET /auth/users": usersPage, "POST /auth/users": usersInvite, "GET /auth/users/new": usersNew,
		"GET /auth/users/{id}": userPage, "POST /auth/users/{id}": userChange,
		"GET /auth/clients": clientsPage, "GET /auth/clients/new": clientsNew, "POST /auth/clients": clientsAdd,
		"POST /auth/clients/{id}": clientsChange,
		"GET /auth/launches":      launchesPage, "POST /auth/launches": launchesGo,
		"GET /auth/emergency": glassPage, "POST /auth/emergency": glassOpen, "POST /auth/emergency/{id}": glassClose,
		"GET /auth/notices": noticesPage, "POST /auth/notices": noticesRead,
		"GET /auth/reviews": reviewsPage, "POST /auth/reviews/{id}": reviewsDecide,
	} {
		m.HandleFunc(pattern, p.serve(signedIn, h))
	}
	m.HandleFunc("/", p.serve(open, func(*request) error {
		return fhir.Errorf(fhir.NotFound, "pages",
			"There is no such page.")
	}))
	return m
}
