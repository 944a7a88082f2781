// Package recovery hands an operator's decision to go on after a loss from the
// command line to the next start of the server, which records it in the audit
// trail. A start that finds something lost refuses and names the command; it
// cannot ask over the admin socket, because it does not run.
package recovery

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"
)

// An operator may decide to go on without one of these.
const (
	AuditLog = "audit-log" // audit/checkpoint, or a log that continues it
	SealKey  = "seal-key"  // keys/seal.key
)

// Decision is an operator's request, until the server has acted on it.
type Decision struct {
	By string    `json:"by"` // "uid:0"
	At time.Time `json:"at"`

	path string
}

func path(dir, what string) string { return filepath.Join(dir, "recover", what) }

// Request writes the decision for the next start.
func Request(dir, what, by string, at time.Time) error {
	if _, err := os.Stat(dir); err != nil {
		return fmt.Errorf("the data directory cannot be read: %w", err)
	}
	b, err := json.Marshal(Decision{By: by, At: at.UTC()})
	if err != nil {
		return err
	}
	p := path(dir, what)
	if err := os.MkdirAll(filepath.Dir(p), 0o700); err != nil {
		return err
	}
	return os.WriteFile(p, b, 0o600)
}

// Requested returns the decision about something, nil when there is none.
func Requested(dir, what string) (*Decision, error) {
	d := &Decision{path: path(dir, what)}
	b, err := os.ReadFile(d.path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(b, d); err != nil {
		return nil, fmt.Errorf("recover/%s is not readable: %w", what, err)
	}
	return d, nil
}

// Done takes the decision back, once it is recorded.
func (d *Decision) Done() error { return os.Remove(d.path) }
