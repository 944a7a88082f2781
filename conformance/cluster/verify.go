package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"pulsegate/conformance/cluster/dump"
	"pulsegate/fhir/store/pebblestore"
	"pulsegate/fhir/store/sharedlog"
	"pulsegate/fhir/store/sharedlog/mongolog"
)

// verify checks the processes and the log after the last round.
func (h *harness) verify() error {
	if err := h.verifyExpiry(); err != nil {
		return err
	}
	for _, n := range h.nodes {
		if err := h.verifyCreations(n); err != nil {
			return fmt.Errorf("%s: %w", n.name, err)
		}
		for _, command := range [][]string{{"audit", "verify"}, {"store", "check"}} {
			if err := n.server.Run(nil, command...); err != nil {
				return fmt.Errorf("%s: %w", n.name, err)
			}
		}
	}
	for _, n := range h.nodes {
		if err := n.stop(); err != nil {
			return err
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	log, err := h.openLog(ctx)
	if err != nil {
		return err
	}
	return errors.Join(h.verifyLog(ctx, log), h.verifyEqual(ctx, log), log.Close(ctx))
}

// openLog opens the log of the cluster.
func (h *harness) openLog(ctx context.Context) (*mongolog.Log, error) {
	if h.stand != nil {
		return mongolog.Open(ctx, mongolog.Options{URI: h.stand.URI(), Standalone: true})
	}
	password := ""
	if h.password != "" {
		b, err := os.ReadFile(h.password)
		if err != nil {
			return nil, err
		}
		password = strings.TrimSuffix(string(b), "\n")
	}
	return mongolog.Open(ctx, mongolog.Options{URI: h.settings.mongodb, Password: password})
}

// verifyCreations checks that each acknowledged creation is there once, and each other
// one at most once.
func (h *harness) verifyCreations(n *node) error {
	c, err := h.client(n)
	if err != nil {
		return err
	}
	found, err := c.Search("Observation?code=55423-8&_count=1000&patient=" + h.patients[0])
	if err != nil {
		return err
	}
	count := map[string]int{}
	for _, r := range found {
		raw, err := json.Marshal(r)
		if err != nil {
			return err
		}
		count[identifierOf(raw)]++
	}
	for name, acknowledged := range h.creations {
		if k := count[name]; k > 1 || acknowledged && k == 0 {
			return fmt.Errorf("%s (acknowledged: %t) is there %d times", name, acknowledged, k)
		}
		delete(count, name)
	}
	for name := range count {
		if strings.HasPrefix(name, "creation-") {
			return fmt.Errorf("%s was never sent", name)
		}
	}
	return nil
}

// verifyLog checks that the sequence numbers of the valid entries have no gaps. It
// does nothing if the log was truncated.
func (h *harness) verifyLog(ctx context.Context, log sharedlog.Log) error {
	first, last, err := log.Bounds(ctx)
	if err != nil || first != 1 {
		return err
	}
	var at sharedlog.Position
	var wrong error
	next, void := uint64(1), 0
	err = log.Read(ctx, at, func(e *sharedlog.Entry, sum sharedlog.Hash) bool {
		var valid bool
		if at, valid = at.Next(e, sum); !valid {
			void++
			return true
		}
		if e.First != next {
			wrong = fmt.Errorf("the entry at %d begins with T %d, want %d", e.Index, e.First, next)
		}
		next = e.First + e.Count
		return wrong == nil
	})
	if err := errors.Join(err, wrong); err != nil {
		return err
	}
	if at.Index != last {
		return fmt.Errorf("the log has a gap after %d and ends at %d", at.Index, last)
	}
	fmt.Printf("cluster: %d entries in the log, %d of them void, T 1 to %d without gaps\n", last, void, next-1)
	return nil
}

// verifyEqual opens the stores of all processes and compares them.
func (h *harness) verifyEqual(ctx context.Context, log sharedlog.Log) error {
	identity, err := log.Identity(ctx)
	if err != nil {
		return err
	}
	var first string
	for _, n := range h.nodes {
		got, err := h.dump(ctx, n, log, identity)
		if err != nil {
			return fmt.Errorf("the store of %s: %w", n.name, err)
		}
		if first == "" {
			first = got
		} else if got != first {
			return fmt.Errorf("the stores of %s and %s differ: %s", h.nodes[0].name, n.name,
				dump.Difference(first, got))
		}
	}
	return nil
}

// dump returns the content of the store of a process that has ended, as of the end of
// the log.
func (h *harness) dump(ctx context.Context, n *node, log sharedlog.Log, identity sharedlog.Identity) (string, error) {
	db, err := pebblestore.Open(filepath.Join(n.data(), "store"), pebblestore.Options{
		Shared: &pebblestore.Shared{Log: log, Node: "verify", Identity: identity}})
	if err != nil {
		return "", err
	}
	out, err := "", db.Sync(ctx)
	if err == nil {
		if out, err = dump.Of(ctx, db); err == nil {
			err = inOrder(ctx, db)
		}
	}
	return out, errors.Join(err, db.Close())
}
