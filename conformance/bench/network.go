package main

import (
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// network forwards TCP connections to a server and delays what they carry, as a
// longer way to the server would: each byte arrives half a round trip after it was
// sent, however many others are under way. Opening a connection takes no time.
type network struct {
	listener  net.Listener
	target    string
	roundTrip atomic.Int64 // nanoseconds

	mu     sync.Mutex // guards the fields below
	closed bool
	conns  map[net.Conn]struct{}
	open   sync.WaitGroup
}

// newNetwork listens on a free port of the loopback interface and forwards to target.
func newNetwork(target string) (*network, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	n := &network{listener: l, target: target, conns: map[net.Conn]struct{}{}}
	n.open.Go(n.accept)
	return n, nil
}

func (n *network) addr() string { return n.listener.Addr().String() }

// set changes the time of a round trip. It applies to what is sent from now on.
func (n *network) set(roundTrip time.Duration) { n.roundTrip.Store(int64(roundTrip)) }

// oneWay returns the delay in one direction.
func (n *network) oneWay() time.Duration { return time.Duration(n.roundTrip.Load()) / 2 }

// close ends all connections.
func (n *network) close() error {
	err := n.listener.Close()
	n.mu.Lock()
	n.closed = true
	for c := range n.conns {
		_ = c.Close()
	}
	n.mu.Unlock()
	n.open.Wait()
	return err
}

func (n *network) accept() {
	for {
		from, err := n.listener.Accept()
		if err != nil {
			return // the listener was closed
		}
		n.open.Go(func() { n.connect(from) })
	}
}

func (n *network) connect(from net.Conn) {
	to, err := net.DialTimeout("tcp", n.target, 5*time.Second)
	if err != nil {
		_ = from.Close()
		return
	}
	n.mu.Lock()
	if n.closed {
		_, _ = from.Close(), to.Close()
	}
	n.conns[from], n.conns[to] = struct{}{}, struct{}{}
	n.mu.Unlock()
	var both sync.WaitGroup
	both.Go(func() { _ = carry(to, from, n.oneWay) })
	both.Go(func() { _ = carry(from, to, n.oneWay) })
	both.Wait() // an error ends the connection, which the process at its end reports
	n.mu.Lock()
	delete(n.conns, from)
	delete(n.conns, to)
	n.mu.Unlock()
}

// A direction of a connection holds at most underWay pieces of at most pieceBytes.
const (
	pieceBytes = 64 << 10
	underWay   = 1024
)

// piece is data under way.
type piece struct {
	data []byte
	due  time.Time
}

// carry copies from one connection to another, each piece the delay after it was read,
// and then closes both. It reads while earlier pieces wait, so that the delay does not
// limit the throughput.
func carry(to, from net.Conn, delay func() time.Duration) error {
	way := make(chan piece, underWay)
	var written error
	var writing sync.WaitGroup
	writing.Go(func() {
		for p := range way {
			if written != nil {
				continue // the reader must not wait
			}
			if wait := time.Until(p.due); wait > 0 {
				time.Sleep(wait)
			}
			if _, written = to.Write(p.data); written != nil {
				_ = from.Close()
			}
		}
	})
	var err error
	buf := make([]byte, pieceBytes)
	for err == nil {
		var n int
		if n, err = from.Read(buf); n > 0 {
			way <- piece{append([]byte(nil), buf[:n]...), time.Now().Add(delay())}
		}
	}
	close(way)
	writing.Wait()
	_, _ = to.Close(), from.Close()
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return errors.Join(err, written)
}
