// Command kill is a crash test of the server. Writers create and update Observations
// over HTTP, send payloads of samples, change or delete single samples, and request
// tokens. The server is killed with SIGKILL at a random moment and restarted on the
// same data. Then every acknowledged write must be present, in the acknowledged version
// or in the next one if an update was in progress. No resource may have a value that
// was never written, a payload must be stored as a whole or not at all, and an
// assertion must not be accepted again. At the end, the store is checked and the audit
// log verified.
package main

import (
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"time"

	"pulsegate/conformance/blackbox"
	"pulsegate/conformance/clusterrun"
)

const scope = "system/*.cruds"

func main() {
	var o clusterrun.Options
	flag.StringVar(&o.Bin, "bin", "bin/pulsegate", "the binary to start")
	flag.IntVar(&o.Nodes, "nodes", 1, "number of processes; of several, one is killed at a time")
	flag.StringVar(&o.MongoDB, "mongodb", "",
		"connection string of the MongoDB of several processes; empty starts a stand-in")
	flag.StringVar(&o.Redis, "redis", "", "URL of the Redis of several processes; empty starts one")
	kills := flag.Int("kills", 50, "number of kills")
	writers := flag.Int("writers", 8, "number of concurrent writers")
	seed := flag.Uint64("seed", uint64(time.Now().UnixNano()), "seed of the random moments")
	accounts := flag.Int("accounts", 4, "linked accounts of the second part")
	linkKills := flag.Int("link-kills", 8, "number of kills of the second part; 0 leaves it out")
	flag.Parse()
	err := run(o, *kills, *writers, *seed)
	if err == nil && *linkKills > 0 {
		err = runLinks(o, *linkKills, *accounts, *seed)
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "kill: FAIL (seed %d): %v\n", *seed, err)
		os.Exit(1)
	}
}

// harness is one run of the program.
type harness struct {
	dir, patient string
	srv          *clusterrun.Servers
	client       *blackbox.Client
	replays      int // assertions sent again

	mu       sync.Mutex         // guards the fields below
	acked    map[string]written // acknowledged resources by id
	total    int                // acknowledged writes
	payloads int                // sent
	samples  int                // acknowledged
}

// written is the state of a resource as known to its only writer.
type written struct {
	version int // acknowledged
	value   int // acknowledged
	pending int // value of the update in progress, or -1
}

func run(o clusterrun.Options, kills, writers int, seed uint64) (err error) {
	dir, err := os.MkdirTemp("", "pulsegate-kill-")
	if err != nil {
		return err
	}
	defer func() {
		if err := os.RemoveAll(dir); err != nil {
			slog.Warn("clean-up", "error", err)
		}
	}()
	h := &harness{dir: dir, acked: map[string]written{}}
	o.Dir = dir
	defer func() {
		if err != nil && h.srv != nil {
			err = errors.Join(err, h.srv.End())
		}
	}()
	if err := h.setUp(o); err != nil {
		return err
	}
	rnd := rand.New(rand.NewPCG(seed, 1))
	fmt.Printf("kill: %d kills, %d writers, seed %d\n", kills, writers, seed)
	// A slow machine kills more often, and later, until the run proves something.
	for i := 0; i < kills || i < 2*kills && h.few(kills); i++ {
		length := time.Duration(20+rnd.IntN(400)) * time.Millisecond
		if i >= kills {
			length += 5 * time.Second
		}
		if err := h.round(writers, length, rnd.Uint64(), rnd.IntN(h.srv.Nodes())); err != nil {
			return fmt.Errorf("kill %d: %w", i+1, err)
		}
	}
	if err := h.verify(h.acked); err != nil {
		return err
	}
	if err := h.srv.Run(nil, "audit", "verify"); err != nil {
		return err
	}
	if err := h.srv.RunAll("store", "check"); err != nil {
		return err
	}
	if err := h.srv.Stop(); err != nil {
		return err
	}
	fmt.Printf("kill: %d acknowledged writes on %d resources and %d samples, 0 lost; %d assertions replayed, all refused; store consistent, audit log verified\n", h.total, len(h.acked), h.samples, h.replays)
	if h.few(kills) {
		return errors.New("fewer acknowledged writes than kills: the run proves nothing")
	}
	fmt.Printf("%d passed, 0 failed\n", kills)
	return nil
}

// few reports whether there was less work than the kills can prove something about.
func (h *harness) few(kills int) bool {
	return h.total < kills || h.samples < kills || h.replays < kills/2
}

func (h *harness) setUp(o clusterrun.Options) error {
	var err error
	if h.srv, err = clusterrun.Start(o); err != nil {
		return err
	}
	var p struct{ ID string }
	if err := h.srv.Run(&p, "patient", "add", "--given", "Kim", "--family", "Muster"); err != nil {
		return err
	}
	h.patient = p.ID
	if err := h.srv.Run(nil, "consent", "grant", "--patient", p.ID, "--vendor", "oura"); err != nil {
		return err
	}
	if h.client, err = h.newClient(h.srv); err != nil {
		return err
	}
	_, err = h.client.Token()
	return err
}

// newClient registers a client that may do everything.
func (h *harness) newClient(srv *clusterrun.Servers) (*blackbox.Client, error) {
	key, err := blackbox.NewKey()
	if err != nil {
		return nil, err
	}
	jwks, err := key.JWKS()
	if err != nil {
		return nil, err
	}
	file := filepath.Join(h.dir, "jwks.json")
	if err := os.WriteFile(file, jwks, 0o600); err != nil {
		return nil, err
	}
	var c struct {
		ID string `json:"client_id"`
	}
	if err := srv.Run(&c, "client", "add", "--name", "kill", "--jwks", file, "--scope", scope); err != nil {
		return nil, err
	}
	return &blackbox.Client{Base: srv.Base, ID: c.ID, Scope: scope, Key: key,
		HTTP: &http.Client{Timeout: 2 * time.Minute}}, nil
}

// round runs the writers for some time, kills and restarts the server, and verifies the
// resources that the writers touched. Of several processes, it kills one, and verifies
// the resources at the others before it restarts that one.
func (h *harness) round(writers int, duration time.Duration, seed uint64, node int) error {
	touched := map[string]written{}
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for w := range writers {
		wg.Add(1)
		go func() {
			defer wg.Done()
			h.write(rand.New(rand.NewPCG(seed, uint64(w))), stop, touched)
		}()
	}
	sent := make([][]*payload, max(1, writers/4))
	for w := range sent {
		wg.Go(func() { h.sendPayloads(rand.New(rand.NewPCG(seed, uint64(writers+w))), stop, &sent[w]) })
	}
	var used string
	wg.Go(func() { used = h.requestTokens(stop) })
	time.Sleep(duration)
	several := h.srv.Nodes() > 1
	kill := h.srv.Kill
	if several {
		kill = func() error { return h.srv.KillNode(node) }
	}
	err := kill()
	close(stop)
	wg.Wait()
	if err != nil {
		return err
	}
	if several {
		err = h.srv.Serves(func() bool {
			status, _, err := h.client.JSON("GET", "Patient/"+h.patient, nil)
			return err == nil && status == http.StatusOK
		})
	} else {
		err = h.srv.Restart()
	}
	if err != nil {
		return err
	}
	if err := h.verifyReplay(used); err != nil {
		return err
	}
	for _, s := range sent {
		if err := h.verifyPayloads(s); err != nil {
			return err
		}
	}
	if err := h.verify(touched); err != nil || !several {
		return err
	}
	return h.srv.StartNode(node)
}

// write creates Observations and updates them until the server is killed.
func (h *harness) write(rnd *rand.Rand, stop chan struct{}, touched map[string]written) {
	var created []string
	for {
		select {
		case <-stop:
			return
		default:
		}
		value := rnd.IntN(100000)
		if len(created) > 0 && rnd.IntN(3) == 0 {
			id := created[rnd.IntN(len(created))]
			h.set(touched, id, func(state *written) { state.pending = value })
			status, out, err := h.client.JSON("PUT", "Observation/"+id, h.body(id, value))
			if err != nil || status != 200 {
				return // the server is killed; the update remains pending
			}
			h.set(touched, id, func(state *written) {
				*state = written{version: version(out), value: value,
					pending: -1}
			})
			continue
		}
		status, out, err := h.client.JSON("POST", "Observation", h.body("", value))
		if err != nil || status != 201 {
			return
		}
		id, _ := out["id"].(string)
		created = append(created, id)
		h.set(touched, id, func(state *written) { *state = written{version: version(out), value: value, pending: -1} })
	}
}

// set changes the state of a resource.
func (h *harness) set(touched map[string]written, id string, f func(*written)) {
	h.mu.Lock()
	defer h.mu.Unlock()
	state := h.acked[id]
	f(&state)
	if state.pending < 0 {
		h.total++
	}
	h.acked[id], touched[id] = state, state
}

// verify compares the resources of the server with want.
func (h *harness) verify(want map[string]written) error {
	for id, state := range want {
		status, out, err := h.client.JSON("GET", "Observation/"+id, nil)
		if err != nil {
			return err
		}
		if status != 200 {
			return fmt.Errorf("acknowledged Observation/%s: status %d", id, status)
		}
		q, _ := out["valueQuantity"].(map[string]any)
		f, _ := q["value"].(float64)
		v, got := version(out), int(f)
		acked := v == state.version && got == state.value
		pending := state.pending >= 0 && v == state.version+1 && got == state.pending
		if !acked && !pending {
			return fmt.Errorf("resource %s: version %d value %d, acknowledged was version %d value %d", id, v, got,
				state.version, state.value)
		}
		h.mu.Lock()
		h.acked[id] = written{version: v, value: got, pending: -1}
		h.mu.Unlock()
	}
	return nil
}

// version returns the version of a resource, or -1.
func version(r map[string]any) int {
	m, _ := r["meta"].(map[string]any)
	s, _ := m["versionId"].(string)
	var v int
	if _, err := fmt.Sscan(s, &v); err != nil {
		return -1
	}
	return v
}

// body returns an Observation of a number of steps.
func (h *harness) body(id string, value int) []byte {
	if id != "" {
		id = `"id":"` + id + `",`
	}
	return []byte(fmt.Sprintf(`{"resourceType":"Observation",%s"status":"final","code":{"coding":[{"system":"http://loinc.org","code":"55423-8"}]},"subject":{"reference":"Patient/%s"},"effectiveDateTime":"2026-10-01T08:00:00Z","valueQuantity":{"value":%d,"unit":"steps","system":"http://unitsofmeasure.org","code":"{steps}"}}`, id, h.patient, value))
}
