package pebblestore_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"pulsegate/fhir"
	"pulsegate/fhir/store/pebblestore"
	"pulsegate/fhir/store/sharedlog"
)

// newerSchema is an encoding that only some processes of these tests read.
const newerSchema = pebblestore.RowSchema + 1

// schemasOf returns the schemas of the entries of the log, in order.
func schemasOf(t *testing.T, g *group) (out []uint32) {
	t.Helper()
	err := g.cluster.Client("reader").Read(context.Background(), sharedlog.Position{},
		func(e *sharedlog.Entry, _ sharedlog.Hash) bool {
			out = append(out, e.Schema)
			return true
		})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// TestRaiseSchema raises the schema while three processes run, of which one is of an older
// program. The raise travels with the log, and the old one stops without a change.
func TestRaiseSchema(t *testing.T) {
	const old = 2
	_, g, dbs := lazy(t, 3, func(p *process) {
		ready(p)
		if p.conf.Node != "node2" {
			p.change = func(s *pebblestore.Shared) { pebblestore.Reads(s, newerSchema) }
		}
	})
	g.closed = true // the stores are not equal
	for i, d := range dbs {
		must(t, d, batchOf(device("before"+string(rune('a'+i)), "")))
	}
	wantKind(t, dbs[old].RaiseSchema(newerSchema), fhir.Unavailable)
	for _, d := range dbs {
		synced(t, d)
		if got := d.WrittenSchema(); got != pebblestore.RowSchema {
			t.Fatalf("schema %d before the raise", got)
		}
	}
	before := dbs[old].Position()

	if err := dbs[0].RaiseSchema(newerSchema); err != nil {
		t.Fatal(err)
	}
	must(t, dbs[1], batchOf(device("between", ""))) // it has not heard of the raise
	must(t, dbs[0], batchOf(device("raised", "")))
	must(t, dbs[1], batchOf(device("after", "")))
	want := slices.Concat(slices.Repeat([]uint32{pebblestore.RowSchema}, 4),
		slices.Repeat([]uint32{newerSchema}, 2))
	if got := schemasOf(t, g); !slices.Equal(got, want) {
		t.Errorf("the log has schemas %d, want %d", got, want)
	}
	if err := dbs[1].RaiseSchema(pebblestore.RowSchema); err != nil || dbs[1].WrittenSchema() != newerSchema {
		t.Errorf("lowered: %v", err)
	}

	err := dbs[old].Sync(context.Background())
	wantKind(t, err, fhir.Unavailable)
	if !errors.Is(dbs[old].Ready(), pebblestore.ErrSchema) {
		t.Errorf("the old process stops with %v", dbs[old].Ready())
	}
	stops(t, dbs[old], true)
	p := g.processes[old]
	if _, err := p.open(); !errors.Is(err, pebblestore.ErrSchema) {
		t.Errorf("the old process starts again: %v", err)
	}
	after, err := pebblestore.PositionOf("", p.fs)
	if err != nil || after.Index != before.Index+1 { // "between"
		t.Errorf("the old process was at entry %d, is at %d, %v", before.Index, after.Index, err)
	}
	p.change = func(s *pebblestore.Shared) { pebblestore.Reads(s, newerSchema) } // it is updated
	d, err := p.open()
	if err != nil {
		t.Fatal(err)
	}
	must(t, d, batchOf(device("updated", "")))
	if got := d.WrittenSchema(); got != newerSchema {
		t.Errorf("after its update, it writes schema %d", got)
	}
	for _, d := range []*pebblestore.DB{d, dbs[0], dbs[1]} {
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	}

	// A program that is too old refuses the store itself, too.
	q := g.processes[1]
	q.change = nil
	if _, err := q.open(); !errors.Is(err, pebblestore.ErrSchema) ||
		!strings.Contains(err.Error(), fmt.Sprint("schema version ", newerSchema)) {
		t.Errorf("an old program opens a new store: %v", err)
	}
	q.change = p.change
	if d, err = q.open(); err != nil {
		t.Fatal(err)
	}
	if got := d.WrittenSchema(); got != newerSchema {
		t.Errorf("after a restart, it writes schema %d", got)
	}
	if err := d.Close(); err != nil {
		t.Error(err)
	}
}

// TestSchemaOfTheCluster checks which clusters a program can join.
func TestSchemaOfTheCluster(t *testing.T) {
	for schema, want := range map[uint32]bool{pebblestore.RowSchema: true, pebblestore.RowSchema + 1: false, 1: false} {
		err := pebblestore.CheckSchema(schema)
		if (err == nil) != want || errors.Is(err, pebblestore.ErrSchema) != (schema > pebblestore.RowSchema) {
			t.Errorf("schema %d: %v", schema, err)
		}
	}
	_, _, dbs := lazy(t, 1, nil)
	if err := dbs[0].RaiseSchema(0); err != nil || dbs[0].WrittenSchema() != pebblestore.RowSchema {
		t.Errorf("%v", err)
	}
	alone, err := pebblestore.Open("", pebblestore.Options{FS: vfs.NewMem()})
	if err != nil {
		t.Fatal(err)
	}
	defer alone.Close()
	wantKind(t, alone.RaiseSchema(newerSchema), fhir.Conflict)
}
