package server

import (
	"context"
	"strings"
	"time"

	"pulsegate/adapters/link"
	"pulsegate/adapters/sync"
	"pulsegate/cmd/internal/admin"
	"pulsegate/cmd/internal/config"
	"pulsegate/fhir"
	"pulsegate/fhir/store"
)

// newSync returns the engine that reads linked accounts. Its work has not begun.
func newSync(ctx context.Context, s *services) (*sync.Engine, error) {
	hooks := ""
	switch {
	case s.config.VendorHooks == config.HooksAuto && s.config.BaseURL != "":
		hooks = s.base + "/hooks"
	case strings.HasPrefix(s.config.VendorHooks, "https://"):
		hooks = s.config.VendorHooks
	}
	return sync.New(ctx, sync.Options{Store: s.store, Links: s.links, Ingest: s.pipeline, Consents: s.consents,
		Clock: s.now, Hooks: hooks, Backfill: s.config.VendorBackfill, Roles: s.roles, Logger: s.log})
}

// startSync starts the work on links. It ends before the store is closed.
func (s *services) startSync(ctx context.Context) {
	ctx, stop := context.WithCancel(ctx)
	done := make(chan struct{})
	unwatch := s.store.Watch(func(c store.Commit) {
		for _, change := range c.Changes {
			if change.Ref.Type == "Consent" && change.Facts.Patient != "" {
				s.sync.ConsentChanged(change.Facts.Patient)
			}
		}
	})
	s.closers.add(func() error {
		unwatch()
		stop()
		<-done
		return nil
	})
	go func() {
		defer close(done)
		s.sync.Run(ctx)
	}()
}

// linkProgress implements progress by the engine.
type linkProgress struct{ engine *sync.Engine }

// LastData implements progress.
func (p linkProgress) LastData(_ context.Context, l link.Link) (time.Time, bool, error) {
	st, err := p.engine.Status(l.ID)
	if fhir.KindOf(err) == fhir.NotFound {
		return time.Time{}, false, nil // the vendor is no longer configured
	}
	return st.Data, st.Late, err
}

// flow returns the state of the streams of a link for the operator.
func (s *services) flow(id string) *admin.Flow {
	st, err := s.sync.Status(id)
	if err != nil {
		return nil // the vendor is no longer configured
	}
	out := &admin.Flow{Paused: st.Paused, Next: st.Next, Events: st.Events, Past: st.Past}
	for _, one := range st.Streams {
		out.Streams = append(out.Streams, admin.Stream(one))
	}
	return out
}

// PullLink polls all streams of a link now.
func (ops operations) PullLink(ctx context.Context, op admin.Operator, in admin.ID) (admin.ID, error) {
	l, err := ops.links.Get(ctx, in.ID)
	if err != nil {
		return in, err
	}
	if err := ops.record(ctx, ops.request(op), "link pull", l.Patient); err != nil {
		return in, err
	}
	return in, ops.sync.Pull(in.ID)
}
