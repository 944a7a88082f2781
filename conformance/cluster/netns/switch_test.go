package netns

import (
	"bytes"
	"errors"
	"io"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"
)

var one, two = netip.MustParseAddr("10.77.0.1"), netip.MustParseAddr("10.77.0.2")

// device is a device in memory. Its reader and its writer are channels of packets.
type device struct {
	in  chan []byte
	out chan []byte
}

func newDevice() *device { return &device{make(chan []byte), make(chan []byte, 100)} }

func (d *device) Read(b []byte) (int, error) {
	p, ok := <-d.in
	if !ok {
		return 0, io.EOF
	}
	return copy(b, p), nil
}
func (d *device) Write(p []byte) (int, error) {
	d.out <- bytes.Clone(p)
	return len(p), nil
}
func (d *device) Close() error { close(d.in); return nil }

// packet returns an IPv4 packet with one byte of data.
func packet(from, to netip.Addr, data byte) []byte {
	p := make([]byte, 21)
	p[0], p[3], p[20] = 0x45, 21, data
	copy(p[12:], from.AsSlice())
	copy(p[16:], to.AsSlice())
	return p
}

// TestSwitch cuts, delays and loses packets in one direction, and not in the other.
func TestSwitch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := NewSwitch(1)
		a, b := newDevice(), newDevice()
		for addr, d := range map[netip.Addr]*device{one: a, two: b} {
			if err := s.Attach(addr, d); err != nil {
				t.Fatal(err)
			}
		}
		// send sends a packet and returns how long it takes, or -1.
		send := func(from, to netip.Addr, data byte) time.Duration {
			t.Helper()
			in, out := a, b
			if from == two {
				in, out = b, a
			}
			begin := time.Now()
			in.in <- packet(from, to, data)
			synctest.Wait()
			select {
			case p := <-out.out:
				if !bytes.Equal(p, packet(from, to, data)) {
					t.Errorf("the packet %x arrives as %x", packet(from, to, data), p)
				}
				return time.Since(begin)
			case <-time.After(time.Minute):
				return -1
			}
		}
		if there, back := send(one, two, 1), send(two, one, 2); there != 0 || back != 0 {
			t.Errorf("packets take %s and %s, want 0 and 0", there, back)
		}
		s.Set(one, two, Condition{Cut: true})
		if there, back := send(one, two, 3), send(two, one, 4); there != -1 || back != 0 {
			t.Errorf("while one direction is cut, packets take %s and %s, want -1 ns and 0", there, back)
		}
		s.Set(one, two, Condition{Delay: time.Second})
		if there, back := send(one, two, 5), send(two, one, 6); there != time.Second || back != 0 {
			t.Errorf("while one direction is slow, packets take %s and %s, want 1s and 0", there, back)
		}
		s.Set(one, two, Condition{Loss: 1})
		if there := send(one, two, 7); there != -1 {
			t.Errorf("while all packets are lost, one takes %s", there)
		}
		s.Set(one, two, Condition{})
		if there := send(one, two, 8); there != 0 {
			t.Errorf("after that, a packet takes %s", there)
		}
		if got, want := s.Counts(one, two), (Counts{Passed: 3, Dropped: 2}); got != want {
			t.Errorf("counts %+v, want %+v", got, want)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
}

// TestForeignPackets drops bytes that are no packet, and packets with a wrong source or
// without a receiver.
func TestForeignPackets(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := NewSwitch(1)
		a, b := newDevice(), newDevice()
		if err := errors.Join(s.Attach(one, a), s.Attach(two, b)); err != nil {
			t.Fatal(err)
		}
		six, short := packet(one, two, 1), packet(one, two, 1)
		six[0], short[3] = 0x60, 22
		for _, p := range [][]byte{nil, {0x45}, six, short, packet(two, one, 1),
			packet(one, netip.MustParseAddr("10.77.0.3"), 1)} {
			a.in <- p
		}
		a.in <- packet(one, two, 9)
		synctest.Wait()
		if p := <-b.out; p[20] != 9 || len(b.out) != 0 || len(a.out) != 0 {
			t.Errorf("the switch forwards %x and %d more", p, len(b.out)+len(a.out))
		}
		if s.Attach(one, newDevice()) == nil {
			t.Error("an address is given twice")
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
}
