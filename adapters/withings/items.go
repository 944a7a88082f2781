package withings

import (
	"strconv"
	"strings"

	"pulsegate/adapters/internal/jsonitem"
	"pulsegate/mapping/sample"
)

// measures lists the types of measures with their metric and unit. Types 9 and 10 are
// parts of the blood pressure.
var measures = map[string][2]string{
	"1": {"weight", "kg"}, "4": {"height", "m"}, "5": {"fat_free_mass", "kg"}, "6": {"fat_ratio", "%"},
	"8": {"fat_mass", "kg"}, "9": {"diastole", "mmHg"}, "10": {"systole", "mmHg"}, "11": {"heart_pulse", "bpm"},
	"12": {"temperature", "degC"}, "54": {"spo2", "%"}, "71": {"body_temperature", "degC"},
	"73": {"skin_temperature", "degC"}, "76": {"muscle_mass", "kg"}, "77": {"hydration", "kg"},
	"88": {"bone_mass", "kg"}, "91": {"pulse_wave_velocity", "m/s"},
}

// group reads a group of measures, which were taken at the same time.
func (it *item) group() (err error) {
	category, _ := it.node.Get("category").Decimal()
	attrib, _ := it.node.Get("attrib").Decimal()
	switch {
	case category == "2":
		it.sink.Drop(sample.DropIgnored, "measure", 1)
		return nil
	case attrib == "1":
		it.sink.Drop(sample.DropLowQuality, "measure", 1)
		return nil
	case !it.identify("grpid"):
		return it.reject(sample.ReasonMissing, "measure", "", "grpid is required")
	}
	var ok bool
	if it.base.Start, ok = it.at("date", location(it.zone)); !ok {
		return it.reject(sample.ReasonBadTime, "measure", "", "date is not a time in Unix seconds")
	}
	it.base.UserEntered = attrib == "2" || attrib == "4"
	list := it.node.Get("measures")
	if list == nil {
		return it.done("measure")
	}
	var pressure []sample.Component
	for i := range list.Items {
		n := &list.Items[i]
		typ, _ := n.Get("type").Decimal()
		m, known := measures[typ]
		num, good := scaled(n.Get("value"), n.Get("unit"))
		v := sample.Value{Kind: sample.Number, Num: num, Unit: m[1]}
		part := typ == "9" || typ == "10"
		switch {
		case !known:
			err = it.reject(sample.ReasonUnmapped, "measure."+typ, "", "this type of measure is not supported")
		case !good && part:
			err = it.reject(sample.ReasonBadValue, "measure.blood_pressure", m[0], "value * 10^unit is not a number")
		case !good:
			err = it.reject(sample.ReasonBadValue, "measure."+m[0], "", "value * 10^unit is not a number")
		case part:
			pressure = append(pressure, sample.Component{Name: m[0], Value: v})
		default:
			err = it.emit("measure."+m[0], v)
		}
		if err != nil {
			return err
		}
	}
	if err := it.emit("measure.blood_pressure", sample.Value{}, pressure...); err != nil {
		return err
	}
	return it.done("measure")
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
func (it *item) night() error {
	if !it.identify("id") {
		return it.reject(sample.ReasonMissing, "sleep", "", "id is required")
	}
	zone := location(it.node.Get("timezone"))
	start, ok := it.at("startdate", zone)
	end, ended := it.at("enddate", zone)
	if !ok || !ended || !start.Before(end) {
		return it.reject(sample.ReasonBadTime, "sleep", "", "startdate and enddate are not a period")
	}
	it.base.Start, it.base.End = start, end
	data := it.node.Get("data")
	total, err := it.number(data, "sleep", "", "total_sleep_time", "s")
	if err != nil {
		return err
	}
	parts, err := it.parts(data, "sleep", [2]string{"deepsleepduration", "s"}, [2]string{"lightsleepduration", "s"},
		[2]string{"remsleepduration", "s"}, [2]string{"wakeupduration", "s"}, [2]string{"sleep_latency", "s"},
		[2]string{"total_timeinbed", "s"}, [2]string{"wakeupcount", "count"})
	if err == nil {
		err = it.emit("sleep", total, parts...)
	}
	if err == nil {
		err = it.fields(data, "sleep.", [2]string{"hr_average", "bpm"}, [2]string{"hr_min", "bpm"},
			[2]string{"rr_average", "breaths/min"}, [2]string{"sleep_score", "score"})
	}
	if err != nil {
		return err
	}
	return it.done("sleep")
}

// day reads the totals of a day.
func (it *item) day() error {
	if brand, _ := it.node.Get("brand").Decimal(); brand == "18" {
		it.sink.Drop(sample.DropIgnored, "activity", 1)
		return nil
	}
	it.identify("") // a day has no id
	var ok bool
	if it.base.Day, ok = it.node.Get("date").Day(); !ok {
		return it.reject(sample.ReasonBadTime, "activity", "", "date is not a calendar day")
	}
	now := it.received
	if zone := location(it.node.Get("timezone")); zone != nil {
		now, it.base.IANA = now.In(zone), zone.String()
	}
	if date := it.node.Get("date").String(); date >= now.Format("2006-01-02") {
		it.base.Status = sample.Preliminary
	}
	parts, err := it.parts(it.node, "activity.time", [2]string{"soft", "s"}, [2]string{"moderate", "s"},
		[2]string{"intense", "s"})
	if err == nil {
		err = it.emit("activity.time", sample.Value{}, parts...)
	}
	if err == nil {
		err = it.fields(it.node, "activity.", [2]string{"steps", "count"}, [2]string{"distance", "m"},
			[2]string{"elevation", "count"}, [2]string{"calories", "kcal"}, [2]string{"totalcalories", "kcal"})
	}
	if err != nil {
		return err
	}
	return it.done("activity")
}
