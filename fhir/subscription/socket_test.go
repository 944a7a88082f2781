package subscription

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"
	"time"

	"pulsegate/fhir"
	"pulsegate/fhir/access"
	"pulsegate/fhir/audit"
	"pulsegate/fhir/cluster/role/roletest"
	"pulsegate/fhir/search"
	"pulsegate/fhir/store"
)

// line is the client's end of a Socket in memory.
type line struct {
	to   chan string // messages for the server
	done chan struct{}
	err  error // of Serve, once done is closed

	mu    sync.Mutex
	got   []string
	deaf  bool // Ping fails: the client has not received the last message
	reads int  // calls of Read that wait
}

func (l *line) Read(ctx context.Context) ([]byte, error) {
	l.reading(1)
	defer l.reading(-1)
	select {
	case s, ok := <-l.to:
		if !ok {
			return nil, io.EOF
		}
		return []byte(s), nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (*line) Close(error) {}

func (l *line) Write(_ context.Context, text []byte) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.got = append(l.got, string(text))
	return nil
}

func (l *line) reading(n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.reads += n
}

// Ping waits until the socket is being read, as a pong does.
func (l *line) Ping(ctx context.Context) error {
	for ; ; time.Sleep(time.Millisecond) {
		l.mu.Lock()
		deaf, ok := l.deaf, l.reads > 0
		l.mu.Unlock()
		switch {
		case deaf:
			return errors.New("no pong")
		case ok:
			return nil
		case ctx.Err() != nil:
			return ctx.Err()
		}
	}
}

func (l *line) messages() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return append([]string(nil), l.got...)
}

// numbers returns the numbers of the events that the client got.
func (l *line) numbers(t *testing.T) (out []uint64) {
	for _, m := range l.messages() {
		if strings.HasPrefix(m, "{") {
			out = append(out, readNotification(t, []byte(m)).numbers...)
		}
	}
	return out
}

// connect opens a socket to an Engine and sends messages.
func (w *world) connect(e *Engine, caller *access.Principal, messages ...string) *line {
	l := &line{to: make(chan string, 16), done: make(chan struct{})}
	go func() {
		defer close(l.done)
		l.err = e.Serve(context.Background(), l, caller, "192.0.2.1")
	}()
	for _, m := range messages {
		l.to <- m
	}
	return l
}

// closed waits until the server has closed the socket and returns why.
func (l *line) closed(w *world) error {
	w.t.Helper()
	select {
	case <-l.done:
		return l.err
	case <-time.After(2 * time.Minute):
		w.t.Fatal("the socket stays open")
		return nil
	}
}

func socketJSON(content Content, filter string) string {
	s := strings.Replace(subscriptionJSON("X", content, filter, ""), `"type":"rest-hook","endpoint":"X"`, `"type":"websocket"`, 1)
	return strings.Replace(s, `,"header":["X-Secret: s3","Authorization: Bearer abc"]`, "", 1)
}

// token returns a binding token of a client.
func (w *world) token(e *Engine, client string, ids ...string) (string, error) {
	b, err := e.BindingToken(context.Background(), Request{Caller: audit.Caller{Principal: w.principal(client)}}, ids)
	if err != nil {
		return "", err
	}
	var p struct {
		Parameter []struct{ Name, ValueString, ValueDateTime, ValueURL string }
	}
	if err := json.Unmarshal(b, &p); err != nil {
		w.t.Fatal(err)
	}
	token := ""
	for _, x := range p.Parameter {
		switch {
		case x.Name == "token":
			token = x.ValueString
		case x.Name == "websocket-url" && x.ValueURL != "wss://pulse.example.org/fhir"+SocketPath:
			w.t.Errorf("URL %s", x.ValueURL)
		case x.Name == "expiration" && x.ValueDateTime == "":
			w.t.Error("no expiration")
		}
	}
	return token, nil
}

// TestSocket binds a socket with a token: it gets a handshake and the events, and a client
// that comes back gets what it has missed. Control: what was not acknowledged by a pong
// comes again.
func TestSocket(t *testing.T) {
	w := newWorld(t)
	w.subscribe("s1", socketJSON(iDOnly, "Observation?patient=p1"))
	w.active("s1")
	token, err := w.token(w.engine, "ehr", "s1")
	if err != nil {
		t.Fatal(err)
	}
	a := w.connect(w.engine, nil, "bind-with-token "+token)
	w.until("handshake", func() bool { return len(a.messages()) == 1 })
	if n := readNotification(t, []byte(a.messages()[0])); n.typ != "handshake" || n.status != "active" {
		t.Errorf("%+v", n)
	}
	w.observe("p1", "8867-4")
	w.observe("p2", "8867-4")
	w.observe("p1", "8867-4")
	w.until("2 events", func() bool { return len(a.numbers(t)) == 2 })
	close(a.to)
	a.closed(w)
	w.observe("p1", "8867-4")
	w.observe("p1", "8867-4")
	w.numbered("s1", 4)
	b := w.connect(w.engine, nil, "bind-with-token: "+token)
	w.until("what it missed", func() bool { return len(b.numbers(t)) == 2 })
	if got := b.numbers(t); fmt.Sprint(got) != "[3 4]" {
		t.Errorf("events %v", got)
	}
	b.mu.Lock()
	b.deaf = true
	b.mu.Unlock()
	w.observe("p1", "8867-4")
	b.closed(w)
	c := w.connect(w.engine, nil, "bind-with-token  :"+token)
	w.until("the event without a pong", func() bool { return len(c.numbers(t)) == 1 })
	if got := c.numbers(t); fmt.Sprint(got) != "[5]" {
		t.Errorf("events %v", got)
	}
	// $resend reaches the socket.
	rq := Request{Caller: audit.Caller{Principal: w.principal("ehr")}}
	if _, err := w.engine.Resend(context.Background(), rq, "s1", Range{Since: 2, Until: 3}); err != nil {
		t.Fatal(err)
	}
	w.until("sent again", func() bool { return fmt.Sprint(c.numbers(t)) == "[5 2 3]" })
	// The end of the Subscription ends the socket.
	w.remove("Subscription", "s1")
	if err := c.closed(w); !errors.Is(err, ErrSocketExpired) {
		t.Errorf("closed by %v", err)
	}
}

// TestSocketBacklog checks that the events of a Subscription without a socket do not grow
// without bound, and that the latest are there for the client that comes.
func TestSocketBacklog(t *testing.T) {
	w := newWorld(t)
	w.subscribe("s1", socketJSON(empty, ""))
	w.active("s1")
	const n = keepEvents + 300
	var b store.Batch
	for i := range n {
		id := fmt.Sprint("b", i)
		b.Writes = append(b.Writes, store.Write{Resource: fhir.Resource{Type: "Observation", ID: id,
			JSON: []byte(fhir.Prefix("Observation", id) + `},` + observation("p1", "final", "a") + `}`)}})
	}
	for chunk := range 26 { // rows of their own, as many commits make them
		part := &store.Batch{Writes: b.Writes[chunk*50 : chunk*50+50]}
		if _, err := w.st.Commit(context.Background(), part); err != nil {
			t.Fatal(err)
		}
		w.numbered("s1", uint64(chunk*50+50))
	}
	w.until("old rows are removed", func() bool { w.observe("p1", "a"); return w.rows("s1") <= keepEvents+200 })
	token, err := w.token(w.engine, "ehr")
	if err != nil {
		t.Fatal(err)
	}
	l := w.connect(w.engine, nil, "bind-with-token "+token)
	last := w.engine.count("s1")
	w.until("the latest", func() bool {
		got := l.numbers(t)
		return len(got) > 0 && got[len(got)-1] >= last // the last try may be numbered after the count
	})
}

// TestSocketRefusals checks what closes a socket.
func TestSocketRefusals(t *testing.T) {
	w := newWorld(t)
	w.subscribe("s1", socketJSON(iDOnly, ""))
	w.subscribe("hook", subscriptionJSON("http://127.0.0.1:1/x", iDOnly, "", ""))
	w.active("s1")
	for name, c := range map[string]struct {
		client string
		ids    []string
		want   fhir.Kind
	}{
		"another client's": {"other", []string{"s1"}, fhir.NotFound},
		"of none":          {"other", nil, fhir.NotFound},
		"rest-hook":        {"ehr", []string{"hook"}, fhir.Unprocessable},
		"one is missing":   {"ehr", []string{"s1", "s9"}, fhir.NotFound},
	} {
		if _, err := w.token(w.engine, c.client, c.ids...); fhir.KindOf(err) != c.want {
			t.Errorf("%s: %v", name, err)
		}
	}
	token, err := w.token(w.engine, "ehr")
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range []string{"bind-with-token x", "bind-with-token ", "bind-with-token", "bind s1", "hello", "", "bind-with-token " + token + "x",
		strings.Repeat("x", 4000), "bind-with-token " + strings.Repeat("\xff", 100)} {
		if err := w.connect(w.engine, nil, m).closed(w); !errors.Is(err, ErrSocketRefused) {
			t.Errorf("%.40q: %v", m, err)
		}
	}
	// A second client cannot use the socket of the first.
	w.put("other", fhir.Resource{Type: "Subscription", ID: "s2", JSON: []byte(fhir.Prefix("Subscription", "s2") + `},` + socketJSON(iDOnly, ""))})
	w.active("s2")
	second, err := w.token(w.engine, "other")
	if err != nil {
		t.Fatal(err)
	}
	if err := w.connect(w.engine, nil, "bind-with-token "+token, "bind-with-token "+second).closed(w); !errors.Is(err, ErrSocketRefused) {
		t.Errorf("two clients: %v", err)
	}
	// The small state holds no token.
	if err := w.st.List(context.Background(), keyPrefix, func(k string, v []byte) bool {
		if strings.Contains(k, token) || strings.Contains(string(v), token) {
			t.Errorf("the token is in %s", k)
		}
		return true
	}); err != nil {
		t.Fatal(err)
	}
}

// TestSocketExpiry checks that a token binds for its time only, and that another one
// prolongs it.
func TestSocketExpiry(t *testing.T) {
	var mu sync.Mutex
	ahead := time.Duration(0)
	w := newWorldWith(t, func(o *Options) {
		o.Clock = func() time.Time { mu.Lock(); defer mu.Unlock(); return time.Now().Add(ahead) }
	})
	w.subscribe("s1", socketJSON(iDOnly, ""))
	w.active("s1")
	first, err := w.token(w.engine, "ehr")
	if err != nil {
		t.Fatal(err)
	}
	l := w.connect(w.engine, nil, "bind-with-token "+first)
	w.until("bound", func() bool { return len(l.messages()) == 1 })
	mu.Lock()
	ahead = 6 * time.Minute
	mu.Unlock()
	second, err := w.token(w.engine, "ehr")
	if err != nil {
		t.Fatal(err)
	}
	l.to <- "bind-with-token " + second
	w.until("bound again", func() bool { return len(l.messages()) == 2 })
	mu.Lock()
	ahead = 12 * time.Minute
	mu.Unlock()
	w.observe("p1", "a")
	w.until("the second token holds", func() bool { return len(l.numbers(t)) == 1 })
	if err := w.connect(w.engine, nil, "bind-with-token "+first).closed(w); !errors.Is(err, ErrSocketRefused) {
		t.Errorf("an expired token: %v", err)
	}
	mu.Lock()
	ahead = 17 * time.Minute
	mu.Unlock()
	w.observe("p1", "a") // wakes the socket
	if err := l.closed(w); !errors.Is(err, ErrSocketExpired) {
		t.Errorf("closed by %v", err)
	}
}

// TestSocketRechecks checks that a socket shows what the consents allow at the moment of
// sending, and ends when the client is disabled.
func TestSocketRechecks(t *testing.T) {
	var mu sync.Mutex
	disabled := false
	var w *world
	w = newWorldWith(t, func(o *Options) {
		o.GrantFor = func(context.Context, string) (*access.Grant, error) {
			mu.Lock()
			defer mu.Unlock()
			if disabled {
				return nil, errors.New("disabled")
			}
			return w.grant("ehr"), nil
		}
	})
	w.subscribe("s1", socketJSON(fullResource, ""))
	w.active("s1")
	w.observe("p1", "a")
	w.observe("p2", "a")
	w.numbered("s1", 2)
	w.consents.withdraw("p1")
	token, err := w.token(w.engine, "ehr")
	if err != nil {
		t.Fatal(err)
	}
	l := w.connect(w.engine, nil, "bind-with-token "+token)
	w.until("both numbers", func() bool { return len(l.numbers(t)) == 2 })
	if all := strings.Join(l.messages(), ""); strings.Contains(all, "Patient/p1") || !strings.Contains(all, "Patient/p2") {
		t.Errorf("sent %s", all)
	}
	if n := w.disclosed("p2"); n == 0 || w.disclosed("p1") != 0 {
		t.Errorf("%d disclosures of p2, %d of p1", n, w.disclosed("p1"))
	}
	w.observe("p2", "a")
	w.until("the third", func() bool { return len(l.numbers(t)) == 3 })
	w.put("", fhir.Resource{Type: "Observation", ID: "late", JSON: []byte(fhir.Prefix("Observation", "late") + `},` + observation("p2", "final", "a") + `}`)})
	w.until("the fourth", func() bool { return len(l.numbers(t)) == 4 })
	w.numbered("s1", 4)
	mu.Lock()
	disabled = true
	mu.Unlock()
	rq := Request{Caller: audit.Caller{Principal: w.principal("ehr")}}
	if _, err := w.engine.Resend(context.Background(), rq, "s1", Range{Since: 1}); err != nil {
		t.Fatal(err)
	}
	if err := l.closed(w); !errors.Is(err, ErrSocketRefused) || len(l.numbers(t)) != 4 {
		t.Errorf("closed by %v after %d events", err, len(l.numbers(t)))
	}
}

// disclosed returns the number of AuditEvents about the disclosure of a patient's data.
func (w *world) disclosed(patient string) (n int) {
	w.t.Helper()
	q, err := search.Parse("AuditEvent", [][2]string{{"patient", patient}, {"type", "110106"}}, search.ParseOptions{Base: base})
	if err != nil {
		w.t.Fatal(err)
	}
	if err := w.st.Find(context.Background(), store.Find{Query: q, Filter: access.All().Filter(access.Search)},
		func(*store.Found) bool { n++; return true }); err != nil {
		w.t.Fatal(err)
	}
	return n
}

// TestPlainSocket checks R4's messages bind, bound and ping, which need an access token.
func TestPlainSocket(t *testing.T) {
	w := newWorld(t)
	w.subscribe("s1", plain("Observation?patient=p1", `"type":"websocket"`))
	w.active("s1")
	revoked := false
	var mu sync.Mutex
	caller := w.principal("ehr")
	caller.Grant.Recheck = func(context.Context) error {
		mu.Lock()
		defer mu.Unlock()
		if revoked {
			return fhir.Errorf(fhir.Unauthorized, "test", "revoked")
		}
		return nil
	}
	l := w.connect(w.engine, caller, "bind s1")
	w.until("bound", func() bool { return len(l.messages()) == 1 })
	w.observe("p2", "a")
	w.observe("p1", "a")
	w.until("ping", func() bool { return len(l.messages()) == 2 })
	if got := l.messages(); got[0] != "bound s1" || got[1] != "ping s1" {
		t.Errorf("%v", got)
	}
	if err := w.connect(w.engine, w.principal("other"), "bind s1").closed(w); !errors.Is(err, ErrSocketRefused) {
		t.Errorf("by another client: %v", err)
	}
	mu.Lock()
	revoked = true
	mu.Unlock()
	w.observe("p1", "a")
	if err := l.closed(w); !errors.Is(err, ErrSocketRefused) || len(l.messages()) != 2 {
		t.Errorf("with a revoked token: %v", err)
	}
}

// TestSocketAtAnotherProcess checks that events reach a socket of a process that does not
// hold the role, with a token that the holder has issued, and that a client that changes
// between the processes misses nothing.
func TestSocketAtAnotherProcess(t *testing.T) {
	w := newStore(t)
	a := w.newPeer("a", nil)
	w.pass("a has the role", w.held("a"), a)
	b := w.newPeer("b", func(o *Options) { o.Roles = roletest.Never{} })
	w.engine = a.engine
	w.subscribe("s1", socketJSON(iDOnly, ""))
	w.pass("active", func() bool { return w.status("s1") == "active" }, a)
	token, err := w.token(a.engine, "ehr")
	if err != nil {
		t.Fatal(err)
	}
	l := w.connect(b.engine, nil, "bind-with-token "+token)
	w.until("handshake", func() bool { return len(l.messages()) == 1 })
	for range 3 {
		w.observe("p1", "a")
	}
	w.pass("3 events", func() bool { return fmt.Sprint(l.numbers(t)) == fmt.Sprint(upTo(3)) }, a)
	close(l.to)
	l.closed(w)
	w.observe("p1", "a")
	l = w.connect(a.engine, nil, "bind-with-token "+token)
	w.pass("the fourth", func() bool { return fmt.Sprint(l.numbers(t)) == "[4]" }, a)
	// The end of a process closes its sockets.
	a.engine.Close()
	l.closed(w)
	l = w.connect(b.engine, nil, "bind-with-token "+token)
	w.until("bound", func() bool { return len(l.messages()) == 1 })
	b.engine.Close()
	if err := l.closed(w); !errors.Is(err, context.Canceled) {
		t.Errorf("closed by %v", err)
	}
}

// FuzzSocketMessage checks that no message but a valid one binds anything.
func FuzzSocketMessage(f *testing.F) {
	for _, s := range []string{"bind-with-token x", "bind s1", "bind-with-token", "\x00", "bind ../s1"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		w := newStore(t)
		w.opts.Roles = roletest.Never{}
		w.start()
		defer w.engine.Close()
		if err := w.connect(w.engine, w.principal("ehr"), s).closed(w); !errors.Is(err, ErrSocketRefused) {
			t.Fatalf("%q: %v", s, err)
		}
	})
}
