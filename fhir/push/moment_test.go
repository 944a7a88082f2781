package push

import (
	"maps"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"testing"

	"pulsegate/fhir/rapidtest"

	"pgregory.net/rapid"
)

// TestAnyMoment changes Observations at random while the server fails, crashes and
// restarts at random, and checks that in the end the target has exactly the current
// values, each once.
func TestAnyMoment(t *testing.T) {
	for _, form := range []string{FormStored, "revised"} {
		rapid.Check(t, func(rt *rapid.T) { anyMoment(t, rt, form) })
	}
}

// TestMain runs few random tests unless -rapid.checks is given.
func TestMain(m *testing.M) { rapidtest.Main(m, 8, 4) }

func anyMoment(t *testing.T, rt *rapid.T, form string) {
	w := newWorld(t)
	w.engine.Close()
	w.forms = map[string]Form{"revised": revised()}
	w.start(w.st)
	batch := rapid.IntRange(0, 3).Draw(rt, "batch")
	w.add(func(t *Target) { t.Form, t.Batch = form, batch })
	var mu sync.Mutex
	faults := rand.New(rand.NewPCG(uint64(rapid.Int64().Draw(rt, "seed")), 1))
	w.ehr.setFault(func(rw http.ResponseWriter, r *http.Request, body string) bool {
		mu.Lock()
		defer mu.Unlock()
		switch faults.IntN(6) {
		case 0:
			rw.WriteHeader(503)
			return true
		case 1: // performs the request and loses the answer
			w.ehr.mu.Lock()
			defer w.ehr.mu.Unlock()
			if r.URL.Path == "/base" {
				w.ehr.batch(httptest.NewRecorder(), []byte(body))
			} else {
				w.ehr.one(r.Method, strings.TrimPrefix(r.URL.RequestURI(), "/base/"), r.Header.Get("If-None-Exist"),
					[]byte(body))
			}
			panic(http.ErrAbortHandler)
		}
		return false
	})
	now := map[string]int{}
	for range rapid.IntRange(1, 25).Draw(rt, "steps") {
		id := rapid.SampledFrom([]string{"a", "b", "c"}).Draw(rt, "id")
		switch rapid.IntRange(0, 6).Draw(rt, "what") {
		case 0:
			if _, ok := now[id]; ok {
				w.remove(id)
				delete(now, id)
			}
		case 1:
			w.crash()
		default:
			now[id] = rapid.IntRange(50, 90).Draw(rt, "value")
			w.put(observation(id, "ada", now[id], 1, ""))
		}
	}
	defer func() {
		if t.Failed() {
			t.Log("want", now, "requests", w.ehr.requests)
		}
	}()
	w.until("everything arrives", func() bool {
		got := map[string]int{}
		for id, line := range w.ehr.has() {
			if strings.Contains(line, "TWICE") {
				t.Fatal(id, line)
			}
			if strings.Contains(line, "entered-in-error") {
				continue
			}
			name, _, _ := strings.Cut(id, ".")
			value, err := strconv.Atoi(strings.Fields(line)[2])
			if err != nil || got[name] != 0 {
				return false // the earlier value is not retracted yet
			}
			got[name] = value
		}
		return maps.Equal(got, now)
	})
	w.idle()
}

// TestRecreatedWithLostAnswers loses the answer to a creation, deletes the Observation and
// creates it again, and loses that answer too. The target, which finds the retracted
// resource, must end with the new value.
func TestRecreatedWithLostAnswers(t *testing.T) {
	w := newWorld(t)
	w.add(nil)
	var mu sync.Mutex
	lose, down := "51", false // the value whose creation gets no answer
	w.ehr.setFault(func(rw http.ResponseWriter, r *http.Request, body string) bool {
		mu.Lock()
		defer mu.Unlock()
		if down {
			rw.WriteHeader(503)
			return true
		}
		if r.Method != http.MethodPost || lose == "" || !strings.Contains(body, `"value":`+lose) {
			return false
		}
		lose, down = "", lose == "51"
		w.ehr.mu.Lock()
		defer w.ehr.mu.Unlock()
		w.ehr.one(r.Method, strings.TrimPrefix(r.URL.RequestURI(), "/base/"), r.Header.Get("If-None-Exist"),
			[]byte(body))
		panic(http.ErrAbortHandler)
	})
	w.put(observation("a", "ada", 51, 1, ""))
	w.until("the first answer is lost", func() bool {
		mu.Lock()
		defer mu.Unlock()
		return down
	})
	w.remove("a")
	mu.Lock()
	lose, down = "84", false
	mu.Unlock()
	w.until("it is retracted", func() bool { return strings.Contains(w.ehr.has()["a"], "entered-in-error") })
	w.put(observation("a", "ada", 84, 1, ""))
	w.until("the new value arrives", func() bool { return strings.Contains(w.ehr.has()["a"], "final 84") })
	w.idle()
}
