package storetest

import (
	"encoding/json"
	"testing"
)

// TestSearches tests that the resources of Searches are JSON.
func TestSearches(t *testing.T) {
	for _, s := range Searches() {
		if !json.Valid([]byte(s.Body)) || !json.Valid(canonical(s.Type, s.ID, s.Body).JSON) {
			t.Errorf("%s %s: %s", s.Type, s.Param, s.Body)
		}
	}
}
