package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"path/filepath"
	"strconv"
	"sync/atomic"
	"time"

	"pulsegate/conformance/blackbox"
	"pulsegate/conformance/clusterrun"
)

// node is one server process. Proxies are between it and its servers, unless these are
// not the harness's own.
type node struct {
	harness            *harness
	name, listen, peer string
	mongodb, redis     string // as the process reaches them
	toMongoDB, toRedis *proxy // may be nil
	toPeer             *proxy // through which the others reach the process
	http               *http.Client
	up                 atomic.Bool
	server             *blackbox.Server // changed by restarts only, while up is false
	acknowledged       atomic.Int64     // operations
}

func (n *node) data() string { return filepath.Join(n.harness.dir, n.name) }

// newNode prepares a process.
func (h *harness) newNode(i int) (*node, error) {
	n := &node{harness: h, name: fmt.Sprintf("node-%d", i+1), mongodb: h.settings.mongodb, redis: h.settings.redis}
	for _, addr := range []*string{&n.listen, &n.peer} {
		port, err := blackbox.FreePort()
		if err != nil {
			return nil, err
		}
		*addr = "127.0.0.1:" + strconv.Itoa(port)
	}
	var err error
	if h.stand != nil {
		if n.toMongoDB, err = newProxy(h.stand.Addr()); err != nil {
			return nil, err
		}
		n.mongodb = "mongodb://" + n.toMongoDB.addr() + "/" + clusterrun.Database
	}
	if h.redis != nil {
		if n.toRedis, err = newProxy(h.redis.Addr()); err != nil {
			return nil, err
		}
		n.redis = "redis://" + n.toRedis.addr()
	}
	if n.toPeer, err = newProxy(n.peer); err != nil {
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
	env := append([]string{"PULSEGATE_BASE_URL=" + base, "PULSEGATE_EGRESS_ALLOW=127.0.0.0/8",
		"PULSEGATE_METRICS_LISTEN=127.0.0.1:0"}, n.harness.settings.env...)
	if !n.harness.settings.control {
		m := clusterrun.Member{Name: n.name, MongoDB: n.mongodb, PasswordFile: n.harness.password,
			Standalone: n.harness.stand != nil, Redis: n.redis, KeyFile: n.harness.key, PeerListen: n.peer,
			PeerAddress: n.toPeer.addr()}
		env = append(env, m.Env()...)
	}
	var err error
	if n.server, err = blackbox.StartWith(n.harness.settings.bin, n.data(), n.listen, env); err != nil {
		return fmt.Errorf("%s: %w", n.name, err)
	}
	n.up.Store(true)
	return n.ready()
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
	return fmt.Errorf("%s is not ready after a minute: %w", n.name, last)
}

// close ends everything that the harness started.
func (h *harness) close() error {
	var errs []error
	for _, n := range h.nodes {
		if n.up.Load() {
			errs = append(errs, n.kill())
		}
		for _, p := range []*proxy{n.toMongoDB, n.toRedis, n.toPeer} {
			if p != nil {
				errs = append(errs, p.close())
			}
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
	return errors.Join(errs...)
}
