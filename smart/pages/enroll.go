package pages

import (
	"encoding/base64"
	"net/http"
	"strconv"
	"strings"

	"rsc.io/qr"

	"pulsegate/fhir"
	"pulsegate/smart/people/authn"
	"pulsegate/smart/people/signin"
	"pulsegate/smart/people/user"
)

// invitePage shows a one-time link. Opening it does not use it up, because mail
// scanners open links, too.
func invitePage(req *request) error {
	token := req.value("token")
	_, u, err := req.pages.Users.Invited(req.http.Context(), token)
	if err != nil {
		return err
	}
	return req.render(http.StatusOK, "invite",
		view{Title: "Welcome to Pulsegate", Narrow: true,
			Data: struct{ Token, Name, Login string }{token, u.Name, u.Login}})
}

func inviteAccept(req *request) error {
	token := req.value("token")
	if _, _, err := req.pages.Users.Invited(req.http.Context(), token); err != nil {
		return err
	}
	req.visit.Invite = token
	if err := req.pages.Cookies.SetVisit(req.writer, req.visit); err != nil {
		return err
	}
	return req.redirect("/auth/enrol")
}

// enrollee returns the person who sets up a way to sign in, identified by a
// one-time link or by the session.
func (req *request) enrollee() (signin.Enrollee, error) {
	if req.visit.Invite != "" {
		inv, u, err := req.pages.Users.Invited(req.http.Context(), req.visit.Invite)
		if err == nil {
			return signin.Enrollee{User: u, Invite: &inv}, nil
		}
		if req.session == nil || fhir.KindOf(err) != fhir.NotFound {
			return signin.Enrollee{}, err
		}
	}
	if req.session == nil {
		return signin.Enrollee{}, errSignIn
	}
	return signin.Enrollee{User: *req.user, Session: req.session}, nil
}

type enrollData struct {
	First              bool // opened with a one-time link
	Passkeys, Password bool // passkeys are available; a password is set
	Provider           string
	Staff              bool
}

func enrollPage(req *request) error {
	who, err := req.enrollee()
	if err != nil {
		return err
	}
	if !who.Fresh(req.pages.Clock()) {
		return req.refresh(&who)
	}
	data := enrollData{First: who.Invite != nil, Passkeys: req.pages.SignIn.Passkeys != nil,
		Password: who.User.Password != "",
		Staff:    who.User.Roles.Staff()}
	if req.pages.SignIn.Provider != nil {
		data.Provider = req.pages.SignIn.Provider.Name
	}
	title := "Add a way to sign in"
	if data.First {
		title = "Choose how you sign in"
	}
	return req.render(http.StatusOK, "enrol", view{Title: title, Data: data})
}

// refresh asks for a sign-in with the strongest factor that the person has.
func (req *request) refresh(who *signin.Enrollee) error {
	if len(who.User.Passkeys) > 0 {
		return signin.ErrStepUp
	}
	return req.signInAgain()
}

func enrollOptions(req *request) error {
	who, err := req.enrollee()
	if err != nil {
		return err
	}
	o, c, err := req.pages.SignIn.BeginPasskeyEnrollment(who)
	return req.ceremony(o, c, err)
}

func enrollPasskey(req *request) error {
	in, err := req.posted()
	if err != nil {
		return err
	}
	who, err := req.enrollee()
	if err != nil {
		return err
	}
	ceremony, err := req.takeCeremony()
	if err != nil {
		return err
	}
	signed, err := req.pages.SignIn.EnrollPasskey(req.http.Context(), req.from(), who, ceremony, in.Credential,
		in.Label)
	if err != nil {
		return err
	}
	if err := req.begin(signed); err != nil {
		return err
	}
	return req.writeJSON(http.StatusOK, map[string]string{"next": home + "?done=passkey"})
}

type passwordData struct {
	Login  string
	Secret string // for typing by hand
	URI    string
	QR     string // SVG path data of the QR code
	Box    int    // width and height in modules, with the margin
}

func (req *request) passwordView(who *signin.Enrollee, bad map[string]string) (view, error) {
	data := passwordData{Login: who.User.Login, Secret: grouped(authn.SecretText(req.visit.TOTP)),
		URI: authn.KeyURI(req.visit.TOTP, "Pulsegate", who.User.Login)}
	var err error
	data.QR, data.Box, err = modules(data.URI)
	return view{Title: "Password and code app", Narrow: true, Wrong: bad, Data: data}, err
}

func grouped(s string) string {
	var b strings.Builder
	for i, r := range s {
		if i > 0 && i%4 == 0 {
			b.WriteByte(' ')
		}
		b.WriteRune(r)
	}
	return b.String()
}

// modules draws a QR code as SVG path data and returns its size in modules,
// with the margin.
func modules(text string) (string, int, error) {
	c, err := qr.Encode(text, qr.M)
	if err != nil {
		return "", 0, fhir.Wrap("pages.modules", err)
	}
	var b strings.Builder
	for y := range c.Size {
		for x := range c.Size {
			if c.Black(x, y) {
				b.WriteString("M" + strconv.Itoa(x) + " " + strconv.Itoa(y) + "h1v1h-1z")
			}
		}
	}
	return b.String(), c.Size + 4, nil
}

func passwordPage(req *request) error {
	who, err := req.enrollee()
	if err != nil {
		return err
	}
	if !who.Fresh(req.pages.Clock()) {
		return req.refresh(&who)
	}
	req.visit.TOTP = authn.NewSecret()
	v, err := req.passwordView(&who, nil)
	if err != nil {
		return err
	}
	return req.renderKeeping(http.StatusOK, "password", v)
}

// renderKeeping renders a page and keeps the visit, also within a session.
func (req *request) renderKeeping(status int, name string, v view) error {
	if req.session != nil {
		if err := req.pages.Cookies.SetVisit(req.writer, req.visit); err != nil {
			return err
		}
	}
	return req.render(status, name, v)
}

func passwordSet(req *request) error {
	who, err := req.enrollee()
	if err != nil {
		return err
	}
	if req.visit.TOTP == nil {
		return req.redirect("/auth/enrol/password")
	}
	var bad map[string]string
	if req.value("password") != req.value("repeat") {
		bad = map[string]string{"repeat": "The passwords do not match."}
	} else {
		in, codes, err := req.pages.SignIn.EnrollPassword(req.http.Context(), req.from(), who, req.value("password"),
			req.visit.TOTP,
			req.value("code"))
		switch {
		case err == nil:
			return req.showCodes(in, codes)
		case fhir.KindOf(err) != fhir.Invalid:
			return err
		}
		bad = wrong(err, passwordFields)
	}
	v, err := req.passwordView(&who, bad)
	if err != nil {
		return err
	}
	return req.renderKeeping(http.StatusUnprocessableEntity, "password", v)
}

func (req *request) showCodes(in signin.SignedIn, codes []string) error {
	if err := req.begin(in); err != nil {
		return err
	}
	return req.render(http.StatusOK, "codes", view{Title: "Your recovery codes", Narrow: true, Data: codes})
}

type accountData struct {
	Passkeys []keyRow
	Password bool
	Codes    int
	External bool
	Provider string
	Idle     string
	ACR      string
	Sessions []sessionRow
}

type keyRow struct {
	ID string
	user.Passkey
}

func accountPage(req *request) error {
	data := accountData{Password: req.user.Password != "", Codes: len(req.user.Recovery),
		External: len(req.user.External) > 0,
		ACR:      req.session.ACR, Idle: "an hour"}
	if req.user.Roles.Staff() {
		data.Idle = "15 minutes"
	}
	if req.pages.SignIn.Provider != nil {
		data.Provider = req.pages.SignIn.Provider.Name
	}
	for _, k := range req.user.Passkeys {
		data.Passkeys = append(data.Passkeys, keyRow{base64.RawURLEncoding.EncodeToString(k.Record.ID), k})
	}
	var err error
	if data.Sessions, err = req.sessionRows(); err != nil {
		return err
	}
	v := view{Title: "Your account", Data: data}
	v.Good = map[string]string{"passkey": "The passkey is ready. You can now sign in with it.",
		"removed":    "It was removed. All your other sessions have ended.",
		"session":    "That session has ended.",
		"everything": "All your other sessions have ended, and no app has access."}[req.value("done")]
	return req.render(http.StatusOK, "account", v)
}

func accountRemove(req *request) error {
	id, err := base64.RawURLEncoding.DecodeString(req.value("id"))
	if err != nil {
		return fhir.Errorf(fhir.Invalid, "pages.accountRemove", "There is no such passkey.")
	}
	who := signin.Enrollee{User: *req.user, Session: req.session}
	if !who.Fresh(req.pages.Clock()) {
		return req.refresh(&who)
	}
	in, err := req.pages.SignIn.Remove(req.http.Context(), req.from(), who, req.value("what"), id)
	if err != nil {
		return err
	}
	if err := req.begin(in); err != nil {
		return err
	}
	return req.redirect(home + "?done=removed")
}

func accountRecovery(req *request) error {
	who := signin.Enrollee{User: *req.user, Session: req.session}
	if !who.Fresh(req.pages.Clock()) {
		return req.refresh(&who)
	}
	in, codes, err := req.pages.SignIn.NewRecovery(req.http.Context(), req.from(), who)
	if err != nil {
		return err
	}
	return req.showCodes(in, codes)
}

// secretLink returns the URL of a one-time link.
func (p *Pages) secretLink(token string) string { return p.Base + "/auth/invite?token=" + token }
