package access

import (
	"context"
	"maps"
	"sync"
)

// Disclosed collects the patients whose data an answer holds, as the audit
// trail learns of them, so that an answer which is sent for long can be held to
// their consents. It is safe for concurrent use; the zero value is empty.
type Disclosed struct {
	mu       sync.Mutex
	patients map[string]bool
}

type disclosedKey struct{}

// With returns a context whose events are collected.
func (d *Disclosed) With(ctx context.Context) context.Context {
	return context.WithValue(ctx, disclosedKey{}, d)
}

// Disclose notes a patient for the answer that ctx belongs to, if it collects.
func Disclose(ctx context.Context, patient string) {
	d, ok := ctx.Value(disclosedKey{}).(*Disclosed)
	if !ok || patient == "" {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.patients == nil {
		d.patients = map[string]bool{}
	}
	d.patients[patient] = true
}

// Patients lists those noted so far.
func (d *Disclosed) Patients() map[string]bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return maps.Clone(d.patients)
}
