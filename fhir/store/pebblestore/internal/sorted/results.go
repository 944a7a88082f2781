package sorted

import (
	"bufio"
	"container/list"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"slices"
	"sort"
	"strconv"
	"sync"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"pulsegate/fhir"
	"pulsegate/fhir/search"
	"pulsegate/fhir/store"
	"pulsegate/fhir/store/pebblestore/internal/fault"
)

// Bounds of cached results. If a result was dropped, the next page sorts again: a
// position does not depend on the result it came from.
const (
	ResultTTL      = 10 * time.Minute // since the last page
	ResultsPer     = 8                // results of one owner
	memoryBytes    = 32 << 20         // of all results in memory
	memoryEach     = 4 << 20          // larger results are written to disk
	defaultSpilled = 1 << 30          // default of Results.Limit
)

// Results caches sorted results for the next pages. It is safe for concurrent use.
//
// It is not a golang-lru cache, because it is bounded by bytes in memory, by bytes
// on disk and by results per owner, and a result in use must not be dropped.
type Results struct {
	fs       vfs.FS
	dir      string
	clock    func() time.Time
	runBytes int
	Limit    int64 // bytes on disk

	mu     sync.Mutex
	made   bool // the directory exists
	files  uint64
	byID   map[[32]byte]*list.Element
	order  *list.List // of *Result, most recently used first
	memory int64      // bytes of cached results in memory
	disk   int64      // bytes reserved for open files
}

// Result is one sorted result. refs counts its users; the cache counts as one.
type Result struct {
	id      [32]byte
	owner   string
	keys    int
	bytes   int64
	memory  bool
	data    io.ReaderAt
	file    *scratch
	marks   []mark
	entries int // entries
	every   int // entries between two marks
	used    time.Time
	refs    int // guarded by Results.mu
}

// mark is an entry at which a seek can start.
type mark struct {
	pos    Position
	offset int64
}

// NewResults returns an empty cache that writes its temporary files to dir. If limit
// is 0, it is DefaultSpilled. Matches up to runBytes are sorted in memory.
func NewResults(fs vfs.FS, dir string, clock func() time.Time, runBytes int, limit int64) (*Results, error) {
	rs := &Results{fs: fs, dir: dir, clock: clock, runBytes: runBytes, Limit: limit,
		byID: map[[32]byte]*list.Element{}, order: list.New()}
	if rs.Limit == 0 {
		rs.Limit = defaultSpilled
	}
	// Results of an earlier process cannot be used.
	return rs, rs.fs.RemoveAll(rs.dir)
}

// ResultID identifies the result of an owner's search at a snapshot.
func ResultID(owner string, q *search.Query, sort []search.SortKey, at store.Seq) [32]byte {
	h := sha256.New()
	fmt.Fprintf(h, "%q %q %d %v", owner, q.Type, at, sort)
	writeClauses(h, q.Clauses)
	return [32]byte(h.Sum(nil))
}

func writeClauses(w io.Writer, cs []search.Clause) {
	for i := range cs {
		c := &cs[i]
		if c.Param != nil {
			fmt.Fprintf(w, " %q %q", c.Param.Code, c.Param.URL)
		}
		fmt.Fprintf(w, " %d %t %t %d", c.Modifier, c.Missing, c.Not, len(c.Any))
		for j := range c.Values {
			fmt.Fprintf(w, " %#v", c.Values[j])
		}
		for _, list := range c.Any {
			fmt.Fprintf(w, " [%d", len(list))
			writeClauses(w, list)
		}
	}
}

// mark records every r.every-th entry.
func (r *Result) mark(p *Position, off int64) {
	if r.entries%r.every == 0 {
		if len(r.marks) == maxMarks { // keep every second one
			for i := range maxMarks / 2 {
				r.marks[i] = r.marks[2*i]
			}
			r.marks, r.every = r.marks[:maxMarks/2], 2*r.every
		}
		if r.entries%r.every == 0 {
			r.marks = append(r.marks, mark{Position{slices.Clone(p.Keys), p.ID}, off})
		}
	}
	r.entries++
}

// Seek returns a reader that starts at the last mark at or before from.
func (r *Result) Seek(keys []search.SortKey, from *Position) (*Reader, error) {
	off := int64(0)
	if from != nil {
		i := sort.Search(len(r.marks), func(i int) bool { return r.marks[i].pos.Compare(from, keys) > 0 })
		if i > 0 {
			off = r.marks[i-1].offset
		}
	}
	return &Reader{src: bufio.NewReader(io.NewSectionReader(r.data, off, r.bytes-off)), keys: len(keys)}, nil
}

func (rs *Results) Writer(sort []search.SortKey) *Writer {
	return &Writer{rs: rs, sort: sort}
}

// Take returns a cached result, or nil. The caller releases it.
func (rs *Results) Take(id [32]byte) *Result {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	rs.expire()
	el := rs.byID[id]
	if el == nil {
		return nil
	}
	r := el.Value.(*Result)
	r.refs++
	r.used = rs.clock()
	rs.order.MoveToFront(el)
	return r
}

// Keep caches a result, and drops others that exceed the bounds.
func (rs *Results) Keep(id [32]byte, owner string, r *Result) {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	rs.expire()
	if rs.byID[id] != nil || r.memory && r.bytes > memoryEach { // another request cached it first
		return
	}
	r.id, r.owner, r.used = id, owner, rs.clock()
	r.refs++
	rs.byID[id] = rs.order.PushFront(r)
	if r.memory {
		rs.memory += r.bytes
	}
	n := 0
	for el := rs.order.Front(); el != nil; {
		at := el
		el = el.Next()
		if o := at.Value.(*Result); o.owner == owner {
			if n++; n > ResultsPer {
				rs.drop(at)
			}
		}
	}
	for rs.memory > memoryBytes {
		rs.dropLast(func(r *Result) bool { return r.memory })
	}
}

// Tidy drops expired results.
func (rs *Results) Tidy() {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	rs.expire()
}

// expire drops results that were not used recently.
func (rs *Results) expire() {
	now := rs.clock()
	for el := rs.order.Back(); el != nil && now.Sub(el.Value.(*Result).used) > ResultTTL; el = rs.order.Back() {
		rs.drop(el)
	}
}

func (rs *Results) dropLast(of func(*Result) bool) bool {
	for el := rs.order.Back(); el != nil; el = el.Prev() {
		if of(el.Value.(*Result)) {
			rs.drop(el)
			return true
		}
	}
	return false
}

func (rs *Results) drop(el *list.Element) {
	r := rs.order.Remove(el).(*Result)
	delete(rs.byID, r.id)
	if r.memory {
		rs.memory -= r.bytes
	}
	rs.unref(r)
}

func (rs *Results) Release(r *Result) {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	rs.unref(r)
}

func (rs *Results) unref(r *Result) {
	if r.refs--; r.refs == 0 && r.file != nil {
		if err := r.file.removeLocked(); err != nil {
			return // the next start removes the file
		}
	}
}

// Usage returns the number of cached results and the bytes of their files.
func (rs *Results) Usage() (n int, disk int64) {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	return rs.order.Len(), rs.disk
}

// Close drops all results.
func (rs *Results) Close() error {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	for el := rs.order.Back(); el != nil; el = rs.order.Back() {
		rs.drop(el)
	}
	return rs.fs.RemoveAll(rs.dir)
}

// reserve reserves space on disk. It drops cached results if there is not enough.
func (rs *Results) reserve(n int64) error {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	for rs.disk+n > rs.Limit {
		if !rs.dropLast(func(r *Result) bool { return r.file != nil && r.refs == 1 }) {
			return fhir.Errorf(fhir.TooCostly, "pebblestore.Find",
				"sorting the matches takes more than the %d MiB that this server sets aside for it: narrow the search, or sort by date or _lastUpdated", rs.Limit>>20)
		}
	}
	rs.disk += n
	return nil
}

// scratch is a temporary file.
type scratch struct {
	rs   *Results
	name string
	file vfs.File
	buf  []byte
	size int64 // including buf
	held int64 // bytes reserved
}

const scratchBuffer = 256 << 10

func (rs *Results) scratch() (*scratch, error) {
	rs.mu.Lock()
	rs.files++
	name, made := rs.fs.PathJoin(rs.dir, strconv.FormatUint(rs.files, 10)), rs.made
	rs.made = true
	rs.mu.Unlock()
	if !made {
		if err := rs.fs.MkdirAll(rs.dir, 0o700); err != nil {
			return nil, errScratch(err)
		}
	}
	f, err := rs.fs.Create(name, "pebblestore-sorted")
	if err != nil {
		return nil, errScratch(err)
	}
	// Reopen the file for reading: some file systems do not read through a handle
	// that Create returned.
	return &scratch{rs: rs, name: name, file: f}, nil
}

func errScratch(err error) error {
	return &fhir.Error{Kind: fhir.Unavailable, Op: "pebblestore.Find",
		Err: errors.New("temporary file: " + fault.Describe(err)),
		Issues: []fhir.Issue{{Severity: "error", Code: fhir.Unavailable.IssueCode(),
			Diagnostics: "the matches could not be sorted: a temporary file cannot be written or read"}}}
}

func (s *scratch) write(b []byte) error {
	s.buf = append(s.buf, b...)
	if s.size += int64(len(b)); len(s.buf) < scratchBuffer {
		return nil
	}
	return s.push()
}

func (s *scratch) push() error {
	if err := s.rs.reserve(int64(len(s.buf))); err != nil {
		return err
	}
	s.held += int64(len(s.buf))
	if _, err := s.file.Write(s.buf); err != nil {
		return errScratch(err)
	}
	s.buf = s.buf[:0]
	return nil
}

// flush writes the buffer and makes the file readable.
func (s *scratch) flush() error {
	if err := s.push(); err != nil {
		return err
	}
	s.buf = nil
	if err := s.file.Close(); err != nil {
		return errScratch(err)
	}
	f, err := s.rs.fs.Open(s.name)
	if err != nil {
		return errScratch(err)
	}
	s.file = f
	return nil
}

func (s *scratch) ReadAt(p []byte, off int64) (int, error) {
	n, err := s.file.ReadAt(p, off)
	if err != nil && err != io.EOF {
		err = errScratch(err)
	}
	return n, err
}

func (s *scratch) remove() error {
	s.rs.mu.Lock()
	defer s.rs.mu.Unlock()
	return s.removeLocked()
}

func (s *scratch) removeLocked() error {
	s.rs.disk -= s.held
	s.held = 0
	return errors.Join(s.file.Close(), s.rs.fs.Remove(s.name))
}
