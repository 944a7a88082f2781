package access_test

import (
	"testing"

	"pulsegate/fhir/access"
)

// TestSubscriptionVisibleToOwner checks that only the owner and the operator may see
// a Subscription, regardless of scopes.
func TestSubscriptionVisibleToOwner(t *testing.T) {
	rules := access.All().Rules
	own := &access.Facts{Type: "Subscription", ID: "s", Author: "ehr",
		Tokens: func(string) []access.Token { return nil }}
	for _, c := range []struct {
		who  string
		g    *access.Grant
		want bool
	}{
		{"the owner", &access.Grant{Recipient: "ehr", Rules: rules}, true},
		{"another client", &access.Grant{Recipient: "app", Rules: rules}, false},
		{"a client without an id", &access.Grant{Rules: rules}, false},
		{"the operator", access.All(), true},
	} {
		for _, i := range []access.Interaction{access.Read, access.Search, access.Update, access.Delete} {
			if got := c.g.Filter(i).Allow(own); got != c.want {
				t.Errorf("%s, %v: %v", c.who, i, got)
			}
		}
	}
}
