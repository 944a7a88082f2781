// Package sharedlog defines the log through which several processes share one
// store, and the snapshots from which a process begins. Package logtest tests an
// implementation; memlog keeps a log in memory, with the faults of a network, and
// mongolog keeps it in MongoDB.
//
// # Log
//
// The log is a sequence of entries at the places 1, 2, 3 and so on. An entry is one
// group commit: the rows that it writes. Every process applies the entries in order
// to its own copy of the store, and all copies are therefore equal. An entry is
// durable when a majority of the log's servers has it, and only durable entries are
// read.
//
// # Chain
//
// An entry names the entry that its writer built it on. A writer may have several
// entries on their way, each built on the one before it. If the first is not stored
// but the others are, and another process puts an entry in the place between, the
// others are void: every reader passes over them, because the second does not name the
// valid entry before it, and each further one names a void one. Position.Next is that
// rule. A writer acknowledges an entry
// only when it is durable and valid, which it knows only when all places before it
// are filled.
//
// # Unknown outcomes
//
// An Append can fail without an answer. The entry may then be stored, now or later.
// Its writer appends the same entry at the same place until it knows, and neither
// gives up the place nor sends the same rows as another entry, which could write
// them twice. ErrTaken alone is not that knowledge: the other entry may be rolled
// back, and the own one may then land in the place. The writer knows when Read
// returns the entry at the place.
package sharedlog

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"io"
	"time"
)

// Hash is a SHA-256.
type Hash [sha256.Size]byte

// MaxRows bounds Entry.Rows in bytes, as they are stored.
const MaxRows = 128 << 20

// Entry is one group commit. It is immutable.
type Entry struct {
	Index  uint64   // the place, from 1
	Parent Hash     // Hash of the entry on which this one builds; zero for the first
	Nonce  [16]byte // random; distinguishes entries for the same place
	Epoch  uint64   // Identity.Epoch under which it was written
	Schema uint32   // version of the encoding of Rows
	Node   string   // the process that wrote it
	// First and Count are the sequence numbers of its batches. Count is 0 for a
	// change of rows that changes no answer.
	First, Count uint64
	Touched      []string // guards, see store.Batch
	Rows         []byte   // opaque to the log, at most MaxRows
}

// Sum returns the hash of the entry, which covers all of its fields.
func (e *Entry) Sum() Hash {
	h := sha256.New()
	var b []byte
	b = binary.BigEndian.AppendUint64(b, e.Index)
	b = append(append(b, e.Parent[:]...), e.Nonce[:]...)
	b = binary.BigEndian.AppendUint64(b, e.Epoch)
	b = binary.BigEndian.AppendUint32(b, e.Schema)
	b = binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(b, e.First), e.Count)
	text := func(s string) { b = append(binary.AppendUvarint(b, uint64(len(s))), s...) }
	text(e.Node)
	b = binary.AppendUvarint(b, uint64(len(e.Touched)))
	for _, t := range e.Touched {
		text(t)
	}
	b = binary.AppendUvarint(b, uint64(len(e.Rows)))
	h.Write(b)
	h.Write(e.Rows)
	return Hash(h.Sum(nil))
}

// Position is the place up to which a process has read the log. The zero Position
// is the beginning.
type Position struct {
	Index uint64 // the last entry that was read, valid or void
	Last  Hash   // its hash
	Valid Hash   // hash of the last valid entry
}

// Next returns the position after e, whose hash is sum, and whether e is valid.
// e.Index must be Index+1.
func (p Position) Next(e *Entry, sum Hash) (next Position, valid bool) {
	if valid = e.Parent == p.Valid; valid {
		return Position{Index: e.Index, Last: sum, Valid: sum}, true
	}
	return Position{Index: e.Index, Last: sum, Valid: p.Valid}, false
}

var (
	// ErrTaken reports that another entry is at the place of an Append.
	ErrTaken = errors.New("the place in the log is taken")
	// ErrTruncated reports that the entries after a position were removed. The reader
	// begins again from a snapshot.
	ErrTruncated = errors.New("the log no longer has the entries after this position")
	// ErrDiverged reports that a position is not in the log: the log was restored to
	// an earlier state, or belongs to another cluster. The reader must discard its
	// copy.
	ErrDiverged = errors.New("the position is not in the log")
	// ErrTooLarge reports that an entry exceeds what the log can store.
	ErrTooLarge = errors.New("the entry is too large for the log")
	// ErrEpoch reports that the epoch of an entry or of a caller is not the one of the
	// cluster.
	ErrEpoch = errors.New("the cluster has another epoch")
)

// Identity identifies a cluster.
type Identity struct {
	Cluster [16]byte
	// Epoch is raised by an operator after the log was restored to an earlier state.
	// Every process then discards its copy.
	Epoch uint64
	// Schema is the encoding of rows in which entries are written.
	Schema uint32
}

// Log is a shared log. It is safe for concurrent use. Errors other than those of
// this package mean that the outcome is unknown.
type Log interface {
	// Identity returns the identity of the cluster, as of after the call.
	Identity(ctx context.Context) (Identity, error)
	// SetIdentity replaces the identity if it is still old. The zero Identity stands
	// for a log without one. It reports false if the identity is another one.
	SetIdentity(ctx context.Context, old, now Identity) (bool, error)

	// Append stores e at the place e.Index. It returns nil when the entry is durable:
	// stored by this call or, if the nonces are equal, by an earlier one. It returns
	// ErrTaken if another entry is there, which need not be durable yet. It does not
	// require that the places before are filled. It fails with ErrTruncated if the
	// place was truncated; the entry may then have been there.
	Append(ctx context.Context, e *Entry) error
	// Read calls fn for the durable entries after p, in order and without gaps, until
	// fn returns false. It sees every entry that was durable before the call. It
	// fails with ErrDiverged if the entry at p is missing or has another hash, and
	// with ErrTruncated if entries after p were removed. fn may retain the entry.
	Read(ctx context.Context, p Position, fn func(e *Entry, sum Hash) bool) error
	// Truncate removes entries before the place index. It may keep some of them.
	Truncate(ctx context.Context, index uint64) error
	// Bounds returns the places of the first and the last durable entry that are
	// stored. Both are 0 if the log is empty and was never truncated.
	Bounds(ctx context.Context) (first, last uint64, err error)
	Close(ctx context.Context) error
}

// Manifest describes a snapshot: the files of a store as of a position.
type Manifest struct {
	Identity
	At      Position
	Created time.Time
	Node    string
	Files   []File
}

// Of reports whether the snapshot belongs to the cluster of id. Its epoch may be an
// earlier one: a log that was restored goes on from the snapshots that were restored
// with it.
func (m *Manifest) Of(id Identity) bool { return m.Cluster == id.Cluster && m.Epoch <= id.Epoch }

// Bytes returns the size of all files.
func (m *Manifest) Bytes() (n int64) {
	for i := range m.Files {
		n += m.Files[i].Size
	}
	return n
}

// File is a file of a snapshot.
type File struct {
	Name string // relative, with slashes
	Sum  Hash
	Size int64
}

// Snapshots keeps snapshots. Files are stored by hash, and a file that two
// snapshots share is stored once. It is safe for concurrent use.
type Snapshots interface {
	// Put stores the files that are not stored yet, and then the manifest. open
	// returns the content of a file. Put verifies the hash and the size of each. A
	// snapshot is listed only when it is complete.
	Put(ctx context.Context, m *Manifest, open func(f File) (io.ReadCloser, error)) error
	// List returns the complete snapshots, newest first.
	List(ctx context.Context) ([]*Manifest, error)
	// Open returns the content of a file. The reader fails if the content does not
	// have the hash, before it reports the end.
	Open(ctx context.Context, sum Hash) (io.ReadCloser, error)
	// Remove removes a snapshot, and the files that no other one needs and that no
	// Put of the last day may count on.
	Remove(ctx context.Context, m *Manifest) error
}
