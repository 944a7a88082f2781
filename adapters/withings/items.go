package withings

import (
	"strconv"
	"strings"

	"pulsegate/adapters/internal/jsonitem"
	"pulsegate/adapters/internal/listing"
	"pulsegate/mapping/sample"
)

const pressure = "measure.blood_pressure"

// measures lists the types of measures with their metric and unit. Types 9 and 10 are
// components of the blood pressure.
var measures = map[string]listing.Field{
	"1": {Name: "weight", Unit: "kg"}, "4": {Name: "height", Unit: "m"}, "5": {Name: "fat_free_mass", Unit: "kg"},
	"6": {Name: "fat_ratio", Unit: "%"}, "8": {Name: "fat_mass", Unit: "kg"},
	"9": {Name: "diastole", Unit: "mmHg"}, "10": {Name: "systole", Unit: "mmHg"},
	"11": {Name: "heart_pulse", Unit: "bpm"}, "12": {Name: "temperature", Unit: "degC"},
	"54": {Name: "spo2", Unit: "%"}, "71": {Name: "body_temperature", Unit: "degC"},
	"73": {Name: "skin_temperature", Unit: "degC"}, "76": {Name: "muscle_mass", Unit: "kg"},
	"77": {Name: "hydration", Unit: "kg"}, "88": {Name: "bone_mass", Unit: "kg"},
	"91": {Name: "pulse_wave_velocity", Unit: "m/s"},
}

// group reads a group of measures, which were taken at the same time.
func group(it *listing.Item) (err error) {
	category, _ := it.Node.Get("category").Decimal()
	attrib, _ := it.Node.Get("attrib").Decimal()
	switch {
	case category == "2":
		it.Drop(sample.DropIgnored, "measure")
		return nil
	case attrib == "1":
		it.Drop(sample.DropLowQuality, "measure")
		return nil
	case !identify(it, "grpid"):
		return it.Reject(sample.ReasonMissing, "measure", "", "grpid is required")
	}
	var ok bool
	if it.Base.Start, ok = it.At(it.Node.Get("date"), it.Fact("timezone")); !ok {
		return it.Reject(sample.ReasonBadTime, "measure", "", "date is not a time in Unix seconds")
	}
	it.Base.UserEntered = attrib == "2" || attrib == "4"
	list := it.Node.Get("measures")
	if list == nil {
		return nil
	}
	var parts []sample.Component
	for i := range list.List() {
		if err = measure(it, &list.List()[i], &parts); err != nil {
			return err
		}
	}
	return it.Emit(pressure, sample.Value{}, parts...)
}

// measure reads one measure. It adds a component of the blood pressure to parts.
func measure(it *listing.Item, n *jsonitem.Node, parts *[]sample.Component) error {
	typ, _ := n.Get("type").Decimal()
	m, known := measures[typ]
	metric, component := "measure."+m.Name, ""
	if typ == "9" || typ == "10" {
		metric, component = pressure, m.Name
	}
	num, ok := scaled(n.Get("value"), n.Get("unit"))
	v := sample.Value{Kind: sample.Number, Num: num, Unit: m.Unit}
	switch {
	case !known:
		return it.Reject(sample.ReasonUnmapped, "measure."+typ, "", "this type of measure is not supported")
	case !ok:
		return it.Reject(sample.ReasonBadValue, metric, component, "value * 10^unit is not a number")
	case component != "":
		*parts = append(*parts, sample.Component{Name: component, Value: v})
		return nil
	}
	return it.Emit(metric, v)
}

// scaled returns value * 10^unit as an exact decimal.
func scaled(value, unit *jsonitem.Node) (string, bool) {
	digits, state := value.Decimal()
	power, _ := unit.Decimal()
	exp, err := strconv.Atoi(power)
	if state != jsonitem.Given || err != nil || exp < -12 || exp > 6 || strings.ContainsAny(digits, ".eE") {
		return "", false
	}
	digits, negative := strings.CutPrefix(digits, "-")
	switch {
	case exp < 0:
		digits = strings.Repeat("0", max(0, 1-exp-len(digits))) + digits
		digits = digits[:len(digits)+exp] + "." + digits[len(digits)+exp:]
	case digits != "0":
		digits += strings.Repeat("0", exp)
	}
	if negative {
		digits = "-" + digits
	}
	return digits, true
}

// night reads the summary of a night or a nap.
func night(it *listing.Item) error {
	if !identify(it, "id") {
		return it.Reject(sample.ReasonMissing, "sleep", "", "id is required")
	}
	zone := it.Node.Get("timezone")
	start, ok := it.At(it.Node.Get("startdate"), zone)
	end, ended := it.At(it.Node.Get("enddate"), zone)
	if !ok || !ended || !start.Before(end) {
		return it.Reject(sample.ReasonBadTime, "sleep", "", "startdate and enddate are not a period")
	}
	it.Base.Start, it.Base.End = start, end
	data := it.Node.Get("data")
	err := it.Panel(data, "sleep", listing.Field{Name: "total_sleep_time", Unit: "s"}, []listing.Field{
		{Name: "deepsleepduration", Unit: "s"}, {Name: "lightsleepduration", Unit: "s"},
		{Name: "remsleepduration", Unit: "s"}, {Name: "wakeupduration", Unit: "s"}, {Name: "sleep_latency", Unit: "s"},
		{Name: "total_timeinbed", Unit: "s"}, {Name: "wakeupcount", Unit: "count"}}...)
	if err != nil {
		return err
	}
	return it.Each(data, "sleep.", []listing.Field{{Name: "hr_average", Unit: "bpm"}, {Name: "hr_min", Unit: "bpm"},
		{Name: "rr_average", Unit: "breaths/min"}, {Name: "sleep_score", Unit: "score"}}...)
}

// day reads the totals of a day, which has no id.
func day(it *listing.Item) error {
	identify(it, "")
	brand, _ := it.Node.Get("brand").Decimal()
	switch {
	case brand == "18":
		it.Drop(sample.DropIgnored, "activity")
		return nil
	case !it.OnDay(it.Node.Get("date"), it.Node.Get("timezone")):
		return it.Reject(sample.ReasonBadTime, "activity", "", "date is not a calendar day")
	}
	err := it.Panel(it.Node, "activity.time", listing.Field{}, []listing.Field{
		{Name: "soft", Unit: "s"}, {Name: "moderate", Unit: "s"}, {Name: "intense", Unit: "s"}}...)
	if err != nil {
		return err
	}
	return it.Each(it.Node, "activity.", []listing.Field{{Name: "steps", Unit: "count"}, {Name: "distance", Unit: "m"},
		{Name: "elevation", Unit: "count"}, {Name: "calories", Unit: "kcal"}, {Name: "totalcalories", Unit: "kcal"}}...)
}
