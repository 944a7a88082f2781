package ingest

import (
	"context"
	"io"
	"log/slog"
	"strings"
	"sync"
	"time"

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
	// and written, so that commits of this process do not void each other. Those of
	// other processes are excluded by guards; see delivery.exclusively.
	locks    [64]sync.Mutex
	erasures erasures
	remaps   remaps
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

	// Complete, if not nil, says that the payload states everything that the vendor
	// holds in a window. What is stored and not stated is then retracted. See
	// "Complete windows" in the package comment.
	Complete *Window

	// Since, if not zero, is the time from which on data may be stored. Samples that
	// lie wholly before it are dropped, and stored ones of that time stay as they are,
	// even if Complete contains them. A day counts as before Since if it may be over in
	// the patient's zone, which may be unknown. A deletion
	// is followed whenever its sample was measured.
	Since time.Time

	// KeepStored leaves stored Observations as they are. Only new ones are written.
	KeepStored bool

	// Origin tells how the payload arrived.
	Origin Origin

	audit.Caller
	Progress func(bytes int64)

	// Bind, if not nil, adds preconditions to each commit of the delivery, such as that of
	// the role under which the caller works.
	Bind func(*store.Batch)

	// Again, if not nil, is called before each attempt to commit, when the attempt's Seen
	// is known, and reads again what Bind ties the commit to. If it fails, the delivery
	// ends with its error.
	Again func(context.Context) error

	part *partClaim // nil unless the payload is a part that may be repeated
}

// Origin tells how a payload or a retraction arrived. It is recorded in the
// Provenance. It must hold no facts about the patient and no id of an account.
type Origin struct {
	// Channel names the way of delivery, such as "webhook", "poll", "backfill",
	// "push" or "file": up to 32 lower-case letters, digits and hyphens, or "".
	Channel string
	// Link is the id of the patient's link to the vendor, or "".
	Link string
}

// check reports why origin cannot be recorded.
func (origin *Origin) check(op string) error {
	invalid := func(c rune) bool { return c != '-' && (c < 'a' || c > 'z') && (c < '0' || c > '9') }
	if len(origin.Channel) > 32 || strings.ContainsFunc(origin.Channel, invalid) {
		return fhir.Errorf(fhir.Invalid, op, "the channel of an origin has up to 32 lower-case letters, digits and "+
			"hyphens")
	}
	if origin.Link != "" && !fhir.ValidID(origin.Link) {
		return fhir.Errorf(fhir.Invalid, op, "the link of an origin is not a valid id")
	}
	return nil
}

func (p *Pipeline) logger() *slog.Logger {
	if p.Logger == nil {
		return slog.New(slog.DiscardHandler)
	}
	return p.Logger
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
