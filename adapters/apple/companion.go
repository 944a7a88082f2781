package apple

import (
	"bytes"
	"context"
	_ "embed"
	"math"
	"strconv"
	"strings"
	"time"

	"pulsegate/adapters"
	"pulsegate/adapters/internal/jsonitem"
	"pulsegate/mapping/sample"
)

const (
	channelCompanion = "companion"
	// companionMark is the value of the member format of every batch.
	companionMark    = "pulsegate-companion"
	companionVersion = "1"
	// maxVoltages bounds the points of an electrocardiogram, as in an ECG file.
	maxVoltages = 1 << 18
	// maxPoints bounds the frequencies of an audiogram.
	maxPoints = 64
)

// CompanionSchema is the JSON Schema of the companion format, for authors of apps.
//
//go:embed companion.schema.json
var CompanionSchema []byte

// looksLikeCompanion reports whether head has the mark of a companion batch.
func looksLikeCompanion(head []byte) bool {
	return bytes.Contains(head, []byte(`"`+companionMark+`"`)) &&
		bytes.HasPrefix(bytes.TrimLeft(head, " \t\r\n"), []byte("{"))
}

// companion decodes one batch of the companion app.
type companion struct {
	*phoneDecoder
	format, version bool
	created         time.Time
}

func decodeCompanion(ctx context.Context, in adapters.Input, sink adapters.Sink) error {
	c := &companion{phoneDecoder: newPhoneDecoder(ctx, in, formatCompanion, channelCompanion, sink)}
	return jsonitem.Payload(formatCompanion, c.body())
}

// body reads the batch: one object.
func (c *companion) body() error {
	var early header
	more, err := c.rd.Next()
	if err != nil {
		return err
	}
	if !more {
		return c.rd.Fail("the body is empty")
	}
	err = c.rd.Object(func(name string) error {
		switch {
		case name != "samples" && name != "deleted":
			return c.header(name)
		case !c.ready():
			return early.keep(c.phoneDecoder, name)
		case name == "samples":
			return c.list(name, c.sample)
		}
		return c.list(name, c.deletion)
	})
	if err != nil {
		return err
	}
	if !c.ready() {
		return c.rd.Fail(`the batch lacks format "` + companionMark + `", version 1 or created`)
	}
	for i, n := range early.early {
		read := c.sample
		if early.names[i] == "deleted" {
			read = c.deletion
		}
		if err := c.nodes(early.names[i], n, read); err != nil {
			return err
		}
	}
	if more, err = c.rd.Next(); err == nil && more {
		err = c.rd.Fail("more than one JSON value")
	}
	return err
}

// ready reports whether the header has been read.
func (c *companion) ready() bool { return c.format && c.version && !c.created.IsZero() }

// header reads one member of the header.
func (c *companion) header(name string) error {
	switch name {
	case "format", "version", "created":
	default:
		return c.rd.Skip()
	}
	n, err := c.member(name)
	if err != nil {
		return err
	}
	switch name {
	case "format":
		if c.format = n.String() == companionMark; !c.format {
			return c.rd.Fail(`format is not "` + companionMark + `"`)
		}
	case "version":
		if c.version = n.Text == companionVersion; !c.version {
			return c.rd.Fail("this version of the format is unknown")
		}
	case "created":
		t, zone, ok := n.Time()
		if !ok || zone == sample.ZoneFloating || !c.clock.plausible(t) {
			return c.rd.Fail("created is not an instant, or it is in the future")
		}
		c.created = t
	}
	return nil
}

// identity reads the type and the UUID of an item.
func (c *companion) identity(n *jsonitem.Node) (metric, id string, err error) {
	if metric, err = typeOf(n.Get("type")); err != nil {
		return "", "", err
	}
	c.metric = metric
	id, ok := uuid(n.Get("uuid").String())
	if !ok {
		return "", "", missing("uuid is not a UUID")
	}
	return metric, id, nil
}

// leaveOut counts a sample or a deletion of a type that is left out, and reports
// whether there was one. The halves of a blood pressure are parts of a correlation.
func (c *companion) leaveOut(metric string) bool {
	if ignored[metric] == "" && !isHalf(metric) {
		return false
	}
	c.sink.Drop(sample.DropIgnored, metric, 1)
	return true
}

// deletion reads one deleted object.
func (c *companion) deletion(n *jsonitem.Node) error {
	metric, id, err := c.identity(n)
	if err != nil || c.leaveOut(metric) {
		return err
	}
	r := c.begin(metric, id)
	r.sample.Status = sample.Retracted
	// A deletion follows the samples of its batch.
	r.sample.Revision = c.created.UnixMicro() + 1
	if err := c.sink.Sample(&r.sample); err != nil || metric != typeWorkout {
		return err
	}
	location := sample.Sample{Metric: metricRoute, VendorID: id + routeSuffix, Status: sample.Retracted,
		Revision: r.sample.Revision, Channel: r.sample.Channel}
	return c.sink.Sample(&location)
}

// companionValues maps the types that are neither quantities nor categories to the
// readers of their values.
var companionValues = map[string]func(*companion, *record, *jsonitem.Node) error{
	typeBloodPressure: (*companion).bloodPressure, typeWorkout: (*companion).workout, metricECG: (*companion).ecg,
	typeAudiogram: (*companion).audiogram, typeStateOfMind: (*companion).stateOfMind, typeDose: (*companion).dose,
	typePHQ9: (*companion).score, typeGAD7: (*companion).score,
}

// sample reads one sample.
func (c *companion) sample(n *jsonitem.Node) error {
	metric, id, err := c.identity(n)
	if err != nil || c.leaveOut(metric) {
		return err
	}
	r := c.begin(metric, id)
	r.sample.Revision = c.created.UnixMicro()
	if err := c.span(r, n.Get("start"), n.Get("end")); err != nil {
		return err
	}
	c.origin(r, n.Get("source"), n.Get("device"))
	if zone := n.Get("timeZone").String(); zone != "" {
		c.entries.add(r, []byte("HKTimeZone"), []byte(zone))
	}
	switch read := companionValues[metric]; {
	case read != nil:
		err = read(c, r, n)
	case strings.HasPrefix(metric, prefixQuantity):
		err = c.quantity(r, n)
	case strings.HasPrefix(metric, prefixCategory):
		err = c.category(r, n.Get("value"))
	default:
		err = &itemError{sample.ReasonUnmapped, "the type is unknown"}
	}
	if err != nil {
		return err
	}
	c.metadata(r, n.Get("metadata"))
	if c.sinkErr != nil {
		return c.sinkErr
	}
	if err := c.sink.Sample(&r.sample); err != nil || metric != typeWorkout {
		return err
	}
	total := routesOf(n.Get("workout"))
	if location, ok := total.locationOf(&r.sample); ok {
		return c.sink.Sample(&location)
	}
	return nil
}

// origin reads the source and the device.
func (c *companion) origin(r *record, source, device *jsonitem.Node) {
	r.sample.Source = sample.Source{Name: source.Get("name").String(), Version: source.Get("version").String()}
	r.sample.Device = sample.Device{
		Name: device.Get("name").String(), Manufacturer: device.Get("manufacturer").String(),
		Model: device.Get("model").String(), Hardware: device.Get("hardware").String(),
		Firmware: device.Get("firmware").String(), Software: device.Get("software").String(),
	}
	if udi := device.Get("udi").String(); udi != "" {
		r.sample.Device.Facts = []sample.Fact{{Name: "udi", Value: udi}}
	}
	r.sample.Device.Kind = deviceType(r.sample.Device.Model + " " + r.sample.Device.Name)
}

// quantity reads value and unit. HealthKit's percent is ambiguous on the wire, so a
// percentage must say whether it is a fraction or a percent.
func (c *companion) quantity(r *record, n *jsonitem.Node) error {
	num, err := c.number(n.Get("value"), "value")
	switch {
	case err != nil:
		return err
	case num == "":
		return missing("value is missing")
	case n.Get("unit").String() == "%":
		return &itemError{sample.ReasonBadUnit, `the unit must be "fraction" or "percent" instead of "%"`}
	}
	r.sample.Value = number(num, n.Get("unit").String())
	return nil
}

// score reads the score of a questionnaire.
func (c *companion) score(r *record, n *jsonitem.Node) error {
	num, err := c.number(n.Get("value"), "value")
	if err != nil || num == "" {
		return missing("value is not a number")
	}
	r.sample.Value = number(num, "score")
	return nil
}

// bloodPressure reads the two halves of a correlation.
func (c *companion) bloodPressure(r *record, n *jsonitem.Node) error {
	for _, half := range []string{"systolic", "diastolic"} {
		num, err := c.number(n.Get(half, "value"), half)
		if err != nil {
			return err
		}
		if num == "" {
			return missing(half + " is missing")
		}
		r.component(half, number(num, n.Get(half, "unit").String()))
	}
	return nil
}

// workout reads the activity, the duration, the statistics and the summaries of the
// routes.
func (c *companion) workout(r *record, n *jsonitem.Node) error {
	w := n.Get("workout")
	i, err := strconv.Atoi(integer(w.Get("activity")))
	activity := activityOf(i)
	if err != nil || activity == "" {
		return badValue("activity is not an integer of HKWorkoutActivityType")
	}
	r.sample.Value = code(activity)
	c.part(r, "duration", w.Get("duration"), "s")
	if list := w.Get("statistics"); list != nil {
		for i := range list.List() {
			c.statistic(r, &list.List()[i])
		}
	}
	total := routesOf(w)
	total.parts(r)
	return nil
}

// routesOf reads the summaries of the routes of a workout.
func routesOf(w *jsonitem.Node) (total route) {
	list := w.Get("routes")
	if list == nil {
		return total
	}
	for i := range list.List() {
		s := &list.List()[i]
		total.add(route{distance: floatOf(s.Get("distance")), ascent: floatOf(s.Get("ascent")),
			descent: floatOf(s.Get("descent")), duration: floatOf(s.Get("duration")), points: 2,
			climbs: s.Get("ascent") != nil || s.Get("descent") != nil, area: areaOf(s.Get("location"))})
	}
	return total
}

// areaOf reads the location of a route, which the app sends only if the patient has
// agreed to that.
func areaOf(n *jsonitem.Node) area {
	out := area{known: true}
	for _, c := range []struct {
		name string
		into *position
	}{{"start", &out.start}, {"end", &out.end}, {"southWest", &out.southWest}, {"northEast", &out.northEast}} {
		list := n.Get(c.name)
		if list == nil || len(list.List()) != 2 {
			return area{}
		}
		for i, limit := range []float64{90, 180} {
			text := integer(&list.List()[i])
			f, err := strconv.ParseFloat(text, 64)
			if err != nil || math.Abs(f) > limit {
				return area{}
			}
			c.into[i] = f
		}
	}
	return out
}

// statistic reads one element of a workout's statistics.
func (c *companion) statistic(r *record, s *jsonitem.Node) {
	typ := s.Get("type").String()
	wanted := statisticsOf(typ)
	if wanted == nil {
		c.sink.Drop(sample.DropIgnored, "WorkoutStatistics", 1)
	}
	for _, w := range wanted {
		c.part(r, w[0], s.Get(w[1]), s.Get("unit").String())
	}
}

// integer returns a number as written, or "".
func integer(n *jsonitem.Node) string {
	num, state := n.Decimal()
	if state != jsonitem.Given {
		return ""
	}
	return num
}

// floatOf returns a number as a float, or 0.
func floatOf(n *jsonitem.Node) float64 {
	num, state := n.Decimal()
	if state != jsonitem.Given {
		return 0
	}
	return jsonitem.Float(num)
}

// classifications maps HKElectrocardiogram.Classification to the words of the Health
// app.
var classifications = map[string]string{
	"sinusrhythm": "Sinus Rhythm", "atrialfibrillation": "Atrial Fibrillation",
	"inconclusivelowheartrate": "Low Heart Rate", "inconclusivehighheartrate": "High Heart Rate",
	"inconclusivepoorreading": "Poor Recording", "inconclusiveother": "Inconclusive",
	"inconclusive": "Inconclusive", "lowheartrate": "Low Heart Rate", "highheartrate": "High Heart Rate",
	"poorrecording": "Poor Recording", "unrecognized": "Unrecognized",
}

// classification adds the classification of an electrocardiogram.
func classification(r *record, name string) {
	if word := classifications[squash(name)]; word != "" {
		name = word
	}
	if squash(name) != "notset" {
		textPart(r, "classification", name)
	}
}

// ecg reads an electrocardiogram.
func (c *companion) ecg(r *record, n *jsonitem.Node) error {
	e := n.Get("electrocardiogram")
	freq, err := c.number(e.Get("samplingFrequency"), "samplingFrequency")
	if err != nil {
		return err
	}
	rate, _ := sampleRate(freq)
	unit, ok := ecgUnit(e.Get("unit").String())
	switch list := e.Get("voltages"); {
	case rate == 0:
		return missing("samplingFrequency is not between 1 and 100000 Hz")
	case !ok:
		return &itemError{sample.ReasonBadUnit, "the unit is neither microvolt nor millivolt"}
	case list == nil || len(list.List()) == 0:
		return missing("no voltages")
	case len(list.List()) > maxVoltages:
		return &itemError{sample.ReasonTooLarge, "more than 262144 voltages"}
	}
	data, err := c.voltages(e.Get("voltages"))
	if err != nil {
		return err
	}
	series := &sample.SeriesData{Period: periodOf(rate), Unit: unit, Data: data}
	r.sample.Value = sample.Value{Kind: sample.Series, Series: series}
	if r.sample.End.IsZero() {
		r.sample.End = r.sample.Start.Add(time.Duration(len(e.Get("voltages").List())) * series.Period)
	}
	classification(r, e.Get("classification").String())
	textPart(r, "symptoms", e.Get("symptoms").String())
	c.part(r, "averageHeartRate", e.Get("averageHeartRate"), "count/min")
	r.component("samplingFrequency", number(freq, "Hz"))
	return nil
}

// voltages returns voltages as the data of a series. Null is a voltage that was not
// measured.
func (c *companion) voltages(list *jsonitem.Node) (string, error) {
	var b strings.Builder
	for i := range list.List() {
		if i > 0 {
			b.WriteByte(' ')
		}
		num, state := list.List()[i].Decimal()
		out, ok := plainNotation(num)
		switch {
		case state == jsonitem.Absent:
			out = "E"
		case state != jsonitem.Given || !ok:
			return "", badValue("a voltage is not a decimal")
		}
		b.WriteString(out)
	}
	return b.String(), nil
}

// audiogram reads the hearing thresholds of both ears by frequency.
func (c *companion) audiogram(r *record, n *jsonitem.Node) error {
	list := n.Get("sensitivityPoints")
	if list == nil || len(list.List()) == 0 || len(list.List()) > maxPoints {
		return missing("sensitivityPoints has no points or more than 64")
	}
	for i := range list.List() {
		p := &list.List()[i]
		freq, err := c.number(p.Get("frequency"), "frequency")
		if err != nil || freq == "" {
			return missing("a point has no frequency")
		}
		for _, ear := range []string{"left", "right"} {
			c.part(r, earPart(ear, freq), p.Get(ear), "dBHL")
			if p.Get(ear + "Masked").IsTrue() {
				r.component(earPart(ear, freq)+"Masked", sample.Value{Kind: sample.Boolean, Bool: true})
			}
		}
	}
	if len(r.sample.Components) == 0 {
		return missing("no hearing threshold")
	}
	return nil
}

// earPart returns the name of the component for the threshold of an ear at a
// frequency in hertz: "left1000Hz".
func earPart(ear, frequency string) string {
	if f := jsonitem.Float(frequency); f == float64(int(f)) {
		frequency = strconv.Itoa(int(f))
	}
	return ear + frequency + "Hz"
}

// stateOfMind reads a state of mind. Its words are those of HealthKit.
func (c *companion) stateOfMind(r *record, n *jsonitem.Node) error {
	m := n.Get("stateOfMind")
	valence, err := c.number(m.Get("valence"), "valence")
	if err != nil || valence == "" {
		return missing("valence is not a number")
	}
	r.sample.Value = number(valence, "")
	codePart(r, "kind", mindKind(m.Get("kind").String()))
	words(r, "labels", m.Get("labels"))
	words(r, "associations", m.Get("associations"))
	c.part(r, "valenceClassification", m.Get("valenceClassification"), "")
	return nil
}

// mindKind returns a kind of a state of mind as HealthKit names it.
func mindKind(s string) string {
	switch squash(s) {
	case "momentaryemotion":
		return "momentaryEmotion"
	case "dailymood":
		return "dailyMood"
	}
	return s
}

// dose reads a dose of a medication.
func (c *companion) dose(r *record, n *jsonitem.Node) error {
	m := n.Get("medication")
	name := m.Get("name").String()
	if name == "" {
		return missing("the medication has no name")
	}
	r.sample.Value = text(name)
	codePart(r, "status", m.Get("status").String())
	c.part(r, "dose", m.Get("dose"), m.Get("unit").String())
	codePart(r, "rxnorm", m.Get("rxnorm").String())
	codePart(r, "form", m.Get("form").String())
	return nil
}
