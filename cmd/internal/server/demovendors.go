package server

import (
	"context"
	"fmt"
	"net"
	"path/filepath"
	"time"

	"pulsegate/adapters/link"
	"pulsegate/adapters/simulate"
	"pulsegate/cmd/internal/admin"
	"pulsegate/cmd/internal/simulation"
)

// demoVendors are the simulated clouds of a demo.
type demoVendors struct {
	simulation *simulation.Simulation
	listener   net.Listener
	ended      chan error
}

// startDemoVendors starts the clouds of a demo on a free port of this machine, and
// configures env to use them. They end with ctx.
func startDemoVendors(ctx context.Context, env *environment) (*demoVendors, error) {
	now := env.now()
	sim, err := simulation.New(simulation.Options{Dir: filepath.Join(env.config.Data, "simulated-clouds"), Seed: 1,
		Wearers: len(wearers), Clock: simulate.NewClock(env.now, now, 1), Wall: env.now,
		Start: now.AddDate(0, 0, -demoMonth), Server: env.base})
	if err != nil {
		return nil, err
	}
	d := &demoVendors{simulation: sim, ended: make(chan error, 1)}
	if d.listener, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
		return nil, err
	}
	config := *env.config
	config.Vendors, err = sim.WriteSettings("http://" + d.listener.Addr().String())
	if err != nil {
		return nil, err
	}
	config.VendorBackfill = demoMonth * 24 * time.Hour
	env.config = &config
	go func() { d.ended <- sim.Run(ctx, d.listener) }()
	return d, nil
}

// wait waits until the clouds have ended.
func (d *demoVendors) wait() error { return <-d.ended }

// connectDemo connects the account of a wearer, as the wearer would on the pages. At
// each start the clouds are new, so it is done again.
func (ops operations) connectDemo(ctx context.Context, op admin.Operator, w wearer) (link.Link, error) {
	const session = "demo"
	to, err := ops.links.Begin(ctx, w.id, w.vendor, session)
	if err != nil {
		return link.Link{}, err
	}
	back, err := ops.demo.simulation.Approve(ctx, ops.vendorClient(1<<20), to, w.account)
	if err != nil {
		return link.Link{}, err
	}
	q := back.Query()
	return ops.links.Complete(ctx, ops.request(op).Caller, session,
		link.Answer{State: q.Get("state"), Code: q.Get("code"),
			Scope: q.Get("scope")})
}

// demoPast is the time that reading the past of the demo's accounts may take.
const demoPast = 2 * time.Minute

// awaitPast waits until the past of links has been read, and returns the number of
// items.
func (ops operations) awaitPast(ctx context.Context, links []link.Link) (items uint64, err error) {
	ctx, cancel := context.WithTimeout(ctx, demoPast)
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		items, pending := uint64(0), 0
		for _, l := range links {
			st, err := ops.sync.Status(l.ID)
			if err != nil {
				return 0, err
			}
			stuck := false // a stream that the cloud refuses is not read further
			for _, one := range st.Streams {
				items += one.Items
				stuck = stuck || one.Problem != ""
			}
			if st.Past < 1 && !stuck {
				pending++
			}
		}
		if pending == 0 {
			return items, nil
		}
		select {
		case <-ctx.Done():
			return 0, fmt.Errorf("the past of %d connected accounts could not be read: %w", pending, ctx.Err())
		case <-tick.C:
		}
	}
}
