package pebblestore

import (
	"sync"
	"time"

	"github.com/cockroachdb/pebble/v2"

	"pulsegate/fhir"
	"pulsegate/fhir/store"
)

// maxForms bounds the memory of forms (some KiB each), and how many the
// committer remembers as written.
const maxForms = 1024

// forms are the forms that reads needed.
type forms struct {
	mu    sync.RWMutex
	known map[[16]byte]*store.Template
}

// get reads a form, which lies in the batch of the first row that needs it or
// in one before.
func (f *forms) get(r pebble.Reader, id [16]byte) (*store.Template, error) {
	f.mu.RLock()
	x := f.known[id]
	f.mu.RUnlock()
	if x != nil {
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
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.known == nil || len(f.known) >= maxForms {
		f.known = map[[16]byte]*store.Template{}
	}
	f.known[id] = x
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
