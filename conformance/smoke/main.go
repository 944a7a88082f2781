// Command smoke is a black box run, under a minute: it starts the binary,
// registers a client, grants consents, ingests one payload of each vendor
// format, searches, exports, receives a subscription, withdraws a consent and
// sees nothing, kills and restarts, and verifies the audit log. It uses HTTP
// and the command line only.
package main

import (
	"flag"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"pulsegate/conformance/blackbox"
)

func main() {
	bin := flag.String("bin", "bin/pulsegate", "the binary")
	keep := flag.Bool("keep", false, "keep the data directory")
	flag.Parse()
	if err := run(*bin, *keep); err != nil {
		fmt.Fprintln(os.Stderr, "smoke: FAIL:", err)
		os.Exit(1)
	}
}

// world is what the steps share.
type world struct {
	bin, dir string
	srv      *blackbox.Server
	key      *blackbox.Key
	ehr      *blackbox.Client // sees what consent allows
	patient  string
	sink     *receiver
	passed   int
}

type step struct {
	name string
	do   func(*world) error
}

var steps = []step{
	{"serves, is healthy, describes itself", (*world).describes},
	{"patient, consents and client by command line", (*world).setUp},
	{"backend token; replay and foreign scope refused", (*world).tokens},
	{"without a consent nothing is ingested", (*world).refusedIngest},
	{"one payload of each vendor format becomes Observations", (*world).ingests},
	{"the same payloads again change nothing", (*world).ingestsAgain},
	{"ingest over HTTP: same content, same answer", (*world).ingestsOverHTTP},
	{"search by patient, code and date; pages; includes; totals", (*world).searches},
	{"bad requests get an OperationOutcome", (*world).badRequests},
	{"create, update, version, history, delete", (*world).crud},
	{"export of system, patients and group", (*world).exports},
	{"a subscription is notified", (*world).subscribes},
	{"the audit trail names what happened", (*world).audited},
	{"kill -9, restart: everything is there", (*world).survives},
	{"withdrawn consent: the next request sees nothing", (*world).withdraws},
	{"the audit log verifies", (*world).verifies},
}

func run(bin string, keep bool) error {
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
	if w.srv, err = blackbox.Start(bin, filepath.Join(dir, "data")); err != nil {
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

func lastLines(s string, n int) string {
	l := strings.Split(strings.TrimSpace(s), "\n")
	return strings.Join(l[max(0, len(l)-n):], "\n")
}

// expect fails unless ok.
func expect(ok bool, format string, args ...any) error {
	if ok {
		return nil
	}
	return fmt.Errorf(format, args...)
}

func (w *world) client(id, scope string) *blackbox.Client {
	return &blackbox.Client{Base: w.srv.Base, ID: id, Scope: scope, Key: w.key,
		HTTP: &http.Client{Timeout: 30 * time.Second}}
}
