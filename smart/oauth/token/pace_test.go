//go:build !race

// Under the race detector 3,000 assertions take so long that the limits never apply.

package token_test

import (
	"strings"
	"testing"
	"time"

	"pulsegate/smart/oauth/token"
)

// TestGoodClientIsNotThrottled checks that the default limits allow a client
// 1,000 tokens per second.
func TestGoodClientIsNotThrottled(t *testing.T) {
	w := withLimits(t, token.Limits{})
	for i := range 3000 {
		if s, out, _ := w.post(form(w.assertion(nil), "system/Observation.rs"), from("192.0.2.1")); s != 200 {
			t.Fatalf("request %d: %d %v", i, s, out)
		}
		w.clock.Add(time.Millisecond)
	}
	if n := strings.Count(strings.Join(w.state.events, ""), "\n"); n == 0 {
		t.Fatal("no AuditEvent was recorded")
	}
}
