package bulk

import (
	"context"
	"encoding/json"
	"io"
	"slices"
	"strings"

	"pulsegate/fhir"
	"pulsegate/fhir/access"
	"pulsegate/fhir/audit"
	"pulsegate/fhir/store"
)

// blockSize is how much is read before it is disclosed and written.
const blockSize = 256 << 10

// partSize is the number of bytes of a block that are written between two
// checks of the consents. A resource that is larger is written whole.
const partSize = 64 << 10

// deletedPerBundle bounds the entries of one transaction Bundle of deletions.
const deletedPerBundle = 100

// File is one opened download.
type File struct {
	x    *Exporter
	c    audit.Caller
	j    *job
	name string
}

// Open checks a download: the job is the caller's own and complete, the file
// is one of it, and the token covers its type now.
func (x *Exporter) Open(ctx context.Context, c audit.Caller, id, name string) (*File, error) {
	const op = "bulk.Open"
	j, err := x.load(ctx, c.Principal, id)
	if err != nil {
		return nil, err
	}
	f := &File{x: x, c: c, j: j, name: name}
	typ, isType := strings.CutSuffix(name, ".ndjson")
	switch {
	case j.State != complete:
		return nil, fhir.Errorf(fhir.NotFound, op, "the export is not complete")
	case name == errorFile && len(j.Warnings) > 0:
		return f, nil
	case name == deletedFile && j.Deleted:
		for _, t := range j.Types {
			if !c.Principal.Grant.MayUnattended(access.Read, t) {
				return nil, fhir.Errorf(fhir.Forbidden, op, "the token's scopes do not cover reading %s", t)
			}
		}
		return f, nil
	case isType && slices.Contains(j.Found, typ):
		if !c.Principal.Grant.MayUnattended(access.Read, typ) {
			return nil, fhir.Errorf(fhir.Forbidden, op, "the token's scopes do not cover reading %s", typ)
		}
		return f, nil
	}
	return nil, fhir.Errorf(fhir.NotFound, op, "the export has no such file")
}

// WriteTo streams the file. Nothing is written before the disclosures it
// needs are durable; an error before the first byte has written nothing.
func (f *File) WriteTo(ctx context.Context, w io.Writer) error {
	if f.name == errorFile {
		return f.writeErrors(ctx, w)
	}
	b := &block{f: f, w: w, buf: make([]byte, 0, blockSize+64<<10), seen: map[string]bool{}, epoch: f.x.epoch.Load()}
	types, deleted := []string{strings.TrimSuffix(f.name, ".ndjson")}, f.name == deletedFile
	if deleted {
		types = f.j.Types
	}
	for _, t := range types {
		var werr error
		err := f.x.scan(ctx, f.j, t, deleted, f.c.Principal.Grant, func(r *store.Found) bool {
			if deleted && !r.Resource.Deleted {
				return true
			}
			werr = b.add(ctx, r)
			return werr == nil
		})
		if werr != nil {
			return werr
		}
		if err != nil {
			return fhir.Wrap("bulk.WriteTo", err)
		}
	}
	if err := f.c.Principal.Grant.Live(ctx); err != nil {
		return err // also of a scan that found nothing for long
	}
	if !b.wrote && len(b.records) == 0 {
		// Nothing (any more): the download itself is still on record.
		return f.x.opts.Audit.Record(ctx, f.event(""))
	}
	return b.flush(ctx)
}

func (f *File) event(patient string) audit.Event {
	return audit.Event{
		Type: audit.Disclosure, Interaction: "operation", Caller: f.c, Patient: patient,
		Query: f.x.fileURL(f.j.ID, f.name), Recipient: f.c.RemoteIP,
		Extra: [][2]string{{"job", f.j.ID}},
	}
}

func (f *File) writeErrors(ctx context.Context, w io.Writer) error {
	ev := f.event("")
	ev.Type = audit.Rest
	if err := f.x.opts.Audit.Record(ctx, ev); err != nil {
		return err
	}
	for _, text := range f.j.Warnings {
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

// record is one resource in a block.
type record struct {
	ref      fhir.Ref
	patient  string
	from, to int // its bytes in the block, the line feed included
	deleted  bool
}

// block collects resources until they are disclosed and written together.
type block struct {
	f       *File
	w       io.Writer
	buf     []byte
	records []record
	room    []record        // of records, from its beginning
	seen    map[string]bool // patients disclosed in this download
	last    string          // the latest of them: data is clustered by patient
	fresh   []string        // patients of this block that were not
	epoch   uint64
	wrote   bool
}

func (b *block) add(ctx context.Context, r *store.Found) error {
	rec := record{ref: r.Resource.Ref(), from: len(b.buf), deleted: r.Resource.Deleted}
	if r.Facts != nil {
		rec.patient = r.Facts.Patient
	}
	if rec.patient == "" && rec.ref.Type == "Patient" {
		rec.patient = rec.ref.ID
	}
	if !rec.deleted {
		b.buf = append(b.buf, r.Resource.JSON...)
		b.buf = append(b.buf, '\n')
	}
	rec.to = len(b.buf)
	b.records = append(b.records, rec)
	b.room = b.records
	if p := rec.patient; p != "" && p != b.last {
		b.last = p
		if !b.seen[p] {
			b.seen[p] = true
			b.fresh = append(b.fresh, p)
		}
	}
	if len(b.buf) >= blockSize || rec.deleted && len(b.records) >= deletedPerBundle {
		return b.flush(ctx)
	}
	return nil
}

// flush makes the block's disclosures durable, holds it to the consents of
// now, and writes it. A download takes as long as its reader wants, so each
// block asks whether the caller may still have it.
func (b *block) flush(ctx context.Context) error {
	if len(b.records) == 0 {
		return nil
	}
	if err := b.f.c.Principal.Grant.Live(ctx); err != nil {
		return err
	}
	if len(b.fresh) > 0 {
		evs := make([]audit.Event, len(b.fresh))
		for i, p := range b.fresh {
			evs[i] = b.f.event(p)
		}
		if err := b.f.x.opts.Audit.Record(ctx, evs...); err != nil {
			return err
		}
		b.fresh = b.fresh[:0]
	} else if !b.wrote && len(b.seen) == 0 {
		if err := b.f.x.opts.Audit.Record(ctx, b.f.event("")); err != nil {
			return err
		}
	}
	if err := b.current(ctx); err != nil {
		return err
	}
	b.wrote = true
	if len(b.records) > 0 && b.records[0].deleted {
		_, err := b.w.Write(b.bundle())
		b.buf, b.records = b.buf[:0], b.records[:0]
		return fhir.Wrap("bulk.WriteTo", err)
	}
	return b.send(ctx)
}

// send writes the block in parts, as its reader takes them, and holds what is
// left to the consents of then.
func (b *block) send(ctx context.Context) error {
	for len(b.records) > 0 {
		from, n := b.records[0].from, 1
		for n < len(b.records) && b.records[n].to-from <= partSize {
			n++
		}
		if _, err := b.w.Write(b.buf[from:b.records[n-1].to]); err != nil {
			return fhir.Wrap("bulk.WriteTo", err)
		}
		b.records = b.records[n:]
		if err := b.current(ctx); err != nil {
			return err
		}
	}
	b.buf, b.records = b.buf[:0], b.room[:0]
	return nil
}

// current rechecks the block if a Consent has changed since the last time.
func (b *block) current(ctx context.Context) error {
	e := b.f.x.epoch.Load()
	if e == b.epoch {
		return nil
	}
	b.epoch = e
	return b.recheck(ctx)
}

// recheck drops from the block what may no longer be seen.
func (b *block) recheck(ctx context.Context) error {
	filter := b.f.c.Principal.Grant.Filter(access.Read)
	kept, n := b.records[:0], 0
	for _, r := range b.records {
		res, facts, err := b.f.x.opts.Store.Read(ctx, r.ref, b.f.j.T)
		if err != nil {
			return fhir.Wrap("bulk.WriteTo", err)
		}
		if facts == nil || res.Deleted != r.deleted || !filter.Allow(facts) {
			continue
		}
		size := copy(b.buf[n:], b.buf[r.from:r.to])
		r.from, r.to = n, n+size
		n += size
		kept = append(kept, r)
	}
	b.records, b.buf = kept, b.buf[:n]
	return nil
}

// bundle is one line of the deleted file.
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
