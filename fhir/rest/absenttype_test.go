package rest

import (
	"fmt"
	"testing"
	"time"
)

// TestScopeBeforeAbsence tests that a token that does not cover a type gets 403
// whether or not the server stores the type, and that a token for all types gets 404
// for a type that the server does not store.
func TestScopeBeforeAbsence(t *testing.T) {
	w := newWorld(t, newModelStore(time.Now))
	for _, typ := range []string{"Parameters", "Group", "Coffee"} {
		for client, want := range map[string]int{"reader": 403, "all": 404} {
			if typ == "Group" && client == "all" {
				continue // the server stores it
			}
			body := fmt.Sprintf(`{"resourceType":%q,"id":"x"}`, typ)
			for _, c := range []struct{ method, path, body string }{
				{"GET", "/" + typ + "/x", ""}, {"GET", "/" + typ + "/x/_history", ""},
				{"GET", "/" + typ + "/x/_history/1", ""},
				{"GET", "/" + typ + "?_id=x", ""}, {"POST", "/" + typ, body}, {"PUT", "/" + typ + "/x", body},
				{"DELETE", "/" + typ + "/x", ""},
			} {
				if a := w.do(client, c.method, c.path, c.body); a.status != want {
					t.Errorf("%s %s as %s: %d, want %d", c.method, c.path, client, a.status, want)
				}
			}
		}
	}
}
