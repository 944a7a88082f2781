package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	"pulsegate/conformance/cluster/netns"
	"pulsegate/conformance/clusterrun"
)

// Parties of the network, besides the processes, which have their own names.
const (
	mongodb = "MongoDB"
	redis   = "Redis"
	clients = "clients"
)

// network connects the processes and their servers, and disturbs the connections.
type network interface {
	// place returns where a party runs.
	place(party string) (clusterrun.Place, error)
	// reach returns the address at which a party reaches another, which listens at addr.
	// An empty from stands for every process.
	reach(from, to, addr string) (string, error)
	// faults returns the faults of the network between the processes and the servers
	// that the harness started.
	faults(h *harness) []fault
	close() error
}

// chooseNetwork returns namespaces where the system allows them, and else proxies.
func (h *harness) chooseNetwork() error {
	if !netns.Inside() {
		h.network = &proxies{}
		return nil
	}
	n, err := newSpaces(h.settings.seed)
	h.network = n
	return err
}

// inNamespaces reports whether the program must run again in namespaces. It prints why
// it does without them.
func inNamespaces(s *settings) (bool, error) {
	var why error
	switch {
	case netns.Inside():
		return false, nil
	case s.network == "proxies":
		why = errors.New("as told")
	case s.network != "auto" && s.network != "namespaces":
		return false, fmt.Errorf("-network: %q is neither auto, namespaces nor proxies", s.network)
	case s.mongodb != "" || s.redis != "" && s.redis != "none":
		why = errors.New("given servers are in this host's network")
	default:
		why = netns.Probe()
	}
	if why == nil {
		fmt.Println("cluster: each process has a network namespace of its own")
		// A namespace has no network from which the stand-in could be built.
		_, err := clusterrun.BuildStandIn()
		return true, err
	}
	if s.network == "namespaces" {
		return false, fmt.Errorf("-network namespaces: %w", why)
	}
	fmt.Printf("cluster: faults of the network are those of proxies: %v\n", why)
	return false, nil
}

// during keeps a fault of the network for a while. A connection that the fault prevents
// must be possible before and after it, and impossible during it.
func (h *harness) during(hit *node, length time.Duration, connects func() error, set func(on bool) error) error {
	if err := patient(connects); err != nil {
		return fmt.Errorf("before the fault: %w", err)
	}
	if err := set(true); err != nil {
		return err
	}
	connected := connects() == nil
	if err := errors.Join(h.outlast(hit, length), set(false)); err != nil {
		return err
	}
	if connected {
		return errors.New("the fault lets a connection pass")
	}
	if err := patient(connects); err != nil {
		return fmt.Errorf("after the fault: %w", err)
	}
	return nil
}

// patient calls connects until it succeeds.
func patient(connects func() error) (err error) {
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(100 * time.Millisecond) {
		if err = connects(); err == nil {
			return nil
		}
	}
	return err
}

// probeTime is the time in which a connection must be there.
const probeTime = time.Second

// idle requires that a connection stays open although it sends nothing, and closes it.
// A proxy that is cut closes it immediately.
func idle(c net.Conn) error {
	defer func() { _ = c.Close() }()
	if err := c.SetReadDeadline(time.Now().Add(probeTime)); err != nil {
		return err
	}
	_, err := c.Read(make([]byte, 1))
	if err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		return nil
	}
	return err
}

// proxies is a network in which a TCP proxy is between each process and each server.
type proxies struct{ between map[[2]string]*proxy }

func (p *proxies) place(string) (clusterrun.Place, error) { return clusterrun.Loopback, nil }

func (p *proxies) reach(from, to, addr string) (string, error) {
	if p.between == nil {
		p.between = map[[2]string]*proxy{}
	}
	x, err := newProxy(addr)
	if err != nil {
		return "", err
	}
	p.between[[2]string{from, to}] = x
	return x.addr(), nil
}

func (p *proxies) close() error {
	var errs []error
	for _, x := range p.between {
		errs = append(errs, x.close())
	}
	return errors.Join(errs...)
}

func (p *proxies) faults(h *harness) []fault {
	all := func(to string) (out []*proxy) {
		for _, n := range h.nodes {
			out = append(out, p.between[[2]string{n.name, to}])
		}
		return out
	}
	var toPeers []*proxy
	for _, n := range h.nodes {
		toPeers = append(toPeers, p.between[[2]string{"", n.name}])
	}
	out := []fault{{name: "peers cannot reach each other", run: h.cutProxies(toPeers...)}}
	if h.stand != nil {
		n, m := h.any(), h.any()
		out = append(out,
			fault{name: "cut from MongoDB", hit: n, run: h.cutProxies(p.between[[2]string{n.name, mongodb}])},
			fault{name: "network holds bytes to MongoDB", hit: m,
				run: h.changed(hold, 0, p.between[[2]string{m.name, mongodb}])},
			fault{name: "slow network to MongoDB", run: h.changed(pass, 50*time.Millisecond, all(mongodb)...)})
	}
	if h.redis != nil {
		n := h.any()
		out = append(out, fault{name: "cut from Redis", hit: n, run: h.cutProxies(p.between[[2]string{n.name, redis}])})
	}
	return out
}

// cutProxies closes the connections of proxies for a while.
func (h *harness) cutProxies(of ...*proxy) func(*node) error {
	return func(hit *node) error {
		connects := func() error {
			c, err := net.DialTimeout("tcp", of[0].addr(), probeTime)
			if err != nil {
				return err
			}
			return idle(c)
		}
		return h.during(hit, h.settings.length, connects, func(on bool) error {
			for _, p := range of {
				p.set(map[bool]mode{true: cut, false: pass}[on], 0)
			}
			return nil
		})
	}
}

// changed changes the network of proxies for a while.
func (h *harness) changed(m mode, delay time.Duration, of ...*proxy) func(*node) error {
	return func(hit *node) error {
		for _, p := range of {
			p.set(m, delay)
		}
		err := h.outlast(hit, h.settings.length)
		for _, p := range of {
			p.set(pass, 0)
		}
		return err
	}
}
