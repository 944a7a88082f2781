package pebblestore

import (
	"context"
	"maps"
	"slices"

	"pulsegate/fhir"
	"pulsegate/fhir/search"
	"pulsegate/fhir/store"
	"pulsegate/fhir/store/pebblestore/internal/fault"
	"pulsegate/fhir/store/pebblestore/internal/rows"
)

var _ store.Indexer = (*DB)(nil)

// Reindex implements store.Indexer. It first builds the rows of R4's parameters, if the
// store is older than they are, then removes those of parameters that the registry no
// longer has, and then builds those that it has. In a cluster that writes an older row
// schema it does nothing.
func (d *DB) Reindex(ctx context.Context, limit int) (more bool, err error) {
	const op = "pebblestore.Reindex"
	v, err := d.enter(op)
	if err != nil {
		return false, err
	}
	defer d.leave(v)
	if limit <= 0 {
		return false, fhir.Errorf(fhir.Internal, op, "the limit is not positive")
	}
	if d.writes() < rows.OrderedSchema {
		return false, nil
	}
	p := d.runtimeParams()
	x, err := rows.ReadCatalog(v.Reader, p.of, p.byType)
	if err != nil {
		return false, fault.Wrap(op, err)
	}
	if v.Head.Seq == 0 { // the first commit says so
		x.Builtin = &rows.Index{Version: rows.BuiltinVersion, Done: true}
	}
	steps := indexSteps(x, p)
	if len(steps) == 0 {
		return false, nil
	}
	step := steps[0]
	step.limit = limit
	r := &request{batch: &store.Batch{}, index: &step, done: make(chan struct{})}
	select {
	case d.in <- r:
	case <-ctx.Done():
		return false, fault.Canceled(op, ctx.Err())
	}
	<-r.done
	return r.err == nil && (step.more || step.drop || len(steps) > 1), r.err
}

// indexSteps returns the next step of each index that is not what it should be.
func indexSteps(x *rows.Catalog, p *parameters) (out []indexStep) {
	if !x.Builtin.Complete() {
		out = append(out, indexStep{key: rows.BuiltinIndex})
	}
	want := map[string]*search.Param{}
	for typ, ps := range p.byType {
		for _, p := range ps {
			want[rows.RuntimeKey(typ, rows.ParamKey(p))] = p
		}
	}
	for _, key := range slices.Sorted(maps.Keys(x.Runtime)) {
		if want[key] == nil || x.Runtime[key].Dropping {
			out = append(out, indexStep{key: key, drop: true})
		}
	}
	for _, key := range slices.Sorted(maps.Keys(want)) {
		if at := x.Runtime[key]; at == nil || !at.Done && !at.Dropping {
			out = append(out, indexStep{key: key, param: want[key]})
		}
	}
	return out
}

// IndexState implements store.Indexer.
func (d *DB) IndexState(_ context.Context, p *search.Param) (store.IndexState, error) {
	const op = "pebblestore.IndexState"
	v, err := d.enter(op)
	if err != nil {
		return store.IndexState{}, err
	}
	defer d.leave(v)
	if !rows.Generic(p.ResourceType) && !rows.Late(p) || !rows.Indexed(p) && !rows.Ordered(p) ||
		rows.IndexedBefore(p) && !rows.Runtime(p) {
		return store.IndexState{Ready: true}, nil
	}
	key := rows.BuiltinIndex
	if rows.Runtime(p) {
		key = rows.RuntimeKey(p.ResourceType, rows.ParamKey(p))
	}
	raw, err := rows.State(v.Reader, key)
	if err != nil {
		return store.IndexState{}, fault.Wrap(op, err)
	}
	x, err := rows.DecodeIndex(raw)
	if err != nil {
		return store.IndexState{}, fault.Wrap(op, err)
	}
	s := store.IndexState{Total: v.Head.Resources}
	if x != nil {
		s.Ready, s.Documents = x.Done && !x.Dropping && (key != rows.BuiltinIndex || x.Complete()), x.Documents
		s.Total = max(s.Total, s.Documents)
	}
	return s, nil
}
