package interaction

import (
	"hash/maphash"
	"slices"
	"sync"
)

const stripes = 256

// locks serialise what the store cannot: conditional creates with the same
// criteria, and the deletion of a Patient against writes that refer to it.
// Criteria are always taken before patients, and each in ascending order, so
// no two requests wait for each other. They hold within one process.
type locks struct {
	once     sync.Once
	seed     maphash.Seed
	criteria [stripes]sync.Mutex
	patients [stripes]sync.RWMutex
}

func (l *locks) stripe(s string) int {
	l.once.Do(func() { l.seed = maphash.MakeSeed() })
	return int(maphash.String(l.seed, s) % stripes)
}

// lockCriteria takes the stripes of the given criteria.
func (l *locks) lockCriteria(criteria ...string) (release func()) {
	idx := make([]int, 0, len(criteria))
	for _, c := range criteria {
		idx = append(idx, l.stripe(c))
	}
	slices.Sort(idx)
	idx = slices.Compact(idx)
	for _, i := range idx {
		l.criteria[i].Lock()
	}
	return func() {
		for _, i := range idx {
			l.criteria[i].Unlock()
		}
	}
}

// lockPatients takes the stripes of patients that are referred to (shared)
// and that are deleted (exclusive).
func (l *locks) lockPatients(referred, deleted []string) (release func()) {
	want := make(map[int]bool, len(referred)+len(deleted))
	for _, p := range referred {
		want[l.stripe(p)] = false
	}
	for _, p := range deleted {
		want[l.stripe(p)] = true
	}
	idx := make([]int, 0, len(want))
	for i := range want {
		idx = append(idx, i)
	}
	slices.Sort(idx)
	for _, i := range idx {
		if want[i] {
			l.patients[i].Lock()
		} else {
			l.patients[i].RLock()
		}
	}
	return func() {
		for _, i := range idx {
			if want[i] {
				l.patients[i].Unlock()
			} else {
				l.patients[i].RUnlock()
			}
		}
	}
}
