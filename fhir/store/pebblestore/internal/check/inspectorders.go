package check

import (
	"encoding/binary"
	"fmt"

	"github.com/cockroachdb/pebble/v2"

	"pulsegate/fhir/search"
	"pulsegate/fhir/store"
	"pulsegate/fhir/store/pebblestore/internal/keys"
	"pulsegate/fhir/store/pebblestore/internal/rows"
)

// orders returns the lookup of the orders in which searches by lastUpdated and by
// date meet documents. Its reports name the document id.
func (ins *inspector) orders(id string) *listing {
	if ins.listing == nil {
		c := &checker{ctx: ins.ctx, snap: ins.snap, stopped: ins.stopped,
			report: func(p string) { ins.report(ins.current, p) }}
		ins.listing = &listing{checker: c}
	}
	ins.current = id
	return ins.listing
}

// ordered checks that searches by lastUpdated and by date meet a document. Only
// AuditEvents are listed by id.
func (ins *inspector) ordered(r keys.Row, vals *search.Values) error {
	l := ins.orders(r.ID)
	if err := l.checker.begins(r, vals); err != nil || r.Type != "AuditEvent" {
		return err
	}
	ok, err := l.hasEvent(r.ID, r.Seq)
	if err == nil && !ok {
		ins.report(r.ID, "the order of lastUpdated omits it")
	}
	return err
}

// updates walks the U rows of AuditEvents: each must name existing events, once,
// and the instant at which they were written.
func (ins *inspector) updates() error {
	if ins.typ != "AuditEvent" {
		return nil
	}
	lower := keys.TypeUpdates(ins.typ)
	var at store.Seq
	seen := map[string]bool{}
	return ins.walk(lower, keys.PrefixEnd(lower), func(it *pebble.Iterator) (bool, error) {
		rest := it.Key()[len(lower):]
		u, err := rows.DecodeUpdates(it.Value())
		if len(rest) != 12 || err != nil {
			ins.report("", "a U row cannot be read")
			return it.Next(), nil
		}
		seq := store.Seq(binary.BigEndian.Uint64(rest))
		if seq != at {
			at, seen = seq, map[string]bool{}
		}
		events, err := u.Events(seq)
		if err != nil || uint64(len(events)) != u.Count {
			ins.report("", fmt.Sprintf("the U row of commit %d cannot be read", seq))
			return it.Next(), nil
		}
		for _, r := range events {
			if seen[r.ID] {
				ins.report(r.ID, "the order of lastUpdated lists it twice")
			}
			seen[r.ID] = true
			m, err := ins.snap.FetchRow(r)
			if ins.ctx.Err() != nil || ins.stopped() {
				return false, err
			}
			if err != nil || m.Document.Updated != u.Updated {
				ins.report(r.ID, "the order of lastUpdated lists another row or instant")
			}
		}
		return it.Next(), nil
	})
}

// days walks the W rows of the type. A malformed row would fail every search by
// date. Searches skip rows and bits without documents.
func (ins *inspector) days() error {
	lower := keys.AppendString([]byte{keys.TableDay}, ins.typ)
	return ins.walk(lower, keys.PrefixEnd(lower), func(it *pebble.Iterator) (bool, error) {
		rest := it.Key()[len(lower):]
		ok := len(rest) > 1+8+8
		if ok {
			_, rest, ok = keys.CutString(rest[1+8+8:])
		}
		if _, err := rows.DecodeDayBits(it.Value()); err != nil || !ok || len(rest) != 1 ||
			rest[0] != keys.TableDocument &&
				rest[0] != keys.TableCode {
			ins.report("", "a W row cannot be read")
		}
		return it.Next(), nil
	})
}
