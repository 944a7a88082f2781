// Command cluster tests several server processes over one log. It starts three of
// them, and lets clients read, update, create, disclose and withdraw at one process
// after the other, while it kills processes (the sequencer on purpose), stops them for
// longer than their leases, cuts and delays the network between them and their
// servers, empties Redis and ends it, and ends MongoDB. The history that the clients
// saw must be linearizable: a consent that was withdrawn at one process stops the next
// request at every other one, a revoked token is revoked everywhere, and no update is
// lost. Every acknowledged write must be there once, the sequence numbers must have no
// gaps, and all processes must have the same content. In the end, it restores MongoDB
// from a backup.
//
// Where the system allows it, each process and each server has its own network
// namespace (package netns), so that the network can fail silently and in one
// direction. Elsewhere, TCP proxies are between them. The program says which.
//
// With -skew, it builds binaries with wrong clocks (package skew): two of the processes
// are 0.8 seconds ahead and behind, and in one round, one is 90 seconds ahead. That one
// must not be ready, and must acknowledge nothing.
//
// Without -mongodb and -redis it starts a stand-in for MongoDB (conformance/ferretd)
// and a redis-server. With them it uses the given servers, and leaves out the faults
// for which it would have to end them or to sit between them and the processes.
package main

import (
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"time"

	"pulsegate/conformance/cluster/netns"
)

// settings are the flags of the program.
type settings struct {
	bin, mongodb, redis string
	nodes, rounds       int
	workers             int
	seed                uint64
	length, lease       time.Duration
	only, network       string
	env                 list
	verbose, control    bool
	skew                bool
	skewDir             string
}

// list is a flag that may be given several times.
type list []string

func (l *list) String() string     { return strings.Join(*l, " ") }
func (l *list) Set(s string) error { *l = append(*l, s); return nil }

func main() {
	netns.Init()
	var s settings
	flag.StringVar(&s.bin, "bin", "bin/pulsegate", "the binary to start")
	flag.StringVar(&s.mongodb, "mongodb", "",
		"connection string of MongoDB, in which the run uses a new database; empty starts a stand-in")
	flag.StringVar(&s.redis, "redis", "", "URL of a Redis server; empty starts one, and none does without")
	flag.IntVar(&s.nodes, "nodes", 3, "number of processes")
	flag.IntVar(&s.rounds, "rounds", 1, "how often each fault occurs")
	flag.IntVar(&s.workers, "workers", 8, "number of concurrent clients")
	flag.Uint64Var(&s.seed, "seed", uint64(time.Now().UnixNano()), "seed of the operations")
	flag.DurationVar(&s.length, "length", 4*time.Second, "length of a fault")
	flag.DurationVar(&s.lease, "lease", 15*time.Second,
		"length of a stop and of a silent network, which must be longer than any lease and timeout")
	flag.StringVar(&s.only, "only", "", "only faults and checks whose name contains this, or one of several such parts between |")
	flag.StringVar(&s.network, "network", "auto",
		"where the faults of the network are: namespaces (Linux), proxies, or auto, which is namespaces if possible")
	flag.Var(&s.env, "env", "a variable NAME=VALUE for the processes; may be repeated")
	flag.BoolVar(&s.verbose, "v", false, "count the answers of each round by operation and status")
	flag.BoolVar(&s.skew, "skew", false,
		"build binaries with clocks 0.8 s ahead and behind, for all rounds, and 90 s ahead, for one; takes minutes")
	flag.StringVar(&s.skewDir, "skew-dir", "",
		"absolute path of a directory in which -skew keeps its binaries for the next run; empty is a temporary one")
	flag.BoolVar(&s.control, "control", false,
		"start processes that know nothing of each other, and require that the run fails")
	flag.Parse()
	again, err := inNamespaces(&s)
	if again {
		code, err := netns.Run()
		if err != nil {
			fmt.Fprintln(os.Stderr, "cluster:", err)
		}
		os.Exit(code)
	}
	if err == nil {
		err = run(&s)
	}
	if s.control {
		err = failed(err)
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "cluster: FAIL (seed %d): %v\n", s.seed, err)
		os.Exit(1)
	}
}

// includes reports whether the flags name a fault.
func (s *settings) includes(fault string) bool {
	for _, part := range strings.Split(s.only, "|") {
		if strings.Contains(fault, part) {
			return true
		}
	}
	return false
}

// failed returns an error unless a run failed because a history was not linearizable.
func failed(err error) error {
	if err == nil {
		return errors.New("the processes know nothing of each other, and the run did not find it")
	}
	if !strings.Contains(err.Error(), "not linearizable") {
		return err
	}
	fmt.Println("cluster: the history of processes that know nothing of each other is not linearizable, as it must be")
	return nil
}

func run(s *settings) (err error) {
	dir, err := os.MkdirTemp("", "pulsegate-cluster-")
	if err != nil {
		return err
	}
	defer func() {
		if err := os.RemoveAll(dir); err != nil {
			slog.Warn("clean-up", "error", err)
		}
	}()
	h := &harness{settings: s, dir: dir}
	defer func() {
		if err != nil && !s.control {
			h.logs()
		}
		err = errors.Join(err, h.close())
	}()
	if err := h.start(); err != nil {
		return err
	}
	passed := 0
	for round := range s.rounds {
		for _, f := range h.faults() {
			if !s.includes(f.name) {
				continue
			}
			if err := h.round(&f); err != nil {
				return fmt.Errorf("round %d, %s: %w", round+1, f.title(), err)
			}
			passed++
		}
	}
	if h.stand != nil && !s.control && s.includes(past) {
		if err := h.restorePast(); err != nil {
			return fmt.Errorf("%s: %w", past, err)
		}
		passed++
	}
	if passed == 0 {
		return errors.New("no fault has such a name")
	}
	if err := h.verify(); err != nil {
		return err
	}
	fmt.Printf("cluster: %d operations done, %d refused, %d unknown; %d creations, each there once; "+
		"all histories linearizable, all processes equal\n%d passed, 0 failed\n",
		h.done, h.refused, h.unknown, len(h.creations), passed)
	return nil
}
