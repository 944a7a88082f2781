package apple

import (
	"bytes"
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
	values  *texts
	devices *devices
	ids     *simplelru.LRU[string, string] // source name -> short

	rec      record
	learned  []*learned // the likeliest first
	last     *learned   // that rec was filled from
	spare    *learned
	plodding bool // everything goes the long way (tests)

	bp        *bloodPressure
	summaries map[sample.Date]*sample.Sample
	exported  time.Time

	elements int
	told     int64 // bytes reported
	offset   int64 // bytes of earlier entries of the same archive
	failed   error // of the sink, when a component was left out
}

// maxSources bounds the short source names that are cached.
const maxSources = 4096

func newXMLDecoder(ctx context.Context, in adapters.Input, format string, r io.Reader, sink adapters.Sink) *xmlDecoder {
	ids, _ := simplelru.NewLRU[string, string](maxSources, nil) // fails only for a size below one
	return &xmlDecoder{
		ctx: ctx, format: format, sink: sink, sc: newScanner(r), clock: newClock(in.Received),
		names: newInterner(8192), values: newTexts(), devices: newDevices(), ids: ids,
		bp: newBloodPressure(), summaries: map[sample.Date]*sample.Sample{},
	}
}

// fail dresses an error of the scanner; errors of the sink and of the context
// pass as they are.
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
func (d *xmlDecoder) next() (tokenKind, error) {
	kind, err := d.sc.next()
	if err != nil {
		return kind, d.readError(err)
	}
	return kind, d.tick()
}

// tick counts a token and keeps the clockwork going.
func (d *xmlDecoder) tick() error {
	if d.elements++; d.elements&1023 == 0 {
		if err := d.ctx.Err(); err != nil {
			return err
		}
		if at := d.sc.offset(); at-d.told >= progressStep {
			d.told = at
			d.sink.Progress(d.offset + at)
		}
	}
	return nil
}

func (d *xmlDecoder) readError(err error) error {
	if f := d.fail(err); f != err {
		return f
	}
	return &adapters.PayloadError{Format: d.format, Where: d.where(), Rule: "the body cannot be read", Err: err}
}

// decodeXML reads one document, which is received and inflated beside the
// decoding. It says how many bytes it read, and the error of r that it met.
func decodeXML(ctx context.Context, in adapters.Input, format string, r io.Reader, sink adapters.Sink,
	offset int64) (read int64, told, err error) {
	a := readAhead(r)
	d := newXMLDecoder(ctx, in, format, a, sink)
	d.offset = offset
	err = d.run()
	a.close()
	return d.sc.base + int64(d.sc.pos), a.told, err
}

// run reads the whole document.
func (d *xmlDecoder) run() error {
	root := false
	for {
		if d.sc.depth == 1 {
			if err := d.again(); err != nil {
				return err
			}
		}
		kind, err := d.next()
		if err != nil {
			return err
		}
		switch {
		case kind == tokenEOF && !root:
			return &adapters.PayloadError{Format: d.format, Where: "offset 0", Rule: "no HealthData element"}
		case kind == tokenEOF:
			d.sink.Progress(d.offset + d.sc.base + int64(d.sc.pos))
			return d.finish()
		case kind == tokenStart && d.sc.depth == 1:
			if string(d.sc.name) != "HealthData" || root {
				return &adapters.PayloadError{Format: d.format, Where: d.where(),
					Rule: "the root element is not one HealthData"}
			}
			root = true
		case kind == tokenStart:
			if err := d.item(); err != nil {
				return err
			}
		}
	}
}

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
	// The name is the document's: only Apple's own are repeated.
	name := "other"
	switch n := string(d.sc.name); n {
	case "ExportDate", "Me", "ClinicalRecord", "VisionPrescription":
		name = n
	}
	d.sink.Drop(sample.DropIgnored, name, 1)
	return d.skip()
}

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
// must consume the child.
func (d *xmlDecoder) children(each func() error) error {
	for depth := d.sc.depth; ; {
		kind, err := d.next()
		switch {
		case err != nil:
			return err
		case kind == tokenEnd && d.sc.depth < depth:
			return nil
		case kind == tokenStart:
			if err := each(); err != nil {
				return err
			}
		}
	}
}

// correlation of a blood pressure gives its halves to the pairing. The parts
// of any other (food) stand at the top level as well.
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

func (d *xmlDecoder) audiogram() error {
	r := &sample.Reject{
		Reason: sample.ReasonUnmapped, Metric: "HKDataTypeIdentifierAudiogram", Where: d.where(),
		Detail: "audiograms have no row in the metric table", Raw: bytes.Clone(d.sc.tag()),
	}
	err := d.children(func() error {
		if len(r.Raw) < 64<<10 {
			r.Raw = append(r.Raw, d.sc.tag()...)
		}
		return d.skip()
	})
	if err != nil {
		return err
	}
	return d.sink.Reject(r)
}

// activitySummary keeps the last of each day until the end.
func (d *xmlDecoder) activitySummary() error {
	s := &sample.Sample{Metric: "ActivitySummary", Channel: channelXML}
	unit, goal := "kcal", ""
	var odd []string
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
				odd = append(odd, name)
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
		return d.rejectTag(sample.ReasonBadTime, s.Metric, "dateComponents is no day since 1900")
	case len(odd) > 0 && len(s.Components) == 0:
		return d.rejectTag(sample.ReasonBadValue, s.Metric, "a value is not a decimal")
	}
	for _, name := range odd {
		d.leave(s.Metric, name, "the value is not a decimal")
	}
	if d.failed != nil {
		return d.failed
	}
	if goal == "0" {
		// Who has an energy goal has no move goal: the zeros are no measurement.
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

// finish hands out what had to wait for the end.
func (d *xmlDecoder) finish() error {
	if err := d.bp.rest(d.sink.Sample); err != nil {
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
	var today time.Time // the wearer's day of the export, which is not over
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

// ScanOnly runs the bare scanner over an export.xml and counts its elements:
// the floor that a full ingest is measured against.
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
