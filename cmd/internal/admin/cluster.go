package admin

import (
	"context"
	"net/http"
	"time"

	"pulsegate/fhir/cluster/nodes"
	"pulsegate/fhir/cluster/role"
)

// Cluster is the answer of `pulsegate cluster status`.
type Cluster struct {
	// Alone is set if the server belongs to no cluster. The other fields are then zero.
	Alone bool   `json:"alone"`
	ID    string `json:"cluster,omitempty"` // hex
	// Epoch is the number of times that the log was restored, plus 1.
	Epoch  uint64        `json:"epoch,omitempty"`
	Schema ClusterSchema `json:"schema,omitzero"`
	// Node, Entry and Commit describe the server that answers.
	Node   string `json:"node,omitempty"`
	Entry  uint64 `json:"entry,omitempty"`
	Commit uint64 `json:"commit,omitempty"`
	// FirstEntry and LastEntry are those that the log holds.
	FirstEntry uint64 `json:"firstEntry,omitempty"`
	LastEntry  uint64 `json:"lastEntry,omitempty"`
	// ClockOffset is the time in seconds by which this server's clock is ahead of MongoDB's.
	ClockOffset float64 `json:"clockOffset"`
	// Redis reports whether this server has one, and Sequencer which server puts in the
	// commits of all, as far as this server knows.
	Redis     bool              `json:"redis"`
	Sequencer *ClusterSequencer `json:"sequencer,omitempty"`
	Nodes     []ClusterNode     `json:"nodes"`
	Roles     []role.Holder     `json:"roles"`
	Snapshots []ClusterSnapshot `json:"snapshots"`
	Mirror    *ClusterMirror    `json:"mirror,omitempty"`
	// Differences are the settings in which live servers differ, and Roll is the
	// permission to do so, nil if there is none.
	Differences []nodes.Difference `json:"differences"`
	Roll        *nodes.Roll        `json:"roll,omitempty"`
	// Problems says what needs a look. `pulsegate cluster status` fails if there are any.
	Problems []string `json:"problems"`
}

// ClusterRoll is the input of `cluster roll`.
type ClusterRoll struct {
	Settings []string `json:"settings"`
	Seconds  int64    `json:"seconds"` // for which it is permitted
	End      bool     `json:"end"`     // ends the permission
}

// ClusterSequencer is the server that puts the commits of all servers into the log.
type ClusterSequencer struct {
	Node    string `json:"node"`
	Address string `json:"address"`
}

// ClusterNode is a live server of a cluster.
type ClusterNode struct {
	Node    string    `json:"node"`
	Version string    `json:"version"`
	Address string    `json:"address,omitempty"` // where it takes commits of the others
	Started time.Time `json:"started,omitzero"`
	// Entry is the last entry that the server shows, as of a few seconds ago, and Lag the
	// number of entries by which it is behind the newest of the servers.
	Entry  uint64 `json:"entry"`
	Lag    uint64 `json:"lag"`
	Schema uint32 `json:"schema"` // the newest that it reads
	Self   bool   `json:"self"`
}

// ClusterSnapshot is a snapshot, from which servers join.
type ClusterSnapshot struct {
	Entry   uint64    `json:"entry"`
	Created time.Time `json:"created"`
	Node    string    `json:"node"`
	Files   int       `json:"files"`
	Bytes   int64     `json:"bytes"`
}

// ClusterMirror is the state of the copy of the resources for other programs.
type ClusterMirror struct {
	Database string    `json:"database"`
	Commit   uint64    `json:"commit"`
	Updated  time.Time `json:"updated,omitzero"`
	// Behind is the number of commits that the mirror does not show yet. It is 0 if the
	// commits after Commit change nothing in the mirror.
	Behind uint64 `json:"behind"`
}

// ClusterSchema is the encoding of the rows of the log.
type ClusterSchema struct {
	Written uint32 `json:"written"` // in which entries are written
	Read    uint32 `json:"read"`    // the newest that all live servers read
}

// ClusterSchemas is the answer of `cluster schema`.
type ClusterSchemas struct {
	ClusterSchema
	Nodes []ClusterNode `json:"nodes"`
	// Raised is set if the command raised Written.
	Raised bool `json:"raised"`
}

// ClusterOperations are the operations on a cluster.
type ClusterOperations interface {
	ClusterStatus(ctx context.Context, op Operator) (Cluster, error)
	ClusterSnapshot(ctx context.Context, op Operator) (ClusterSnapshot, error)
	ClusterSchema(ctx context.Context, op Operator) (ClusterSchemas, error)
	// RaiseClusterSchema lets the servers write the newest encoding that all of them
	// read.
	RaiseClusterSchema(ctx context.Context, op Operator) (ClusterSchemas, error)
	// RollClusterSettings permits servers to start with another content of settings for a
	// time, or ends the permission.
	RollClusterSettings(ctx context.Context, op Operator, in ClusterRoll) (nodes.Roll, error)
}

func clusters(m *mux, s *Server, o ClusterOperations) {
	get(m, s, "cluster", func(ctx context.Context, op Operator, _ *http.Request) (Cluster, error) {
		return o.ClusterStatus(ctx, op)
	})
	post(m, s, "cluster/snapshot", func(ctx context.Context, op Operator, _ struct{}) (ClusterSnapshot, error) {
		return o.ClusterSnapshot(ctx, op)
	})
	get(m, s, "cluster/schema", func(ctx context.Context, op Operator, _ *http.Request) (ClusterSchemas, error) {
		return o.ClusterSchema(ctx, op)
	})
	post(m, s, "cluster/schema/raise", func(ctx context.Context, op Operator, _ struct{}) (ClusterSchemas, error) {
		return o.RaiseClusterSchema(ctx, op)
	})
	post(m, s, "cluster/roll", func(ctx context.Context, op Operator, in ClusterRoll) (nodes.Roll, error) {
		return o.RollClusterSettings(ctx, op, in)
	})
}
