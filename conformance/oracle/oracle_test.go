package oracle

import (
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"pulsegate/fhir/rapidtest"
	"pulsegate/mapping"
)

var (
	duration = flag.Duration("oracle.time", 10*time.Second, "how long to start new runs")
	seedFlag = flag.Uint64("oracle.seed", 0, "seed of the first run; 0 takes RAPID_SEED or a random one")
	three    = flag.Duration("oracle.three", 3*time.Second, "how long to start new runs through three processes")
	steps    = flag.Int("oracle.steps", 250, "steps per run")
)

// pair performs one run in two worlds.
type pair struct {
	t        *testing.T
	differ   func(string) // ends the run at a difference
	seed     uint64
	rnd      *rand.Rand
	worlds   [2]*world // of documents, and of samples
	step     int
	requests int
	trail    []string // the last steps and requests
	receiver *httptest.Server
	current  *world // receives notifications
	mapper   *mapping.Mapper

	scopes   map[string]string
	subs     []subscribed
	past     []delivery // for repetitions and restatements
	payloads int
	ids      []string       // of Observations
	audits   []string       // of AuditEvents
	others   []string       // references of Devices and Provenances
	learned  uint64         // last commit with known ids
	links    []link         // next pages
	jobs     []link         // status URLs of exports
	counts   map[string]int // of requests and samples
	size     int            // number of samples
	maxSize  int            // approximate limit, because searches of documents are slow
}

// link is a URL with the client that may use it.
type link struct{ client, url string }

// newPair starts two servers. The second one consists of n processes and has the fault.
func newPair(t *testing.T, seed uint64, n int, fault fault) *pair {
	p := &pair{t: t, differ: func(s string) { t.Helper(); t.Fatal(s) }, seed: seed,
		rnd: rand.New(rand.NewPCG(seed, 1)), scopes: map[string]string{"admin": "system/*.cruds"},
		counts: map[string]int{}}
	m, err := mapper()
	if err != nil {
		t.Fatal(err)
	}
	p.mapper = m
	p.maxSize = []int{300, 300, 1000, 1000, 1000, 4000, 4000, 25000}[p.n(8)]
	p.receiver = httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		b, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		p.current.received = append(p.current.received,
			r.URL.Path+" "+r.Header.Get("Content-Type")+" "+r.Header.Get("X-Secret")+"\n"+string(b))
	}))
	t.Cleanup(p.receiver.Close)
	for i := range p.worlds {
		count, logSeed := 1, uint64(0)
		if i == 1 {
			count = n
			if fault == noFault {
				logSeed = seed
			}
		}
		p.worlds[i] = newWorld(t, seed, i == 1, count, logSeed, p.scopes)
	}
	if p.worlds[1].fault = fault; fault != noFault {
		p.worlds[1].restart()
	}
	t.Cleanup(func() {
		for _, w := range p.worlds {
			w.close()
		}
	})
	return p
}

// n draws a number below n.
func (p *pair) n(n int) int { return p.rnd.IntN(n) }

func (p *pair) oneIn(in int) bool       { return p.rnd.IntN(in) == 0 }
func (p *pair) pick(s ...string) string { return s[p.rnd.IntN(len(s))] }

// answer is the part of an answer that is compared.
type answer struct {
	status int
	head   string
	body   string
}

// headers lists the compared headers.
var headers = []string{"Content-Type", "ETag", "Last-Modified", "Location", "Content-Location", "Content-Encoding",
	"Retry-After", "X-Progress", "Expires", "X-Request-Id", "WWW-Authenticate"}

// request is a request to both worlds.
type request struct {
	client, method, url, body string
	header                    []string // names and values in turn
}

func (r *request) String() string {
	s := fmt.Sprintf("%s %s as %s %v", r.method, r.url, r.client, r.header)
	if r.body != "" {
		s += "\n    " + short(r.body, 400)
	}
	return s
}

// serve sends a request to one world.
func (w *world) serve(r *request, id string) answer {
	var body io.Reader
	if r.body != "" {
		body = strings.NewReader(r.body)
	}
	req := httptest.NewRequest(r.method, r.url, body)
	req.Header.Set("Authorization", "Bearer "+r.client)
	req.Header.Set("X-Request-Id", id)
	if r.body != "" {
		req.Header.Set("Content-Type", "application/fhir+json")
	}
	for i := 0; i+1 < len(r.header); i += 2 {
		req.Header.Set(r.header[i], r.header[i+1])
	}
	rec := httptest.NewRecorder()
	w.handler.ServeHTTP(rec, req)
	a := answer{status: rec.Code, body: rec.Body.String()}
	for _, h := range headers {
		if v := rec.Header().Values(h); len(v) > 0 {
			a.head += h + ": " + strings.Join(v, " | ") + "\n"
		}
	}
	return a
}

// ask sends r to both worlds, lets them settle, and compares the answers.
func (p *pair) ask(r *request) answer {
	p.t.Helper()
	p.note(r.String())
	if !strings.HasPrefix(r.url, "http") {
		r.url = base + r.url
	}
	p.requests++
	id := fmt.Sprintf("r%d-%d", p.step, p.requests)
	var answers [2]answer
	p.inBoth(func(w *world) {
		i := 0
		if w.tier {
			i = 1
		}
		answers[i] = w.serve(r, id)
	})
	p.compare("status", fmt.Sprint(answers[0].status), fmt.Sprint(answers[1].status))
	p.compare("headers", answers[0].head, answers[1].head)
	p.compare("body", answers[0].body, answers[1].body)
	p.counts[fmt.Sprintf("%s %d", category(r), answers[0].status)]++
	return answers[0]
}

// inBoth calls do in each world and lets it settle.
func (p *pair) inBoth(do func(*world)) {
	p.t.Helper()
	elapsed := []time.Duration{time.Millisecond, time.Second, time.Minute, 3 * time.Hour}[p.n(4)]
	tick := []time.Duration{0, time.Millisecond, 17 * time.Millisecond, time.Minute}[p.n(4)]
	for _, w := range p.worlds {
		p.current = w
		w.advance(elapsed, tick)
		do(w)
		w.settle(p.subs)
	}
	a, b := p.worlds[0], p.worlds[1]
	p.compare("commits", fmt.Sprint(a.db.LastSeq()), fmt.Sprint(b.db.LastSeq()))
	p.compare("notifications", strings.Join(a.received, "\n"), strings.Join(b.received, "\n"))
	p.counts["notification"] += len(a.received)
	a.received, b.received = nil, nil
	p.learn()
}

// category returns the group of a request in the counts.
func category(r *request) string {
	path, _, _ := strings.Cut(strings.TrimPrefix(r.url, base), "?")
	parts := strings.Split(strings.Trim(path, "/"), "/")
	for i, s := range parts {
		if i > 0 && !strings.HasPrefix(s, "$") && !strings.HasPrefix(s, "_") {
			parts[i] = "*"
		}
	}
	return r.method + " " + strings.Join(parts, "/")
}

// note adds a line to the trail.
func (p *pair) note(s string) {
	p.trail = append(p.trail, fmt.Sprintf("%d: %s", p.step, s))
	if n := len(p.trail); n > 200 {
		p.trail = p.trail[n-100:]
	}
}

// short cuts s after n bytes.
func short(s string, n int) string {
	if len(s) > n {
		return s[:n] + "…"
	}
	return s
}

// compare ends the run at a difference.
func (p *pair) compare(what, a, b string) {
	p.t.Helper()
	if a == b {
		return
	}
	i := 0
	for i < min(len(a), len(b)) && a[i] == b[i] {
		i++
	}
	around := func(s string) string { return s[max(0, min(i, len(s))-300):min(len(s), i+300)] }
	p.differ(fmt.Sprintf("-oracle.seed %d, step %d: %s differs (%d and %d bytes, from byte %d on)\nlast: %s\ndocuments: %s\nsamples:   %s",
		p.seed, p.step, what, len(a), len(b), i, strings.Join(p.trail[max(0, len(p.trail)-6):], "\n  "), around(a),
		around(b)))
}

// TestOracle performs random runs for -oracle.time.
func TestOracle(t *testing.T) { testOracle(t, 1, *duration) }

// TestOracleThroughThree performs random runs for -oracle.three, in which each call of the
// second server goes to the store of another of three processes than the last. Their log
// loses requests and answers, and receives entries late.
func TestOracleThroughThree(t *testing.T) { testOracle(t, 3, *three) }

func testOracle(t *testing.T, processes int, duration time.Duration) {
	end := time.Now().Add(duration)
	seed := rapidtest.Seed(*seedFlag)
	t.Logf("-oracle.seed %d", seed)
	counts := map[string]int{}
	// Without data, any two servers are equal. A run on a slow machine takes the time that
	// it needs to have some.
	goesOn := func() bool { return counts["samples created"] == 0 || time.Now().Before(end) }
	for n := 0; n < 10 && goesOn() || time.Now().Before(end); n++ {
		s := seed + uint64(n)
		ok := t.Run(fmt.Sprint(s), func(t *testing.T) {
			p := newPair(t, s, processes, noFault)
			defer func() {
				for k, v := range p.counts {
					counts[k] += v
				}
			}()
			p.start()
			for p.step = 1; p.step <= *steps && goesOn(); p.step++ {
				p.randomStep()
			}
			p.end()
		})
		if !ok {
			break
		}
	}
	if counts["samples created"] == 0 {
		t.Error("no run had samples, so nothing was tested")
	}
	if testing.Verbose() {
		for _, k := range sorted(counts) {
			t.Logf("%6d %s", counts[k], k)
		}
	}
}

// TestFaults checks that servers with a small fault are detected.
func TestFaults(t *testing.T) { testFaults(t, 1) }

// TestFaultsThroughThree does so through three processes.
func TestFaultsThroughThree(t *testing.T) { testFaults(t, 3) }

func testFaults(t *testing.T, processes int) {
	for f := noFault + 1; f < faults; f++ {
		t.Run(fmt.Sprint(f), func(t *testing.T) {
			for seed := uint64(1); seed <= 40; seed++ {
				if what := differenceOf(t, seed, processes, f); what != "" {
					t.Log(short(what, 160))
					return
				}
			}
			t.Error("the fault was not detected")
		})
	}
}

// differenceOf returns the difference that a fault causes in a short run, or "".
func differenceOf(t *testing.T, seed uint64, processes int, f fault) (what string) {
	p := newPair(t, seed, processes, f)
	type difference struct{ string }
	p.differ = func(s string) { panic(difference{s}) }
	defer func() {
		if d, ok := recover().(difference); ok {
			what = d.string
		}
	}()
	p.start()
	for p.step = 1; p.step <= 60; p.step++ {
		p.randomStep()
	}
	p.end()
	return ""
}
