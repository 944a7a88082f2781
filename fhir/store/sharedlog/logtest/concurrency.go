package logtest

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"pulsegate/fhir/store/sharedlog"
)

var concurrencyChecks = []check{
	{name: "race", run: race},
	{name: "one place", run: onePlace},
	{name: "visible", run: visible},
	{name: "identity race", run: identityRace},
}

const (
	racers = 4  // clients that append at once
	turns  = 15 // entries of each
)

// together runs fn for n clients at once.
func together(ctx context.Context, s *Server, n int, fn func(i int, c *client) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	errs := make([]error, n)
	var all sync.WaitGroup
	for i := range n {
		c, err := open(ctx, s)
		if err != nil {
			return err
		}
		all.Go(func() {
			defer c.close()
			if errs[i] = fn(i, c); errs[i] != nil {
				cancel()
			}
		})
	}
	all.Wait()
	return errors.Join(errs...)
}

// writer appends entries after those it has read.
type writer struct {
	*client
	at   sharedlog.Position
	seen []sharedlog.Hash
}

// follow reads to the end of the log.
func (w *writer) follow() error {
	var void error
	err := w.Read(w.ctx, w.at, func(e *sharedlog.Entry, sum sharedlog.Hash) bool {
		next, valid := w.at.Next(e, sum)
		if e.Index != w.at.Index+1 || !valid {
			void = fmt.Errorf("entry %d after %d does not follow the one before", e.Index, w.at.Index)
			return false
		}
		w.at, w.seen = next, append(w.seen, sum)
		return true
	})
	return errors.Join(void, err)
}

// write appends an entry at the first free place.
func (w *writer) write() (*sharedlog.Entry, error) {
	for {
		e := entry(w.at.Index+1, w.at.Valid, 50)
		err := w.Append(w.ctx, e)
		if err == nil {
			return e, nil
		}
		if !errors.Is(err, sharedlog.ErrTaken) {
			return nil, fmt.Errorf("append at %d: %w", e.Index, err)
		}
		if err := w.follow(); err != nil {
			return nil, err
		}
	}
}

// race lets clients race for places. The log has exactly the entries that were
// acknowledged, and all clients read the same ones.
func race(ctx context.Context, s *Server) error {
	writers := make([]*writer, racers)
	acknowledged := make([][]sharedlog.Hash, racers)
	err := together(ctx, s, racers, func(i int, c *client) error {
		w := &writer{client: c}
		writers[i] = w
		for range turns {
			e, err := w.write()
			if err != nil {
				return err
			}
			acknowledged[i] = append(acknowledged[i], e.Sum())
		}
		return nil
	})
	if err != nil {
		return err
	}
	reader := &writer{}
	if reader.client, err = open(ctx, s); err != nil {
		return err
	}
	defer reader.close()
	if err := reader.follow(); err != nil {
		return err
	}
	if len(reader.seen) != racers*turns {
		return fmt.Errorf("%d entries after %d were acknowledged", len(reader.seen), racers*turns)
	}
	places := map[sharedlog.Hash]int{}
	for i, sum := range reader.seen {
		places[sum] = i
	}
	for i, sums := range acknowledged {
		before := -1
		for _, sum := range sums {
			place, ok := places[sum]
			if !ok || place < before {
				return fmt.Errorf("an acknowledged entry of client %d is missing or in the wrong place", i)
			}
			before = place
		}
	}
	for i, w := range writers {
		for j, sum := range w.seen {
			if sum != reader.seen[j] {
				return fmt.Errorf("client %d read another entry at %d", i, j+1)
			}
		}
	}
	return nil
}

// onePlace lets clients append different entries, and each entry twice, at one place
// after the other. Exactly one of them is acknowledged, both times or not at all.
func onePlace(ctx context.Context, s *Server) error {
	var parent sharedlog.Hash
	for place := uint64(1); place <= 10; place++ {
		entries := make([]*sharedlog.Entry, racers)
		for i := range entries {
			entries[i] = entry(place, parent, 50)
		}
		stored := make([]bool, 2*racers)
		err := together(ctx, s, 2*racers, func(i int, c *client) error {
			err := c.Append(c.ctx, entries[i/2])
			if stored[i] = err == nil; stored[i] || errors.Is(err, sharedlog.ErrTaken) {
				return nil
			}
			return err
		})
		if err != nil {
			return err
		}
		count := 0
		for i, e := range entries {
			if stored[2*i] != stored[2*i+1] {
				return fmt.Errorf("one entry was acknowledged and refused at %d", place)
			}
			if stored[2*i] {
				count, parent = count+1, e.Sum()
			}
		}
		if count != 1 {
			return fmt.Errorf("%d entries were acknowledged at %d, want 1", count, place)
		}
	}
	return nil
}

// visible reads each acknowledged entry with another client at once, while others
// append.
func visible(ctx context.Context, s *Server) error {
	return together(ctx, s, racers, func(i int, c *client) error {
		reader := &writer{}
		var err error
		if reader.client, err = open(ctx, s); err != nil {
			return err
		}
		defer reader.close()
		w := &writer{client: c}
		for range turns {
			e, err := w.write()
			if err != nil {
				return err
			}
			if err := reader.follow(); err != nil {
				return err
			}
			if reader.at.Index < e.Index || reader.seen[e.Index-1] != e.Sum() {
				return fmt.Errorf("the entry at %d was acknowledged, and a Read after it ends at %d or has another one",
					e.Index, reader.at.Index)
			}
			_, last, err := reader.Bounds(ctx)
			if err != nil {
				return err
			}
			if last < e.Index {
				return fmt.Errorf("the entry at %d was acknowledged, and Bounds after it end at %d", e.Index, last)
			}
		}
		return nil
	})
}

// identityRace lets clients replace one identity after the other. Exactly one of them
// replaces each.
func identityRace(ctx context.Context, s *Server) error {
	var old sharedlog.Identity
	for epoch := uint64(1); epoch <= 10; epoch++ {
		set := make([]bool, racers)
		proposed := func(i int) sharedlog.Identity {
			return sharedlog.Identity{Cluster: [16]byte{byte(i) + 1}, Epoch: epoch}
		}
		err := together(ctx, s, racers, func(i int, c *client) (err error) {
			set[i], err = c.SetIdentity(ctx, old, proposed(i))
			return err
		})
		if err != nil {
			return err
		}
		count := 0
		for i, ok := range set {
			if ok {
				count, old = count+1, proposed(i)
			}
		}
		if count != 1 {
			return fmt.Errorf("%d clients replaced the identity of epoch %d, want 1", count, epoch-1)
		}
	}
	c, err := open(ctx, s)
	if err != nil {
		return err
	}
	defer c.close()
	if got, err := c.Identity(ctx); err != nil || got != old {
		return fmt.Errorf("identity: got %v and error %v, want %v", got, err, old)
	}
	return nil
}
