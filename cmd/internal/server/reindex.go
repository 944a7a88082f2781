package server

import (
	"context"

	"pulsegate/fhir/cluster/role"
	"pulsegate/fhir/store/reindex"
)

// startReindex builds the search index of older resources while this server has the role.
// It ends before the store is closed.
func (s *services) startReindex(ctx context.Context) {
	ctx, stop := context.WithCancel(ctx)
	done := make(chan struct{})
	s.closers.add(func() error {
		stop()
		<-done
		return nil
	})
	go func() {
		defer close(done)
		s.roles.Run(ctx, reindex.Role, func(ctx context.Context, _ role.Term) {
			reindex.Run(ctx, reindex.Options{Index: s.embedded, Wake: s.parameters.Changed(), Logger: s.log})
		})
	}()
}
