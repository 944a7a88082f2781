package ingest

import (
	"errors"
	"sync"

	"github.com/cespare/xxhash/v2"

	"pulsegate/fhir"
)

// fences keeps deliveries and the erasure of the same data apart. It is zero
// until the first Erase.
type fences struct {
	mu    sync.Mutex
	byKey map[string]*fence // by patient and vendor
}

// fence is the state of one patient and vendor.
type fence struct {
	erasing    int // running calls of Erase
	generation int // number of calls of Erase that have begun
}

func (f *fences) get(patient, vendor string) fence {
	f.mu.Lock()
	defer f.mu.Unlock()
	if current := f.byKey[patient+"/"+vendor]; current != nil {
		return *current
	}
	return fence{}
}

// begin records that an Erase begins. end records that it has ended.
func (f *fences) begin(patient, vendor string) (end func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.byKey == nil {
		f.byKey = map[string]*fence{}
	}
	key := patient + "/" + vendor
	current := f.byKey[key]
	if current == nil {
		current = &fence{}
		f.byKey[key] = current
	}
	current.erasing++
	current.generation++
	return func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		current.erasing--
	}
}

// errBeingErased is the cause of errErasing.
var errBeingErased = errors.New("the data are being erased")

// errErasing is returned for a delivery that overlaps with an Erase of the same
// data.
func errErasing(op string) error {
	err := fhir.Errorf(fhir.Unavailable, op, "the data of this vendor and patient are being deleted")
	err.Err = errBeingErased
	return err
}

// lock excludes other commits for the same patient and vendor until unlock is
// called.
func (p *Pipeline) lock(patient, vendor string) (unlock func()) {
	m := &p.locks[xxhash.Sum64String(patient+"/"+vendor)%uint64(len(p.locks))]
	m.Lock()
	return m.Unlock
}

// lock is Pipeline.lock for a commit of d. It fails if an Erase of the same data
// has begun since d began.
func (d *delivery) lock() (unlock func(), err error) {
	unlock = d.pipeline.lock(d.request.Patient, d.request.Vendor)
	if d.pipeline.fences.get(d.request.Patient, d.request.Vendor).generation != d.generation {
		unlock()
		return nil, errErasing("ingest.commit")
	}
	return unlock, nil
}
