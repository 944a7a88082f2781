//go:build !race

// Under the race detector 3,000 assertions take longer than the limits are about.

package token_test

import (
	"strings"
	"testing"
	"time"

	"pulsegate/smart/oauth/token"
)

// A good client is not held up at 1,000 tokens a second.
func TestGoodClientIsNotThrottled(t *testing.T) {
	w := defaults(t, token.Limits{})
	for i := range 3000 {
		if s, out, _ := w.post(form(w.good(nil), "system/Observation.rs"), from("192.0.2.1")); s != 200 {
			t.Fatalf("request %d: %d %v", i, s, out)
		}
		w.clock.Add(time.Millisecond)
	}
	if n := strings.Count(strings.Join(w.state.events, ""), "\n"); n == 0 {
		t.Fatal("nothing was recorded")
	}
}
