package mapping

import (
	"crypto/sha256"
	"errors"
	"io/fs"
	"sync"
	"time"

	"pulsegate/fhir"
	"pulsegate/mapping/sample"
	"pulsegate/mapping/table"
)

// StreamSystem is the system of the identifier that all Observations of a
// stream share.
const StreamSystem = fhir.Canonical + "/identifier/series"

// Options configures a Mapper.
type Options struct {
	// Doubtful emits the standard codes with doubtful support.
	Doubtful bool
	// SeriesFrom is the rate in samples per day from which the samples of a row
	// are stored as series. 0 is 24, one sample per hour. A negative value
	// disables series.
	SeriesFrom int
	// Key is the secret of KeySize bytes from which ids are derived. If it is
	// empty, ids are plain SHA-256 hashes; only tests leave it empty.
	Key []byte
	// Packs is a directory with the mapping packs of the tenant, which are applied to
	// the tables (see package table). It may be nil.
	Packs fs.FS
}

// KeySize is the length of Options.Key in bytes.
const KeySize = 32

// defaultSeriesFrom is the default of Options.SeriesFrom.
const defaultSeriesFrom = 24

// Mapper maps Samples to resources. It is safe for concurrent use.
type Mapper struct {
	opts     Options
	table    *table.Table
	rules    map[string]map[string]*rule // by vendor and metric
	segments map[string][]Segments       // by vendor
	macs     sync.Pool                   // of hash.Hash
}

// New loads and compiles the tables in dir.
func New(dir fs.FS, opts Options) (*Mapper, error) {
	if n := len(opts.Key); n != 0 && n != KeySize {
		return nil, fhir.Errorf(fhir.Internal, "mapping.New", "the key for ids has %d bytes instead of %d", n, KeySize)
	}
	t, err := table.LoadPacks(dir, opts.Packs)
	if err != nil {
		return nil, fhir.Wrap("mapping.New", err)
	}
	m := &Mapper{opts: opts, table: t}
	if err := m.compile(); err != nil {
		return nil, fhir.Wrap("mapping.New", err)
	}
	return m, nil
}

// Table returns the table that m uses. The caller must not modify it.
func (m *Mapper) Table() *table.Table { return m.table }

// HasTable reports whether there is a table for vendor.
func (m *Mapper) HasTable(vendor string) bool { return m.rules[vendor] != nil }

// Categories returns the codes of Observation.category of a metric. It returns
// nil if the metric has no row. The caller must not modify the slice.
func (m *Mapper) Categories(vendor, metric string) []string {
	if r := m.rules[vendor][metric]; r != nil {
		return r.categories
	}
	return nil
}

// Segments names a row whose samples are segments of the Observations of
// another row.
type Segments struct {
	System, Metric string // the vendor's coding of a segment
	Of             string // the metric of the other row
}

// Segments returns the rows of a vendor that have SegmentsOf.
func (m *Mapper) Segments(vendor string) []Segments { return m.segments[vendor] }

// System returns the CodeSystem of a vendor's own codes.
func (m *Mapper) System(vendor string) string {
	for _, r := range m.rules[vendor] {
		return r.system
	}
	return ""
}

// Result is the outcome of mapping one Sample.
type Result struct {
	// ID and JSON are those of the Observation. JSON is nil for a row of device
	// facts and for a deletion.
	ID   string
	JSON []byte
	// Hash identifies the content of JSON.
	Hash [16]byte
	// Categories holds the codes of Observation.category. Read-only.
	Categories []string
	Metric     string // of the row
	// Start is the time of the measurement, which orders device facts. The
	// start of a daily value is midnight in UTC.
	Start time.Time
	// Device is zero if the sample names neither a device nor a source.
	Device DeviceKey
	// Stream is the StreamID of a sample of a stream, or "".
	Stream string
	// SegmentsOf names the row that is derived from samples like this one, or
	// is "".
	SegmentsOf string
	// Vague is set if the sample names neither the device that measured it nor
	// the source that delivered it. The stored device is then kept.
	Vague bool
	// Left lists the components that could not be written. If there are any,
	// Kept is the Sample without them, from which the Observation was made.
	Left []LeftOut
	Kept *sample.Sample
}

// Map maps a sample of the given vendor and patient. The JSON is appended to
// buf, which may be nil. A component that breaks a rule is left out and listed
// in Result.Left. Zone is the patient's configured zone or nil.
//
// Every error is a *RejectError. Its Reason is sample.DropPlaceholder if the
// value is a zero that means that nothing was measured.
func (m *Mapper) Map(buf []byte, vendor string, s *sample.Sample, patient string, zone *time.Location) (Result, error) {
	r := m.Resolve(vendor, patient, s)
	return m.Observation(buf, &r, s, zone)
}

// Observation is Map for a sample that was resolved before.
func (m *Mapper) Observation(buf []byte, r *Resolved, s *sample.Sample, zone *time.Location) (Result, error) {
	return m.observation(buf, r, s, zone, nil)
}

// observation is Observation, which reports to trace how it maps.
func (m *Mapper) observation(buf []byte, r *Resolved, s *sample.Sample, zone *time.Location,
	trace *Trace) (Result, error) {
	res, err := m.strict(buf, r, s, zone, trace)
	var part *partError
	if err == nil || !errors.As(err, &part) {
		return res, err
	}
	kept, left := r.rule.omitInvalid(s)
	if kept.Value.Kind == sample.None && len(kept.Components) == 0 {
		return res, mainReason(left)
	}
	res, err = m.strict(buf, r, kept, zone, trace)
	if errors.As(err, &part) { // no point of the main series is plausible
		return res, part.RejectError
	}
	res.Left, res.Kept = left, kept
	return res, err
}

// strict maps s as a whole. It returns a *partError if only a component, or
// only points of a series, break a rule.
func (m *Mapper) strict(buf []byte, r *Resolved, s *sample.Sample, zone *time.Location,
	trace *Trace) (Result, error) {
	if r.rule == nil {
		return Result{}, reject(sample.ReasonUnmapped, "the metric table has no row")
	}
	row := r.rule.row
	res := Result{Metric: row.Metric, Categories: r.rule.categories, SegmentsOf: row.SegmentsOf,
		Device: r.Device, Vague: r.Vague}
	if s.IsDeletion() {
		res.ID = m.observationID(r, s, nil)
		return res, nil
	}
	effective, err := ResolveEffective(s, zone)
	if err != nil {
		return Result{}, err
	}
	if row.Shape == table.ShapeDevice {
		if res.Device.ID == "" {
			return Result{}, reject(sample.ReasonMissing, "the device facts name no device")
		}
		res.Start = effective.Start
		return res, nil
	}
	if r.inStream(&effective) {
		effective.truncate()
		k := r.rule.sampleKey(r.stream, s, &effective)
		res.ID, res.Stream = k.ID(), StreamID(r.stream)
		trace.identify(ByStream)
	} else {
		res.ID = m.observationID(r, s, &effective)
		trace.identify(idRule(s))
	}
	res.Start = effective.Start
	from := len(buf)
	b, err := r.appendObservation(buf, s, &effective, res.ID, res.Stream, trace.begin(r.rule, &effective))
	if err != nil {
		return Result{}, err
	}
	res.JSON = b[from:len(b):len(b)]
	sum := sha256.Sum256(res.JSON)
	copy(res.Hash[:], sum[:16])
	return res, nil
}
