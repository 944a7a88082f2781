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

// blockSize is the number of bytes after which a block is disclosed and written.
const blockSize = 256 << 10

// partSize is the number of bytes of a block that are written between two
// checks of the consents. A resource that is larger is written whole.
const partSize = 64 << 10

// deletedPerBundle bounds the entries of one transaction Bundle of deletions.
const deletedPerBundle = 100

// File is one opened download.
type File struct {
	exporter *Exporter
	caller   audit.Caller
	job      *job
	name     string
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

// WriteTo writes the file to w. Each block is written after its disclosures are
// durable.
func (f *File) WriteTo(ctx context.Context, w io.Writer) error {
	if f.name == errorFile {
		return f.writeErrors(ctx, w)
	}
	b := &block{file: f, out: w, buf: make([]byte, 0, blockSize+64<<10), seen: map[string]bool{},
		epoch: f.exporter.epoch.Load()}
	types, deleted := []string{strings.TrimSuffix(f.name, ".ndjson")}, f.name == deletedFile
	if deleted {
		types = f.job.Types
	}
	for _, t := range types {
		var werr error
		err := f.exporter.scan(ctx, f.job, t, deleted, f.caller.Principal.Grant, func(r *store.Found) bool {
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
	if err := f.caller.Principal.Grant.Live(ctx); err != nil {
		return err // a scan may take long without reaching flush
	}
	if !b.wrote && len(b.records) == 0 {
		// The file is empty. Record the download anyway.
		return f.exporter.opts.Audit.Record(ctx, f.event(""))
	}
	return b.flush(ctx)
}

func (f *File) event(patient string) audit.Event {
	return audit.Event{
		Type: audit.Disclosure, Interaction: "operation", Caller: f.caller, Patient: patient,
		Query: f.exporter.fileURL(f.job.ID, f.name), Recipient: f.caller.RemoteIP,
		Extra: [][2]string{{"job", f.job.ID}},
	}
}

func (f *File) writeErrors(ctx context.Context, w io.Writer) error {
	ev := f.event("")
	ev.Type = audit.Rest
	if err := f.exporter.opts.Audit.Record(ctx, ev); err != nil {
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

// record describes one resource in a block.
type record struct {
	ref      fhir.Ref
	patient  string
	from, to int // range of its bytes in the block, including the line feed
	deleted  bool
}

// block collects resources that are disclosed and written together.
type block struct {
	file    *File
	out     io.Writer
	buf     []byte
	records []record        // resources that are not written yet
	all     []record        // all resources of the block; keeps the start of the slice
	seen    map[string]bool // patients recorded in this download
	last    string          // patient of the last resource; data is clustered by patient
	fresh   []string        // patients of this block that are not recorded yet
	epoch   uint64          // Exporter.epoch at the last check of the consents
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
	b.all = b.records
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
	b.wrote = true
	if len(b.records) > 0 && b.records[0].deleted {
		_, err := b.out.Write(b.bundle())
		b.buf, b.records = b.buf[:0], b.records[:0]
		return fhir.Wrap("bulk.WriteTo", err)
	}
	return b.send(ctx)
}

// send writes the block in parts and checks the consents again between them,
// because a client may read slowly.
func (b *block) send(ctx context.Context) error {
	for len(b.records) > 0 {
		from, n := b.records[0].from, 1
		for n < len(b.records) && b.records[n].to-from <= partSize {
			n++
		}
		if _, err := b.out.Write(b.buf[from:b.records[n-1].to]); err != nil {
			return fhir.Wrap("bulk.WriteTo", err)
		}
		b.records = b.records[n:]
		if err := b.current(ctx); err != nil {
			return err
		}
	}
	b.buf, b.records = b.buf[:0], b.all[:0]
	return nil
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
	kept, n := b.records[:0], 0
	for _, r := range b.records {
		res, facts, err := b.file.exporter.opts.Store.Read(ctx, r.ref, b.file.job.Seq)
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
