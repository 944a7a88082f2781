package mail

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"fmt"
	"net"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"pulsegate/fhir"
)

// server is a small SMTP server.
type server struct {
	net.Listener
	tls      *tls.Config
	implicit bool
	// noTLS does not offer STARTTLS, refuse refuses recipients, and hang stops answering after
	// the greeting.
	noTLS, refuse, hang bool

	mu    sync.Mutex
	lines []string // commands, with "TLS " before those that came encrypted
	mails []string
}

// certificate returns the configurations of TLS for 127.0.0.1.
func certificate(t *testing.T) (server, client *tls.Config) {
	s := httptest.NewTLSServer(nil)
	t.Cleanup(s.Close)
	roots := x509.NewCertPool()
	roots.AddCert(s.Certificate())
	return &tls.Config{Certificates: s.TLS.Certificates, MinVersion: tls.VersionTLS12}, &tls.Config{RootCAs: roots}
}

func newServer(t *testing.T, edit func(*server)) (*server, *tls.Config) {
	t.Helper()
	conf, client := certificate(t)
	s := &server{tls: conf}
	if edit != nil {
		edit(s)
	}
	var err error
	if s.Listener, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Listener.Close() })
	go func() {
		for {
			c, err := s.Accept()
			if err != nil {
				return
			}
			go s.serve(c)
		}
	}()
	return s, client
}

func (s *server) serve(c net.Conn) {
	defer func() { _ = c.Close() }()
	secure := ""
	if s.implicit {
		c, secure = tls.Server(c, s.tls), "TLS "
	}
	in := bufio.NewReader(c)
	say := func(text string) { fmt.Fprintf(c, "%s\r\n", text) }
	say("220 ready")
	for {
		line, err := in.ReadString('\n')
		if err != nil || s.hang {
			if err == nil {
				_, _ = in.ReadString(0) // until the client gives up
			}
			return
		}
		line = strings.TrimRight(line, "\r\n")
		s.mu.Lock()
		s.lines = append(s.lines, secure+line)
		s.mu.Unlock()
		verb, _, _ := strings.Cut(strings.ToUpper(line), " ")
		switch verb {
		case "EHLO":
			if secure == "" && !s.noTLS {
				say("250-host\r\n250 STARTTLS")
			} else {
				say("250-host\r\n250 AUTH PLAIN")
			}
		case "STARTTLS":
			if s.noTLS {
				say("502 no")
				continue
			}
			say("220 go")
			c, secure = tls.Server(c, s.tls), "TLS "
			in = bufio.NewReader(c)
		case "AUTH":
			say("235 ok")
		case "RCPT":
			if s.refuse {
				say("550 no such user")
				continue
			}
			say("250 ok")
		case "DATA":
			say("354 go")
			var b strings.Builder
			for {
				line, err := in.ReadString('\n')
				if err != nil {
					return
				}
				if line == ".\r\n" {
					break
				}
				b.WriteString(strings.TrimPrefix(line, "."))
			}
			s.mu.Lock()
			s.mails = append(s.mails, b.String())
			s.mu.Unlock()
			say("250 queued")
		case "QUIT":
			say("221 bye")
			return
		default:
			say("250 ok")
		}
	}
}

func sender(t *testing.T, s *server, client *tls.Config, edit func(*Config)) *Sender {
	t.Helper()
	c := Config{Server: s.Addr().String(), From: "pulsegate@hospital.example", Domains: []string{"hospital.example"}, Client: client,
		Clock: func() time.Time { return time.Date(2026, 3, 1, 10, 0, 0, 0, time.UTC) }}
	if edit != nil {
		edit(&c)
	}
	m, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// TestSend sends through STARTTLS with a password, and through implicit TLS.
func TestSend(t *testing.T) {
	for _, implicit := range []bool{false, true} {
		s, client := newServer(t, func(s *server) { s.implicit = implicit })
		m := sender(t, s, client, func(c *Config) {
			c.Username, c.Password = "pg", "secret"
			if implicit {
				c.TLS = Implicit
			}
		})
		if err := m.Mail(context.Background(), "on-call@Hospital.example", "Notification", "First\n.second\n"); err != nil {
			t.Fatal(err)
		}
		s.mu.Lock()
		if len(s.mails) != 1 || !strings.HasSuffix(s.mails[0], "\r\n\r\nFirst\r\n.second\r\n") ||
			!strings.Contains(s.mails[0], "To: on-call@Hospital.example\r\nSubject: Notification\r\nDate: Sun, 01 Mar 2026 10:00:00 +0000\r\n") {
			t.Errorf("%q", s.mails)
		}
		auth := "TLS AUTH PLAIN " + base64.StdEncoding.EncodeToString([]byte("\x00pg\x00secret"))
		for _, l := range s.lines {
			if strings.Contains(l, "AUTH") && l != auth {
				t.Errorf("authentication: %s", l)
			}
			if strings.HasPrefix(l, "MAIL") || strings.HasPrefix(l, "RCPT") {
				t.Errorf("in the clear: %s", l)
			}
		}
		s.mu.Unlock()
	}
}

// TestNoTLS checks that nothing is sent to a server that offers no TLS, or whose certificate
// is not trusted. Control: with none, it is.
func TestNoTLS(t *testing.T) {
	s, client := newServer(t, func(s *server) { s.noTLS = true })
	trusted, _ := newServer(t, nil)
	for name, m := range map[string]*Sender{"no TLS": sender(t, s, client, nil),
		"another certificate authority": sender(t, trusted, &tls.Config{RootCAs: x509.NewCertPool()}, nil)} {
		if err := m.Mail(context.Background(), "a@hospital.example", "x", "y"); err == nil {
			t.Errorf("%s: sent", name)
		}
	}
	s.mu.Lock()
	for _, l := range s.lines {
		if strings.Contains(l, "hospital") {
			t.Errorf("in the clear: %s", l)
		}
	}
	s.mu.Unlock()
	if err := sender(t, s, nil, func(c *Config) { c.TLS = Plain }).Mail(context.Background(), "a@hospital.example", "x", "y"); err != nil {
		t.Error(err)
	}
}

func TestFailures(t *testing.T) {
	s, client := newServer(t, func(s *server) { s.refuse = true })
	if err := sender(t, s, client, nil).Mail(context.Background(), "a@hospital.example", "x", "y"); err == nil {
		t.Error("a refused recipient is no error")
	}
	hung, client := newServer(t, func(s *server) { s.hang = true })
	ctx, cancel := context.WithCancel(context.Background())
	stop := time.AfterFunc(50*time.Millisecond, cancel)
	defer stop.Stop()
	if err := sender(t, hung, client, nil).Mail(ctx, "a@hospital.example", "x", "y"); err == nil {
		t.Error("a server that hangs is no error")
	}
	m := sender(t, s, client, nil)
	for _, to := range []string{"a@other.example", "a@hospital.example\r\nRCPT TO:<b@x>", "a", "@hospital.example", "a@b@hospital.example", "<a@hospital.example>"} {
		if err := m.Mail(context.Background(), to, "x", "y"); err != ErrRecipient {
			t.Errorf("%q: %v", to, err)
		}
	}
	for name, c := range map[string]Config{
		"server":  {Server: "host", From: "a@b.example", Domains: []string{"x"}, Clock: time.Now},
		"tls":     {Server: "host:25", TLS: "maybe", From: "a@b.example", Domains: []string{"x"}, Clock: time.Now},
		"clear":   {Server: "mail.example:25", TLS: Plain, From: "a@b.example", Domains: []string{"x"}, Clock: time.Now},
		"from":    {Server: "host:25", From: "a b", Domains: []string{"x"}, Clock: time.Now},
		"domains": {Server: "host:25", From: "a@b.example", Clock: time.Now},
	} {
		if _, err := New(c); fhir.KindOf(err) != fhir.Invalid {
			t.Errorf("%s: %v", name, err)
		}
	}
}
