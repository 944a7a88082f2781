package apple

import (
	"cmp"
	"context"
	"errors"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"

	"pulsegate/adapters"
	"pulsegate/mapping/sample"
)

const (
	channelXML   = "export.xml"
	progressStep = 1 << 20
	maxDays      = 50000
)

// xmlDecoder reads one <HealthData> document.
type xmlDecoder struct {
	ctx    context.Context
	format string
	sink   adapters.Sink
	sc     *scanner
	clock  *clock

	names   *interner
	values  *numberStrings
	devices *devices
	ids     *simplelru.LRU[string, string] // source name to its hash

	entries entries

	rec            record
	templates      []*tagTemplate // most recently used first
	lastTemplate   *tagTemplate   // the template that rec was filled from, or nil
	unusedTemplate *tagTemplate   // an unused template, kept for its memory
	templatesOff   bool           // read every tag with the scanner (tests)

	bp        *bloodPressure
	summaries map[sample.Date]*sample.Sample
	exported  time.Time

	routes func(name string, c *clock) route // summarizes a file with locations, or nil

	elements int
	reported int64 // offset at the last call of Progress
	offset   int64 // bytes of earlier entries of the same archive
	sinkErr  error // error of the sink when it was passed a rejected component
}

// maxSources bounds the short source names that are cached.
const maxSources = 4096

func newXMLDecoder(ctx context.Context, in adapters.Input, format string, r io.Reader, sink adapters.Sink) *xmlDecoder {
	ids, _ := simplelru.NewLRU[string, string](maxSources, nil) // fails only for a size below one
	d := &xmlDecoder{
		ctx: ctx, format: format, sink: sink, sc: newScanner(r), clock: newClock(in.Received),
		names: newInterner(8192), values: newNumberStrings(), devices: newDevices(), ids: ids,
		bp: newBloodPressure(), summaries: map[sample.Date]*sample.Sample{},
	}
	d.entries = entries{clock: d.clock, names: d.names, values: d.values, reject: d.rejectComponent}
	return d
}

// fail turns an error of the scanner into a PayloadError. It returns other
// errors unchanged.
func (d *xmlDecoder) fail(err error) error {
	var syntax syntaxError
	var refused refusedError
	switch {
	case errors.As(err, &syntax), errors.As(err, &refused):
		return &adapters.PayloadError{Format: d.format, Where: d.where(), Rule: err.Error(), Err: err}
	default:
		return err
	}
}

func (d *xmlDecoder) where() string { return "offset " + strconv.FormatInt(d.sc.offset(), 10) }

// next reads a token.
func (d *xmlDecoder) next() (tokenType, error) {
	tok, err := d.sc.next()
	if err != nil {
		return tok, d.readError(err)
	}
	return tok, d.tick()
}

// tick counts a token. Every 1,024 tokens it checks the context and reports
// progress.
func (d *xmlDecoder) tick() error {
	if d.elements++; d.elements&1023 == 0 {
		if err := d.ctx.Err(); err != nil {
			return err
		}
		if at := d.sc.offset(); at-d.reported >= progressStep {
			d.reported = at
			d.sink.Progress(d.offset + at)
		}
	}
	return nil
}

// readError turns any error of the scanner, including errors of the stream,
// into a PayloadError.
func (d *xmlDecoder) readError(err error) error {
	if f := d.fail(err); f != err {
		return f
	}
	return &adapters.PayloadError{Format: d.format, Where: d.where(), Rule: "the body cannot be read", Err: err}
}

// decodeXML reads one document with a prefetcher. It returns the number of
// bytes decoded and the error that r returned, which may lie beyond the decoded
// bytes. routes summarizes the files with the locations of workouts; it may be nil.
func decodeXML(ctx context.Context, in adapters.Input, format string, r io.Reader, sink adapters.Sink,
	offset int64, routes func(string, *clock) route) (read int64, readErr, err error) {
	p := newPrefetcher(r)
	d := newXMLDecoder(ctx, in, format, p, sink)
	d.offset, d.routes = offset, routes
	err = d.run()
	p.close()
	return d.sc.base + int64(d.sc.pos), p.err, err
}

// run reads the document to its end.
func (d *xmlDecoder) run() error {
	root := false
	for {
		if d.sc.depth == 1 {
			if err := d.templatedRecords(); err != nil {
				return err
			}
		}
		tok, err := d.next()
		if err != nil {
			return err
		}
		switch {
		case tok == tokenEOF && !root:
			return &adapters.PayloadError{Format: d.format, Where: "offset 0", Rule: "no HealthData element"}
		case tok == tokenEOF:
			d.sink.Progress(d.offset + d.sc.base + int64(d.sc.pos))
			return d.finish()
		case tok == tokenStart && d.sc.depth == 1:
			if string(d.sc.name) != "HealthData" || root {
				return &adapters.PayloadError{Format: d.format, Where: d.where(),
					Rule: "the root element is not one HealthData"}
			}
			root = true
		case tok == tokenStart:
			if err := d.item(); err != nil {
				return err
			}
		}
	}
}

// item reads a child of the root element.
func (d *xmlDecoder) item() error {
	switch string(d.sc.name) {
	case "Record":
		return d.record()
	case "Correlation":
		return d.correlation()
	case "Workout":
		return d.workout()
	case "ActivitySummary":
		return d.activitySummary()
	case "Audiogram":
		return d.audiogram()
	case "ExportDate":
		if a := d.attr("value"); a != nil {
			if t, ok := d.clock.parse(d.sc.value(a)); ok && d.clock.plausible(t) {
				d.exported = t
			}
		}
	}
	// Only the names of Apple's elements are repeated: the document may have
	// others.
	name := "other"
	switch n := string(d.sc.name); n {
	case "ExportDate", "Me", "ClinicalRecord", "VisionPrescription":
		name = n
	}
	d.sink.Drop(sample.DropIgnored, name, 1)
	return d.skip()
}

// attr returns an attribute of the current tag, or nil.
func (d *xmlDecoder) attr(name string) *attr {
	for i := range d.sc.attrs {
		if string(d.sc.attrs[i].name) == name {
			return &d.sc.attrs[i]
		}
	}
	return nil
}

// skip reads to the end of the element that just started.
func (d *xmlDecoder) skip() error {
	for depth := d.sc.depth; d.sc.depth >= depth; {
		if _, err := d.next(); err != nil {
			return err
		}
	}
	return nil
}

// children calls each for every child of the element that just started; each
// must read the child to its end.
func (d *xmlDecoder) children(each func() error) error {
	for depth := d.sc.depth; ; {
		tok, err := d.next()
		switch {
		case err != nil:
			return err
		case tok == tokenEnd && d.sc.depth < depth:
			return nil
		case tok == tokenStart:
			if err := each(); err != nil {
				return err
			}
		}
	}
}

// correlation pairs the Records of a blood pressure. The Records of other
// correlations (food) also occur at the top level.
func (d *xmlDecoder) correlation() error {
	a := d.attr("type")
	bp := a != nil && string(d.sc.value(a)) == "HKCorrelationTypeIdentifierBloodPressure"
	if !bp {
		d.sink.Drop(sample.DropIgnored, "Correlation", 1)
	}
	return d.children(func() error {
		switch {
		case string(d.sc.name) == "Record" && bp:
			return d.record()
		case string(d.sc.name) == "Record":
			d.sink.Drop(sample.DropDuplicate, "Correlation", 1)
		}
		return d.skip()
	})
}

// audiogram reads an Audiogram: the hearing thresholds of both ears by frequency.
func (d *xmlDecoder) audiogram() error {
	r := &record{}
	d.begin(r)
	r.sample.Metric = typeAudiogram
	d.keepRaw(r)
	points := 0
	err := d.children(func() error {
		switch string(d.sc.name) {
		case "SensitivityPoint":
			if points++; points <= maxPoints {
				d.sensitivityPoint(r)
			}
		case "MetadataEntry":
			d.metadata(r)
		}
		return d.skip()
	})
	if err != nil {
		return err
	}
	if len(r.sample.Components) == 0 {
		r.reject(sample.ReasonMissing, "no hearing threshold")
		r.where = d.where()
	}
	return d.emit(r)
}

// sensitivityPoint reads the thresholds at one frequency.
func (d *xmlDecoder) sensitivityPoint(r *record) {
	f := d.attr("frequencyValue")
	if f == nil {
		return
	}
	freq, ok := decimal(d.sc.value(f))
	if !ok {
		d.rejectComponent(r.sample.Metric, "frequency", "the frequency is not a decimal")
		return
	}
	name := string(freq)
	for _, ear := range []string{"left", "right"} {
		v, unit := d.attr(ear+"EarValue"), "dBHL"
		if v == nil {
			continue
		}
		if u := d.attr(ear + "EarUnit"); u != nil {
			unit = d.names.get(d.sc.value(u))
		}
		num, ok := decimal(d.sc.value(v))
		if !ok {
			d.rejectComponent(r.sample.Metric, earPart(ear, name), "the threshold is not a decimal")
			continue
		}
		r.component(earPart(ear, name), number(d.values.get(num), unit))
		if m := d.attr(ear + "EarMasked"); m != nil && isTrue(d.sc.value(m)) {
			r.component(earPart(ear, name)+"Masked", sample.Value{Kind: sample.Boolean, Bool: true})
		}
	}
}

// isTrue reports whether a boolean of an export is true.
func isTrue(b []byte) bool { return string(b) == "1" || string(b) == "true" || string(b) == "YES" }

// activitySummary reads an ActivitySummary. The last one of each day is kept
// until the end of the document.
func (d *xmlDecoder) activitySummary() error {
	s := &sample.Sample{Metric: "ActivitySummary", Channel: channelXML}
	unit, goal := "kcal", ""
	var malformed []string
	for i := range d.sc.attrs {
		a := &d.sc.attrs[i]
		v := d.sc.value(a)
		switch name := string(a.name); name {
		case "dateComponents":
			s.Day, _ = parseDay(string(v))
		case "activeEnergyBurnedUnit":
			unit = d.names.get(v)
		case "activeEnergyBurned", "activeEnergyBurnedGoal", "appleMoveTime", "appleMoveTimeGoal",
			"appleExerciseTime", "appleExerciseTimeGoal", "appleStandHours", "appleStandHoursGoal":
			num, ok := decimal(v)
			if !ok {
				malformed = append(malformed, name)
				continue
			}
			u := "min"
			if strings.HasPrefix(name, "appleStand") {
				u = "count"
			}
			if name == "appleMoveTimeGoal" {
				goal = string(num)
			}
			s.Components = append(s.Components, sample.Component{Name: name, Value: number(string(num), u)})
		}
	}
	for i := range s.Components {
		if strings.HasPrefix(s.Components[i].Name, "activeEnergy") {
			s.Components[i].Value.Unit = unit
		}
	}
	switch {
	case s.Day.IsZero():
		return d.rejectTag(sample.ReasonBadTime, s.Metric, "dateComponents is not a day since 1900")
	case len(malformed) > 0 && len(s.Components) == 0:
		return d.rejectTag(sample.ReasonBadValue, s.Metric, "a value is not a decimal")
	}
	for _, name := range malformed {
		d.rejectComponent(s.Metric, name, "the value is not a decimal")
	}
	if d.sinkErr != nil {
		return d.sinkErr
	}
	if goal == "0" {
		// Wearers with an energy goal have no move goal: their zeros are not
		// measurements.
		s.Components = slices.DeleteFunc(s.Components, func(c sample.Component) bool {
			return strings.HasPrefix(c.Name, "appleMoveTime")
		})
		d.sink.Drop(sample.DropPlaceholder, "ActivitySummary/appleMoveTime", 1)
	}
	if d.summaries[s.Day] != nil {
		d.sink.Drop(sample.DropDuplicate, s.Metric, 1)
	} else if len(d.summaries) >= maxDays {
		return d.rejectTag(sample.ReasonTooLarge, s.Metric, "more than 50000 days")
	}
	if len(s.Components) > 0 {
		d.summaries[s.Day] = s
	}
	return d.skip()
}

// rejectTag rejects the element that just started and skips it.
func (d *xmlDecoder) rejectTag(reason, metric, rule string) error {
	err := d.sink.Reject(&sample.Reject{Reason: reason, Metric: metric, Where: d.where(), Detail: rule,
		Raw: d.sc.tag()})
	if err != nil {
		return err
	}
	return d.skip()
}

// finish emits the samples that had to wait for the end of the document.
func (d *xmlDecoder) finish() error {
	if err := d.bp.flush(d.sink.Sample); err != nil {
		return err
	}
	days := make([]*sample.Sample, 0, len(d.summaries))
	for _, s := range d.summaries {
		days = append(days, s)
	}
	slices.SortFunc(days, func(a, b *sample.Sample) int {
		return cmp.Or(cmp.Compare(a.Day.Year, b.Day.Year), cmp.Compare(a.Day.Month, b.Day.Month),
			cmp.Compare(a.Day.Day, b.Day.Day))
	})
	var today time.Time // the day of the export, which was not over
	if y, m, n := d.exported.Date(); !d.exported.IsZero() {
		today = time.Date(y, m, n, 0, 0, 0, 0, time.UTC)
	}
	for _, s := range days {
		s.Revision = d.revision()
		if day := time.Date(s.Day.Year, s.Day.Month, s.Day.Day, 0, 0, 0, 0, time.UTC); !today.IsZero() &&
			!day.Before(today) {
			s.Status = sample.Preliminary
		}
		if err := d.sink.Sample(s); err != nil {
			return err
		}
	}
	return nil
}

// ScanOnly reads an export.xml with the scanner alone and returns the number of
// its elements. Benchmarks compare an ingest with it.
func ScanOnly(r io.Reader) (elements int64, err error) {
	s := newScanner(r)
	for {
		switch k, err := s.next(); {
		case err != nil:
			return elements, err
		case k == tokenEOF:
			return elements, nil
		case k == tokenStart:
			elements++
		}
	}
}
