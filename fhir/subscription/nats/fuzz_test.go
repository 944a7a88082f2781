package nats

import (
	"bufio"
	"bytes"
	"context"
	"io"
	"net"
	"strings"
	"testing"
	"time"
)

// script is a connection to a server that says the same whatever it gets.
type script struct {
	net.Conn
	says io.Reader
	got  bytes.Buffer
}

func (s *script) Read(b []byte) (int, error)  { return s.says.Read(b) }
func (s *script) Write(b []byte) (int, error) { return s.got.Write(b) }
func (*script) SetDeadline(time.Time) error   { return nil }

// FuzzServer checks that whatever a server says ends the publication, without much memory,
// and that it counts as stored only if the server has acknowledged it.
func FuzzServer(f *testing.F) {
	const info = `INFO {"headers":true,"jetstream":true}` + "\r\n"
	ack := ackInbox + message(1).ID
	for _, s := range []string{"", info, info + "PONG\r\n", info + "+OK\r\nPING\r\nPONG\r\nPING\r\n",
		info + "PONG\r\nMSG " + ack + " 1 15\r\n{\"stream\":\"PG\"}\r\n",
		info + "PONG\r\nMSG other 1 2\r\n{}\r\nMSG " + ack + " 1 15\r\n{\"stream\":\"PG\"}\r\n",
		info + "PONG\r\nHMSG " + ack + " 1 16 16\r\nNATS/1.0 503\r\n\r\n\r\n", info + "PONG\r\nMSG x 1 99999999\r\n",
		info + "PONG\r\nMSG x 1 -1\r\n", "INFO {}\r\n", "-ERR 'x'\r\n", info + "-ERR 'Authorization Violation'\r\n",
		strings.Repeat("x", maxLine+1)} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, says string) {
		s := &script{says: strings.NewReader(says)}
		c := &conn{Conn: s, in: bufio.NewReaderSize(s, maxLine)}
		p := &Publisher{config: Config{Server: "127.0.0.1:4222", Prefix: "pg", Password: "secret"}}
		err := p.greet(context.Background(), c)
		if err == nil {
			err = c.publish(context.Background(), "pg.ehr.s1", message(1))
		}
		switch {
		case err == nil && !(strings.Contains(says, "MSG") && strings.Contains(says, ack)):
			t.Errorf("stored without an acknowledgment: %q", says)
		case err != nil && strings.Contains(err.Error(), "secret"):
			t.Errorf("the error has the password: %v", err)
		}
		if strings.Contains(s.got.String(), "HPUB") && !strings.HasPrefix(says, "INFO ") {
			t.Errorf("published to a server that has not greeted: %q", says)
		}
	})
}
