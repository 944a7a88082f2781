package netns

import (
	"encoding/binary"
	"errors"
	"io"
	"math/rand/v2"
	"net/netip"
	"os"
	"sync"
	"time"
)

// Condition is the condition of the network from one address to another. The zero
// Condition passes all packets without delay.
type Condition struct {
	Cut   bool          // no packet arrives
	Delay time.Duration // of each packet
	Loss  float64       // the share of packets that do not arrive
}

// Counts are numbers of packets from one address to another.
type Counts struct{ Passed, Dropped int }

// mtu is the size of the largest packet in bytes, that of Ethernet's jumbo frames.
const mtu = 9000

// waiting is the number of delayed packets between two addresses. More are dropped, as
// a router drops them.
const waiting = 4096

// Switch forwards IPv4 packets between devices.
type Switch struct {
	done    chan struct{} // closed by Close
	running sync.WaitGroup

	// mu guards the fields below.
	mu      sync.Mutex
	random  *rand.Rand
	devices map[netip.Addr]io.ReadWriteCloser
	lines   map[[2]netip.Addr]*line
	closed  bool
}

// line is one direction between two addresses. Its fields are guarded by Switch.mu.
type line struct {
	condition Condition
	counts    Counts
	queue     chan delayed // nil until a packet is delayed
}

type delayed struct {
	packet []byte
	due    time.Time
	to     io.Writer
}

// NewSwitch returns a switch without devices. The seed decides which packets are lost.
func NewSwitch(seed uint64) *Switch {
	return &Switch{done: make(chan struct{}), random: rand.New(rand.NewPCG(seed, 1)),
		devices: map[netip.Addr]io.ReadWriteCloser{}, lines: map[[2]netip.Addr]*line{}}
}

// Attach forwards the packets that are read from device, and writes to it the packets
// for addr. One read or write is one packet. The switch closes the device.
func (s *Switch) Attach(addr netip.Addr, device io.ReadWriteCloser) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed || s.devices[addr] != nil {
		return errors.Join(errors.New("netns: the address is in use, or the switch is closed"), device.Close())
	}
	s.devices[addr] = device
	s.running.Go(func() { s.read(addr, device) })
	return nil
}

// Set sets the condition of the network from one address to another.
func (s *Switch) Set(from, to netip.Addr, c Condition) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.line(from, to).condition = c
}

// Counts returns the numbers of packets so far from one address to another.
func (s *Switch) Counts(from, to netip.Addr) Counts {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.line(from, to).counts
}

// Close closes all devices.
func (s *Switch) Close() error {
	s.mu.Lock()
	var errs []error
	if !s.closed {
		s.closed = true
		close(s.done)
		for _, d := range s.devices {
			errs = append(errs, d.Close())
		}
	}
	s.mu.Unlock()
	s.running.Wait()
	return errors.Join(errs...)
}

// line returns the line between two addresses. s.mu is held.
func (s *Switch) line(from, to netip.Addr) *line {
	l := s.lines[[2]netip.Addr{from, to}]
	if l == nil {
		l = &line{}
		s.lines[[2]netip.Addr{from, to}] = l
	}
	return l
}

// read forwards the packets of a device until the switch is closed.
func (s *Switch) read(addr netip.Addr, device io.Reader) {
	b := make([]byte, mtu)
	for {
		n, err := device.Read(b)
		if err != nil {
			if errors.Is(err, os.ErrClosed) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrClosedPipe) {
				return
			}
			select { // the interface is down
			case <-s.done:
				return
			case <-time.After(10 * time.Millisecond):
			}
			continue
		}
		s.forward(addr, b[:n])
	}
}

// destination returns the source and the destination of an IPv4 packet (RFC 791,
// section 3.1).
func destination(packet []byte) (from, to netip.Addr, ok bool) {
	if len(packet) < 20 || packet[0]>>4 != 4 || int(binary.BigEndian.Uint16(packet[2:])) != len(packet) {
		return from, to, false
	}
	return netip.AddrFrom4([4]byte(packet[12:16])), netip.AddrFrom4([4]byte(packet[16:20])), true
}

// forward sends a packet of the device at addr on, or drops it.
func (s *Switch) forward(addr netip.Addr, packet []byte) {
	from, to, ok := destination(packet)
	if !ok || from != addr {
		return
	}
	device, passes := s.route(from, to, packet)
	if !passes {
		return
	}
	if _, err := device.Write(packet); err != nil {
		s.mu.Lock()
		defer s.mu.Unlock()
		counts := &s.line(from, to).counts
		counts.Passed, counts.Dropped = counts.Passed-1, counts.Dropped+1
	}
}

// route counts a packet and returns the device that it is for. It returns false if the
// packet was dropped, or waits in a queue.
func (s *Switch) route(from, to netip.Addr, packet []byte) (io.Writer, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	device := s.devices[to]
	if device == nil || s.closed {
		return nil, false
	}
	l := s.line(from, to)
	c := l.condition
	if c.Cut || c.Loss > 0 && s.random.Float64() < c.Loss {
		l.counts.Dropped++
		return nil, false
	}
	l.counts.Passed++
	if c.Delay == 0 {
		return device, true
	}
	if l.queue == nil {
		l.queue = make(chan delayed, waiting)
		queue := l.queue
		s.running.Go(func() { s.deliver(queue) })
	}
	select {
	case l.queue <- delayed{append([]byte(nil), packet...), time.Now().Add(c.Delay), device}:
	default:
		l.counts.Passed, l.counts.Dropped = l.counts.Passed-1, l.counts.Dropped+1
	}
	return nil, false
}

// deliver writes delayed packets when they are due.
func (s *Switch) deliver(queue <-chan delayed) {
	for {
		select {
		case <-s.done:
			return
		case d := <-queue:
			select {
			case <-s.done:
				return
			case <-time.After(time.Until(d.due)):
			}
			_, _ = d.to.Write(d.packet) // fails while the interface is down
		}
	}
}
