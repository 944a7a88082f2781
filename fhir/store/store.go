package store

import (
	"context"
	"time"

	"pulsegate/fhir"
	"pulsegate/fhir/access"
	"pulsegate/fhir/search"
	"pulsegate/fhir/series"
)

// Seq is a commit's sequence number, from 1, without gaps among acknowledged
// batches as seen by Changes.
type Seq uint64

// Op is what a write does.
type Op uint8

const (
	// Put writes a new version (create or update).
	Put Op = iota
	// Remove writes a deletion marker; removing what is absent or deleted
	// already is no write.
	Remove
)

// Expect is a precondition on the current version of the resource.
type Expect uint8

const (
	Any      Expect = iota
	Absent          // never existed (fails with Conflict when it exists or is deleted)
	Version         // current version equals Write.IfVersion (fails with PreconditionFailed)
	Existing        // exists and is not deleted (fails with NotFound or Gone)
	// Fresh is Absent where the writer knows it: the id holds 80 bits or more of
	// randomness drawn for this write. The driver need not look it up.
	Fresh
)

// Write is one resource write of a batch.
type Write struct {
	Op       Op
	Resource fhir.Resource // canonical JSON without version facts; Type and ID always set
	// Values may carry the index values when the writer knows them; nil lets
	// the driver extract them from the JSON. They must equal search.Extract.
	Values *search.Values
	// Form and Cuts, when set, say which bytes of Resource.JSON are its own
	// (NewForm). The JSON must fit.
	Form *Template
	Cuts []int
	// Vendor and Author go into access.Facts.
	Vendor, Author string

	Expect    Expect
	IfVersion uint64
	// Hash identifies the content for SkipSame: equal hash and not deleted
	// means no write at all. Zero: the driver hashes the JSON.
	Hash     [16]byte
	SkipSame bool
}

// StateWrite is one write of small state (tokens, clients, jobs, cursors).
// Keys are "room/..." paths; a room belongs to one package.
type StateWrite struct {
	Key    string
	Value  []byte // nil deletes
	Expect StateExpect
	// Old is compared when Expect is StateEquals.
	Old []byte
	// Expires, when set, lets the driver drop the key some time after.
	// A reader must still check its own expiry.
	Expires time.Time
}

// StateExpect is the precondition of a StateWrite; failing it fails the whole
// batch with Conflict.
type StateExpect uint8

const (
	StateAny StateExpect = iota
	StateAbsent
	StateEquals
)

// Leaf is one entry of the tamper-evident log: bytes that the audit package
// makes and can recompute. Leaves of a batch are appended in order, and the
// log's stored hashes are part of the commit.
type Leaf []byte

// SeriesWrite is a run of new samples of one series. From outside each is an
// Observation with version 1, written in order before Batch.Writes.
type SeriesWrite struct {
	Template *series.Template
	// Columns are in the order of series.Columns.Sort, without Commits, of
	// the template's class. The store keeps what it needs: they may be
	// reused once Commit has returned.
	Columns *series.Columns
}

// Presence is what the store has of a sample.
type Presence uint8

const (
	Missing Presence = iota // never was there
	Same                    // in the same series with the same content
	Other                   // there with other content, in another series, or as a document (deleted ones too)
)

// Batch is what one Commit makes durable together.
type Batch struct {
	// Series are samples that were absent at Probed, as Probe said; of a
	// series at most one write, and no sample in two. The commit fails with
	// Conflict when a stream changed after that; the writer probes again.
	Series []SeriesWrite
	Probed Seq

	Writes []Write
	State  []StateWrite
	Leaves []Leaf
}

// Outcome says what became of one Write.
type Outcome struct {
	Ref         fhir.Ref
	Version     uint64
	LastUpdated time.Time
	Created     bool // no version before, or deleted before
	Unchanged   bool // nothing written
	Deleted     bool
	// JSON is the stamped stored form of a Put; nil when unchanged or removed,
	// and when the write had a Form.
	JSON []byte
}

// Result of a commit. T is 0 when every write was unchanged and nothing else
// was in the batch.
type Result struct {
	Seq       Seq
	Outcomes  []Outcome // parallel to Batch.Writes
	LeafIndex uint64    // index of the first leaf
}

// Head is the current version fact of a resource, without its bytes.
type Head struct {
	Version uint64
	Hash    [16]byte
	Deleted bool
	Seq     Seq
}

// Change is one entry of the change log.
type Change struct {
	Seq     Seq
	Ref     fhir.Ref
	Version uint64
	Created bool
	Deleted bool
	Facts   access.Facts // Tokens is usable while the callback runs
}

// Found is one match of a Find. JSON is valid until the callback returns.
type Found struct {
	Resource fhir.Resource
	Facts    *access.Facts
	// Pos is where to go on: pass it as Find.After to get what follows.
	Pos search.Position
}

// Row is one stored version of a document. Its JSON is valid until the callback
// returns.
type Row struct {
	Resource fhir.Resource
	Facts    *access.Facts
	Seq      Seq      // the commit that wrote it
	Hash     [16]byte // Write.Hash
}

// Find is a search at a snapshot. The filter is applied inside the scan,
// before anything is counted or given out.
type Find struct {
	Query  *search.Query
	Filter access.Filter
	At     Seq             // 0: latest
	After  search.Position // "" from the start
	Limit  int             // 0: no limit
	// Undeleted leaves out what was deleted since At, up to the latest commit.
	Undeleted bool
	// Owner names who asks. A driver may keep what it had to sort for the next
	// pages of the same owner, and bounds what it keeps for each.
	Owner string
}

// ScanRange asks for whole types at a snapshot, in the store's own order, for
// export: one pass, constant memory.
type ScanRange struct {
	Types   []string // in the order in which they are given out
	Patient string   // "" all patients; else only that compartment
	Since   time.Time
	At      Seq
	Filter  access.Filter
	// Deleted includes deletion markers (Since exports).
	Deleted bool
}

// Store is the contract. Every method is safe for concurrent use. Errors are
// *fhir.Error.
type Store interface {
	// Commit makes b durable, or returns an error and does nothing.
	// Concurrent commits share an fsync.
	Commit(ctx context.Context, b *Batch) (Result, error)

	// LastSeq is the latest durable commit.
	LastSeq() Seq

	// Read returns the version current at t (0: latest): NotFound when there
	// never was one, a Resource with Deleted set when it is deleted.
	Read(ctx context.Context, ref fhir.Ref, at Seq) (fhir.Resource, *access.Facts, error)
	// ReadVersion returns one version, NotFound if there is none.
	ReadVersion(ctx context.Context, ref fhir.Ref, version uint64) (fhir.Resource, *access.Facts, error)
	// History calls fn for the versions of ref, newest first, that were
	// there at t, starting below version before (0: the newest), until fn
	// returns false.
	History(ctx context.Context, ref fhir.Ref, at Seq, before uint64, fn func(fhir.Resource, *access.Facts) bool) error
	// Probe says of each sample what the store has of it, as of the commit
	// that it returns. found is parallel to ws and their samples.
	Probe(ctx context.Context, ws []SeriesWrite) (at Seq, found [][]Presence, err error)
	// Heads returns the current heads of refs, the zero Head for the absent.
	Heads(ctx context.Context, refs []fhir.Ref) ([]Head, error)

	// Find calls fn for every match in the query's sort order until fn
	// returns false or the limit is reached. A search whose sort takes more
	// than the driver sets aside fails with TooCostly; date and _lastUpdated
	// are orders that need none.
	Find(ctx context.Context, f Find, fn func(*Found) bool) error
	// Count is the number of matches, filter applied.
	Count(ctx context.Context, f Find) (uint64, error)
	// Scan streams whole types for export.
	Scan(ctx context.Context, r ScanRange, fn func(*Found) bool) error

	// Changes calls fn for every change with from < T <= T() in order until
	// fn returns false. AuditEvents are not in the change log.
	Changes(ctx context.Context, from Seq, fn func(*Change) bool) error
	// Watch registers fn to be called after each durable commit, before its
	// writer is answered, in order of T; fn must be quick and must not call
	// Commit. It is how a withdrawn consent reaches the next request. The
	// returned func ends it.
	Watch(fn func(Commit)) (stop func())

	// Get returns small state; nil when absent.
	Get(ctx context.Context, key string) ([]byte, error)
	// List calls fn for the keys with the prefix in order until it returns
	// false.
	List(ctx context.Context, prefix string, fn func(key string, value []byte) bool) error
	// ListFrom is List for the keys that do not lie before from.
	ListFrom(ctx context.Context, prefix, from string, fn func(key string, value []byte) bool) error

	// Log gives read access to the tamper-evident log.
	Log() Log

	// Stats are sizes for metrics and `bytes on disk`.
	Stats() Stats
	// Inspect walks the rows in which the documents of a type are kept. It
	// calls fn for each version up to commit at (0: the latest), current or
	// superseded, as searches would read it and without a filter, and report for
	// each row that searches, reads or histories would go by and that does not
	// agree with the others. Two rows of one version are two calls.
	Inspect(ctx context.Context, typ string, at Seq, fn func(*Row), report func(id, problem string)) error
	// Check reads everything and reports what is inconsistent.
	Check(ctx context.Context, report func(problem string)) error
	// Compact makes what is deleted gone and files small; for operators and
	// benches.
	Compact(ctx context.Context) error
	Close() error
}

// Commit is what a watcher learns.
type Commit struct {
	Seq     Seq
	Changes []Change // AuditEvents and samples left out
	Samples int      // how many samples it wrote; Changes has them
}

// Log is the RFC 6962 Merkle log of leaves, as of the latest commit.
type Log interface {
	// Size is the number of leaves.
	Size() uint64
	// Leaf returns leaf i.
	Leaf(i uint64) (Leaf, error)
	// Hashes returns stored hashes by golang.org/x/mod/sumdb/tlog index.
	Hashes(indexes []int64) ([][32]byte, error)
	// Root of the first n leaves.
	Root(n uint64) ([32]byte, error)
}

// Stats of a store.
type Stats struct {
	DiskBytes uint64
	Resources uint64 // current, by estimate
	Seq       Seq
	Log       uint64
}
