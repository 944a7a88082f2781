package ingest

import (
	"context"
	"log/slog"
	"time"

	"pulsegate/adapters"
	"pulsegate/fhir"
	"pulsegate/fhir/audit"
	"pulsegate/fhir/series"
	"pulsegate/fhir/store"
	"pulsegate/fhir/yield"
	"pulsegate/mapping"
	"pulsegate/mapping/stream"
)

// delivery is one payload on its way into the store.
type delivery struct {
	pipeline   *Pipeline
	request    Request
	adapter    adapters.Adapter
	limits     Limits
	zone       *time.Location // of the patient, or nil
	format     string
	digest     string // SHA-256 of the first 64 KiB of the payload, in hex
	retracting bool   // the delivery is a Retraction
	remap      string // id of the job if the delivery maps stored samples again, or ""
	erasure    string // id of the latest erasure when the delivery began, or ""
	log        *slog.Logger
	meters     meters

	// full passes the full batches to the committing goroutine, and spares
	// returns their memory.
	full   chan *batch
	spares columnPool

	// The following fields belong to the decoding goroutine.

	ctx      context.Context // ends when committing fails
	batch    *batch
	byID     map[string]int // index in batch.observations by id
	rawItems map[string]int // number of quarantined items by reason, metric and component
	streams  *stream.Mapper
	row      series.Sample // of the last sample
	lastUse  *streamUse    // of the last sample
	pace     yield.Counter // in samples
	arena    int           // size in bytes of the latest buffer for documents
	horizon  int64         // cached start in Unix microseconds from which on samples are in the future

	// The following fields belong to the committing goroutine, and to the decoding
	// one after the last commit.

	complete       *sweep // of Request.Complete, or nil
	summary        Summary
	consentRef     fhir.Ref
	categories     map[categoryPair]bool // cache of covered
	devices        map[string]*mapping.DeviceFacts
	learned        map[string]bool     // pairs that learnSources has recorded
	exemplars      map[string]bool     // keys of exemplars that the store has
	overtaken      bool                // Request.Again has ended the delivery
	asOf           store.Seq           // the commit as of which the caches above are valid
	openItems      map[string][]string // items in quarantine by subjectID; nil until loadOpenItems
	wroteResources bool
	commits        int
}

// checkConsent returns a Forbidden error if the patient's consent does not
// cover the vendor.
func (d *delivery) checkConsent(ctx context.Context) error {
	ref, ok, err := d.pipeline.Consents.Collects(ctx, d.request.Patient, d.request.Vendor)
	if err != nil {
		return fhir.Wrap("ingest.consent", err)
	}
	if !ok {
		return fhir.Errorf(fhir.Forbidden, "ingest.consent", "no active consent of this patient covers the data of %s",
			d.request.Vendor)
	}
	d.consentRef = ref
	clear(d.categories)
	return nil
}

// checkCaller returns an error if the delivery's push key has been revoked or has
// expired. Tokens are checked once, because they live for minutes and a delivery may
// take longer.
func (d *delivery) checkCaller(ctx context.Context) error {
	if p := d.request.Principal; p != nil {
		if _, _, ok := p.Grant.Delivers(); ok {
			return p.Grant.Live(ctx)
		}
	}
	return nil
}

// covered reports whether the consent covers data of the given categories.
// Answers are cached until the next checkConsent.
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

// categoryPair holds the categories of one row: the category and its
// refinement, if any.
type categoryPair [2]string

func pairOf(categories []string) (k categoryPair) {
	copy(k[:], categories)
	return k
}

func (d *delivery) auditEvent(typ audit.EventType, outcome string) audit.Event {
	return audit.Event{Type: typ, Interaction: "ingest", Outcome: outcome, At: d.pipeline.Clock(),
		Caller: d.request.Caller, Patient: d.request.Patient}
}
