package server

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"pulsegate/cmd/internal/admin"
	"pulsegate/cmd/internal/recovery"
	"pulsegate/fhir"
	"pulsegate/fhir/access"
	"pulsegate/fhir/audit"
	"pulsegate/fhir/egress"
	"pulsegate/fhir/interaction"
	"pulsegate/fhir/store"
	"pulsegate/smart/appconsent"
	"pulsegate/smart/authz"
	"pulsegate/smart/oauth/discovery"
	"pulsegate/smart/oauth/launch"
	"pulsegate/smart/oauth/token"
	"pulsegate/smart/pages"
	"pulsegate/smart/people/authn"
	"pulsegate/smart/people/breakglass"
	"pulsegate/smart/people/role"
	"pulsegate/smart/people/session"
	"pulsegate/smart/people/signin"
	"pulsegate/smart/people/user"
)

// openPeople builds who may sign in, before the authorization server that asks
// about them.
func (m *Main) openPeople(ctx context.Context) error {
	decision, err := recovery.Requested(m.Config.Data, recovery.SealKey)
	if err != nil {
		return err
	}
	vault, err := authn.OpenVault(m.Config.Data, m.fresh || decision != nil)
	if err != nil {
		return err
	}
	if err := m.recovered(ctx, recovery.SealKey, decision, "keys/seal.key is accepted as it is now"); err != nil {
		return err
	}
	keys, err := authn.NewPasskeys(m.base, m.now)
	if err != nil {
		return err
	}
	if keys == nil {
		m.Log.Warn("no passkeys: the base URL needs a host name, and https unless that is localhost", "base-url",
			m.base)
	}
	breached, err := m.breached()
	if err != nil {
		return err
	}
	provider, err := m.provider()
	if err != nil {
		return err
	}
	m.users = &user.Registry{Store: m.store, Clock: m.now}
	m.sessions = &session.Sessions{Store: m.store, Users: m.users, Clock: m.now}
	m.cookies = session.Cookies{Origin: origin(m.base), Vault: vault, Clock: m.now}
	m.signs, err = signin.New(signin.Options{Store: m.store, Audit: m.recorder, Users: m.users,
		Sessions: m.sessions, Passkeys: keys,
		Passwords: authn.NewPasswords(breached), Vault: vault, Provider: provider, Known: m.known, Ends: m.endAll,
		Issuer: m.base, Clock: m.now, Logger: m.Log})
	if err != nil {
		return err
	}
	if m.glass, err = breakglass.New(m.store, m.recorder, m.now, m.Log); err != nil {
		return err
	}
	m.people = people{rules: role.RulesOf, roles: m.signs.Roles, alive: m.signs.Alive, hold: m.signs.Hold,
		maySelect: m.maySelect,
		consents: func(subject, authorization string) access.Consents {
			return m.glass.For(m.consents.Under(authorization), subject)
		}}
	return nil
}

// endAll adds the end of what a person has beside sessions to a batch.
func (m *Main) endAll(ctx context.Context, b *store.Batch, userID, session string, by audit.Caller) error {
	if err := m.tokens.EndAll(ctx, b, userID, session, by); err != nil || session != "" {
		return err
	}
	return m.glass.EndAll(ctx, b, userID, by)
}

// origin is the scheme and host of the base URL.
func origin(base string) string {
	u, err := url.Parse(base)
	if err != nil {
		return base
	}
	return u.Scheme + "://" + u.Host
}

// breached reads the list of stolen passwords; nil when none is configured.
func (m *Main) breached() (authn.Breached, error) {
	if m.Config.BreachedPasswords == "" {
		return nil, nil
	}
	f, err := os.Open(m.Config.BreachedPasswords)
	if err != nil {
		return nil, fmt.Errorf("breached-passwords: %w", err)
	}
	defer f.Close()
	list, err := authn.ReadBreached(f)
	if err != nil {
		return nil, fmt.Errorf("breached-passwords: %w", err)
	}
	return list, nil
}

// provider is the hospital's own sign-in; nil when none is configured.
func (m *Main) provider() (*authn.Provider, error) {
	c := m.Config
	if c.OIDCIssuer == "" {
		return nil, nil
	}
	secret := ""
	if c.OIDCSecretFile != "" {
		b, err := os.ReadFile(c.OIDCSecretFile)
		if err != nil {
			return nil, fmt.Errorf("oidc-client-secret-file: %w", err)
		}
		secret = strings.TrimSpace(string(b))
	}
	to := m.egress
	to.Timeout, to.MaxResponse = 5*time.Second, 256<<10
	return &authn.Provider{Issuer: c.OIDCIssuer, ClientID: c.OIDCClientID, Secret: secret, Name: c.OIDCName,
		Redirect: m.base + "/auth/external/callback",
		MFA:      c.OIDCMFA, PhishingResistant: c.OIDCPhishingResistant, HTTP: egress.New(to), Clock: m.now}, nil
}

// known reports whether a resource is there and not deleted.
func (m *Main) known(ctx context.Context, ref fhir.Ref) (bool, error) {
	r, _, err := m.store.Read(ctx, ref, 0)
	if err != nil && fhir.KindOf(err) == fhir.NotFound {
		return false, nil
	}
	return err == nil && !r.Deleted, err
}

// pages are what people see.
func (m *Main) pages() (*pages.Pages, error) {
	return pages.New(pages.Options{Base: m.base, Version: publicVersion(m.Version), SignIn: m.signs,
		Sessions: m.sessions, Users: m.users, Cookies: m.cookies,
		Flow: m.authorize, Apps: m.tokens,
		Refusals: &appconsent.Refusals{Store: m.store, Audit: m.recorder, Consents: m.consents, Clock: m.now},
		Clients:  m.clients, Launcher: launcher{m}, Glass: m.glass,
		UserLife: token.UserLife(m.Config.UserTokenLife), Patients: patients{m},
		Scopes: m.policy.Scopes, Audit: m.recorder, Clock: m.now, Logger: m.Log})
}

// refused shows a person an error of the authorization endpoint.
func (m *Main) refused(w http.ResponseWriter, r *http.Request, status int, text string) {
	m.page.Refused(w, r, status, text)
}

type launcher struct{ m *Main }

// Launch implements pages.Launcher.
func (l launcher) Launch(ctx context.Context, in pages.Launch) (string, error) {
	// The app opens in a tab of its own, where nothing else says whose record
	// it shows.
	banner := true
	_, to, err := l.m.launches.Mint(ctx,
		launch.Launch{ClientID: in.Client, By: "console", User: in.User, Maker: in.Maker,
			Context: authz.Context{Patient: in.Patient, Encounter: in.Encounter, Intent: in.Intent, Banner: &banner,
				StyleURL: l.m.base + discovery.StylePath}},
		audit.Event{Type: audit.Rest, Interaction: "operation", Query: "console launch", Caller: in.By})
	return to, err
}

// patients looks through the ordinary interactions, so each look is recorded.
type patients struct{ m *Main }

type patientJSON struct {
	ID        string `json:"id"`
	BirthDate string `json:"birthDate"`
	Gender    string `json:"gender"`
	Name      []struct {
		Text   string   `json:"text"`
		Family string   `json:"family"`
		Given  []string `json:"given"`
	} `json:"name"`
}

func (p *patientJSON) person() pages.Person {
	out := pages.Person{ID: p.ID, Name: "Patient " + p.ID, Born: p.BirthDate, Gender: p.Gender}
	if len(p.Name) > 0 {
		n := p.Name[0]
		if n.Text == "" {
			n.Text = strings.TrimSpace(strings.Join(n.Given, " ") + " " + n.Family)
		}
		if n.Text != "" {
			out.Name = n.Text
		}
	}
	return out
}

func asked(by audit.Caller, line string) *interaction.Request {
	return &interaction.Request{Caller: by, Line: line}
}

// Get implements pages.Patients.
func (p patients) Get(ctx context.Context, by audit.Caller, id string) (pages.Person, error) {
	r, err := p.m.service.Read(ctx, asked(by, "GET Patient/"+id), fhir.Ref{Type: "Patient", ID: id})
	if err != nil {
		return pages.Person{}, err
	}
	var x patientJSON
	if err := json.Unmarshal(r.JSON, &x); err != nil {
		return pages.Person{}, fhir.Wrap("server.patients", err)
	}
	return x.person(), nil
}

// Find implements pages.Patients: 20 at most.
func (p patients) Find(ctx context.Context, by audit.Caller, text string) ([]pages.Person, error) {
	escaped := strings.NewReplacer(`\`, `\\`, `,`, `\,`, `|`, `\|`, `$`, `\$`).Replace(text)
	q := url.Values{"name": {escaped}, "_count": {"20"}}.Encode()
	page, err := p.m.service.Search(ctx, asked(by, "GET Patient?"+q), "Patient", q)
	if err != nil {
		return nil, err
	}
	var bundle struct {
		Entry []struct {
			Resource patientJSON `json:"resource"`
		} `json:"entry"`
	}
	if err := json.Unmarshal(page.Bytes(), &bundle); err != nil {
		return nil, fhir.Wrap("server.patients", err)
	}
	var out []pages.Person
	for _, e := range bundle.Entry {
		out = append(out, e.Resource.person())
	}
	return out, nil
}

func (o operator) link(u *user.User, token string) admin.UserLink {
	return admin.UserLink{ID: u.ID, Login: u.Login, Link: o.m.base + "/auth/invite?token=" + token,
		Expires: o.m.now().Add(user.InviteLife).UTC().Truncate(time.Second)}
}

// BootstrapUser makes the first administrator's one-time link.
func (o operator) BootstrapUser(ctx context.Context, op admin.Operator, in admin.NewUser) (admin.UserLink, error) {
	u, token, err := o.m.signs.Bootstrap(ctx, op.Name, in.Login, in.Name)
	if err != nil {
		return admin.UserLink{}, err
	}
	return o.link(&u, token), nil
}

// InviteUser makes a user and a one-time link.
func (o operator) InviteUser(ctx context.Context, op admin.Operator, in admin.NewUser) (admin.UserLink, error) {
	u, token, err := o.m.signs.Invite(ctx, signin.From{}, signin.Actor{Operator: op.Name},
		signin.NewUser{Login: in.Login, Name: in.Name, Roles: in.Roles, Patient: in.Patient,
			Practitioner: in.Practitioner})
	if err != nil {
		return admin.UserLink{}, err
	}
	return o.link(&u, token), nil
}

// ReinviteUser makes a new link; what the user had for signing in is void when
// it is used.
func (o operator) ReinviteUser(ctx context.Context, op admin.Operator, login string) (admin.UserLink, error) {
	u, err := o.m.users.ByLogin(ctx, login)
	if err != nil {
		return admin.UserLink{}, err
	}
	u, token, err := o.m.signs.Reinvite(ctx, signin.From{}, signin.Actor{Operator: op.Name}, u.ID, true)
	if err != nil {
		return admin.UserLink{}, err
	}
	return o.link(&u, token), nil
}

// DisableUser ends a user's access at once.
func (o operator) DisableUser(ctx context.Context, op admin.Operator, login string) (admin.UserInfo, error) {
	return o.switchUser(ctx, op, login, true)
}

// EnableUser gives a disabled person their access back.
func (o operator) EnableUser(ctx context.Context, op admin.Operator, login string) (admin.UserInfo, error) {
	return o.switchUser(ctx, op, login, false)
}

func (o operator) switchUser(ctx context.Context, op admin.Operator, login string,
	disabled bool) (admin.UserInfo, error) {
	u, err := o.m.users.ByLogin(ctx, login)
	if err != nil {
		return admin.UserInfo{}, err
	}
	if err := o.m.signs.SetDisabled(ctx, signin.From{}, signin.Actor{Operator: op.Name}, u.ID, disabled); err != nil {
		return admin.UserInfo{}, err
	}
	u.Disabled = disabled
	return userInfo(&u), nil
}

func userInfo(u *user.User) admin.UserInfo {
	return admin.UserInfo{ID: u.ID, Login: u.Login, Name: u.Name, Roles: u.Roles.Strings(), Disabled: u.Disabled,
		Enrolled: u.CanSignIn()}
}

// ListUsers lists everybody who ever could sign in.
func (o operator) ListUsers(ctx context.Context, op admin.Operator) (admin.Users, error) {
	out := admin.Users{Users: []admin.UserInfo{}}
	us, err := o.m.users.List(ctx)
	if err != nil {
		return out, err
	}
	for i := range us {
		out.Users = append(out.Users, userInfo(&us[i]))
	}
	return out, o.record(ctx, o.request(op), "user list", "")
}
