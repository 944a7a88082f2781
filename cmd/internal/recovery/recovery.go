// Package recovery passes an operator's decision to start after a loss, or to change
// the cluster of a stopped server, from the command line to the next start of the
// server, which records it in the audit trail. A server that finds something lost
// refuses to start and names the command. The decision cannot go over the admin socket,
// because the server is not running.
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

// The things that an operator may decide to start without.
const (
	AuditLog = "audit-log" // audit/checkpoint, or a log that continues that checkpoint
	SealKey  = "seal-key"  // keys/seal.key
)

// The changes of a cluster that an operator may have made while the server was stopped.
const (
	ClusterRestore = "cluster-restore" // the log was restored to an earlier state
	ClusterLeave   = "cluster-leave"   // the server goes on without the cluster
)

// Decision is an operator's request, until the server has acted on it.
type Decision struct {
	By string    `json:"by"` // "uid:0"
	At time.Time `json:"at"`
	// Details are names and values for the audit trail.
	Details [][2]string `json:"details,omitempty"`

	path string
}

func path(dir, what string) string { return filepath.Join(dir, "recover", what) }

// Request writes the decision about what, with details for the audit trail.
func Request(dir, what, by string, at time.Time, details ...[2]string) error {
	if _, err := os.Stat(dir); err != nil {
		return fmt.Errorf("the data directory cannot be read: %w", err)
	}
	b, err := json.Marshal(Decision{By: by, At: at.UTC(), Details: details})
	if err != nil {
		return err
	}
	file := path(dir, what)
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		return err
	}
	return os.WriteFile(file, b, 0o600)
}

// Requested returns the decision about what, or nil if there is none.
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
		return nil, fmt.Errorf("recover/%s is malformed: %w", what, err)
	}
	return d, nil
}

// Withdraw removes a decision that was not carried out.
func Withdraw(dir, what string) error { return os.Remove(path(dir, what)) }

// Done removes the decision once it is recorded.
func (d *Decision) Done() error { return os.Remove(d.path) }
