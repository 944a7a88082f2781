package pebblestore

import (
	"encoding/binary"
	"fmt"

	"github.com/cockroachdb/pebble/v2"

	"pulsegate/fhir/search"
	"pulsegate/fhir/store"
)

// orders returns what looks up the orders in which searches by lastUpdated and
// by date give out documents.
func (x *inspector) orders(id string) *listedIn {
	if x.listed == nil {
		c := &checker{ctx: x.ctx, v: x.v, stopped: x.stopped, report: func(p string) { x.report(x.now, p) }}
		x.listed = &listedIn{c: c}
	}
	x.now = id
	return x.listed
}

// ordered checks that a document is where searches by lastUpdated and by date
// look for it. Only AuditEvents are listed by id.
func (x *inspector) ordered(r row, vals *search.Values) error {
	l := x.orders(r.id)
	if err := l.c.begins(r, vals); err != nil || r.typ != "AuditEvent" {
		return err
	}
	ok, err := l.hasEvent(r.id, r.t)
	if err == nil && !ok {
		x.report(r.id, "the order of lastUpdated leaves it out")
	}
	return err
}

// updates walks the U rows of AuditEvents: each names events that are there,
// once, and the instant at which they were written.
func (x *inspector) updates() error {
	if x.typ != "AuditEvent" {
		return nil
	}
	lower := typeUpdates(x.typ)
	var at store.Seq
	seen := map[string]bool{}
	return x.walk(lower, next(lower), func(it *pebble.Iterator) (bool, error) {
		rest := it.Key()[len(lower):]
		u, err := decodeUpdates(it.Value())
		if len(rest) != 12 || err != nil {
			x.report("", "a U row cannot be read")
			return it.Next(), nil
		}
		t := store.Seq(binary.BigEndian.Uint64(rest))
		if t != at {
			at, seen = t, map[string]bool{}
		}
		events, err := u.events(t)
		if err != nil || uint64(len(events)) != u.count {
			x.report("", fmt.Sprintf("the U row of T %d cannot be read", t))
			return it.Next(), nil
		}
		for _, r := range events {
			if seen[r.id] {
				x.report(r.id, "the order of lastUpdated names it twice")
			}
			seen[r.id] = true
			m, err := x.v.fetchRow(r)
			if x.ctx.Err() != nil || x.stopped() {
				return false, err
			}
			if err != nil || m.doc.updated != u.updated {
				x.report(r.id, "the order of lastUpdated names another row or instant")
			}
		}
		return it.Next(), nil
	})
}

// days walks the W rows of the type: one that cannot be read fails every search
// by date. A row or bit for something that is not there is passed over by them.
func (x *inspector) days() error {
	lower := appendStr([]byte{tabDay}, x.typ)
	return x.walk(lower, next(lower), func(it *pebble.Iterator) (bool, error) {
		rest := it.Key()[len(lower):]
		ok := len(rest) > 1+8+8
		if ok {
			_, rest, ok = takeStr(rest[1+8+8:])
		}
		if _, err := decodeDayBits(it.Value()); err != nil || !ok || len(rest) != 1 || rest[0] != tabDoc &&
			rest[0] != tabCode {
			x.report("", "a W row cannot be read")
		}
		return it.Next(), nil
	})
}
