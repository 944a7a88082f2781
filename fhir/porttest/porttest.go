// Package porttest reserves TCP ports for servers that tests start, and that must
// know their address before they listen, or listen at it again after they were killed.
package porttest

import (
	"errors"
	"math/rand/v2"
	"net"
	"strconv"
	"sync"
)

// The ports are below those that systems give to outgoing connections and to listeners
// without a port (from 32768 on Linux, from 49152 elsewhere): one of these may be in
// use again as soon as it is free.
const (
	lowest = 15000
	count  = 17000
)

// reserved holds a UDP socket at each port of Reserve. No two processes can have it, and
// the system closes it when the process ends.
var (
	mu       sync.Mutex
	reserved []net.PacketConn
)

// Reserve returns a port of the loopback interface at which nothing listens, and which
// no call of Reserve on this machine returns again until this process has ended.
func Reserve() (int, error) {
	first := rand.IntN(count)
	for i := range count {
		port := lowest + (first+i)%count
		if p := claim("127.0.0.1:" + strconv.Itoa(port)); p != nil {
			mu.Lock()
			reserved = append(reserved, p)
			mu.Unlock()
			return port, nil
		}
	}
	return 0, errors.New("no port is free")
}

// claim returns the reservation of a TCP address, or nil if it is in use.
func claim(addr string) net.PacketConn {
	p, err := net.ListenPacket("udp", addr)
	if err != nil {
		return nil
	}
	l, err := net.Listen("tcp", addr)
	if err == nil {
		err = l.Close()
	}
	if err != nil {
		_ = p.Close()
		return nil
	}
	return p
}
