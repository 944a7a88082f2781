// Package nats publishes notifications to a stream of NATS JetStream. It is the example of
// a subscription.Publisher that works with a real broker, and shows what one for Kafka or
// AMQP needs: a place for a subject, and a call that returns once the broker has stored
// the message.
//
// It speaks the NATS client protocol (https://docs.nats.io/reference/nats-protocols) over
// one connection, which it opens when it is needed and after an error. A message is
// acknowledged by JetStream when the stream has stored it; a subject without a stream is
// an error.
package nats

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"sync"
	"time"

	"pulsegate/fhir"
	"pulsegate/fhir/egress"
	"pulsegate/fhir/subscription"
)

// Config configures a Publisher.
type Config struct {
	Server string // host:port
	// Prefix begins every subject: Prefix.<client>.<subscription>.
	Prefix string
	// User and Password, or Token, authenticate this server to the broker.
	User, Password, Token string
	// TLS, if set, is used after the greeting of the server.
	TLS *tls.Config
}

// DefaultTLS returns the configuration of TLS for a server with a certificate that the
// system trusts.
func DefaultTLS() *tls.Config {
	return &tls.Config{MinVersion: tls.VersionTLS12, CipherSuites: egress.AEADSuites()}
}

// Publisher implements subscription.Publisher. Publications are sent one at a time.
type Publisher struct {
	config Config

	mu   sync.Mutex // held while a message is published
	conn *conn      // nil without a connection, guarded by mu
}

var _ subscription.Publisher = (*Publisher)(nil)

// New checks a configuration.
func New(c Config) (*Publisher, error) {
	if host, _, err := net.SplitHostPort(c.Server); err != nil || host == "" {
		return nil, fhir.Errorf(fhir.Invalid, "nats.New", "server: must be host:port")
	}
	if c.Prefix == "" || strings.ContainsAny(c.Prefix, " \t\r\n*>") || strings.HasPrefix(c.Prefix, "$") {
		return nil, fhir.Errorf(fhir.Invalid, "nats.New", "prefix: must be a subject without wildcards")
	}
	return &Publisher{config: c}, nil
}

type conn struct {
	net.Conn
	in *bufio.Reader
}

const (
	maxLine    = 64 << 10 // the greeting is the longest line
	maxReply   = 64 << 10
	ackInbox   = "_INBOX.pulsegate."
	ackSubject = "1" // id of the NATS subscription to the acknowledgments
)

// errProtocol says that the server has not answered as the protocol demands.
var errProtocol = errors.New("nats: unexpected answer")

// Publish implements subscription.Publisher.
func (p *Publisher) Publish(ctx context.Context, m subscription.Publication) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.conn == nil {
		c, err := p.connect(ctx)
		if err != nil {
			return err
		}
		p.conn = c
	}
	err := p.conn.publish(ctx, p.config.Prefix+"."+m.Subject, m)
	if err != nil {
		err = errors.Join(err, p.conn.Close())
		p.conn = nil
	}
	return err
}

// Close closes the connection.
func (p *Publisher) Close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.conn == nil {
		return nil
	}
	err := p.conn.Close()
	p.conn = nil
	return err
}

// until gives the connection the deadline of ctx, or one in the past when ctx ends.
func (c *conn) until(ctx context.Context) (stop func() bool) {
	if d, ok := ctx.Deadline(); ok {
		_ = c.SetDeadline(d)
	} else {
		_ = c.SetDeadline(time.Time{})
	}
	return context.AfterFunc(ctx, func() { _ = c.SetDeadline(time.Unix(1, 0)) })
}

func (p *Publisher) connect(ctx context.Context) (*conn, error) {
	raw, err := (&net.Dialer{}).DialContext(ctx, "tcp", p.config.Server)
	if err != nil {
		return nil, err
	}
	c := &conn{Conn: raw, in: bufio.NewReaderSize(raw, maxLine)}
	stop := c.until(ctx)
	defer stop()
	if err := p.greet(ctx, c); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return c, nil
}

func (p *Publisher) greet(ctx context.Context, c *conn) error {
	line, err := c.line()
	if err != nil {
		return err
	}
	info, ok := strings.CutPrefix(line, "INFO ")
	var have struct {
		Headers   bool `json:"headers"`
		JetStream bool `json:"jetstream"`
	}
	if !ok || json.Unmarshal([]byte(info), &have) != nil || !have.Headers || !have.JetStream {
		return fmt.Errorf("%w: the server must have JetStream", errProtocol)
	}
	if p.config.TLS != nil {
		conf := p.config.TLS.Clone()
		conf.MinVersion = max(conf.MinVersion, tls.VersionTLS12)
		if conf.ServerName == "" {
			conf.ServerName, _, _ = net.SplitHostPort(p.config.Server)
		}
		secure := tls.Client(c.Conn, conf)
		if err := secure.HandshakeContext(ctx); err != nil {
			return err
		}
		c.Conn, c.in = secure, bufio.NewReaderSize(secure, maxLine)
	}
	options, err := json.Marshal(map[string]any{"verbose": false, "pedantic": false, "headers": true, "lang": "go",
		"version": "1", "name": "pulsegate", "no_responders": true, "protocol": 1, "user": p.config.User,
		"pass": p.config.Password, "auth_token": p.config.Token, "tls_required": p.config.TLS != nil})
	if err != nil {
		return err
	}
	if _, err := fmt.Fprintf(c, "CONNECT %s\r\nSUB %s* %s\r\nPING\r\n", options, ackInbox, ackSubject); err != nil {
		return err
	}
	for {
		switch line, err := c.line(); {
		case err != nil:
			return err
		case line == "PONG":
			return nil
		case line == "PING":
			if _, err := io.WriteString(c, "PONG\r\n"); err != nil {
				return err
			}
		case strings.HasPrefix(line, "INFO "), line == "+OK":
		default:
			return errProtocol // -ERR may hold the user's name
		}
	}
}

// line reads one line of the protocol without its end.
func (c *conn) line() (string, error) {
	b, err := c.in.ReadSlice('\n')
	if err != nil {
		return "", err
	}
	return strings.TrimSuffix(string(b[:len(b)-1]), "\r"), nil
}

// publish sends a message and waits for the acknowledgment of the stream.
func (c *conn) publish(ctx context.Context, subject string, m subscription.Publication) error {
	stop := c.until(ctx)
	defer stop()
	inbox := ackInbox + m.ID
	header := "NATS/1.0\r\nNats-Msg-Id: " + m.ID + "\r\nContent-Type: " + m.ContentType + "\r\n\r\n"
	if _, err := fmt.Fprintf(c, "HPUB %s %s %d %d\r\n%s", subject, inbox, len(header), len(header)+len(m.Body),
		header); err != nil {
		return err
	}
	if _, err := c.Write(append(m.Body[:len(m.Body):len(m.Body)], '\r', '\n')); err != nil {
		return err
	}
	for {
		line, err := c.line()
		if err != nil {
			return err
		}
		f := strings.Fields(line)
		switch {
		case line == "PING":
			if _, err := io.WriteString(c, "PONG\r\n"); err != nil {
				return err
			}
		case line == "PONG", line == "+OK", strings.HasPrefix(line, "INFO "):
		case len(f) >= 4 && (f[0] == "MSG" || f[0] == "HMSG"):
			body, err := c.payload(f)
			if err != nil {
				return err
			}
			if f[1] != inbox {
				continue // of a message whose publisher gave up
			}
			return stored(f[0], body)
		default:
			return errProtocol
		}
	}
}

// payload reads the payload of a message whose line has the fields f.
func (c *conn) payload(f []string) ([]byte, error) {
	n, err := strconv.Atoi(f[len(f)-1])
	if err != nil || n < 0 || n > maxReply {
		return nil, errProtocol
	}
	body := make([]byte, n+2)
	if _, err := io.ReadFull(c.in, body); err != nil {
		return nil, err
	}
	return body[:n], nil
}

// stored reports whether an acknowledgment says that a stream has stored the message. A
// message with headers says that no stream has the subject.
func stored(verb string, body []byte) error {
	var ack struct {
		Stream string
		Error  *struct{ Code int }
	}
	if verb != "MSG" || json.Unmarshal(body, &ack) != nil || ack.Error != nil || ack.Stream == "" {
		return fmt.Errorf("%w: no stream has stored the message", errProtocol)
	}
	return nil
}
