// Command hostile attacks a running pulsegate with invalid input of all known types:
// damaged payloads and decompression bombs, malformed FHIR, forged and replayed
// assertions, scopes beyond the registration, reads of data without consent, and
// endpoints on private networks. After each attack it checks that the answer is correct
// and discloses nothing of the input, that the server runs within its memory limit, and
// that the data accepted before is unchanged. It uses only HTTP and the command line.
package main

import (
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"time"

	"pulsegate/conformance/blackbox"
	"pulsegate/conformance/clusterrun"
)

func main() {
	keep := flag.Bool("keep", false, "keep the data directory")
	only := flag.String("only", "", "run only the sections whose names begin with this")
	list := flag.String("list", "", "write the attacks and the answers to this file")
	var o clusterrun.Options
	flag.IntVar(&o.Nodes, "nodes", 1, "number of processes, behind a load balancer if there are several")
	flag.StringVar(&o.MongoDB, "mongodb", "",
		"connection string of the MongoDB of several processes; empty starts a stand-in")
	flag.StringVar(&o.Redis, "redis", "", "URL of the Redis of several processes; empty starts one")
	flag.StringVar(&o.Bin, "bin", "bin/pulsegate", "the binary to start")
	flag.Parse()
	if err := run(o, *keep, *list, *only); err != nil {
		fmt.Fprintln(os.Stderr, "hostile: FAIL:", err)
		os.Exit(1)
	}
}

// section is a group of attacks.
type section struct {
	name string
	do   func(*world) error
}

var sections = []section{
	{"Payloads", (*world).payloads},
	{"FHIR requests", (*world).requests},
	{"Tokens", (*world).tokens},
	{"Reads without scope or consent", (*world).leaks},
	{"Vendors: phone-made Observations, preferred sources, pages and keys", (*world).vendors},
	{"Endpoints on private networks (SSRF)", (*world).ssrf},
	{"Memory with costly bodies", (*world).memory},
	{"Slow senders", (*world).slowEnd},
	{"State after all attacks", (*world).unharmed},
}

func run(o clusterrun.Options, keep bool, list, only string) (err error) {
	dir, err := os.MkdirTemp("", "pulsegate-hostile-")
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
	w := &world{bin: o.Bin, dir: dir}
	if w.key, err = blackbox.NewKey(); err != nil {
		return err
	}
	o.Dir = dir
	if w.srv, err = clusterrun.Start(o); err != nil {
		return err
	}
	defer func() {
		err := w.srv.Stop()
		if w.strict != nil {
			err = errors.Join(err, w.strict.Stop())
		}
		if err != nil {
			slog.Warn("stop", "error", err)
		}
	}()
	begin := time.Now()
	if err := w.setUp(); err != nil {
		return fmt.Errorf("set-up: %w", err)
	}
	w.slowBegin()
	for _, s := range sections {
		if !strings.HasPrefix(s.name, only) {
			continue
		}
		w.section = s.name
		at, failed := time.Now(), w.failed
		if err := s.do(w); err != nil {
			return fmt.Errorf("%s: %w\n--- server log\n%s", s.name, err, lastLines(w.srv.Log(), 30))
		}
		if err := w.secret("the log after "+s.name, w.srv.Log()); err != nil {
			w.fail("log", err)
		}
		verdict := "ok   "
		if w.failed > failed {
			verdict = "FAIL "
		}
		fmt.Printf("%s %-62s %6.2f s\n", verdict, s.name, time.Since(at).Seconds())
	}
	fmt.Printf("%d known defects\n%d passed, %d failed\n", len(w.open), w.passed, w.failed)
	fmt.Printf("hostile: %.1f s, maximum memory %d MiB\n", time.Since(begin).Seconds(), w.peak>>20)
	fmt.Printf("hostile: maximum processor time of a request %v: %s\n", w.costliest.time, w.costliest.name)
	if list != "" {
		if err := os.WriteFile(list, w.markdown(), 0o644); err != nil {
			return err
		}
	}
	if w.failed > 0 {
		return fmt.Errorf("%d attacks got a wrong answer", w.failed)
	}
	return nil
}

// lastLines returns the last n lines of s.
func lastLines(s string, n int) string {
	l := strings.Split(strings.TrimSpace(s), "\n")
	return strings.Join(l[max(0, len(l)-n):], "\n")
}
