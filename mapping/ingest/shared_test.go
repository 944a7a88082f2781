package ingest

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"pulsegate/mapping/sample"
)

// phoneSample is one HealthKit sample as four channels state it. hae is a metric of
// Health Auto Export or a member of its data; "" means that the channel cannot carry
// it.
type phoneSample struct {
	name, code string
	xml        string
	hae        string
	companion  string
	fhir       string
}

// Parts of the payloads. The export truncates to whole seconds and loses digits.
const (
	sampleTime    = "2026-05-11 08:00:03 +0200"
	sampleDevice  = `"device":{"name":"Apple Watch","manufacturer":"Apple Inc.","model":"Watch","hardware":"Watch6,7","software":"11.0"},"source":{"name":"Watch","version":"11.0"}`
	healthKit     = `{"system":"http://developer.apple.com/documentation/healthkit","code":"`
	fhirStart     = `"effectiveDateTime":"2026-05-11T08:00:03.250+02:00"`
	fhirPeriod    = `"effectivePeriod":{"start":"2026-05-11T08:00:03.250+02:00","end":"2026-05-11T08:10:03.750+02:00"}`
	companionTime = `"start":"2026-05-11T08:00:03.250+02:00"`
	companionSpan = companionTime + `,"end":"2026-05-11T08:10:03.750+02:00"`
)

// spanXML returns a Record from 08:00:03 to 08:10:03.
func spanXML(typ, unit, value string) string {
	r := strings.Replace(recordXML(typ, unit, value, sampleTime, "11.0"), `endDate="2026-05-11 08:00:03`,
		`endDate="2026-05-11 08:10:03`, 1)
	if unit == "" {
		r = strings.Replace(r, ` unit=""`, "", 1)
	}
	if value == "" {
		r = strings.Replace(r, ` value=""`, "", 1)
	}
	return r
}

// sampleUUID returns the UUID of a sample.
func sampleUUID(i int) string { return fmt.Sprintf("DDDDDDDD-0000-4000-8000-%012X", i) }

var phoneSamples = []phoneSample{
	{"heart rate", "8867-4", recordXML(heartRateType, "count/min", "62.3333", sampleTime, "11.0"),
		`{"name":"heart_rate","units":"count/min","data":[{"date":"` + sampleTime +
			`","Min":62.33333,"Avg":62.33333,"Max":62.33333,"source":"Watch"}]}`,
		`"type":"` + heartRateType + `",` + companionTime + `,"value":62.33333333,"unit":"count/min"`,
		`"code":{"coding":[{"system":"http://loinc.org","code":"8867-4"},` + healthKit + heartRateType + `"}]},` +
			fhirStart +
			`,"valueQuantity":{"value":62.33333333,"unit":"beats/minute","system":"http://unitsofmeasure.org","code":"/min"}`},
	{"oxygen", "59408-5", recordXML("HKQuantityTypeIdentifierOxygenSaturation", "%", "0.97", sampleTime, "11.0"),
		`{"name":"blood_oxygen_saturation","units":"%","data":[{"date":"` + sampleTime +
			`","qty":97,"source":"Watch"}]}`,
		`"type":"HKQuantityTypeIdentifierOxygenSaturation",` + companionTime + `,"value":0.97,"unit":"fraction"`,
		`"code":{"coding":[` + healthKit + `HKQuantityTypeIdentifierOxygenSaturation"}]},` + fhirStart +
			`,"valueQuantity":{"value":0.97,"unit":"%","code":"%"}`},
	{"steps", "55423-8", spanXML(stepCountType, "count", "801"),
		`{"name":"step_count","units":"count","data":[{"date":"` + sampleTime + `","qty":801,"source":"Watch"}]}`,
		`"type":"` + stepCountType + `",` + companionSpan + `,"value":801,"unit":"count"`,
		`"code":{"coding":[` + healthKit + stepCountType + `"}]},` + fhirPeriod +
			`,"valueQuantity":{"value":801,"unit":"steps"}`},
	{"weight", "29463-7", recordXML(bodyMass, "lb", "157.63", sampleTime, "11.0"),
		`{"name":"weight_body_mass","units":"kg","data":[{"date":"` + sampleTime + `","qty":71.5,"source":"Watch"}]}`,
		`"type":"` + bodyMass + `",` + companionTime + `,"value":71.5,"unit":"kg"`,
		`"code":{"coding":[` + healthKit + bodyMass + `"}]},` + fhirStart +
			`,"valueQuantity":{"value":157.6305,"unit":"lbs","code":"[lb_av]"}`},
	{"sleep", "HKCategoryTypeIdentifierSleepAnalysis",
		spanXML("HKCategoryTypeIdentifierSleepAnalysis", "", "HKCategoryValueSleepAnalysisAsleepCore"),
		`{"name":"sleep_analysis","units":"hr","data":[{"startDate":"` + sampleTime +
			`","endDate":"2026-05-11 08:10:03 +0200","value":"Core","source":"Watch"}]}`,
		`"type":"HKCategoryTypeIdentifierSleepAnalysis",` + companionSpan + `,"value":3`,
		`"code":{"coding":[` + healthKit + `HKCategoryTypeIdentifierSleepAnalysis"}]},` + fhirPeriod +
			`,"valueCodeableConcept":{"coding":[{"code":"3","display":"asleep core"}]}`},
	{"headache", "HKCategoryTypeIdentifierHeadache",
		spanXML("HKCategoryTypeIdentifierHeadache", "", "HKCategoryValueSeverityMild"),
		`"symptoms":[{"start":"` + sampleTime +
			`","end":"2026-05-11 08:10:03 +0200","name":"Headache","severity":"Mild","source":"Watch"}]`,
		`"type":"HKCategoryTypeIdentifierHeadache",` + companionSpan + `,"value":2`,
		`"code":{"coding":[` + healthKit + `HKCategoryTypeIdentifierHeadache"}]},` + fhirPeriod +
			`,"valueCodeableConcept":{"coding":[{"code":"2","display":"mild"}]}`},
	{"handwashing", "HKCategoryTypeIdentifierHandwashingEvent",
		spanXML("HKCategoryTypeIdentifierHandwashingEvent", "", "HKCategoryValueNotApplicable"), "",
		`"type":"HKCategoryTypeIdentifierHandwashingEvent",` + companionSpan + `,"value":0`,
		`"code":{"coding":[` + healthKit + `HKCategoryTypeIdentifierHandwashingEvent"}]},` + fhirPeriod +
			`,"valueString":"HKCategoryTypeIdentifierHandwashingEvent"`},
	{"workout", "73985-4", strings.Replace(strings.NewReplacer("<Record", "<Workout", ` type="HKWorkoutTypeIdentifier"`,
		` workoutActivityType="HKWorkoutActivityTypeRunning"`).Replace(spanXML("HKWorkoutTypeIdentifier", "", "")),
		"/>",
		`><WorkoutStatistics type="HKQuantityTypeIdentifierActiveEnergyBurned" sum="101.2" unit="kcal"/></Workout>`, 1),
		`"workouts":[{"id":"UUID","name":"Outdoor Run","start":"` + sampleTime +
			`","end":"2026-05-11 08:10:03 +0200","duration":600.5,"activeEnergyBurned":{"qty":101.2,"units":"kcal"}}]`,
		`"type":"HKWorkoutTypeIdentifier",` + companionSpan +
			`,"workout":{"activity":37,"duration":600.5,"statistics":[{"type":"HKQuantityTypeIdentifierActiveEnergyBurned","unit":"kcal","sum":101.2}]}`,
		`"code":{"coding":[{"system":"http://loinc.org","code":"73985-4"}]},` + fhirPeriod +
			`,"valueCodeableConcept":{"coding":[{"code":"running","display":"running"}]}`},
	{"blood pressure", "85354-9", recordXML("HKQuantityTypeIdentifierBloodPressureSystolic", "mmHg", "124",
		sampleTime, "11.0") +
		recordXML("HKQuantityTypeIdentifierBloodPressureDiastolic", "mmHg", "79", sampleTime, "11.0"),
		`{"name":"blood_pressure","units":"mmHg","data":[{"date":"` + sampleTime +
			`","systolic":124,"diastolic":79,"source":"Watch"}]}`,
		`"type":"HKCorrelationTypeIdentifierBloodPressure",` + companionTime +
			`,"systolic":{"value":124,"unit":"mmHg"},"diastolic":{"value":79,"unit":"mmHg"}`,
		`"code":{"coding":[{"system":"http://loinc.org","code":"85354-9"}]},` + fhirStart +
			`,"component":[{"code":{"coding":[{"code":"8480-6"}]},"valueQuantity":{"value":124,"code":"mm[Hg]"}},{"code":{"coding":[{"code":"8462-4"}]},"valueQuantity":{"value":79,"code":"mm[Hg]"}}]`},
}

// companionBody returns a batch of the companion app.
func companionBody(created, samples, deleted string) string {
	return `{"format":"pulsegate-companion","version":1,"created":"` + created + `","samples":[` + samples +
		`],"deleted":[` +
		deleted + `]}`
}

// bodies returns the payloads of the four channels, keyed by their names.
func (s *phoneSample) bodies(uuid string) map[string]string {
	out := map[string]string{
		"export":    exportXML(s.xml),
		"companion": companionBody("2026-10-05T08:00:00Z", `{"uuid":"`+uuid+`",`+sampleDevice+`,`+s.companion+`}`, ""),
		"fhir": `{"resourceType":"Observation","id":"` + uuid + `","identifier":[{"id":"` + uuid +
			`"}],"status":"final","issued":"2026-10-05T07:00:00Z",` + s.fhir + `}`,
	}
	switch {
	case strings.HasPrefix(s.hae, "{"):
		out["hae"] = haePayload(s.hae)
	case s.hae != "":
		out["hae"] = `{"data":{` + strings.ReplaceAll(s.hae, "UUID", uuid) + `}}`
	}
	return out
}

// send delivers the payload of a channel.
func (w *world) send(channel, body string) Summary {
	w.t.Helper()
	format := map[string]string{"export": "export.xml", "companion": "companion", "fhir": "healthkit-fhir",
		"hae": "health-auto-export", "open-wearables": "open-wearables"}[channel]
	s, err := w.pipeline.Run(w.t.Context(), Request{Patient: "p1", Vendor: "apple", Format: format, Name: "body",
		Body: strings.NewReader(body)})
	if err != nil {
		w.t.Fatal(err)
	}
	return s
}

// TestOneSampleInFourChannels checks that a sample that the export, Health Auto
// Export, the companion app and HealthKitOnFHIR deliver is one Observation with the
// device, in every order, that repeats change nothing, and that a deletion by its
// UUID retracts it for good.
func TestOneSampleInFourChannels(t *testing.T) {
	for i := range phoneSamples {
		s := &phoneSamples[i]
		uuid := sampleUUID(i + 1)
		bodies := s.bodies(uuid)
		var names []string
		for name := range bodies {
			names = append(names, name)
		}
		slices.Sort(names)
		typ, _, _ := strings.Cut(strings.TrimPrefix(s.companion, `"type":"`), `"`)
		deletion := companionBody("2026-10-06T08:00:00Z", "", `{"uuid":"`+uuid+`","type":"`+typ+`"}`)
		orders(names, func(order []string) {
			w, done := newWorldOf(t)
			defer done()
			where := s.name + ": " + strings.Join(order, ", ")
			for again := range 2 {
				for _, name := range order {
					sum := w.send(name, bodies[name])
					if sum.Quarantined != 0 || again > 0 && sum.Created+sum.Updated != 0 {
						t.Errorf("%s: %s: %+v", where, name, sum.Counts)
					}
				}
			}
			got := w.chart(s.code)
			if len(got) != 1 {
				t.Errorf("%s: %d Observations", where, len(got))
				return
			}
			device := w.all("Device")[strings.TrimPrefix(got[0].Device.Reference, "Device/")]
			if !strings.Contains(string(device.JSON), "Watch6,7") {
				t.Errorf("%s: the device: %s", where, got[0].raw.JSON)
			}
			if got := w.nights(); s.name == "sleep" && (len(got) != 1 || !strings.HasPrefix(got[0].minutes, "10")) {
				t.Errorf("%s: nights %v", where, got)
			}
			if sum := w.must("apple", "deletion", deletion); sum.Updated < 1 {
				t.Errorf("%s: deletion: %+v", where, sum.Counts)
			}
			for _, name := range order {
				w.send(name, bodies[name])
			}
			for _, o := range w.chart(s.code) {
				t.Errorf("%s: after the deletion: %s", where, o.raw.JSON)
			}
			if got := w.nights(); len(got) != 0 {
				t.Errorf("%s: nights after the deletion: %v", where, got)
			}
		})
	}
}

// TestLateBatches checks that the order in which batches of the companion app arrive
// does not matter: a deletion that overtakes its sample keeps it away, and a batch
// that was delayed does not replace a later one.
func TestLateBatches(t *testing.T) {
	s := &phoneSamples[3]
	uuid := sampleUUID(1)
	item := `{"uuid":"` + uuid + `",` + sampleDevice + `,` + s.companion + `}`
	first := companionBody("2026-10-05T08:00:00Z", item, "")
	deleted := companionBody("2026-10-05T09:00:00Z", "", `{"uuid":"`+strings.ToLower(uuid)+`","type":"`+bodyMass+`"}`)
	both := companionBody("2026-10-05T09:00:00Z", item, `{"uuid":"`+uuid+`","type":"`+bodyMass+`"}`)
	again := companionBody("2026-10-05T10:00:00Z", strings.Replace(item, uuid, sampleUUID(2), 1), "")
	for name, order := range map[string][]string{"in order": {first, deleted, first},
		"deletion first": {deleted, first},
		"one batch":      {both}, "entered again": {first, again, deleted, first, again}} {
		w := newWorld(t)
		for _, body := range order {
			w.must("apple", "a", body)
		}
		want := 0
		if name == "entered again" {
			want = 1
		}
		if n := len(w.chart(s.code)); n != want {
			t.Errorf("%s: %d Observations, want %d", name, n, want)
		}
	}
}

// TestDeletedSegment checks that the night of a deleted segment is derived again.
func TestDeletedSegment(t *testing.T) {
	w := newWorld(t)
	segment := func(i int, from, to string) string {
		return fmt.Sprintf(`{"uuid":%q,%s,"type":"HKCategoryTypeIdentifierSleepAnalysis","start":"2026-05-11T%s:00+02:00","end":"2026-05-11T%s:00+02:00","value":4}`,
			sampleUUID(i), sampleDevice, from, to)
	}
	w.must("apple", "a", companionBody("2026-10-05T08:00:00Z",
		segment(1, "01:00", "02:00")+","+segment(2, "02:00", "04:00"), ""))
	if got := w.nights(); len(got) != 1 || !strings.Contains(fmt.Sprint(got), "180 min") {
		t.Errorf("%v", got)
	}
	w.must("apple", "a", companionBody("2026-10-05T09:00:00Z", "",
		`{"uuid":"`+sampleUUID(2)+`","type":"HKCategoryTypeIdentifierSleepAnalysis"}`))
	if got := w.nights(); len(got) != 1 || !strings.Contains(fmt.Sprint(got), "60 min") {
		t.Errorf("after the deletion: %v", got)
	}
}

// TestSharedIDsOfTwoDevices checks that equal samples of two devices are two
// Observations, whichever channels deliver them.
func TestSharedIDsOfTwoDevices(t *testing.T) {
	at := time.Date(2026, 5, 11, 6, 0, 3, 0, time.UTC)
	device := func(hardware string, uuid string) sample.Sample {
		s := heartRate(at, "62")
		s.Device.Hardware, s.Source.Name = hardware, hardware
		if uuid != "" {
			s.VendorID, s.SharedID, s.KeyValue = uuid, true, false
		}
		return s
	}
	all := []sample.Sample{device("Watch6,7", sampleUUID(1)), device("Watch6,7", ""), device("iPhone15,2", ""),
		device("iPhone15,2", sampleUUID(2))}
	orders(all, func(order []sample.Sample) {
		w, done := newWorldOf(t)
		defer done()
		for i, s := range order {
			if _, err := w.take(fmt.Sprint(i), s); err != nil {
				t.Fatal(err)
			}
		}
		if n := len(w.chart(heartRateType)); n != 2 {
			t.Errorf("%d Observations, want 2", n)
		}
	})
}

// TestScalesOfChannels checks that percentages and units of the channels become those
// of the metric table: the scale depends on the channel and the type, not on the value.
func TestScalesOfChannels(t *testing.T) {
	const asymmetry, oxygen = "HKQuantityTypeIdentifierWalkingAsymmetryPercentage",
		"HKQuantityTypeIdentifierOxygenSaturation"
	fhir := func(metric, quantity, identifier string) string {
		return `{"resourceType":"Observation","id":"` + sampleUUID(1) + `","identifier":[` + identifier +
			`],"status":"final","code":{"coding":[` + healthKit + metric + `"}]},` + fhirStart +
			`,"valueQuantity":{` + quantity + `}}`
	}
	grove := `{"system":"https://example.org/NamingSystem/healthkit-object-id","value":"` +
		strings.ToLower(sampleUUID(1)) + `"}`
	companion := func(metric, value, unit string) string {
		return companionBody("2026-10-05T08:00:00Z",
			`{"uuid":"`+sampleUUID(1)+`",`+sampleDevice+`,"type":"`+metric+`",`+
				companionTime+`,"value":`+value+`,"unit":"`+unit+`"}`, "")
	}
	for _, c := range []struct{ channel, body, metric, want string }{
		{"fhir", fhir(asymmetry, `"value":0.0083,"unit":"%","code":"%"`, ""), asymmetry, "0.83 %"},
		{"fhir", fhir(asymmetry, `"value":0.83,"unit":"%","code":"%"`, grove), asymmetry, "0.83 %"},
		{"fhir", fhir(oxygen, `"value":97,"unit":"%","code":"%"`, grove), oxygen, "97 %"},
		{"fhir", fhir(bodyMass, `"value":157.63,"unit":"lbs","code":"[lb_av]"`, ""), bodyMass, "71.4997652831 kg"},
		{"fhir", fhir("HKQuantityTypeIdentifierHeight", `"value":64,"unit":"in","code":"[in_i]"`, ""),
			"HKQuantityTypeIdentifierHeight", "162.56 cm"},
		{"fhir", fhir("HKQuantityTypeIdentifierWaistCircumference", `"value":30,"unit":"in","code":"in"`, ""),
			"HKQuantityTypeIdentifierWaistCircumference", "76.2 cm"},
		{"fhir", fhir("HKQuantityTypeIdentifierRunningSpeed", `"value":10.8,"unit":"km/h","code":"km/h"`, ""),
			"HKQuantityTypeIdentifierRunningSpeed", "3 m/s"},
		{"fhir", fhir("HKQuantityTypeIdentifierInsulinDelivery", `"value":4,"unit":"IU","code":"IU"`, ""),
			"HKQuantityTypeIdentifierInsulinDelivery", "4 IU"},
		{"companion", companion(asymmetry, "0.0083", "fraction"), asymmetry, "0.83 %"},
		{"companion", companion(asymmetry, "0.83", "percent"), asymmetry, "0.83 %"},
		{"open-wearables", openWearablesBody(oxygen, "97", "%"), oxygen, "97 %"},
		{"open-wearables", openWearablesBody(asymmetry, "0.0083", "%"), asymmetry, "0.83 %"},
		{"hae", haePayload(`{"name":"walking_asymmetry_percentage","units":"%","data":[{"date":"` + sampleTime +
			`","qty":0.83}]}`),
			asymmetry, "0.83 %"},
		{"export", exportXML(recordXML(asymmetry, "%", "0.0083", sampleTime, "11.0")), asymmetry, "0.83 %"},
	} {
		w, done := newWorldOf(t)
		w.send(c.channel, c.body)
		got := w.chart(c.metric)
		num, unit, _ := strings.Cut(c.want, " ")
		if len(got) != 1 || got[0].Quantity.Value.String() != num ||
			!strings.Contains(string(got[0].raw.JSON), `"unit":"`+unit+`"`) {
			t.Errorf("%s: %+v, want %s", c.channel, got, c.want)
		}
		done()
	}
}
