package access

import (
	"context"
	"slices"
	"sync"
)

// Disclosed collects the patients whose data an answer holds, as the audit
// trail learns of them, so that an answer which is sent for long can be held to
// their consents. It is safe for concurrent use; the zero value is empty.
type Disclosed struct {
	mu       sync.Mutex
	patients map[string]bool
	commits  []uint64
}

type disclosedKey struct{}

// With returns a context whose events are collected.
func (d *Disclosed) With(ctx context.Context) context.Context {
	return context.WithValue(ctx, disclosedKey{}, d)
}

func collector(ctx context.Context) *Disclosed {
	d, _ := ctx.Value(disclosedKey{}).(*Disclosed)
	return d
}

// Disclose notes a patient for the answer that ctx belongs to, if it collects.
func Disclose(ctx context.Context, patient string) {
	d := collector(ctx)
	if d == nil || patient == "" {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.patients == nil {
		d.patients = map[string]bool{}
	}
	d.patients[patient] = true
}

// Committed notes a commit of the request that ctx belongs to: what it changed
// is no surprise to its answer.
func Committed(ctx context.Context, commit uint64) {
	if d := collector(ctx); d != nil {
		d.mu.Lock()
		defer d.mu.Unlock()
		d.commits = append(d.commits, commit)
	}
}

// Concerned reports whether a change of a patient's consents in a commit is
// about the answer.
func (d *Disclosed) Concerned(patient string, commit uint64) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.patients[patient] && !slices.Contains(d.commits, commit)
}

// Empty reports whether no patient was noted.
func (d *Disclosed) Empty() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return len(d.patients) == 0
}
