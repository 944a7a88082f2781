// Package mail sends the e-mails of subscriptions through one SMTP server, which the
// operator configures.
//
// It owns the SMTP exchange and the form of a message. It does not own the text, which
// contains no health data, or retries. The server is not chosen by clients, so the policy
// of fhir/egress does not apply to it; the recipients are, so that they must be in the
// domains that the operator names.
package mail

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"mime"
	"net"
	"net/smtp"
	"slices"
	"strings"
	"time"

	"pulsegate/fhir"
	"pulsegate/fhir/egress"
)

// Values of Config.TLS.
const (
	STARTTLS = "starttls" // the default
	Implicit = "implicit" // TLS from the first byte (RFC 8314)
	Plain    = "none"     // for a server on the same machine
)

// Config configures a Sender.
type Config struct {
	Server             string // host:port
	TLS                string
	Username, Password string // without a Username, the Sender does not authenticate
	From               string // address
	// Domains lists the domains to which mail may be sent.
	Domains []string
	// Client is the base configuration of TLS (root CAs). It may be nil.
	Client *tls.Config
	// Timeout bounds an exchange. The default is 30 seconds.
	Timeout time.Duration
	Clock   func() time.Time
}

// Sender sends e-mails. It is safe for concurrent use.
type Sender struct{ config Config }

// New checks a configuration.
func New(c Config) (*Sender, error) {
	const op = "mail.New"
	host, _, err := net.SplitHostPort(c.Server)
	if c.TLS == "" {
		c.TLS = STARTTLS
	}
	switch {
	case err != nil || host == "":
		return nil, fhir.Errorf(fhir.Invalid, op, "server: must be host:port")
	case !slices.Contains([]string{STARTTLS, Implicit, Plain}, c.TLS):
		return nil, fhir.Errorf(fhir.Invalid, op, "tls: must be starttls, implicit or none")
	case c.TLS == Plain && !loopback(host):
		return nil, fhir.Errorf(fhir.Invalid, op, "tls: none is allowed for a server on this machine only")
	case !address(c.From):
		return nil, fhir.Errorf(fhir.Invalid, op, "from: must be an address")
	case len(c.Domains) == 0:
		return nil, fhir.Errorf(fhir.Invalid, op, "domains: name the domains to which mail may be sent")
	case c.Clock == nil:
		return nil, fhir.Errorf(fhir.Internal, op, "Clock is required")
	}
	if c.Timeout <= 0 {
		c.Timeout = 30 * time.Second
	}
	return &Sender{c}, nil
}

func loopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// address reports whether s is an address that needs no quoting.
func address(s string) bool {
	local, domain, ok := strings.Cut(s, "@")
	return ok && local != "" && domain != "" && len(s) <= 254 && !strings.ContainsAny(s, " \t\r\n<>\"\\,;:()[]") &&
		!strings.Contains(domain, "@")
}

// ErrRecipient says that the operator does not allow mail to a recipient.
var ErrRecipient = errors.New("mail to this domain is not allowed")

// Allowed reports whether mail to an address is allowed.
func (s *Sender) Allowed(to string) bool {
	_, domain, _ := strings.Cut(to, "@")
	known := func(d string) bool { return strings.EqualFold(d, domain) }
	return address(to) && slices.ContainsFunc(s.config.Domains, known)
}

// Mail implements subscription.Mailer.
func (s *Sender) Mail(ctx context.Context, to, subject, text string) (err error) {
	if !s.Allowed(to) {
		return ErrRecipient
	}
	ctx, cancel := context.WithTimeout(ctx, s.config.Timeout)
	defer cancel()
	conn, err := s.dial(ctx)
	if err != nil {
		return err
	}
	defer context.AfterFunc(ctx, func() {
		// The exchange fails when its connection has a deadline in the past.
		_ = conn.SetDeadline(time.Unix(1, 0))
	})()
	host, _, _ := net.SplitHostPort(s.config.Server)
	c, err := smtp.NewClient(conn, host)
	if err != nil {
		return errors.Join(err, conn.Close())
	}
	if err := s.exchange(c, host, to, subject, text); err != nil {
		return errors.Join(err, c.Close())
	}
	return c.Quit()
}

func (s *Sender) client(host string) *tls.Config {
	conf := &tls.Config{}
	if s.config.Client != nil {
		conf = s.config.Client.Clone()
	}
	conf.ServerName, conf.MinVersion = host, tls.VersionTLS12
	if conf.CipherSuites == nil {
		conf.CipherSuites = egress.AEADSuites()
	}
	return conf
}

func (s *Sender) dial(ctx context.Context) (net.Conn, error) {
	host, _, err := net.SplitHostPort(s.config.Server)
	if err != nil {
		return nil, err
	}
	if s.config.TLS == Implicit {
		return (&tls.Dialer{Config: s.client(host)}).DialContext(ctx, "tcp", s.config.Server)
	}
	return (&net.Dialer{}).DialContext(ctx, "tcp", s.config.Server)
}

func (s *Sender) exchange(c *smtp.Client, host, to, subject, text string) error {
	if s.config.TLS == STARTTLS {
		// A server that does not offer it fails here, so that nothing is sent in the clear.
		if err := c.StartTLS(s.client(host)); err != nil {
			return err
		}
	}
	if s.config.Username != "" {
		if err := c.Auth(smtp.PlainAuth("", s.config.Username, s.config.Password, host)); err != nil {
			return err
		}
	}
	if err := c.Mail(s.config.From); err != nil {
		return err
	}
	if err := c.Rcpt(to); err != nil {
		return err
	}
	w, err := c.Data()
	if err != nil {
		return err
	}
	head := fmt.Sprintf("From: %s\r\nTo: %s\r\nSubject: %s\r\nDate: %s\r\nMessage-ID: <%s@pulsegate>\r\n"+
		"Auto-Submitted: auto-generated\r\nMIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\n"+
		"Content-Transfer-Encoding: 8bit\r\n\r\n", s.config.From, to, mime.QEncoding.Encode("utf-8", subject),
		s.config.Clock().UTC().Format(time.RFC1123Z), fhir.RandomID())
	if _, err := w.Write([]byte(head + strings.ReplaceAll(text, "\n", "\r\n"))); err != nil {
		return err
	}
	return w.Close()
}
