package memlog

import (
	"context"
	"slices"
	"sync"

	"pulsegate/fhir/store/sharedlog"
)

// Client is the connection of one process to the servers. It implements
// sharedlog.Log.
type Client struct {
	cluster *Cluster
	name    string

	// mu guards the fields below.
	mu     sync.Mutex
	calls  uint64
	closed bool
	state  state
	healed chan struct{} // closed by Heal
}

var _ sharedlog.Log = (*Client)(nil)

// state is the state of a connection.
type state int

const (
	connected state = iota
	cut             // calls fail
	hung            // calls wait
)

// Client returns the connection of a process. The name is passed to the Plan.
func (c *Cluster) Client(name string) *Client { return &Client{cluster: c, name: name} }

// Cut cuts the connection: calls fail, and calls under way lose their answers.
func (c *Client) Cut() { c.set(cut) }

// Hang lets calls wait until Heal, or until their contexts end.
func (c *Client) Hang() { c.set(hung) }

// Heal ends Cut and Hang.
func (c *Client) Heal() { c.set(connected) }

func (c *Client) set(s state) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.healed != nil {
		close(c.healed)
		c.healed = nil
	}
	if c.state = s; s == hung {
		c.healed = make(chan struct{})
	}
}

// travel waits while the connection hangs, and fails if it is cut.
func (c *Client) travel(ctx context.Context) error {
	for {
		c.mu.Lock()
		s, healed := c.state, c.healed
		c.mu.Unlock()
		switch s {
		case connected:
			return nil
		case cut:
			return ErrLost
		}
		select {
		case <-healed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// begin counts a call of the client and returns its fault.
func (c *Client) begin(op Op, index uint64) (Fault, error) {
	c.mu.Lock()
	c.calls++
	call := Call{Client: c.name, Number: c.calls, Op: op, Index: index}
	closed := c.closed
	c.mu.Unlock()
	if closed {
		return Fault{}, ErrClosed
	}
	var f Fault
	if c.cluster.options.Plan != nil {
		f = c.cluster.options.Plan(call)
	}
	c.cluster.begin(f)
	return f, nil
}

// pass waits for the part of a call's latency that passes in one direction.
func (c *Client) pass(ctx context.Context, f Fault) error {
	if d := (c.cluster.options.Latency + f.Latency) / 2; d > 0 {
		return c.cluster.options.Sleep(ctx, d)
	}
	return ctx.Err()
}

// call sends a request, lets the servers act, and waits for the answer. e is the entry
// of an append, and nil for the other operations.
func (c *Client) call(ctx context.Context, op Op, e *sharedlog.Entry, serve func() error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	var index uint64
	if e != nil {
		index = e.Index
	}
	f, err := c.begin(op, index)
	if err != nil {
		return err
	}
	if f.Held != nil {
		select {
		case <-f.Held:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	if err := c.travel(ctx); err != nil {
		return err
	}
	if err := c.pass(ctx, f); err != nil {
		return err
	}
	switch {
	case f.LoseRequest:
		return ErrLost
	case f.Late > 0 && e != nil:
		c.cluster.delay(e, f.Late)
		return ErrLost
	}
	err = serve()
	if err := c.pass(ctx, f); err != nil {
		return err
	}
	if err := c.travel(ctx); err != nil {
		return err
	}
	if f.LoseAnswer {
		return ErrLost
	}
	return err
}

// Identity implements sharedlog.Log.
func (c *Client) Identity(ctx context.Context) (sharedlog.Identity, error) {
	var id sharedlog.Identity
	err := c.call(ctx, OpIdentity, nil, func() error {
		c.cluster.mu.Lock()
		defer c.cluster.mu.Unlock()
		id = c.cluster.identity
		return nil
	})
	if err != nil {
		return sharedlog.Identity{}, err
	}
	return id, nil
}

// SetIdentity implements sharedlog.Log.
func (c *Client) SetIdentity(ctx context.Context, old, now sharedlog.Identity) (bool, error) {
	var set bool
	err := c.call(ctx, OpSetIdentity, nil, func() error {
		c.cluster.mu.Lock()
		defer c.cluster.mu.Unlock()
		if set = c.cluster.identity == old; set {
			c.cluster.identity = now
		}
		return nil
	})
	return set && err == nil, err
}

// Append implements sharedlog.Log. If the servers have an identity, an entry of another
// epoch fails with ErrEpoch. An entry before the place up to which the log was
// truncated fails with ErrTruncated.
func (c *Client) Append(ctx context.Context, e *sharedlog.Entry) error {
	if len(e.Rows) > sharedlog.MaxRows {
		return sharedlog.ErrTooLarge
	}
	sent := clone(e)
	return c.call(ctx, OpAppend, &sent, func() error { return c.cluster.append(ctx, &sent) })
}

// clone returns a copy that shares no memory with e.
func clone(e *sharedlog.Entry) sharedlog.Entry {
	out := *e
	out.Touched, out.Rows = slices.Clone(e.Touched), slices.Clone(e.Rows)
	return out
}

// Read implements sharedlog.Log. If the answer is lost, the first half of the entries
// arrives. Every reader gets copies of its own.
func (c *Client) Read(ctx context.Context, p sharedlog.Position,
	fn func(e *sharedlog.Entry, sum sharedlog.Hash) bool) error {

	var entries []*stored
	var refused error
	err := c.call(ctx, OpRead, nil, func() error {
		entries, refused = c.cluster.read(p)
		return refused
	})
	if err != nil {
		entries = entries[:len(entries)/2]
	}
	for _, s := range entries {
		if cancelled := ctx.Err(); cancelled != nil {
			return cancelled
		}
		e := clone(&s.entry)
		if e.Sum() != s.sum {
			return ErrDamaged
		}
		if !fn(&e, s.sum) {
			return nil
		}
	}
	return err
}

// Truncate implements sharedlog.Log. It keeps the last entry.
func (c *Client) Truncate(ctx context.Context, index uint64) error {
	return c.call(ctx, OpTruncate, nil, func() error {
		c.cluster.truncate(index)
		return nil
	})
}

// Bounds implements sharedlog.Log.
func (c *Client) Bounds(ctx context.Context) (first, last uint64, err error) {
	err = c.call(ctx, OpBounds, nil, func() error {
		first, last = c.cluster.bounds()
		return nil
	})
	if err != nil {
		return 0, 0, err
	}
	return first, last, nil
}

// Close implements sharedlog.Log. Calls after it fail with ErrClosed.
func (c *Client) Close(context.Context) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	return nil
}
