package pebblestore

import (
	"crypto/sha256"
	"encoding/hex"
	"hash/maphash"
	"slices"
	"unicode/utf8"

	"pulsegate/fhir"
	"pulsegate/fhir/store"
)

// maxGuards bounds the guards of each of the two generations in memory.
const maxGuards = 1 << 16

// guards remembers which commit last touched a guard, see store.Batch. It has two
// generations: when the young one is full, it becomes the old one, and the old one
// is forgotten. It belongs to the committer's goroutine.
type guards struct {
	seed maphash.Seed
	// Guards of equal hash are one guard. They cause a Conflict in vain, but hide none.
	young, old map[uint64]store.Seq
	// floor is the latest commit whose guards may have been forgotten.
	floor store.Seq
	limit int
}

// newGuards returns guards that have forgotten every commit up to floor.
func newGuards(floor store.Seq, limit int) *guards {
	return &guards{seed: maphash.MakeSeed(), young: map[uint64]store.Seq{}, floor: floor, limit: limit}
}

// touch records that the commit seq touched a guard. The commits are in order.
func (g *guards) touch(guard string, seq store.Seq) {
	if len(g.young) >= g.limit {
		for _, at := range g.old {
			g.floor = max(g.floor, at)
		}
		g.old, g.young = g.young, make(map[uint64]store.Seq, len(g.young))
	}
	g.young[maphash.String(g.seed, guard)] = seq
}

// touchedSince reports whether a commit after seen touched the guard, or may have.
func (g *guards) touchedSince(guard string, seen store.Seq) bool {
	h := maphash.String(g.seed, guard)
	return seen < g.floor || g.young[h] > seen || g.old[h] > seen
}

// maxGuardName bounds the names of guards in the log.
const maxGuardName = 200

// guardName returns the name under which a guard is kept. A log keeps names as text.
func guardName(guard string) string {
	if len(guard) <= maxGuardName && utf8.ValidString(guard) {
		return guard
	}
	sum := sha256.Sum256([]byte(guard))
	return "sha256:" + hex.EncodeToString(sum[:])
}

// checkGuards refuses a batch if one of its guards was touched after Seen.
func (s *stage) checkGuards(b *store.Batch) error {
	for _, guard := range b.Guards {
		guard = guardName(guard)
		touched := s.db.guards.touchedSince(guard, b.Seen)
		for at := s; at != nil && !touched; at = at.from.below {
			touched = at.touches[guard] > b.Seen
		}
		if touched {
			return fhir.Errorf(fhir.Conflict, "pebblestore.Commit",
				"data that the request depends on has changed meanwhile; try again")
		}
	}
	return nil
}

// touch records that the batch seq of the group touches a guard.
func (s *stage) touch(guard string, seq store.Seq) {
	if s.touches == nil {
		s.touches = map[string]store.Seq{}
	}
	s.touches[guardName(guard)] = seq
}

// touchTypes touches the guards of the types that a batch writes.
func (s *stage) touchTypes(writes []write, samples bool, seq store.Seq) {
	done := make([]string, 1, 8)
	done[0] = "AuditEvent" // which has no guard
	if samples {
		done = append(done, "Observation")
		s.touch(store.TypeGuard("Observation"), seq)
	}
	for i := range writes {
		if typ := writes[i].ref.Type; !slices.Contains(done, typ) {
			done = append(done, typ)
			s.touch(store.TypeGuard(typ), seq)
		}
	}
}

// touchConsent touches the guard of the patient of a Consent, before and after a
// write of it.
func (s *stage) touchConsent(w *write, seq store.Seq) {
	if w.ref.Type != "Consent" {
		return
	}
	for _, c := range [...]*current{w.old, w.now} {
		if c != nil && c.Patient != "" {
			s.touch(store.ConsentGuard(c.Patient), seq)
		}
	}
}

// touchedGuards returns the guards that the group touches, in order.
func (s *stage) touchedGuards() []string {
	out := make([]string, 0, len(s.touches))
	for guard := range s.touches {
		out = append(out, guard)
	}
	slices.Sort(out)
	return out
}
