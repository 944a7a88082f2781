package pebblestore

import (
	"fmt"
	"strconv"
	"sync/atomic"

	"github.com/cockroachdb/pebble/v2"

	"pulsegate/fhir"
	"pulsegate/fhir/store/pebblestore/internal/fault"
	"pulsegate/fhir/store/pebblestore/internal/keys"
	"pulsegate/fhir/store/sharedlog"
)

// oldestSchema is the oldest encoding of rows that this program reads and writes. It
// writes that of its cluster, which an operator raises when all processes read a newer
// one, and otherwise RowSchema.
const oldestSchema = 4

// schemas tells in which encoding a store is, and is written.
//
// A raise travels with the log: the first entry in the newer encoding tells every process
// that applies it to write no older one. An entry in an older encoding cannot follow,
// because its writer would have had to apply the newer one before.
type schemas struct {
	newest uint32 // that the program reads
	// stored is the version in the schema row: the newest of all entries applied. It
	// belongs to the goroutine of the committer or of the replica.
	stored uint32
	// written is the encoding of the next entry.
	written atomic.Uint32
}

// load checks the version in the schema row.
func (s *schemas) load(version []byte) error {
	n, err := strconv.ParseUint(string(version), 10, 32)
	if err != nil || n < oldestSchema {
		return fault.Refusal(fmt.Sprintf("the store has schema version %.20q; this program reads versions %d to %d",
			version, oldestSchema, s.newest))
	}
	if n > uint64(s.newest) {
		return schemaError{fault.Refusal(
			fmt.Sprintf("the store has schema version %d; this program reads versions %d to %d",
				n, oldestSchema, s.newest))}
	}
	s.stored = uint32(n)
	return nil
}

// schemaError is an ErrSchema with a reason that tells both versions.
type schemaError struct{ error }

// Unwrap returns the reason and ErrSchema.
func (e schemaError) Unwrap() []error { return []error{e.error, ErrSchema} }

// version returns the value of the schema row.
func version(schema uint32) []byte { return strconv.AppendUint(nil, uint64(schema), 10) }

// raise lets entries be written in an encoding, unless they are already in a newer one.
func (s *schemas) raise(to uint32) {
	for {
		now := s.written.Load()
		if to <= now || s.written.CompareAndSwap(now, to) {
			return
		}
	}
}

// applied notes in the batch of a valid entry that the store has rows of its encoding.
func (s *schemas) applied(b *pebble.Batch, e *sharedlog.Entry) error {
	if e.Schema <= s.stored {
		return nil
	}
	s.raise(e.Schema)
	s.stored = e.Schema
	return b.Set(keys.Schema, version(e.Schema), nil)
}

// CheckSchema returns an error that is ErrSchema if this program is too old for a cluster
// that writes rows in an encoding.
func CheckSchema(written uint32) error { return checkSchema(written, RowSchema) }

func checkSchema(written, newest uint32) error {
	switch {
	case written > newest:
		return tooOld(fmt.Sprintf("the cluster writes row schema %d, this program reads up to %d; install a newer version of it",
			written, newest))
	case written < oldestSchema:
		return fault.Refusal(fmt.Sprintf("the cluster writes row schema %d, which this program cannot write",
			written))
	}
	return nil
}

// RaiseSchema lets the store write its entries in a newer encoding from the next one on.
// The other processes of the cluster follow when they apply it. An older encoding changes
// nothing.
func (d *DB) RaiseSchema(to uint32) error {
	const op = "pebblestore.RaiseSchema"
	if d.replica == nil {
		return fhir.Errorf(fhir.Conflict, op, "the store is not shared")
	}
	if err := checkSchema(max(to, oldestSchema), d.schemas.newest); err != nil {
		return &fhir.Error{Kind: fhir.Unavailable, Op: op, Err: err}
	}
	d.schemas.raise(to)
	return nil
}

// WrittenSchema returns the encoding in which the store writes entries.
func (d *DB) WrittenSchema() uint32 { return d.schemas.written.Load() }
