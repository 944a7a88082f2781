package ingest

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"pulsegate/adapters/adaptertest"
	"pulsegate/adapters/apple"
	"pulsegate/mapping/decimal"
	"pulsegate/mapping/internal/mappingtest"
	"pulsegate/mapping/table"
)

// inventory holds the types of HealthKit, as two independent lists of them state.
type inventory struct {
	types []string
	units map[string]string // canonical unit by quantity
	enums map[string]string // enumeration by category
	first map[string]int    // first integer by enumeration
	names map[string]string // name of that integer
}

func readInventory(t *testing.T) *inventory {
	t.Helper()
	dir := filepath.Join(adaptertest.Fixtures(t, "apple"), "mappings")
	read := func(name string, into any) {
		b, err := os.ReadFile(filepath.Join(dir, name))
		if err == nil {
			err = json.Unmarshal(b, into)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	var runtime struct{ SourceTypes map[string]any }
	read("grove-fhir_healthkit-inventory.json", &runtime)
	var schema struct {
		QuantityIdentifiers []struct{ Name, CanonicalUnit string }
		CategoryIdentifiers []struct{ Name, ValueEnum string }
		Enums               []struct {
			Name    string
			Members []struct {
				SwiftName string
				RawValue  int
			}
		}
	}
	read("react-native-healthkit_healthkit-schema.json", &schema)
	inv := &inventory{units: map[string]string{}, enums: map[string]string{}, first: map[string]int{},
		names: map[string]string{}}
	for name := range runtime.SourceTypes {
		inv.types = append(inv.types, name)
	}
	for _, q := range schema.QuantityIdentifiers {
		inv.types, inv.units[q.Name] = append(inv.types, q.Name), q.CanonicalUnit
	}
	for _, c := range schema.CategoryIdentifiers {
		inv.types, inv.enums[c.Name] = append(inv.types, c.Name), c.ValueEnum
	}
	for _, e := range schema.Enums {
		inv.first["HK"+e.Name], inv.names["HK"+e.Name] = e.Members[0].RawValue, e.Members[0].SwiftName
	}
	slices.Sort(inv.types)
	inv.types = slices.Compact(inv.types)
	return inv
}

// value returns a plausible number of a quantity in HealthKit's own unit. A
// percentage is a fraction.
func (inv *inventory) value(t *testing.T, tab *table.Table, metric string) (num, unit string) {
	t.Helper()
	if unit = inv.units[metric]; unit == "" {
		unit = "count"
	}
	var row *table.Row
	mappingtest.EachRow(tab, func(v *table.Vendor, r *table.Row) {
		if v.Vendor == "apple" && (r.Metric == metric || slices.Contains(r.Also, metric)) {
			row = r
		}
	})
	if row == nil {
		t.Fatalf("%s has no row in the metric table", metric)
	}
	conv, ok := tab.Units[row.Unit].Accepts.From(unit)
	if !ok {
		t.Fatalf("%s: the row does not accept HealthKit's unit %s", metric, unit)
	}
	for _, num := range []string{"62", "36.8", "0.97", "1.75", "5", "0.01", "0.00001"} {
		d, _ := decimal.Parse(num)
		f := conv.Apply(d).Float64()
		if unit == "%" {
			f *= 100
		}
		if f >= row.Range[0] && f <= row.Range[1] {
			return num, unit
		}
	}
	t.Fatalf("%s: no number is in the range", metric)
	return "", ""
}

// structured holds the values of the types that are neither quantities nor
// categories in the companion format.
var structured = map[string]string{
	"HKCorrelationTypeIdentifierBloodPressure":               `"systolic":{"value":120,"unit":"mmHg"},"diastolic":{"value":80,"unit":"mmHg"}`,
	"HKWorkoutTypeIdentifier":                                `"workout":{"activity":13,"duration":600}`,
	"HKDataTypeIdentifierElectrocardiogram":                  `"electrocardiogram":{"samplingFrequency":512,"unit":"mcV","voltages":[1,2,3]}`,
	"HKDataTypeIdentifierAudiogram":                          `"sensitivityPoints":[{"frequency":1000,"left":10,"right":20}]`,
	"HKDataTypeStateOfMind":                                  `"stateOfMind":{"kind":"dailyMood","valence":-0.5}`,
	"HKScoredAssessmentTypeIdentifierPHQ9":                   `"value":7`,
	"HKScoredAssessmentTypeIdentifierGAD7":                   `"value":7`,
	"HKMedicationDoseEventTypeIdentifierMedicationDoseEvent": `"medication":{"name":"Aspirin","status":"taken"}`,
}

// TestEveryTypeOfHealthKit checks that each type of HealthKit becomes an Observation
// in every channel that can carry it, or is left out for a stated reason.
func TestEveryTypeOfHealthKit(t *testing.T) {
	inv, tab := readInventory(t), mappingtest.Table(t)
	left := apple.LeftOut()
	var counted, mapped int
	for _, metric := range inv.types {
		counted++
		reason, isLeft := left[metric]
		delete(left, metric)
		half := strings.HasPrefix(metric, "HKQuantityTypeIdentifierBloodPressure")
		if isLeft && reason == "" {
			t.Errorf("%s is left out without a reason", metric)
		}
		bodies := inv.bodies(t, tab, metric, isLeft)
		if len(bodies) == 0 {
			t.Errorf("%s is in no channel", metric)
		}
		for channel, body := range bodies {
			w, done := newWorldOf(t)
			sum := w.send(channel, body)
			n := len(w.chart(metric))
			switch {
			case isLeft || half && channel != "export":
				if sum.Dropped != 1 || sum.Created != 0 || sum.Quarantined != 0 {
					t.Errorf("%s, %s: %+v, want one left out", metric, channel, sum.Counts)
				}
			case sum.Created == 0 || sum.Quarantined+sum.LeftOut != 0 ||
				n == 0 && metric != "HKCategoryTypeIdentifierEnvironmentalAudioExposureEvent":
				t.Errorf("%s, %s: %+v", metric, channel, sum.Counts)
			default:
				mapped++
			}
			done()
		}
	}
	for metric := range left {
		t.Errorf("%s is left out but no type of HealthKit", metric)
	}
	t.Logf("%d types, %d payloads mapped, %d types left out", counted, mapped, len(apple.LeftOut()))
	w := newWorld(t)
	if sum := w.send("companion", companionBody("2026-10-05T08:00:00Z", `{"uuid":"`+sampleUUID(1)+`",`+companionTime+
		`,"type":"HKQuantityTypeIdentifierOfTomorrow","value":1,"unit":"count"}`, "")); sum.Quarantined != 1 {
		t.Errorf("an unknown type: %+v", sum.Counts)
	}
}

// bodies returns a sample of a type in the channels that can carry it.
func (inv *inventory) bodies(t *testing.T, tab *table.Table, metric string, isLeft bool) map[string]string {
	t.Helper()
	out := map[string]string{}
	companion := func(members string) {
		out["companion"] = companionBody("2026-10-05T08:00:00Z",
			`{"uuid":"`+sampleUUID(1)+`",`+sampleDevice+`,"type":"`+
				metric+`",`+companionSpan+`,`+members+`}`, "")
	}
	fhir := func(value string) {
		out["fhir"] = `{"resourceType":"Observation","id":"` + sampleUUID(1) +
			`","status":"final","code":{"coding":[` + healthKit +
			metric + `"}]},` + fhirPeriod + `,` + value + `}`
	}
	switch {
	case isLeft:
		companion(`"value":0`)
	case structured[metric] != "":
		companion(structured[metric])
	case inv.units[metric] != "" || strings.HasPrefix(metric, "HKQuantityTypeIdentifier"):
		num, unit := inv.value(t, tab, metric)
		out["export"] = exportXML(recordXML(metric, unit, num, sampleTime, "11.0"))
		out["open-wearables"] = openWearablesBody(metric, num, unit)
		if metric == "HKQuantityTypeIdentifierOxygenSaturation" {
			out["open-wearables"] = openWearablesBody(metric, "97", unit)
		}
		fhir(fmt.Sprintf(`"valueQuantity":{"value":%s,"unit":%q}`, num, unit))
		if unit == "%" {
			unit = "fraction"
		}
		companion(fmt.Sprintf(`"value":%s,"unit":%q`, num, unit))
	default:
		enum := inv.enums[metric]
		if enum == "" {
			enum = "HKCategoryValueEnvironmentalAudioExposureEvent"
		}
		num := fmt.Sprint(inv.first[enum])
		out["export"] = exportXML(spanXML(metric, "", inv.names[enum]))
		out["open-wearables"] = openWearablesBody(metric, num, "")
		fhir(`"valueCodeableConcept":{"coding":[{"code":"` + num + `"}]}`)
		companion(`"value":` + num)
	}
	if strings.HasPrefix(metric, "HKQuantityTypeIdentifierBloodPressure") {
		delete(out, "open-wearables") // pairs the halves like the export
	}
	return out
}

// openWearablesBody returns a sync request with one record.
func openWearablesBody(metric, num, unit string) string {
	return `{"provider":"apple","sdkVersion":"1","syncTimestamp":"2026-10-05T08:00:00Z","data":{"records":[{"id":"` +
		sampleUUID(1) + `","type":"` + metric +
		`","startDate":"2026-05-11T06:00:03Z","endDate":"2026-05-11T06:10:03Z","value":` +
		num + `,"unit":"` + unit + `","source":{"name":"Watch"}}]}}`
}
