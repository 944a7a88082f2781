package mongolog

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/url"
	"sync"
	"testing"
	"time"

	"pulsegate/fhir/store/sharedlog"
)

// fault tells a proxy how to treat the next insert of an entry.
type fault int

const (
	none       fault = iota
	loseInsert       // closes the connection instead of sending the insert
	loseAnswer       // sends the insert, waits for its answer, and closes the connection
	holdInsert       // closes the connection to the client, and sends the insert on release
	loseFinds        // closes the connection at each query for entries, until told otherwise
)

// proxy forwards connections to a server, message by message.
type proxy struct {
	t        testing.TB
	server   string
	listener net.Listener
	all      sync.WaitGroup

	mu       sync.Mutex
	next     fault
	conns    []net.Conn
	release  chan struct{} // closed to send the insert that is held
	released chan struct{} // closed when its answer has come
}

// newProxy returns options that lead through a proxy, and the proxy.
func newProxy(t testing.TB, o Options) (Options, *proxy) {
	t.Helper()
	if !o.Standalone {
		t.Skip("the driver finds the members of a replica set itself, so it would go around the proxy")
	}
	u, err := url.Parse(o.URI)
	if err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{t: t, server: u.Host, listener: listener, release: make(chan struct{}), released: make(chan struct{})}
	u.Host = listener.Addr().String()
	o.URI = u.String()
	p.all.Go(p.accept)
	t.Cleanup(func() {
		_ = listener.Close()
		p.mu.Lock()
		for _, c := range p.conns {
			_ = c.Close()
		}
		p.mu.Unlock()
		p.all.Wait()
	})
	return o, p
}

// fail sets the fault of the next insert of an entry.
func (p *proxy) fail(f fault) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.next = f
}

func (p *proxy) accept() {
	for {
		client, err := p.listener.Accept()
		if err != nil {
			return
		}
		server, err := net.Dial("tcp", p.server)
		if err != nil {
			_ = client.Close()
			continue
		}
		p.mu.Lock()
		p.conns = append(p.conns, client, server)
		p.mu.Unlock()
		p.all.Go(func() { p.serve(client, server) })
	}
}

// message reads one message of MongoDB's protocol, which begins with its length.
func message(r io.Reader) ([]byte, error) {
	b := make([]byte, 4)
	if _, err := io.ReadFull(r, b); err != nil {
		return nil, err
	}
	n := binary.LittleEndian.Uint32(b)
	if n < 16 || n > 48_000_000 {
		return nil, errors.New("not a message")
	}
	b = append(b, make([]byte, n-4)...)
	_, err := io.ReadFull(r, b[4:])
	return b, err
}

// faultOf returns the fault that applies to a request.
func (p *proxy) faultOf(request []byte) fault {
	p.mu.Lock()
	defer p.mu.Unlock()
	has := func(command string) bool {
		return bytes.Contains(request, []byte(command+"\x00")) && bytes.Contains(request, []byte(segmentPrefix+"0"))
	}
	f := p.next
	switch {
	case f == loseFinds && has("find"):
		return f
	case f != loseFinds && has("insert"):
		p.next = none
		return f
	}
	return none
}

// serve forwards the requests of a connection one at a time, as the driver sends
// them, and their answers.
func (p *proxy) serve(client, server net.Conn) {
	defer func() { _, _ = client.Close(), server.Close() }()
	for {
		request, err := message(client)
		if err != nil {
			return
		}
		f := p.faultOf(request)
		switch f {
		case loseInsert, loseFinds:
			return
		case holdInsert:
			_ = client.Close()
			<-p.release
			defer close(p.released)
		}
		if _, err := server.Write(request); err != nil {
			return
		}
		answer, err := message(server)
		if err != nil || f != none {
			return
		}
		if _, err := client.Write(answer); err != nil {
			return
		}
	}
}

// isUnknown fails the test unless err leaves the outcome of an Append open.
func isUnknown(t testing.TB, err error) {
	t.Helper()
	for _, known := range []error{nil, sharedlog.ErrTaken, sharedlog.ErrTooLarge, sharedlog.ErrTruncated,
		sharedlog.ErrDiverged, sharedlog.ErrEpoch} {
		if errors.Is(err, known) {
			t.Errorf("Append without an answer: %v, want an unknown outcome", err)
		}
	}
}

// TestLostAnswer loses the answer to an insert. The entry is stored, and its writer
// finds it by appending it again.
func TestLostAnswer(t *testing.T) {
	direct := testOptions(t)
	o, p := newProxy(t, direct)
	l, other := openLog(t, o), openLog(t, direct)
	c := &chain{}
	c.grow(t, l, 2)
	e := c.entry([]byte("rows"))
	p.fail(loseAnswer)
	isUnknown(t, l.Append(t.Context(), e))
	if got := mustRead(t, other, c.at); len(got) != 1 {
		t.Fatalf("%d entries: the insert was not sent once", len(got))
	}
	if err := l.Append(t.Context(), e); err != nil {
		t.Errorf("the entry again: %v", err)
	}
	if got := mustRead(t, l, c.at); len(got) != 1 || got[0].Nonce != e.Nonce {
		t.Errorf("%d entries", len(got))
	}
}

// TestLostInsert loses an insert. Its writer appends it again, or loses the place.
func TestLostInsert(t *testing.T) {
	direct := testOptions(t)
	o, p := newProxy(t, direct)
	l, other := openLog(t, o), openLog(t, direct)
	c := &chain{}
	c.grow(t, l, 2)
	e := c.entry([]byte("rows"))
	p.fail(loseInsert)
	isUnknown(t, l.Append(t.Context(), e))
	if got := mustRead(t, other, c.at); len(got) != 0 {
		t.Fatalf("%d entries: the insert was not lost", len(got))
	}
	if err := l.Append(t.Context(), e); err != nil {
		t.Fatal(err)
	}
	c.at, _ = c.at.Next(e, e.Sum())
	e = c.entry([]byte("rows of the loser"))
	p.fail(loseInsert)
	isUnknown(t, l.Append(t.Context(), e))
	winner := c.add(t, other, []byte("rows of the winner"))
	if err := l.Append(t.Context(), e); !errors.Is(err, sharedlog.ErrTaken) {
		t.Errorf("the entry again: %v, want ErrTaken", err)
	}
	if got := mustRead(t, l, sharedlog.Position{}); len(got) != 4 || got[3].Nonce != winner.Nonce {
		t.Errorf("%d entries", len(got))
	}
}

// TestLateInsert lets an insert arrive after its writer has appended the entry
// again. The log has it once.
func TestLateInsert(t *testing.T) {
	o, p := newProxy(t, testOptions(t))
	l := openLog(t, o)
	c := &chain{}
	c.grow(t, l, 2)
	e := c.entry([]byte("rows"))
	p.fail(holdInsert)
	isUnknown(t, l.Append(t.Context(), e))
	if got := mustRead(t, l, c.at); len(got) != 0 {
		t.Fatalf("%d entries: the insert was not held", len(got))
	}
	if err := l.Append(t.Context(), e); err != nil {
		t.Fatal(err)
	}
	before := c.at
	c.at, _ = c.at.Next(e, e.Sum())
	c.grow(t, l, 1)
	close(p.release)
	<-p.released
	if got := mustRead(t, l, before); len(got) != 2 || got[0].Nonce != e.Nonce {
		t.Errorf("%d entries", len(got))
	}
}

// TestLateInsertControl gives up a place without an answer and sends the rows as
// another entry, which the contract forbids. The rows are then stored twice.
func TestLateInsertControl(t *testing.T) {
	o, p := newProxy(t, testOptions(t))
	l := openLog(t, o)
	c := &chain{}
	e := c.entry([]byte("rows"))
	p.fail(holdInsert)
	isUnknown(t, l.Append(t.Context(), e))
	again := *e
	again.Index, again.Nonce = 2, [16]byte{1}
	if err := l.Append(t.Context(), &again); err != nil {
		t.Fatal(err)
	}
	close(p.release)
	<-p.released
	if got := mustRead(t, l, sharedlog.Position{}); len(got) != 2 || !bytes.Equal(got[0].Rows, got[1].Rows) {
		t.Errorf("%d entries: the control does not show what the contract prevents", len(got))
	}
}

// TestUnconfirmed cuts the query for the nonce at a place that is taken. The outcome
// is unknown, whether the entry there is the same one or another one.
func TestUnconfirmed(t *testing.T) {
	o, p := newProxy(t, testOptions(t))
	l := openLog(t, o)
	c := &chain{}
	before := *c
	e := c.add(t, l, []byte("rows"))
	other := before.entry([]byte("other rows"))
	p.fail(loseFinds)
	timeout := l.opt.Timeout
	l.opt.Timeout = 100 * time.Millisecond // the driver repeats queries until then
	isUnknown(t, l.Append(t.Context(), e))
	isUnknown(t, l.Append(t.Context(), other))
	if got, err := read(t, l, sharedlog.Position{}); err == nil || len(got) != 0 {
		t.Errorf("Read: %d entries, %v, want an error", len(got), err)
	}
	p.fail(none)
	l.opt.Timeout = timeout
	if err := l.Append(t.Context(), e); err != nil {
		t.Errorf("the entry again: %v", err)
	}
	if err := l.Append(t.Context(), other); !errors.Is(err, sharedlog.ErrTaken) {
		t.Errorf("another entry: %v, want ErrTaken", err)
	}
}
