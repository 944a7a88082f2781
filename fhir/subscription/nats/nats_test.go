package nats

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"pulsegate/fhir"
	"pulsegate/fhir/subscription"
)

// stream is a small NATS server with one JetStream stream.
type stream struct {
	net.Listener
	info string
	// answer returns what the server says to a publication, after the first line; nil is
	// an acknowledgment.
	answer func(n int, inbox string) string

	mu       sync.Mutex
	connects []string
	got      []string // subject and body
	conns    int
}

func newStream(t *testing.T, edit func(*stream)) *stream {
	t.Helper()
	s := &stream{info: `{"server_id":"x","headers":true,"jetstream":true,"max_payload":1048576}`}
	if edit != nil {
		edit(s)
	}
	var err error
	if s.Listener, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	go func() {
		for {
			c, err := s.Accept()
			if err != nil {
				return
			}
			s.mu.Lock()
			s.conns++
			s.mu.Unlock()
			go s.serve(c)
		}
	}()
	return s
}

func (s *stream) serve(c net.Conn) {
	defer func() { _ = c.Close() }()
	in := bufio.NewReader(c)
	fmt.Fprintf(c, "INFO %s\r\n", s.info)
	for {
		line, err := in.ReadString('\n')
		if err != nil {
			return
		}
		f := strings.Fields(line)
		switch {
		case f[0] == "CONNECT":
			s.mu.Lock()
			s.connects = append(s.connects, line)
			s.mu.Unlock()
		case f[0] == "PING":
			fmt.Fprint(c, "PING\r\nPONG\r\n")
		case f[0] == "HPUB" && len(f) == 5:
			head, _ := strconv.Atoi(f[3])
			total, err := strconv.Atoi(f[4])
			if err != nil {
				return
			}
			body := make([]byte, total+2)
			if _, err := io.ReadFull(in, body); err != nil {
				return
			}
			s.mu.Lock()
			s.got = append(s.got, f[1]+" "+string(body[head:total]))
			n := len(s.got)
			s.mu.Unlock()
			ack := fmt.Sprintf(`{"stream":"PG","seq":%d}`, n)
			text := fmt.Sprintf("PING\r\nMSG %sother 1 2\r\n{}\r\nMSG %s 1 %d\r\n%s\r\n", ackInbox, f[2], len(ack), ack)
			if s.answer != nil {
				text = s.answer(n, f[2])
			}
			if text == "" {
				return
			}
			fmt.Fprint(c, text)
		}
	}
}

func publisher(t *testing.T, s *stream) *Publisher {
	t.Helper()
	p, err := New(Config{Server: s.Addr().String(), Prefix: "pg.events", User: "pg", Password: "secret"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	})
	return p
}

func message(n int) subscription.Publication {
	return subscription.Publication{Subject: "ehr.s1", ID: fmt.Sprint("id", n), ContentType: "application/fhir+json",
		Body: []byte(fmt.Sprintf("{\"n\":%d}\r\n", n))}
}

// TestPublish publishes through one connection, in order.
func TestPublish(t *testing.T) {
	s := newStream(t, nil)
	p := publisher(t, s)
	for n := range 3 {
		if err := p.Publish(context.Background(), message(n)); err != nil {
			t.Fatal(err)
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if want := "pg.events.ehr.s1 {\"n\":2}\r\n"; len(s.got) != 3 || s.got[2] != want || s.conns != 1 {
		t.Errorf("%q over %d connections", s.got, s.conns)
	}
	if len(s.connects) != 1 || !strings.Contains(s.connects[0], `"pass":"secret"`) {
		t.Errorf("%q", s.connects)
	}
}

// TestRefused checks that a message that no stream has stored is an error, and that the next
// one uses another connection.
func TestRefused(t *testing.T) {
	for name, answer := range map[string]func(inbox string) string{
		"no stream":    func(inbox string) string { return "HMSG " + inbox + " 1 16 16\r\nNATS/1.0 503\r\n\r\n\r\n" },
		"error":        func(inbox string) string { return "MSG " + inbox + " 1 24\r\n{\"error\":{\"code\":503}}  \r\n" },
		"closed":       func(string) string { return "" },
		"-ERR":         func(string) string { return "-ERR 'Authorization Violation'\r\n" },
		"no protocol":  func(string) string { return "HTTP/1.1 400 Bad\r\n" },
		"huge":         func(inbox string) string { return "MSG " + inbox + " 1 999999999\r\n" },
		"negative":     func(inbox string) string { return "MSG " + inbox + " 1 -5\r\n" },
		"endless line": func(string) string { return strings.Repeat("x", 2*maxLine) },
		"no JSON":      func(inbox string) string { return "MSG " + inbox + " 1 2\r\nOK\r\n" },
	} {
		s := newStream(t, func(s *stream) {
			s.answer = func(n int, inbox string) string {
				if n == 1 {
					return answer(inbox)
				}
				return "MSG " + inbox + " 1 15\r\n{\"stream\":\"PG\"}\r\n"
			}
		})
		p := publisher(t, s)
		if err := p.Publish(context.Background(), message(1)); err == nil {
			t.Errorf("%s: accepted", name)
		} else if strings.Contains(err.Error(), "secret") || strings.Contains(err.Error(), "Violation") {
			t.Errorf("%s: %v", name, err)
		}
		if err := p.Publish(context.Background(), message(2)); err != nil {
			t.Errorf("%s: the next: %v", name, err)
		}
	}
	for name, info := range map[string]string{"without JetStream": `{"headers":true}`, "no JSON": "x"} {
		s := newStream(t, func(s *stream) { s.info = info })
		if err := publisher(t, s).Publish(context.Background(), message(1)); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

// TestCanceled checks that a server that does not answer delays no longer than the context.
func TestCanceled(t *testing.T) {
	asked := make(chan struct{})
	s := newStream(t, func(s *stream) {
		s.answer = func(int, string) string { close(asked); return "PING\r\n" }
	})
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	go func() { <-asked; cancel() }()
	if err := publisher(t, s).Publish(ctx, message(1)); err == nil {
		t.Error("accepted")
	}
	for _, c := range []Config{{Server: "x", Prefix: "a"}, {Server: "x:1"}, {Server: "x:1", Prefix: "a.>"}, {Server: "x:1", Prefix: "$SYS"}} {
		if _, err := New(c); fhir.KindOf(err) != fhir.Invalid {
			t.Errorf("%+v: %v", c, err)
		}
	}
}
