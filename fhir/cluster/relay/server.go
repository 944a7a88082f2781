package relay

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"pulsegate/fhir"
	"pulsegate/fhir/cluster/relay/internal/wire"
	"pulsegate/fhir/store/sharedlog"
)

// Bounds of a Server.
const (
	maxPeers    = 64
	maxCalls    = 4096      // in progress, of all peers
	maxInflight = 256 << 20 // bytes of their batches
	// idle is the time without a frame after which a connection is closed. Clients send
	// pings more often.
	idle = time.Minute
	// handshake bounds the time until a peer has authenticated itself.
	handshake = 5 * time.Second
	// maxAge is the age of a batch from which it is not committed. It is far below
	// store.BatchMemory, so that a batch which was on its way while this process was
	// suspended is not committed after its ID was forgotten.
	maxAge = 2 * time.Minute
)

// Server commits the batches of other processes. It is safe for concurrent use.
type Server struct {
	store    *Store
	instance string
	trust    *Trust
	codec    *wire.Codec
	clock    func() time.Time
	logger   *slog.Logger

	ctx      context.Context // ends with Close
	cancel   context.CancelFunc
	tasks    sync.WaitGroup
	draining atomic.Bool
	calls    atomic.Int64
	inflight atomic.Int64

	takeAll bool // also batches without an ID; for a control of tests

	mu    sync.Mutex
	peers map[net.Conn]struct{} // nil after Close
	pipes map[*pipe]struct{}    // of the peers that have authenticated themselves
}

// NewServer returns the peer listener of a store.
func NewServer(s *Store) *Server {
	srv := &Server{store: s, instance: s.opts.Instance, trust: s.opts.Trust, codec: s.codec, clock: s.opts.Clock,
		logger: s.opts.Logger, peers: map[net.Conn]struct{}{}, pipes: map[*pipe]struct{}{}}
	if l, ok := s.opts.Local.(entries); ok && !s.opts.withholdEntries {
		l.Landed(srv.share)
	}
	srv.ctx, srv.cancel = context.WithCancel(context.Background())
	return srv
}

// Serve accepts connections until the listener or the server is closed. It returns
// nil after Close.
func (s *Server) Serve(l net.Listener) error {
	stop := context.AfterFunc(s.ctx, func() { _ = l.Close() })
	defer stop()
	for {
		c, err := l.Accept()
		if s.ctx.Err() != nil {
			return nil
		}
		if err != nil {
			var temporary net.Error
			if errors.As(err, &temporary) && temporary.Timeout() {
				continue
			}
			return err
		}
		if !s.admit(c) {
			_ = c.Close()
		}
	}
}

// admit starts to serve a connection unless there are too many.
func (s *Server) admit(c net.Conn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.peers == nil || len(s.peers) >= maxPeers {
		return false
	}
	s.peers[c] = struct{}{}
	s.tasks.Go(func() {
		defer s.remove(c)
		if err := s.serve(c); err != nil {
			s.logger.Debug("a connection of a peer ended", "error", err)
		}
	})
	return true
}

func (s *Server) remove(c net.Conn) {
	_ = c.Close()
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.peers, c)
}

// Drain refuses new batches, which their processes then commit themselves. Batches in
// progress are answered.
func (s *Server) Drain() { s.draining.Store(true) }

// Close ends all connections and waits for the batches in progress.
func (s *Server) Close() error {
	s.Drain()
	s.cancel()
	s.mu.Lock()
	for c := range s.peers {
		_ = c.Close()
	}
	s.peers = nil
	s.mu.Unlock()
	s.tasks.Wait()
	return nil
}

// serve reads the frames of a peer.
func (s *Server) serve(plain net.Conn) error {
	ctx, cancel := context.WithTimeout(s.ctx, handshake)
	defer cancel()
	c := tls.Server(plain, s.trust.server())
	if err := c.HandshakeContext(ctx); err != nil {
		return err
	}
	p := newPipe(c, s.clock)
	defer p.close(errClosed)
	s.tasks.Go(p.write)
	p.send(frame{kind: frameHello, payload: []byte(s.instance)})
	defer s.join(p)()
	in := bufio.NewReaderSize(c, bufferSize)
	for {
		if err := c.SetReadDeadline(s.clock().Add(idle)); err != nil {
			return err
		}
		f, err := readFrame(in, maxFrame)
		if err != nil {
			return err
		}
		switch f.kind {
		case framePing:
			p.send(frame{kind: framePong})
		case frameCommit:
			s.accept(p, f)
		default:
			return errFrame
		}
	}
}

// join lets a peer get the entries of the log until leave is called.
func (s *Server) join(p *pipe) (leave func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pipes[p] = struct{}{}
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.pipes, p)
	}
}

const (
	// maxQueued is the number of frames that wait for a peer from which it gets no entries.
	maxQueued = 64
	// maxShared bounds the rows of an entry that is sent, in bytes.
	maxShared = 256 << 10
)

// share sends an entry of the log to all peers. A peer that is slow reads the entry from
// the log.
func (s *Server) share(e *sharedlog.Entry) {
	if len(e.Rows) > maxShared {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.pipes) == 0 {
		return
	}
	f := frame{kind: frameEntry, payload: wire.AppendEntry(make([]byte, 0, len(e.Rows)+256), e)}
	for p := range s.pipes {
		if len(p.out) >= maxQueued {
			continue
		}
		select {
		case p.out <- f:
		default:
		}
	}
}

// accept commits the batch of a frame on a goroutine of its own, unless there are too
// many.
func (s *Server) accept(p *pipe, f frame) {
	size := int64(len(f.payload))
	calls, inflight := s.calls.Add(1), s.inflight.Add(size)
	done := func() { s.calls.Add(-1); s.inflight.Add(-size) }
	if s.draining.Load() || calls > maxCalls || inflight > maxInflight {
		done()
		p.send(frame{kind: frameBusy, call: f.call})
		return
	}
	s.tasks.Go(func() {
		defer done()
		p.send(s.commit(f))
	})
}

// commit commits the batch of a frame and returns the answer.
func (s *Server) commit(f frame) frame {
	busy := frame{kind: frameBusy, call: f.call}
	sent, n := binary.Uvarint(f.payload)
	if n <= 0 {
		return busy
	}
	if age := s.clock().Sub(time.UnixMilli(int64(sent))); age > maxAge || age < -maxAge {
		return busy
	}
	b, err := s.codec.DecodeBatch(f.payload[n:])
	if err != nil || b.ID == ([16]byte{}) && !s.takeAll {
		s.logger.Error("a batch of a peer cannot be decoded", "error", err)
		return busy
	}
	r, err := s.store.commitHere(s.ctx, b)
	if err != nil && temporary(err) {
		return busy // the batch may have been written; its process finds out by its ID
	}
	answer := frame{kind: frameResult, call: f.call,
		payload: binary.AppendUvarint(make([]byte, 0, 64), uint64(s.store.LastSeq()))}
	if err != nil {
		answer.kind = frameRefusal
		answer.payload = wire.AppendError(answer.payload, err)
		return answer
	}
	answer.payload = wire.AppendResult(answer.payload, &r)
	return answer
}

// temporary reports whether an error says something of this process rather than of
// the batch.
func temporary(err error) bool {
	switch fhir.KindOf(err) {
	case fhir.Unavailable, fhir.NoSpace, fhir.TooMany, fhir.Internal:
		return true
	}
	return false
}
