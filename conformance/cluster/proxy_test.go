package main

import (
	"bufio"
	"io"
	"net"
	"testing"
)

// echo serves a server that returns each line.
func echo(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				_, _ = io.Copy(c, c)
				_ = c.Close()
			}()
		}
	}()
	return l.Addr().String()
}

func dial(t *testing.T, p *proxy) (net.Conn, *bufio.Reader) {
	t.Helper()
	c, err := net.Dial("tcp", p.addr())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c, bufio.NewReader(c)
}

func TestProxy(t *testing.T) {
	p, err := newProxy(echo(t))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = p.close() }()
	c, r := dial(t, p)
	say := func() error {
		if _, err := io.WriteString(c, "hello\n"); err != nil {
			return err
		}
		_, err := r.ReadString('\n')
		return err
	}
	if err := say(); err != nil {
		t.Fatal(err)
	}
	p.set(hold, 0)
	answer := make(chan error, 1)
	go func() { answer <- say() }()
	p.set(pass, 0)
	if err := <-answer; err != nil {
		t.Errorf("after hold: %v", err)
	}
	p.set(cut, 0)
	if err := say(); err == nil {
		t.Error("a connection that was cut passes data")
	}
	if c, r = dial(t, p); say() == nil {
		t.Error("a new connection passes data while the network is cut")
	}
	p.set(pass, 0)
	if c, r = dial(t, p); say() != nil {
		t.Error("a new connection passes no data after the cut")
	}
}
