//go:build !linux

package netns

import (
	"errors"
	"net"
	"net/netip"
	"time"
)

var errNone = errors.New("network namespaces: only Linux has them")

// Inside reports whether this program may use New.
func Inside() bool { return false }

// Init does nothing.
func Init() {}

// Probe returns an error.
func Probe() error { return errNone }

// Run returns an error.
func Run() (int, error) { return 1, errNone }

// Network is a set of network namespaces.
type Network struct{ *Switch }

// Namespace is a network namespace.
type Namespace struct{ Addr netip.Addr }

// New returns an error.
func New(uint64) (*Network, error) { return nil, errNone }

// Here returns an error.
func (n *Network) Here(netip.Addr) error { return errNone }

// Add returns an error.
func (n *Network) Add(netip.Addr) (*Namespace, error) { return nil, errNone }

// Do returns an error.
func (s *Namespace) Do(func() error) error { return errNone }

// Dial returns an error.
func (s *Namespace) Dial(string, time.Duration) (net.Conn, error) { return nil, errNone }

// Link returns an error.
func (s *Namespace) Link(bool) error { return errNone }
