package ingest

import (
	"context"
	"log/slog"
	"time"

	"pulsegate/adapters"
	"pulsegate/fhir"
	"pulsegate/fhir/audit"
	"pulsegate/fhir/series"
	"pulsegate/mapping"
	"pulsegate/mapping/stream"
)

// run is one payload on its way. The decoding goroutine owns cur, seen, kept
// and what is beside streams; the committing one sum, devices and categories.
type delivery struct {
	pipeline *Pipeline
	request  Request
	adapter  adapters.Adapter
	limits   Limits
	zone     *time.Location
	format   string
	digest   string
	log      *slog.Logger

	batch    *batch
	full     chan *batch
	ctx      context.Context // of the decoding: ends when committing fails
	byID     map[string]int  // id -> index in cur
	rawItems map[string]int  // metric -> raw items kept

	streams    *stream.Mapper
	row        series.Sample
	lastUse    *streamUse // of the last sample
	sinceYield int        // since others went first
	horizon    int64      // what begins later than this lies in the future, if the clock says so still
	spares     columnPool

	summary        Summary
	consentRef     fhir.Ref
	categories     map[categoryPair]bool
	devices        map[string]*mapping.DeviceFacts
	learned        map[string]bool     // see learnSources
	openItems      map[string][]string // see openItems; nil before it is needed
	meters         meters
	wroteResources bool
	commits        int
}

// consent asks for the consent, which may have been withdrawn meanwhile.
func (d *delivery) checkConsent(ctx context.Context) error {
	ref, ok, err := d.pipeline.Consents.Collects(ctx, d.request.Patient, d.request.Vendor)
	if err != nil {
		return fhir.Wrap("ingest.consent", err)
	}
	if !ok {
		return fhir.Errorf(fhir.Forbidden, "ingest.consent", "no active consent of this patient covers data of %s",
			d.request.Vendor)
	}
	d.consentRef = ref
	clear(d.categories)
	return nil
}

// covered remembers the answer until the consent is asked for again.
func (d *delivery) covered(ctx context.Context, categories []string) (bool, error) {
	pair := pairOf(categories)
	ok, cached := d.categories[pair]
	if cached {
		return ok, nil
	}
	ok, err := d.pipeline.Consents.CollectsCategory(ctx, d.request.Patient, d.request.Vendor, categories...)
	if err != nil {
		return false, fhir.Wrap("ingest.consent", err)
	}
	d.categories[pair] = ok
	return ok, nil
}

// kind is the categories of one row: one, or one and its refinement.
type categoryPair [2]string

func pairOf(categories []string) (k categoryPair) {
	copy(k[:], categories)
	return k
}

func (d *delivery) auditEvent(k audit.EventType, outcome string) audit.Event {
	return audit.Event{Type: k, Interaction: "ingest", Outcome: outcome, At: d.pipeline.Clock(), Principal: d.request.Principal,
		RemoteIP: d.request.RemoteIP, RequestID: d.request.RequestID, Patient: d.request.Patient}
}
