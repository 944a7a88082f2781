package requests

import (
	"context"
	crand "crypto/rand"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"pulsegate/conformance/cluster/history"
	"pulsegate/fhir"
	"pulsegate/fhir/access"
	"pulsegate/fhir/audit"
	"pulsegate/fhir/interaction"
	"pulsegate/fhir/r4"
	"pulsegate/fhir/store"
	"pulsegate/fhir/store/pebblestore"
)

var (
	histories = flag.Int("histories", 3, "histories to record, each with a seed of its own")
	firstSeed = flag.Uint64("seed", 1, "seed of the first history")
)

const (
	clients = 6
	steps   = 40 // of each client
	keys    = 3
	crashes = 5
)

// operator is the caller of all requests.
var operator = &interaction.Request{Caller: audit.Caller{Principal: &access.Principal{Operator: "uid:0",
	Grant: access.All()}, RequestID: "r"}}

var validator = sync.OnceValues(func() (*r4.Validator, error) { return r4.New(r4.Limits{}) })

// world is a store, which lives several times, and the services over it.
type world struct {
	t    *testing.T
	wrap func(store.Store) store.Store // of the store of the first service; may be nil
	life atomic.Pointer[life]
}

// life is the time from an opening of the store to a crash.
type life struct {
	fs       *vfs.MemFS
	db       *pebblestore.DB
	services [2]*interaction.Service
	mu       sync.RWMutex
	over     bool // what the services answer now, no client gets
}

func newWorld(t *testing.T, wrap func(store.Store) store.Store) *world {
	w := &world{t: t, wrap: wrap}
	w.start(vfs.NewCrashableMem())
	t.Cleanup(func() {
		if err := w.life.Load().db.Close(); err != nil {
			t.Error(err)
		}
	})
	return w
}

// start opens the store, and makes two services, which know nothing of each other.
func (w *world) start(fs *vfs.MemFS) {
	w.t.Helper()
	db, err := pebblestore.Open("", pebblestore.Options{FS: fs, CacheBytes: 8 << 20})
	if err != nil {
		w.t.Fatal(err)
	}
	v, err := validator()
	if err != nil {
		w.t.Fatal(err)
	}
	l := &life{fs: fs, db: db}
	for i := range l.services {
		var s store.Store = db
		if i == 0 && w.wrap != nil {
			s = w.wrap(s)
		}
		rec, err := audit.NewRecorder(audit.Options{Store: db, Clock: time.Now, Rand: crand.Reader,
			Observer: "https://pg.example"})
		if err != nil {
			w.t.Fatal(err)
		}
		l.services[i] = &interaction.Service{Store: s, Validator: v, Audit: rec, Clock: time.Now, Rand: crand.Reader,
			Base: "https://pg.example/fhir"}
	}
	w.life.Store(l)
}

// crash ends the life of the store without a warning, and opens what is left of its files.
func (w *world) crash(r *rand.Rand) {
	l := w.life.Load()
	l.mu.Lock()
	l.over = true
	left := l.fs.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: r.IntN(101),
		RNG: rand.New(rand.NewPCG(r.Uint64(), 0))})
	l.mu.Unlock()
	w.start(left)
	if err := l.db.Close(); err != nil {
		w.t.Error(err)
	}
}

// client does requests at either service.
type client struct {
	world    *world
	number   int
	random   *rand.Rand
	recorder *history.Recorder
	marker   *atomic.Uint64
}

func organization(key, name string) []byte {
	return fmt.Appendf(nil, `{"resourceType":"Organization","identifier":[{"system":"urn:test","value":"%s"}],"name":"%s"}`,
		key, name)
}

// do does one request at a service, and records what the client learns of it.
func (c *client) do(service int, kind history.Kind, key string) {
	l := c.world.life.Load()
	s, value := l.services[service], "v"+strconv.FormatUint(c.marker.Add(1), 10)
	o := c.recorder.Begin(c.number, history.Input{Kind: kind, Key: key, New: value})
	out, err := request(s, kind, key, value)
	l.mu.RLock()
	defer l.mu.RUnlock()
	switch {
	case l.over:
		o.Lost()
	case err != nil:
		c.world.t.Error(err)
	case out.Status == history.Unknown: // other requests kept changing what it found
		o.Void()
	default:
		o.End(out)
	}
}

// request does one request. Its outcome is unknown if the service gives up, and then it had
// no effect.
func request(s *interaction.Service, kind history.Kind, key, value string) (out history.Output, err error) {
	ctx, criteria := context.Background(), "identifier=urn:test|"+key
	var w interaction.Written
	switch kind {
	case history.Read:
		return find(s, criteria)
	case history.Ensure:
		w, err = s.Create(ctx, operator, "Organization", organization(key, value), criteria)
	case history.Upsert:
		w, err = s.ConditionalUpdate(ctx, operator, "Organization", criteria, organization(key, value),
			interaction.Preconditions{})
	case history.Patch:
		w, err = s.ConditionalPatch(ctx, operator, "Organization", criteria, interaction.Patch{
			Body: fmt.Appendf(nil, `[{"op":"replace","path":"/name","value":"%s"}]`, value)},
			interaction.Preconditions{})
	case history.Remove:
		_, err = s.ConditionalDelete(ctx, operator, "Organization", criteria, interaction.Preconditions{})
		if err == nil {
			return history.Output{Status: history.Done}, nil
		}
	}
	switch {
	case err == nil:
		return history.Output{Status: history.Done, Version: w.Resource.Version, Value: nameOf(w.Resource.JSON)}, nil
	case fhir.KindOf(err) == fhir.NotFound:
		return history.Output{Status: history.Refused}, nil
	case fhir.KindOf(err) == fhir.PreconditionFailed:
		return history.Output{Status: history.Done, Value: "several"}, nil
	case fhir.KindOf(err) == fhir.Conflict:
		return history.Output{}, nil
	}
	return out, err
}

// find reads the only match of criteria.
func find(s *interaction.Service, criteria string) (out history.Output, err error) {
	p, err := s.Search(context.Background(), operator, "Organization", criteria)
	if err != nil {
		return out, err
	}
	var b struct {
		Entry []struct{ Resource json.RawMessage }
	}
	if err := json.Unmarshal(p.Bytes(), &b); err != nil {
		return out, err
	}
	out.Status = history.Done
	switch len(b.Entry) {
	case 0:
	case 1:
		var r struct{ Meta struct{ VersionID string } }
		if err := json.Unmarshal(b.Entry[0].Resource, &r); err != nil {
			return out, err
		}
		out.Version, err = strconv.ParseUint(r.Meta.VersionID, 10, 64)
		out.Value = nameOf(b.Entry[0].Resource)
	default:
		out.Value = "several"
	}
	return out, err
}

func nameOf(body []byte) string {
	_, s, _ := strings.Cut(string(body), `"name":"`)
	s, _, _ = strings.Cut(s, `"`)
	return s
}

// kinds are the requests of clients. Half of them write anew.
var kinds = []history.Kind{history.Read, history.Ensure, history.Upsert, history.Upsert, history.Patch, history.Remove}

// TestConditionalRequests records histories of concurrent clients and crashes.
func TestConditionalRequests(t *testing.T) {
	for i := range uint64(*histories) {
		seed := *firstSeed + i
		t.Run(fmt.Sprintf("seed %d", seed), func(t *testing.T) {
			w := newWorld(t, nil)
			var r history.Recorder
			var marker atomic.Uint64
			var work sync.WaitGroup
			due := make(chan struct{}, crashes)
			for n := range clients {
				c := &client{world: w, number: n, random: rand.New(rand.NewPCG(seed, uint64(n))), recorder: &r,
					marker: &marker}
				work.Go(func() {
					for range steps {
						c.do(c.random.IntN(2), kinds[c.random.IntN(len(kinds))], fmt.Sprint("key", c.random.IntN(keys)))
						if marker.Load()%(clients*steps/(crashes+1)) == 0 {
							select {
							case due <- struct{}{}:
							default:
							}
						}
					}
				})
			}
			ended := make(chan struct{})
			go func() { work.Wait(); close(ended) }()
			random := rand.New(rand.NewPCG(seed, 1<<32))
			for n, over := 0, false; !over; {
				select {
				case <-due:
					w.crash(random)
					n++
				case <-ended:
					over = true
					w.crash(random) // what was acknowledged last must be there, too
				}
			}
			last := &client{world: w, number: clients, recorder: &r, marker: &marker}
			for k := range keys {
				last.do(1, history.Read, fmt.Sprint("key", k))
			}
			if err := r.Check(); err != nil {
				t.Error(err)
			}
			done := r.Count(history.Done)
			t.Logf("%d done, %d refused, %d unknown", done, r.Count(history.Refused), r.Count(history.Unknown))
			if done < clients*steps/4 {
				t.Errorf("only %d requests were done: the history shows nothing", done)
			}
		})
	}
}

// interposed is a store that lets another service go first, before its next commit.
type interposed struct {
	store.Store
	before    func()
	unguarded bool // ignores guards
	blind     bool // ignores versions
	forgets   bool // acknowledges writes that it does not make
}

func (s *interposed) Commit(ctx context.Context, b *store.Batch) (store.Result, error) {
	if f := s.before; f != nil {
		s.before = nil
		f()
	}
	if s.unguarded {
		b.Guards = nil
	}
	for i := range b.Writes {
		if w := &b.Writes[i]; s.blind && w.Expect == store.Version {
			w.Expect = store.Any
		}
	}
	if s.forgets && len(b.Writes) > 0 && b.Writes[0].Resource.Type == "Organization" {
		return store.Result{Seq: s.LastSeq(),
			Outcomes: []store.Outcome{{Version: 1, JSON: b.Writes[0].Resource.JSON}}}, nil
	}
	return s.Store.Commit(ctx, b)
}

// TestControls requires that the check finds what is wrong in each history of broken
// services, and finds nothing if they are whole.
func TestControls(t *testing.T) {
	const key = "key"
	for name, c := range map[string]struct {
		breaks func(*interposed)
		first  []history.Kind // done before
		slow   history.Kind   // overtaken between its search and its commit
		fast   history.Kind   // that overtakes; 0 for none
		then   []history.Kind
	}{
		"upserts without guards": {func(s *interposed) { s.unguarded = true }, nil, history.Upsert, history.Upsert,
			nil},
		"create and upsert without guards": {func(s *interposed) { s.unguarded = true }, nil, history.Ensure,
			history.Upsert,
			nil},
		"upsert and create without guards": {func(s *interposed) { s.unguarded = true }, nil, history.Upsert,
			history.Ensure,
			nil},
		"a patch of another version": {func(s *interposed) { s.blind, s.unguarded = true, true },
			[]history.Kind{history.Upsert}, history.Patch, history.Remove, nil},
		"an upsert of what was deleted": {func(s *interposed) { s.blind, s.unguarded = true, true },
			[]history.Kind{history.Upsert}, history.Upsert, history.Remove, nil},
		"a write that is lost": {func(s *interposed) { s.forgets = true }, nil, history.Upsert, history.Read,
			[]history.Kind{history.Read}},
	} {
		t.Run(name, func(t *testing.T) {
			replay := func(broken bool) error {
				var mine *interposed
				w := newWorld(t, func(s store.Store) store.Store {
					mine = &interposed{Store: s}
					return mine
				})
				var r history.Recorder
				var marker atomic.Uint64
				one := &client{world: w, number: 1, recorder: &r, marker: &marker}
				two := &client{world: w, number: 2, recorder: &r, marker: &marker}
				for _, k := range c.first {
					two.do(1, k, key)
				}
				if broken {
					c.breaks(mine)
				}
				mine.before = func() { two.do(1, c.fast, key) }
				one.do(0, c.slow, key)
				if mine.before != nil {
					return errors.New("nothing was overtaken")
				}
				mine.forgets = false
				for _, k := range append(c.then, history.Read) {
					two.do(1, k, key)
				}
				return r.Check()
			}
			if err := replay(true); err == nil {
				t.Error("the check finds nothing wrong")
			} else if !strings.Contains(err.Error(), "not linearizable") {
				t.Error(err)
			}
			if err := replay(false); err != nil {
				t.Errorf("the check finds in a history of whole services: %v", err)
			}
		})
	}
}
