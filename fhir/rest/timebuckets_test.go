package rest

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	_ "time/tzdata"

	"pulsegate/fhir/access"
	"pulsegate/fhir/r4"
)

// buckets reads the Observations of $time-buckets, each held to R4, as "start end count
// minimum maximum average sum".
func (w *world) buckets(a answer) []string {
	w.t.Helper()
	d, err := validator()
	if err != nil {
		w.t.Fatal(err)
	}
	var bundle struct {
		Type  string
		Entry []struct{ Resource json.RawMessage }
	}
	if err := json.Unmarshal(a.body, &bundle); err != nil || bundle.Type != "collection" {
		w.t.Fatalf("%v: %s", err, a.body)
	}
	if _, err := d.Create("Bundle", a.body, "b"); err != nil && strings.Contains(err.Error(), "Bundle") {
		w.t.Errorf("not R4: %s", r4.OutcomeJSON(err))
	}
	var out []string
	for _, e := range bundle.Entry {
		if _, err := d.Create("Observation", e.Resource, "s"); err != nil {
			w.t.Errorf("not R4: %s\n%s", r4.OutcomeJSON(err), e.Resource)
		}
		var o struct {
			EffectivePeriod struct{ Start, End string }
			Component       []struct {
				ValueQuantity struct{ Value json.Number }
			}
		}
		if err := json.Unmarshal(e.Resource, &o); err != nil {
			w.t.Fatal(err)
		}
		line := o.EffectivePeriod.Start + " " + o.EffectivePeriod.End
		for _, c := range o.Component {
			line += " " + c.ValueQuantity.Value.String()
		}
		out = append(out, line)
	}
	return out
}

func (w *world) wantBuckets(client, q string, want ...string) {
	w.t.Helper()
	got := w.buckets(w.want(200, client, "GET", "/Observation/$time-buckets?"+q, ""))
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		w.t.Errorf("%s:\n%s\nwant\n%s", q, strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

const zoned = `{"resourceType":"Patient","id":"%s","extension":[{"url":"http://hl7.org/fhir/StructureDefinition/timezone","valueCode":"%s"}]}`

func TestTimeBuckets(t *testing.T) {
	onEveryStore(t, func(t *testing.T, w *world) {
		w.put("Patient/z1", fmt.Sprintf(zoned, "z1", "Europe/Berlin"), 201)
		put := func(id, at, value string) {
			w.put("Observation/"+id, coded(id, "z1", "a", at, quantity(value)), 201)
		}
		// Berlin sets its clocks on 2026-03-29: a day of 23 hours.
		put("o1", "2026-03-28T23:59:59+01:00", "60")
		put("o2", "2026-03-29T00:00:00+01:00", "61")
		put("o3", "2026-03-29T23:59:59+02:00", "64.5")
		put("o4", "2026-03-29T22:00:00Z", "70") // midnight
		put("day", "2026-03-29", "1000")        // of the date, whatever the zone
		put("month", "2026-03", "5")
		put("o5", "2026-10-25T02:30:00+02:00", "1") // and twice on a day of 25 hours
		put("o6", "2026-10-25T02:30:00+01:00", "2")
		w.put("Observation/wrong", strings.Replace(coded("wrong", "z1", "a", "2026-03-29T10:00:00Z", quantity("9")),
			`"final"`, `"entered-in-error"`, 1), 201)
		w.put("Observation/text", coded("text", "z1", "a", "2026-03-29T10:00:00Z", `,"valueString":"high"`), 201)
		w.put("Observation/other", coded("other", "p2", "a", "2026-03-29T10:00:00Z", quantity("9")), 201)
		const q = "subject=Patient/z1&code=a&system=urn:test"
		day28 := "2026-03-28T00:00:00.000+01:00 2026-03-28T23:59:59.999+01:00 1 60 60 60 60"
		day29 := "2026-03-29T00:00:00.000+01:00 2026-03-29T23:59:59.999+02:00 3 61 1000 375.166666667 1125.5"
		day30 := "2026-03-30T00:00:00.000+02:00 2026-03-30T23:59:59.999+02:00 1 70 70 70 70"
		day25 := "2026-10-25T00:00:00.000+02:00 2026-10-25T23:59:59.999+01:00 2 1 2 1.5 3"
		w.wantBuckets("all", q+"&calendar=day", day28, day29, day30, day25)
		w.wantBuckets("all", q+"&calendar=day&start=2026-03-29&end=2026-03-29", day29)
		w.wantBuckets("all", q+"&calendar=day&end=2026-03-28T23:00:00Z&start=2026-03-28",
			day28,
			"2026-03-29T00:00:00.000+01:00 2026-03-29T00:00:00.999+01:00 2 61 1000 530.5 1061")
		w.wantBuckets("all", q+"&calendar=month&end=2026-03",
			"2026-03-01T00:00:00.000+01:00 2026-03-31T23:59:59.999+02:00 6 5 1000 210.083333333 1260.5")
		w.wantBuckets("all", q+"&calendar=hour&start=2026-10-25&statistic=count",
			"2026-10-25T02:00:00.000+02:00 2026-10-25T02:59:59.999+02:00 1",
			"2026-10-25T02:00:00.000+01:00 2026-10-25T02:59:59.999+01:00 1")
		w.wantBuckets("all", q+"&calendar=week&end=2026-03-29&statistic=sum,count",
			"2026-03-23T00:00:00.000+01:00 2026-03-29T23:59:59.999+02:00 1185.5 4")
		w.wantBuckets("all", q+"&calendar=year&statistic=count",
			"2026-01-01T00:00:00.000+01:00 2026-12-31T23:59:59.999+01:00 8")
		// In another zone the instants move, and the date does not.
		w.wantBuckets("all", q+"&calendar=day&zone=America/New_York&end=2026-03-29&statistic=count,maximum",
			"2026-03-28T00:00:00.000-04:00 2026-03-28T23:59:59.999-04:00 2 61",
			"2026-03-29T00:00:00.000-04:00 2026-03-29T23:59:59.999-04:00 3 1000")
		w.wantBuckets("all", q+"&minutes=15&end=2026-03-30T00:00:00Z&statistic=count",
			"2026-03-28T22:45:00.000Z 2026-03-28T22:59:59.999Z 1",
			"2026-03-28T23:00:00.000Z 2026-03-28T23:14:59.999Z 1",
			"2026-03-29T21:45:00.000Z 2026-03-29T21:59:59.999Z 1",
			"2026-03-29T22:00:00.000Z 2026-03-29T22:14:59.999Z 1")
		w.wantBuckets("all", "subject=Patient/z1&code=zzz&calendar=day")
		w.bucketsByPOST(q)
		w.refusedBuckets(q)
		if w.audited("search-type", "Patient/z1") == 0 {
			t.Error("no AuditEvent for z1")
		}
		w.consents.set("z1", true)
		w.wantBuckets("all", q+"&calendar=day")
	})
}

func (w *world) bucketsByPOST(q string) {
	w.t.Helper()
	get := w.buckets(w.want(200, "all", "GET", "/Observation/$time-buckets?"+q+"&calendar=day&zone=UTC&start=2026-03-29", ""))
	post := w.buckets(w.want(200, "all", "POST", "/Observation/$time-buckets", `{"resourceType":"Parameters","parameter":[
		{"name":"subject","valueUri":"Patient/z1"},{"name":"coding","valueCoding":{"system":"urn:test","code":"a"}},
		{"name":"calendar","valueCode":"day"},{"name":"zone","valueCode":"UTC"},{"name":"start","valueDateTime":"2026-03-29"}]}`))
	if len(get) != 2 || strings.Join(get, "\n") != strings.Join(post, "\n") {
		w.t.Errorf("GET and POST differ: %v, %v", get, post)
	}
}

func (w *world) refusedBuckets(q string) {
	w.t.Helper()
	for _, bad := range []string{"code=a&calendar=day", "subject=Patient/z1&calendar=day", q, q + "&calendar=day&minutes=5",
		q + "&calendar=decade", q + "&calendar=", q + "&minutes=0", q + "&minutes=10081", q + "&minutes=x",
		q + "&minutes=15&zone=UTC", q + "&calendar=day&zone=Local", q + "&calendar=day&zone=Nowhere/City",
		q + "&calendar=day&zone=../../etc/passwd", q + "&calendar=day&zone=" + strings.Repeat("a", 65),
		q + "&calendar=day&start=x", q + "&calendar=day&end=2026-13-01", q + "&calendar=day&start=2026-03-02&end=2026-03-01",
		q + "&calendar=day&calendar=day", q + "&calendar=day&statistic=median", q + "&calendar=day&device=Patient/z1",
		q + "&calendar=day&device=x", q + "&calendar=day&nothing=1", q + "&calendar=day&preferred=maybe",
		q + "&calendar=day&subject=Patient/p2", "subject=Group/g&code=a&calendar=day",
		q + "&calendar=day&preferred=true&device=Device/d",
		"subject=Patient/p1&code=a&calendar=day"} { // the zone of p1 is not known
		w.want(400, "all", "GET", "/Observation/$time-buckets?"+bad, "")
	}
	w.want(415, "all", "GET", "/Observation/$time-buckets?"+q+"&calendar=day&preferred=true", "") // no such sources here
	w.want(400, "all", "POST", "/Observation/$time-buckets",
		`{"resourceType":"Parameters","parameter":[{"name":"subject","valueCodeableConcept":{"text":"x"}}]}`)
	w.want(401, "", "GET", "/Observation/$time-buckets?"+q+"&calendar=day", "")
	w.want(403, "patients", "GET", "/Observation/$time-buckets?"+q+"&calendar=day", "")
	w.want(404, "all", "GET", "/Patient/$time-buckets?"+q+"&calendar=day", "")
}

// TestZoneIsNotDisclosed tests that a caller who sees neither the Patient nor a measurement
// cannot tell whether the Patient has a zone. The control is a caller who sees one.
func TestZoneIsNotDisclosed(t *testing.T) {
	onEveryStore(t, func(t *testing.T, w *world) {
		w.put("Patient/z1", fmt.Sprintf(zoned, "z1", "Europe/Berlin"), 201)
		w.put("Observation/o1", coded("o1", "z1", "a", "2026-03-28T10:00:00Z", quantity("60")), 201)
		w.tokens["observations"] = grant(w.consents, access.Rule{Type: "Observation", May: access.Search})
		const q = "/Observation/$time-buckets?calendar=day&code=a&subject=Patient/"
		if n := len(w.buckets(w.want(200, "observations", "GET", q+"z1", ""))); n != 1 {
			t.Errorf("%d buckets", n)
		}
		w.consents.set("z1", true)
		hidden := w.want(400, "observations", "GET", q+"z1", "")
		absent := w.want(400, "observations", "GET", q+"nobody", "")
		if string(hidden.body) != string(absent.body) {
			t.Errorf("%s\n%s", hidden.body, absent.body)
		}
	})
}

// TestBucketsOfManyCodes tests codes, units, panels and a Device.
func TestBucketsOfManyCodes(t *testing.T) {
	onEveryStore(t, func(t *testing.T, w *world) {
		w.put("Device/d1", `{"resourceType":"Device","id":"d1","patient":{"reference":"Patient/p1"}}`, 201)
		w.put("Observation/bp", coded("bp", "p1", "panel", "2026-01-02T10:00:00Z",
			`,"component":[{"code":{"coding":[{"system":"urn:test","code":"sys"}]}`+quantity("120")+
				`},{"code":{"coding":[{"system":"urn:test","code":"dia"}]}`+quantity("80")+`}]`), 201)
		w.put("Observation/hr", strings.Replace(coded("hr", "p1", "a", "2026-01-02T11:00:00Z", quantity("60")), `"subject"`,
			`"device":{"reference":"Device/d1"},"subject"`, 1), 201)
		w.put("Observation/hz", coded("hz", "p1", "a", "2026-01-02T12:00:00Z",
			strings.Replace(quantity("1.2"), `"/min"`, `"Hz"`, 1)), 201)
		const q = "subject=Patient/p1&calendar=day&zone=UTC&statistic=sum&code="
		const at = "2026-01-02T00:00:00.000Z 2026-01-02T23:59:59.999Z "
		w.wantBuckets("all", q+"panel", at+"80", at+"120")
		w.wantBuckets("all", q+"sys", at+"120")
		w.wantBuckets("all", q+"a", at+"60", at+"1.2")
		w.wantBuckets("all", q+"a&device=Device/d1", at+"60")
		w.wantBuckets("all", q+"a&device=Device/d2")
		w.wantBuckets("all", q+"a&code=sys", at+"60", at+"1.2", at+"120")
	})
}

// TestTooManyBuckets tests that the number of buckets is bounded.
func TestTooManyBuckets(t *testing.T) {
	onEveryStore(t, func(t *testing.T, w *world) {
		w.limits.PageBytes = 2000
		for i := range 4 {
			id := fmt.Sprint("o", i)
			w.put("Observation/"+id, coded(id, "p1", "a", fmt.Sprintf("2026-01-02T10:%02d:00Z", i), quantity("60")), 201)
		}
		const q = "/Observation/$time-buckets?subject=Patient/p1&code=a"
		w.want(200, "all", "GET", q+"&minutes=60", "")
		w.want(403, "all", "GET", q+"&minutes=1", "")
	})
}
