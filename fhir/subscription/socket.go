package subscription

import (
	"context"
	"errors"
	"strconv"
	"strings"
	"sync"
	"time"

	"pulsegate/fhir"
	"pulsegate/fhir/access"
	"pulsegate/fhir/cluster/follow"
	"pulsegate/fhir/store"
)

// Socket is a WebSocket connection. Read returns the next text message, Ping returns when
// the peer has answered a ping, and therefore has received everything before it.
type Socket interface {
	Read(ctx context.Context) ([]byte, error)
	Write(ctx context.Context, text []byte) error
	Ping(ctx context.Context) error
	// Close tells the peer why the socket is closed. It is called while Read may wait.
	Close(reason error)
}

// Errors of Serve that tell the peer why the socket is closed.
var (
	ErrSocketRefused = errors.New("the message is not understood, or the token is wrong or expired")
	ErrSocketExpired = errors.New("nothing is bound any more")
	ErrSocketsFull   = errors.New("there are too many sockets")
)

const (
	maxSockets       = 2000 // per process
	maxClientSockets = 50   // per client and process
	maxSocketBinds   = 200  // Subscriptions bound to one socket
	// bindWithin is the time in which a socket must be bound.
	bindWithin = 10 * time.Second
	// pingEvery is the interval at which an idle socket is checked.
	pingEvery = 30 * time.Second
)

// hub tells the sockets of this process that something was committed.
type hub struct {
	engine *Engine
	ctx    context.Context
	cancel context.CancelFunc
	wait   sync.WaitGroup

	mu      sync.Mutex
	closed  bool                       // guarded by mu
	sockets int                        // guarded by mu
	clients map[string]int             // sockets by client, guarded by mu
	wakes   map[chan struct{}]struct{} // guarded by mu
}

func (x *hub) start(e *Engine) {
	x.engine, x.clients, x.wakes = e, map[string]int{}, map[chan struct{}]struct{}{}
	x.ctx, x.cancel = context.WithCancel(context.Background())
}

// note is called for every commit. Events are numbered in small state, which a commit does
// not describe, so that every bound Subscription looks at its own head.
func (x *hub) note(store.Commit) {
	x.mu.Lock()
	defer x.mu.Unlock()
	for c := range x.wakes {
		follow.Signal(c)
	}
}

func (x *hub) close() {
	x.mu.Lock()
	x.closed = true
	x.mu.Unlock()
	x.cancel()
	x.wait.Wait()
}

// enter counts a socket, or a socket of a client.
func (x *hub) enter(client string) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	if client != "" {
		if x.clients[client] >= maxClientSockets {
			return false
		}
		x.clients[client]++
		return true
	}
	if x.closed || x.sockets >= maxSockets {
		return false
	}
	x.sockets++
	x.wait.Add(1)
	return true
}

func (x *hub) leave(client string) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if client != "" {
		if x.clients[client]--; x.clients[client] == 0 {
			delete(x.clients, client)
		}
		return
	}
	x.sockets--
	x.wait.Done()
}

func (x *hub) listen() (wake chan struct{}, stop func()) {
	wake = make(chan struct{}, 1)
	x.mu.Lock()
	defer x.mu.Unlock()
	x.wakes[wake] = struct{}{}
	return wake, func() {
		x.mu.Lock()
		defer x.mu.Unlock()
		delete(x.wakes, wake)
	}
}

// session is one socket.
type session struct {
	engine *Engine
	socket Socket
	remote string
	caller *access.Principal // of the access token of the handshake, or nil

	write sync.Mutex // held while a message is written and answered
	mu    sync.Mutex
	// client is the client whose token was used first; others are refused. It is guarded
	// by mu, as bound is.
	client string
	bound  map[string]*bond
	work   sync.WaitGroup
	fail   chan error // capacity 1
}

// bond binds a socket to one Subscription.
type bond struct {
	cancel  context.CancelFunc
	expires time.Time // guarded by session.mu
	changed chan struct{}
}

// Serve handles one socket until it is closed, by either side. caller is the caller of the
// HTTP request if it had an access token, and nil otherwise. The peer sends
//
//	bind-with-token <token>   the guide's message, with a token of $get-ws-binding-token
//	bind <id>                 R4's message; it needs an access token on the request
//
// and the server answers the first with a handshake for each Subscription, and the second
// with "bound <id>". A Subscription with a topic gets its notification Bundles, and one
// with criteria of R4 gets "ping <id>". What a token has bound ends when the token expires,
// unless another one has bound it again.
func (e *Engine) Serve(ctx context.Context, socket Socket, caller *access.Principal, remote string) error {
	if !e.hub.enter("") {
		socket.Close(ErrSocketsFull)
		return ErrSocketsFull
	}
	defer e.hub.leave("")
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	s := &session{engine: e, socket: socket, remote: remote, caller: caller, bound: map[string]*bond{},
		fail: make(chan error, 1)}
	defer context.AfterFunc(e.hub.ctx, func() { s.failed(context.Canceled) })()
	defer func() {
		cancel()
		s.work.Wait()
		if s.client != "" {
			e.hub.leave(s.client)
		}
	}()
	s.work.Go(func() { s.watch(ctx) })
	inbox := make(chan string, maxWaiting)
	s.work.Go(func() { s.failed(s.read(ctx, inbox)) })
	s.work.Go(func() {
		for {
			select {
			case text := <-inbox:
				if err := s.message(ctx, text); err != nil {
					s.failed(err)
					return
				}
			case <-ctx.Done():
				return
			}
		}
	})
	var err error
	select {
	case err = <-s.fail:
	case <-ctx.Done():
		err = ctx.Err()
	}
	socket.Close(err)
	return err
}

// failed ends the session with an error.
func (s *session) failed(err error) {
	select {
	case s.fail <- err:
	default: // another error came first
	}
}

// watch ends sockets that are not bound in time or do not answer.
func (s *session) watch(ctx context.Context) {
	if !follow.Sleep(ctx, nil, bindWithin) {
		return
	}
	for {
		s.mu.Lock()
		n := len(s.bound)
		s.mu.Unlock()
		if n == 0 {
			s.failed(ErrSocketExpired)
			return
		}
		if err := s.send(ctx, nil); err != nil {
			s.failed(err)
			return
		}
		if !follow.Sleep(ctx, nil, pingEvery) {
			return
		}
	}
}

// maxWaiting bounds the messages of the peer that wait to be handled.
const maxWaiting = 16

// read passes the messages of the peer on. It handles none itself, because an answer waits
// for a pong, which only arrives while the socket is being read.
func (s *session) read(ctx context.Context, inbox chan<- string) error {
	for {
		text, err := s.socket.Read(ctx)
		if err != nil {
			return err
		}
		select {
		case inbox <- string(text):
		default:
			return ErrSocketRefused
		}
	}
}

// message handles one message of the peer.
func (s *session) message(ctx context.Context, text string) error {
	e := s.engine
	verb, argument, _ := strings.Cut(strings.TrimSpace(text), " ")
	// The guides do not print the message, and some clients write a colon.
	verb, argument = strings.TrimSuffix(verb, ":"), strings.TrimLeft(argument, ": ")
	var b *binding
	var err error
	switch {
	case verb == "bind-with-token":
		if b, err = e.bound(ctx, argument); b == nil && err == nil {
			// Another process may have issued the token a moment ago.
			if err = e.opts.Store.Sync(ctx); err == nil {
				b, err = e.bound(ctx, argument)
			}
		}
	case verb == "bind" && s.caller != nil && fhir.ValidID(argument):
		b, err = e.ownBinding(ctx, s.caller, argument)
	}
	if err != nil {
		return err
	}
	if b == nil {
		return ErrSocketRefused
	}
	if err := s.admit(b.Client); err != nil {
		return err
	}
	for _, id := range b.IDs {
		if err := s.bind(ctx, b, id, verb == "bind"); err != nil {
			return err
		}
	}
	return nil
}

// admit ties the session to a client.
func (s *session) admit(client string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.client == client:
		return nil
	case s.client != "":
		return ErrSocketRefused
	case !s.engine.hub.enter(client):
		return ErrSocketsFull
	}
	s.client = client
	return nil
}

// bind begins to send what a Subscription notifies of, or prolongs that.
func (s *session) bind(ctx context.Context, b *binding, id string, plain bool) error {
	s.mu.Lock()
	old := s.bound[id]
	if old != nil {
		old.expires = b.Expires
		follow.Signal(old.changed)
	}
	n := len(s.bound)
	s.mu.Unlock()
	if old == nil && n >= maxSocketBinds {
		return ErrSocketRefused
	}
	f := &feed{session: s, owner: b.Client, id: id}
	if plain {
		f.live = s.caller.Grant.Live
		if err := s.send(ctx, []byte("bound "+id)); err != nil {
			return err
		}
	} else if err := f.handshake(ctx); err != nil {
		return err
	}
	if old != nil {
		return nil
	}
	life, cancel := context.WithCancel(ctx)
	f.bond = &bond{cancel: cancel, expires: b.Expires, changed: make(chan struct{}, 1)}
	s.mu.Lock()
	s.bound[id] = f.bond
	s.mu.Unlock()
	s.work.Go(func() {
		defer cancel()
		err := f.run(life)
		s.mu.Lock()
		delete(s.bound, id)
		last := len(s.bound) == 0
		s.mu.Unlock()
		if err != nil {
			s.failed(err)
		} else if last {
			s.failed(ErrSocketExpired)
		}
	})
	return nil
}

// send writes a message, which may be nil, and waits until the peer has it.
func (s *session) send(ctx context.Context, text []byte) error {
	s.write.Lock()
	defer s.write.Unlock()
	ctx, cancel := context.WithTimeout(ctx, maxTimeout)
	defer cancel()
	if text != nil {
		if err := s.socket.Write(ctx, text); err != nil {
			return err
		}
	}
	return s.socket.Ping(ctx)
}

func socketKey(id string) string { return keyPrefix + id + "/socket" }

// acknowledged returns the number of the last event that a socket of any process has
// acknowledged.
func (e *Engine) acknowledged(ctx context.Context, id string) (n uint64, raw []byte, err error) {
	if raw, err = e.opts.Store.Get(ctx, socketKey(id)); err != nil || raw == nil {
		return 0, nil, err
	}
	n, err = strconv.ParseUint(string(raw), 10, 64)
	return n, raw, fhir.Wrap("subscription.acknowledged", err)
}
