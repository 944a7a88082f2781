package server

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"

	"pulsegate/cmd/internal/admin"
	"pulsegate/fhir"
)

// demoPractitioner is the id of the Practitioner of the demo.
const demoPractitioner = "demo-dora"

// demoUsers are the people of the demo. They have no passwords: the server prints
// a one-time link for each of them when it starts.
var demoUsers = []admin.NewUser{
	{Login: "ada", Name: "Ada Beispiel", Roles: []string{"patient"}, Patient: "demo-ada"},
	{Login: "dora", Name: "Dr. Dora Doc", Roles: []string{"practitioner", "administrator"},
		Practitioner: demoPractitioner},
}

// demoPeople invites the people who are missing, and returns the text that tells
// how to sign in as each of them.
func (ops operations) demoPeople(ctx context.Context, op admin.Operator) (string, error) {
	if found, err := exists(ctx, ops.store, fhir.Ref{Type: "Practitioner", ID: demoPractitioner}); err != nil {
		return "", err
	} else if !found {
		body, err := json.Marshal(map[string]any{"resourceType": "Practitioner", "id": demoPractitioner,
			"name": []any{map[string]any{"text": "Dr. Dora Doc", "family": "Doc", "given": []string{"Dora"}}}})
		if err != nil {
			return "", err
		}
		if _, err := ops.put(ctx, ops.request(op), "Practitioner", demoPractitioner, body); err != nil {
			return "", err
		}
	}
	var b strings.Builder
	for _, n := range demoUsers {
		text, err := ops.signInText(ctx, op, n)
		if err != nil {
			return "", fmt.Errorf("%s: %w", n.Login, err)
		}
		fmt.Fprintf(&b, "# %s (%s)\n%s\n\n", n.Name, strings.Join(n.Roles, ", "), text)
	}
	return b.String(), nil
}

// signInText returns a new one-time link for a person who has not used one yet,
// and the address of the sign-in page otherwise.
func (ops operations) signInText(ctx context.Context, op admin.Operator, n admin.NewUser) (string, error) {
	u, err := ops.people.users.ByLogin(ctx, n.Login)
	switch {
	case err != nil && fhir.KindOf(err) == fhir.NotFound:
		l, err := ops.InviteUser(ctx, op, n)
		return l.Link, err
	case err != nil:
		return "", err
	case u.Disabled:
		return "disabled", nil
	case u.CanSignIn():
		return ops.base + "/auth/", nil
	}
	l, err := ops.ReinviteUser(ctx, op, n.Login)
	return l.Link, err
}
