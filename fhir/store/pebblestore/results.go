package pebblestore

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
)

// Bounds of kept results. A result that was let go is made again when its next
// page is asked for: a position says where to go on, whatever holds the rows.
const (
	resultTTL      = 10 * time.Minute // after the last page
	resultsPer     = 8                // results of one owner
	memoryBytes    = 32 << 20         // of results in memory, together
	memoryEach     = 4 << 20          // a larger result is written to disk
	DefaultSpilled = 1 << 30          // Options.SpillBytes
)

// results keeps sorted results for later pages. It is not a golang-lru cache,
// because it is bounded by bytes in memory and on disk and by the number of
// results per owner, and because a result in use must not be removed.
type results struct {
	fs       vfs.FS
	dir      string
	clock    func() time.Time
	runBytes int
	limit    int64 // bytes on disk

	mu     sync.Mutex
	made   bool // the directory is there
	n      uint64
	byID   map[[32]byte]*list.Element
	order  *list.List // of *result, the one used last first
	memory int64      // bytes of results that are kept
	disk   int64      // bytes of files that are open
}

// result is one sorted result. refs counts who uses it; the store's own counts
// as one while the result is kept.
type result struct {
	id     [32]byte
	owner  string
	keys   int
	bytes  int64
	memory bool
	at     io.ReaderAt
	file   *scratch
	marks  []mark
	n      int // entries
	every  int // entries between two marks
	used   time.Time
	refs   int // guarded by results.mu
}

// mark is an entry at which a seek can begin.
type mark struct {
	p   sortPos
	off int64
}

func newResults(d *DB) (*results, error) {
	rs := &results{fs: d.fs, dir: d.fs.PathJoin(d.dir, "sorted"), clock: d.opts.Clock, runBytes: d.opts.bounds.run,
		limit: d.opts.SpillBytes,
		byID:  map[[32]byte]*list.Element{}, order: list.New()}
	if rs.limit == 0 {
		rs.limit = DefaultSpilled
	}
	// Results of an earlier process cannot be used.
	return rs, rs.fs.RemoveAll(rs.dir)
}

// resultID names the result of a search at a snapshot for its owner.
func resultID(owner string, q *search.Query, sort []search.SortKey, at store.Seq) [32]byte {
	h := sha256.New()
	fmt.Fprintf(h, "%q %q %d %v", owner, q.Type, at, sort)
	for i := range q.Clauses {
		c := &q.Clauses[i]
		fmt.Fprintf(h, " %q %d %t", c.Param.Code, c.Modifier, c.Missing)
		for j := range c.Values {
			fmt.Fprintf(h, " %#v", c.Values[j])
		}
	}
	return [32]byte(h.Sum(nil))
}

// mark remembers an entry now and then.
func (r *result) mark(p *sortPos, off int64) {
	if r.n%r.every == 0 {
		if len(r.marks) == maxMarks { // every second is enough from now on
			for i := range maxMarks / 2 {
				r.marks[i] = r.marks[2*i]
			}
			r.marks, r.every = r.marks[:maxMarks/2], 2*r.every
		}
		if r.n%r.every == 0 {
			r.marks = append(r.marks, mark{sortPos{slices.Clone(p.Keys), p.ID}, off})
		}
	}
	r.n++
}

// seek reads from the last mark that is not behind from.
func (r *result) seek(keys []search.SortKey, from *sortPos) (*posReader, error) {
	off := int64(0)
	if from != nil {
		i := sort.Search(len(r.marks), func(i int) bool { return r.marks[i].p.compare(from, keys) > 0 })
		if i > 0 {
			off = r.marks[i-1].off
		}
	}
	return &posReader{r: bufio.NewReader(io.NewSectionReader(r.at, off, r.bytes-off)), keys: len(keys)}, nil
}

func (rs *results) writer(sort []search.SortKey) *resultWriter {
	return &resultWriter{rs: rs, sort: sort}
}

// take returns a kept result, nil when there is none. The caller releases it.
func (rs *results) take(id [32]byte) *result {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	rs.expire()
	el := rs.byID[id]
	if el == nil {
		return nil
	}
	r := el.Value.(*result)
	r.refs++
	r.used = rs.clock()
	rs.order.MoveToFront(el)
	return r
}

// keep keeps a result, and lets go of those that are then too many.
func (rs *results) keep(id [32]byte, owner string, r *result) {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	rs.expire()
	if rs.byID[id] != nil || r.memory && r.bytes > memoryEach { // another request was quicker
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
		if o := at.Value.(*result); o.owner == owner {
			if n++; n > resultsPer {
				rs.drop(at)
			}
		}
	}
	for rs.memory > memoryBytes {
		rs.dropLast(func(r *result) bool { return r.memory })
	}
}

// tidy is called now and then.
func (rs *results) tidy() {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	rs.expire()
}

// expire lets go of results that nobody asked for lately.
func (rs *results) expire() {
	now := rs.clock()
	for el := rs.order.Back(); el != nil && now.Sub(el.Value.(*result).used) > resultTTL; el = rs.order.Back() {
		rs.drop(el)
	}
}

func (rs *results) dropLast(of func(*result) bool) bool {
	for el := rs.order.Back(); el != nil; el = el.Prev() {
		if of(el.Value.(*result)) {
			rs.drop(el)
			return true
		}
	}
	return false
}

func (rs *results) drop(el *list.Element) {
	r := rs.order.Remove(el).(*result)
	delete(rs.byID, r.id)
	if r.memory {
		rs.memory -= r.bytes
	}
	rs.unref(r)
}

func (rs *results) release(r *result) {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	rs.unref(r)
}

func (rs *results) unref(r *result) {
	if r.refs--; r.refs == 0 && r.file != nil {
		if err := r.file.removeLocked(); err != nil {
			return // the next start removes what is left of it
		}
	}
}

// close lets go of everything.
func (rs *results) close() error {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	for el := rs.order.Back(); el != nil; el = rs.order.Back() {
		rs.drop(el)
	}
	return rs.fs.RemoveAll(rs.dir)
}

// reserve takes room on disk, of kept results when nothing else is left.
func (rs *results) reserve(n int64) error {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	for rs.disk+n > rs.limit {
		if !rs.dropLast(func(r *result) bool { return r.file != nil && r.refs == 1 }) {
			return fhir.Errorf(fhir.TooCostly, "pebblestore.Find",
				"sorting the matches takes more than the %d MiB that this server sets aside for it: narrow the search, or sort by date or _lastUpdated", rs.limit>>20)
		}
	}
	rs.disk += n
	return nil
}

// scratch is a temporary file.
type scratch struct {
	rs   *results
	name string
	f    vfs.File
	buf  []byte
	size int64 // with what is in buf
	held int64 // bytes that are reserved
}

const scratchBuffer = 256 << 10

func (rs *results) scratch() (*scratch, error) {
	rs.mu.Lock()
	rs.n++
	name, made := rs.fs.PathJoin(rs.dir, strconv.FormatUint(rs.n, 10)), rs.made
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
	// The handle for reading is another: the file system decides what one that
	// was created may do.
	return &scratch{rs: rs, name: name, f: f}, nil
}

func errScratch(err error) error {
	return &fhir.Error{Kind: fhir.Unavailable, Op: "pebblestore.Find",
		Err: errors.New("temporary file: " + faultOf(err)),
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
	if _, err := s.f.Write(s.buf); err != nil {
		return errScratch(err)
	}
	s.buf = s.buf[:0]
	return nil
}

// flush writes the rest and makes the file ready to be read.
func (s *scratch) flush() error {
	if err := s.push(); err != nil {
		return err
	}
	s.buf = nil
	if err := s.f.Close(); err != nil {
		return errScratch(err)
	}
	f, err := s.rs.fs.Open(s.name)
	if err != nil {
		return errScratch(err)
	}
	s.f = f
	return nil
}

func (s *scratch) ReadAt(p []byte, off int64) (int, error) {
	n, err := s.f.ReadAt(p, off)
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
	return errors.Join(s.f.Close(), s.rs.fs.Remove(s.name))
}
