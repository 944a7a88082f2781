package rows

import (
	"time"

	"github.com/cockroachdb/pebble/v2"
	lru "github.com/hashicorp/golang-lru/v2"

	"pulsegate/fhir"
	"pulsegate/fhir/store"
	"pulsegate/fhir/store/pebblestore/internal/fault"
	"pulsegate/fhir/store/pebblestore/internal/keys"
)

// MaxTemplates bounds the templates in memory, which take a few KiB each.
const MaxTemplates = 1024

// Templates caches the templates of F rows. It is safe for concurrent use.
type Templates struct {
	byID *lru.Cache[[16]byte, *store.Template]
}

// NewTemplates returns an empty cache.
func NewTemplates() *Templates {
	byID, _ := lru.New[[16]byte, *store.Template](MaxTemplates) // fails only for a size below one
	return &Templates{byID}
}

// get returns a template from the cache or from its F row.
func (f *Templates) get(r pebble.Reader, id [16]byte) (*store.Template, error) {
	if x, ok := f.byID.Get(id); ok {
		return x, nil
	}
	b, err := Get(r, keys.TemplateKey(id))
	if err != nil {
		return nil, err
	}
	x, ok := store.DecodeTemplate(b)
	if !ok || x.ID != id {
		return nil, fault.ErrRow
	}
	f.byID.Add(id, x)
	return x, nil
}

// Document decodes a D value and fills the template of a templated document. JSON
// may alias v.
func (f *Templates) Document(r pebble.Reader, last *Recent, typ, id string, v []byte) (Document, error) {
	d, err := last.decode(v)
	if err != nil || !d.Templated {
		return d, err
	}
	x, err := f.get(r, d.TemplateID)
	if err != nil {
		return d, err
	}
	json, ok := x.JSON(typ, id, d.Slots)
	if !ok {
		return d, fault.ErrRow
	}
	d.JSON = fhir.Stamp(json, typ, id, d.Version, time.UnixMilli(d.Updated))
	d.Templated, d.Slots = false, nil
	return d, nil
}
