package pages

import (
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"pulsegate/fhir"
	"pulsegate/fhir/audit"
	"pulsegate/smart/client"
	"pulsegate/smart/people/role"
	"pulsegate/smart/people/signin"
	"pulsegate/smart/people/user"
)

func usersPage(req *request) error {
	if err := req.may(role.ManageUsers); err != nil {
		return err
	}
	us, err := req.pages.Users.List(req.http.Context())
	if err != nil {
		return err
	}
	slices.SortFunc(us, func(a, b user.User) int { return strings.Compare(a.Login, b.Login) })
	return req.render(http.StatusOK, "users", view{Title: "People", Data: us})
}

type userForm struct {
	Login, Name, Patient, Practitioner string
	Boxes                              []roleBox
}

type roleBox struct {
	Name, Text, Hint string
	On               bool
}

func boxes(on []string) []roleBox {
	out := []roleBox{
		{Name: "patient", Text: "Patient", Hint: "Sees their own data and decides which apps can see it"},
		{Name: "practitioner", Text: "Practitioner", Hint: "Sees the data that patients have consented to share"},
		{Name: "administrator", Text: "Administrator",
			Hint: "Manages people, clients and devices. Sees no measurements"},
		{Name: "auditor", Text: "Auditor",
			Hint: "Sees who accessed which data and reviews emergency access. Cannot be an administrator as well"},
	}
	for i := range out {
		out[i].On = slices.Contains(on, out[i].Name)
	}
	return out
}

func usersNew(req *request) error {
	if err := req.strong(role.ManageUsers); err != nil {
		return err
	}
	return req.render(http.StatusOK, "usernew",
		view{Title: "Invite a person", Narrow: true, Data: userForm{Boxes: boxes(nil)}})
}

func usersInvite(req *request) error {
	if err := req.strong(role.ManageUsers); err != nil {
		return err
	}
	n := signin.NewUser{Login: req.value("login"), Name: short(req.value("name")), Roles: req.http.PostForm["role"],
		Patient: short(req.value("patient")), Practitioner: short(req.value("practitioner"))}
	u, token, err := req.pages.SignIn.Invite(req.http.Context(), req.from(), req.actor(), n)
	switch kind := fhir.KindOf(err); {
	case err == nil:
		return req.showLink(&u, token)
	case kind == fhir.Invalid || kind == fhir.Conflict:
		return req.render(http.StatusUnprocessableEntity, "usernew",
			view{Title: "Invite a person", Narrow: true, Wrong: wrong(err, userFields),
				Data: userForm{Login: n.Login, Name: n.Name, Patient: n.Patient, Practitioner: n.Practitioner,
					Boxes: boxes(n.Roles)}})
	}
	return err
}

func (req *request) showLink(u *user.User, token string) error {
	return req.render(http.StatusOK, "link",
		view{Title: "One-time link", Narrow: true,
			Data: struct{ Name, Link string }{u.Name, req.pages.secretLink(token)}})
}

type userData struct {
	user.User
	Self  bool
	Boxes []roleBox
}

func userPage(req *request) error { return req.userPage(nil, http.StatusOK) }

func (req *request) userPage(bad map[string]string, status int) error {
	if err := req.strong(role.ManageUsers); err != nil {
		return err
	}
	u, err := req.pages.Users.Get(req.http.Context(), req.http.PathValue("id"))
	if err != nil {
		return err
	}
	data := userData{u, u.ID == req.user.ID, boxes(u.Roles.Strings())}
	if req.value("do") == "roles" { // show the rejected input again
		data.Boxes, data.Patient, data.Practitioner = boxes(req.http.PostForm["role"]), short(req.value("patient")),
			short(req.value("practitioner"))
	}
	v := view{Title: u.Name, Wrong: bad, Data: &data}
	if req.http.Method == http.MethodGet && req.value("done") != "" {
		v.Good = "Saved. All sessions of this person and the access of all their apps have ended."
	}
	return req.render(status, "user", v)
}

func userChange(req *request) error {
	id, ctx := req.http.PathValue("id"), req.http.Context()
	var err error
	switch req.value("do") {
	case "roles":
		err = req.pages.SignIn.SetRoles(ctx, req.from(), req.actor(), id, req.http.PostForm["role"],
			short(req.value("patient")),
			short(req.value("practitioner")))
	case "disable", "enable":
		if req.value("do") == "disable" && req.value("sure") == "" && id != req.user.ID {
			return req.askDisableUser(id)
		}
		err = req.pages.SignIn.SetDisabled(ctx, req.from(), req.actor(), id, req.value("do") == "disable")
	case "invite", "reset":
		u, token, ierr := req.pages.SignIn.Reinvite(ctx, req.from(), req.actor(), id, req.value("do") == "reset")
		if ierr == nil {
			return req.showLink(&u, token)
		}
		err = ierr
	default:
		err = fhir.Errorf(fhir.Invalid, "pages.userChange", "There is no such action.")
	}
	switch {
	case err == nil:
		return req.redirect("/auth/users/" + url.PathEscape(id) + "?done=1")
	case fhir.KindOf(err) == fhir.Invalid:
		return req.userPage(wrong(err, userFields), http.StatusUnprocessableEntity)
	}
	return err
}

func clientsPage(req *request) error {
	if err := req.may(role.ManageClients); err != nil {
		return err
	}
	cs, err := req.pages.Clients.List(req.http.Context())
	if err != nil {
		return err
	}
	v := view{Title: "Clients", Data: cs}
	v.Good = map[string]string{"added": "The client is registered.",
		"client-disable": "The client is disabled.",
		"client-enable":  "The client is enabled again."}[req.value("done")]
	return req.render(http.StatusOK, "clients", v)
}

type clientForm struct {
	Name, Redirects, LaunchURL, JWKSURL, JWKS, Scope, Kind string
}

func clientsNew(req *request) error {
	if err := req.strong(role.ManageClients); err != nil {
		return err
	}
	return req.render(http.StatusOK, "clientnew",
		view{Title: "Register a client", Narrow: true,
			Data: clientForm{Kind: "public", Scope: "openid fhirUser launch/patient patient/*.rs"}})
}

// clientsAdd registers a client. The response shows the secret, which is not
// shown again.
func clientsAdd(req *request) error {
	if err := req.strong(role.ManageClients); err != nil {
		return err
	}
	form := clientForm{Name: short(req.value("name")), Redirects: req.value("redirects"),
		LaunchURL: short(req.value("launch")), JWKSURL: short(req.value("jwks_url")),
		JWKS: strings.TrimSpace(req.value("jwks")), Scope: short(req.value("scope")), Kind: req.value("kind")}
	c := client.Client{Name: form.Name, RedirectURIs: strings.Fields(form.Redirects), LaunchURL: form.LaunchURL,
		Scope: form.Scope, Method: client.None}
	secret := ""
	switch form.Kind {
	case "public":
	case "secret":
		var b [32]byte
		if _, err := io.ReadFull(req.pages.Rand, b[:]); err != nil {
			return fhir.Wrap("pages.clientsAdd", err)
		}
		secret = client.NewSecret(b)
		c.Method, c.SecretHash = client.SecretBasic, client.Hash(secret)
	default:
		c.Method, c.JWKSURL = client.PrivateKeyJWT, form.JWKSURL
		if form.JWKS != "" {
			c.JWKS = json.RawMessage(form.JWKS)
		}
	}
	var err error
	if form.JWKS != "" && !json.Valid([]byte(form.JWKS)) {
		err = fhir.Errorf(fhir.Invalid, "pages.clientsAdd", "The key set is not JSON.")
	} else {
		c, err = req.addClient(c)
	}
	switch kind := fhir.KindOf(err); {
	case err == nil && secret != "":
		return req.render(http.StatusOK, "secret",
			view{Title: "The client’s secret", Narrow: true,
				Data: struct{ Name, ID, Secret string }{c.Name, c.ID, secret}})
	case err == nil:
		return req.redirect("/auth/clients?done=added")
	case kind == fhir.Invalid || kind == fhir.Conflict:
		return req.render(http.StatusUnprocessableEntity, "clientnew",
			view{Title: "Register a client", Narrow: true, Wrong: wrong(err, clientFields), Data: form})
	}
	return err
}

// addClient registers c in one commit with the AuditEvent.
func (req *request) addClient(c client.Client) (client.Client, error) {
	c, w, err := req.pages.Clients.Prepare(c)
	if err != nil {
		return c, err
	}
	return c, req.pages.SignIn.Commit(req.http.Context(), req.changed("client-add", [2]string{"client", c.ID}), w)
}

// changed returns the AuditEvent of an administrator's change.
func (req *request) changed(what string, extra ...[2]string) audit.Event {
	by := req.by()
	return audit.Event{Type: audit.Security, Interaction: "configuration", Caller: by,
		Extra: append([][2]string{{"change", what}}, extra...)}
}

// clientsChange disables a client, after a confirmation, or enables it again,
// in one commit with the AuditEvent.
func clientsChange(req *request) error {
	if err := req.strong(role.ManageClients); err != nil {
		return err
	}
	ctx, id := req.http.Context(), req.http.PathValue("id")
	c, err := req.pages.Clients.Get(ctx, id)
	if err != nil {
		return err
	}
	enable := req.value("do") == "enable"
	if !enable && req.value("sure") == "" {
		return req.ask(question{Title: "Disable " + c.Name + "?", Action: "/auth/clients/" + url.PathEscape(id),
			Back: "/auth/clients", Do: "disable", Button: "Disable",
			Text: "Its requests are refused from now on, for every user, and running downloads are stopped. You can enable it again."})
	}
	what := "client-disable"
	if enable {
		what = "client-enable"
	}
	_, w, err := req.pages.Clients.PrepareChange(ctx, id,
		func(c *client.Client) error { c.Disabled = !enable; return nil })
	if err != nil {
		return err
	}
	if err := req.pages.SignIn.Commit(ctx, req.changed(what, [2]string{"client", id}), w); err != nil {
		return err
	}
	return req.redirect("/auth/clients?done=" + what)
}

// question asks for a confirmation before an action that ends the access of
// others.
type question struct {
	Title, Text, Button string
	Action, Do, Back    string // form target, value of the field do, and path of the Cancel link
}

func (req *request) ask(q question) error {
	return req.render(http.StatusOK, "ask", view{Title: q.Title, Narrow: true, Data: q})
}

func (req *request) askDisableUser(id string) error {
	if err := req.strong(role.ManageUsers); err != nil {
		return err
	}
	u, err := req.pages.Users.Get(req.http.Context(), id)
	if err != nil {
		return err
	}
	return req.ask(question{Title: "Disable " + u.Name + "?", Action: "/auth/users/" + url.PathEscape(id),
		Back: "/auth/users/" + url.PathEscape(id), Do: "disable", Button: "Disable",
		Text: "Their sessions and the access of all their apps end immediately. You can enable them again; they then have to sign in and allow their apps again."})
}

type launchData struct {
	Apps                   []client.Client
	Client, Patient, Visit string
	URL, App               string
	Text                   string
	Found                  []Person
	Asked                  bool
}

func launchesPage(req *request) error {
	return req.launches(launchData{Client: req.value("client"), Patient: short(req.value("patient"))}, nil,
		http.StatusOK)
}

func (req *request) launches(data launchData, bad map[string]string, status int) error {
	if err := req.may(role.Launch); err != nil {
		return err
	}
	if req.pages.Launcher == nil {
		return fhir.Errorf(fhir.NotFound, "pages.launches", "There is no such page.")
	}
	cs, err := req.pages.Clients.List(req.http.Context())
	if err != nil {
		return err
	}
	for _, c := range cs {
		if c.LaunchURL != "" && !c.Disabled {
			data.Apps = append(data.Apps, c)
		}
	}
	if data.Text = strings.TrimSpace(req.value("text")); data.Text != "" && req.http.Method == http.MethodGet {
		data.Asked = true
		if data.Found, err = req.pages.Patients.Find(req.http.Context(), req.by(), data.Text); err != nil {
			return err
		}
	}
	return req.render(status, "launches", view{Title: "Launch an app", Wrong: bad, Data: data})
}

// launchesGo creates a launch and shows the link that opens the app, so that
// the person sees what the app receives.
func launchesGo(req *request) error {
	if err := req.may(role.Launch); err != nil {
		return err
	}
	if req.pages.Launcher == nil {
		return fhir.Errorf(fhir.NotFound, "pages.launchesGo", "There is no such page.")
	}
	data := launchData{Client: req.value("client"), Patient: short(req.value("patient")),
		Visit: short(req.value("encounter"))}
	c, err := req.pages.Clients.Get(req.http.Context(), data.Client)
	if err == nil && data.Patient != "" {
		if _, err = req.pages.Patients.Get(req.http.Context(), req.by(), data.Patient); err != nil &&
			(fhir.KindOf(err) == fhir.NotFound || fhir.KindOf(err) == fhir.Gone) {
			err = fhir.Errorf(fhir.Invalid, "pages.launchesGo", "There is no Patient with that id.")
		}
	}
	if err == nil {
		data.URL, err = req.pages.Launcher.Launch(req.http.Context(),
			Launch{Client: data.Client, Patient: data.Patient, Encounter: data.Visit, User: req.user.Reference(),
				Maker: signin.Subject(req.user, req.session), By: req.by()})
	}
	switch kind := fhir.KindOf(err); {
	case err == nil:
		data.App = c.Name
		return req.launches(data, nil, http.StatusOK)
	case kind == fhir.Invalid || kind == fhir.NotFound:
		return req.launches(data, wrong(err, launchFields), http.StatusUnprocessableEntity)
	}
	return err
}
