package clusterrun

import "net"

// Place is the network of a server: this process's loopback interface, or a network
// namespace.
type Place struct {
	IP string
	// Do calls a function that listens, connects or starts a process there.
	Do func(func() error) error
}

// Loopback is this process's own loopback interface.
var Loopback = Place{IP: "127.0.0.1", Do: func(do func() error) error { return do() }}

// Free returns an address with a free port.
func (p Place) Free() (addr string, err error) {
	err = p.Do(func() error {
		l, err := net.Listen("tcp4", net.JoinHostPort(p.IP, "0"))
		if err != nil {
			return err
		}
		addr = l.Addr().String()
		return l.Close()
	})
	return addr, err
}
