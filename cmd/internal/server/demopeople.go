package server

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"

	"pulsegate/cmd/internal/admin"
	"pulsegate/fhir"
)

// The people of the demo. Nobody has a password: each comes in by a one-time
// link, printed where the server was started.
const demoPractitioner = "demo-dora"

var demoUsers = []admin.NewUser{
	{Login: "ada", Name: "Ada Beispiel", Roles: []string{"patient"}, Patient: "demo-ada"},
	{Login: "dora", Name: "Dr. Dora Doc", Roles: []string{"practitioner", "administrator"},
		Practitioner: demoPractitioner},
}

// demoPeople makes who is not there yet, and returns what to tell of each.
func (o operator) demoPeople(ctx context.Context, op admin.Operator) (string, error) {
	if there, err := exists(ctx, o.store, fhir.Ref{Type: "Practitioner", ID: demoPractitioner}); err != nil {
		return "", err
	} else if !there {
		body, err := json.Marshal(map[string]any{"resourceType": "Practitioner", "id": demoPractitioner,
			"name": []any{map[string]any{"text": "Dr. Dora Doc", "family": "Doc", "given": []string{"Dora"}}}})
		if err != nil {
			return "", err
		}
		if _, err := o.put(ctx, o.request(op), "Practitioner", demoPractitioner, body); err != nil {
			return "", err
		}
	}
	var b strings.Builder
	for _, n := range demoUsers {
		way, err := o.demoWay(ctx, op, n)
		if err != nil {
			return "", fmt.Errorf("%s: %w", n.Login, err)
		}
		fmt.Fprintf(&b, "# %s (%s)\n%s\n\n", n.Name, strings.Join(n.Roles, ", "), way)
	}
	return b.String(), nil
}

// demoWay is how one of them gets in: by a new link, until it was used.
func (o operator) demoWay(ctx context.Context, op admin.Operator, n admin.NewUser) (string, error) {
	u, err := o.people.users.ByLogin(ctx, n.Login)
	switch {
	case err != nil && fhir.KindOf(err) == fhir.NotFound:
		l, err := o.InviteUser(ctx, op, n)
		return l.Link, err
	case err != nil:
		return "", err
	case u.Disabled:
		return "disabled", nil
	case u.CanSignIn():
		return o.base + "/auth/", nil
	}
	l, err := o.ReinviteUser(ctx, op, n.Login)
	return l.Link, err
}
