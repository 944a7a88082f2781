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

// Apps lists and revokes the authorizations of apps. token.Endpoint implements
// it.
type Apps interface {
	Authorizations(ctx context.Context, subject string) ([]authz.Authorization, error)
	// About returns the authorizations with the patient in context, approved by
	// any user.
	About(ctx context.Context, patient string) ([]authz.Authorization, error)
	// Revoke ends an authorization and all its tokens in one commit with the
	// AuditEvent. by describes the caller.
	Revoke(ctx context.Context, by audit.Caller, subject, id string) error
}

// Refusals stops apps that others opened. appconsent.Refusals implements it.
type Refusals interface {
	Refused(ctx context.Context, patient string) ([]appconsent.Refusal, error)
	Opened(ctx context.Context, patient, client string) ([]consent.Summary, error)
	Refuse(ctx context.Context, by audit.Caller, patient, client, app string) error
	Allow(ctx context.Context, by audit.Caller, patient, client string) error
}

// Clients reads and changes registrations. client.Registry implements it.
type Clients interface {
	Get(ctx context.Context, id string) (client.Client, error)
	List(ctx context.Context) ([]client.Client, error)
	Prepare(c client.Client) (client.Client, store.StateWrite, error)
	PrepareChange(ctx context.Context, id string, edit func(*client.Client) error) (client.Client, store.StateWrite,
		error)
}

// Launch describes an EHR launch of an app.
type Launch struct {
	Client, Patient, Encounter, Intent string
	User                               string // Practitioner/1
	Maker                              authz.Subject
	By                                 audit.Caller
}

// Launcher creates launch handles, as an EHR does (SMART App Launch 2.2, "EHR
// Launch").
type Launcher interface {
	// Launch returns the launch URL of the app with the parameters iss and
	// launch.
	Launch(ctx context.Context, l Launch) (string, error)
}

// Person describes a patient for display.
type Person struct{ ID, Name, Born, Gender string }

// Patients reads patients with the permissions of the caller.
type Patients interface {
	Find(ctx context.Context, by audit.Caller, text string) ([]Person, error)
	Get(ctx context.Context, by audit.Caller, id string) (Person, error)
	// Visits returns the encounters of the patient's data, most recent first.
	Visits(ctx context.Context, by audit.Caller, patient string) ([]Visit, error)
}

// Visit describes an encounter for display.
type Visit struct {
	ID, Name string    // Name may be empty
	Last     time.Time // time of the last measurement; zero if unknown
}

// Options configures Pages. Launcher may be nil. Rand defaults to the system's
// random source, Logger to none.
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
	Glass    *breakglass.Service
	// UserLife is the lifetime of an access token for a person; see
	// token.UserLife.
	UserLife     time.Duration
	Patients     Patients
	PushKeys     PushKeys
	Connections  Connections
	Explanations Explanations
	Sources      Sources
	Scopes       scope.Parser
	Audit        audit.Trail
	Clock        func() time.Time
	Rand         io.Reader
	Logger       *slog.Logger
}

// Pages serves the pages. It is safe for concurrent use.
type Pages struct {
	Options
	views map[string]*template.Template
	files map[string]file // static files, by file name with hash
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

// New parses the templates and returns the handler of all pages.
func New(options Options) (*Pages, error) {
	const op = "pages.New"
	if options.SignIn == nil || options.Sessions == nil || options.Users == nil || options.Flow == nil ||
		options.Apps == nil || options.Refusals == nil || options.Clients == nil || options.Glass == nil ||
		options.Patients == nil || options.PushKeys == nil || options.Connections == nil ||
		options.Explanations == nil || options.Sources == nil || options.Audit == nil ||
		options.Clock == nil {
		return nil, fhir.Errorf(fhir.Internal, op, "an option is missing")
	}
	if options.Logger == nil {
		options.Logger = slog.New(slog.DiscardHandler)
	}
	if options.Rand == nil {
		options.Rand = rand.Reader
	}
	p := &Pages{Options: options, views: map[string]*template.Template{}, files: map[string]file{},
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
		// html/template rejects the scheme otpauth. The URI comes from
		// authn.KeyURI.
		"otpauth": func(s string) template.URL { return template.URL(s) },
	}
}

// instant returns a time element in UTC. The script converts it to the time
// zone of the browser.
func instant(t time.Time, kind, layout string) template.HTML {
	t = t.UTC()
	// The element contains no user input.
	return template.HTML(`<time datetime="` + t.Format(time.RFC3339) + `" data-time="` + kind + `">` +
		t.Format(layout) + `</time>`)
}

// Mount registers the pages below /auth/.
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

// policy returns the Content-Security-Policy. form is an additional source that
// a form may redirect to.
func policy(form string) string {
	s := "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; base-uri 'none'; frame-ancestors 'none'; form-action 'self'"
	if form != "" {
		s += " " + form
	}
	return s
}

// Favicon serves the icon at the path that browsers request by default.
func Favicon(w http.ResponseWriter, _ *http.Request) {
	b, err := static.ReadFile("static/favicon.svg")
	if err != nil {
		http.Error(w, "not found", http.StatusNotFound)
		return
	}
	w.Header().Set("Content-Type", "image/svg+xml")
	w.Header().Set("Cache-Control", "public, max-age=86400")
	if _, err := w.Write(b); err != nil {
		return // the browser has disconnected
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
		return // the browser has disconnected
	}
}

func (p *Pages) routes() *http.ServeMux {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /auth/static/{name}", p.serveStatic)
	for pattern, h := range map[string]handler{
		"GET /auth/signin": signinPage, "POST /auth/signin": signinPassword,
		"POST /auth/passkey/options": passkeyOptions, "POST /auth/passkey": passkeyFinish,
		"GET /auth/external": externalBegin, "GET /auth/external/callback": externalFinish,
		"GET /auth/invite": invitePage, "POST /auth/invite": inviteAccept,
		"GET /auth/enrol": enrollPage, "POST /auth/enrol/passkey/options": enrollOptions,
		"POST /auth/enrol/passkey": enrollPasskey,
		"GET /auth/enrol/password": passwordPage, "POST /auth/enrol/password": passwordSet,
		"GET /auth/enrol/external": externalConnect,
		"GET /auth/signedout":      signedOut,
	} {
		mux.HandleFunc(pattern, p.serve(open, h))
	}
	for pattern, h := range map[string]handler{
		"GET /auth/{$}": accountPage, "POST /auth/remove": accountRemove, "POST /auth/recovery": accountRecovery,
		"POST /auth/sessions": sessionsEnd, "POST /auth/signout": signOut,
		"GET /auth/stepup": stepupPage, "POST /auth/stepup/options": stepupOptions, "POST /auth/stepup": passkeyFinish,
		"GET /auth/consent": consentPage, "POST /auth/consent": consentDecide, "GET /auth/patient": patientPage,
		"GET /auth/apps": appsPage, "POST /auth/apps": appsRevoke, "POST /auth/apps/refusals": appsRefuse,
		"GET /auth/devices/connect": connectPage, "POST /auth/devices/connect": connectGo,
		"GET " + ConnectCallback:       connectFinish,
		"GET /auth/devices/disconnect": disconnectPage, "POST /auth/devices/disconnect": disconnectGo,
		"GET /auth/devices/source": sourcePage, "POST /auth/devices/source": sourceChange,
		"GET /auth/devices": devicesPage, "POST /auth/devices/keys": pushKeysCreate,
		"POST /auth/devices/keys/revoke": pushKeysRevoke, "GET /auth/explain/Observation/{id}": explainPage,
		"GET /auth/users": usersPage, "POST /auth/users": usersInvite, "GET /auth/users/new": usersNew,
		"GET /auth/users/{id}": userPage, "POST /auth/users/{id}": userChange,
		"GET /auth/clients": clientsPage, "GET /auth/clients/new": clientsNew, "POST /auth/clients": clientsAdd,
		"POST /auth/clients/{id}": clientsChange,
		"GET /auth/launches":      launchesPage, "POST /auth/launches": launchesGo,
		"GET /auth/emergency": glassPage, "POST /auth/emergency": glassOpen, "POST /auth/emergency/{id}": glassClose,
		"GET /auth/notices": noticesPage, "POST /auth/notices": noticesRead,
		"GET /auth/reviews": reviewsPage, "POST /auth/reviews/{id}": reviewsDecide,
	} {
		mux.HandleFunc(pattern, p.serve(signedIn, h))
	}
	mux.HandleFunc("/", p.serve(open, func(*request) error {
		return fhir.Errorf(fhir.NotFound, "pages",
			"There is no such page.")
	}))
	return mux
}
