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
	"pulsegate/fhir/access"
	"pulsegate/fhir/audit"
	"pulsegate/fhir/store"
	"pulsegate/mapping"
)

// Recorder makes audit events; *audit.Recorder is one.
type Recorder interface {
	Prepare(audit.Event) (store.Write, store.Leaf, error)
	Record(context.Context, ...audit.Event) error
}

// Consents answers whether data may be taken in; *consent.Engine is one.
type Consents interface {
	Collects(ctx context.Context, patient, vendor string) (fhir.Ref, bool, error)
	CollectsCategory(ctx context.Context, patient, vendor string, categories ...string) (bool, error)
}

// Pipeline takes payloads in. All fields but Logger, Zone and Limits are
// needed.
type Pipeline struct {
	Store    store.Store
	Audit    Recorder
	Consents Consents
	Mapper   *mapping.Mapper
	Adapters []adapters.Adapter
	Clock    func() time.Time
	// Zone gives a patient's configured zone; nil: none has one.
	Zone     func(ctx context.Context, patient string) (*time.Location, error)
	SpoolDir string
	Limits   Limits
	Logger   *slog.Logger

	// stripes are locked by patient and vendor while a commit is worked out
	// and written: what it reads of them is what it is written over.
	locks [64]sync.Mutex
}

// Request is one payload.
type Request struct {
	Patient string
	Vendor  string
	Format  string // "" or "auto": found by itself; "v2:heartrate" names the type too
	Name    string // file name or hint
	Body    io.Reader
	// At and Size are given when the payload is a file.
	At   io.ReaderAt
	Size int64

	// Delivery returns a fact about the delivery by its name, "" if there is
	// none: the HTTP headers of the request. The adapter is told those that its
	// formats list. Nil is no facts.
	Delivery func(name string) string

	Principal *access.Principal
	RequestID string
	RemoteIP  string
	Progress  func(bytes int64)
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

// serialize waits for the other commits of the patient and vendor; what it
// returns lets the next one go on.
func (p *Pipeline) lock(patient, vendor string) (unlock func()) {
	m := &p.locks[xxhash.Sum64String(patient+"/"+vendor)%uint64(len(p.locks))]
	m.Lock()
	return m.Unlock
}
