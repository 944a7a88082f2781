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
)

func sorted(m map[string]int) []string { return slices.Sorted(maps.Keys(m)) }

// measured is a payload that was taken in.
type measured struct {
	patient, vendor, name string
	samples               []sample.Sample
}

var patients = []string{"p1", "p2", "p3"}

// metric is one that a vendor sends.
type metric struct {
	vendor, name, unit string
	low, high          int
	scale              int // decimals
	lasting            bool
	codes              []string // instead of numbers
}

// metrics are dense ones and, for the neighbourhood, a few that are not.
var metrics = []metric{
	{"apple", "HKQuantityTypeIdentifierHeartRate", "count/min", 40, 190, 0, false, nil},
	{"apple", "HKQuantityTypeIdentifierHeartRateVariabilitySDNN", "ms", 10, 120, 3, false, nil},
	{"apple", "HKQuantityTypeIdentifierOxygenSaturation", "%", 0, 1, 2, false, nil},
	{"apple", "HKQuantityTypeIdentifierRespiratoryRate", "count/min", 8, 30, 1, false, nil},
	{"apple", "HKQuantityTypeIdentifierStepCount", "count", 0, 300, 0, true, nil},
	{"apple", "HKQuantityTypeIdentifierActiveEnergyBurned", "kcal", 0, 20, 3, true, nil},
	{"apple", "HKQuantityTypeIdentifierBodyTemperature", "degC", 35, 40, 1, false, nil},
	{"apple", "HKCorrelationTypeIdentifierBloodPressure", "", 0, 0, 0, false, nil},
	{"apple", "HKCategoryTypeIdentifierSleepAnalysis", "", 0, 0, 0, true, sleeping},
	{"apple", "HKCategoryTypeIdentifierSleepAnalysis", "", 0, 0, 0, true, sleeping},
	{"apple", "HKCategoryTypeIdentifierAppleStandHour", "", 0, 0, 0, true, standing},
	{"fitbit", "heart-rate", "bpm", 40, 190, 0, false, nil},
	{"fitbit", "steps", "count", 0, 200, 0, true, nil},
	{"fitbit", "oxygen-saturation", "%", 85, 100, 1, false, nil},
	{"fitbit", "skin-temperature", "Cel", 30, 36, 2, false, nil},
	{"oura", "heartrate", "bpm", 40, 150, 0, false, nil},
	{"oura", "interbeat_interval", "ms", 500, 1500, 0, false, nil},
	{"oura", "unheard.of", "ms", 1, 9, 0, false, nil},
}

// Codes of the metrics that have no numbers; the last of each is one that the
// metric table does not know.
var (
	sleeping = []string{"HKCategoryValueSleepAnalysisAsleepCore", "HKCategoryValueSleepAnalysisAsleepREM",
		"HKCategoryValueSleepAnalysisAwake", "In Bed", "new of next year"}
	standing = []string{"HKCategoryValueAppleStandHourStood", "HKCategoryValueAppleStandHourIdle",
		"HKCategoryValueAppleStandHourKnelt"}
)

// code is mostly one that the metric table knows.
func (p *pair) code(codes []string) sample.Value {
	v := sample.Value{Kind: sample.Code, Text: codes[p.n(len(codes)-1)]}
	if p.one(30) {
		v.Text = codes[len(codes)-1]
	}
	return v
}

func (p *pair) number(m metric) string {
	n := m.low + p.n(m.high-m.low+1)
	s := strconv.Itoa(n)
	if m.scale > 0 && !p.one(4) {
		s += "." + fmt.Sprintf("%09d", p.n(1e9))[:1+p.n(m.scale)]
	}
	if p.one(30) {
		s += strings.Repeat("0", 1+p.n(2))
	}
	return s
}

// instants around which measurements lie: an ordinary day, both ends of summer
// time, a clock that was never set, one a century off, and one from the future.
var instants = []time.Time{
	time.Date(2026, 10, 1, 12, 0, 0, 0, time.UTC), time.Date(2026, 10, 1, 12, 0, 0, 0, time.UTC),
	time.Date(2026, 10, 2, 7, 59, 0, 0, time.UTC),
	time.Date(2026, 10, 25, 0, 30, 0, 0, time.UTC), time.Date(2026, 3, 29, 0, 30, 0, 0, time.UTC),
	time.Date(2026, 11, 1, 5, 30, 0, 0, time.UTC),
	time.Date(1970, 1, 1, 0, 0, 0, 0, time.UTC), time.Date(1926, 10, 1, 12, 0, 0, 0, time.UTC),
	time.Date(2026, 11, 3, 12, 0, 0, 0, time.UTC),
	time.Date(2031, 1, 1, 0, 0, 0, 0, time.UTC),
}

// stream makes n samples of one metric and device.
func (p *pair) stream(m metric, n int) []sample.Sample {
	at := instants[p.n(len(instants))].Add(time.Duration(p.n(7200)) * time.Second)
	if p.one(3) {
		at = instants[0].Add(time.Duration(p.n(60)) * time.Second)
	}
	at = at.In(time.FixedZone("", []int{0, 7200, 3600, -4 * 3600, 19800}[p.n(5)]))
	s := sample.Sample{Metric: m.name, Channel: p.of("export.xml", "export.xml", "hae"), Zone: sample.Zone(p.n(3)),
		KeyValue: m.vendor == "apple" && !p.one(3),
		Device: sample.Device{Name: "Watch", Manufacturer: "Maker", Model: p.of("One", "One", "Two"),
			Hardware: "W1", Software: p.of("11.0", "11.0", "12.1")},
		Source: sample.Source{Name: p.of("Watch", "Watch", "App"), Version: "1"}}
	if p.one(6) {
		s.UserEntered = true
	}
	if p.one(8) {
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
		if p.one(10) {
			at = at.Add(time.Duration(p.n(5000)-1000) * time.Millisecond)
		}
		x := s
		x.Start = at
		if m.codes != nil {
			x.Value = p.code(m.codes)
		} else {
			x.Value = sample.Value{Kind: sample.Number, Num: p.number(m), Unit: m.unit}
		}
		switch {
		case m.lasting:
			x.End = at.Add([]time.Duration{0, time.Second, time.Minute, 5 * time.Minute, 26 * time.Hour}[p.n(20)/4])
		case strings.HasPrefix(m.name, "HKCorrelation"):
			x.Value = sample.Value{}
			x.Components = []sample.Component{{Name: "systolic",
				Value: sample.Value{Kind: sample.Number, Num: strconv.Itoa(100 + p.n(60)), Unit: "mmHg"}},
				{Name: "diastolic", Value: sample.Value{Kind: sample.Number, Num: strconv.Itoa(60 + p.n(40)),
					Unit: "mmHg"}}}
		case strings.HasSuffix(m.name, "HeartRate") && p.one(3):
			x.Components = []sample.Component{{Name: "motionContext",
				Value: sample.Value{Kind: sample.Code, Text: p.of("1", "2")}}}
		}
		p.oddity(&x, n)
		out = append(out, x)
	}
	return out
}

// oddity makes some samples ones that do not fit a series.
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

// payload is new measurements, or old ones again, some of them restated.
func (p *pair) payload() measured {
	if len(p.past) > 0 && p.one(3) {
		old := p.past[p.n(len(p.past))]
		from := p.n(len(old.samples))
		out := measured{patient: old.patient, vendor: old.vendor, name: old.name,
			samples: slices.Clone(old.samples[from:min(len(old.samples), from+1+p.n(400))])}
		if p.one(2) {
			return out // the very same
		}
		step := 1 + len(out.samples)/40*10 // of many only some
		for i := 0; i < len(out.samples); i += step {
			s := &out.samples[i]
			switch p.n(8) {
			case 0:
				s.Value.Num += p.of("0", "5")
				if s.Value.Kind == sample.Code {
					s.Value = p.code(sleeping)
				} else if s.Value.Kind != sample.Number {
					s.Value = sample.Value{}
				} else if !strings.Contains(s.Value.Num, ".") {
					s.Value.Num = p.of("61", "62.5", "77")
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
	case p.size > p.room:
		n = 1
	case p.room > 20000 && p.one(10):
		n = 5000 + p.n(15001)
	case p.one(6):
		n = p.room/20 + p.n(p.room/3)
	}
	out := measured{patient: p.of(patients...), vendor: m.vendor, samples: p.stream(m, n)}
	for p.one(2) {
		if x := metrics[p.n(len(metrics))]; x.vendor == m.vendor {
			out.samples = append(out.samples, p.stream(x, 1+p.n(10))...)
		}
	}
	if p.one(4) {
		p.rnd.Shuffle(len(out.samples), func(i, j int) {
			out.samples[i], out.samples[j] = out.samples[j],
				out.samples[i]
		})
	}
	return out
}

// ingest takes a payload in.
func (p *pair) ingest(x measured) {
	p.t.Helper()
	if x.name == "" || !p.one(4) {
		p.payloads++
		x.name = "payload " + strconv.Itoa(p.payloads)
	}
	limits := ingest.Limits{}
	if p.one(6) {
		limits.Samples, limits.Batch = 200, 100
	}
	p.note(fmt.Sprintf("ingest %s of %s: %d samples of %s, the first %+v", x.name, x.patient, len(x.samples),
		x.vendor, x.samples[0]))
	var got [2]string
	p.inBoth(func(w *world) {
		w.pipeline.Adapters, w.pipeline.Limits = []adapters.Adapter{feed{x.vendor, x.samples}}, limits
		sum, err := w.pipeline.Run(context.Background(),
			ingest.Request{Patient: x.patient, Vendor: x.vendor, Format: "feed", Body: strings.NewReader(x.name),
				Caller: audit.Caller{Principal: &access.Principal{Operator: "uid:0", Grant: access.All()},
					RequestID: fmt.Sprintf("i%d", p.payloads)}})
		i := 0
		if w.tier {
			i = 1
		}
		got[i] = fmt.Sprintf("%+v %v", sum, err)
		if i == 0 {
			p.size += sum.Created
			p.made["samples created"] += sum.Created
			p.made["samples updated"] += sum.Updated
			p.made["samples unchanged"] += sum.Unchanged
			p.made["samples quarantined"] += sum.Quarantined
		}
	})
	p.same("summary of ingest", got[0], got[1])
	p.past = append(p.past, x)
}

// learn gathers the names of what was written.
func (p *pair) learn() {
	db := p.both[0].db
	err := db.Changes(context.Background(), store.Seq(p.seen), func(c *store.Change) bool {
		p.seen = uint64(c.Seq)
		switch ref := c.Ref; ref.Type {
		case "Observation":
			if len(p.ids) < 3000 {
				p.ids = append(p.ids, strings.Clone(ref.ID))
			} else if p.one(20) {
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

// id is of an Observation that is or was there, or looks as if.
func (p *pair) id() string {
	if len(p.ids) == 0 || p.one(40) {
		return p.of("nothing", "00000000000000000000000000000000", "vvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvv", "o1", "o2")
	}
	id := p.ids[p.n(len(p.ids))]
	if p.one(3) { // the younger ones are better known
		id = p.ids[len(p.ids)-1-p.n(min(len(p.ids), 30))]
	}
	if p.one(50) {
		b := []byte(id)
		b[p.n(len(b))] = "0v1gA"[p.n(5)]
		return string(b)
	}
	return id
}

// stored is the present form in the first world, for making requests of.
func (p *pair) stored(ref fhir.Ref) fhir.Resource {
	r, _, err := p.both[0].db.Read(context.Background(), ref, 0)
	if err != nil {
		return fhir.Resource{}
	}
	return r
}

var valueIn = regexp.MustCompile(`"value":-?[0-9.]+`)

// edited is the body of an Observation under id.
func (p *pair) edited(id string) string {
	r := p.stored(fhir.Ref{Type: "Observation", ID: id})
	if r.JSON == nil || p.one(4) {
		return fmt.Sprintf(`{"resourceType":"Observation","id":"%s","status":"%s","category":[{"coding":[{"system":"http://terminology.hl7.org/CodeSystem/observation-category","code":"%s"}]}],"code":{"coding":[{"system":"http://loinc.org","code":"%s"}],"text":"by hand"},"subject":{"reference":"Patient/%s"},"effectiveDateTime":"2026-10-01T12:00:%02d+02:00","valueQuantity":{"value":%d,"unit":"/min","system":"http://unitsofmeasure.org","code":"/min"}}`,
			id, p.of("final", "amended", "entered-in-error"), p.of("vital-signs", "activity", "survey"),
			p.of("8867-4", "55423-8", "9279-1"), p.of(patients...), p.n(60), 40+p.n(100))
	}
	body := string(r.JSON)
	switch p.n(3) {
	case 0:
		body = valueIn.ReplaceAllString(body, `"value":`+p.of("61", "62.0", "62.5", "1e2"))
	case 1:
		body = strings.Replace(body, `"status":"final"`, `"status":"amended"`, 1)
	}
	return body
}

// before writes an Observation under the id that a sample will have which
// comes later.
func (p *pair) before(x measured) {
	zone, err := zoneOf(context.Background(), x.patient)
	if err != nil {
		p.t.Fatal(err)
	}
	streams := p.mapper.Streams(x.vendor, x.patient, zone)
	for range 3 {
		s := x.samples[p.n(len(x.samples))]
		var row series.Sample
		if st := streams.Place(&s, &row); st != nil {
			k := st.Template.Key(&row)
			p.ask(&request{client: "admin", method: "PUT", url: "/Observation/" + k.ID(), body: p.edited(k.ID())})
		}
	}
}

// agree writes a consent of a patient: full, narrowed, or taken back.
func (p *pair) agree(patient string, full bool) {
	t := consent.Terms{ID: "c" + strconv.Itoa(p.n(2)) + patient, Patient: patient, Now: p.both[0].clock()}
	if !full {
		t.Vendor = p.of("", "apple", "fitbit", "oura")
		t.Recipient = p.of("", "", "ehr1", "ehr2")
		for p.one(3) {
			t.Categories = append(t.Categories, p.of("vital-signs", "activity", "laboratory", "exam"))
		}
		slices.Sort(t.Categories)
		t.Categories = slices.Compact(t.Categories)
		if p.one(5) {
			t.Until = t.Now.Add(time.Duration(1+p.n(48)) * time.Hour)
		}
	}
	r, err := consent.Build(t)
	if err != nil {
		p.t.Fatal(err)
	}
	if !full && p.one(4) {
		if r, err = consent.Withdraw(r); err != nil {
			p.t.Fatal(err)
		}
	}
	p.ask(&request{client: "operator", method: "PUT", url: "/Consent/" + r.ID, body: string(r.Sendable())})
}

// scope draws what a client may do.
func (p *pair) scope() string {
	const category = "http://terminology.hl7.org/CodeSystem/observation-category|"
	out := []string{p.of("system/*.cruds", "system/*.rs", "system/Observation.rs",
		"system/Observation.rs?category="+category+"vital-signs",
		"system/Observation.rs?category="+category+"activity",
		"system/Observation.cruds?code=http://loinc.org|8867-4", "system/Observation.rs?status=final",
		"system/Observation.s", "system/Observation.r", "system/Observation.cruds",
		"system/Observation.rs?category=vital-signs&code=http://loinc.org|9279-1")}
	for p.one(2) {
		out = append(out, p.of("system/Device.rs", "system/Provenance.rs", "system/Patient.rs",
			"system/AuditEvent.rs", "system/Consent.rs", "system/Group.rs",
			"system/Observation.r?category="+category+"laboratory"))
	}
	return strings.Join(append(out, "system/Subscription.cruds"), " ")
}

// begin is how each life starts.
func (p *pair) begin() {
	for _, id := range patients {
		p.ask(&request{client: "admin", method: "PUT", url: "/Patient/" + id,
			body: `{"resourceType":"Patient","id":"` + id + `","name":[{"family":"Muster"}]}`})
		p.agree(id, true)
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

// live is one step: mostly something changes, and something is asked.
func (p *pair) live() {
	switch p.n(22) {
	case 0, 1, 2, 3, 4:
		p.ingest(p.payload())
	case 5:
		x := p.payload()
		if len(x.samples) < 3000 {
			p.before(x)
		}
		p.ingest(x)
	case 6, 7, 8:
		p.write()
	case 9:
		p.bundle()
	case 10:
		p.agree(p.of(patients...), p.one(2))
	case 11:
		p.scopes["ehr"+strconv.Itoa(1+p.n(3))] = p.scope()
	case 12:
		p.subscription()
	case 13, 14:
		p.note("compact")
		if err := p.both[1].db.Compact(context.Background()); err != nil {
			p.t.Fatal(err)
		}
	case 15:
		p.note("restart")
		p.again((*world).restart)
	case 16:
		seed := p.rnd.Uint64()
		p.note("kill")
		p.again(func(w *world) { w.kill(seed) })
	}
	for range 1 + p.n(4) {
		p.question()
	}
}

// again starts both servers anew.
func (p *pair) again(how func(*world)) {
	p.inBoth(how)
}

// end looks at everything once more.
func (p *pair) end() {
	p.note("end")
	for _, l := range p.links {
		p.follow(l, 3)
	}
	p.export("admin", "/$export")
	p.ask(&request{client: "admin", method: "GET", url: "/Observation?_summary=count"})
	p.ask(&request{client: "admin", method: "GET", url: "/AuditEvent?_sort=_id&_count=1000"})
	if err := p.both[1].db.Check(context.Background(), func(problem string) {
		p.t.Errorf("-oracle.seed %d: check: %s", p.seed, problem)
	}); err != nil {
		p.t.Error(err)
	}
}
