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

// invitePage shows what a one-time link is for. To open it uses nothing up:
// mail scanners open links, too.
func invitePage(q *request) error {
	token := q.value("token")
	_, u, err := q.p.Users.Invited(q.r.Context(), token)
	if err != nil {
		return err
	}
	return q.render(http.StatusOK, "invite",
		view{Title: "Welcome to Pulsegate", Narrow: true,
			Data: struct{ Token, Name, Login string }{token, u.Name, u.Login}})
}

func inviteAccept(q *request) error {
	token := q.value("token")
	if _, _, err := q.p.Users.Invited(q.r.Context(), token); err != nil {
		return err
	}
	q.visit.Invite = token
	if err := q.p.Cookies.SetVisit(q.w, q.visit); err != nil {
		return err
	}
	return q.to("/auth/enrol")
}

// enrolling is who sets up a way to sign in: with a link, or signed in.
func (q *request) enrolling() (signin.Enrollee, error) {
	if q.visit.Invite != "" {
		inv, u, err := q.p.Users.Invited(q.r.Context(), q.visit.Invite)
		if err == nil {
			return signin.Enrollee{User: u, Invite: &inv}, nil
		}
		if q.x == nil || fhir.KindOf(err) != fhir.NotFound {
			return signin.Enrollee{}, err
		}
	}
	if q.x == nil {
		return signin.Enrollee{}, errSignIn
	}
	return signin.Enrollee{User: *q.u, Session: q.x}, nil
}

type enrolData struct {
	First              bool // with a link
	Passkeys, Password bool // available; has one already
	Provider           string
	Staff              bool
}

func enrolPage(q *request) error {
	w, err := q.enrolling()
	if err != nil {
		return err
	}
	if !w.Fresh(q.p.Clock()) {
		return q.refresh(&w)
	}
	d := enrolData{First: w.Invite != nil, Passkeys: q.p.SignIn.Passkeys != nil, Password: w.User.Password != "",
		Staff: w.User.Roles.Staff()}
	if q.p.SignIn.Provider != nil {
		d.Provider = q.p.SignIn.Provider.Name
	}
	title := "Add a way to sign in"
	if d.First {
		title = "Choose how you sign in"
	}
	return q.render(http.StatusOK, "enrol", view{Title: title, Data: d})
}

// refresh asks for a sign-in of the strength that the person has.
func (q *request) refresh(w *signin.Enrollee) error {
	if len(w.User.Passkeys) > 0 {
		return signin.ErrStepUp
	}
	return q.again()
}

func enrolOptions(q *request) error {
	w, err := q.enrolling()
	if err != nil {
		return err
	}
	o, c, err := q.p.SignIn.BeginPasskeyEnrolment(w)
	return q.ceremony(o, c, err)
}

func enrolPasskey(q *request) error {
	in, err := q.posted()
	if err != nil {
		return err
	}
	w, err := q.enrolling()
	if err != nil {
		return err
	}
	c, err := q.taken()
	if err != nil {
		return err
	}
	s, err := q.p.SignIn.EnrolPasskey(q.r.Context(), q.from(), w, c, in.Credential, in.Label)
	if err != nil {
		return err
	}
	if err := q.begin(s); err != nil {
		return err
	}
	return q.answer(http.StatusOK, map[string]string{"next": home + "?done=passkey"})
}

type passwordData struct {
	Login  string
	Secret string // as typed
	URI    string
	QR     string // path of an SVG, Size modules square
	Box    int    // modules with the margin
}

func (q *request) passwordView(w *signin.Enrollee, bad map[string]string) (view, error) {
	d := passwordData{Login: w.User.Login, Secret: grouped(authn.SecretText(q.visit.TOTP)),
		URI: authn.KeyURI(q.visit.TOTP, "Pulsegate", w.User.Login)}
	var err error
	d.QR, d.Box, err = modules(d.URI)
	return view{Title: "Password and code app", Narrow: true, Wrong: bad, Data: d}, err
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

// modules draws a QR code as one path.
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

func passwordPage(q *request) error {
	w, err := q.enrolling()
	if err != nil {
		return err
	}
	if !w.Fresh(q.p.Clock()) {
		return q.refresh(&w)
	}
	q.visit.TOTP = authn.NewSecret()
	v, err := q.passwordView(&w, nil)
	if err != nil {
		return err
	}
	return q.kept(http.StatusOK, "password", v)
}

// kept renders a page that needs the visit also in a session.
func (q *request) kept(status int, name string, v view) error {
	if q.x != nil {
		if err := q.p.Cookies.SetVisit(q.w, q.visit); err != nil {
			return err
		}
	}
	return q.render(status, name, v)
}

func passwordSet(q *request) error {
	w, err := q.enrolling()
	if err != nil {
		return err
	}
	if q.visit.TOTP == nil {
		return q.to("/auth/enrol/password")
	}
	var bad map[string]string
	if q.value("password") != q.value("repeat") {
		bad = map[string]string{"repeat": "The two passwords are not the same."}
	} else {
		in, codes, err := q.p.SignIn.EnrolPassword(q.r.Context(), q.from(), w, q.value("password"), q.visit.TOTP,
			q.value("code"))
		switch {
		case err == nil:
			return q.showCodes(in, codes)
		case fhir.KindOf(err) != fhir.Invalid:
			return err
		}
		bad = wrong(err, passwordFields)
	}
	v, err := q.passwordView(&w, bad)
	if err != nil {
		return err
	}
	return q.kept(http.StatusUnprocessableEntity, "password", v)
}

func (q *request) showCodes(in signin.SignedIn, codes []string) error {
	if err := q.begin(in); err != nil {
		return err
	}
	return q.render(http.StatusOK, "codes", view{Title: "Your recovery codes", Narrow: true, Data: codes})
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

func accountPage(q *request) error {
	d := accountData{Password: q.u.Password != "", Codes: len(q.u.Recovery), External: len(q.u.External) > 0,
		ACR: q.x.ACR, Idle: "an hour"}
	if q.u.Roles.Staff() {
		d.Idle = "15 minutes"
	}
	if q.p.SignIn.Provider != nil {
		d.Provider = q.p.SignIn.Provider.Name
	}
	for _, k := range q.u.Passkeys {
		d.Passkeys = append(d.Passkeys, keyRow{base64.RawURLEncoding.EncodeToString(k.Record.ID), k})
	}
	var err error
	if d.Sessions, err = q.sessionRows(); err != nil {
		return err
	}
	v := view{Title: "Your account", Data: d}
	v.Good = map[string]string{"passkey": "The passkey is ready. From now on you can sign in with it.",
		"removed":    "It was removed. All your other sessions have ended.",
		"session":    "That session has ended.",
		"everything": "All your other sessions have ended, and no app has access any more."}[q.value("done")]
	return q.render(http.StatusOK, "account", v)
}

func accountRemove(q *request) error {
	id, err := base64.RawURLEncoding.DecodeString(q.value("id"))
	if err != nil {
		return fhir.Errorf(fhir.Invalid, "pages.accountRemove", "There is no such passkey.")
	}
	w := signin.Enrollee{User: *q.u, Session: q.x}
	if !w.Fresh(q.p.Clock()) {
		return q.refresh(&w)
	}
	in, err := q.p.SignIn.Remove(q.r.Context(), q.from(), w, q.value("what"), id)
	if err != nil {
		return err
	}
	if err := q.begin(in); err != nil {
		return err
	}
	return q.to(home + "?done=removed")
}

func accountRecovery(q *request) error {
	w := signin.Enrollee{User: *q.u, Session: q.x}
	if !w.Fresh(q.p.Clock()) {
		return q.refresh(&w)
	}
	in, codes, err := q.p.SignIn.NewRecovery(q.r.Context(), q.from(), w)
	if err != nil {
		return err
	}
	return q.showCodes(in, codes)
}

// secretLink is a one-time link as its maker is shown it, once.
func (p *Pages) secretLink(token string) string { return p.Base + "/auth/invite?token=" + token }
