package pebblestore

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"time"

	"github.com/cockroachdb/pebble/v2"

	"pulsegate/fhir/store/pebblestore/internal/find"
	"pulsegate/fhir/store/pebblestore/internal/keys"
	"pulsegate/fhir/store/pebblestore/internal/rows"
	"pulsegate/fhir/store/sharedlog"
)

// Tight makes the bounds of searches as small as possible.
func Tight(o Options) Options {
	o.bounds = limits{Bounds: find.Bounds{DayBatch: 2, Probe: 3, Few: 2, Order: 6, Group: 2, Others: 1}, run: 300,
		guards: 4}
	return o
}

// Quick lets a shared store repeat calls of the log at once, and wait for it for
// patience.
func Quick(s Shared, patience time.Duration) *Shared {
	s.limits = pace{attempt: 5 * time.Second, patience: patience, grace: patience, retry: time.Millisecond,
		maxRetry: 4 * time.Millisecond}
	return &s
}

// AnswerEarly breaks a shared store: it answers before the entry is in the log.
func AnswerEarly(s *Shared) { s.broken.answerEarly = true }

// ApplyEarly breaks a shared store: it shows a group before its entry is durable.
func ApplyEarly(s *Shared) { s.broken.applyEarly = true }

// Forget breaks a shared store: it takes an unknown outcome for a failure.
func Forget(s *Shared) { s.broken.forget = true }

// Shallow breaks a shared store: it builds a group on the one before it, without those
// before that one.
func Shallow(s *Shared) { s.broken.shallow = true }

// AnyOffer breaks a shared store: it applies offered entries that do not follow the entries
// before them.
func AnyOffer(s *Shared) { s.broken.anyOffer = true }

// JoinLooks breaks a shared store: a look at the log serves callers of Sync that came
// after it began.
func JoinLooks(s *Shared) { s.broken.joinLooks = true }

// Reads makes a process one of a program that reads rows up to a schema.
func Reads(s *Shared, schema uint32) { s.newest = schema }

// RowSum returns a hash of all rows of the store, and the position to which it belongs.
func RowSum(d *DB) (sum string, at sharedlog.Position, err error) {
	v, err := d.enter("pebblestore.RowSum")
	if err != nil {
		return "", at, err
	}
	defer d.leave(v)
	it, err := v.Reader.NewIter(&pebble.IterOptions{})
	if err != nil {
		return "", at, err
	}
	h := sha256.New()
	for ok := it.First(); ok; ok = it.Next() {
		for _, b := range [][]byte{it.Key(), it.Value()} {
			h.Write(binary.AppendUvarint(nil, uint64(len(b))))
			h.Write(b)
		}
	}
	err = it.Error()
	if e := it.Close(); err == nil {
		err = e
	}
	return hex.EncodeToString(h.Sum(nil)), v.position, err
}

// OrderedSchema is the first row schema with ordered rows.
const OrderedSchema = rows.OrderedSchema

// RuntimeRows returns the number of index rows and states of parameters defined at run
// time.
func RuntimeRows(d *DB) (n int) {
	for _, b := range [][]byte{{keys.TableIndex}, keys.StateKey(rows.RuntimeIndexes)} {
		it, err := d.pdb.NewIter(&pebble.IterOptions{LowerBound: b, UpperBound: keys.PrefixEnd(b)})
		if err != nil {
			return -1
		}
		for ok := it.First(); ok; ok = it.Next() {
			_, rest, _ := keys.CutString(it.Key()[1:])
			if b[0] == keys.TableState || rest[0] == '+' {
				n++
			}
		}
		if it.Close() != nil {
			return -1
		}
	}
	return n
}
