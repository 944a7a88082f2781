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
	"pulsegate/smart/role"
	"pulsegate/smart/signin"
	"pulsegate/smart/user"
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
	Roles                              []roleBox
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
		{Name: "auditor", Text: "Auditor", Hint: "Sees who saw what; reviews emergency access. Cannot be an administrator as well"},
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
	return q.render(http.StatusOK, "usernew", view{Title: "Invite somebody", Narrow: true, Data: userForm{Roles: boxes(nil)}})
}

func usersInvite(q *request) error {
	if err := q.strong(role.ManageUsers); err != nil {
		return err
	}
	n := signin.NewUser{Login: q.value("login"), Name: short(q.value("name")), Roles: q.r.PostForm["role"], Patient: short(q.value("patient")), Practitioner: short(q.value("practitioner"))}
	u, token, err := q.p.SignIn.Invite(q.r.Context(), q.from(), q.actor(), n)
	switch kind := fhir.KindOf(err); {
	case err == nil:
		return q.showLink(&u, token)
	case kind == fhir.Invalid || kind == fhir.Conflict:
		return q.render(http.StatusUnprocessableEntity, "usernew", view{Title: "Invite somebody", Narrow: true, Bad: words(err),
			Data: userForm{Login: n.Login, Name: n.Name, Patient: n.Patient, Practitioner: n.Practitioner, Roles: boxes(n.Roles)}})
	}
	return err
}

func (q *request) showLink(u *user.User, token string) error {
	return q.render(http.StatusOK, "link", view{Title: "One-time link", Narrow: true, Data: struct{ Name, Link string }{u.Name, q.p.secretLink(token)}})
}

type userData struct {
	user.User
	Self  bool
	Boxes []roleBox
}

func userPage(q *request) error { return q.userPage("", http.StatusOK) }

func (q *request) userPage(bad string, status int) error {
	if err := q.strong(role.ManageUsers); err != nil {
		return err
	}
	u, err := q.p.Users.Get(q.r.Context(), q.r.PathValue("id"))
	if err != nil {
		return err
	}
	v := view{Title: u.Name, Bad: bad, Data: &userData{u, u.ID == q.u.ID, boxes(u.Roles.Strings())}}
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
		err = q.p.SignIn.SetRoles(ctx, q.from(), q.actor(), id, q.r.PostForm["role"], short(q.value("patient")), short(q.value("practitioner")))
	case "disable", "enable":
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
		return q.userPage(words(err), http.StatusUnprocessableEntity)
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
	v.Good = map[string]string{"added": "The client is registered.", "disabled": "The client is disabled from this moment on."}[q.value("done")]
	return q.render(http.StatusOK, "clients", v)
}

type clientForm struct {
	Name, Redirects, LaunchURL, JWKSURL, JWKS, Scope, Kind string
}

func clientsNew(q *request) error {
	if err := q.strong(role.ManageClients); err != nil {
		return err
	}
	return q.render(http.StatusOK, "clientnew", view{Title: "Register a client", Narrow: true, Data: clientForm{Kind: "public", Scope: "openid fhirUser launch/patient patient/*.rs"}})
}

// clientsAdd registers a client. A secret is shown on the page that answers,
// and nowhere again.
func clientsAdd(q *request) error {
	if err := q.strong(role.ManageClients); err != nil {
		return err
	}
	f := clientForm{Name: short(q.value("name")), Redirects: q.value("redirects"), LaunchURL: short(q.value("launch")), JWKSURL: short(q.value("jwks_url")),
		JWKS: strings.TrimSpace(q.value("jwks")), Scope: short(q.value("scope")), Kind: q.value("kind")}
	c := client.Client{Name: f.Name, RedirectURIs: strings.Fields(f.Redirects), LaunchURL: f.LaunchURL, Scope: f.Scope, Method: client.None}
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
		// First on record, then done: a registration that fails afterwards
		// leaves one event too many, never one too few.
		if err = q.recorded("client-add"); err == nil {
			c, err = q.p.Clients.Add(q.r.Context(), c)
		}
	}
	switch kind := fhir.KindOf(err); {
	case err == nil && secret != "":
		return q.render(http.StatusOK, "secret", view{Title: "The client’s secret", Narrow: true, Data: struct{ Name, ID, Secret string }{c.Name, c.ID, secret}})
	case err == nil:
		return q.to("/auth/clients?done=added")
	case kind == fhir.Invalid || kind == fhir.Conflict:
		return q.render(http.StatusUnprocessableEntity, "clientnew", view{Title: "Register a client", Narrow: true, Bad: words(err), Data: f})
	}
	return err
}

// recorded leaves the event of an administrator's act.
func (q *request) recorded(what string, extra ...[2]string) error {
	by := q.by()
	return q.p.Audit.Record(q.r.Context(), audit.Event{Kind: audit.Security, Interaction: "configuration", Principal: by.Principal,
		RemoteIP: by.RemoteIP, RequestID: by.RequestID, Extra: append([][2]string{{"change", what}}, extra...)})
}

func clientsDisable(q *request) error {
	if err := q.strong(role.ManageClients); err != nil {
		return err
	}
	id := q.r.PathValue("id")
	if _, err := q.p.Clients.Get(q.r.Context(), id); err != nil {
		return err
	}
	if err := q.recorded("client-disable", [2]string{"client", id}); err != nil {
		return err
	}
	if err := q.p.Clients.Disable(q.r.Context(), id); err != nil {
		return err
	}
	return q.to("/auth/clients?done=disabled")
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
	return q.launches(launchData{Client: q.value("client"), Patient: short(q.value("patient"))}, "", http.StatusOK)
}

func (q *request) launches(d launchData, bad string, status int) error {
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
	return q.render(status, "launches", view{Title: "Launch an app", Bad: bad, Data: d})
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
		_, err = q.p.Patients.Get(q.r.Context(), q.by(), d.Patient)
	}
	if err == nil {
		d.URL, err = q.p.Launcher.Launch(q.r.Context(), Launch{Client: d.Client, Patient: d.Patient, Encounter: d.Visit, User: q.u.Reference(), Maker: signin.Subject(q.u, q.x), By: q.by()})
	}
	switch kind := fhir.KindOf(err); {
	case err == nil:
		d.App = c.Name
		return q.launches(d, "", http.StatusOK)
	case kind == fhir.Invalid || kind == fhir.NotFound:
		return q.launches(d, words(err), http.StatusUnprocessableEntity)
	}
	return err
}
