// Command smoke is a black-box test of the whole server that takes less than a minute.
// It starts the binary, registers a client, grants consents, ingests one payload of each
// vendor format, searches, exports, receives a notification, kills and restarts the
// server, withdraws the consents and checks that no data is visible, and verifies the
// audit log. It uses only HTTP and the command line.
package main

import (
	"flag"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"strings"
	"time"

	"pulsegate/conformance/blackbox"
	"pulsegate/conformance/clusterrun"
)

func main() {
	bin := flag.String("bin", "bin/pulsegate", "the binary to start")
	keep := flag.Bool("keep", false, "keep the data directory")
	var o clusterrun.Options
	flag.IntVar(&o.Nodes, "nodes", 1, "number of processes, behind a load balancer if there are several")
	flag.StringVar(&o.MongoDB, "mongodb", "",
		"connection string of the MongoDB of several processes; empty starts a stand-in")
	flag.StringVar(&o.Redis, "redis", "", "URL of the Redis of several processes; empty starts one")
	flag.Parse()
	if err := run(*bin, *keep, o); err != nil {
		fmt.Fprintln(os.Stderr, "smoke: FAIL:", err)
		os.Exit(1)
	}
}

// world is the state that the steps share.
type world struct {
	bin, dir string
	srv      *clusterrun.Servers
	key      *blackbox.Key
	ehr      *blackbox.Client // a recipient that the consents allow
	patient  string
	hook     *receiver
	passed   int
}

// step is one part of the test.
type step struct {
	name string
	do   func(*world) error
}

var steps = []step{
	{"serves health, metrics and metadata", (*world).describes},
	{"patient, consents and client by the command line", (*world).setUp},
	{"backend token; replay and unregistered scope refused", (*world).tokens},
	{"ingest without consent refused", (*world).refusedIngest},
	{"one payload of each vendor format becomes Observations", (*world).ingests},
	{"repeated payloads change nothing", (*world).ingestsAgain},
	{"ingest over HTTP: same content, same answer", (*world).ingestsOverHTTP},
	{"search by patient, code and date; pages; includes; totals", (*world).searches},
	{"bad requests get an OperationOutcome", (*world).badRequests},
	{"create, update, version, history, delete", (*world).crud},
	{"a Bundle for an EHR is accepted by another server, once", (*world).submits},
	{"export of system, patients and group", (*world).exports},
	{"a subscription is notified", (*world).subscribes},
	{"a WebSocket is notified", (*world).listens},
	{"the audit trail records the requests", (*world).audited},
	{"kill -9 and restart lose nothing", (*world).survives},
	{"withdrawn consent hides everything from the next request on", (*world).withdraws},
	{"the audit log verifies", (*world).verifies},
}

func run(bin string, keep bool, o clusterrun.Options) error {
	dir, err := os.MkdirTemp("", "pulsegate-smoke-")
	if err != nil {
		return err
	}
	if keep {
		fmt.Println("data in", dir)
	} else {
		defer func() {
			if err := os.RemoveAll(dir); err != nil {
				slog.Warn("clean-up", "error", err)
			}
		}()
	}
	w := &world{bin: bin, dir: dir}
	if w.key, err = blackbox.NewKey(); err != nil {
		return err
	}
	o.Bin, o.Dir = bin, dir
	if w.srv, err = clusterrun.Start(o); err != nil {
		return err
	}
	defer func() {
		if err := w.srv.Stop(); err != nil {
			slog.Warn("stop", "error", err)
		}
	}()
	begin := time.Now()
	for _, s := range steps {
		at := time.Now()
		if err := s.do(w); err != nil {
			fmt.Printf("FAIL  %s\n", s.name)
			return fmt.Errorf("%s: %w\n--- server log\n%s", s.name, err, lastLines(w.srv.Log(), 30))
		}
		w.passed++
		fmt.Printf("ok    %-62s %6.2f s\n", s.name, time.Since(at).Seconds())
	}
	fmt.Printf("%d passed, 0 failed\n", w.passed)
	fmt.Printf("smoke: %.1f s, ready in %d ms\n", time.Since(begin).Seconds(), w.srv.Ready.Milliseconds())
	return nil
}

// lastLines returns the last n lines of s.
func lastLines(s string, n int) string {
	l := strings.Split(strings.TrimSpace(s), "\n")
	return strings.Join(l[max(0, len(l)-n):], "\n")
}

// expect returns an error unless ok is true.
func expect(ok bool, format string, args ...any) error {
	if ok {
		return nil
	}
	return fmt.Errorf(format, args...)
}

// client returns a client with the key of the test.
func (w *world) client(id, scope string) *blackbox.Client {
	return &blackbox.Client{Base: w.srv.Base, ID: id, Scope: scope, Key: w.key,
		HTTP: &http.Client{Timeout: 2 * time.Minute}}
}
