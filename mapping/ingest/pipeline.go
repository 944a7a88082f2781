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
	"pulsegate/fhir/budget"
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

// Run takes one payload in. What was committed before an error stays, and the
// summary counts it.
//
// Every run leaves an AuditEvent: with each commit, and one for its failure.
func (p *Pipeline) Run(ctx context.Context, q Request) (_ Summary, err error) {
	began := p.Clock()
	var r *delivery
	ctx, span := startSpan(ctx)
	defer func() { endSpan(span, r, err) }()
	if err = budget.Of(ctx).Grow(deliveryMemory); err != nil {
		return Summary{}, err
	}
	if r, err = p.begin(ctx, q); err != nil {
		return Summary{}, err
	}
	if err = r.payload(ctx); err != nil {
		err = r.recordFailure(ctx, err, "")
	}
	r.summary.Seconds = p.Clock().Sub(began).Seconds()
	if r.summary.ByMetric == nil {
		r.summary.ByMetric = map[string]Counts{}
	}
	return r.summary, err
}

// begin checks patient, vendor and consent; a refusal is in the audit trail.
func (p *Pipeline) begin(ctx context.Context, q Request) (*delivery, error) {
	r, err := p.prepare(ctx, q)
	if err != nil {
		return nil, p.recordRefusal(ctx, &q, err, "")
	}
	return r, nil
}

func (p *Pipeline) prepare(ctx context.Context, q Request) (*delivery, error) {
	a := p.adapter(q.Vendor)
	if a == nil {
		return nil, fhir.Errorf(fhir.Invalid, "ingest.Run", "vendor is one of %s", p.vendors())
	}
	if !fhir.ValidID(q.Patient) {
		return nil, fhir.Errorf(fhir.Invalid, "ingest.Run", "patient is no id")
	}
	pat, _, err := p.Store.Read(ctx, fhir.Ref{Type: "Patient", ID: q.Patient}, 0)
	if err != nil {
		return nil, fhir.Wrap("ingest.Run", err)
	}
	if pat.Deleted {
		return nil, fhir.Errorf(fhir.NotFound, "ingest.Run", "the patient is deleted")
	}
	r := &delivery{pipeline: p, request: q, adapter: a, limits: p.Limits.orDefault(), byID: map[string]int{},
		devices: map[string]*mapping.DeviceFacts{}, learned: map[string]bool{},
		categories: map[categoryPair]bool{}, rawItems: map[string]int{}, log: p.Logger}
	if r.log == nil {
		r.log = slog.New(slog.DiscardHandler)
	}
	if err := r.checkConsent(ctx); err != nil {
		return nil, err
	}
	if r.meters, err = newMeters(); err != nil {
		return nil, err
	}
	if p.Zone != nil {
		if r.zone, err = p.Zone(ctx, q.Patient); err != nil {
			return nil, fhir.Wrap("ingest.Run", err)
		}
	}
	return r, nil
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
