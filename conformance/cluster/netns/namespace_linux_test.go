package netns

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"
)

func TestMain(m *testing.M) {
	Init()
	if unavailable = Probe(); !Inside() && unavailable == nil {
		code, err := Run()
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
		}
		os.Exit(code)
	}
	os.Exit(m.Run())
}

// unavailable is the reason why there are no namespaces, or nil.
var unavailable error

// spaces returns two namespaces.
func spaces(t *testing.T) (*Network, *Namespace, *Namespace) {
	t.Helper()
	if unavailable != nil && !Inside() {
		t.Skipf("namespaces are not available: %v", unavailable)
	}
	n, err := New(1)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := n.Close(); err != nil {
			t.Error(err)
		}
	})
	a, err := n.Add(one)
	if err != nil {
		t.Fatal(err)
	}
	b, err := n.Add(two)
	if err != nil {
		t.Fatal(err)
	}
	return n, a, b
}

// TestNamespaces cuts connections between real processes' kernels.
func TestNamespaces(t *testing.T) {
	n, a, b := spaces(t)
	var l net.Listener
	if err := a.Do(func() (err error) { l, err = net.Listen("tcp4", "10.77.0.1:7"); return err }); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() { _, _ = io.Copy(c, c); _ = c.Close() }()
		}
	}()
	c, err := b.Dial("10.77.0.1:7", time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	// echo sends a line over the connection.
	echo := func(timeout time.Duration) error {
		if err := c.SetDeadline(time.Now().Add(timeout)); err != nil {
			t.Fatal(err)
		}
		line := []byte("hello\n")
		if _, err := c.Write(line); err != nil {
			return err
		}
		_, err := io.ReadFull(c, line)
		return err
	}
	if err := echo(time.Minute); err != nil {
		t.Fatal(err)
	}
	for name, cut := range map[string]func(bool) error{
		"both": func(cut bool) error {
			n.Set(one, two, Condition{Cut: cut})
			n.Set(two, one, Condition{Cut: cut})
			return nil
		},
		"answers":   func(cut bool) error { n.Set(one, two, Condition{Cut: cut}); return nil },
		"requests":  func(cut bool) error { n.Set(two, one, Condition{Cut: cut}); return nil },
		"interface": func(cut bool) error { return b.Link(!cut) },
	} {
		if err := cut(true); err != nil {
			t.Fatal(err)
		}
		if d, err := b.Dial("10.77.0.1:7", 200*time.Millisecond); err == nil {
			t.Errorf("%s: a new connection passes the cut", name)
			_ = d.Close()
		}
		if err := cut(false); err != nil {
			t.Fatal(err)
		}
		d, err := b.Dial("10.77.0.1:7", time.Minute)
		if err != nil {
			t.Fatalf("%s: after the cut: %v", name, err)
		}
		_ = d.Close()
		// The kernel has kept the connection, and sends again what was lost.
		if err := echo(time.Minute); err != nil {
			t.Errorf("%s: the connection after the cut: %v", name, err)
		}
	}
	n.Set(one, two, Condition{Cut: true})
	if err := echo(200 * time.Millisecond); err == nil {
		t.Error("an open connection passes the cut")
	}
}

// TestLossAndDelay requires that the kernels send again what was lost.
func TestLossAndDelay(t *testing.T) {
	n, a, b := spaces(t)
	for _, pair := range [][2]netip.Addr{{one, two}, {two, one}} {
		n.Set(pair[0], pair[1], Condition{Delay: time.Millisecond, Loss: 0.1})
	}
	var l net.Listener
	if err := a.Do(func() (err error) { l, err = net.Listen("tcp4", "10.77.0.1:9"); return err }); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	sent := bytes.Repeat([]byte("0123456789abcdef"), 20_000)
	go func() {
		if c, err := b.Dial("10.77.0.1:9", time.Minute); err == nil {
			_, _ = c.Write(sent)
			_ = c.Close()
		}
	}()
	c, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(c)
	if err != nil || !bytes.Equal(got, sent) {
		t.Errorf("%d bytes, %v, want %d", len(got), err, len(sent))
	}
	if n.Counts(two, one).Dropped == 0 {
		t.Error("no packet was lost")
	}
}

// TestProcess starts a process in a namespace, which sees that namespace's interfaces
// only, and this process stays in its own.
func TestProcess(t *testing.T) {
	_, a, _ := spaces(t)
	var out []byte
	if err := a.Do(func() (err error) {
		out,
			err = exec.Command("cat", "/proc/net/dev").Output()
		return err
	}); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(out), tun+":") {
		t.Errorf("the process sees\n%s", out)
	}
	here, err := os.ReadFile("/proc/net/dev")
	if err != nil || strings.Contains(string(here), tun+":") {
		t.Errorf("this process sees\n%s, %v", here, err)
	}
}
