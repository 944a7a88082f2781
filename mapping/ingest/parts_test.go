package ingest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gin-gonic/gin"

	"pulsegate/fhir"
	"pulsegate/fhir/access"
	"pulsegate/fhir/clocktest"
)

// keyOf returns the caller with a push key of a patient and a vendor.
func keyOf(patient, vendor string) *access.Principal {
	return &access.Principal{ClientID: "push-key:k1", ClientName: "Push key", Patient: patient,
		Grant: &access.Grant{Recipient: "push-key:k1", Rules: []access.Rule{access.DeliveryRule(patient, vendor)}}}
}

// exportedRate returns a payload of Health Auto Export with one heart rate.
func exportedRate(bpm int) string {
	return fmt.Sprintf(`{"data":{"metrics":[{"name":"heart_rate","units":"count/min","data":`+
		`[{"date":"2026-04-07 08:00:00 +0200","Min":%d,"Avg":%d,"Max":%d,"source":"Band"}]}]}}`, bpm, bpm, bpm)
}

// part sends a part with a session and returns the status and the Summary.
func part(t *testing.T, h http.Handler, target, session, body string) (int, Summary) {
	t.Helper()
	req := httptest.NewRequest("POST", target, strings.NewReader(body))
	if session != "" {
		req.Header.Set("session-id", session)
	}
	req.Header.Set("automation-aggregation", "None")
	rec := httptest.NewRecorder()
	h.ServeHTTP(rec, req)
	var sum Summary
	if rec.Code == http.StatusOK {
		if err := json.Unmarshal(rec.Body.Bytes(), &sum); err != nil {
			t.Fatal(err)
		}
	}
	return rec.Code, sum
}

func (w *world) handler(who *access.Principal) http.Handler {
	gin.SetMode(gin.TestMode)
	e := gin.New()
	(&Handler{Pipeline: w.pipeline, Auth: fixed{who}}).Mount(e)
	return e
}

// rate returns the stored heart rate.
func (w *world) rate() string {
	for _, o := range w.all("Observation") {
		if _, rest, ok := strings.Cut(string(o.JSON), `"valueQuantity":{"value":`); ok {
			value, _, _ := strings.Cut(rest, ",")
			return value
		}
	}
	return ""
}

// TestRepeatedPart checks that a part with the session and the body of an earlier one
// does not undo a newer statement, and that every other delivery counts.
func TestRepeatedPart(t *testing.T) {
	w := newWorld(t)
	clock := clocktest.Ticking(w.pipeline.Clock(), time.Millisecond)
	w.pipeline.Clock = clock.Now
	h := w.handler(keyOf("p1", "apple"))
	const to = "/ingest/apple/health-auto-export"
	send := func(session, body, want string, repeated bool) {
		t.Helper()
		code, sum := part(t, h, to, session, body)
		if got := w.rate(); code != http.StatusOK || got != want || sum.Repeated != repeated || sum.Read != 1 {
			t.Errorf("%d, heart rate %s, %+v; want %s, repeated %v", code, got, sum, want, repeated)
		}
	}
	send("s1", exportedRate(62), "62", false)
	send("s2", exportedRate(63), "63", false)
	send("s1", exportedRate(62), "63", true)
	send("s1", exportedRate(64), "64", false) // another part of the session
	send("s3", exportedRate(62), "62", false) // stated again in a new session
	send("", exportedRate(63), "63", false)
	send("", exportedRate(62), "62", false) // without a session every delivery counts
	send("s2", exportedRate(63), "62", true)
	clock.Add(keepPart)
	send("s2", exportedRate(63), "63", false)
	repeated := 0
	for _, e := range w.all("AuditEvent") {
		if strings.Contains(string(e.JSON), `"repeated-part"`) {
			repeated++
		}
	}
	if repeated != 2 {
		t.Errorf("%d AuditEvents of repeated parts, want 2", repeated)
	}
}

// TestRepeatedPartNeedsConsent checks that a repeated part is refused like a new one
// after the consent was withdrawn.
func TestRepeatedPartNeedsConsent(t *testing.T) {
	w := newWorld(t)
	h := w.handler(keyOf("p1", "apple"))
	const to = "/ingest/apple/auto"
	if code, _ := part(t, h, to, "s1", exportedRate(62)); code != http.StatusOK {
		t.Fatal(code)
	}
	w.consents.withdrawn = true
	if code, _ := part(t, h, to, "s1", exportedRate(62)); code != http.StatusForbidden {
		t.Errorf("%d after the consent was withdrawn", code)
	}
}

// TestFailedPartIsNotMarked checks that a part that failed is processed when it is
// repeated.
func TestFailedPartIsNotMarked(t *testing.T) {
	w := newWorld(t)
	const to = "/ingest/apple/health-auto-export"
	broken := exportedRate(62)[:60]
	for range 2 {
		if code, _ := part(t, w.handler(keyOf("p1", "apple")), to, "s1", broken); code != http.StatusBadRequest {
			t.Errorf("%d for a broken part", code)
		}
	}
}

// TestPushKeyIsForOnePatientAndVendor checks which deliveries a caller with a push key
// may make.
func TestPushKeyIsForOnePatientAndVendor(t *testing.T) {
	w := newWorld(t)
	for target, want := range map[string]int{
		"/ingest/apple/auto":                           200,
		"/ingest/apple/health-auto-export?patient=p1":  200,
		"/ingest/Apple/auto":                           200,
		"/ingest/apple/auto?patient=":                  400,
		"/ingest/apple/auto?patient=p2":                403,
		"/ingest/apple/auto?patient=p1&patient=p2":     200, // the first one counts
		"/ingest/apple/auto?patient=p2&patient=p1":     403,
		"/ingest/oura/auto":                            403,
		"/ingest/oura/auto?patient=p1":                 403,
		"/ingest/fitbit/google-health:steps":           403,
		"/ingest/apple/auto?patient=p1%2F..%2Fp2":      400,
		"/ingest/apple%2F/auto?patient=p1":             404,
		"/ingest/nothing/auto?patient=p1":              403,
		"/ingest/apple/nothing?patient=p1":             400,
		"/ingest/apple/auto?Patient=p2&vendor=nothing": 200, // other parameters do not count
	} {
		if code, _ := part(t, w.handler(keyOf("p1", "apple")), target, "", exportedRate(62)); code != want {
			t.Errorf("%s: %d, want %d", target, code, want)
		}
	}
	for _, o := range w.all("Observation") {
		if !strings.Contains(string(o.JSON), `"Patient/p1"`) {
			t.Errorf("stored for another patient: %s", o.JSON)
		}
	}
}

// TestScopeOfOnePatientDoesNotDeliver checks that a token for the compartment of one
// patient is refused, as before there were push keys.
func TestScopeOfOnePatientDoesNotDeliver(t *testing.T) {
	w := newWorld(t)
	who := &access.Principal{ClientID: "app", Patient: "p1", Grant: &access.Grant{Recipient: "app",
		Rules: []access.Rule{{Type: "Observation", May: access.Create, Patient: "p1"}}}}
	for target, want := range map[string]int{"/ingest/apple/auto?patient=p1": 403, "/ingest/apple/auto": 400} {
		if code, _ := part(t, w.handler(who), target, "", exportedRate(62)); code != want {
			t.Errorf("%s: %d, want %d", target, code, want)
		}
	}
}

// TestRevocationEndsDelivery checks that a push key that is revoked during a delivery
// writes nothing more.
func TestRevocationEndsDelivery(t *testing.T) {
	w := newWorld(t)
	who := keyOf("p1", "apple")
	who.Grant.Recheck = func(context.Context) error {
		return fhir.Errorf(fhir.Unauthorized, "test", "revoked")
	}
	code, _ := part(t, w.handler(who), "/ingest/apple/auto", "s1", exportedRate(62))
	if got := w.trail(); code != http.StatusUnauthorized || len(w.all("Observation")) != 0 ||
		got["8 "+reasonEnded] != 1 {
		t.Errorf("%d, %v", code, got)
	}
}

// TestRefusalsAreRecordedUpToARate checks that callers without access cannot fill the
// audit trail, and that the patient of their request is not recorded.
func TestRefusalsAreRecordedUpToARate(t *testing.T) {
	w := newWorld(t)
	w.pipeline.Clock = clocktest.At(w.pipeline.Clock()).Now
	h := w.handler(nil)
	for range 200 {
		if code, _ := part(t, h, "/ingest/apple/auto?patient=p1", "", "x"); code != http.StatusUnauthorized {
			t.Fatal(code)
		}
	}
	if got := w.trail()["8 "+reasonNoAccess]; got != 20 {
		t.Errorf("%d refusals recorded", got)
	}
	for _, e := range w.all("AuditEvent") {
		if strings.Contains(string(e.JSON), "Patient/p1") {
			t.Errorf("names the patient: %s", e.JSON)
		}
	}
}

// wait is an error with a time to wait.
type wait struct{ delay time.Duration }

func (w wait) Error() string             { return "wait" }
func (w wait) RetryAfter() time.Duration { return w.delay }

type refusing struct{ err error }

func (r refusing) Authenticate(*http.Request) (*access.Principal, error) { return nil, r.err }

func TestRetryAfter(t *testing.T) {
	gin.SetMode(gin.TestMode)
	w := newWorld(t)
	e := gin.New()
	(&Handler{Pipeline: w.pipeline, Auth: refusing{&fhir.Error{Kind: fhir.TooMany,
		Err: wait{1500 * time.Millisecond}}}}).Mount(e)
	rec := httptest.NewRecorder()
	e.ServeHTTP(rec, httptest.NewRequest("POST", "/ingest/apple/auto", strings.NewReader("")))
	if rec.Code != http.StatusTooManyRequests || rec.Header().Get("Retry-After") != "2" {
		t.Errorf("%d, Retry-After %q", rec.Code, rec.Header().Get("Retry-After"))
	}
}

// TestPartLocks checks that deliveries of one part run one after another, others at
// once, and that waiting ends with the request.
func TestPartLocks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var l partLocks
		first, err := l.lock(t.Context(), "a")
		if err != nil {
			t.Fatal(err)
		}
		other, err := l.lock(t.Context(), "b")
		if err != nil {
			t.Fatal(err)
		}
		other()
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		var ended error
		wg.Go(func() { _, ended = l.lock(ctx, "a") })
		held := false
		wg.Go(func() {
			unlock, err := l.lock(context.Background(), "a")
			if err != nil {
				t.Error(err)
				return
			}
			held = true
			unlock()
		})
		synctest.Wait()
		cancel()
		synctest.Wait()
		if held || !errors.Is(ended, context.Canceled) {
			t.Errorf("held %v, %v", held, ended)
		}
		first()
		wg.Wait()
		if !held || len(l.busy) != 0 {
			t.Errorf("held %v, %d locks left", held, len(l.busy))
		}
	})
}
