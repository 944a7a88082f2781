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

func usersPage(q *request) error {
	if err := q.may(role.ManageUsers); err != nil {
		return err
	}
	us, err := q.p.Users.List(q.r.Context())
	if err != nil {
		return err
	}
	slices.SortFunc(us, func(a, b user.User) int { return strings.Compare(a.Login, b.Login) })
	return q.render(http.StatusOK, "users", view{Title: "People", Data: us})
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
		{Name: "patient", Text: "Patient", Hint: "Sees their own data and decides which apps do"},
		{Name: "practitioner", Text: "Practitioner", Hint: "Sees patients’ data as far as they consented"},
		{Name: "administrator", Text: "Administrator", Hint: "Runs people, clients and devices; sees no measurements"},
		{Name: "auditor", Text: "Auditor",
			Hint: "Sees who saw what; reviews emergency access. Cannot be an administrator as well"},
	}
	for i := range out {
		out[i].On = slices.Contains(on, out[i].Name)
	}
	return out
}

func usersNew(q *request) error {
	if err := q.strong(role.ManageUsers); err != nil {
		return err
	}
	return q.render(http.StatusOK, "usernew",
		view{Title: "Invite somebody", Narrow: true, Data: userForm{Boxes: boxes(nil)}})
}

func usersInvite(q *request) error {
	if err := q.strong(role.ManageUsers); err != nil {
		return err
	}
	n := signin.NewUser{Login: q.value("login"), Name: short(q.value("name")), Roles: q.r.PostForm["role"],
		Patient: short(q.value("patient")), Practitioner: short(q.value("practitioner"))}
	u, token, err := q.p.SignIn.Invite(q.r.Context(), q.from(), q.actor(), n)
	switch kind := fhir.KindOf(err); {
	case err == nil:
		return q.showLink(&u, token)
	case kind == fhir.Invalid || kind == fhir.Conflict:
		return q.render(http.StatusUnprocessableEntity, "usernew",
			view{Title: "Invite somebody", Narrow: true, Wrong: wrong(err, userFields),
				Data: userForm{Login: n.Login, Name: n.Name, Patient: n.Patient, Practitioner: n.Practitioner,
					Boxes: boxes(n.Roles)}})
	}
	return err
}

func (q *request) showLink(u *user.User, token string) error {
	return q.render(http.StatusOK, "link",
		view{Title: "One-time link", Narrow: true, Data: struct{ Name, Link string }{u.Name, q.p.secretLink(token)}})
}

type userData struct {
	user.User
	Self  bool
	Boxes []roleBox
}

func userPage(q *request) error { return q.userPage(nil, http.StatusOK) }

func (q *request) userPage(bad map[string]string, status int) error {
	if err := q.strong(role.ManageUsers); err != nil {
		return err
	}
	u, err := q.p.Users.Get(q.r.Context(), q.r.PathValue("id"))
	if err != nil {
		return err
	}
	d := userData{u, u.ID == q.u.ID, boxes(u.Roles.Strings())}
	if q.value("do") == "roles" { // what was typed
		d.Boxes, d.Patient, d.Practitioner = boxes(q.r.PostForm["role"]), short(q.value("patient")),
			short(q.value("practitioner"))
	}
	v := view{Title: u.Name, Wrong: bad, Data: &d}
	if q.r.Method == http.MethodGet && q.value("done") != "" {
		v.Good = "Saved. All sessions of this person and the access of all their apps have ended."
	}
	return q.render(status, "user", v)
}

func userChange(q *request) error {
	id, ctx := q.r.PathValue("id"), q.r.Context()
	var err error
	switch q.value("do") {
	case "roles":
		err = q.p.SignIn.SetRoles(ctx, q.from(), q.actor(), id, q.r.PostForm["role"], short(q.value("patient")),
			short(q.value("practitioner")))
	case "disable", "enable":
		if q.value("do") == "disable" && q.value("sure") == "" && id != q.u.ID {
			return q.askDisableUser(id)
		}
		err = q.p.SignIn.SetDisabled(ctx, q.from(), q.actor(), id, q.value("do") == "disable")
	case "invite", "reset":
		u, token, ierr := q.p.SignIn.Reinvite(ctx, q.from(), q.actor(), id, q.value("do") == "reset")
		if ierr == nil {
			return q.showLink(&u, token)
		}
		err = ierr
	default:
		err = fhir.Errorf(fhir.Invalid, "pages.userChange", "There is no such action.")
	}
	switch {
	case err == nil:
		return q.to("/auth/users/" + url.PathEscape(id) + "?done=1")
	case fhir.KindOf(err) == fhir.Invalid:
		return q.userPage(wrong(err, userFields), http.StatusUnprocessableEntity)
	}
	return err
}

func clientsPage(q *request) error {
	if err := q.may(role.ManageClients); err != nil {
		return err
	}
	cs, err := q.p.Clients.List(q.r.Context())
	if err != nil {
		return err
	}
	v := view{Title: "Clients", Data: cs}
	v.Good = map[string]string{"added": "The client is registered.",
		"client-disable": "The client is disabled from this moment on.",
		"client-enable":  "The client is enabled again."}[q.value("done")]
	return q.render(http.StatusOK, "clients", v)
}

type clientForm struct {
	Name, Redirects, LaunchURL, JWKSURL, JWKS, Scope, Kind string
}

func clientsNew(q *request) error {
	if err := q.strong(role.ManageClients); err != nil {
		return err
	}
	return q.render(http.StatusOK, "clientnew",
		view{Title: "Register a client", Narrow: true,
			Data: clientForm{Kind: "public", Scope: "openid fhirUser launch/patient patient/*.rs"}})
}

// clientsAdd registers a client. A secret is shown on the page that answers,
// and nowhere again.
func clientsAdd(q *request) error {
	if err := q.strong(role.ManageClients); err != nil {
		return err
	}
	f := clientForm{Name: short(q.value("name")), Redirects: q.value("redirects"),
		LaunchURL: short(q.value("launch")), JWKSURL: short(q.value("jwks_url")),
		JWKS: strings.TrimSpace(q.value("jwks")), Scope: short(q.value("scope")), Kind: q.value("kind")}
	c := client.Client{Name: f.Name, RedirectURIs: strings.Fields(f.Redirects), LaunchURL: f.LaunchURL,
		Scope: f.Scope, Method: client.None}
	secret := ""
	switch f.Kind {
	case "public":
	case "secret":
		var b [32]byte
		if _, err := io.ReadFull(q.p.Rand, b[:]); err != nil {
			return fhir.Wrap("pages.clientsAdd", err)
		}
		secret = client.NewSecret(b)
		c.Method, c.SecretHash = client.SecretBasic, client.Hash(secret)
	default:
		c.Method, c.JWKSURL = client.PrivateKeyJWT, f.JWKSURL
		if f.JWKS != "" {
			c.JWKS = json.RawMessage(f.JWKS)
		}
	}
	var err error
	if f.JWKS != "" && !json.Valid([]byte(f.JWKS)) {
		err = fhir.Errorf(fhir.Invalid, "pages.clientsAdd", "The key set is not JSON.")
	} else {
		c, err = q.addClient(c)
	}
	switch kind := fhir.KindOf(err); {
	case err == nil && secret != "":
		return q.render(http.StatusOK, "secret",
			view{Title: "The client’s secret", Narrow: true,
				Data: struct{ Name, ID, Secret string }{c.Name, c.ID, secret}})
	case err == nil:
		return q.to("/auth/clients?done=added")
	case kind == fhir.Invalid || kind == fhir.Conflict:
		return q.render(http.StatusUnprocessableEntity, "clientnew",
			view{Title: "Register a client", Narrow: true, Wrong: wrong(err, clientFields), Data: f})
	}
	return err
}

// addClient registers c, in one commit with the record of that.
func (q *request) addClient(c client.Client) (client.Client, error) {
	c, w, err := q.p.Clients.Prepare(c)
	if err != nil {
		return c, err
	}
	return c, q.p.SignIn.Commit(q.r.Context(), q.changed("client-add", [2]string{"client", c.ID}), w)
}

// changed is the event of an administrator's act.
func (q *request) changed(what string, extra ...[2]string) audit.Event {
	by := q.by()
	return audit.Event{Type: audit.Security, Interaction: "configuration", Caller: by,
		Extra: append([][2]string{{"change", what}}, extra...)}
}

// clientsChange disables a client, after a question, or enables it again, in
// one commit with the record of that.
func clientsChange(q *request) error {
	if err := q.strong(role.ManageClients); err != nil {
		return err
	}
	ctx, id := q.r.Context(), q.r.PathValue("id")
	c, err := q.p.Clients.Get(ctx, id)
	if err != nil {
		return err
	}
	enable := q.value("do") == "enable"
	if !enable && q.value("sure") == "" {
		return q.ask(question{Title: "Disable " + c.Name + "?", Action: "/auth/clients/" + url.PathEscape(id),
			Back: "/auth/clients", Do: "disable", Button: "Disable",
			Text: "Its requests are refused from this moment on, whoever uses it, and downloads under way break off. It can be enabled again."})
	}
	what := "client-disable"
	if enable {
		what = "client-enable"
	}
	_, w, err := q.p.Clients.PrepareChange(ctx, id, func(c *client.Client) error { c.Disabled = !enable; return nil })
	if err != nil {
		return err
	}
	if err := q.p.SignIn.Commit(ctx, q.changed(what, [2]string{"client", id}), w); err != nil {
		return err
	}
	return q.to("/auth/clients?done=" + what)
}

// question is asked before what ends something for others.
type question struct {
	Title, Text, Button string
	Action, Do, Back    string // the form, its field do, and the way back
}

func (q *request) ask(x question) error {
	return q.render(http.StatusOK, "ask", view{Title: x.Title, Narrow: true, Data: x})
}

func (q *request) askDisableUser(id string) error {
	if err := q.strong(role.ManageUsers); err != nil {
		return err
	}
	u, err := q.p.Users.Get(q.r.Context(), id)
	if err != nil {
		return err
	}
	return q.ask(question{Title: "Disable " + u.Name + "?", Action: "/auth/users/" + url.PathEscape(id),
		Back: "/auth/users/" + url.PathEscape(id), Do: "disable", Button: "Disable",
		Text: "Their sessions and the access of all their apps end at once. Access can be given again; they sign in again then, and allow their apps again."})
}

type launchData struct {
	Apps                   []client.Client
	Client, Patient, Visit string
	URL, App               string
	Text                   string
	Found                  []Person
	Asked                  bool
}

func launchesPage(q *request) error {
	return q.launches(launchData{Client: q.value("client"), Patient: short(q.value("patient"))}, nil, http.StatusOK)
}

func (q *request) launches(d launchData, bad map[string]string, status int) error {
	if err := q.may(role.Launch); err != nil {
		return err
	}
	if q.p.Launcher == nil {
		return fhir.Errorf(fhir.NotFound, "pages.launches", "There is no such page.")
	}
	cs, err := q.p.Clients.List(q.r.Context())
	if err != nil {
		return err
	}
	for _, c := range cs {
		if c.LaunchURL != "" && !c.Disabled {
			d.Apps = append(d.Apps, c)
		}
	}
	if d.Text = strings.TrimSpace(q.value("text")); d.Text != "" && q.r.Method == http.MethodGet {
		d.Asked = true
		if d.Found, err = q.p.Patients.Find(q.r.Context(), q.by(), d.Text); err != nil {
			return err
		}
	}
	return q.render(status, "launches", view{Title: "Launch an app", Wrong: bad, Data: d})
}

// launchesGo makes a launch and shows the link that opens the app: what the
// app is given is then plain to see.
func launchesGo(q *request) error {
	if err := q.may(role.Launch); err != nil {
		return err
	}
	if q.p.Launcher == nil {
		return fhir.Errorf(fhir.NotFound, "pages.launchesGo", "There is no such page.")
	}
	d := launchData{Client: q.value("client"), Patient: short(q.value("patient")), Visit: short(q.value("encounter"))}
	c, err := q.p.Clients.Get(q.r.Context(), d.Client)
	if err == nil && d.Patient != "" {
		if _, err = q.p.Patients.Get(q.r.Context(), q.by(), d.Patient); err != nil &&
			(fhir.KindOf(err) == fhir.NotFound || fhir.KindOf(err) == fhir.Gone) {
			err = fhir.Errorf(fhir.Invalid, "pages.launchesGo", "There is no Patient with that id.")
		}
	}
	if err == nil {
		d.URL, err = q.p.Launcher.Launch(q.r.Context(),
			Launch{Client: d.Client, Patient: d.Patient, Encounter: d.Visit, User: q.u.Reference(),
				Maker: signin.Subject(q.u, q.x), By: q.by()})
	}
	switch kind := fhir.KindOf(err); {
	case err == nil:
		d.App = c.Name
		return q.launches(d, nil, http.StatusOK)
	case kind == fhir.Invalid || kind == fhir.NotFound:
		return q.launches(d, wrong(err, launchFields), http.StatusUnprocessableEntity)
	}
	return err
}
