package main

import (
	"errors"
	"fmt"
	"net/netip"
	"time"

	"pulsegate/conformance/cluster/netns"
	"pulsegate/conformance/clusterrun"
)

// spaces is a network in which each process and each server has a namespace of its own.
type spaces struct {
	net     *netns.Network
	of      map[string]*netns.Namespace
	address map[string]netip.Addr
	listen  map[string]string // by party: address of the listener for other parties
}

// newSpaces returns a network with the clients, who are in this process's namespace.
func newSpaces(seed uint64) (*spaces, error) {
	n, err := netns.New(seed)
	if err != nil {
		return nil, err
	}
	s := &spaces{net: n, of: map[string]*netns.Namespace{}, address: map[string]netip.Addr{},
		listen: map[string]string{}}
	return s, n.Here(s.next(clients))
}

// next gives a party an address.
func (s *spaces) next(party string) netip.Addr {
	addr := netip.AddrFrom4([4]byte{10, 77, 0, byte(len(s.address) + 1)})
	s.address[party] = addr
	return addr
}

func (s *spaces) place(party string) (clusterrun.Place, error) {
	space := s.of[party]
	if space == nil {
		var err error
		if space, err = s.net.Add(s.next(party)); err != nil {
			return clusterrun.Place{}, err
		}
		s.of[party] = space
	}
	return clusterrun.Place{IP: space.Addr.String(), Do: space.Do}, nil
}

func (s *spaces) reach(_, to, addr string) (string, error) {
	s.listen[to] = addr
	return addr, nil
}

func (s *spaces) close() error { return s.net.Close() }

// way is the network from one party to another, in which packets are lost or late.
type way struct{ from, to string }

// both returns the ways between parties in both directions.
func both(from string, to ...string) (out []way) {
	for _, t := range to {
		out = append(out, way{from, t}, way{t, from})
	}
	return out
}

// set sets the condition of ways.
func (s *spaces) set(c netns.Condition, ways ...way) {
	for _, w := range ways {
		s.net.Set(s.address[w.from], s.address[w.to], c)
	}
}

// connects connects from one party to another.
func (s *spaces) connects(from, to string) error {
	c, err := s.of[from].Dial(s.listen[to], probeTime)
	if err != nil {
		return err
	}
	return c.Close()
}

// peers returns the names of the other processes.
func (h *harness) peers(n *node) (out []string) {
	for _, m := range h.nodes {
		if m != n {
			out = append(out, m.name)
		}
	}
	return out
}

// cutWays drops packets for longer than a process waits for any answer. A connection
// from the process at to probe is impossible meanwhile. If hit is not nil, the fault
// strikes only that process.
func (s *spaces) cutWays(h *harness, hit, at *node, probe string, ways ...way) error {
	dropped := func(w way) int { return s.net.Counts(s.address[w.from], s.address[w.to]).Dropped }
	before := 0
	for _, w := range ways {
		before += dropped(w)
	}
	err := h.during(hit, h.settings.lease, func() error { return s.connects(at.name, probe) }, func(on bool) error {
		s.set(netns.Condition{Cut: on}, ways...)
		return nil
	})
	after := 0
	for _, w := range ways {
		after += dropped(w)
	}
	if err == nil && after == before {
		err = errors.New("the network dropped no packet")
	}
	return err
}

// slow delays and loses packets for a while. A connection takes longer than the delay.
func (s *spaces) slow(h *harness, c netns.Condition, probe string, ways ...way) func(*node) error {
	return func(*node) error {
		s.set(c, ways...)
		begin := time.Now()
		if err := s.connects(h.nodes[0].name, probe); err == nil && time.Since(begin) < c.Delay {
			return errors.New("the network delays nothing")
		}
		time.Sleep(h.settings.length - time.Since(begin))
		s.set(netns.Condition{}, ways...)
		return nil
	}
}

func (s *spaces) faults(h *harness) []fault {
	var out []fault
	cut := func(name string, hit *node, pick func() *node, probe func(*node) string, ways func(*node) []way) {
		out = append(out, fault{name: name, hit: hit, pick: pick,
			run: func(n *node) error { return s.cutWays(h, n, n, probe(n), ways(n)...) }})
	}
	to := func(party string) func(*node) string { return func(*node) string { return party } }
	peer := func(n *node) string { return h.peers(n)[0] }
	between := func(parties ...string) func(*node) []way {
		return func(n *node) []way { return both(n.name, parties...) }
	}
	all := func(n *node) []string { return append(h.peers(n), h.servers()...) }
	if h.stand != nil {
		cut("cut from MongoDB", h.any(), nil, to(mongodb), between(mongodb))
		cut("requests to MongoDB are lost", h.any(), nil, to(mongodb),
			func(n *node) []way { return []way{{n.name, mongodb}} })
		cut("answers of MongoDB are lost", h.any(), nil, to(mongodb),
			func(n *node) []way { return []way{{mongodb, n.name}} })
		cut("cut from all servers and processes", h.any(), nil, to(mongodb),
			func(n *node) []way { return both(n.name, all(n)...) })
	}
	if h.redis != nil {
		cut("cut from Redis", h.any(), nil, to(redis), between(redis))
	}
	if len(h.nodes) > 1 && h.redis != nil { // else they do not connect to each other
		cut("cut from its peers", h.any(), nil, peer, func(n *node) []way { return both(n.name, h.peers(n)...) })
		cut("packets to its peers are lost", h.any(), nil, peer, func(n *node) (out []way) {
			for _, p := range h.peers(n) {
				out = append(out, way{n.name, p})
			}
			return out
		})
		out = append(out, fault{name: "peers cannot reach each other", run: func(*node) error {
			var ways []way
			for _, n := range h.nodes {
				ways = append(ways, both(n.name, h.peers(n)...)...)
			}
			return s.cutWays(h, nil, h.nodes[0], h.nodes[1].name, ways...)
		}})
		cut("cut of the sequencer from MongoDB", nil, h.sequencer, to(mongodb), between(mongodb))
		cut("cut of the sequencer from Redis", nil, h.sequencer, to(redis), between(redis))
		cut("cut of the sequencer from its peers", nil, h.sequencer, peer,
			func(n *node) []way { return both(n.name, h.peers(n)...) })
	}
	out = append(out, fault{name: "interface is down", hit: h.any(), run: s.down(h)})
	var everywhere []way
	for _, n := range h.nodes {
		everywhere = append(everywhere, both(n.name, all(n)...)...)
	}
	return append(out,
		fault{name: "network loses and delays everywhere",
			run: s.slow(h, netns.Condition{Delay: 10 * time.Millisecond, Loss: 0.03}, h.servers()[0], everywhere...)},
		fault{name: "slow network to MongoDB", run: s.slow(h, netns.Condition{Delay: 25 * time.Millisecond}, mongodb,
			h.toMongoDB()...)})
}

// toMongoDB returns the ways between all processes and MongoDB.
func (h *harness) toMongoDB() (out []way) {
	for _, n := range h.nodes {
		out = append(out, both(n.name, mongodb)...)
	}
	return out
}

// servers returns the servers that the harness started.
func (h *harness) servers() (out []string) {
	if h.stand != nil {
		out = append(out, mongodb)
	}
	if h.redis != nil {
		out = append(out, redis)
	}
	return out
}

// down sets the only interface of a process down for a while.
func (s *spaces) down(h *harness) func(*node) error {
	return func(n *node) error {
		space := s.of[n.name]
		if space == nil {
			return fmt.Errorf("%s has no namespace", n.name)
		}
		return h.during(n, h.settings.lease, func() error { return s.connects(n.name, h.servers()[0]) },
			func(on bool) error { return space.Link(!on) })
	}
}
