package store

import (
	"context"
	"time"

	"pulsegate/fhir"
	"pulsegate/fhir/access"
	"pulsegate/fhir/search"
	"pulsegate/fhir/series"
)

// Seq is the sequence number of a commit, starting at 1. The numbers of
// acknowledged batches have no gaps in Changes.
type Seq uint64

// Op is the operation of a write.
type Op uint8

const (
	// Put writes a new version (create or update).
	Put Op = iota
	// Remove writes a deletion marker. To remove an absent or deleted resource
	// writes nothing.
	Remove
)

// Expect is a precondition on the current version of the resource.
type Expect uint8

const (
	Any      Expect = iota
	Absent          // never existed; fails with Conflict if it exists or is deleted
	Version         // current version is Write.IfVersion; fails with PreconditionFailed
	Existing        // exists and is not deleted; fails with NotFound or Gone
	// Fresh is Absent without the lookup: the caller guarantees a new ID by drawing
	// at least 80 random bits for this write.
	Fresh
)

// Write is the write of one resource in a batch.
type Write struct {
	Op       Op
	Resource fhir.Resource // canonical JSON without version facts; Type and ID are always set
	// Values holds the index values, as search.Extract returns them. If it is nil,
	// the driver extracts them from the JSON.
	Values *search.Values
	// Template and Cuts, if set, name the template of Resource.JSON and the offsets
	// of its slots (see NewTemplate). The JSON must fit.
	Template *Template
	Cuts     []int
	// Vendor and Author become part of access.Facts.
	Vendor, Author string

	Expect    Expect
	IfVersion uint64
	// Hash identifies the content for SkipSame: if the current version has an equal
	// hash and is not deleted, nothing is written. If Hash is zero, the driver
	// hashes the JSON.
	Hash     [16]byte
	SkipSame bool
}

// StateWrite is one write of small state (tokens, clients, jobs, cursors). Keys are
// "prefix/..." paths; each prefix belongs to one package.
type StateWrite struct {
	Key    string
	Value  []byte // nil deletes the key
	Expect StateExpect
	// Old is the value that StateEquals expects.
	Old []byte
	// Expires, if set, is the time after which the driver may delete the key.
	// Readers must still check the expiry themselves.
	Expires time.Time
}

// StateExpect is the precondition of a StateWrite. If it does not hold, the whole
// batch fails with Conflict.
type StateExpect uint8

const (
	StateAny StateExpect = iota
	StateAbsent
	StateEquals
)

// Leaf is one entry of the tamper-evident log: bytes that package audit writes and
// can recompute. The leaves of a batch are appended in order, and the log's stored
// hashes are part of the commit.
type Leaf []byte

// SeriesWrite is a run of new samples of one series. Readers see each as an
// Observation with version 1, written in order before Batch.Writes.
type SeriesWrite struct {
	Template *series.Template
	// Columns are sorted (series.Columns.Sort), have no Commits, and are of the
	// template's class. They may be reused after Commit has returned.
	Columns *series.Columns
}

// Presence reports whether the store holds a sample.
type Presence uint8

const (
	Missing Presence = iota // was never written
	Same                    // is in the same series with the same content
	Other                   // has other content, is in another series, or is a document, possibly deleted
)

// Batch holds the writes that one Commit makes durable together.
type Batch struct {
	// Series holds samples that were Missing when Probe returned Probed: at most
	// one write per series, and no sample twice. If one of their streams has
	// changed since, the commit fails with Conflict, and the writer probes again.
	Series []SeriesWrite
	Probed Seq

	Writes []Write
	State  []StateWrite
	Leaves []Leaf

	// Guards tie the batch to what its writer has read. If a commit after Seen
	// touched one of them, the batch fails with Conflict, and the writer reads again.
	// A store remembers the guards of recent commits only: a batch with guards and
	// an older Seen fails with Conflict, too. Seen is a result of LastSeq.
	Guards []string
	Seen   Seq
	// Touches names guards that this batch touches. A batch that writes a Consent of
	// a patient also touches ConsentGuard of the patient, and every batch TypeGuard of
	// the types that it writes.
	Touches []string

	// ID, if not zero, identifies the batch for BatchMemory. If a batch with the
	// same ID was committed, Commit writes nothing and returns its result, without
	// Outcome.JSON. The writer draws it at random.
	ID [16]byte
	// Sent is the time, with its monotonic reading, at which this process first sent the
	// batch with ID to any store. Zero means the call of Commit. If the store has no
	// result of a batch sent more than half of BatchMemory ago, Commit fails with
	// Unavailable: the batch may have been committed, and its result forgotten.
	Sent time.Time
}

// BatchMemory is the time for which a store knows the result of a batch with an ID.
const BatchMemory = 10 * time.Minute

// ConsentGuard returns the guard that a commit touches when it writes a Consent of
// the patient with this id.
func ConsentGuard(patient string) string { return "Consent?patient=" + patient }

// Outcome is the result of one Write.
type Outcome struct {
	Ref         fhir.Ref
	Version     uint64
	LastUpdated time.Time
	Created     bool // there was no version before, or a deleted one
	Unchanged   bool // nothing was written
	Deleted     bool
	// JSON is the stored, stamped form of a Put. It is nil if the write was
	// unchanged, was a Remove, or had a Template.
	JSON []byte
}

// Result is the result of a commit. Seq is 0 if every write was unchanged and the
// batch held nothing else.
type Result struct {
	Seq       Seq
	Outcomes  []Outcome // parallel to Batch.Writes
	LeafIndex uint64    // index of the first leaf
}

// Head describes the current version of a resource, without its bytes.
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
	Facts   access.Facts // Tokens is valid until the callback returns
	// Samples is set for the samples that Columnar.ChangesBrief reports as one Change.
	Samples *SampleChange
}

// SampleChange describes samples that one commit wrote of one series.
type SampleChange struct {
	First, Last int64 // least and greatest start in Unix microseconds
	// Template returns the template of the series. It is valid until the callback
	// returns, and its result for longer.
	Template func() (*series.Template, error)
}

// Found is one match of a Find. JSON is valid until the callback returns.
type Found struct {
	Resource fhir.Resource
	Facts    *access.Facts
	// Pos is the position of the match. Pass it as Find.After to get the matches
	// after it.
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

// Find is a search at a snapshot. The filter is applied inside the scan, before
// matches are counted or returned.
type Find struct {
	Query  *search.Query
	Filter access.Filter
	At     Seq             // 0 is the latest commit
	After  search.Position // "" starts at the first match
	Limit  int             // 0 is no limit
	// Undeleted leaves out resources that were deleted between At and the latest
	// commit.
	Undeleted bool
	// Owner names the client of the search. A driver may keep a sorted result for
	// the next pages of the same owner, within a bound per owner.
	Owner string
}

// ScanRange selects whole types at a snapshot, in the store's own order, for export
// in one pass and constant memory.
type ScanRange struct {
	Types   []string // in the order in which they are returned
	Patient string   // "" selects all patients; otherwise only this compartment is scanned
	Since   time.Time
	At      Seq
	Filter  access.Filter
	// Deleted includes deletion markers, for exports with Since.
	Deleted bool
	// After and To, if set, limit the scan of a single type to the resources after one
	// position and up to another, both of which an earlier scan of the same range returned.
	After, To search.Position
	// Positions sets Found.Pos.
	Positions bool
}

// VersionRange selects versions of many resources at a snapshot, for the histories of a
// type and of the system. The filter is applied to each version, deletion markers
// included.
type VersionRange struct {
	Types []string
	// Patient, if not empty, says that the filter allows only resources in the compartment
	// of this Patient, so that a driver may leave out others.
	Patient string
	Filter  access.Filter
	At      Seq       // 0 is the latest commit
	Since   time.Time // if not zero, only versions written at or after this time
	// From and To, if To is not zero, select the versions that were current at some time
	// from From on and before To. A deletion marker counts only if it was written then.
	From, To time.Time
	After    search.Position // "" starts at the newest version
	// Rows bounds the versions that are looked at; 0 is no limit.
	Rows int
}

// Store is the contract of a driver. Every method is safe for concurrent use.
// Errors are *fhir.Error.
type Store interface {
	// Commit makes b durable, or returns an error and writes nothing. Concurrent
	// commits share an fsync.
	Commit(ctx context.Context, b *Batch) (Result, error)

	// LastSeq returns the sequence number of the latest durable commit that this
	// process shows.
	LastSeq() Seq
	// Sync returns when this process shows every commit that any process
	// acknowledged before the call, and the watchers have been called for them. It
	// fails with Unavailable if that cannot be confirmed. In a store of one process
	// it returns at once.
	Sync(ctx context.Context) error

	// Read returns the version that was current at a Seq (0 is the latest). It
	// fails with NotFound if there never was one. A deleted resource has Deleted
	// set, and its facts name the patients of the version before, if those may be several.
	Read(ctx context.Context, ref fhir.Ref, at Seq) (fhir.Resource, *access.Facts, error)
	// ReadVersion returns one version. It fails with NotFound if there is none.
	ReadVersion(ctx context.Context, ref fhir.Ref, version uint64) (fhir.Resource, *access.Facts, error)
	// History calls fn for the versions of ref that existed at a Seq, newest first,
	// until fn returns false. If before is not 0, it starts below that version.
	History(ctx context.Context, ref fhir.Ref, at Seq, before uint64, fn func(fhir.Resource, *access.Facts) bool) error
	// Versions calls fn for the versions of many resources, the newest commit first, until
	// fn returns false. Within a commit they are in the order in which it wrote them. If
	// it has looked at as many versions as r.Rows says and there may be more, it returns
	// the position after which to continue, otherwise "".
	Versions(ctx context.Context, r VersionRange, fn func(*Found) bool) (search.Position, error)
	// Probe reports which samples the store holds as of the commit at. The slices
	// of found are parallel to ws and to the samples of each write.
	Probe(ctx context.Context, ws []SeriesWrite) (at Seq, found [][]Presence, err error)
	// Heads returns the current heads of refs, and the zero Head for absent
	// resources.
	Heads(ctx context.Context, refs []fhir.Ref) ([]Head, error)

	// Find calls fn for every match in the query's sort order, until fn returns
	// false or the limit is reached. A search whose sort takes more space than the
	// driver has set aside fails with TooCostly; sorting by date or _lastUpdated
	// takes none.
	Find(ctx context.Context, f Find, fn func(*Found) bool) error
	// Count returns the number of matches that the filter allows.
	Count(ctx context.Context, f Find) (uint64, error)
	// Scan streams whole types for export.
	Scan(ctx context.Context, r ScanRange, fn func(*Found) bool) error

	// Changes calls fn for every change after from, up to LastSeq, in order, until
	// fn returns false. The change log leaves out AuditEvents.
	Changes(ctx context.Context, from Seq, fn func(*Change) bool) error
	// Watch registers fn, which is called after each durable commit, in order of
	// Seq, before the commit's writer gets its answer. A withdrawn consent thereby
	// reaches the next request. fn is called for the commits of other processes, too,
	// when this process shows them. fn must be quick and must not call Commit or Sync. The
	// returned func unregisters fn.
	Watch(fn func(Commit)) (stop func())

	// Get returns the value of a state key, or nil if the key is absent.
	Get(ctx context.Context, key string) ([]byte, error)
	// List calls fn for the keys with the prefix, in order, until fn returns false.
	List(ctx context.Context, prefix string, fn func(key string, value []byte) bool) error
	// ListFrom is List, starting at the key from.
	ListFrom(ctx context.Context, prefix, from string, fn func(key string, value []byte) bool) error

	// Log returns read access to the tamper-evident log.
	Log() Log

	// Stats returns sizes for metrics.
	Stats() Stats
	// Inspect walks the rows that store the documents of a type. It calls fn for
	// each version up to the commit at (0 is the latest), current or superseded, as
	// searches would read it and without a filter. It calls report for each row
	// that searches, reads or histories depend on and that disagrees with the
	// others. Two rows of one version are two calls of fn.
	Inspect(ctx context.Context, typ string, at Seq, fn func(*Row), report func(id, problem string)) error
	// Check reads the whole store and reports inconsistencies.
	Check(ctx context.Context, report func(problem string)) error
	// Compact frees the space of deleted data and compacts files. It is for
	// operators and benchmarks.
	Compact(ctx context.Context) error
	Close() error
}

// Commit describes a commit to a watcher.
type Commit struct {
	Seq     Seq
	Changes []Change // without AuditEvents and samples
	Samples int      // number of samples written; Store.Changes returns them
}

// Log is the RFC 6962 Merkle log of leaves, as of the latest commit.
type Log interface {
	// Size returns the number of leaves.
	Size() uint64
	// Leaf returns leaf i.
	Leaf(i uint64) (Leaf, error)
	// Hashes returns stored hashes by their golang.org/x/mod/sumdb/tlog index.
	Hashes(indexes []int64) ([][32]byte, error)
	// Root returns the root of the first n leaves.
	Root(n uint64) ([32]byte, error)
}

// Stats holds sizes of a store.
type Stats struct {
	DiskBytes uint64
	Resources uint64 // current resources, estimated
	Seq       Seq
	Log       uint64
}
