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

	"pulsegate/mapping"
)

var (
	lasting = flag.Duration("oracle.time", 10*time.Second, "how long to compare")
	seeded  = flag.Uint64("oracle.seed", 0, "seed of the first life; 0 takes one from the clock")
	steps   = flag.Int("oracle.steps", 250, "steps of a life")
)

// pair is one life in two worlds.
type pair struct {
	t        *testing.T
	differ   func(string) // ends a life at a difference
	seed     uint64
	rnd      *rand.Rand
	both     [2]*world // documents, samples
	step     int
	asked    int
	trail    []string
	receiver *httptest.Server
	current  *world // whose notifications arrive
	mapper   *mapping.Mapper

	scopes   map[string]string
	subs     []subscribed
	past     []measured // payloads, to be repeated and restated
	payloads int
	ids      []string // of Observations
	audits   []string // of AuditEvents
	others   []string // references of Devices and Provenances
	seen     uint64   // commit up to which ids were learned
	links    []link   // pages to go on with
	jobs     []link   // exports to ask for again
	made     map[string]int
	size     int // samples so far
	room     int // and at most, about: searches of documents take their time
}

// link is a URL and who may use it.
type link struct{ client, url string }

func newPair(t *testing.T, seed uint64, fault fault) *pair {
	p := &pair{t: t, differ: func(s string) { t.Helper(); t.Fatal(s) }, seed: seed,
		rnd: rand.New(rand.NewPCG(seed, 1)), scopes: map[string]string{"admin": "system/*.cruds"},
		made: map[string]int{}}
	m, err := mapper()
	if err != nil {
		t.Fatal(err)
	}
	p.mapper = m
	p.room = []int{300, 300, 1000, 1000, 1000, 4000, 4000, 25000}[p.n(8)]
	p.receiver = httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		b, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		p.current.received = append(p.current.received,
			r.URL.Path+" "+r.Header.Get("Content-Type")+" "+r.Header.Get("X-Secret")+"\n"+string(b))
	}))
	t.Cleanup(p.receiver.Close)
	for i := range p.both {
		p.both[i] = newWorld(t, seed, i == 1, p.scopes)
	}
	if p.both[1].fault = fault; fault != noFault {
		p.both[1].restart()
	}
	t.Cleanup(func() {
		for _, w := range p.both {
			w.close(w.db)
		}
	})
	return p
}

func (p *pair) n(n int) int           { return p.rnd.IntN(n) }
func (p *pair) one(in int) bool       { return p.rnd.IntN(in) == 0 }
func (p *pair) of(s ...string) string { return s[p.rnd.IntN(len(s))] }

// answer is what a client sees.
type answer struct {
	status int
	head   string
	body   string
}

// headers that belong to the answer's content.
var headers = []string{"Content-Type", "ETag", "Last-Modified", "Location", "Content-Location", "Content-Encoding",
	"Retry-After", "X-Progress", "Expires", "X-Request-Id", "WWW-Authenticate"}

// request is one to ask both worlds.
type request struct {
	client, method, url, body string
	header                    []string // pairs
}

func (r *request) String() string {
	s := fmt.Sprintf("%s %s as %s %v", r.method, r.url, r.client, r.header)
	if r.body != "" {
		s += "\n    " + short(r.body, 400)
	}
	return s
}

func (w *world) serve(r *request, id string) answer {
	var body io.Reader
	if r.body != "" {
		body = strings.NewReader(r.body)
	}
	q := httptest.NewRequest(r.method, r.url, body)
	q.Header.Set("Authorization", "Bearer "+r.client)
	q.Header.Set("X-Request-Id", id)
	if r.body != "" {
		q.Header.Set("Content-Type", "application/fhir+json")
	}
	for i := 0; i+1 < len(r.header); i += 2 {
		q.Header.Set(r.header[i], r.header[i+1])
	}
	rec := httptest.NewRecorder()
	w.handler.ServeHTTP(rec, q)
	a := answer{status: rec.Code, body: rec.Body.String()}
	for _, h := range headers {
		if v := rec.Header().Values(h); len(v) > 0 {
			a.head += h + ": " + strings.Join(v, " | ") + "\n"
		}
	}
	return a
}

// ask serves r in both worlds, lets them settle, and compares.
func (p *pair) ask(r *request) answer {
	p.t.Helper()
	p.note(r.String())
	if !strings.HasPrefix(r.url, "http") {
		r.url = base + r.url
	}
	p.asked++
	id := fmt.Sprintf("r%d-%d", p.step, p.asked)
	var as [2]answer
	p.inBoth(func(w *world) {
		i := 0
		if w.tier {
			i = 1
		}
		as[i] = w.serve(r, id)
	})
	p.same("status", fmt.Sprint(as[0].status), fmt.Sprint(as[1].status))
	p.same("headers", as[0].head, as[1].head)
	p.same("body", as[0].body, as[1].body)
	p.made[fmt.Sprintf("%s %d", kind(r), as[0].status)]++
	return as[0]
}

// inBoth does something in each world and lets it settle.
func (p *pair) inBoth(do func(*world)) {
	p.t.Helper()
	pass := []time.Duration{time.Millisecond, time.Second, time.Minute, 3 * time.Hour}[p.n(4)]
	tick := []time.Duration{0, time.Millisecond, 17 * time.Millisecond, time.Minute}[p.n(4)]
	for _, w := range p.both {
		p.current = w
		w.advance(pass, tick)
		do(w)
		w.settle(p.subs)
	}
	a, b := p.both[0], p.both[1]
	p.same("commits", fmt.Sprint(a.db.LastSeq()), fmt.Sprint(b.db.LastSeq()))
	p.same("notifications", strings.Join(a.received, "\n"), strings.Join(b.received, "\n"))
	p.made["notification"] += len(a.received)
	a.received, b.received = nil, nil
	p.learn()
}

// kind groups requests for the figures.
func kind(r *request) string {
	path, _, _ := strings.Cut(strings.TrimPrefix(r.url, base), "?")
	parts := strings.Split(strings.Trim(path, "/"), "/")
	for i, s := range parts {
		if i > 0 && !strings.HasPrefix(s, "$") && !strings.HasPrefix(s, "_") {
			parts[i] = "*"
		}
	}
	return r.method + " " + strings.Join(parts, "/")
}

func (p *pair) note(s string) {
	p.trail = append(p.trail, fmt.Sprintf("%d: %s", p.step, s))
	if n := len(p.trail); n > 200 {
		p.trail = p.trail[n-100:]
	}
}

func short(s string, n int) string {
	if len(s) > n {
		return s[:n] + "…"
	}
	return s
}

// same ends the life at a difference.
func (p *pair) same(what, a, b string) {
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

// TestOracle is the gate: lives until the time is over.
func TestOracle(t *testing.T) {
	end := time.Now().Add(*lasting)
	seed := *seeded
	if seed == 0 {
		seed = uint64(time.Now().UnixNano())
	}
	t.Logf("-oracle.seed %d", seed)
	made := map[string]int{}
	for n := 0; n == 0 || time.Now().Before(end); n++ {
		s := seed + uint64(n)
		ok := t.Run(fmt.Sprint(s), func(t *testing.T) {
			p := newPair(t, s, noFault)
			defer func() {
				for k, v := range p.made {
					made[k] += v
				}
			}()
			p.begin()
			for p.step = 1; p.step <= *steps && time.Now().Before(end); p.step++ {
				p.live()
			}
			p.end()
		})
		if !ok {
			break
		}
	}
	// Two worlds without data are alike whatever the server does.
	if made["samples created"] == 0 {
		t.Error("no life had a sample: the harness tests nothing")
	}
	if testing.Verbose() {
		for _, k := range sorted(made) {
			t.Logf("%6d %s", made[k], k)
		}
	}
}

// TestFaults is the control: a server that is wrong in one small way is found
// out, and not one that is right.
func TestFaults(t *testing.T) {
	for f := noFault + 1; f < faults; f++ {
		t.Run(fmt.Sprint(f), func(t *testing.T) {
			for seed := uint64(1); seed <= 40; seed++ {
				if what := found(t, seed, f); what != "" {
					t.Log(short(what, 160))
					return
				}
			}
			t.Error("nobody noticed")
		})
	}
}

// found is the difference that a fault makes in a life of some steps.
func found(t *testing.T, seed uint64, f fault) (what string) {
	p := newPair(t, seed, f)
	type difference struct{ string }
	p.differ = func(s string) { panic(difference{s}) }
	defer func() {
		if d, ok := recover().(difference); ok {
			what = d.string
		}
	}()
	p.begin()
	for p.step = 1; p.step <= 60; p.step++ {
		p.live()
	}
	p.end()
	return ""
}
