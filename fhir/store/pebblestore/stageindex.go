package pebblestore

import (
	"bytes"

	"github.com/cockroachdb/pebble/v2"

	"pulsegate/fhir"
	"pulsegate/fhir/search"
	"pulsegate/fhir/store"
	"pulsegate/fhir/store/pebblestore/internal/fault"
	"pulsegate/fhir/store/pebblestore/internal/keys"
	"pulsegate/fhir/store/pebblestore/internal/rows"
)

// parameters holds the parameters of a registry that were defined at run time.
type parameters struct {
	of     *search.Registry
	byType map[string][]*search.Param
}

// registry returns the parameters as of now.
func (d *DB) registry() *search.Registry {
	if d.opts.Registry == nil {
		return nil
	}
	return d.opts.Registry()
}

// runtimeParams returns the parameters of the registry of this moment that were defined
// at run time.
func (d *DB) runtimeParams() *parameters {
	r := d.registry()
	p := d.parameters.Load()
	if p == nil || p.of != r {
		p = &parameters{r, rows.RuntimeParams(r)}
		d.parameters.Store(p)
	}
	return p
}

// writes returns the encoding of the rows of the next group.
func (d *DB) writes() uint32 {
	if d.opts.Shared == nil {
		return RowSchema
	}
	return d.schemas.written.Load()
}

// readCatalog reads which index rows the documents have.
func (d *DB) readCatalog(r pebble.Reader) (*rows.Catalog, error) {
	p := d.runtimeParams()
	return rows.ReadCatalog(r, p.of, p.byType)
}

// indexes returns the state of the indexes with the changes of the group.
func (s *stage) indexes() (*rows.Catalog, error) {
	if s.catalog != nil {
		return s.catalog, nil
	}
	c, err := s.db.readCatalog(s.from.reader)
	if err != nil {
		return nil, err
	}
	for key, v := range s.state {
		if err := c.Set(key, v); err != nil {
			return nil, err
		}
	}
	if len(c.Runtime) == 0 && s.from.below == nil && len(s.state) == 0 {
		s.db.runtime.Store(false)
	}
	s.catalog = c
	return c, nil
}

// putRuntime writes the X rows of a version under the parameters defined at run time. If
// this process does not know one of them, its index is stale from here on.
func (s *stage) putRuntime(ref fhir.Ref, c *current, set func(prefix []byte)) error {
	if !s.db.runtime.Load() || !rows.Generic(ref.Type) {
		return nil
	}
	x, err := s.indexes()
	if err != nil {
		return err
	}
	known, unknown := x.Written(ref.Type)
	for _, key := range unknown {
		if at := x.Runtime[key]; !at.Stale {
			now := *at
			now.Stale, now.Done, now.Cursor, now.Documents = true, false, nil, 0
			if err := s.putState(&store.StateWrite{Key: key, Value: now.Encode()}); err != nil {
				return err
			}
		}
	}
	body := c.doc.JSON
	if c.doc.Templated {
		body = c.canonical
	}
	x.EachRuntime(ref.Type, known, body, set)
	return nil
}

// indexStep builds or drops some rows of an index.
type indexStep struct {
	key   string        // of its state
	param *search.Param // nil for the rows of R4's parameters
	drop  bool
	limit int  // rows or documents looked at
	more  bool // result: the index is not complete, or not gone
	index rows.Index
}

// addIndex adds the rows of a step to the group. They are those of versions that were
// committed before, so that a writer cannot interfere: the versions that the group
// writes or ends have their rows from the writer.
func (s *stage) addIndex(r *request) error {
	step := r.index
	r.result, r.commit, r.err, step.more = store.Result{}, store.Commit{}, nil, false
	if s.schema < rows.OrderedSchema {
		r.err = fhir.Errorf(fhir.Unavailable, "pebblestore.Reindex",
			"the cluster writes row schema %d, which has no such rows", s.schema)
		return nil
	}
	if _, ok := s.state[step.key]; ok { // the group wrote documents under another state
		step.more = true
		return nil
	}
	v, err := s.stateOf(step.key)
	if err != nil {
		return s.refuse(r, err)
	}
	x, err := rows.DecodeIndex(v)
	if err != nil {
		return s.refuse(r, err)
	}
	if x == nil {
		if step.drop {
			return nil
		}
		x = &rows.Index{}
	}
	switch {
	case step.drop:
		err = s.dropRows(step, x)
	case x.Dropping: // it is removed first
		step.more = true
		return nil
	default:
		err = s.buildRows(step, x)
	}
	if err != nil || r.err != nil {
		return err
	}
	seq := s.meta.Seq + 1
	s.meta.Updated = max(s.db.opts.Clock().UnixMilli(), s.from.head.Updated+1, s.meta.Updated)
	s.meta.Seq, r.result.Seq, r.commit.Seq = seq, seq, seq
	step.index = *x
	return nil
}

// buildRows writes the rows of the next documents. Before the first ones, it writes the
// state alone, from which on writers write the rows of their documents.
func (s *stage) buildRows(step *indexStep, x *rows.Index) error {
	begin := false
	if step.param == nil && x.Version != rows.BuiltinVersion {
		*x, begin = rows.Index{Version: rows.BuiltinVersion}, true
	}
	if p := step.param; p != nil && (x.Param == "" || x.Stale) {
		*x, begin = rows.Index{Type: p.ResourceType, URL: p.URL, Param: rows.ParamKey(p)}, true
	}
	step.more = true
	if !begin && !x.Done {
		if err := s.buildSome(step, x); err != nil {
			return err
		}
	}
	step.more = !x.Done
	return s.putState(&store.StateWrite{Key: step.key, Value: x.Encode()})
}

func (s *stage) buildSome(step *indexStep, x *rows.Index) (err error) {
	lower := []byte{keys.TableDocument}
	if x.Cursor != nil {
		lower = append(bytes.Clone(x.Cursor), 0)
	}
	it, err := s.from.reader.NewIter(&pebble.IterOptions{LowerBound: lower, UpperBound: []byte{keys.TableDocument + 1}})
	if err != nil {
		return err
	}
	defer fault.Close(it, &err)
	n := 0
	for ok := it.First(); ok; n++ {
		k := it.Key()
		r, good := keys.ParseRow(k)
		if !good {
			return fault.ErrRow
		}
		if n == step.limit {
			return nil
		}
		x.Cursor = bytes.Clone(k)
		switch wanted := step.param; {
		case wanted == nil && !rows.Builds(r.Type) || wanted != nil && r.Type < wanted.ResourceType:
			next := keys.PrefixEnd(keys.Cluster(keys.TableDocument, r.Patient, r.Type))
			if wanted != nil {
				next = keys.Cluster(keys.TableDocument, r.Patient, wanted.ResourceType)
			}
			ok = it.SeekGE(next)
			continue
		case wanted != nil && r.Type > wanted.ResourceType:
			ok = it.SeekGE(keys.PrefixEnd(keys.AppendString([]byte{keys.TableDocument}, r.Patient)))
			continue
		}
		if err := s.buildOne(step, &r, it.Value()); err != nil {
			return err
		}
		x.Documents++
		ok = it.Next()
	}
	if err := it.Error(); err != nil {
		return err
	}
	x.Done, x.Cursor = true, nil
	return nil
}

// buildOne writes the rows of one version.
func (s *stage) buildOne(step *indexStep, r *keys.Row, v []byte) error {
	d, err := s.db.templates.Document(s.from.reader, new(rows.Recent), r.Type, r.ID, v)
	if err != nil || d.Deleted {
		return err
	}
	if _, ok := s.heads[fhir.Ref{Type: r.Type, ID: r.ID}]; ok && d.EndSeq == 0 {
		return nil // the group ends the version, and has written its rows
	}
	set := s.indexRow(r.ID, r.Seq, &r.Location, d.EndSeq, &err)
	if step.param == nil {
		vals, _, e := rows.ExtractStored(r.Type, d.JSON)
		if e != nil { // it can be found by its id only
			return nil
		}
		rows.EachIndexPrefix(r.Type, vals, true, set)
		return err
	}
	x, e := s.indexes()
	if e != nil {
		return e
	}
	x.EachRuntime(r.Type, []*search.Param{step.param}, d.JSON, set)
	return err
}

// dropRows removes the next rows of an index, and at last its state. Before the first
// ones, it writes the state alone, from which on writers write no more of them.
func (s *stage) dropRows(step *indexStep, x *rows.Index) (err error) {
	step.more = true
	if !x.Dropping {
		x.Dropping, x.Done, x.Cursor = true, false, nil
		return s.putState(&store.StateWrite{Key: step.key, Value: x.Encode()})
	}
	pre := keys.IndexRows(x.Type, x.Param)
	it, err := s.from.reader.NewIter(&pebble.IterOptions{LowerBound: pre, UpperBound: keys.PrefixEnd(pre)})
	if err != nil {
		return err
	}
	defer fault.Close(it, &err)
	n := 0
	ok := it.First()
	for ; ok && n < step.limit; ok = it.Next() {
		if err := s.batch.Delete(it.Key(), nil); err != nil {
			return err
		}
		n++
	}
	if err := it.Error(); err != nil {
		return err
	}
	w := &store.StateWrite{Key: step.key, Value: x.Encode()}
	if step.more = ok; !ok {
		w.Value = nil
	}
	return s.putState(w)
}
