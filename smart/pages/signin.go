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
	Provider string // name of the OpenID provider; "" if there is none
	App      string // app that asked for the sign-in; "" if none
}

func (req *request) signinView(bad string) view {
	data := signinData{Return: session.LocalPath(req.value("return"), home), Login: req.http.PostFormValue("login"),
		Passkeys: req.pages.SignIn.Passkeys != nil}
	if req.pages.SignIn.Provider != nil {
		data.Provider = req.pages.SignIn.Provider.Name
	}
	return view{Title: "Sign in", Narrow: true, Bad: bad, Data: data}
}

// value returns a form field or, for GET, a query parameter.
func (req *request) value(name string) string {
	if req.http.Method == http.MethodPost {
		return req.http.PostForm.Get(name)
	}
	return req.http.URL.Query().Get(name)
}

func signinPage(req *request) error {
	if req.session != nil && req.value("again") == "" {
		return req.redirect(session.LocalPath(req.value("return"), home))
	}
	v := req.signinView("")
	if req.value("ended") != "" {
		v.Bad = "Your session has ended. Please sign in again. Anything that you had entered was not saved."
	}
	return req.render(http.StatusOK, "signin", v)
}

func signinPassword(req *request) error {
	in, err := req.pages.SignIn.Password(req.http.Context(), req.from(), req.value("login"), req.value("password"),
		req.value("code"), req.session)
	switch {
	case err == nil:
		if err := req.begin(in); err != nil {
			return err
		}
		return req.redirect(session.LocalPath(req.value("return"), home))
	case fhir.KindOf(err) == fhir.Unauthorized:
		return req.render(http.StatusUnauthorized, "signin", req.signinView(message(err)))
	}
	return err
}

// begin gives the browser the cookies of its new session.
func (req *request) begin(in signin.SignedIn) error {
	req.pages.Cookies.SetSecret(req.writer, in.Secret)
	req.session, req.user = &in.Session, &in.User
	req.visit = session.Visit{CSRF: req.visit.CSRF}
	if err := req.pages.Cookies.SetVisit(req.writer, req.visit); err != nil {
		return err
	}
	return req.pages.Cookies.Remember(req.writer, req.http, in.User.ID)
}

// posted is the JSON that the script sends after a passkey ceremony.
type posted struct {
	Credential json.RawMessage `json:"credential"`
	Label      string          `json:"label"`
	Next       string          `json:"next"`
}

func (req *request) posted() (posted, error) {
	var in posted
	if req.body == nil || json.Unmarshal(req.body, &in) != nil {
		return in, fhir.Errorf(fhir.Invalid, "pages.posted", "The browser’s response cannot be read. Please try again.")
	}
	return in, nil
}

func passkeyOptions(req *request) error {
	o, c, err := req.pages.SignIn.BeginPasskey(nil)
	return req.ceremony(o, c, err)
}

func stepupOptions(req *request) error {
	if len(req.user.Passkeys) == 0 {
		return fhir.Errorf(fhir.Invalid, "pages.stepupOptions", "You have no passkey yet.")
	}
	o, c, err := req.pages.SignIn.BeginPasskey(req.user)
	return req.ceremony(o, c, err)
}

func (req *request) ceremony(options []byte, c authn.Ceremony, err error) error {
	if err != nil {
		return err
	}
	req.visit.Ceremony = &c
	if err := req.pages.Cookies.SetVisit(req.writer, req.visit); err != nil {
		return err
	}
	return req.writeJSON(http.StatusOK, json.RawMessage(options))
}

// takeCeremony returns the pending ceremony and forgets it, so that it is used
// only once.
func (req *request) takeCeremony() (authn.Ceremony, error) {
	c := req.visit.Ceremony
	if c == nil {
		return authn.Ceremony{}, fhir.Errorf(fhir.Invalid, "pages.takeCeremony", "It took too long. Please try again.")
	}
	req.visit.Ceremony = nil
	return *c, nil
}

// passkeyFinish completes a sign-in, or the step-up of a signed-in person.
func passkeyFinish(req *request) error {
	in, err := req.posted()
	if err != nil {
		return err
	}
	c, err := req.takeCeremony()
	if err != nil {
		return err
	}
	s, err := req.pages.SignIn.Passkey(req.http.Context(), req.from(), c, in.Credential, req.session)
	if err != nil {
		return err
	}
	if err := req.begin(s); err != nil {
		return err
	}
	return req.writeJSON(http.StatusOK, map[string]string{"next": session.LocalPath(in.Next, home)})
}

type stepupData struct {
	Return              string
	Enrolled, Available bool
}

func stepupPage(req *request) error {
	return req.render(http.StatusOK, "stepup", view{Title: "Confirm that it is you", Narrow: true,
		Data: stepupData{session.LocalPath(req.value("return"), home), len(req.user.Passkeys) > 0,
			req.pages.SignIn.Passkeys != nil}})
}

func (req *request) beginExternal(link bool) error {
	if req.pages.SignIn.Provider == nil {
		return fhir.Errorf(fhir.NotFound, "pages.beginExternal", "There is no such page.")
	}
	target, authRequest, err := req.pages.SignIn.Provider.Begin(req.http.Context(), req.value("acr"),
		req.value("again") != "")
	if err != nil {
		return err
	}
	req.visit.AuthRequest, req.visit.Link, req.visit.Return = &authRequest, link,
		session.LocalPath(req.value("return"), home)
	if err := req.pages.Cookies.SetVisit(req.writer, req.visit); err != nil {
		return err
	}
	return req.redirect(target)
}

func externalBegin(req *request) error { return req.beginExternal(false) }

func externalConnect(req *request) error {
	who, err := req.enrollee()
	if err != nil {
		return err
	}
	if !who.Fresh(req.pages.Clock()) {
		return signin.ErrStepUp
	}
	return req.beginExternal(true)
}

func externalFinish(req *request) error {
	authRequest := req.visit.AuthRequest
	if authRequest == nil {
		return fhir.Errorf(fhir.Invalid, "pages.externalFinish",
			"The sign-in took too long or started in another browser. Please sign in again.")
	}
	next, connect := req.visit.Return, req.visit.Link
	req.visit.AuthRequest = nil
	var in signin.SignedIn
	var err error
	if connect {
		who, werr := req.enrollee()
		if werr != nil {
			return werr
		}
		in, err = req.pages.SignIn.Connect(req.http.Context(), req.from(), who, *authRequest, req.http.URL.Query())
	} else {
		in, err = req.pages.SignIn.External(req.http.Context(), req.from(), *authRequest, req.http.URL.Query(),
			req.session)
	}
	if err != nil {
		if fhir.KindOf(err) == fhir.Unauthorized && !connect {
			v := req.signinView(message(err))
			return req.render(http.StatusUnauthorized, "signin", v)
		}
		return err
	}
	if err := req.begin(in); err != nil {
		return err
	}
	return req.redirect(session.LocalPath(next, home))
}

// signOut ends the session and makes the browser delete its cache and storage
// of this site. It does not clear cookies: that would also delete the cookies
// of other hosts of the domain and the device cookie, which keeps attackers
// from delaying sign-ins at this browser.
func signOut(req *request) error {
	if err := req.pages.SignIn.SignOut(req.http.Context(), req.from(), req.user, req.session); err != nil {
		return err
	}
	req.pages.Cookies.SetSecret(req.writer, "")
	req.pages.Cookies.EndVisit(req.writer)
	req.writer.Header().Set("Clear-Site-Data", `"cache", "storage"`)
	return req.redirect("/auth/signedout")
}

func signedOut(req *request) error {
	if req.session != nil {
		return req.redirect(home)
	}
	return req.render(http.StatusOK, "signedout", view{Title: "You are signed out", Narrow: true})
}

// signInAgain redirects the person to sign in once more.
func (req *request) signInAgain() error {
	return req.redirect("/auth/signin?" + url.Values{"again": {"1"}, "return": {req.here()}}.Encode())
}
