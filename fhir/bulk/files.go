package bulk

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/cespare/xxhash/v2"

	"pulsegate/fhir"
	"pulsegate/fhir/access"
	"pulsegate/fhir/r4"
	"pulsegate/fhir/search"
	"pulsegate/fhir/store"
)

// file is the durable description of an output file. Its bytes are made during a download.
type file struct {
	Stream int    `json:"stream"` // index in job.streams
	Number int    `json:"number"` // in the stream, from 1
	Type   string `json:"type,omitempty"`
	From   cursor `json:"from,omitzero"`
	// To is the position of the last resource. It is nil for the last file of a stream.
	To    *cursor `json:"to,omitempty"`
	Count int     `json:"count"` // lines
	Size  int64   `json:"size"`  // bytes
	// Marks holds 4 bytes for each block: a hash of the file up to the end of the block. A
	// download compares them, because its bytes differ if a consent has changed.
	Marks []byte `json:"marks"`
	// Continues is set if the resources of a patient continue in the next file.
	Continues bool `json:"continues,omitempty"`
	// Changed is set once a download had other bytes. The file then has no entity tag, so
	// that no client joins parts of two contents.
	Changed bool `json:"changed,omitempty"`
}

const filePrefix = "bulk-file/"

func fileKey(job string, stream, number int) string {
	return fmt.Sprintf("%s%s/%04d/%08d", filePrefix, job, stream, number)
}

// name returns the last part of the URL of the file.
func (f *file) name() string {
	base := f.Type
	if base == "" {
		base = organizedName
	}
	if f.Number == 1 {
		return base + ".ndjson"
	}
	return fmt.Sprintf("%s.%d.ndjson", base, f.Number)
}

// organizedName is the name of files with the resources of several types by patient.
const organizedName = "Patient-blocks"

// streams returns the types of each sequence of files.
func (j *job) streams() [][]string {
	if j.Organized {
		// The Patient comes first in its block.
		types := []string{}
		for _, t := range j.Types {
			if t == "Patient" {
				types = append([]string{t}, types...)
			} else {
				types = append(types, t)
			}
		}
		return [][]string{types}
	}
	var out [][]string
	for _, t := range j.Types {
		out = append(out, []string{t})
	}
	return out
}

// lines renders the resources of a file: the bytes, and with organized files the header
// before those of a patient.
type lines struct {
	job      *job
	patient  string
	elements map[string][]string
}

func (j *job) newLines() *lines {
	l := &lines{job: j}
	if len(j.Elements) == 0 {
		return l
	}
	l.elements = map[string][]string{}
	for _, t := range j.Types {
		l.elements[t] = j.elementsOf(t)
	}
	return l
}

// append appends the lines for an item to b. It returns the size of the header among
// them, or 0.
func (l *lines) append(b []byte, it *item) ([]byte, int, error) {
	header := 0
	if l.job.Organized && it.patient != l.patient {
		l.patient = it.patient
		begin := len(b)
		b = append(b, `{"resourceType":"Parameters","parameter":[{"name":"header","valueReference":{"reference":"Patient/`...)
		b = append(append(b, it.patient...), "\"}}]}\n"...)
		header = len(b) - begin
	}
	body := it.Resource.JSON
	if e := l.elements[it.Resource.Type]; len(e) > 0 {
		var err error
		if body, err = r4.Subset(it.Resource.Type, body, search.SummaryNone, e); err != nil {
			return b, 0, err
		}
	}
	return append(append(b, body...), '\n'), header, nil
}

// measure counts and hashes the bytes of a file.
type measure struct {
	count int
	size  int64
	block int // bytes since the last mark
	hash  xxhash.Digest
	marks []byte
}

func newMeasure() *measure {
	m := &measure{}
	m.hash.Reset()
	return m
}

func (m *measure) mark() uint32 { return uint32(m.hash.Sum64()) }

func (m *measure) add(line []byte, n int) {
	m.count, m.size, m.block = m.count+n, m.size+int64(len(line)), m.block+len(line)
	_, _ = m.hash.Write(line) // never fails
	if m.block >= blockSize {
		m.marks, m.block = binary.BigEndian.AppendUint32(m.marks, m.mark()), 0
	}
}

// end completes the description of a file.
func (m *measure) end(f *file) *file {
	if m.block > 0 {
		m.marks = binary.BigEndian.AppendUint32(m.marks, m.mark())
	}
	f.Count, f.Size, f.Marks = m.count, m.size, m.marks
	return f
}

// nextFile determines the next file of a stream, which begins at from. It returns nil if
// there are no more resources. A resource that is larger than a file has one of its own. A
// block of a patient continues in another file only if it is larger than one.
func (e *Exporter) nextFile(ctx context.Context, w *walk, stream, number int, from cursor) (*file, error) {
	f := &file{Stream: stream, Number: number, From: from}
	if !w.job.Organized {
		f.Type = w.types[0]
	}
	m, l := newMeasure(), w.job.newLines()
	var last, blockEnd cursor // positions of the last resource, and of the last one before this block
	var atBlock *measure      // as of blockEnd
	var buf []byte
	var failed error
	full := false
	err := w.run(ctx, from, nil, func(it *item) bool {
		before := l.patient
		var header int
		if buf, header, failed = l.append(buf[:0], it); failed != nil {
			return false
		}
		n := 1
		if header > 0 {
			n++
		}
		if w.job.Organized && it.patient != before && m.count > 0 {
			blockEnd, atBlock = last, m.clone()
		}
		if m.count > 0 && m.size+int64(len(buf)) > e.opts.FileBytes {
			full = true
			f.Continues = w.job.Organized && it.patient == before
			return false
		}
		m.add(buf, n)
		last = it.at
		return true
	})
	if failed != nil {
		err = failed
	}
	if err != nil || m.count == 0 {
		return nil, err
	}
	if !full {
		return m.end(f), nil
	}
	if f.Continues && atBlock != nil {
		f.Continues, m, last = false, atBlock, blockEnd
	}
	f.To = &last
	return m.end(f), nil
}

// clone copies a measure.
func (m *measure) clone() *measure {
	c := *m
	c.marks = append([]byte(nil), m.marks...)
	return &c
}

// files calls fn for the files of a job in order until fn returns false.
func (e *Exporter) files(ctx context.Context, id string, fn func(f *file, value []byte) bool) error {
	var bad error
	err := e.opts.Store.List(ctx, filePrefix+id+"/", func(_ string, v []byte) bool {
		f := new(file)
		if bad = json.Unmarshal(v, f); bad != nil {
			return false
		}
		return fn(f, v)
	})
	if bad != nil {
		err = bad
	}
	return fhir.Wrap("bulk.files", err)
}

// fileOf returns the file of a job with a name, and its stored bytes, or nil.
func (e *Exporter) fileOf(ctx context.Context, j *job, name string) (found *file, value []byte, err error) {
	base, ok := strings.CutSuffix(name, ".ndjson")
	if !ok {
		return nil, nil, nil
	}
	number := 1
	if typ, digits, several := strings.Cut(base, "."); several {
		if _, err := fmt.Sscanf(digits, "%d", &number); err != nil || fmt.Sprint(number) != digits || number < 2 {
			return nil, nil, nil
		}
		base = typ
	}
	for i, types := range j.streams() {
		if !j.Organized && types[0] != base || j.Organized && base != organizedName {
			continue
		}
		v, err := e.opts.Store.Get(ctx, fileKey(j.ID, i, number))
		if err != nil || v == nil {
			return nil, nil, fhir.Wrap("bulk.Open", err)
		}
		f := new(file)
		return f, v, fhir.Wrap("bulk.Open", json.Unmarshal(v, f))
	}
	return nil, nil, nil
}

// saveEvery is the number of files that are stored together.
const saveEvery = 100

// prepare determines the files of a job. It continues after those that are stored. save
// stores files; the writes that are left are returned, to be stored with the result.
func (e *Exporter) prepare(ctx context.Context, j *job, g *access.Grant,
	save func([]store.StateWrite) error) (left []store.StateWrite, err error) {
	if g == nil {
		if g, err = e.opts.GrantFor(ctx, j.Client, j.Scope); err != nil {
			return nil, err
		}
	}
	last := map[int]*file{} // of each stream
	if err := e.files(ctx, j.ID, func(f *file, _ []byte) bool { last[f.Stream] = f; return true }); err != nil {
		return nil, err
	}
	for i, types := range j.streams() {
		w, err := e.newWalk(ctx, j, types, g)
		if err != nil {
			return nil, err
		}
		w.positions = true
		number, from := 1, cursor{}
		if f := last[i]; f != nil {
			if f.To == nil {
				continue
			}
			number, from = f.Number+1, *f.To
		}
		for {
			f, err := e.nextFile(ctx, w, i, number, from)
			if err != nil {
				return nil, err
			}
			if f == nil {
				break
			}
			v, err := json.Marshal(f)
			if err != nil {
				return nil, err
			}
			left = append(left, store.StateWrite{Key: fileKey(j.ID, i, number), Value: v, Expires: j.Expires})
			if f.To == nil {
				break
			}
			// A file that was cut took long enough to be worth a commit, and a client may take it.
			if err := save(left); err != nil {
				return nil, err
			}
			left, number, from = nil, number+1, *f.To
		}
		if len(left) >= saveEvery {
			if err := save(left); err != nil {
				return nil, err
			}
			left = nil
		}
	}
	return left, e.findDeleted(ctx, j, g)
}

// findDeleted sets job.Deleted.
func (e *Exporter) findDeleted(ctx context.Context, j *job, g *access.Grant) error {
	if j.Since.IsZero() {
		return nil
	}
	w, err := e.newWalk(ctx, j, j.Types, g)
	if err != nil {
		return err
	}
	w.deleted = true
	return w.run(ctx, cursor{}, nil, func(*item) bool { j.Deleted = true; return false })
}
