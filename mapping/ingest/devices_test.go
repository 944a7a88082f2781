package ingest

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"pulsegate/fhir"
	"pulsegate/fhir/access"
	"pulsegate/mapping/sample"
)

func ringNight(id, day, kind string) string {
	return fmt.Sprintf(`{"data":[{"id":"%s","ring_id":"ring-0001","bedtime_start":"2026-10-%[2]sT01:00:00+02:00","bedtime_end":"2026-10-%[2]sT07:00:00+02:00","day":"2026-10-%[2]s","average_breath":13.5,"deep_sleep_duration":5400,"light_sleep_duration":9000,"rem_sleep_duration":3600,"total_sleep_duration":18000,"time_in_bed":21600,"type":"%s","period":0}],"next_token":null}`, id, day, kind)
}

const ringConfiguration = `{"data":[{"id":"ring-0001","color":"silver","design":"horizon","firmware_version":"3.1.0","hardware_type":"gen4","set_up_at":"2026-10-03T08:00:00+02:00","size":10}],"next_token":null}`

// TestFactsOfOneRing checks that the facts of nights, which state only the
// ring's id, and those of its configuration are in one Device.
func TestFactsOfOneRing(t *testing.T) {
	night1, night2 := ringNight("n1", "02", "long_sleep"), ringNight("n2", "05", "long_sleep")
	var want []byte
	for name, order := range map[string][]string{
		"night first":         {night1, ringConfiguration, night2},
		"configuration first": {ringConfiguration, night2, night1},
		"configuration last":  {night2, night1, ringConfiguration},
	} {
		w := newWorld(t)
		for _, body := range append(order, order...) {
			file := "sleep.json"
			if body == ringConfiguration {
				file = "ring_configuration.json"
			}
			w.must("oura", file, body)
		}
		rings := w.all("Device")
		if len(rings) != 1 {
			t.Errorf("%s: %d Devices, want one", name, len(rings))
		}
		for id, d := range rings {
			for _, part := range []string{`"serialNumber":"ring-0001"`, `"modelNumber":"gen4"`, `"value":"3.1.0"`,
				`silver`, `"manufacturer":"Oura"`} {
				if !bytes.Contains(d.JSON, []byte(part)) {
					t.Errorf("%s: no %s in %s", name, part, d.JSON)
				}
			}
			if _, body, _ := bytes.Cut(d.JSON, []byte(`},"identifier"`)); want == nil {
				want = body
			} else if !bytes.Equal(want, body) {
				t.Errorf("%s: the order matters: %s and %s", name, want, body)
			}
			for _, o := range w.all("Observation") {
				if !bytes.Contains(o.JSON, []byte(`"Device/`+id+`"`)) {
					t.Errorf("%s: %s", name, o.JSON)
				}
			}
		}
	}
}

func weights(grams, source string) string {
	name := `"name":"users/1/dataTypes/weight/dataPoints/w1","dataSource":` + source
	if source == "" {
		name = `"dataPointName":"users/1/dataTypes/weight/dataPoints/w1"`
	}
	return `{"dataPoints":[{` + name + `,"weight":{"sampleTime":{"physicalTime":"2026-05-02T12:00:00Z","utcOffset":"-18000s"},"weightGrams":` + grams + `}}]}`
}

// TestReconcileKeepsSource checks that the merged stream, which states no
// source, keeps the source that list has stated.
func TestReconcileKeepsSource(t *testing.T) {
	for name, source := range map[string]string{
		"a scale":            `{"recordingMethod":"PASSIVELY_MEASURED","device":{"displayName":"Aria Air","formFactor":"SCALE"},"platform":"FITBIT"}`,
		"by hand":            `{"recordingMethod":"MANUAL","device":{},"platform":"FITBIT"}`,
		"by hand, no device": `{"recordingMethod":"MANUAL"}`,
	} {
		list, merged := weights("81500", source), weights("81500", "")
		for _, order := range [][]string{{list, merged}, {merged, list}} {
			w := newWorld(t)
			for _, body := range order {
				w.must("fitbit", "page.json", body)
			}
			devices := len(w.all("Device"))
			for range 2 {
				for _, body := range order {
					if s := w.must("fitbit", "page.json", body); s.Unchanged != 1 || s.Created+s.Updated != 0 {
						t.Errorf("%s: again: %+v", name, s.Counts)
					}
				}
			}
			if n := len(w.all("Device")); n != devices {
				t.Errorf("%s: %d Devices became %d", name, devices, n)
			}
			check := func(kg string) {
				t.Helper()
				obs := w.all("Observation")
				if len(obs) != 1 {
					t.Fatalf("%s: %d Observations", name, len(obs))
				}
				for _, o := range obs {
					if !bytes.Contains(o.JSON, []byte(kg)) ||
						bytes.Contains(o.JSON, []byte(`"performer"`)) != strings.Contains(source, "MANUAL") {
						t.Errorf("%s: %s", name, o.JSON)
					}
					for id, d := range w.all("Device") {
						if bytes.Contains(d.JSON, []byte("Aria Air")) &&
							!bytes.Contains(o.JSON, []byte(`"Device/`+id+`"`)) {
							t.Errorf("%s: the scale is forgotten: %s", name, o.JSON)
						}
					}
				}
			}
			check(`"value":81.5`)
			if s := w.must("fitbit", "page.json", weights("81200", "")); s.Updated != 1 {
				t.Errorf("%s: a restated weight: %+v", name, s.Counts)
			}
			check(`"value":81.2`)
			if s := w.must("fitbit", "page.json", weights("81200", source)); s.Unchanged != 1 {
				t.Errorf("%s: the restated weight from list: %+v", name, s.Counts)
			}
		}
	}
}

// TestRetractionOfUnknownObservation checks that only stored Observations
// become entered-in-error.
func TestRetractionOfUnknownObservation(t *testing.T) {
	w := newWorld(t)
	s := w.must("oura", "sleep.json", ringNight("n1", "02", "deleted"))
	if s.Created+s.Updated+s.Quarantined != 0 || s.Dropped == 0 || s.Dropped != s.Read {
		t.Errorf("%+v", s.Counts)
	}
	if n := len(w.all("Observation")) + len(w.all("Device")) + len(w.all("Provenance")); n != 0 {
		t.Errorf("%d resources", n)
	}
	w.must("oura", "sleep.json", ringNight("n2", "05", "long_sleep"))
	stored := len(w.all("Observation"))
	s = w.must("oura", "sleep.json", ringNight("n2", "05", "deleted"))
	if s.Updated != stored || s.Created != 0 {
		t.Errorf("%d are stored: %+v", stored, s.Counts)
	}
	for _, o := range w.all("Observation") {
		if !bytes.Contains(o.JSON, []byte(`"status":"entered-in-error"`)) {
			t.Errorf("%s", o.JSON)
		}
	}
	if s = w.must("oura", "sleep.json", ringNight("n2", "05", "deleted")); s.Updated+s.Created != 0 {
		t.Errorf("again: %+v", s.Counts)
	}
}

// versionsOf returns the versions of the only Device, oldest first.
func (w *world) versionsOf() []string {
	w.t.Helper()
	devices := w.all("Device")
	if len(devices) != 1 {
		w.t.Fatalf("%d Devices", len(devices))
	}
	var out []string
	for _, r := range devices {
		err := w.pipeline.Store.History(w.t.Context(), r.Ref(), 0, 0, func(v fhir.Resource, _ *access.Facts) bool {
			out = append(out, string(v.JSON))
			return true
		})
		if err != nil {
			w.t.Fatal(err)
		}
	}
	slices.Reverse(out)
	return out
}

// TestLastSeen checks that a Device has the hour of its newest sample, with at
// most one version per hour for that alone, and that late samples do not change
// it.
func TestLastSeen(t *testing.T) {
	inEveryTier(t, func(t *testing.T, w *world) {
		seen := func(hour string) string {
			return `{"type":{"coding":[{"system":"https://pulsegate.dev/fhir/CodeSystem/device-property","code":"last-seen",` +
				`"display":"Last seen"}]},"valueCode":[{"text":"2026-10-01T` + hour + `:00:00Z"}]}`
		}
		for i, c := range []struct {
			hour, minute int
			versions     int
			want         string
		}{{8, 5, 1, "06"}, {8, 50, 1, "06"}, {7, 0, 1, "06"}, {9, 0, 2, "07"}, {9, 59, 2, "07"}, {12, 1, 3, "10"}} {
			at := oct(1, c.hour).Add(time.Duration(c.minute) * time.Minute)
			w.expect(fmt.Sprint(i), "oura", Counts{Read: 1, Created: 1}, nil, pulse(at, 60))
			versions := w.versionsOf()
			if len(versions) != c.versions || !strings.Contains(versions[len(versions)-1], seen(c.want)) {
				t.Errorf("%d: %d versions, %s", i, len(versions), versions[len(versions)-1])
			}
		}
	})
}

// TestBatteryReport checks that a report of the battery alone updates the Device
// and counts as seen.
func TestBatteryReport(t *testing.T) {
	w := newWorld(t)
	report := func(hour int, level string) sample.Sample {
		s := pulse(oct(1, hour), 0)
		s.Metric, s.Value.Num, s.Value.Unit, s.Device.Battery = "ring_battery_level", level, "%", level
		return s
	}
	w.expect("first", "oura", Counts{Read: 1, Created: 1}, nil, report(8, "80"))
	w.expect("second", "oura", Counts{Read: 1, Updated: 1}, nil, report(10, "70"))
	versions := w.versionsOf()
	if len(versions) != 2 || !strings.Contains(versions[1], `"value":70,"unit":"%"`) ||
		!strings.Contains(versions[1], "2026-10-01T08:00:00Z") {
		t.Errorf("%q", versions)
	}
}

// TestFirmwareHistory checks that the history of a Device has each firmware
// version that was in use.
func TestFirmwareHistory(t *testing.T) {
	w := newWorld(t)
	for i, version := range []string{"1.0", "1.1", "2.0"} {
		s := pulse(oct(1, 8+i), 60)
		s.Device.Firmware = version
		w.expect(version, "oura", Counts{Read: 1, Created: 1}, nil, s)
	}
	versions := w.versionsOf()
	if len(versions) != 3 {
		t.Fatalf("%d versions", len(versions))
	}
	for i, want := range []string{"1.0", "1.1", "2.0"} {
		if !strings.Contains(versions[i], `"code":"531976","display":"MDC_ID_PROD_SPEC_FW"}]},"value":"`+want+`"`) {
			t.Errorf("version %d: %s", i+1, versions[i])
		}
	}
}
