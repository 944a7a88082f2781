package relay

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"pulsegate/fhir"
	"pulsegate/fhir/cluster/hints"
	"pulsegate/fhir/cluster/relay/internal/wire"
	"pulsegate/fhir/store"
	"pulsegate/fhir/store/sharedlog"
)

var (
	// errBusy reports that the sequencer has not committed the batch for a reason of its
	// own.
	errBusy = errors.New("relay: the sequencer does not take the batch")
	// errSilent reports a sequencer that does not answer.
	errSilent = errors.New("relay: the sequencer does not answer")
)

// answer is the sequencer's answer to a batch.
type answer struct {
	at      store.Seq // shown by the sequencer
	result  store.Result
	refusal *fhir.Error
}

// client is a connection to the sequencer.
type client struct {
	*pipe
	holder hints.Holder
	offer  func(*sharedlog.Entry) // or nil; called before later frames are read
	heard  atomic.Bool            // a frame arrived since the last look

	mu      sync.Mutex
	next    uint64
	waiting map[uint64]chan<- frame
	retired bool // closed when no call waits
}

// dial connects to a sequencer.
func dial(ctx context.Context, h hints.Holder, t *Trust, timing Timing,
	offer func(*sharedlog.Entry)) (*client, error) {
	ctx, cancel := context.WithTimeout(ctx, timing.Dial)
	defer cancel()
	d := tls.Dialer{NetDialer: &net.Dialer{}, Config: t.client()}
	conn, err := d.DialContext(ctx, "tcp", h.Address)
	if err != nil {
		return nil, err
	}
	c := &client{pipe: newPipe(conn, t.clock), holder: h, offer: offer, waiting: map[uint64]chan<- frame{}}
	in := bufio.NewReaderSize(conn, bufferSize)
	stop := context.AfterFunc(ctx, func() { c.close(ctx.Err()) })
	hello, err := readFrame(in, 1024)
	if !stop() && err == nil {
		err = ctx.Err()
	}
	if err == nil && (hello.kind != frameHello || string(hello.payload) != h.Instance) {
		err = errors.New("relay: another process listens at the address of the sequencer")
	}
	if err != nil {
		c.close(err)
		return nil, err
	}
	go c.write()
	go c.read(in)
	go c.watch(timing.Silence)
	return c, nil
}

// read passes answers to their calls until the connection ends.
func (c *client) read(in *bufio.Reader) {
	for {
		f, err := readFrame(in, maxFrame)
		if err != nil {
			c.close(err)
			return
		}
		c.heard.Store(true)
		switch f.kind {
		case framePong:
			continue
		case frameEntry:
			e, err := wire.DecodeEntry(f.payload)
			if err != nil {
				c.close(err)
				return
			}
			if c.offer != nil {
				c.offer(e)
			}
			continue
		}
		c.mu.Lock()
		ch := c.waiting[f.call]
		c.mu.Unlock()
		if ch != nil {
			ch <- f // has space for one frame
		}
		c.forget(f.call)
	}
}

// watch sends pings, and closes a connection on which nothing arrives.
func (c *client) watch(silence time.Duration) {
	t := time.NewTicker(silence / 3)
	defer t.Stop()
	for quiet := 0; quiet < 3; quiet++ {
		c.send(frame{kind: framePing})
		select {
		case <-t.C:
		case <-c.done:
			return
		}
		if c.heard.Swap(false) {
			quiet = -1
		}
	}
	c.close(errSilent)
}

// retire closes the connection once no call waits.
func (c *client) retire() {
	c.mu.Lock()
	c.retired = true
	idle := len(c.waiting) == 0
	c.mu.Unlock()
	if idle {
		c.close(errClosed)
	}
}

// forget removes a call.
func (c *client) forget(call uint64) {
	c.mu.Lock()
	delete(c.waiting, call)
	idle := c.retired && len(c.waiting) == 0
	c.mu.Unlock()
	if idle {
		c.close(errClosed)
	}
}

// alive reports whether the connection can be used.
func (c *client) alive() bool {
	select {
	case <-c.done:
		return false
	default:
		return true
	}
}

// commit sends an encoded batch and waits for the answer. If it fails, the batch may
// have been committed or not.
func (c *client) commit(payload []byte, b *store.Batch, limit time.Duration) (answer, error) {
	ch := make(chan frame, 1)
	c.mu.Lock()
	c.next++
	call := c.next
	c.waiting[call] = ch
	c.mu.Unlock()
	defer c.forget(call)
	if !c.send(frame{kind: frameCommit, call: call, payload: payload}) {
		return answer{}, errClosed
	}
	t := time.NewTimer(limit)
	defer t.Stop()
	select {
	case f := <-ch:
		return decodeAnswer(f, b)
	case <-c.done:
		select {
		case f := <-ch:
			return decodeAnswer(f, b)
		default:
			return answer{}, c.err
		}
	case <-t.C:
		return answer{}, errSilent
	}
}

func decodeAnswer(f frame, b *store.Batch) (a answer, err error) {
	if f.kind == frameBusy {
		return a, errBusy
	}
	at, n := binary.Uvarint(f.payload)
	if n <= 0 {
		return a, errFrame
	}
	a.at = store.Seq(at)
	switch f.kind {
	case frameResult:
		a.result, err = wire.DecodeResult(f.payload[n:], b)
		return a, err
	case frameRefusal:
		var ok bool
		if a.refusal, ok = wire.DecodeError(f.payload[n:]); ok {
			return a, nil
		}
	}
	return a, errFrame
}
