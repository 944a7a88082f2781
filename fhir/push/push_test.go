package push

import (
	"context"
	"maps"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"pulsegate/fhir/store"
)

// expect waits until the EHR has exactly want.
func (w *world) expect(what string, want map[string]string) {
	w.t.Helper()
	w.until(what, func() bool { return maps.Equal(w.ehr.has(), want) })
}

func TestCreateUpdateRetract(t *testing.T) {
	w := newWorld(t)
	w.put(observation("before", "ada", 60, 0, ""))
	w.add(nil)
	w.put(observation("o1", "ada", 61, 1, `,"device":{"reference":"Device/d"}`), observation("o2", "bo", 62.50, 2, ""))
	w.expect("create", map[string]string{"o1": "Patient/ada final 61 v1", "o2": "Patient/bo final 62.5 v1"})
	w.put(observation("o1", "ada", 63, 1, ""))
	w.expect("update", map[string]string{"o1": "Patient/ada final 63 v2", "o2": "Patient/bo final 62.5 v1"})
	w.remove("o1")
	w.expect("retract", map[string]string{"o1": "Patient/ada entered-in-error 63 v3", "o2": "Patient/bo final 62.5 v1"})
	w.idle()
	if d := w.show(); d.Sent != 4 || d.Waiting != 0 || d.Lag != 0 || d.Failures != 0 {
		t.Errorf("%+v", d.Summary)
	}
	evs := w.disclosures()
	if len(evs) != 4 {
		t.Fatalf("%d disclosures", len(evs))
	}
	for _, want := range []string{"Observation/o1/_history/1", "Patient/ada", `"ehr"`} {
		if !strings.Contains(strings.Join(evs, "\n"), want) {
			t.Errorf("no disclosure names %s:\n%s", want, evs[0])
		}
	}
}

// TestReferencesAreAbsolute checks the form "stored".
func TestReferencesAreAbsolute(t *testing.T) {
	w := newWorld(t)
	w.add(nil)
	w.put(observation("o1", "ada", "61.0", 1,
		`,"device":{"reference":"Device/d"},"derivedFrom":[{"reference":"Observation/x"},{"reference":"#c"}]`))
	w.idle()
	w.ehr.mu.Lock()
	defer w.ehr.mu.Unlock()
	body, err := encodeObject(w.ehr.byID["e1"].body)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`{"reference":"` + own + `/Device/d"}`, `{"reference":"` + own + `/Observation/x"}`,
		`{"reference":"#c"}`, `"subject":{"reference":"Patient/ada"}`} {
		if !strings.Contains(string(body), want) {
			t.Errorf("%s lacks %s", body, want)
		}
	}
	for _, not := range []string{"versionId", "lastUpdated", `"id"`} {
		if strings.Contains(string(body), not) {
			t.Errorf("%s has %s", body, not)
		}
	}
}

func TestCriteriaAndScopes(t *testing.T) {
	w := newWorld(t)
	w.add(func(t *Target) { t.Categories = []string{"vital-signs"}; t.Codes = []string{"http://loinc.org|8867-4"} })
	other := observation("o2", "ada", 1, 1, "")
	other.Resource.JSON = []byte(strings.Replace(string(other.Resource.JSON), "8867-4", "9279-1", 1))
	activity := observation("o3", "ada", 1, 1, "")
	activity.Resource.JSON = []byte(strings.Replace(string(activity.Resource.JSON), `"vital-signs"`, `"activity"`, 1))
	w.put(observation("o1", "ada", 61, 1, ""), other, activity)
	w.expect("criteria", map[string]string{"o1": "Patient/ada final 61 v1"})
	w.idle()
	if n := w.ehr.count("POST"); n != 1 {
		t.Errorf("%d requests", n)
	}
}

// TestWithdrawalStopsTheNextRequest withdraws the consent while a request fails, so
// that the repetition would be the next request.
func TestWithdrawalStopsTheNextRequest(t *testing.T) {
	w := newWorld(t)
	failing := make(chan struct{}, 100)
	w.ehr.setFault(func(rw http.ResponseWriter, _ *http.Request, body string) bool {
		if strings.Contains(body, "Patient/bo") {
			return false
		}
		failing <- struct{}{}
		rw.WriteHeader(http.StatusServiceUnavailable)
		return true
	})
	w.add(nil)
	w.put(observation("o1", "ada", 61, 1, ""))
	<-failing
	w.consents.set("ada", true)
	// A request that had begun may still arrive; when the queue is empty, none follows.
	w.idle()
	w.ehr.setFault(nil)
	w.put(observation("o2", "ada", 62, 2, ""), observation("o3", "bo", 63, 3, ""))
	w.expect("withdrawn", map[string]string{"o3": "Patient/bo final 63 v1"})
	w.idle()
	if d := w.show(); d.Withheld != 1 || d.Repeating {
		t.Errorf("%+v", d.Stat)
	}
	for _, ev := range w.disclosures() {
		if strings.Contains(ev, "Observation/o2") {
			t.Error("a disclosure of what was not sent is recorded")
		}
	}
	// With consent again, what comes later is sent.
	w.consents.set("ada", false)
	w.put(observation("o4", "ada", 64, 4, ""))
	w.expect("consented", map[string]string{"o3": "Patient/bo final 63 v1", "o4": "Patient/ada final 64 v1"})
}

func TestPatientMatching(t *testing.T) {
	w := newWorld(t)
	w.ehr.patients["urn:mrn|1"] = []string{"p1"}
	w.ehr.patients["urn:mrn|2"] = []string{"p2", "p3"}
	w.patient("ada", "1")
	w.patient("bo", "2")
	w.patient("cy", "3")
	w.put(store.Write{Resource: observation("x", "di", 1, 1, "").Resource, Vendor: "apple"})
	w.add(func(t *Target) { t.PatientSystem = "urn:mrn" })
	w.put(observation("a1", "ada", 61, 1, ""), observation("b1", "bo", 62, 1, ""), observation("c1", "cy", 63, 1, ""),
		observation("d1", "di", 64, 1, ""), observation("a2", "ada", 65, 2, ""))
	w.expect("matched", map[string]string{"a1": "Patient/p1 final 61 v1", "a2": "Patient/p1 final 65 v1"})
	w.until("waiting", func() bool { return len(w.show().Unmatched) == 3 })
	d := w.show()
	got := map[string]string{}
	for _, u := range d.Unmatched {
		got[u.Patient] = u.Reason
	}
	want := map[string]string{"bo": "several-matches", "cy": "no-match", "di": "not-visible"}
	if !maps.Equal(got, want) || d.Waiting != 3 || d.Patients != 3 || d.Failures != 0 {
		t.Errorf("%v %+v", got, d.Summary)
	}
	if n := w.ehr.count("GET Patient"); n != 3 {
		t.Errorf("%d searches for patients", n) // one each, and none twice for ada
	}
	for _, ev := range w.disclosures() {
		if strings.Contains(ev, "urn:mrn") {
			t.Error("the audit trail contains an identifier")
		}
	}
	// The match is remembered across a restart, and a patient who is found later gets on.
	w.ehr.mu.Lock()
	w.ehr.patients["urn:mrn|3"] = []string{"p9"}
	w.ehr.mu.Unlock()
	w.restart()
	w.put(observation("a3", "ada", 66, 3, ""))
	w.expect("later", map[string]string{"a1": "Patient/p1 final 61 v1", "a2": "Patient/p1 final 65 v1",
		"a3": "Patient/p1 final 66 v1", "c1": "Patient/p9 final 63 v1"})
}

func TestThinning(t *testing.T) {
	w := newWorld(t)
	w.add(func(t *Target) { t.Every = time.Hour })
	pressure := func(id string, minute int) store.Write {
		o := observation(id, "ada", 120, minute, "")
		o.Resource.JSON = []byte(strings.Replace(string(o.Resource.JSON), "8867-4", "85354-9", 1))
		return o
	}
	interval := observation("i1", "ada", 7, 10, "")
	interval.Resource.JSON = []byte(strings.Replace(string(interval.Resource.JSON),
		`"effectiveDateTime":"2026-03-01T00:10:00Z"`,
		`"effectivePeriod":{"start":"2026-03-01T00:10:00Z","end":"2026-03-01T00:11:00Z"}`, 1))
	// Later values arrive first, as in a backfill.
	w.put(observation("m90", "ada", 1, 90, ""))
	w.put(observation("m31", "ada", 1, 31, ""), observation("m30", "ada", 1, 30, ""),
		observation("m29", "ada", 1, 29, ""),
		observation("m150", "ada", 1, 150, ""), observation("m149", "ada", 1, 149, ""), pressure("b1", 1),
		pressure("b2", 2),
		interval, observation("other", "bo", 1, 89, ""))
	w.idle()
	want := map[string]string{}
	for _, id := range []string{"m90", "m30", "m150", "b1", "b2", "i1"} {
		want[id] = ""
	}
	want["other"] = ""
	for id := range w.ehr.has() {
		if _, ok := want[id]; !ok {
			t.Errorf("%s was sent", id)
		}
		delete(want, id)
	}
	if len(want) > 0 {
		t.Errorf("not sent: %v", want)
	}
	if d := w.show(); d.Thinned != 3 {
		t.Errorf("%+v", d.Stat)
	}
	// A new version of a value that was sent is sent, one of a thinned value is not.
	w.put(observation("m90", "ada", 2, 90, ""), observation("m31", "ada", 2, 31, ""))
	w.until("update", func() bool { return strings.HasSuffix(w.ehr.has()["m90"], "2 v2") })
	w.idle()
	if w.ehr.has()["m31"] != "" {
		t.Error("a thinned value was sent when it changed")
	}
}

func TestSetAsideAndRetry(t *testing.T) {
	w := newWorld(t)
	w.add(nil)
	w.put(observation("o1", "ada", 666, 1, ""), observation("o2", "ada", 62, 2, ""))
	w.expect("the queue goes on", map[string]string{"o2": "Patient/ada final 62 v1"})
	w.idle()
	d := w.show()
	if len(d.Asides) != 1 || d.Asides[0].ID != "o1" || d.Asides[0].Status != 422 || d.SetAside != 1 ||
		strings.Join(d.Asides[0].Codes, ",") != "business-rule" {
		t.Fatalf("%+v", d)
	}
	if n, err := w.engine.Retry(context.Background(), "ehr", w.engine.commitState); err != nil || n != 1 {
		t.Fatal(n, err)
	}
	w.until("refused again", func() bool { return w.show().Aside == 2 && w.show().SetAside == 1 })
	// A new version that the EHR accepts ends it.
	w.put(observation("o1", "ada", 61, 1, ""))
	w.expect("corrected", map[string]string{"o1": "Patient/ada final 61 v1", "o2": "Patient/ada final 62 v1"})
	w.until("not set aside", func() bool { return w.show().SetAside == 0 })
}

// TestFailuresAreRepeated checks that no kind of passing failure loses or doubles an
// Observation, or changes the order within a patient.
func TestFailuresAreRepeated(t *testing.T) {
	for name, fault := range map[string]func(http.ResponseWriter, *http.Request, string) bool{
		"429":     status(429, "Retry-After", "0"),
		"503":     status(503, "Retry-After", "soon"),
		"500":     status(500),
		"409":     status(409),
		"401":     status(401),
		"408":     status(408),
		"hang up": func(http.ResponseWriter, *http.Request, string) bool { panic(http.ErrAbortHandler) },
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			failed := make(chan struct{}, 1000)
			w.ehr.setFault(func(rw http.ResponseWriter, r *http.Request, body string) bool {
				failed <- struct{}{}
				return fault(rw, r, body)
			})
			if name == "401" { // a token that is never accepted
				w.ehr.token = "none"
			}
			w.add(nil)
			w.put(observation("o1", "ada", 61, 1, ""))
			w.put(observation("o2", "ada", 62, 2, ""))
			if name == "401" {
				w.until("rejections", func() bool { w.tokens.mu.Lock(); defer w.tokens.mu.Unlock(); return w.tokens.rejected > 3 })
				w.ehr.mu.Lock()
				w.tokens.mu.Lock()
				w.tokens.n = 0
				w.tokens.mu.Unlock()
				w.ehr.token, w.ehr.fault = "t0", nil
				w.ehr.mu.Unlock()
				// The sender may have drawn tokens after t0.
				w.until("accepted", func() bool {
					w.tokens.mu.Lock()
					w.tokens.n = 0
					w.tokens.mu.Unlock()
					return len(w.ehr.has()) == 2
				})
			} else {
				for range 4 {
					<-failed
				}
				if d := w.show(); d.Status != Active || d.Waiting != 2 {
					t.Errorf("%+v", d.Summary)
				}
				w.ehr.setFault(nil)
			}
			w.expect("sent", map[string]string{"o1": "Patient/ada final 61 v1", "o2": "Patient/ada final 62 v1"})
			w.idle()
			w.ehr.mu.Lock()
			defer w.ehr.mu.Unlock()
			if got := w.ehr.byID["e1"].body["identifier"]; !strings.Contains(strings.ToLower(toText(got)), "o1") {
				t.Errorf("the first is %v", got)
			}
		})
	}
}

func toText(v any) string {
	b, err := encodeObject(map[string]any{"v": v})
	if err != nil {
		return err.Error()
	}
	return string(b)
}

// TestAnswerLost checks that a create whose answer was lost takes effect once, and
// that a version that follows meanwhile arrives.
func TestAnswerLost(t *testing.T) {
	w := newWorld(t)
	begun, lost := make(chan struct{}), make(chan struct{})
	once := false
	w.ehr.setFault(func(rw http.ResponseWriter, r *http.Request, body string) bool {
		w.ehr.mu.Lock()
		if once || r.Method != http.MethodPost {
			w.ehr.mu.Unlock()
			return false
		}
		once = true
		w.ehr.one(r.Method, "Observation", r.Header.Get("If-None-Exist"), []byte(body))
		w.ehr.mu.Unlock()
		close(begun)
		<-lost
		panic(http.ErrAbortHandler)
	})
	w.add(nil)
	w.put(observation("o1", "ada", 61, 1, ""))
	<-begun
	w.put(observation("o1", "ada", 62, 1, "")) // before the answer
	close(lost)
	w.expect("updated", map[string]string{"o1": "Patient/ada final 62 v2"})
}

// TestRetractedInDoubt checks that an Observation is retracted that may have been sent.
func TestRetractedInDoubt(t *testing.T) {
	w := newWorld(t)
	begun := make(chan struct{})
	w.ehr.setFault(func(rw http.ResponseWriter, r *http.Request, body string) bool {
		if r.Method != http.MethodPost {
			return false
		}
		w.ehr.mu.Lock()
		defer w.ehr.mu.Unlock()
		if len(w.ehr.byID) == 0 {
			w.ehr.one(r.Method, "Observation", r.Header.Get("If-None-Exist"), []byte(body))
			close(begun)
		}
		panic(http.ErrAbortHandler)
	})
	w.add(nil)
	w.put(observation("o1", "ada", 61, 1, ""))
	<-begun
	w.remove("o1")
	w.expect("retracted", map[string]string{"o1": "Patient/ada entered-in-error 61 v2"})
}

// TestUpdateInDoubt checks that a value is sent again that the target had before an
// update whose answer was lost.
func TestUpdateInDoubt(t *testing.T) {
	for _, retracted := range []bool{false, true} {
		w := newWorld(t)
		w.add(nil)
		w.put(observation("o1", "ada", 61, 1, ""))
		w.expect("create", map[string]string{"o1": "Patient/ada final 61 v1"})
		begun, restored := make(chan struct{}), make(chan struct{})
		var once sync.Once
		w.ehr.setFault(func(_ http.ResponseWriter, r *http.Request, body string) bool {
			lost := false
			once.Do(func() {
				w.ehr.mu.Lock()
				w.ehr.one(r.Method, strings.TrimPrefix(r.URL.RequestURI(), "/base/"), "", []byte(body))
				w.ehr.mu.Unlock()
				close(begun)
				<-restored
				lost = true
			})
			if lost {
				panic(http.ErrAbortHandler)
			}
			return false
		})
		if retracted {
			w.remove("o1")
		} else {
			w.put(observation("o1", "ada", 62, 1, ""))
		}
		<-begun
		w.put(observation("o1", "ada", 61, 1, ""))
		close(restored)
		w.expect("restored", map[string]string{"o1": "Patient/ada final 61 v3"})
	}
}

func TestBrokenTarget(t *testing.T) {
	for name, fault := range map[string]func(http.ResponseWriter, *http.Request, string) bool{
		"status-404": status(404), "status-410": status(410),
		"status-302": status(302, "Location", "http://127.0.0.1:1/"),
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.ehr.setFault(fault)
			w.add(nil)
			w.put(observation("o1", "ada", 61, 1, ""))
			w.until("in error", func() bool { return w.show().Status == Failed })
			if d := w.show(); d.Reason != name || d.Waiting != 1 {
				t.Errorf("%+v", d.Summary)
			}
			w.restart()
			if d := w.show(); d.Status != Failed {
				t.Errorf("after a restart: %+v", d.Summary)
			}
			w.ehr.setFault(nil)
			if err := w.engine.Resume(context.Background(), "ehr", time.Time{}, w.engine.commitState); err != nil {
				t.Fatal(err)
			}
			w.expect("resumed", map[string]string{"o1": "Patient/ada final 61 v1"})
		})
	}
}

// TestHostileAnswers checks that answers which make no sense are bounded, and that
// the status of a create decides.
func TestHostileAnswers(t *testing.T) {
	huge := strings.Repeat("x", 2<<20)
	for name, c := range map[string]struct {
		batch  int
		accept bool
		fault  func(http.ResponseWriter, *http.Request, string) bool
	}{
		"huge body": {0, true, func(w http.ResponseWriter, _ *http.Request, _ string) bool {
			w.Header().Set("Content-Type", mediaType)
			w.WriteHeader(http.StatusCreated)
			_, _ = w.Write([]byte(huge))
			return true
		}},
		"location elsewhere": {0, true, status(201, "Location", "https://evil.example/../Patient/../x")},
		"html":               {0, true, status(201, "Content-Type", "text/html")},
		"batch without entries": {5, false, func(w http.ResponseWriter, _ *http.Request, _ string) bool {
			w.Header().Set("Content-Type", mediaType)
			_, _ = w.Write([]byte(`{"resourceType":"Bundle","type":"batch-response","entry":[]}`))
			return true
		}},
		"batch of garbage": {5, false, status(200, "Content-Type", mediaType)},
		"batch with a status of its own": {5, false, func(w http.ResponseWriter, _ *http.Request, _ string) bool {
			w.Header().Set("Content-Type", mediaType)
			_, _ = w.Write([]byte(`{"resourceType":"Bundle","type":"batch-response","entry":[{"response":{"status":"yes"}}]}`))
			return true
		}},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.ehr.setFault(c.fault)
			w.add(func(t *Target) { t.Batch = c.batch })
			w.put(observation("o1", "ada", 61, 1, ""))
			if c.accept {
				w.until("sent", func() bool { return w.show().Sent == 1 })
				return
			}
			w.until("failed", func() bool { return w.show().Failures > 2 })
			w.ehr.setFault(nil)
			w.expect("sent", map[string]string{"o1": "Patient/ada final 61 v1"})
		})
	}
}

func TestBatch(t *testing.T) {
	w := newWorld(t)
	w.add(func(t *Target) { t.Batch = 4 })
	var ws []store.Write
	want := map[string]string{}
	for i := range 10 {
		id, value := "o"+strconv.Itoa(i), 60+i
		if i == 5 {
			value = 666
		} else {
			want[id] = "Patient/ada final " + strconv.Itoa(value) + " v1"
		}
		ws = append(ws, observation(id, "ada", value, i, ""))
	}
	w.put(ws...)
	w.expect("batch", want)
	w.idle()
	if d := w.show(); d.Sent != 9 || d.SetAside != 1 {
		t.Errorf("%+v", d.Summary)
	}
	if n := len(w.disclosures()); n != 3 {
		t.Errorf("%d disclosures for three requests", n)
	}
}

// TestSlowTargetDelaysNoOther lets one target hang.
func TestSlowTargetDelaysNoOther(t *testing.T) {
	w := newWorld(t)
	release := make(chan struct{})
	defer close(release)
	slow := newWorld(t)
	slow.ehr.setFault(func(http.ResponseWriter, *http.Request, string) bool { <-release; return false })
	w.add(func(t *Target) { t.Name, t.Base = "slow", slow.url })
	w.add(nil)
	for i := range 20 {
		w.put(observation("o"+strconv.Itoa(i), "ada", 61, i, ""))
	}
	w.until("all", func() bool { return len(w.ehr.has()) == 20 })
}

// TestPoisonStopsOnlyItsPatient checks that an Observation that the target always
// fails at does not stop other patients.
func TestPoisonStopsOnlyItsPatient(t *testing.T) {
	w := newWorld(t)
	w.ehr.setFault(func(rw http.ResponseWriter, _ *http.Request, body string) bool {
		if strings.Contains(body, `"value":13`) {
			rw.WriteHeader(500)
			return true
		}
		return false
	})
	w.add(nil)
	w.put(observation("bad", "ada", 13, 1, ""))
	w.put(observation("after", "ada", 60, 2, ""))
	for i := range 5 {
		w.put(observation("o"+strconv.Itoa(i), "bo", 61, i, ""))
	}
	w.until("the others", func() bool { return len(w.ehr.has()) == 5 })
	if _, ok := w.ehr.has()["after"]; ok {
		t.Error("the order within a patient is lost")
	}
}

func TestBackfill(t *testing.T) {
	w := newWorld(t)
	var ws []store.Write
	for i := range 600 {
		ws = append(ws, observation("o"+strconv.Itoa(i), "ada", i, i, ""))
	}
	w.patient("ada", "1")
	w.patient("bo", "2")
	w.patient("withdrawn", "3")
	w.put(append(ws, observation("b1", "bo", 1, 700, ""), observation("w1", "withdrawn", 1, 700, ""))...)
	w.consents.set("withdrawn", true)
	w.addSince(time.Date(2026, 3, 1, 2, 0, 0, 0, time.UTC), func(t *Target) { t.Batch = 100 })
	w.until("queued", func() bool { return w.show().Backfill == nil })
	w.until("sent", func() bool { return len(w.ehr.has()) == 481 })
	w.idle()
	if got := w.ehr.has(); got["o119"] != "" || got["o120"] == "" || got["w1"] != "" {
		t.Error("not what was asked for")
	}
	// Observations that the target has are not sent again.
	n := w.ehr.count("POST")
	if err := w.engine.Resume(context.Background(), "ehr", time.Date(2026, 3, 1, 2, 0, 0, 0, time.UTC),
		w.engine.commitState); err != nil {
		t.Fatal(err)
	}
	w.until("queued again", func() bool { return w.show().Backfill == nil })
	w.idle()
	if m := w.ehr.count("POST"); m != n {
		t.Errorf("%d requests more", m-n)
	}
}

func TestPauseResumeRemove(t *testing.T) {
	w := newWorld(t)
	w.add(nil)
	ctx := context.Background()
	if err := w.engine.Pause(ctx, "ehr", w.engine.commitState); err != nil {
		t.Fatal(err)
	}
	w.put(observation("o1", "ada", 61, 1, ""))
	w.until("queued", func() bool { return w.show().Waiting == 1 })
	w.restart()
	if d := w.show(); d.Status != Paused || d.Waiting != 1 || len(w.ehr.has()) != 0 {
		t.Fatalf("%+v", d.Summary)
	}
	if err := w.engine.Resume(ctx, "ehr", time.Time{}, w.engine.commitState); err != nil {
		t.Fatal(err)
	}
	w.expect("resumed", map[string]string{"o1": "Patient/ada final 61 v1"})
	if err := w.engine.Remove(ctx, "ehr", w.engine.commitState); err != nil {
		t.Fatal(err)
	}
	w.put(observation("o2", "ada", 62, 2, ""))
	w.until("the state of the target is deleted", func() bool {
		rows := 0
		if err := w.st.List(ctx, keyPrefix, func(k string, _ []byte) bool {
			if k != cursorKey && k != revisionKey {
				rows++
			}
			return true
		}); err != nil {
			t.Error(err)
		}
		return rows == 0
	})
	if err := w.engine.Remove(ctx, "ehr", w.engine.commitState); err == nil {
		t.Error("removed twice")
	}
	w.add(nil) // sends what comes from now on
	w.put(observation("o3", "ada", 63, 3, ""))
	w.expect("added again", map[string]string{"o1": "Patient/ada final 61 v1", "o3": "Patient/ada final 63 v1"})
}

func TestRefusedTargets(t *testing.T) {
	w := newWorld(t)
	for name, edit := range map[string]func(*Target){
		"url: this server":  func(t *Target) { t.Base = own + "/" },
		"url: the address":  func(t *Target) { t.Base = "https://169.254.169.254/fhir" },
		"url: must be an":   func(t *Target) { t.Base = "https://ehr.example/fhir?x=1" },
		"url: the addr":     func(t *Target) { t.Base = "https://u:p@ehr.example/fhir" },
		"token-url: the":    func(t *Target) { t.TokenURL = "ftp://ehr.example/token" },
		"form: this server": func(t *Target) { t.Form = "ccda" },
		"name: must have":   func(t *Target) { t.Name = "a/b" },
		"every: must be":    func(t *Target) { t.Every = -1 },
		"batch: must be":    func(t *Target) { t.Batch = 101 },
		"client-id: must":   func(t *Target) { t.ClientID = "" },
		"recipient: must":   func(t *Target) { t.Recipient = "" },
		"scope: must":       func(t *Target) { t.Scope = "" },
		"patient-system":    func(t *Target) { t.PatientSystem = "a|b" },
		"category and code": func(t *Target) { t.Codes = []string{""} },
	} {
		x := Target{Name: "ehr", Base: w.url, Recipient: "ehr", ClientID: "us", Scope: "s", Form: FormStored}
		edit(&x)
		if _, err := w.engine.Add(context.Background(), x, time.Time{}, w.engine.commitState); err == nil ||
			!strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// revised returns a form that permits no update but the one to entered-in-error, like
// US Core 9.
func revised() Form {
	base := stored(own)
	revision := func(body []byte, src *Source) []byte {
		return []byte(strings.Replace(string(body), own+"/Observation/"+src.Resource.ID,
			own+"/Observation/"+src.Resource.ID+"."+strconv.Itoa(src.Revision), 1))
	}
	query := func(q string, src *Source) string { return q + "." + strconv.Itoa(src.Revision) }
	return Form{
		Create: func(ctx context.Context, src *Source) ([]byte, string, bool, error) {
			body, q, ok, err := base.Create(ctx, src)
			return revision(body, src), query(q, src), ok && !strings.Contains(string(body), "unsuited"), err
		},
		Retract: func(ctx context.Context, src *Source) ([]byte, string, bool, error) {
			body, q, ok, err := base.Retract(ctx, src)
			return revision(body, src), query(q, src), ok, err
		}}
}

func TestFormWithoutUpdates(t *testing.T) {
	w := newWorld(t)
	w.engine.Close()
	w.forms = map[string]Form{"revised": revised()}
	w.start(w.st)
	w.patient("ada", "1")
	w.add(func(t *Target) { t.Form, t.PatientSystem = "revised", "urn:mrn" })
	w.put(observation("x", "ada", 1, 1, `,"note":[{"text":"unsuited"}]`))
	w.until("left out", func() bool { return w.show().Unsuited == 1 })
	w.idle()
	if w.ehr.count("") != 0 {
		t.Error("the EHR was asked about a patient of whom nothing is sent")
	}
	w.ehr.patients["urn:mrn|1"] = []string{"p1"}
	w.put(observation("o1", "ada", 61, 1, ""))
	w.expect("create", map[string]string{"o1.0": "Patient/p1 final 61 v1"})
	w.put(observation("o1", "ada", 62, 1, ""))
	w.expect("restated", map[string]string{"o1.0": "Patient/p1 entered-in-error 62 v2",
		"o1.1": "Patient/p1 final 62 v1"})
	w.put(observation("o1", "ada", 63, 1, ""))
	w.expect("restated again", map[string]string{"o1.0": "Patient/p1 entered-in-error 62 v2",
		"o1.1": "Patient/p1 entered-in-error 63 v2", "o1.2": "Patient/p1 final 63 v1"})
	w.remove("o1")
	want := map[string]string{"o1.0": "Patient/p1 entered-in-error 62 v2",
		"o1.1": "Patient/p1 entered-in-error 63 v2", "o1.2": "Patient/p1 entered-in-error 63 v2"}
	w.expect("retracted", want)
	w.put(observation("o1", "ada", 64, 1, ""))
	want["o1.3"] = "Patient/p1 final 64 v1"
	w.expect("restored", want)
	// A version that changes nothing of the form sends nothing.
	n := w.ehr.count("")
	w.put(observation("o1", "ada", 64, 1, `,"meta":{}`))
	w.idle()
	if m := w.ehr.count(""); m != n {
		t.Error(m-n, "requests for an unchanged value")
	}
}

// TestCeilings checks the waits of a target after failures of one Observation, and
// after failures that concern all.
func TestCeilings(t *testing.T) {
	o := &Options{MinBackoff: time.Second, MaxBackoff: 15 * time.Minute}
	for status, want := range map[int]time.Duration{0: 15 * time.Minute, 429: 15 * time.Minute, 502: 15 * time.Minute,
		503: 15 * time.Minute, 504: 15 * time.Minute, 500: 30 * time.Second, 409: 30 * time.Second} {
		if got := (&failure{status: status}).ceiling(o); got != want {
			t.Errorf("%d: %v", status, got)
		}
	}
	for tries, want := range map[int]time.Duration{1: time.Second, 2: 2 * time.Second, 5: 16 * time.Second,
		11: 15 * time.Minute, 1 << 30: 15 * time.Minute} {
		if got := grow(o.MinBackoff, o.MaxBackoff, tries); got != want {
			t.Errorf("%d: %v", tries, got)
		}
	}
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	for header, want := range map[string]time.Duration{"": 0, "120": 2 * time.Minute, "x": 0, "-1": 0,
		"99999999": time.Hour, "Sun, 01 Mar 2026 12:00:30 GMT": 30 * time.Second,
		"Sun, 01 Mar 2026 11:00:30 GMT": 0, "Sun, 01 Mar 2099 11:00:30 GMT": time.Hour} {
		if got := retryAfter(header, now); got != want {
			t.Errorf("Retry-After %q: %v", header, got)
		}
	}
}

// TestEchoIsNotSentBack checks that an Observation that came from the target is not
// sent to it.
func TestEchoIsNotSentBack(t *testing.T) {
	w := newWorld(t)
	w.add(nil)
	w.put(observation("echo", "ada", 1, 1, `,"identifier":[{"system":"urn:ietf:rfc:3986","value":"`+w.url+
		`/Observation/5"}]`))
	w.put(observation("o1", "ada", 61, 2, ""))
	w.expect("only ours", map[string]string{"o1": "Patient/ada final 61 v1"})
}
