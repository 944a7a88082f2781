package server

import (
	"context"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"pulsegate/cmd/internal/admin"
	"pulsegate/fhir"
	"pulsegate/fhir/cluster/hints/redistest"
	"pulsegate/fhir/porttest"
)

// freeAddress returns an address of the loopback interface at which nothing listens.
func freeAddress(t *testing.T) string {
	t.Helper()
	port, err := porttest.Reserve()
	if err != nil {
		t.Fatal(err)
	}
	return "127.0.0.1:" + strconv.Itoa(port)
}

// TestClusterClock lets a server run whose clock is 90 seconds ahead. It is not ready,
// refuses everything and is not the sequencer, until its clock is right.
func TestClusterClock(t *testing.T) {
	f := newFleet(t, redistest.URL(t))
	var ahead atomic.Int64
	ahead.Store(int64(90 * time.Second))
	one := f.start("one", "", map[string]string{"peer-listen": freeAddress(t)})
	f.clock = func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }
	two := f.start("two", "", map[string]string{"peer-listen": freeAddress(t)})
	serves := func(want bool) {
		t.Helper()
		status := map[bool]int{true: http.StatusOK, false: http.StatusServiceUnavailable}[want]
		for _, path := range []string{"/readyz", "/fhir/metadata"} {
			if got := two.get(t, path); got != status {
				t.Errorf("%s: status %d, want %d", path, got, status)
			}
		}
		if got := two.get(t, "/livez"); got != http.StatusOK {
			t.Errorf("/livez: status %d", got)
		}
	}
	serves(false)
	deadline := time.Now().Add(2 * time.Minute)
	for one.get(t, "/readyz") != http.StatusOK {
		if time.Now().After(deadline) {
			t.Fatal("the other server does not become ready")
		}
		time.Sleep(10 * time.Millisecond)
	}
	if err := two.member.ready(); err == nil || !strings.Contains(err.Error(), "the clock of this server is 1m") {
		t.Errorf("the reason is %v", err)
	}
	if !strings.Contains(two.log.String(), "is not ready, and refuses requests") {
		t.Error("the log does not say so")
	}
	if err := two.store.Sync(t.Context()); fhir.KindOf(err) != fhir.Unavailable {
		t.Errorf("Sync: %v", err)
	}
	_, err := two.ops().AddPatient(t.Context(), operatorOfTest, admin.NewPatient{ID: "ada", Given: "Ada", Family: "B"})
	if fhir.KindOf(err) != fhir.Unavailable {
		t.Errorf("a commit: %v", err)
	}
	one.add(t, "eve")
	r, _, err := one.store.ReadVersion(t.Context(), fhir.Ref{Type: "Patient", ID: "eve"}, 1)
	if lead := time.Until(r.LastUpdated); err != nil || lead > 2*time.Second {
		t.Errorf("lastUpdated is %s ahead, %v: it was moved by the start of the other server", lead, err)
	}
	err = admin.Dial(two.dir).Call(t.Context(), "patients", nil, nil, nil)
	if err == nil || !strings.Contains(err.Error(), "the clock of this server is 1m") {
		t.Errorf("a command of the operator: %v", err)
	}
	if h, ok := two.member.redis.Sequencer(); ok && h.Node == "two" {
		t.Error("the server is the sequencer")
	}
	two.member.strict.Store(false) // as if the clock were not looked at
	if got := two.get(t, "/fhir/metadata"); got != http.StatusOK {
		t.Errorf("a server that does not look at its clock: status %d", got)
	}
	two.member.strict.Store(true)
	look := func(by time.Duration) {
		ahead.Store(int64(by))
		two.member.lookAtClock(context.Background())
	}
	for range 2 {
		look(500 * time.Millisecond)
		serves(true)
		look(90 * time.Second)
		serves(false)
	}
	if got := one.patients(t); !slices.Equal(got, []string{"eve"}) {
		t.Errorf("the cluster has %q", got)
	}
	// It ends in order, although its clock is wrong.
	two.end(t)
}
