package oracle

import (
	"context"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"pulsegate/adapters"
	"pulsegate/fhir"
	"pulsegate/fhir/access"
	"pulsegate/fhir/audit"
	"pulsegate/fhir/consent"
	"pulsegate/fhir/series"
	"pulsegate/fhir/store"
	"pulsegate/mapping/ingest"
	"pulsegate/mapping/sample"
	"pulsegate/mapping/stream"
)

// sorted returns the keys of m in order.
func sorted(m map[string]int) []string { return slices.Sorted(maps.Keys(m)) }

// delivery is one payload.
type delivery struct {
	patient, vendor, name string
	samples               []sample.Sample
}

var patients = []string{"p1", "p2", "p3"}

// metric is a metric of a vendor.
type metric struct {
	vendor, name, unit string
	low, high          int
	scale              int      // number of decimals
	hasEnd             bool     // samples have a duration
	codes              []string // values instead of numbers
}

// metrics lists dense metrics, which are stored as series, and some others.
var metrics = []metric{
	{"apple", "HKQuantityTypeIdentifierHeartRate", "count/min", 40, 190, 0, false, nil},
	{"apple", "HKQuantityTypeIdentifierHeartRateVariabilitySDNN", "ms", 10, 120, 3, false, nil},
	{"apple", "HKQuantityTypeIdentifierOxygenSaturation", "%", 0, 1, 2, false, nil},
	{"apple", "HKQuantityTypeIdentifierRespiratoryRate", "count/min", 8, 30, 1, false, nil},
	{"apple", "HKQuantityTypeIdentifierStepCount", "count", 0, 300, 0, true, nil},
	{"apple", "HKQuantityTypeIdentifierActiveEnergyBurned", "kcal", 0, 20, 3, true, nil},
	{"apple", "HKQuantityTypeIdentifierBodyTemperature", "degC", 35, 40, 1, false, nil},
	{"apple", "HKCorrelationTypeIdentifierBloodPressure", "", 0, 0, 0, false, nil},
	{"apple", "HKCategoryTypeIdentifierSleepAnalysis", "", 0, 0, 0, true, sleepCodes},
	{"apple", "HKCategoryTypeIdentifierSleepAnalysis", "", 0, 0, 0, true, sleepCodes},
	{"apple", "HKCategoryTypeIdentifierAppleStandHour", "", 0, 0, 0, true, standCodes},
	{"fitbit", "heart-rate", "bpm", 40, 190, 0, false, nil},
	{"fitbit", "steps", "count", 0, 200, 0, true, nil},
	{"fitbit", "oxygen-saturation", "%", 85, 100, 1, false, nil},
	{"fitbit", "skin-temperature", "Cel", 30, 36, 2, false, nil},
	{"oura", "heartrate", "bpm", 40, 150, 0, false, nil},
	{"oura", "interbeat_interval", "ms", 500, 1500, 0, false, nil},
	{"oura", "unheard.of", "ms", 1, 9, 0, false, nil},
}

// The codes of metrics without numbers. The metric table does not know the last one of
// each.
var (
	sleepCodes = []string{"HKCategoryValueSleepAnalysisAsleepCore", "HKCategoryValueSleepAnalysisAsleepREM",
		"HKCategoryValueSleepAnalysisAwake", "In Bed", "new of next year"}
	standCodes = []string{"HKCategoryValueAppleStandHourStood", "HKCategoryValueAppleStandHourIdle",
		"HKCategoryValueAppleStandHourKnelt"}
)

// code draws a code, mostly one that the metric table knows.
func (p *pair) code(codes []string) sample.Value {
	v := sample.Value{Kind: sample.Code, Text: codes[p.n(len(codes)-1)]}
	if p.oneIn(30) {
		v.Text = codes[len(codes)-1]
	}
	return v
}

// number draws a number, sometimes with more decimals or trailing zeros.
func (p *pair) number(m metric) string {
	n := m.low + p.n(m.high-m.low+1)
	s := strconv.Itoa(n)
	if m.scale > 0 && !p.oneIn(4) {
		s += "." + fmt.Sprintf("%09d", p.n(1e9))[:1+p.n(m.scale)]
	}
	if p.oneIn(30) {
		s += strings.Repeat("0", 1+p.n(2))
	}
	return s
}

// instants lists the times of measurements: an ordinary day, both ends of daylight saving
// time, a clock that was never set, one a century off, and one in the future.
var instants = []time.Time{
	time.Date(2026, 10, 1, 12, 0, 0, 0, time.UTC), time.Date(2026, 10, 1, 12, 0, 0, 0, time.UTC),
	time.Date(2026, 10, 2, 7, 59, 0, 0, time.UTC),
	time.Date(2026, 10, 25, 0, 30, 0, 0, time.UTC), time.Date(2026, 3, 29, 0, 30, 0, 0, time.UTC),
	time.Date(2026, 11, 1, 5, 30, 0, 0, time.UTC),
	time.Date(1970, 1, 1, 0, 0, 0, 0, time.UTC), time.Date(1926, 10, 1, 12, 0, 0, 0, time.UTC),
	time.Date(2026, 11, 3, 12, 0, 0, 0, time.UTC),
	time.Date(2031, 1, 1, 0, 0, 0, 0, time.UTC),
}

// stream returns n samples of one metric and device.
func (p *pair) stream(m metric, n int) []sample.Sample {
	at := instants[p.n(len(instants))].Add(time.Duration(p.n(7200)) * time.Second)
	if p.oneIn(3) {
		at = instants[0].Add(time.Duration(p.n(60)) * time.Second)
	}
	at = at.In(time.FixedZone("", []int{0, 7200, 3600, -4 * 3600, 19800}[p.n(5)]))
	s := sample.Sample{Metric: m.name, Channel: p.pick("export.xml", "export.xml", "hae"), Zone: sample.Zone(p.n(3)),
		KeyValue: m.vendor == "apple" && !p.oneIn(3),
		Device: sample.Device{Name: "Watch", Manufacturer: "Maker", Model: p.pick("One", "One", "Two"),
			Hardware: "W1", Software: p.pick("11.0", "11.0", "12.1")},
		Source: sample.Source{Name: p.pick("Watch", "Watch", "App"), Version: "1"}}
	if p.oneIn(6) {
		s.UserEntered = true
	}
	if p.oneIn(8) {
		s.Device = sample.Device{}
	}
	step := []time.Duration{0, time.Microsecond, 250 * time.Millisecond, time.Second, 5 * time.Second,
		time.Minute}[p.n(6)]
	if n > 1000 {
		step = 5 * time.Second
	}
	out := make([]sample.Sample, 0, n)
	for range n {
		at = at.Add(step)
		if p.oneIn(10) {
			at = at.Add(time.Duration(p.n(5000)-1000) * time.Millisecond)
		}
		one := s
		one.Start = at
		if m.codes != nil {
			one.Value = p.code(m.codes)
		} else {
			one.Value = sample.Value{Kind: sample.Number, Num: p.number(m), Unit: m.unit}
		}
		switch {
		case m.hasEnd:
			one.End = at.Add([]time.Duration{0, time.Second, time.Minute, 5 * time.Minute, 26 * time.Hour}[p.n(20)/4])
		case strings.HasPrefix(m.name, "HKCorrelation"):
			one.Value = sample.Value{}
			one.Components = []sample.Component{{Name: "systolic",
				Value: sample.Value{Kind: sample.Number, Num: strconv.Itoa(100 + p.n(60)), Unit: "mmHg"}},
				{Name: "diastolic", Value: sample.Value{Kind: sample.Number, Num: strconv.Itoa(60 + p.n(40)),
					Unit: "mmHg"}}}
		case strings.HasSuffix(m.name, "HeartRate") && p.oneIn(3):
			one.Components = []sample.Component{{Name: "motionContext",
				Value: sample.Value{Kind: sample.Code, Text: p.pick("1", "2")}}}
		}
		p.oddity(&one, n)
		out = append(out, one)
	}
	return out
}

// oddity changes some samples so that they do not fit into a series.
func (p *pair) oddity(s *sample.Sample, n int) {
	if p.n(min(12+n/20, 400)) > 4 {
		return
	}
	switch p.n(6) {
	case 0:
		s.Note = "a note"
	case 1:
		s.Status = sample.Retracted
	case 2:
		s.Status = sample.Preliminary
	case 3:
		s.Method = "estimated"
	case 4:
		s.VendorID = "v" + strconv.Itoa(p.n(30))
	case 5:
		if s.Value.Kind == sample.Number {
			s.Value.Num = "62.00000000000000000001"
		}
	}
}

// payload returns new measurements, or earlier ones again, some of them restated.
func (p *pair) payload() delivery {
	if len(p.past) > 0 && p.oneIn(3) {
		old := p.past[p.n(len(p.past))]
		from := p.n(len(old.samples))
		out := delivery{patient: old.patient, vendor: old.vendor, name: old.name,
			samples: slices.Clone(old.samples[from:min(len(old.samples), from+1+p.n(400))])}
		if p.oneIn(2) {
			return out // unchanged
		}
		step := 1 + len(out.samples)/40*10 // restates only some of many samples
		for i := 0; i < len(out.samples); i += step {
			s := &out.samples[i]
			switch p.n(8) {
			case 0:
				s.Value.Num += p.pick("0", "5")
				if s.Value.Kind == sample.Code {
					s.Value = p.code(sleepCodes)
				} else if s.Value.Kind != sample.Number {
					s.Value = sample.Value{}
				} else if !strings.Contains(s.Value.Num, ".") {
					s.Value.Num = p.pick("61", "62.5", "77")
				}
			case 1:
				s.Status = sample.Retracted
			case 2:
				s.Note = "restated"
			}
		}
		return out
	}
	m := metrics[p.n(len(metrics))]
	n := 1 + p.n(12)
	switch {
	case p.size > p.maxSize:
		n = 1
	case p.maxSize > 20000 && p.oneIn(10):
		n = 5000 + p.n(15001)
	case p.oneIn(6):
		n = p.maxSize/20 + p.n(p.maxSize/3)
	}
	out := delivery{patient: p.pick(patients...), vendor: m.vendor, samples: p.stream(m, n)}
	for p.oneIn(2) {
		if other := metrics[p.n(len(metrics))]; other.vendor == m.vendor {
			out.samples = append(out.samples, p.stream(other, 1+p.n(10))...)
		}
	}
	if p.oneIn(4) {
		p.rnd.Shuffle(len(out.samples), func(i, j int) {
			out.samples[i], out.samples[j] = out.samples[j], out.samples[i]
		})
	}
	return out
}

// ingest ingests a payload.
func (p *pair) ingest(d delivery) {
	p.t.Helper()
	if d.name == "" || !p.oneIn(4) {
		p.payloads++
		d.name = "payload " + strconv.Itoa(p.payloads)
	}
	limits := ingest.Limits{}
	if p.oneIn(6) {
		limits.Samples, limits.Batch = 200, 100
	}
	p.note(fmt.Sprintf("ingest %s of %s: %d samples of %s, the first %+v", d.name, d.patient, len(d.samples),
		d.vendor, d.samples[0]))
	var got [2]string
	p.inBoth(func(w *world) {
		w.pipeline.Adapters, w.pipeline.Limits = []adapters.Adapter{feed{d.vendor, d.samples}}, limits
		sum, err := w.pipeline.Run(context.Background(),
			ingest.Request{Patient: d.patient, Vendor: d.vendor, Format: "feed", Body: strings.NewReader(d.name),
				Caller: audit.Caller{Principal: &access.Principal{Operator: "uid:0", Grant: access.All()},
					RequestID: fmt.Sprintf("i%d", p.payloads)}})
		i := 0
		if w.tier {
			i = 1
		}
		got[i] = fmt.Sprintf("%+v %v", sum, err)
		if i == 0 {
			p.size += sum.Created
			p.counts["samples created"] += sum.Created
			p.counts["samples updated"] += sum.Updated
			p.counts["samples unchanged"] += sum.Unchanged
			p.counts["samples quarantined"] += sum.Quarantined
		}
	})
	p.compare("summary of ingest", got[0], got[1])
	p.past = append(p.past, d)
}

// learn collects the ids of new resources.
func (p *pair) learn() {
	db := p.worlds[0].db
	err := db.Changes(context.Background(), store.Seq(p.learned), func(c *store.Change) bool {
		p.learned = uint64(c.Seq)
		switch ref := c.Ref; ref.Type {
		case "Observation":
			if len(p.ids) < 3000 {
				p.ids = append(p.ids, strings.Clone(ref.ID))
			} else if p.oneIn(20) {
				p.ids[p.n(len(p.ids))] = strings.Clone(ref.ID)
			}
		case "Device", "Provenance":
			p.others = append(p.others, ref.String())
		}
		return true
	})
	if err != nil {
		p.t.Fatal(err)
	}
}

// id returns the id of an existing or deleted Observation, or a similar one.
func (p *pair) id() string {
	if len(p.ids) == 0 || p.oneIn(40) {
		return p.pick("nothing", "00000000000000000000000000000000", "vvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvv", "o1", "o2")
	}
	id := p.ids[p.n(len(p.ids))]
	if p.oneIn(3) { // prefer recent ones
		id = p.ids[len(p.ids)-1-p.n(min(len(p.ids), 30))]
	}
	if p.oneIn(50) {
		b := []byte(id)
		b[p.n(len(b))] = "0v1gA"[p.n(5)]
		return string(b)
	}
	return id
}

// stored returns the current version of a resource in the first world.
func (p *pair) stored(ref fhir.Ref) fhir.Resource {
	r, _, err := p.worlds[0].db.Read(context.Background(), ref, 0)
	if err != nil {
		return fhir.Resource{}
	}
	return r
}

var valueIn = regexp.MustCompile(`"value":-?[0-9.]+`)

// edited returns a new body for the Observation id.
func (p *pair) edited(id string) string {
	r := p.stored(fhir.Ref{Type: "Observation", ID: id})
	if r.JSON == nil || p.oneIn(4) {
		return fmt.Sprintf(`{"resourceType":"Observation","id":"%s","status":"%s","category":[{"coding":[{"system":"http://terminology.hl7.org/CodeSystem/observation-category","code":"%s"}]}],"code":{"coding":[{"system":"http://loinc.org","code":"%s"}],"text":"by hand"},"subject":{"reference":"Patient/%s"},"effectiveDateTime":"2026-10-01T12:00:%02d+02:00","valueQuantity":{"value":%d,"unit":"/min","system":"http://unitsofmeasure.org","code":"/min"}}`,
			id, p.pick("final", "amended", "entered-in-error"), p.pick("vital-signs", "activity", "survey"),
			p.pick("8867-4", "55423-8", "9279-1"), p.pick(patients...), p.n(60), 40+p.n(100))
	}
	body := string(r.JSON)
	switch p.n(3) {
	case 0:
		body = valueIn.ReplaceAllString(body, `"value":`+p.pick("61", "62.0", "62.5", "1e2"))
	case 1:
		body = strings.Replace(body, `"status":"final"`, `"status":"amended"`, 1)
	}
	return body
}

// putBefore writes Observations with the ids of samples that are ingested later.
func (p *pair) putBefore(d delivery) {
	zone, err := zoneOf(context.Background(), d.patient)
	if err != nil {
		p.t.Fatal(err)
	}
	streams := stream.New(p.mapper, d.vendor, d.patient, zone)
	for range 3 {
		s := d.samples[p.n(len(d.samples))]
		var row series.Sample
		if st := streams.Place(&s, &row); st != nil {
			k := st.Template.Key(&row)
			p.ask(&request{client: "admin", method: "PUT", url: "/Observation/" + k.ID(), body: p.edited(k.ID())})
		}
	}
}

// putConsent writes a Consent of a patient: full, narrowed or withdrawn.
func (p *pair) putConsent(patient string, full bool) {
	t := consent.Terms{ID: "c" + strconv.Itoa(p.n(2)) + patient, Patient: patient, Now: p.worlds[0].clock()}
	if !full {
		t.Vendor = p.pick("", "apple", "fitbit", "oura")
		t.Recipient = p.pick("", "", "ehr1", "ehr2")
		for p.oneIn(3) {
			t.Categories = append(t.Categories, p.pick("vital-signs", "activity", "laboratory", "exam"))
		}
		slices.Sort(t.Categories)
		t.Categories = slices.Compact(t.Categories)
		if p.oneIn(5) {
			t.Until = t.Now.Add(time.Duration(1+p.n(48)) * time.Hour)
		}
	}
	r, err := consent.Build(t)
	if err != nil {
		p.t.Fatal(err)
	}
	if !full && p.oneIn(4) {
		if r, err = consent.Withdraw(r); err != nil {
			p.t.Fatal(err)
		}
	}
	p.ask(&request{client: "operator", method: "PUT", url: "/Consent/" + r.ID, body: string(r.Sendable())})
}

// scope draws the scope of a client.
func (p *pair) scope() string {
	const category = "http://terminology.hl7.org/CodeSystem/observation-category|"
	out := []string{p.pick("system/*.cruds", "system/*.rs", "system/Observation.rs",
		"system/Observation.rs?category="+category+"vital-signs",
		"system/Observation.rs?category="+category+"activity",
		"system/Observation.cruds?code=http://loinc.org|8867-4", "system/Observation.rs?status=final",
		"system/Observation.s", "system/Observation.r", "system/Observation.cruds",
		"system/Observation.rs?category=vital-signs&code=http://loinc.org|9279-1")}
	for p.oneIn(2) {
		out = append(out, p.pick("system/Device.rs", "system/Provenance.rs", "system/Patient.rs",
			"system/AuditEvent.rs", "system/Consent.rs", "system/Group.rs",
			"system/Observation.r?category="+category+"laboratory"))
	}
	return strings.Join(append(out, "system/Subscription.cruds"), " ")
}

// start performs the first steps of each run.
func (p *pair) start() {
	for _, id := range patients {
		p.ask(&request{client: "admin", method: "PUT", url: "/Patient/" + id,
			body: `{"resourceType":"Patient","id":"` + id + `","name":[{"family":"Muster"}]}`})
		p.putConsent(id, true)
	}
	p.ask(&request{client: "admin", method: "PUT", url: "/Group/g1",
		body: `{"resourceType":"Group","id":"g1","type":"person","actual":true,"member":[{"entity":{"reference":"Patient/p2"}},{"entity":{"reference":"Patient/p1"}}]}`})
	for i := 1; i <= 3; i++ {
		p.scopes["ehr"+strconv.Itoa(i)] = p.scope()
	}
	for range 3 {
		p.ingest(p.payload())
	}
}

// randomStep performs a random change, and then some requests.
func (p *pair) randomStep() {
	switch p.n(22) {
	case 0, 1, 2, 3, 4:
		p.ingest(p.payload())
	case 5:
		d := p.payload()
		if len(d.samples) < 3000 {
			p.putBefore(d)
		}
		p.ingest(d)
	case 6, 7, 8:
		p.write()
	case 9:
		p.bundle()
	case 10:
		p.putConsent(p.pick(patients...), p.oneIn(2))
	case 11:
		p.scopes["ehr"+strconv.Itoa(1+p.n(3))] = p.scope()
	case 12:
		p.subscription()
	case 13, 14:
		p.note("compact")
		if err := p.worlds[1].db.Compact(context.Background()); err != nil {
			p.t.Fatal(err)
		}
	case 15:
		p.note("restart")
		p.restartBoth((*world).restart)
	case 16:
		seed := p.rnd.Uint64()
		p.note("kill")
		p.restartBoth(func(w *world) { w.kill(seed) })
	}
	for range 1 + p.n(4) {
		p.question()
	}
}

// restartBoth restarts both servers.
func (p *pair) restartBoth(how func(*world)) {
	p.inBoth(how)
}

// end compares all data.
func (p *pair) end() {
	p.note("end")
	for _, l := range p.links {
		p.follow(l, 3)
	}
	p.export("admin", "/$export")
	p.ask(&request{client: "admin", method: "GET", url: "/Observation?_summary=count"})
	p.ask(&request{client: "admin", method: "GET", url: "/AuditEvent?_sort=_id&_count=1000"})
	if err := p.worlds[1].db.Check(context.Background(), func(problem string) {
		p.t.Errorf("-oracle.seed %d: check: %s", p.seed, problem)
	}); err != nil {
		p.t.Error(err)
	}
}
