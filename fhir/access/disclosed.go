package access

import (
	"context"
	"slices"
	"sync"
)

// Disclosed collects the patients with data in a response, as they are recorded in
// the audit trail, so that a long response can be ended if their consents change.
// It is safe for concurrent use. The zero value is empty.
type Disclosed struct {
	mu       sync.Mutex
	patients map[string]bool
	commits  []uint64
}

type disclosedKey struct{}

// With returns a context that collects in d.
func (d *Disclosed) With(ctx context.Context) context.Context {
	return context.WithValue(ctx, disclosedKey{}, d)
}

func collector(ctx context.Context) *Disclosed {
	d, _ := ctx.Value(disclosedKey{}).(*Disclosed)
	return d
}

// Disclose adds a patient to the Disclosed of ctx, if there is one.
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

// Committed adds a commit of the request to the Disclosed of ctx. The response of
// the request reflects its own commits, so Concerned ignores them.
func Committed(ctx context.Context, commit uint64) {
	if d := collector(ctx); d != nil {
		d.mu.Lock()
		defer d.mu.Unlock()
		d.commits = append(d.commits, commit)
	}
}

// Concerned reports whether a change of a patient's consents by a commit may affect
// the response.
func (d *Disclosed) Concerned(patient string, commit uint64) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.patients[patient] && !slices.Contains(d.commits, commit)
}

// Empty reports whether no patient has been added.
func (d *Disclosed) Empty() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return len(d.patients) == 0
}
