package main

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"strings"
	"time"

	"pulsegate/conformance/clusterrun"
)

// past is the name of the fault that restorePast is.
const past = "restore to the past"

// restorePast restores MongoDB from a backup, as an operator would: the processes refuse
// to start with what the log no longer has, until the operator lets them go on. What was
// acknowledged before the backup is there at all of them, and nothing else.
func (h *harness) restorePast() error {
	var status struct{ Cluster string }
	if err := h.nodes[0].server.Run(&status, "cluster", "status"); err != nil {
		return err
	}
	if err := h.stand.Stop(); err != nil {
		return err
	}
	backup := h.stand.Dir() + ".backup"
	if err := errors.Join(os.CopyFS(backup, os.DirFS(h.stand.Dir())), h.stand.Start()); err != nil {
		return err
	}
	kept := maps.Clone(h.creations)
	for _, n := range h.nodes {
		if err := errors.Join(n.ready(), h.writable(n)); err != nil {
			return err
		}
	}
	late := len(h.creations) - len(kept)
	for _, n := range h.nodes {
		if err := n.stop(); err != nil {
			return err
		}
	}
	if err := h.stand.Stop(); err != nil {
		return err
	}
	if err := errors.Join(os.RemoveAll(h.stand.Dir()), os.Rename(backup, h.stand.Dir()), h.stand.Start()); err != nil {
		return err
	}
	for _, n := range h.nodes {
		if err := n.launch(); err == nil {
			return fmt.Errorf("%s starts with a state that the log no longer has", n.name)
		}
	}
	if err := h.nodes[0].operator("cluster", "restore", "--cluster", status.Cluster); err != nil {
		return err
	}
	for _, n := range h.nodes {
		if err := errors.Join(n.operator("recover", "audit-log"), n.start()); err != nil {
			return err
		}
	}
	h.creations, h.until = kept, time.Time{}
	for _, n := range h.nodes {
		if err := h.writable(n); err != nil {
			return err
		}
		if err := h.verifyCreations(n); err != nil {
			return fmt.Errorf("%s: %w", n.name, err)
		}
	}
	fmt.Printf("cluster: %-48s %5d creations kept, %d after the backup lost, at all processes\n", past, len(kept), late)
	return nil
}

// stop drains and ends the process.
func (n *node) stop() error {
	n.up.Store(false)
	if err := n.server.Stop(); err != nil {
		return fmt.Errorf("stopping %s: %w", n.name, err)
	}
	return nil
}

// operator runs a command for the data directory of a process that has ended.
func (n *node) operator(args ...string) error {
	c := exec.Command(n.bin, append(args, "--data", n.data())...)
	c.Env = append(os.Environ(), n.environment()...)
	var out []byte
	err := n.place.Do(func() (err error) { out, err = c.CombinedOutput(); return err })
	if err != nil {
		return fmt.Errorf("pulsegate %s: %w: %s", strings.Join(args, " "), err, out)
	}
	return nil
}

// environment returns the settings of the process.
func (n *node) environment() []string {
	env := append([]string{"PULSEGATE_BASE_URL=" + base, "PULSEGATE_EGRESS_ALLOW=127.0.0.0/8",
		"PULSEGATE_METRICS_LISTEN=" + n.place.IP + ":0"}, n.harness.settings.env...)
	if n.harness.settings.control {
		return env
	}
	m := clusterrun.Member{Name: n.name, MongoDB: n.mongodb, PasswordFile: n.harness.password,
		Standalone: n.harness.stand != nil, Redis: n.redis, KeyFile: n.harness.key, PeerListen: n.peer,
		PeerAddress: n.peerAddress}
	return append(env, m.Env()...)
}
