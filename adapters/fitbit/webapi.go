package fitbit

import (
	"bytes"
	"cmp"
	"errors"
	"slices"
	"strings"
	"time"

	"pulsegate/adapters/internal/jsonitem"
	"pulsegate/mapping/sample"
)

// formatWeb is the format of stored payloads of the Fitbit Web API.
const formatWeb = "fitbit-web-api"

// webMarkers are member names that occur near the beginning of legacy payloads,
// and of no other.
var webMarkers = []string{
	`"activities-`, `"dateOfSleep"`, `"ecgReadings"`, `"tempSkin"`, `"tempCore"`, `"cardioScore"`,
	`"dailyRmssd"`, `"breathingRate"`, `"retryDuration"`, `"bpmData"`, `"encodedId"`, `"errorType"`, `"minute"`,
	`"collectionType"`, `"logId"`, `"mac"`, `"nightlyRelative"`,
}

// looksLikeWeb reports whether head belongs to a payload of the Fitbit Web API.
func looksLikeWeb(head []byte) bool {
	has := func(m string) bool { return bytes.Contains(head, []byte(m)) }
	return slices.ContainsFunc(webMarkers, has) || has(`"dateTime"`) && has(`"avg"`) ||
		has(`"rmssd"`) && has(`"coverage"`) || has(`"refresh_token"`) && has(`"user_id"`)
}

// webLists maps the list members of a payload to the readers of their items.
var webLists = map[string]func(*decoder, *jsonitem.Node) error{
	"sleep":                          (*decoder).night,
	"weight":                         (*decoder).body,
	"fat":                            (*decoder).body,
	"activities":                     func(d *decoder, n *jsonitem.Node) error { return d.workout(n, inLocal) },
	"activities-heart":               (*decoder).webHeart,
	"activities-active-zone-minutes": (*decoder).webZoneMinutes,
	"hrv":                            (*decoder).webVariability,
	"br":                             (*decoder).webBreathing,
	"tempSkin":                       (*decoder).webSkin,
	"tempCore":                       (*decoder).webCore,
	"cardioScore":                    (*decoder).webCardio,
	"ecgReadings":                    (*decoder).webECG,
	"alerts":                         (*decoder).webAlert,
}

// webSeries maps the daily series "activities-NAME" to metric and unit. Series that
// depend on the unit system of the request have no unit here.
var webSeries = map[string]struct{ metric, unit string }{
	"steps": {"steps/day", "count"}, "floors": {"floors/day", "count"}, "calories": {"total-calories/day", "kcal"},
	"minutesSedentary":     {"sedentary-minutes/day", "min"},
	"minutesLightlyActive": {"lightly-active-minutes/day", "min"},
	"minutesFairlyActive":  {"moderately-active-minutes/day", "min"},
	"minutesVeryActive":    {"very-active-minutes/day", "min"},
	"distance":             {"distance/day", ""}, "elevation": {"altitude/day", ""},
}

// webIntraday maps the datasets "activities-NAME-intraday" to metric and unit.
var webIntraday = map[string]struct{ metric, unit string }{
	"heart": {"heart-rate", "bpm"}, "steps": {"steps", "count"}, "floors": {"floors", "count"},
	"calories": {"total-calories", "kcal"}, "distance": {"distance", ""}, "elevation": {"altitude", ""},
}

const noUnit = "the unit depends on the request, and the payload does not state it"

// webBody reads one body: an object with lists, or a single item.
func (d *decoder) webBody() error {
	rest := jsonitem.Node{Kind: '{'}
	var days []string // the days of the series in this body, which its dataset lacks
	err := d.rd.Object(func(name string) error {
		d.pos.member = name
		resource, isIntraday := strings.CutSuffix(strings.TrimPrefix(name, "activities-"), "-intraday")
		switch {
		case name == "pagination", name == "summary", name == "goals":
			return d.rd.Skip()
		case isIntraday && d.rd.Kind() == '{':
			return d.webDataset(resource, days)
		case d.rd.Kind() == '[' && !slices.Contains([]string{"minutes", "features", "errors", "windows"}, name):
			return d.items(d.webItems(name, &days))
		}
		n, err := d.rd.Item()
		if errors.Is(err, jsonitem.ErrTooLarge) || errors.Is(err, jsonitem.ErrTooDeep) {
			return d.rd.Fail(err.Error())
		}
		if err != nil {
			return err
		}
		if len(rest.Members) >= maxMembers {
			return d.rd.Fail("this is not a payload of the Fitbit Web API")
		}
		rest.Members = append(rest.Members, jsonitem.Member{Name: name, Value: *n})
		return nil
	})
	if err != nil || len(rest.Members) == 0 {
		return err
	}
	d.pos.member, d.pos.index = "", 0
	return d.sink.Item(&rest, d.pos.String, func() error { return d.webSingle(&rest) })
}

// webItems returns the reader of the list name. It adds the days of daily series to
// days.
func (d *decoder) webItems(name string, days *[]string) func(*jsonitem.Node) error {
	read := webLists[name]
	series, isSeries := strings.CutPrefix(name, "activities-")
	return func(n *jsonitem.Node) error {
		day := n.Get("dateTime").String()
		if isSeries && day != "" && len(*days) < 2 {
			*days = append(*days, day)
		}
		switch spec, known := webSeries[series]; {
		case read != nil:
			return read(d, n)
		case isSeries && known && spec.unit == "":
			return d.legacyPoint(spec.metric, n).refuse(sample.ReasonBadUnit, noUnit)
		case isSeries && known:
			return d.daily(spec.metric, spec.unit, day, n.Get("value"), n)
		}
		return d.reject(sample.ReasonUnmapped, kebab(name), "this list is not supported", n)
	}
}

// webDataset reads an intraday dataset. Its items have a clock time only.
func (d *decoder) webDataset(resource string, days []string) error {
	spec, known := webIntraday[resource]
	rule, reason := "", sample.ReasonUnmapped
	switch {
	case !known:
		rule = "this dataset is not supported"
	case spec.unit == "":
		rule, reason = noUnit, sample.ReasonBadUnit
	case len(days) != 1:
		rule, reason = "one day must precede the dataset, because its times have no date", sample.ReasonMissing
	}
	if rule != "" {
		if err := d.reject(reason, cmp.Or(spec.metric, kebab(resource)), rule, nil); err != nil {
			return err
		}
		return d.rd.Skip()
	}
	return d.rd.Object(func(name string) error {
		if name != "dataset" {
			return d.rd.Skip()
		}
		if resource == "heart" {
			return d.items(func(n *jsonitem.Node) error {
				return d.beat(days[0]+" "+n.Get("time").String(), inLocal, n.Get("value"), nil, n)
			})
		}
		return d.webCounts(spec.metric, spec.unit, days[0])
	})
}

// webCounts reads the counts of a dataset. The member datasetInterval follows the
// dataset, so the first two times tell whether the counts are of 1, 5 or 15 minutes.
func (d *decoder) webCounts(metric, unit, day string) error {
	var first *jsonitem.Node
	length := time.Minute
	emit := func(n *jsonitem.Node) error {
		return d.over(metric, unit, day+" "+n.Get("time").String(), inLocal, length, n.Get("value"), n)
	}
	at := func(n *jsonitem.Node) time.Time {
		t, _, _, _ := reading(day + " " + n.Get("time").String())
		return t
	}
	seen := 0
	err := d.items(func(n *jsonitem.Node) error {
		switch seen++; seen {
		case 1:
			first = n
			return nil
		case 2:
			if step := at(n).Sub(at(first)); step == 5*time.Minute || step == 15*time.Minute {
				length = step
			}
			if err := emit(first); err != nil {
				return err
			}
		}
		return emit(n)
	})
	if err == nil && seen == 1 {
		err = emit(first)
	}
	return err
}

// webSingle reads a body that is one item, a profile, an error or no data at all.
func (d *decoder) webSingle(n *jsonitem.Node) error {
	switch {
	case n.Has("errors", "success"):
		return d.rd.Fail("the service answered with an error: " + webReason(n.Get("errors")))
	case n.Has("access_token", "refresh_token"):
		return d.rd.Fail("this is the answer of a token endpoint, which holds no data")
	case n.Has("collectionType"):
		return d.rd.Fail("this is a notification, which holds no data")
	case n.Get("meta", "state") != nil:
		return d.rd.Fail("the night was still being processed; ask for it again")
	case n.Has("user"):
		d.clock.setAccount(n.Get("user", "timezone").String())
		d.sink.Drop(sample.DropIgnored, "profile", 1)
		return nil
	case n.Has("mac", "deviceVersion"):
		return d.webDevice(n)
	case n.Has("dateOfSleep"):
		return d.night(n)
	case n.Has("dateTime"):
		return d.webSaturation(n)
	case d.listed:
		return d.reject(sample.ReasonUnmapped, "", "the element is not an item of the Fitbit Web API", n)
	}
	return d.rd.Fail("this is not a payload of the Fitbit Web API")
}

// webReasons may be repeated in an error text.
var webReasons = []string{"expired_token", "invalid_token", "invalid_grant", "invalid_client", "insufficient_scope",
	"insufficient_permissions", "request", "validation", "system", "not_found", "rate_limit"}

// webReason returns the reason of an error body if it is one of webReasons.
func webReason(list *jsonitem.Node) string {
	if list != nil {
		for i := range list.List() {
			if r := list.List()[i].Get("errorType").String(); slices.Contains(webReasons, r) {
				return r
			}
		}
	}
	return "reason unknown"
}

// webHeart reads a day of the heart rate series.
func (d *decoder) webHeart(n *jsonitem.Node) error {
	day, v := n.Get("dateTime").String(), n.Get("value")
	if v == nil || v.Kind != '{' {
		return d.legacyPoint("daily-resting-heart-rate", n).refuse(sample.ReasonBadValue,
			"the value is not an object with the resting heart rate and the zones")
	}
	var parts []panel
	if list := v.Get("heartRateZones"); list != nil {
		for i := range list.List() {
			z := &list.List()[i]
			if name := zoneTimes[z.Get("name").String()]; name != "" {
				parts = append(parts, panel{name + "Minutes", "min", z.Get("minutes")},
					panel{name + "Calories", "kcal", z.Get("caloriesOut")})
			}
		}
	}
	resting := v.Get("restingHeartRate")
	if resting == nil && len(parts) == 0 {
		d.sink.Drop(sample.DropPlaceholder, "daily-resting-heart-rate", 1)
		return nil
	}
	if resting != nil {
		if err := d.daily("daily-resting-heart-rate", "bpm", day, resting, n); err != nil {
			return err
		}
	}
	if len(parts) == 0 {
		return nil
	}
	return d.zones(day, n, parts...)
}

func (d *decoder) webZoneMinutes(n *jsonitem.Node) error {
	v := n.Get("value")
	return d.dailyPanel("active-zone-minutes/day", "", n.Get("dateTime").String(), nil, n,
		panel{"sumInFatBurnHeartZone", "min", v.Get("fatBurnActiveZoneMinutes")},
		panel{"sumInCardioHeartZone", "min", v.Get("cardioActiveZoneMinutes")},
		panel{"sumInPeakHeartZone", "min", v.Get("peakActiveZoneMinutes")})
}

// eachMinute calls read for the items of an intraday member.
func eachMinute(n *jsonitem.Node, read func(at string, v, item *jsonitem.Node) error) error {
	list := n.Get("minutes")
	if list == nil {
		return nil
	}
	for i := range list.List() {
		m := &list.List()[i]
		if err := read(m.Get("minute").String(), m.Get("value"), m); err != nil {
			return err
		}
	}
	return nil
}

func (d *decoder) webVariability(n *jsonitem.Node) error {
	if n.Get("minutes") != nil {
		return eachMinute(n, func(at string, v, m *jsonitem.Node) error {
			return d.rmssd(at, v.Get("rmssd"), v.Get("coverage"), v.Get("lf"), v.Get("hf"), m)
		})
	}
	return d.dailyPanel("daily-heart-rate-variability", "ms", n.Get("dateTime").String(), n.Get("value", "dailyRmssd"),
		n, panel{"deepSleepRootMeanSquareOfSuccessiveDifferencesMilliseconds", "ms", n.Get("value", "deepRmssd")})
}

// webSaturation reads a day of oxygen saturation. Its bounds are extremes, other
// than those of the Google Health API.
func (d *decoder) webSaturation(n *jsonitem.Node) error {
	if n.Get("minutes") != nil {
		return eachMinute(n, func(at string, v, m *jsonitem.Node) error { return d.saturation(at, inLocal, v, m) })
	}
	if n.Get("value", "avg") == nil {
		return d.legacyPoint("daily-oxygen-saturation", n).refuse(sample.ReasonMissing, "value.avg is required")
	}
	return d.dailyPanel("daily-oxygen-saturation", "%", n.Get("dateTime").String(), n.Get("value", "avg"), n,
		panel{"minPercentage", "%", n.Get("value", "min")}, panel{"maxPercentage", "%", n.Get("value", "max")})
}

func (d *decoder) webBreathing(n *jsonitem.Node) error {
	const unit = "breaths/min"
	day, v := n.Get("dateTime").String(), n.Get("value")
	if v.Get("breathingRate") != nil {
		return d.daily("daily-respiratory-rate", unit, day, v.Get("breathingRate"), n)
	}
	return d.dailyPanel("respiratory-rate-sleep-summary", unit, day, v.Get("fullSleepSummary", "breathingRate"), n,
		panel{"deepSleepStats", unit, v.Get("deepSleepSummary", "breathingRate")},
		panel{"lightSleepStats", unit, v.Get("lightSleepSummary", "breathingRate")},
		panel{"remSleepStats", unit, v.Get("remSleepSummary", "breathingRate")})
}

// webSkin reads the deviation of the skin temperature from the baseline.
func (d *decoder) webSkin(n *jsonitem.Node) error {
	return d.dailyPanel("daily-sleep-temperature-derivations", "", n.Get("dateTime").String(), nil, n,
		panel{"deviation", "K", n.Get("value", "nightlyRelative")})
}

// webCore reads a temperature that the wearer entered. Its unit depends on the
// request, but no temperature of a body is plausible in both units.
func (d *decoder) webCore(n *jsonitem.Node) error {
	p := d.legacyPoint("core-body-temperature", n)
	p.sample.UserEntered = true
	bad := p.startAt(n.Get("dateTime").String(), inLocal)
	if bad == nil {
		v, _ := n.Get("value").Decimal()
		unit := "Cel"
		if f := jsonitem.Float(v); f > 80 && f < 115 {
			unit = "degF"
		}
		dropped := false
		if bad, dropped = p.measured(n.Get("value"), unit); dropped {
			return nil
		}
	}
	return p.finish(bad)
}

func (d *decoder) webCardio(n *jsonitem.Node) error {
	return d.vo2(n.Get("dateTime").String(), n.Get("value", "vo2Max"), n)
}

// member returns a member of an object, which is null if n is nil.
func member(name string, n *jsonitem.Node) jsonitem.Member {
	if n == nil {
		n = &jsonitem.Node{Kind: 'n'}
	}
	return jsonitem.Member{Name: name, Value: *n}
}

// webECG reads a recording with the reader of the API. The device is a component,
// because its Device would hide that the API states the same recording.
func (d *decoder) webECG(n *jsonitem.Node) error {
	p := d.legacyPoint("electrocardiogram", n)
	if bad := p.startAt(n.Get("startTime").String(), inLocal); bad != nil {
		return p.finish(bad)
	}
	class := strings.ToUpper(strings.ReplaceAll(n.Get("resultClassification").String(), " ", "_"))
	p.body = &jsonitem.Node{Kind: '{', Members: []jsonitem.Member{
		member("samplingFrequencyHertz", n.Get("samplingFrequencyHz")),
		member("millivoltsScalingFactor", n.Get("scalingFactor")),
		member("beatsPerMinuteAvg", n.Get("averageHeartRate")), member("leadNumber", n.Get("leadNumber")),
		member("waveformSamples", n.Get("waveformSamples")),
		member("resultClassification", &jsonitem.Node{Kind: '"', Text: class}),
	}}
	p.model(n.Get("deviceName"), n.Get("firmwareVersion"))
	bad, err := electrocardiogram(p)
	if bad != nil {
		return p.finish(bad)
	}
	return err
}

// model adds the model and the firmware of the device as components.
func (p *point) model(model, firmware *jsonitem.Node) {
	if s := model.String(); s != "" && len(s) <= 64 {
		p.add("deviceModel", sample.Value{Kind: sample.Text, Text: s})
	}
	if s := firmware.String(); s != "" && len(s) <= 64 {
		p.add("firmwareVersion", sample.Value{Kind: sample.Text, Text: s})
	}
}

// webAlert reads a notification of an irregular rhythm. All of its windows are
// positive.
func (d *decoder) webAlert(n *jsonitem.Node) error {
	p := d.legacyPoint("irregular-rhythm-notification", n)
	if bad := p.startAt(n.Get("alertTime").String(), inLocal); bad != nil {
		return p.finish(bad)
	}
	windows := 0
	if w := n.Get("windows"); w != nil {
		windows = len(w.List())
	}
	p.add("windows", sample.Value{Kind: sample.Number, Num: decimal(float64(windows)), Unit: "count"})
	p.model(n.Get("deviceType"), nil)
	return p.emit()
}

// webDevice reads a paired device without its hardware address.
func (d *decoder) webDevice(n *jsonitem.Node) error {
	p := d.legacyPoint("paired-device", n)
	id := n.Get("id").String()
	if id == "" || len(id) > 128 {
		return p.finish(missing("id is required"))
	}
	p.sample.VendorID, p.sample.Revision = id, revisionArchive
	if bad := p.startAt(n.Get("lastSyncTime").String(), inLocal); bad != nil {
		return p.finish(bad)
	}
	p.sample.Coarse = false
	return p.paired(id, n.Get("type").String(), n.Get("battery"))
}
