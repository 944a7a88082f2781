package server

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"strconv"
	"strings"
	"time"

	"pulsegate/cmd/internal/admin"
	"pulsegate/fhir"
	"pulsegate/fhir/store"
	"pulsegate/smart/client"
	"pulsegate/smart/oauth/register"
)

// clientInfo converts a client for the command line.
func clientInfo(c client.Client) admin.ClientInfo {
	return admin.ClientInfo{ID: c.ID, Name: c.Name, Scope: c.Scope, JWKSURL: c.JWKSURL,
		RedirectURIs: c.RedirectURIs, Created: c.Created, Disabled: c.Disabled,
		RecordsConsent: c.RecordsConsent, PhoneMade: c.PhoneMade}
}

// AddClient registers a backend client or an app.
func (ops operations) AddClient(ctx context.Context, op admin.Operator, in admin.NewClient) (admin.ClientInfo, error) {
	c := client.Client{Name: in.Name, JWKS: jwksText(in.JWKS), JWKSURL: in.JWKSURL, Scope: scopeText(in.Scope),
		Method:       client.Method(in.Method),
		RedirectURIs: in.RedirectURIs, LaunchURL: in.LaunchURL, Inspects: in.Inspects,
		RecordsConsent: in.RecordsConsent, PhoneMade: in.PhoneMade}
	secret := ""
	if c.Symmetric() {
		var b [32]byte
		if _, err := rand.Read(b[:]); err != nil {
			return admin.ClientInfo{}, err
		}
		secret = client.NewSecret(b)
		c.SecretHash = client.Hash(secret)
	}
	c, write, err := ops.clients.Prepare(c)
	if err != nil {
		return admin.ClientInfo{}, err
	}
	if err := ops.commitClient(ctx, op, "client add", c.ID, write); err != nil {
		return admin.ClientInfo{}, err
	}
	out := clientInfo(c)
	out.Secret = secret
	return out, nil
}

// NewRegistrationToken creates an initial access token (RFC 7591 1.2).
func (ops operations) NewRegistrationToken(ctx context.Context, op admin.Operator,
	in admin.NewRegistrationToken) (admin.RegistrationToken, error) {
	if in.Seconds < 1 || in.Seconds > 366*24*3600 {
		return admin.RegistrationToken{},
			fhir.Errorf(fhir.Invalid, "server.NewRegistrationToken", "--life: must be between one second and one year")
	}
	tok, write, err := ops.oauth.registration.PrepareToken(register.InitialToken{Scope: scopeText(in.Scope),
		Uses:    in.Uses,
		By:      op.Name,
		Expires: ops.now().Add(time.Duration(in.Seconds) * time.Second)})
	if err != nil {
		return admin.RegistrationToken{}, err
	}
	err = ops.commit(ctx, op, "client registration-token",
		[][2]string{{"scope", scopeText(in.Scope)}, {"uses", strconv.Itoa(in.Uses)}}, write)
	if err != nil {
		return admin.RegistrationToken{}, err
	}
	return admin.RegistrationToken{Token: tok}, nil
}

// ListClients lists all registered clients, disabled ones included.
func (ops operations) ListClients(ctx context.Context, op admin.Operator) (admin.Clients, error) {
	out := admin.Clients{Clients: []admin.ClientInfo{}}
	cs, err := ops.clients.List(ctx)
	if err != nil {
		return out, err
	}
	for _, c := range cs {
		out.Clients = append(out.Clients, clientInfo(c))
	}
	return out, ops.record(ctx, ops.request(op), "client list", "")
}

// DisableClient refuses a client from its next request onward.
func (ops operations) DisableClient(ctx context.Context, op admin.Operator, id string) (admin.ClientInfo, error) {
	return ops.switchClient(ctx, op, "client disable", id, true)
}

// EnableClient accepts a disabled client again, with the keys and scopes that it
// had. Authorizations that have ended remain ended.
func (ops operations) EnableClient(ctx context.Context, op admin.Operator, id string) (admin.ClientInfo, error) {
	return ops.switchClient(ctx, op, "client enable", id, false)
}

func (ops operations) switchClient(ctx context.Context, op admin.Operator, command, id string,
	disabled bool) (admin.ClientInfo, error) {
	c, write, err := ops.clients.PrepareChange(ctx, id,
		func(c *client.Client) error { c.Disabled = disabled; return nil })
	if err != nil {
		return admin.ClientInfo{}, err
	}
	if err := ops.commitClient(ctx, op, command, id, write); err != nil {
		return admin.ClientInfo{}, err
	}
	return clientInfo(c), nil
}

// commitClient commits the change of a client together with its AuditEvent.
func (ops operations) commitClient(ctx context.Context, op admin.Operator, command, id string,
	write store.StateWrite) error {
	err := ops.commit(ctx, op, command, [][2]string{{"client", id}}, write)
	if err != nil && fhir.KindOf(err) == fhir.Conflict {
		return fhir.Errorf(fhir.Conflict, command,
			"the client exists already or has changed meanwhile; repeat the command")
	}
	return err
}

// ChangeClient changes the rights of a client that only the operator grants, in
// one commit with the AuditEvent.
func (ops operations) ChangeClient(ctx context.Context, op admin.Operator,
	in admin.ChangeClient) (admin.ClientInfo, error) {
	if in.RecordsConsent == nil && in.PhoneMade == nil {
		return admin.ClientInfo{}, fhir.Errorf(fhir.Invalid, "client change",
			"nothing to change: give --may-record-consent or --phone-made, with =true or =false")
	}
	c, w, err := ops.clients.PrepareChange(ctx, in.ID, func(c *client.Client) error {
		if in.RecordsConsent != nil {
			c.RecordsConsent = *in.RecordsConsent
		}
		if in.PhoneMade != nil {
			c.PhoneMade = *in.PhoneMade
		}
		return nil
	})
	if err != nil {
		return admin.ClientInfo{}, err
	}
	err = ops.commit(ctx, op, "client change",
		[][2]string{{"client", c.ID}, {"may-record-consent", strconv.FormatBool(c.RecordsConsent)},
			{"phone-made", strconv.FormatBool(c.PhoneMade)}}, w)
	if err != nil && fhir.KindOf(err) == fhir.Conflict {
		err = fhir.Errorf(fhir.Conflict, "client change", "the client has changed meanwhile; repeat the command")
	}
	return clientInfo(c), err
}

// scopeText normalizes the white space of a scope that a person typed.
func scopeText(s string) string { return strings.Join(strings.Fields(s), " ") }

// jwksText returns nil for a JSON null.
func jwksText(raw json.RawMessage) json.RawMessage {
	if string(raw) == "null" {
		return nil
	}
	return raw
}
