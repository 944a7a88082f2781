package apple

import (
	"bytes"
	"cmp"
	"context"
	"strconv"
	"strings"
	"time"

	"pulsegate/adapters"
	"pulsegate/adapters/internal/jsonitem"
	"pulsegate/mapping/sample"
)

const (
	// channelFHIR is the channel of HealthKitOnFHIR, which writes percentages as
	// fractions.
	channelFHIR = "healthkit-fhir"
	// channelGrove is the channel of its successor Grove, which writes percentages
	// as percent.
	channelGrove = "grove"

	// healthKitSystem is the CodeSystem of HealthKit's types in phone-made
	// Observations. Systems of enumerations begin with it.
	healthKitSystem = "developer.apple.com/documentation/healthkit"
	// groveIdentifier ends the system of Grove's identifiers.
	groveIdentifier = "/healthkit-object-id"
	// extensionBase precedes the names of the extensions of HealthKitOnFHIR.
	extensionBase = "bdh.stanford.edu/fhir/defs/"

	maxMembers = 256
)

// looksLikeFHIR reports whether head has a resource with a code of HealthKit.
func looksLikeFHIR(head []byte) bool {
	head = bytes.TrimLeft(bytes.TrimPrefix(head, []byte("\xef\xbb\xbf")), " \t\r\n")
	return len(head) > 0 && (head[0] == '{' || head[0] == '[') && bytes.Contains(head, []byte(`"resourceType"`)) &&
		(bytes.Contains(head, []byte(healthKitSystem)) || bytes.Contains(head, []byte(groveIdentifier)))
}

// fhirDecoder reads Observations that an app made of HealthKit samples on the phone.
type fhirDecoder struct{ *phoneDecoder }

func decodeFHIR(ctx context.Context, in adapters.Input, sink adapters.Sink) error {
	d := fhirDecoder{newPhoneDecoder(ctx, in, formatFHIR, channelFHIR, sink)}
	return jsonitem.Payload(formatFHIR, d.bodies())
}

// bodies reads resources, arrays of resources and Bundles, one after the other.
func (d fhirDecoder) bodies() error {
	for n := 0; ; n++ {
		more, err := d.rd.Next()
		switch {
		case err != nil:
			return err
		case !more && n == 0:
			return d.rd.Fail("the body is empty")
		case !more:
			return nil
		}
		if d.rd.Kind() == '[' {
			err = d.list("resource", d.resource)
		} else {
			err = d.single(n)
		}
		if err != nil {
			return err
		}
	}
}

// single reads one resource. The entries of a Bundle are read one by one.
func (d fhirDecoder) single(number int) error {
	doc := jsonitem.Node{Kind: '{'}
	bundle := false
	err := d.rd.Object(func(name string) error {
		if name == "entry" && d.rd.Kind() == '[' {
			bundle = true
			return d.list("entry", func(n *jsonitem.Node) error {
				r := n.Get("resource")
				if r == nil || r.Kind != '{' {
					return missing("the entry has no resource")
				}
				return d.resource(r)
			})
		}
		if name == "entry" && d.rd.Kind() != 'n' {
			return d.rd.Fail("entry is not an array")
		}
		n, err := d.member("a member of the resource")
		if err != nil {
			return err
		}
		if len(doc.Members) >= maxMembers {
			return d.rd.Fail("a resource has more than 256 members")
		}
		doc.Members = append(doc.Members, jsonitem.Member{Name: name, Value: *n})
		return nil
	})
	if err != nil || bundle || doc.Get("resourceType").String() == "Bundle" {
		return err
	}
	if doc.Get("resourceType").String() == "" {
		return d.rd.Fail("the object is not a FHIR resource")
	}
	d.section, d.index = "resource", number
	return d.item(&doc, nil, d.resource)
}

// resource reads one resource.
func (d fhirDecoder) resource(n *jsonitem.Node) error {
	switch typ := n.Get("resourceType").String(); {
	case typ == "":
		return missing("resourceType is not a text")
	case typ != "Observation":
		d.sink.Drop(sample.DropIgnored, "resource", 1)
		return nil
	}
	metric, err := observedType(n)
	if err != nil {
		return err
	}
	id, grove := observationUUID(n)
	r := d.begin(metric, id)
	if grove {
		r.sample.Channel = channelGrove
	}
	if ignored[metric] != "" || isHalf(metric) {
		d.sink.Drop(sample.DropIgnored, metric, 1)
		return nil
	}
	if t, _, ok := n.Get("issued").Time(); ok && d.clock.plausible(t) {
		r.sample.Revision = t.UnixMicro()
	}
	r.sample.KeyValue = id == ""
	if n.Get("status").String() == "entered-in-error" && id != "" {
		r.sample.Status = sample.Retracted
		return d.sink.Sample(&r.sample)
	}
	if err := d.effective(r, n); err != nil {
		return err
	}
	if err := d.observed(r, n); err != nil {
		return err
	}
	d.extensions(r, n)
	// Without the extensions, the Observation names neither device nor source.
	r.sample.Coarse = r.sample.Source.Name == "" && r.sample.Device.Hardware == "" && r.sample.Device.Model == ""
	if d.sinkErr != nil {
		return d.sinkErr
	}
	return d.sink.Sample(&r.sample)
}

// observedType returns the type of HealthKit in the code of an Observation. Its
// LOINC codes are not used: mapping adds its own. A blood pressure and a
// workout have a LOINC code alone.
func observedType(n *jsonitem.Node) (string, error) {
	coding := n.Get("code", "coding")
	if coding == nil {
		return "", missing("the Observation has no code")
	}
	loinc := ""
	for i := range coding.List() {
		c := &coding.List()[i]
		code, system := c.Get("code").String(), c.Get("system").String()
		switch {
		case code == "HKElectrocardiogram":
			return metricECG, nil
		case code == "HKStateOfMind":
			return typeStateOfMind, nil
		case strings.Contains(system, healthKitSystem) && isType(code),
			isType(code) && strings.Contains(code, "TypeIdentifier"):
			return code, nil
		case code == "85354-9":
			loinc = typeBloodPressure
		case code == "73985-4":
			loinc = typeWorkout
		case code == "80453-4":
			loinc = typeFood
		case code == "131328":
			loinc = metricECG
		}
	}
	if loinc == "" {
		return "", &itemError{sample.ReasonUnmapped, "the code names no type of HealthKit"}
	}
	return loinc, nil
}

// observationUUID returns the UUID of the HealthKit sample and whether Grove made
// the Observation.
func observationUUID(n *jsonitem.Node) (id string, grove bool) {
	if list := n.Get("identifier"); list != nil {
		for i := range list.List() {
			x := &list.List()[i]
			grove = grove || strings.HasSuffix(x.Get("system").String(), groveIdentifier)
			for _, s := range []string{x.Get("value").String(), x.Get("id").String()} {
				if u, ok := uuid(s); ok && id == "" {
					id = u
				}
			}
		}
	}
	if u, ok := uuid(n.Get("id").String()); ok && id == "" {
		id = u
	}
	return id, grove
}

// effective sets the times. Before 2023-06-30 HealthKitOnFHIR swapped the start and
// the end of electrocardiograms; HealthKit has no sample that ends before it starts,
// so times in the wrong order are swapped. The offset may be that of the phone when
// it made the Observation, so the instant counts.
func (d fhirDecoder) effective(r *record, n *jsonitem.Node) error {
	start, end := n.Get("effectiveDateTime"), n.Get("effectivePeriod", "end")
	if p := n.Get("effectivePeriod", "start"); p != nil {
		start = p
	}
	if a, _, ok := start.Time(); ok {
		if b, _, ok := end.Time(); ok && b.Before(a) {
			start, end = end, start
		}
	}
	if err := d.span(r, start, end); err != nil {
		return err
	}
	r.sample.Zone = sample.ZoneInstant
	return nil
}

// observed sets the value of r.
func (d fhirDecoder) observed(r *record, n *jsonitem.Node) error {
	metric := r.sample.Metric
	switch {
	case metric == typeBloodPressure:
		return d.bloodPressure(r, n)
	case metric == metricECG:
		return d.ecg(r, n)
	case metric == typeStateOfMind:
		return d.stateOfMind(r, n)
	case metric == typeWorkout:
		name := valueCode(n)
		if name == "" {
			return missing("the workout has no activity")
		}
		r.sample.Value = code(activityNamed(name))
	case strings.HasPrefix(metric, prefixCategory):
		return d.observedCategory(r, n)
	case n.Get("valueQuantity") != nil:
		num, unit, err := d.fhirQuantity(n.Get("valueQuantity"))
		if err != nil {
			return err
		}
		r.sample.Value = number(num, unit)
	case n.Get("valueInteger") != nil:
		num, err := d.number(n.Get("valueInteger"), "valueInteger")
		if err != nil {
			return err
		}
		r.sample.Value = number(num, "score")
	default:
		return missing("the Observation has no value")
	}
	return nil
}

// observedCategory sets the value of a category. Its code is the integer of the
// enumeration. A category without values repeats its type as a string.
func (d fhirDecoder) observedCategory(r *record, n *jsonitem.Node) error {
	if n.Get("valueCodeableConcept") == nil {
		if enum, known := enumOf[strings.TrimPrefix(r.sample.Metric, prefixCategory)]; known && enum != "" {
			return missing("the category has no value")
		}
		return nil
	}
	c := valueCode(n)
	i, err := strconv.Atoi(c)
	if err != nil { // some apps write the name
		name, ok := categoryValueNamed(r.sample.Metric, strings.TrimPrefix(c, "HKCategoryValue"))
		if !ok {
			return badValue("the category has no such value")
		}
		r.sample.Value = code(name)
		return nil
	}
	name, ok := categoryName(r.sample.Metric, i)
	if !ok {
		return badValue("the category has no such value")
	}
	if name != "" {
		r.sample.Value = code(name)
	}
	return nil
}

// valueCode returns the first code of valueCodeableConcept, or else its text or
// valueString.
func valueCode(n *jsonitem.Node) string {
	if list := n.Get("valueCodeableConcept", "coding"); list != nil && len(list.List()) > 0 {
		if c := list.List()[0].Get("code"); c != nil {
			if c.Kind == '"' {
				return c.Text
			}
			return integer(c)
		}
	}
	return cmp.Or(n.Get("valueCodeableConcept", "text").String(), n.Get("valueString").String())
}

// fhirUnits maps units that apps write to the spellings of an export. The names of
// counts are texts for people.
var fhirUnits = map[string]string{
	"hertz": "Hz", "dB(SPL)": "dBASPL", "dB(HL)": "dBHL", "kcal/hr/kg": "kcal/hr·kg", "r/min": "count/min",
	"beats/minute": "count/min", "breaths/minute": "count/min", "steps": "count", "flights": "count",
	"wheelchair pushes": "count", "strokes": "count", "falls": "count", "beverages": "count", "effort": "count",
	"watt": "W", "siemens": "S", "meters": "m", "lbs": "lb", "C": "degC", "kg/m^2": "kg/m2", "l": "L", "ug": "mcg",
	"{steps}": "count", "{flights}": "count", "{pushes}": "count", "{strokes}": "count", "{falls}": "count",
	"{drinks}": "count", "{puff}": "count", "{score}": "count", "{uvindex}": "count", "{count}": "count",
}

// fhirQuantity reads a Quantity. The code of the unit counts, or else its text.
func (d fhirDecoder) fhirQuantity(q *jsonitem.Node) (num, unit string, err error) {
	num, err = d.number(q.Get("value"), "the value")
	if err == nil && num == "" {
		err = missing("the quantity has no value")
	}
	unit = cmp.Or(q.Get("code").String(), q.Get("unit").String())
	return num, cmp.Or(fhirUnits[unit], unit), err
}

// components calls read with each component and the code of HealthKit or else LOINC
// or MDC in its code.
func components(n *jsonitem.Node, read func(name string, c *jsonitem.Node) error) error {
	list := n.Get("component")
	if list == nil {
		return nil
	}
	for i := range list.List() {
		c := &list.List()[i]
		name, coding := "", c.Get("code", "coding")
		for j := 0; coding != nil && j < len(coding.List()); j++ {
			x := &coding.List()[j]
			if name == "" || strings.Contains(x.Get("system").String(), healthKitSystem) {
				name = x.Get("code").String()
			}
		}
		if err := read(name, c); err != nil {
			return err
		}
	}
	return nil
}

func (d fhirDecoder) bloodPressure(r *record, n *jsonitem.Node) error {
	err := components(n, func(name string, c *jsonitem.Node) error {
		half := map[string]string{typeSystolic: "systolic", "8480-6": "systolic", typeDiastolic: "diastolic",
			"8462-4": "diastolic"}[name]
		if half == "" {
			return nil
		}
		num, unit, err := d.fhirQuantity(c.Get("valueQuantity"))
		r.component(half, number(num, unit))
		return err
	})
	if err == nil && len(r.sample.Components) < 2 {
		err = missing("a blood pressure needs both halves")
	}
	return err
}

// ecg reads an electrocardiogram. Its voltages are in several components of ten
// seconds each.
func (d fhirDecoder) ecg(r *record, n *jsonitem.Node) error {
	var data []string
	var series *sample.SeriesData
	err := components(n, func(name string, c *jsonitem.Node) error {
		switch {
		case c.Get("valueSampledData") != nil:
			s, err := d.sampled(c.Get("valueSampledData"))
			if err != nil {
				return err
			}
			if series != nil && (series.Unit != s.Unit || series.Factor != s.Factor || series.Origin != s.Origin) {
				return badValue("the parts of the series differ in unit, origin or factor")
			}
			series, data = s, append(data, s.Data)
		case name == "HKElectrocardiogram.Classification":
			classification(r, cmp.Or(c.Get("valueCodeableConcept", "text").String(), displayOf(c), valueCode(c)))
		case name == "HKElectrocardiogram.SymptomsStatus":
			textPart(r, "symptoms", cmp.Or(displayOf(c), valueCode(c)))
		case name == "HKElectrocardiogram.SamplingFrequency":
			d.part(r, "samplingFrequency", c.Get("valueQuantity", "value"), "Hz")
		case name == "HKQuantityTypeIdentifierHeartRate", name == "8867-4":
			d.part(r, "averageHeartRate", c.Get("valueQuantity", "value"), "count/min")
		}
		return nil
	})
	switch {
	case err != nil:
		return err
	case series == nil:
		return missing("no voltages")
	}
	series.Data = strings.Join(data, " ")
	points := 1 + strings.Count(series.Data, " ")
	if points > maxVoltages {
		return &itemError{sample.ReasonTooLarge, "more than 262144 voltages"}
	}
	r.sample.Value = sample.Value{Kind: sample.Series, Series: series}
	if r.sample.End.IsZero() {
		r.sample.End = r.sample.Start.Add(time.Duration(points) * series.Period)
	}
	return nil
}

// displayOf returns the display of the first coding of valueCodeableConcept.
func displayOf(c *jsonitem.Node) string {
	if list := c.Get("valueCodeableConcept", "coding"); list != nil && len(list.List()) > 0 {
		return list.List()[0].Get("display").String()
	}
	return ""
}

// secondsPeriod is the period in milliseconds below which it must be in seconds:
// before 2025-09-16 HealthKitOnFHIR wrote 0.00195 for 1.95 ms. No electrocardiogram
// is sampled at more than 10 kHz.
const secondsPeriod = 0.1

// sampled reads a SampledData of voltages.
func (d fhirDecoder) sampled(s *jsonitem.Node) (*sample.SeriesData, error) {
	num, err := d.number(s.Get("period"), "the period")
	ms := jsonitem.Float(num)
	if err == nil && ms < secondsPeriod {
		ms *= 1000
	}
	if err != nil || ms < secondsPeriod || ms > 1000 {
		return nil, badValue("the period is not that of an electrocardiogram")
	}
	unit, ok := ecgUnit(cmp.Or(s.Get("origin", "code").String(), s.Get("origin", "unit").String()))
	if !ok {
		return nil, &itemError{sample.ReasonBadUnit, "the unit is neither microvolt nor millivolt"}
	}
	out := &sample.SeriesData{Period: time.Duration(ms * float64(time.Millisecond)), Unit: unit}
	for _, k := range []struct {
		name, standard string
		into           *string
	}{{"factor", "1", &out.Factor}, {"origin", "0", &out.Origin}} {
		v := s.Get(k.name)
		if k.name == "origin" {
			v = s.Get("origin", "value")
		}
		if num, err = d.number(v, k.name); err != nil {
			return nil, err
		}
		if num != "" && jsonitem.Float(num) != jsonitem.Float(k.standard) {
			*k.into = num
		}
	}
	points := strings.Fields(s.Get("data").String())
	if len(points) == 0 {
		return nil, missing("no voltages")
	}
	for i, p := range points {
		if p == "E" || p == "U" || p == "L" {
			continue
		}
		num, ok := decimal([]byte(p))
		if !ok {
			return nil, badValue("a voltage is not a decimal")
		}
		if points[i], ok = plainNotation(string(num)); !ok {
			return nil, badValue("a voltage is not a decimal")
		}
	}
	out.Data = strings.Join(points, " ")
	return out, nil
}

// stateOfMind reads the components of a state of mind.
func (d fhirDecoder) stateOfMind(r *record, n *jsonitem.Node) error {
	lists := map[string][]string{}
	err := components(n, func(name string, c *jsonitem.Node) error {
		word := cmp.Or(valueCode(c), displayOf(c))
		switch strings.TrimPrefix(name, "HKStateOfMind") {
		case "Kind":
			codePart(r, "kind", mindKind(word))
		case "Valence":
			num, err := d.number(cmp.Or(c.Get("valueQuantity", "value"), c.Get("valueString"),
				c.Get("valueDecimal")), "valence")
			if err == nil && num != "" {
				r.sample.Value = number(num, "")
			}
			return err
		case "ValenceClassification":
			d.part(r, "valenceClassification", cmp.Or(c.Get("valueInteger"), c.Get("valueQuantity", "value")), "")
		case "Label":
			lists["labels"] = append(lists["labels"], word)
		case "Association":
			lists["associations"] = append(lists["associations"], word)
		}
		return nil
	})
	for _, name := range []string{"labels", "associations"} {
		textPart(r, name, strings.Join(lists[name], ", "))
	}
	if err == nil && r.sample.Value.Kind == sample.None {
		err = missing("no valence")
	}
	return err
}

// extensions reads the source, the device and the metadata.
func (d fhirDecoder) extensions(r *record, n *jsonitem.Node) {
	list := n.Get("extension")
	if list == nil {
		return
	}
	for i := range list.List() {
		x := &list.List()[i]
		_, name, ok := strings.Cut(x.Get("url").String(), extensionBase)
		if !ok {
			continue
		}
		leaves := map[string]string{}
		order := leavesOf(x, leaves, nil, 0)
		switch name, _, _ = strings.Cut(name, "/"); name {
		case "sourceDevice":
			r.sample.Device = sample.Device{
				Name: leaves["name"], Manufacturer: leaves["manufacturer"], Model: leaves["model"],
				Hardware: leaves["hardwareVersion"], Firmware: leaves["firmwareVersion"],
				Software: leaves["softwareVersion"],
				Kind:     deviceType(leaves["model"] + " " + leaves["name"]),
			}
		case "sourceRevision":
			r.sample.Source = sample.Source{Name: leaves["name"], Version: leaves["version"]}
		case "metadata":
			for _, key := range order {
				d.entries.add(r, []byte(key), []byte(leaves[key]))
			}
		}
	}
}

// leavesOf collects the values of nested extensions by the last part of their URLs,
// and returns their names in order.
func leavesOf(x *jsonitem.Node, leaves map[string]string, order []string, depth int) []string {
	if list := x.Get("extension"); list != nil && depth < 4 {
		for i := range list.List() {
			order = leavesOf(&list.List()[i], leaves, order, depth+1)
		}
	}
	url := x.Get("url").String()
	key := url[strings.LastIndexByte(url, '/')+1:]
	if _, twice := leaves[key]; twice || key == "" {
		return order
	}
	for i := range x.Members {
		m := &x.Members[i]
		if !strings.HasPrefix(m.Name, "value") {
			continue
		}
		if v, ok := metadataText(&m.Value); ok {
			leaves[key], order = v, append(order, key)
		}
	}
	return order
}
