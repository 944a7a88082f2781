package pebblestore

import (
	"time"

	"github.com/cockroachdb/pebble/v2"
	lru "github.com/hashicorp/golang-lru/v2"

	"pulsegate/fhir"
	"pulsegate/fhir/store"
)

// maxForms bounds the memory of forms (some KiB each), and how many the
// committer remembers as written.
const maxForms = 1024

// forms caches the forms that reads needed.
type forms struct {
	known *lru.Cache[[16]byte, *store.Template]
}

func newForms() forms {
	known, _ := lru.New[[16]byte, *store.Template](maxForms) // fails only for a size below one
	return forms{known}
}

// get reads a form, which lies in the batch of the first row that needs it or
// in one before.
func (f *forms) get(r pebble.Reader, id [16]byte) (*store.Template, error) {
	if x, ok := f.known.Get(id); ok {
		return x, nil
	}
	b, err := get(r, formKey(id))
	if err != nil {
		return nil, err
	}
	x, ok := store.DecodeTemplate(b)
	if !ok || x.ID != id {
		return nil, errRow
	}
	f.known.Add(id, x)
	return x, nil
}

// doc decodes a D value and writes out what is kept by form; json may alias v.
func (f *forms) doc(r pebble.Reader, last *recent, typ, id string, v []byte) (doc, error) {
	d, err := last.decodeDoc(v)
	if err != nil || !d.formed {
		return d, err
	}
	x, err := f.get(r, d.form)
	if err != nil {
		return d, err
	}
	json, ok := x.JSON(typ, id, d.own)
	if !ok {
		return d, errRow
	}
	d.json = fhir.Stamp(json, typ, id, d.version, time.UnixMilli(d.updated))
	d.formed, d.own = false, nil
	return d, nil
}

// putForm writes the form of a document, unless it is known to be there.
func (s *stage) putForm(f *store.Template) error {
	if _, ok := s.d.wrote.Get(f.ID); ok || s.forms[f.ID] {
		return nil
	}
	if s.forms == nil {
		s.forms = map[[16]byte]bool{}
	}
	s.forms[f.ID] = true
	return s.batch.Set(formKey(f.ID), f.Encoded, nil)
}

// formsWritten remembers the forms of a group that was applied. Writing a form
// again does no harm, so the oldest ones may be forgotten.
func (d *DB) formsWritten(ids map[[16]byte]bool) {
	for id := range ids {
		d.wrote.Add(id, struct{}{})
	}
}
