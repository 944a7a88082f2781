package ingest

import (
	"context"
	"io"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/cespare/xxhash/v2"

	"pulsegate/adapters"
	"pulsegate/fhir"
	"pulsegate/fhir/audit"
	"pulsegate/fhir/store"
	"pulsegate/mapping"
)

// Consents reports which data may be collected. *consent.Engine implements it.
type Consents interface {
	Collects(ctx context.Context, patient, vendor string) (fhir.Ref, bool, error)
	CollectsCategory(ctx context.Context, patient, vendor string, categories ...string) (bool, error)
}

// Pipeline ingests payloads. All fields except Zone, Limits and Logger are
// required. A Pipeline is safe for concurrent use.
type Pipeline struct {
	Store    store.Store
	Audit    audit.Trail
	Consents Consents
	Mapper   *mapping.Mapper
	Adapters []adapters.Adapter
	Clock    func() time.Time
	// Zone returns the configured zone of a patient, or nil. If Zone is nil, no
	// patient has a zone.
	Zone     func(ctx context.Context, patient string) (*time.Location, error)
	SpoolDir string
	Limits   Limits
	Logger   *slog.Logger

	// locks are chosen by patient and vendor and held while a commit is prepared
	// and written, so that the state that the commit was derived from does not
	// change.
	locks [64]sync.Mutex
}

// Request describes one delivery.
type Request struct {
	Patient string
	Vendor  string
	Format  string // "" or "auto" is detected; "v2:heartrate" names the type too
	Name    string // file name or hint
	Body    io.Reader
	// At and Size are set if the payload is a file.
	At   io.ReaderAt
	Size int64

	// Delivery returns a fact about the delivery by its name, or "". The facts of
	// an HTTP request are its headers. The adapter gets the facts that its formats
	// list. Delivery may be nil.
	Delivery func(name string) string

	audit.Caller
	Progress func(bytes int64)
}

func (p *Pipeline) adapter(vendor string) adapters.Adapter {
	for _, a := range p.Adapters {
		if strings.EqualFold(a.Vendor(), vendor) {
			return a
		}
	}
	return nil
}

func (p *Pipeline) vendors() string {
	var names []string
	for _, a := range p.Adapters {
		names = append(names, a.Vendor())
	}
	return strings.Join(names, ", ")
}

// lock excludes other commits for the same patient and vendor until unlock is
// called.
func (p *Pipeline) lock(patient, vendor string) (unlock func()) {
	m := &p.locks[xxhash.Sum64String(patient+"/"+vendor)%uint64(len(p.locks))]
	m.Lock()
	return m.Unlock
}
