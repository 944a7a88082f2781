package bulk

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/cespare/xxhash/v2"

	"pulsegate/fhir"
	"pulsegate/fhir/access"
	"pulsegate/fhir/audit"
	"pulsegate/fhir/search"
	"pulsegate/fhir/store"
)

// blockSize is the number of bytes after which a block is disclosed and written.
const blockSize = 256 << 10

// partSize is the number of bytes of a block that are written between two
// checks of the consents. A resource that is larger is written whole.
const partSize = 64 << 10

// deletedPerBundle bounds the entries of one transaction Bundle of deletions.
const deletedPerBundle = 100

// File is one opened download. It is not safe for concurrent use.
type File struct {
	exporter *Exporter
	caller   audit.Caller
	job      *job
	name     string
	file     *file  // nil for the files of errors and deletions
	value    []byte // stored bytes of file

	ranged   bool
	from, to int64 // range of bytes, [from, to)
	changed  bool  // the bytes are not those that file describes

	target Target // where the file is delivered to; nil for a download
}

// Open opens a file for download. The caller must have started the job, the job
// must be complete and have the file, and the token must cover its types now.
func (e *Exporter) Open(ctx context.Context, c audit.Caller, id, name string) (*File, error) {
	const op = "bulk.Open"
	j, err := e.load(ctx, c.Principal, id)
	if err != nil {
		return nil, err
	}
	f := &File{exporter: e, caller: c, job: j, name: name}
	absent := fhir.Errorf(fhir.NotFound, op, "the export has no such file")
	types := j.Types
	switch {
	case j.State != complete && (!j.Partial || j.State != running):
		return nil, fhir.Errorf(fhir.NotFound, op, "the export is not complete")
	case name == errorFile && len(j.Warnings) > 0:
		return f, nil
	case name == deletedFile:
		if !j.Deleted {
			return nil, absent
		}
	default:
		if f.file, f.value, err = e.fileOf(ctx, j, name); err != nil {
			return nil, err
		}
		if f.file == nil {
			return nil, absent
		}
		types, f.changed = j.streams()[f.file.Stream], f.file.Changed
	}
	for _, t := range types {
		if !c.Principal.Grant.MayUnattended(access.Read, t) {
			return nil, fhir.Errorf(fhir.Forbidden, op, "the token's scopes do not cover reading %s", t)
		}
	}
	return f, nil
}

// Tag returns the entity tag of the file, without quotes, and its size in bytes. If ok is
// false, the content has changed since the export, because consents have, and it has no
// tag and no ranges.
func (f *File) Tag() (tag string, size int64, ok bool) {
	if f.file == nil || f.changed || len(f.file.Marks) < 4 {
		return "", 0, false
	}
	return fmt.Sprintf("%s-%d-%d-%x", f.job.ID, f.file.Stream, f.file.Number, f.file.Marks[len(f.file.Marks)-4:]),
		f.file.Size, true
}

// SetRange limits WriteTo to the bytes [from, to). If the content has changed, WriteTo
// writes the whole file, and Range returns false from then on.
func (f *File) SetRange(from, to int64) { f.ranged, f.from, f.to = true, from, to }

// Range returns the range that WriteTo writes.
func (f *File) Range() (from, to int64, ok bool) { return f.from, f.to, f.ranged && !f.changed }

// errRestart is returned by a block if the content has changed before anything was written
// of a range.
var errRestart = errors.New("the file has changed")

// errChanged ends a download of a range whose content changed while it was written.
var errChanged = fhir.Errorf(fhir.Unavailable, "bulk.WriteTo", "a consent has changed while the file was sent")

// WriteTo writes the file to w. Each block is written after its disclosures are
// durable.
func (f *File) WriteTo(ctx context.Context, w io.Writer) error {
	if f.name == errorFile {
		return f.writeErrors(ctx, w)
	}
	err := f.write(ctx, w)
	if errors.Is(err, errRestart) {
		err = f.write(ctx, w)
	}
	return err
}

func (f *File) write(ctx context.Context, w io.Writer) error {
	b := newBlock(f, w)
	types, from, to := f.job.Types, cursor{}, (*cursor)(nil)
	if f.file != nil {
		types, from, to = f.job.streams()[f.file.Stream], f.file.From, f.file.To
	}
	walk, err := f.exporter.newWalk(ctx, f.job, types, f.caller.Principal.Grant)
	if err != nil {
		return err
	}
	walk.deleted = f.name == deletedFile
	var failed error
	err = walk.run(ctx, from, to, func(it *item) bool {
		failed = b.add(ctx, it)
		return failed == nil
	})
	if errors.Is(failed, errDone) {
		return nil
	}
	if failed != nil {
		return failed
	}
	if err != nil {
		return fhir.Wrap("bulk.WriteTo", err)
	}
	if err := f.caller.Principal.Grant.Live(ctx); err != nil {
		return err // a scan may take long without reaching flush
	}
	if err := b.flush(ctx); err != nil && !errors.Is(err, errDone) {
		return err
	}
	if !b.wrote && len(b.seen) == 0 {
		// The file is empty. Record the download anyway.
		return f.exporter.opts.Audit.Record(ctx, f.event(""))
	}
	return nil
}

func (f *File) event(patient string) audit.Event {
	ev := audit.Event{
		Type: audit.Disclosure, Interaction: "operation", Caller: f.caller, Patient: patient,
		Query: f.exporter.fileURL(f.job.ID, f.name), Recipient: f.caller.RemoteIP,
		Extra: [][2]string{{"job", f.job.ID}},
	}
	if f.target != nil {
		ev.Recipient = f.target.Host()
		ev.Extra = append(ev.Extra, [2]string{"delivered", f.target.Locate(f.job.ID + "/" + f.name)})
	}
	return ev
}

// RecordHead records a request that discloses only the size of the file.
func (f *File) RecordHead(ctx context.Context) error {
	ev := f.event("")
	ev.Type = audit.Rest
	return f.exporter.opts.Audit.Record(ctx, ev)
}

func (f *File) writeErrors(ctx context.Context, w io.Writer) error {
	if err := f.RecordHead(ctx); err != nil {
		return err
	}
	for _, text := range f.job.Warnings {
		line, err := json.Marshal(map[string]any{"resourceType": "OperationOutcome",
			"issue": []map[string]string{{"severity": "warning", "code": "not-supported", "diagnostics": text}}})
		if err != nil {
			return fhir.Wrap("bulk.WriteTo", err)
		}
		if _, err := w.Write(append(line, '\n')); err != nil {
			return fhir.Wrap("bulk.WriteTo", err)
		}
	}
	return nil
}

// change makes it durable that the file has other bytes than it had when it was prepared,
// before any of them are written.
func (f *File) change(ctx context.Context) error {
	if f.file == nil || f.changed {
		return nil
	}
	f.changed = true
	next := *f.file
	next.Changed = true
	v, err := json.Marshal(&next)
	if err != nil {
		return fhir.Wrap("bulk.WriteTo", err)
	}
	_, err = f.exporter.opts.Store.Commit(ctx, &store.Batch{State: []store.StateWrite{{
		Key: fileKey(f.job.ID, f.file.Stream, f.file.Number), Value: v, Expect: store.StateEquals, Old: f.value,
		Expires: f.job.Expires}}})
	if store.Lost(err) { // another download was faster, or the job was deleted
		err = nil
	}
	return fhir.Wrap("bulk.WriteTo", err)
}

// record describes one resource in a block.
type record struct {
	ref      fhir.Ref
	from, to int // range of its bytes in the block, including the line feed
	deleted  bool
	// header is set for the header before the resources of a patient. It has no ref.
	header bool
}

// block collects resources that are disclosed and written together.
type block struct {
	file    *File
	out     io.Writer
	lines   *lines
	buf     []byte
	records []record        // resources that are not written yet
	all     []record        // all resources of the block; keeps the start of the slice
	seen    map[string]bool // patients recorded in this download
	last    string          // patient of the last resource; data is clustered by patient
	fresh   []string        // patients of this block that are not recorded yet
	epoch   uint64          // Exporter.epoch at the last check of the consents
	wrote   bool

	hash  xxhash.Digest // of the file up to the end of the last block
	marks int           // number of blocks
	at    int64         // offset of the block in the file
}

func newBlock(f *File, w io.Writer) *block {
	b := &block{file: f, out: w, buf: make([]byte, 0, blockSize+64<<10), seen: map[string]bool{},
		lines: f.job.newLines(), epoch: f.exporter.epoch.Load()}
	b.hash.Reset()
	return b
}

// errDone ends a download whose range is complete.
var errDone = errors.New("the range is complete")

func (b *block) add(ctx context.Context, r *item) error {
	rec := record{ref: r.Resource.Ref(), from: len(b.buf), deleted: r.Resource.Deleted}
	if !rec.deleted {
		var err error
		var header int
		if b.buf, header, err = b.lines.append(b.buf, r); err != nil {
			return fhir.Wrap("bulk.WriteTo", err)
		}
		if header > 0 {
			b.records = append(b.records, record{from: rec.from, to: rec.from + header, header: true})
			rec.from += header
		}
	}
	rec.to = len(b.buf)
	b.records = append(b.records, rec)
	b.all = b.records
	if _, one := search.PatientParam(rec.ref.Type); one && r.Facts != nil && r.Facts.Patient != "" {
		b.see(r.Facts.Patient)
	} else {
		for _, p := range patientsOf(r.Facts) {
			b.see(p)
		}
	}
	if len(b.buf) >= blockSize || rec.deleted && len(b.records) >= deletedPerBundle {
		return b.flush(ctx)
	}
	return nil
}

// see adds a patient to the disclosures.
func (b *block) see(patient string) {
	if patient == b.last {
		return
	}
	b.last = patient
	if !b.seen[patient] {
		b.seen[patient] = true
		b.fresh = append(b.fresh, patient)
	}
}

// flush makes the block's disclosures durable, drops resources that the consents
// no longer permit, and writes the rest. A client may read slowly, so the grant is
// checked again for each block.
func (b *block) flush(ctx context.Context) error {
	if len(b.records) == 0 {
		return nil
	}
	if err := b.file.caller.Principal.Grant.Live(ctx); err != nil {
		return err
	}
	if from, to, ok := b.file.Range(); ok && b.at+int64(len(b.buf)) <= from {
		return b.skip(ctx)
	} else if ok && b.at >= to {
		return errDone
	}
	if len(b.fresh) > 0 {
		evs := make([]audit.Event, len(b.fresh))
		for i, p := range b.fresh {
			evs[i] = b.file.event(p)
		}
		if err := b.file.exporter.opts.Audit.Record(ctx, evs...); err != nil {
			return err
		}
		b.fresh = b.fresh[:0]
	} else if !b.wrote && len(b.seen) == 0 {
		if err := b.file.exporter.opts.Audit.Record(ctx, b.file.event("")); err != nil {
			return err
		}
	}
	// A Consent may have changed at another process.
	if err := b.file.exporter.opts.Store.Sync(ctx); err != nil {
		return fhir.Wrap("bulk.WriteTo", err)
	}
	if err := b.current(ctx); err != nil {
		return err
	}
	if len(b.records) > 0 && b.records[0].deleted {
		b.wrote = true
		_, err := b.out.Write(b.bundle())
		b.buf, b.records = b.buf[:0], b.records[:0]
		return fhir.Wrap("bulk.WriteTo", err)
	}
	if err := b.check(ctx); err != nil {
		return err
	}
	return b.send(ctx)
}

// check compares the block with the file that was prepared.
func (b *block) check(ctx context.Context) error {
	f := b.file
	if f.file == nil || f.changed {
		return nil
	}
	_, _ = b.hash.Write(b.buf) // never fails
	i := 4 * b.marks
	b.marks++
	if i+4 <= len(f.file.Marks) && binary.BigEndian.Uint32(f.file.Marks[i:]) == uint32(b.hash.Sum64()) {
		return nil
	}
	return b.changed(ctx)
}

// changed handles a block that differs from the file that was prepared.
func (b *block) changed(ctx context.Context) error {
	_, _, ranged := b.file.Range()
	if err := b.file.change(ctx); err != nil {
		return err
	}
	switch {
	case ranged && b.wrote:
		return errChanged
	case ranged:
		return errRestart
	}
	return nil
}

// skip leaves out a block before the range. Nothing of it is disclosed.
func (b *block) skip(ctx context.Context) error {
	if err := b.check(ctx); err != nil {
		return err
	}
	for _, p := range b.fresh {
		delete(b.seen, p)
	}
	b.at += int64(len(b.buf))
	b.fresh, b.last = b.fresh[:0], ""
	b.buf, b.records = b.buf[:0], b.all[:0]
	return nil
}

// send writes the block in parts and checks the consents again between them,
// because a client may read slowly.
func (b *block) send(ctx context.Context) error {
	for len(b.records) > 0 {
		from, n := b.records[0].from, 1
		for n < len(b.records) && b.records[n].to-from <= partSize {
			n++
		}
		if err := b.put(from, b.records[n-1].to); err != nil {
			return err
		}
		left := len(b.records) - n
		b.records = b.records[n:]
		if err := b.current(ctx); err != nil {
			return err
		}
		if len(b.records) != left {
			if err := b.changed(ctx); err != nil {
				return err
			}
		}
	}
	b.at += int64(len(b.buf))
	b.buf, b.records = b.buf[:0], b.all[:0]
	return nil
}

// put writes bytes of the block, as far as they are in the range.
func (b *block) put(from, to int) error {
	if first, end, ok := b.file.Range(); ok {
		from, to = max(from, int(first-b.at)), min(to, int(end-b.at))
		if from >= to {
			if int64(to)+b.at >= end {
				return errDone
			}
			return nil
		}
	}
	b.wrote = true
	_, err := b.out.Write(b.buf[from:to])
	return fhir.Wrap("bulk.WriteTo", err)
}

// current rechecks the block if a Consent has changed since the last check.
func (b *block) current(ctx context.Context) error {
	epoch := b.file.exporter.epoch.Load()
	if epoch == b.epoch {
		return nil
	}
	b.epoch = epoch
	return b.recheck(ctx)
}

// recheck removes the resources from the block that may no longer be disclosed.
func (b *block) recheck(ctx context.Context) error {
	filter := b.file.caller.Principal.Grant.Filter(access.Read)
	kept := make([]record, 0, len(b.records))
	for _, r := range b.records {
		if n := len(kept); n > 0 && kept[n-1].header && r.header {
			kept = kept[:n-1] // nothing is left of that patient
		}
		if r.header {
			kept = append(kept, r)
			continue
		}
		res, facts, err := b.file.exporter.opts.Store.Read(ctx, r.ref, b.file.job.Seq)
		if err != nil {
			return fhir.Wrap("bulk.WriteTo", err)
		}
		if facts != nil && res.Deleted == r.deleted && filter.Allow(facts) {
			kept = append(kept, r)
		}
	}
	if n := len(kept); n > 0 && kept[n-1].header {
		kept = kept[:n-1]
	}
	if len(kept) == len(b.records) {
		return nil
	}
	// The bytes move to the front, except for those that were written.
	n := b.records[0].from
	for i, r := range kept {
		size := copy(b.buf[n:], b.buf[r.from:r.to])
		kept[i].from, kept[i].to = n, n+size
		n += size
	}
	b.records, b.buf = kept, b.buf[:n]
	b.all = slices.Clone(kept)
	return nil
}

// bundle returns one line of the deleted file.
func (b *block) bundle() []byte {
	out := []byte(`{"resourceType":"Bundle","type":"transaction","entry":[`)
	for i, r := range b.records {
		if i > 0 {
			out = append(out, ',')
		}
		out = append(out, `{"request":{"method":"DELETE","url":"`...)
		out = append(out, r.ref.String()...)
		out = append(out, `"}}`...)
	}
	return append(out, "]}\n"...)
}
