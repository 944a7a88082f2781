package main

import (
	"net"
	"sync"
	"time"
)

// mode is the state of the network between a process and a server.
type mode int

const (
	pass mode = iota
	cut       // connections are closed, and new ones at once
	hold      // bytes wait
)

// proxy forwards TCP connections to a server over a network that a test controls.
type proxy struct {
	listener net.Listener
	target   string

	// mu guards the fields below.
	mu      sync.Mutex
	mode    mode
	delay   time.Duration // of each piece of data
	changed chan struct{} // closed, and replaced, when the mode changes
	conns   map[net.Conn]struct{}
}

// newProxy listens on a free port of the loopback interface and forwards to target.
func newProxy(target string) (*proxy, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	p := &proxy{listener: l, target: target, changed: make(chan struct{}), conns: map[net.Conn]struct{}{}}
	go p.accept()
	return p, nil
}

func (p *proxy) addr() string { return p.listener.Addr().String() }

// set changes the network. Cut also closes the open connections.
func (p *proxy) set(m mode, delay time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.mode, p.delay = m, delay
	close(p.changed)
	p.changed = make(chan struct{})
	if m == cut {
		p.closeAll()
	}
}

func (p *proxy) close() error {
	p.set(cut, 0)
	return p.listener.Close()
}

func (p *proxy) closeAll() {
	for c := range p.conns {
		_ = c.Close()
	}
	clear(p.conns)
}

func (p *proxy) accept() {
	for {
		from, err := p.listener.Accept()
		if err != nil {
			return
		}
		go p.connect(from)
	}
}

func (p *proxy) connect(from net.Conn) {
	if !p.keep(from) {
		return
	}
	to, err := net.DialTimeout("tcp", p.target, 5*time.Second)
	if err != nil {
		_ = from.Close()
		return
	}
	if !p.keep(to) {
		_ = from.Close()
		return
	}
	go p.forward(from, to)
	p.forward(to, from)
}

// keep remembers a connection, or closes it if the network is cut.
func (p *proxy) keep(c net.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.mode == cut {
		_ = c.Close()
		return false
	}
	p.conns[c] = struct{}{}
	return true
}

// forward copies what arrives, when the network lets it pass. At the end of one
// direction, it closes both.
func (p *proxy) forward(from, to net.Conn) {
	defer func() {
		_ = from.Close()
		_ = to.Close()
		p.mu.Lock()
		defer p.mu.Unlock()
		delete(p.conns, from)
		delete(p.conns, to)
	}()
	b := make([]byte, 64<<10)
	for {
		n, err := from.Read(b)
		if n > 0 && p.wait() {
			if _, err := to.Write(b[:n]); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}

// wait returns true when the network lets data pass, and false if it was cut.
func (p *proxy) wait() bool {
	for {
		p.mu.Lock()
		m, delay, changed := p.mode, p.delay, p.changed
		p.mu.Unlock()
		switch m {
		case cut:
			return false
		case pass:
			time.Sleep(delay)
			return true
		}
		<-changed
	}
}
