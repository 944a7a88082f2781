package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"path/filepath"
	"sync/atomic"
	"time"

	"pulsegate/conformance/blackbox"
	"pulsegate/conformance/clusterrun"
)

// node is one server process.
type node struct {
	harness        *harness
	name, bin      string
	place          clusterrun.Place
	listen, peer   string // where it listens for clients and for other processes
	peerAddress    string // where the others reach it
	mongodb, redis string // as the process reaches them
	http           *http.Client
	up             atomic.Bool
	server         *blackbox.Server // changed by restarts only, while up is false
	acknowledged   atomic.Int64     // operations
}

func (n *node) data() string { return filepath.Join(n.harness.dir, n.name) }

// newNode prepares a process.
func (h *harness) newNode(i int) (*node, error) {
	n := &node{harness: h, name: fmt.Sprintf("node-%d", i+1), bin: h.binary(i), mongodb: h.settings.mongodb,
		redis: h.settings.redis}
	var err error
	if n.place, err = h.network.place(n.name); err != nil {
		return nil, err
	}
	for _, addr := range []*string{&n.listen, &n.peer} {
		if *addr, err = n.place.Free(); err != nil {
			return nil, err
		}
	}
	if h.stand != nil {
		addr, err := h.network.reach(n.name, mongodb, h.stand.Addr())
		if err != nil {
			return nil, err
		}
		n.mongodb = "mongodb://" + addr + "/" + clusterrun.Database
	}
	if h.redis != nil {
		addr, err := h.network.reach(n.name, redis, h.redis.Addr())
		if err != nil {
			return nil, err
		}
		n.redis = "redis://" + addr
	}
	if n.peerAddress, err = h.network.reach("", n.name, n.peer); err != nil {
		return nil, err
	}
	// All processes have one base URL. The client chooses the process.
	dialer := net.Dialer{Timeout: 5 * time.Second}
	n.http = &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{MaxIdleConnsPerHost: 16,
		DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return dialer.DialContext(ctx, network, n.listen)
		}}}
	return n, nil
}

// start starts the process and waits until it is ready.
func (n *node) start() error {
	if err := n.launch(); err != nil {
		return err
	}
	return n.ready()
}

// launch starts the process.
func (n *node) launch() error {
	err := n.place.Do(func() (err error) {
		n.server, err = blackbox.StartWith(n.bin, n.data(), n.listen, n.environment())
		return err
	})
	if err != nil {
		return fmt.Errorf("%s: %w", n.name, err)
	}
	n.up.Store(true)
	return nil
}

// kill ends the process with SIGKILL.
func (n *node) kill() error {
	n.up.Store(false)
	return n.server.Kill()
}

// ready waits until the process says that it is ready.
func (n *node) ready() error {
	var last error
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(100 * time.Millisecond) {
		r, err := n.http.Get(base + "/readyz")
		if err != nil {
			last = err
			continue
		}
		_ = r.Body.Close()
		if r.StatusCode == http.StatusOK {
			return nil
		}
		last = fmt.Errorf("status %d", r.StatusCode)
	}
	return fmt.Errorf("%s is not ready after two minutes: %w", n.name, last)
}

// close ends everything that the harness started.
func (h *harness) close() error {
	var errs []error
	for _, n := range h.nodes {
		if n.up.Load() {
			errs = append(errs, n.kill())
		}
	}
	if h.redis != nil {
		errs = append(errs, h.redis.Kill())
	}
	if h.stand != nil {
		errs = append(errs, h.stand.Stop())
	}
	if h.remove != nil {
		errs = append(errs, h.remove())
	}
	if h.network != nil {
		errs = append(errs, h.network.close())
	}
	return errors.Join(errs...)
}
