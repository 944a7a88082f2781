package main

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"pulsegate/adapters"
	"pulsegate/adapters/vendors"
	"pulsegate/fhir"
	"pulsegate/fhir/access"
	"pulsegate/fhir/audit"
	"pulsegate/fhir/store"
	"pulsegate/fhir/store/pebblestore"
	"pulsegate/mapping"
	"pulsegate/mapping/ingest"
	"pulsegate/mapping/sample"
	"pulsegate/mapping/table"
)

// world is a store in a temporary directory with a pipeline.
type world struct {
	db       *pebblestore.DB
	pipeline *ingest.Pipeline
	dir      string // of the store and of archives that are delivered
	clock    func() time.Time
	tap      *tap // of the current delivery
	patients int
}

// newWorld opens the store. The patients have the time zone zone, which may be nil.
func newWorld(zone *time.Location, clock func() time.Time) (w *world, err error) {
	w = &world{clock: clock}
	defer func() {
		if err != nil {
			err = errors.Join(err, w.close())
		}
	}()
	if w.dir, err = os.MkdirTemp("", "pulsegate-vendors-"); err != nil {
		return w, err
	}
	if w.db, err = pebblestore.Open(w.dir, pebblestore.Options{Clock: clock, NoSync: true}); err != nil {
		return w, err
	}
	trail, err := audit.NewRecorder(audit.Options{Store: w.db, Clock: clock, Rand: rand.Reader,
		Observer: "https://example.org"})
	if err != nil {
		return w, err
	}
	// The key decides only about ids, which are not in the report.
	mapper, err := mapping.New(table.Builtin(), mapping.Options{Key: []byte("0123456789abcdef0123456789abcdef")})
	if err != nil {
		return w, err
	}
	w.pipeline = &ingest.Pipeline{Store: w.db, Audit: trail, Consents: everything{}, Mapper: mapper, Clock: clock,
		SpoolDir: w.dir, Zone: func(context.Context, string) (*time.Location, error) { return zone, nil }}
	for _, a := range vendors.All() {
		w.pipeline.Adapters = append(w.pipeline.Adapters, tapped{a, w})
	}
	return w, nil
}

func (w *world) close() (err error) {
	if w.db != nil {
		err = w.db.Close()
	}
	return errors.Join(err, os.RemoveAll(w.dir))
}

// everything is a consent that permits everything.
type everything struct{}

// Collects implements ingest.Consents.
func (everything) Collects(context.Context, string, string) (fhir.Ref, bool, error) {
	return fhir.Ref{Type: "Consent", ID: "c"}, true, nil
}

// CollectsCategory implements ingest.Consents.
func (everything) CollectsCategory(context.Context, string, string, ...string) (bool, error) {
	return true, nil
}

// tapped is an adapter with a tap on its results.
type tapped struct {
	adapters.Adapter
	world *world
}

// Decode implements adapters.Adapter.
func (a tapped) Decode(ctx context.Context, in adapters.Input, sink adapters.Sink) error {
	a.world.tap.Sink = sink
	return a.Adapter.Decode(ctx, in, a.world.tap)
}

// tap counts what a Summary does not have: the reasons for which a decoder drops, and
// the nights that a payload states.
type tap struct {
	adapters.Sink
	dropped Reasons
	parts   int // drops that are partsOfItems
	nights  int // that the payload states
}

// byIngest is the reason for what ingest drops and the decoder does not.
const byIngest = "by-ingest"

// night is the metric of nights that a payload states and of those that ingest derives
// from segments.
const night = "night"

// route is the metric of the location of a workout, which is a part of the workout.
const route = "workout.route"

// Sample implements adapters.Sink.
func (t *tap) Sample(s *sample.Sample) error {
	if s.Metric == night {
		t.nights++
	}
	return t.Sink.Sample(s)
}

// Reject implements adapters.Sink.
func (t *tap) Reject(r *sample.Reject) error {
	if r.Metric == night && r.Component == "" {
		t.nights++
	}
	return t.Sink.Reject(r)
}

// Drop implements adapters.Sink.
func (t *tap) Drop(reason, metric string, n int) {
	if partsOfItems[metric] != "" {
		t.parts += n
	} else {
		t.dropped[reason] += n
	}
	if metric == night {
		t.nights += n
	}
	t.Sink.Drop(reason, metric, n)
}

// partsOfItems lists the metrics under which decoders count as dropped what is only a
// part of an item or of the frame around the items, with the reason. The independent
// count does not have them.
var partsOfItems = map[string]string{
	"Me":                               "facts about the wearer in an export of Apple's",
	"ExportDate":                       "date of an export of Apple's",
	"other":                            "element of an export without a measurement",
	"WorkoutRoute":                     "route of a workout, which is summarized",
	"WorkoutEvent":                     "event of a workout",
	"WorkoutActivity":                  "activity within a workout",
	"WorkoutZoneGroup":                 "zones of a workout",
	"WorkoutStatistics":                "statistic of a workout without a component",
	"workout-series":                   "series within a workout",
	"workout-value":                    "value of a workout without a component",
	"HeartRateVariabilityMetadataList": "beats of a heart rate variability",
	"ActivitySummary/appleMoveTime":    "zero of a ring that the wearer does not use",
	"section":                          "member of a body that is no list of items",
}

// load is a file that is delivered.
type load struct {
	path string // absolute, with slashes
	body *io.SectionReader
}

// open opens a file below dir.
func open(dir, name string) (load, io.Closer, error) {
	f, err := os.Open(filepath.Join(dir, filepath.FromSlash(name)))
	if err != nil {
		return load{}, nil, err
	}
	info, err := f.Stat()
	if err != nil {
		return load{}, nil, errors.Join(err, f.Close())
	}
	abs, err := filepath.Abs(f.Name())
	if err != nil {
		return load{}, nil, errors.Join(err, f.Close())
	}
	return load{filepath.ToSlash(abs), io.NewSectionReader(f, 0, info.Size())}, f, nil
}

// aliases lists the words that name a vendor in a path besides its code.
var aliases = map[string]string{"hae": "apple", "google": "fitbit"}

// detect returns the vendor and the format of a file. If several vendors claim it, the
// one that the path names last is chosen.
func detect(l load) (vendor, format string, err error) {
	head := make([]byte, min(l.body.Size(), 64<<10))
	if _, err := l.body.ReadAt(head, 0); err != nil && err != io.EOF {
		return "", "", err
	}
	claims := map[string]string{}
	for _, a := range vendors.All() {
		if f, ok := a.Detect(path.Base(l.path), head); ok {
			claims[a.Vendor()] = f
		}
	}
	codes := slices.Sorted(maps.Keys(claims))
	switch len(codes) {
	case 0:
		return "", "", errors.New("no vendor has a format like this, and the file is not listed as no payload")
	case 1:
		return codes[0], claims[codes[0]], nil
	}
	words := strings.FieldsFunc(l.path, func(c rune) bool { return c < 'a' || c > 'z' })
	for _, word := range slices.Backward(words) {
		vendor = cmp.Or(aliases[word], word)
		if format = claims[vendor]; format != "" {
			return vendor, format, nil
		}
	}
	return "", "", fmt.Errorf("%s have a format like this, and the path names none of them",
		strings.Join(codes, " and "))
}

// deliver ingests one file for a new patient and sets the outcome in r.
func (w *world) deliver(ctx context.Context, l load, r *Row) error {
	w.patients++
	patient := fmt.Sprintf("p%d", w.patients)
	b := store.Batch{Writes: []store.Write{{Resource: fhir.Resource{Type: "Patient", ID: patient,
		JSON: []byte(fhir.Prefix("Patient", patient) + `}}`)}}}}
	if _, err := w.db.Commit(ctx, &b); err != nil {
		return err
	}
	w.tap = &tap{dropped: Reasons{}}
	begin := w.clock()
	sum, refusal := w.pipeline.Run(ctx, ingest.Request{Patient: patient, Vendor: r.Vendor, Format: r.Format,
		Name: path.Base(l.path), Body: io.NewSectionReader(l.body, 0, l.body.Size()), At: l.body, Size: l.body.Size(),
		Caller: audit.Caller{Principal: &access.Principal{Operator: "vendors", Grant: access.All()}}})
	r.Seconds = w.clock().Sub(begin).Seconds()
	if refusal != nil && fhir.KindOf(refusal) != fhir.Invalid {
		return refusal
	}
	r.Parts, r.Derived = w.tap.parts, sum.ByMetric[night].Read-w.tap.nights+sum.ByMetric[route].Read
	r.Read = sum.Read - r.Parts - r.Derived
	r.Created, r.Updated, r.Unchanged, r.LeftOut = sum.Created, sum.Updated, sum.Unchanged, sum.LeftOut
	dropped := sum.Dropped - w.tap.parts
	r.Dropped = w.tap.dropped
	r.Dropped.rest(byIngest, dropped)
	r.Quarantined = Reasons{}
	err := w.pipeline.List(ctx, patient, func(item *ingest.Item) bool {
		if item.Component == "" {
			r.Quarantined[item.Reason] += item.Count
		}
		return true
	})
	r.Quarantined.rest("repeated", sum.Quarantined)
	if refusal != nil {
		r.State, r.Reason = refused, explain(refusal)
	}
	return err
}

// explain returns what the caller of a delivery is told about an error, or "".
func explain(err error) string {
	var fe *fhir.Error
	if !errors.As(err, &fe) {
		return ""
	}
	var texts []string
	for _, is := range fe.Issues {
		texts = append(texts, is.Diagnostics)
	}
	return strings.Join(texts, "; ")
}
