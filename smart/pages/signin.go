package pages

import (
	"encoding/json"
	"net/http"
	"net/url"

	"pulsegate/fhir"
	"pulsegate/smart/people/authn"
	"pulsegate/smart/people/session"
	"pulsegate/smart/people/signin"
)

const home = "/auth/"

type signinData struct {
	Return   string
	Login    string
	Passkeys bool
	Provider string // name of the hospital's sign-in; "" none
	App      string // that the person came from; "" none
}

func (q *request) signinView(bad string) view {
	d := signinData{Return: session.LocalPath(q.value("return"), home), Login: q.r.PostFormValue("login"),
		Passkeys: q.p.SignIn.Passkeys != nil}
	if q.p.SignIn.Provider != nil {
		d.Provider = q.p.SignIn.Provider.Name
	}
	return view{Title: "Sign in", Narrow: true, Bad: bad, Data: d}
}

// value is a field of the form or, for GET, of the query.
func (q *request) value(name string) string {
	if q.r.Method == http.MethodPost {
		return q.r.PostForm.Get(name)
	}
	return q.r.URL.Query().Get(name)
}

func signinPage(q *request) error {
	if q.x != nil && q.value("again") == "" {
		return q.to(session.LocalPath(q.value("return"), home))
	}
	v := q.signinView("")
	if q.value("ended") != "" {
		v.Bad = "Your session has ended. Please sign in again; what you had typed was not kept."
	}
	return q.render(http.StatusOK, "signin", v)
}

func signinPassword(q *request) error {
	in, err := q.p.SignIn.Password(q.r.Context(), q.from(), q.value("login"), q.value("password"), q.value("code"), q.x)
	switch {
	case err == nil:
		if err := q.begin(in); err != nil {
			return err
		}
		return q.to(session.LocalPath(q.value("return"), home))
	case fhir.KindOf(err) == fhir.Unauthorized:
		return q.render(http.StatusUnauthorized, "signin", q.signinView(words(err)))
	}
	return err
}

// begin gives the browser its new session.
func (q *request) begin(in signin.SignedIn) error {
	q.p.Cookies.SetSecret(q.w, in.Secret)
	q.x, q.u = &in.Session, &in.User
	q.visit = session.Visit{CSRF: q.visit.CSRF}
	if err := q.p.Cookies.SetVisit(q.w, q.visit); err != nil {
		return err
	}
	return q.p.Cookies.Remember(q.w, q.r, in.User.ID)
}

// posted is what the script sends after a ceremony.
type posted struct {
	Credential json.RawMessage `json:"credential"`
	Label      string          `json:"label"`
	Next       string          `json:"next"`
}

func (q *request) posted() (posted, error) {
	var in posted
	if q.body == nil || json.Unmarshal(q.body, &in) != nil {
		return in, fhir.Errorf(fhir.Invalid, "pages.posted", "The browser’s answer cannot be read.")
	}
	return in, nil
}

func passkeyOptions(q *request) error {
	o, c, err := q.p.SignIn.BeginPasskey(nil)
	return q.ceremony(o, c, err)
}

func stepupOptions(q *request) error {
	if len(q.u.Passkeys) == 0 {
		return fhir.Errorf(fhir.Invalid, "pages.stepupOptions", "You have no passkey yet.")
	}
	o, c, err := q.p.SignIn.BeginPasskey(q.u)
	return q.ceremony(o, c, err)
}

func (q *request) ceremony(options []byte, c authn.Ceremony, err error) error {
	if err != nil {
		return err
	}
	q.visit.Ceremony = &c
	if err := q.p.Cookies.SetVisit(q.w, q.visit); err != nil {
		return err
	}
	return q.answer(http.StatusOK, json.RawMessage(options))
}

// taken is the ceremony under way; it is used once.
func (q *request) taken() (authn.Ceremony, error) {
	c := q.visit.Ceremony
	if c == nil {
		return authn.Ceremony{}, fhir.Errorf(fhir.Invalid, "pages.taken", "It took too long. Please try again.")
	}
	q.visit.Ceremony = nil
	return *c, nil
}

// passkeyFinish ends a sign-in, and a step-up of who is signed in.
func passkeyFinish(q *request) error {
	in, err := q.posted()
	if err != nil {
		return err
	}
	c, err := q.taken()
	if err != nil {
		return err
	}
	s, err := q.p.SignIn.Passkey(q.r.Context(), q.from(), c, in.Credential, q.x)
	if err != nil {
		return err
	}
	if err := q.begin(s); err != nil {
		return err
	}
	return q.answer(http.StatusOK, map[string]string{"next": session.LocalPath(in.Next, home)})
}

type stepupData struct {
	Return              string
	Enrolled, Available bool
}

func stepupPage(q *request) error {
	return q.render(http.StatusOK, "stepup", view{Title: "Confirm that it is you", Narrow: true,
		Data: stepupData{session.LocalPath(q.value("return"), home), len(q.u.Passkeys) > 0,
			q.p.SignIn.Passkeys != nil}})
}

func (q *request) outward(link bool) error {
	if q.p.SignIn.Provider == nil {
		return fhir.Errorf(fhir.NotFound, "pages.outward", "There is no such page.")
	}
	to, o, err := q.p.SignIn.Provider.Begin(q.r.Context(), q.value("acr"), q.value("again") != "")
	if err != nil {
		return err
	}
	q.visit.AuthRequest, q.visit.Link, q.visit.Return = &o, link, session.LocalPath(q.value("return"), home)
	if err := q.p.Cookies.SetVisit(q.w, q.visit); err != nil {
		return err
	}
	return q.to(to)
}

func externalBegin(q *request) error { return q.outward(false) }

func externalConnect(q *request) error {
	w, err := q.enrolling()
	if err != nil {
		return err
	}
	if !w.Fresh(q.p.Clock()) {
		return signin.ErrStepUp
	}
	return q.outward(true)
}

func externalFinish(q *request) error {
	o := q.visit.AuthRequest
	if o == nil {
		return fhir.Errorf(fhir.Invalid, "pages.externalFinish",
			"It took too long, or began in another browser. Please sign in again.")
	}
	next, connect := q.visit.Return, q.visit.Link
	q.visit.AuthRequest = nil
	var in signin.SignedIn
	var err error
	if connect {
		w, werr := q.enrolling()
		if werr != nil {
			return werr
		}
		in, err = q.p.SignIn.Connect(q.r.Context(), q.from(), w, *o, q.r.URL.Query())
	} else {
		in, err = q.p.SignIn.External(q.r.Context(), q.from(), *o, q.r.URL.Query(), q.x)
	}
	if err != nil {
		if fhir.KindOf(err) == fhir.Unauthorized && !connect {
			v := q.signinView(words(err))
			return q.render(http.StatusUnauthorized, "signin", v)
		}
		return err
	}
	if err := q.begin(in); err != nil {
		return err
	}
	return q.to(session.LocalPath(next, home))
}

// signOut ends the session and has the browser forget what it kept of this
// site. Not "cookies": that would take those of neighbouring hosts of the same
// domain, and the mark by which a stranger cannot slow this browser down.
func signOut(q *request) error {
	if err := q.p.SignIn.SignOut(q.r.Context(), q.from(), q.u, q.x); err != nil {
		return err
	}
	q.p.Cookies.SetSecret(q.w, "")
	q.p.Cookies.EndVisit(q.w)
	q.w.Header().Set("Clear-Site-Data", `"cache", "storage"`)
	return q.to("/auth/signedout")
}

func signedOut(q *request) error {
	if q.x != nil {
		return q.to(home)
	}
	return q.render(http.StatusOK, "signedout", view{Title: "You are signed out", Narrow: true})
}

// again sends the person to sign in once more.
func (q *request) again() error {
	return q.to("/auth/signin?" + url.Values{"again": {"1"}, "return": {q.here()}}.Encode())
}
