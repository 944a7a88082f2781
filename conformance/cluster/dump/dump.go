// Package dump compares the contents of stores that must be equal.
package dump

import (
	"context"
	"fmt"
	"strings"
	"time"

	"pulsegate/fhir"
	"pulsegate/fhir/access"
	"pulsegate/fhir/store"
)

// Of returns the content of a store, one fact per line: the changes, all versions of
// the changed resources, small state, and the root of the tamper-evident log, which
// covers the audit trail.
func Of(ctx context.Context, s store.Store) (string, error) {
	var b strings.Builder
	var refs []fhir.Ref
	known := map[fhir.Ref]bool{}
	err := s.Changes(ctx, 0, func(c *store.Change) bool {
		fmt.Fprintf(&b, "change %d %s %d %t %t\n", c.Seq, c.Ref, c.Version, c.Created, c.Deleted)
		if !known[c.Ref] {
			known[c.Ref], refs = true, append(refs, c.Ref)
		}
		return true
	})
	if err != nil {
		return "", err
	}
	for _, ref := range refs {
		err := s.History(ctx, ref, 0, 0, func(r fhir.Resource, _ *access.Facts) bool {
			fmt.Fprintf(&b, "version %d %s %s\n", r.Version, r.LastUpdated.Format(time.RFC3339Nano), r.JSON)
			return true
		})
		if err != nil {
			return "", err
		}
	}
	err = s.List(ctx, "", func(key string, value []byte) bool {
		fmt.Fprintf(&b, "state %q %q\n", key, value)
		return true
	})
	if err != nil {
		return "", err
	}
	root, err := s.Log().Root(s.Log().Size())
	fmt.Fprintf(&b, "log %d %x\n", s.Log().Size(), root)
	return b.String(), err
}

// Difference returns the first line in which two dumps differ.
func Difference(a, b string) string {
	x, y := strings.Split(a, "\n"), strings.Split(b, "\n")
	for i := range min(len(x), len(y)) {
		if x[i] != y[i] {
			return fmt.Sprintf("%q and %q", x[i], y[i])
		}
	}
	return fmt.Sprintf("%d and %d lines", len(x), len(y))
}
