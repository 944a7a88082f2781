package server

import (
	"context"
	"fmt"
	"os"
	"strings"
	"time"

	"pulsegate/cmd/internal/recovery"
	"pulsegate/fhir"
	"pulsegate/fhir/access"
	"pulsegate/fhir/audit"
	"pulsegate/fhir/consent"
	"pulsegate/fhir/store"
	"pulsegate/smart/people/authn"
	"pulsegate/smart/people/breakglass"
	"pulsegate/smart/people/session"
	"pulsegate/smart/people/signin"
	"pulsegate/smart/people/user"
)

// people holds the accounts, the sign-in and the emergency access of people.
type people struct {
	users    *user.Registry
	sessions *session.Sessions
	cookies  session.Cookies
	signs    *signin.Service
	glass    *breakglass.Service
	consents *consent.Engine
	vault    *authn.Vault
}

// openSeal opens the key that seals secrets of people.
func openSeal(ctx context.Context, env environment, fresh bool) (*authn.Vault, error) {
	if env.member == nil {
		return authn.OpenVault(env.config.Data, fresh)
	}
	return authn.OpenSharedVault(ctx, env.member.vault, fresh)
}

// newPeople opens the accounts. fresh says that the store was empty, so that a
// missing sealing key is not a loss. newPeople calls endTokens to add to b the
// end of a person's tokens.
func newPeople(ctx context.Context, env environment, db database, trail auditTrail, consents *consent.Engine,
	fresh bool, endTokens func(ctx context.Context, b *store.Batch, userID, session string, by audit.Caller) error,
) (people, error) {

	decision, err := recovery.Requested(env.config.Data, recovery.SealKey)
	if err != nil {
		return people{}, err
	}
	vault, err := openSeal(ctx, env, fresh || decision != nil)
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
	p := people{users: &user.Registry{Store: db, Clock: env.now}, consents: consents, vault: vault,
		cookies: session.Cookies{Origin: env.origin(), Vault: vault, Clock: env.now}}
	p.sessions = &session.Sessions{Store: db, Users: p.users, Clock: env.now}
	if p.glass, err = breakglass.New(db, trail.recorder, env.now, env.log); err != nil {
		return people{}, err
	}
	p.signs, err = signin.New(signin.Options{Store: db, Audit: trail.recorder, Users: p.users,
		Sessions: p.sessions, Passkeys: passkeys, Passwords: authn.NewPasswords(breached), Vault: vault,
		Provider: provider, Issuer: env.base, Clock: env.now, Logger: env.log, Shared: env.limits(),
		ResourceExists: func(ctx context.Context, ref fhir.Ref) (bool, error) { return exists(ctx, db, ref) },
		EndAccess: func(ctx context.Context, b *store.Batch, userID, session string, by audit.Caller) error {
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
	return p.glass.Consents(p.consents.ForAuthorization(authorization), subject)
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
func exists(ctx context.Context, db database, ref fhir.Ref) (bool, error) {
	r, _, err := db.Read(ctx, ref, 0)
	if err != nil && fhir.KindOf(err) == fhir.NotFound {
		return false, nil
	}
	return err == nil && !r.Deleted, err
}
