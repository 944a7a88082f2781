package server

import (
	"context"
	"encoding/json"
	"fmt"
	"net/url"
	"os"
	"strings"
	"time"

	"pulsegate/cmd/internal/admin"
	"pulsegate/cmd/internal/recovery"
	"pulsegate/fhir"
	"pulsegate/fhir/access"
	"pulsegate/fhir/audit"
	"pulsegate/fhir/consent"
	"pulsegate/fhir/interaction"
	"pulsegate/fhir/store"
	"pulsegate/fhir/store/pebblestore"
	"pulsegate/smart/appconsent"
	"pulsegate/smart/authz"
	"pulsegate/smart/oauth/discovery"
	"pulsegate/smart/oauth/launch"
	"pulsegate/smart/oauth/token"
	"pulsegate/smart/pages"
	"pulsegate/smart/people/authn"
	"pulsegate/smart/people/breakglass"
	"pulsegate/smart/people/session"
	"pulsegate/smart/people/signin"
	"pulsegate/smart/people/user"
)

// people are the accounts and how their owners sign in.
type people struct {
	users    *user.Registry
	sessions *session.Sessions
	cookies  session.Cookies
	signs    *signin.Service
	glass    *breakglass.Glass
	consents *consent.Engine
}

// newPeople opens the accounts. fresh says that the store was empty, so that a
// missing sealing key is not a loss. newPeople calls endTokens to add to b the
// end of a person's tokens.
func newPeople(ctx context.Context, env environment, db *pebblestore.DB, trail auditTrail, consents *consent.Engine,
	fresh bool, endTokens func(ctx context.Context, b *store.Batch, userID, session string, by audit.Caller) error,
) (people, error) {
	decision, err := recovery.Requested(env.config.Data, recovery.SealKey)
	if err != nil {
		return people{}, err
	}
	vault, err := authn.OpenVault(env.config.Data, fresh || decision != nil)
	if err != nil {
		return people{}, err
	}
	err = trail.recordRecovery(ctx, env, recovery.SealKey, decision, "keys/seal.key is accepted as it is now")
	if err != nil {
		return people{}, err
	}
	passkeys, err := authn.NewPasskeys(env.base, env.now)
	if err != nil {
		return people{}, err
	}
	if passkeys == nil {
		env.log.Warn("no passkeys: the base URL needs a host name, and https unless that is localhost", "base-url",
			env.base)
	}
	breached, err := readBreached(env.config.BreachedPasswords)
	if err != nil {
		return people{}, err
	}
	provider, err := newProvider(env)
	if err != nil {
		return people{}, err
	}
	p := people{users: &user.Registry{Store: db, Clock: env.now}, consents: consents,
		cookies: session.Cookies{Origin: env.origin(), Vault: vault, Clock: env.now}}
	p.sessions = &session.Sessions{Store: db, Users: p.users, Clock: env.now}
	if p.glass, err = breakglass.New(db, trail.recorder, env.now, env.log); err != nil {
		return people{}, err
	}
	p.signs, err = signin.New(signin.Options{Store: db, Audit: trail.recorder, Users: p.users,
		Sessions: p.sessions, Passkeys: passkeys, Passwords: authn.NewPasswords(breached), Vault: vault,
		Provider: provider, Issuer: env.base, Clock: env.now, Logger: env.log,
		Known: func(ctx context.Context, ref fhir.Ref) (bool, error) { return exists(ctx, db, ref) },
		Ends: func(ctx context.Context, b *store.Batch, userID, session string, by audit.Caller) error {
			if err := endTokens(ctx, b, userID, session, by); err != nil || session != "" {
				return err
			}
			return p.glass.EndAll(ctx, b, userID, by)
		}})
	return p, err
}

// consentsOf returns the consents that apply to a person under an
// authorization: those of the patients, what the person allowed the app, and
// the person's emergency access.
func (p people) consentsOf(subject, authorization string) access.Consents {
	return p.glass.For(p.consents.Under(authorization), subject)
}

// readBreached reads a list of stolen passwords. Without a path there is none.
func readBreached(path string) (authn.Breached, error) {
	if path == "" {
		return nil, nil
	}
	f, err := os.Open(path)
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

// newProvider returns the OpenID provider of the hospital, nil if none is
// configured.
func newProvider(env environment) (*authn.Provider, error) {
	c := env.config
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
	return &authn.Provider{Issuer: c.OIDCIssuer, ClientID: c.OIDCClientID, Secret: secret, Name: c.OIDCName,
		Redirect: env.base + "/auth/external/callback", MFA: c.OIDCMFA, PhishingResistant: c.OIDCPhishingResistant,
		HTTP: env.client(5*time.Second, 256<<10), Clock: env.now}, nil
}

// exists reports whether a resource exists and is not deleted.
func exists(ctx context.Context, db *pebblestore.DB, ref fhir.Ref) (bool, error) {
	r, _, err := db.Read(ctx, ref, 0)
	if err != nil && fhir.KindOf(err) == fhir.NotFound {
		return false, nil
	}
	return err == nil && !r.Deleted, err
}

// newPages returns the pages for people.
func newPages(s *services) (*pages.Pages, error) {
	return pages.New(pages.Options{Base: s.base, Version: publicVersion(s.version), SignIn: s.people.signs,
		Sessions: s.people.sessions, Users: s.people.users, Cookies: s.people.cookies,
		Flow: s.oauth.authorize, Apps: s.oauth.tokens,
		Refusals: &appconsent.Refusals{Store: s.store, Audit: s.audit.recorder, Consents: s.consents, Clock: s.now},
		Clients:  s.clients, Launcher: launcher{s.oauth.launches, s.base}, Glass: s.people.glass,
		UserLife: token.UserLife(s.config.UserTokenLife), Patients: patients{s.fhir, s.people},
		Scopes: s.clients.Scopes, Audit: s.audit.recorder, Clock: s.now, Logger: s.log})
}

// launcher launches apps from the pages.
type launcher struct {
	launches *launch.Service
	base     string
}

// Launch implements pages.Launcher.
func (l launcher) Launch(ctx context.Context, in pages.Launch) (string, error) {
	// The app opens in a separate tab, where nothing else names the patient.
	banner := true
	_, to, err := l.launches.Mint(ctx,
		launch.Launch{ClientID: in.Client, By: "console", User: in.User, Maker: in.Maker,
			Context: authz.Context{Patient: in.Patient, Encounter: in.Encounter, Intent: in.Intent, Banner: &banner,
				StyleURL: l.base + discovery.StylePath}},
		audit.Event{Type: audit.Rest, Interaction: "operation", Query: "console launch", Caller: in.By})
	return to, err
}

// patients finds patients for the pages by the FHIR interactions, which record
// each access.
type patients struct {
	fhir   *interaction.Service
	people people
}

// patientJSON is the part of a Patient that the pages show.
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

// pageRequest returns the request that stands for a page's access to the FHIR
// interactions. line describes it in the audit trail.
func pageRequest(by audit.Caller, line string) *interaction.Request {
	return &interaction.Request{Caller: by, Line: line}
}

// Get implements pages.Patients.
func (p patients) Get(ctx context.Context, by audit.Caller, id string) (pages.Person, error) {
	r, err := p.fhir.Read(ctx, pageRequest(by, "GET Patient/"+id), fhir.Ref{Type: "Patient", ID: id})
	if err != nil {
		return pages.Person{}, err
	}
	var pj patientJSON
	if err := json.Unmarshal(r.JSON, &pj); err != nil {
		return pages.Person{}, fhir.Wrap("server.patients", err)
	}
	return pj.person(), nil
}

// Find implements pages.Patients. It returns at most 20 patients.
func (p patients) Find(ctx context.Context, by audit.Caller, text string) ([]pages.Person, error) {
	escaped := strings.NewReplacer(`\`, `\\`, `,`, `\,`, `|`, `\|`, `$`, `\$`).Replace(text)
	q := url.Values{"name": {escaped}, "_count": {"20"}}.Encode()
	page, err := p.fhir.Search(ctx, pageRequest(by, "GET Patient?"+q), "Patient", q)
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

// link returns the one-time link of an invited user.
func (ops operations) link(u *user.User, token string) admin.UserLink {
	return admin.UserLink{ID: u.ID, Login: u.Login, Link: ops.base + "/auth/invite?token=" + token,
		Expires: ops.now().Add(user.InviteLife).UTC().Truncate(time.Second)}
}

// BootstrapUser creates the first administrator and returns the one-time link.
func (ops operations) BootstrapUser(ctx context.Context, op admin.Operator, in admin.NewUser) (admin.UserLink, error) {
	u, token, err := ops.people.signs.Bootstrap(ctx, op.Name, in.Login, in.Name)
	if err != nil {
		return admin.UserLink{}, err
	}
	return ops.link(&u, token), nil
}

// InviteUser creates a user and returns the one-time link.
func (ops operations) InviteUser(ctx context.Context, op admin.Operator, in admin.NewUser) (admin.UserLink, error) {
	u, token, err := ops.people.signs.Invite(ctx, signin.From{}, signin.Actor{Operator: op.Name},
		signin.NewUser{Login: in.Login, Name: in.Name, Roles: in.Roles, Patient: in.Patient,
			Practitioner: in.Practitioner})
	if err != nil {
		return admin.UserLink{}, err
	}
	return ops.link(&u, token), nil
}

// ReinviteUser returns a new one-time link. Using it replaces the former means of
// signing in.
func (ops operations) ReinviteUser(ctx context.Context, op admin.Operator, login string) (admin.UserLink, error) {
	u, err := ops.people.users.ByLogin(ctx, login)
	if err != nil {
		return admin.UserLink{}, err
	}
	u, token, err := ops.people.signs.Reinvite(ctx, signin.From{}, signin.Actor{Operator: op.Name}, u.ID, true)
	if err != nil {
		return admin.UserLink{}, err
	}
	return ops.link(&u, token), nil
}

// DisableUser ends the access of a user immediately.
func (ops operations) DisableUser(ctx context.Context, op admin.Operator, login string) (admin.UserInfo, error) {
	return ops.switchUser(ctx, op, login, true)
}

// EnableUser restores the access of a disabled user.
func (ops operations) EnableUser(ctx context.Context, op admin.Operator, login string) (admin.UserInfo, error) {
	return ops.switchUser(ctx, op, login, false)
}

func (ops operations) switchUser(ctx context.Context, op admin.Operator, login string,
	disabled bool) (admin.UserInfo, error) {
	u, err := ops.people.users.ByLogin(ctx, login)
	if err != nil {
		return admin.UserInfo{}, err
	}
	err = ops.people.signs.SetDisabled(ctx, signin.From{}, signin.Actor{Operator: op.Name}, u.ID, disabled)
	if err != nil {
		return admin.UserInfo{}, err
	}
	u.Disabled = disabled
	return userInfo(&u), nil
}

func userInfo(u *user.User) admin.UserInfo {
	return admin.UserInfo{ID: u.ID, Login: u.Login, Name: u.Name, Roles: u.Roles.Strings(), Disabled: u.Disabled,
		Enrolled: u.CanSignIn()}
}

// ListUsers lists all users, disabled ones included.
func (ops operations) ListUsers(ctx context.Context, op admin.Operator) (admin.Users, error) {
	out := admin.Users{Users: []admin.UserInfo{}}
	users, err := ops.people.users.List(ctx)
	if err != nil {
		return out, err
	}
	for i := range users {
		out.Users = append(out.Users, userInfo(&users[i]))
	}
	return out, ops.record(ctx, ops.request(op), "user list", "")
}
