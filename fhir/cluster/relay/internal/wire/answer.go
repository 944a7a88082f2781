package wire

import (
	"encoding/binary"
	"errors"

	"pulsegate/fhir"
	"pulsegate/fhir/store"
)

// Flags of an outcome.
const (
	outcomeCreated = 1 << iota
	outcomeUnchanged
	outcomeDeleted
	outcomeJSON // JSON is set
	outcomeAll  = 1<<iota - 1
)

// AppendResult appends the encoding of the result of a batch. It leaves out
// Outcome.Ref and the bytes of Outcome.JSON, which follow from the batch: the store
// stamps the bytes of a write with its version and time.
func AppendResult(dst []byte, r *store.Result) []byte {
	dst = binary.AppendUvarint(dst, uint64(r.Seq))
	dst = binary.AppendUvarint(dst, r.LeafIndex)
	dst = binary.AppendUvarint(dst, uint64(len(r.Outcomes)))
	for i := range r.Outcomes {
		o := &r.Outcomes[i]
		var flags byte
		if o.Created {
			flags |= outcomeCreated
		}
		if o.Unchanged {
			flags |= outcomeUnchanged
		}
		if o.Deleted {
			flags |= outcomeDeleted
		}
		if o.JSON != nil {
			flags |= outcomeJSON
		}
		dst = binary.AppendUvarint(append(dst, flags), o.Version)
		dst = appendTime(dst, o.LastUpdated)
	}
	return dst
}

// DecodeResult decodes the result of the batch of.
func DecodeResult(b []byte, of *store.Batch) (out store.Result, err error) {
	r := &reader{rest: b}
	out.Seq, out.LeafIndex = store.Seq(r.uvarint()), r.uvarint()
	if n := r.count(maxItems); n != len(of.Writes) {
		r.fail()
	}
	for i := range of.Writes {
		w := &of.Writes[i].Resource
		flags := r.enum(outcomeAll)
		o := store.Outcome{Ref: w.Ref(), Created: flags&outcomeCreated != 0, Unchanged: flags&outcomeUnchanged != 0,
			Deleted: flags&outcomeDeleted != 0, Version: r.uvarint(), LastUpdated: r.time()}
		if r.err != nil {
			break
		}
		if flags&outcomeJSON != 0 {
			o.JSON = fhir.Stamp(w.JSON, w.Type, w.ID, o.Version, o.LastUpdated)
		}
		out.Outcomes = append(out.Outcomes, o)
	}
	if err := r.end(); err != nil {
		return store.Result{}, err
	}
	return out, nil
}

// AppendError appends the encoding of an error: its kind, operation and issues, and
// the text of its cause.
func AppendError(dst []byte, err error) []byte {
	var e *fhir.Error
	if !errors.As(err, &e) {
		e = &fhir.Error{Kind: fhir.Internal, Op: "relay", Err: err}
	}
	dst = appendText(append(dst, byte(e.Kind)), e.Op)
	issues := e.Issues[:min(len(e.Issues), maxIssues)]
	dst = binary.AppendUvarint(dst, uint64(len(issues)))
	for _, i := range issues {
		dst = appendText(appendText(appendText(dst, i.Severity), i.Code), i.Diagnostics)
		dst = appendTexts(dst, i.Expression[:min(len(i.Expression), maxIssues)])
		dst = binary.AppendVarint(binary.AppendVarint(dst, int64(i.Line)), int64(i.Column))
	}
	if e.Err == nil {
		return append(dst, 0)
	}
	cause := e.Err.Error()
	return appendText(append(dst, 1), cause[:min(len(cause), maxCause)])
}

// DecodeError decodes an error. If b is malformed, it reports false.
func DecodeError(b []byte) (*fhir.Error, bool) {
	r := &reader{rest: b}
	e := &fhir.Error{Kind: fhir.Kind(r.enum(byte(fhir.TooCostly))), Op: r.text()}
	for n := r.count(maxIssues); len(e.Issues) < n && r.err == nil; {
		e.Issues = append(e.Issues, fhir.Issue{Severity: r.text(), Code: r.text(), Diagnostics: r.text(),
			Expression: r.texts(maxIssues), Line: int(r.varint()), Column: int(r.varint())})
	}
	if r.enum(1) == 1 {
		e.Err = errors.New(r.text())
	}
	return e, r.end() == nil
}
