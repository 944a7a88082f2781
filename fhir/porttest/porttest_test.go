package porttest

import (
	"net"
	"strconv"
	"testing"
)

// TestReserve checks that a port can be listened at again and again, and that neither a
// reserved port nor one in use is given away.
func TestReserve(t *testing.T) {
	seen := map[int]bool{}
	for range 200 {
		port, err := Reserve()
		if err != nil || seen[port] {
			t.Fatal(port, seen[port], err)
		}
		seen[port] = true
		addr := "127.0.0.1:" + strconv.Itoa(port)
		for range 2 {
			l, err := net.Listen("tcp", addr)
			if err != nil {
				t.Fatal(err)
			}
			if err := l.Close(); err != nil {
				t.Fatal(err)
			}
		}
		if p := claim(addr); p != nil {
			t.Fatal("a reserved port was given away")
		}
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if p := claim(l.Addr().String()); p != nil {
		t.Fatal("the port of a listener was given away")
	}
}
