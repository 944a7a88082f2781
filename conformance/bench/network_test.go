package main

import (
	"bytes"
	"io"
	"net"
	"testing"
	"testing/synctest"
	"time"
)

// sent sends 100 pieces in one moment through a copier between two connections. It returns
// when the first and the last arrived, and whether they were intact and in order.
func sent(t *testing.T, through func(to, from net.Conn, delay func() time.Duration) error) (
	first, last time.Duration, intact bool,
) {
	t.Helper()
	in, from := net.Pipe()
	to, out := net.Pipe()
	ended := make(chan error, 1)
	go func() { ended <- through(to, from, func() time.Duration { return 5 * time.Millisecond }) }()
	var want bytes.Buffer
	begin := time.Now()
	go func() {
		for i := range 100 {
			p := bytes.Repeat([]byte{byte(i)}, 1000)
			want.Write(p)
			if _, err := in.Write(p); err != nil {
				t.Error(err)
			}
		}
		_ = in.Close()
	}()
	got := make([]byte, 100_000)
	for n := 0; n < len(got); {
		k, err := out.Read(got[n:])
		if err != nil {
			t.Fatal(err)
		}
		if n == 0 {
			first = time.Since(begin)
		}
		n += k
	}
	last = time.Since(begin)
	if _, err := out.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("after the end of the data: error %v, want EOF", err)
	}
	if err := <-ended; err != nil {
		t.Error(err)
	}
	return first, last, bytes.Equal(got, want.Bytes())
}

// TestCarry sends many pieces in one moment. All arrive one delay later. The control sleeps
// for each piece, which limits the throughput.
func TestCarry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		first, last, intact := sent(t, carry)
		if first != 5*time.Millisecond || last != first || !intact {
			t.Errorf("the first piece after %v, the last after %v, intact %v, want 5ms, 5ms, true", first, last, intact)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		_, last, _ := sent(t, func(to, from net.Conn, delay func() time.Duration) error {
			b := make([]byte, pieceBytes)
			for {
				n, err := from.Read(b)
				if err != nil {
					return to.Close()
				}
				time.Sleep(delay())
				if _, err := to.Write(b[:n]); err != nil {
					return err
				}
			}
		})
		if last < 100*5*time.Millisecond {
			t.Errorf("pieces in series arrived after %v: the test cannot tell them from a delay", last)
		}
	})
}

// TestCarryClosed closes the receiving side while pieces are under way.
func TestCarryClosed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		in, from := net.Pipe()
		to, out := net.Pipe()
		ended := make(chan error, 1)
		go func() { ended <- carry(to, from, func() time.Duration { return time.Second }) }()
		if _, err := in.Write([]byte("x")); err != nil {
			t.Fatal(err)
		}
		_ = out.Close()
		if err := <-ended; err == nil {
			t.Error("the loss of data was not reported")
		}
		if _, err := in.Write([]byte("y")); err == nil {
			t.Error("the sender's connection is still open")
		}
	})
}

// TestNetwork sends an answer through a network to a server and closes it.
func TestNetwork(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() { _, _ = io.Copy(c, c); _ = c.Close() }()
		}
	}()
	defer func() { _ = l.Close() }()
	n, err := newNetwork(l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	n.set(2 * time.Millisecond)
	if n.oneWay() != time.Millisecond {
		t.Errorf("one way takes %v of 2 ms", n.oneWay())
	}
	c, err := net.Dial("tcp", n.addr())
	if err != nil {
		t.Fatal(err)
	}
	begin := time.Now()
	if _, err := io.WriteString(c, "hello"); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 5)
	if _, err := io.ReadFull(c, b); err != nil || string(b) != "hello" {
		t.Fatalf("got %q, %v", b, err)
	}
	if took := time.Since(begin); took < 2*time.Millisecond { // a lower bound on any machine
		t.Errorf("the round trip took %v, want at least 2ms", took)
	}
	if err := n.close(); err != nil {
		t.Error(err)
	}
	if _, err := c.Read(b); err == nil {
		t.Error("the connection is still open")
	}
}
