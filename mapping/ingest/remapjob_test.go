package ingest

import (
	"bytes"
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"

	"pulsegate/fhir"
	"pulsegate/fhir/store"
	"pulsegate/mapping"
	"pulsegate/mapping/sample"
)

const weightType = "HKQuantityTypeIdentifierBodyMass"

// renamed is a correction that changes the texts of all rows of Apple.
func renamed(t tester) *mapping.Mapper {
	t.Helper()
	m, err := renamedTable()
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// renamedTable is shared by all tests, because loading a table takes long.
var renamedTable = sync.OnceValues(func() (*mapping.Mapper, error) {
	return correctedTable("apple", corrections["texts"])
})

// twoKinds stores n rows of a series and one document.
func (w *world) twoKinds(n int) {
	w.t.Helper()
	w.use(w.pipeline.Mapper)
	samples := []sample.Sample{weight("a1", "70.5")}
	for i := range n {
		samples = append(samples, heartRate(noon.Add(time.Duration(i)*time.Minute), "62"))
	}
	if sum, err := w.take("two", samples...); err != nil || sum.Created != n+1 {
		w.t.Fatalf("%+v %v", sum.Counts, err)
	}
}

func weight(id, num string) sample.Sample {
	s := heartRate(noon, num)
	s.Metric, s.Value.Unit, s.VendorID = weightType, "kg", id
	return s
}

// versions returns the numbers of the Observations by version and status.
func (w *world) versions() map[string]int {
	out := map[string]int{}
	for _, r := range w.all("Observation") {
		out[string(rune('0'+r.Version))+" "+statusOf(r.JSON)]++
	}
	return out
}

// TestRemapRecords checks that a changed row of a series becomes a document; that the dry
// run says how many do and how large they are; and that the commits have a Provenance,
// which says so, and an AuditEvent.
func TestRemapRecords(t *testing.T) {
	w := newWorld(t)
	w.twoKinds(3)
	w.use(renamed(t))
	dry := w.remap(RemapRequest{Vendor: "apple", DryRun: true, Examples: 2})
	if dry.Documents != 3 || dry.Bytes < 3*2*300 || dry.Bytes > 3*2*2000 || dry.Kinds[ChangeText] != 4 {
		t.Errorf("%d documents of %d bytes, %v", dry.Documents, dry.Bytes, dry.Kinds)
	}
	for _, e := range dry.Examples {
		if e.Patient != "p1" || len(e.Changes) == 0 || e.Changes[0].Before == e.Changes[0].After {
			t.Errorf("example %+v", e)
		}
	}
	events := len(w.all("AuditEvent"))
	known := w.all("Provenance")
	report := w.remap(RemapRequest{Vendor: "Apple"})
	if report.Changed != 4 || report.Documents != dry.Documents || report.Bytes != dry.Bytes || report.Examples != nil {
		t.Errorf("%+v", report)
	}
	if got := w.versions(); got["2 amended"] != 4 {
		t.Errorf("versions %v", got)
	}
	if n := len(w.all("AuditEvent")) - events; n != 3 { // the beginning, the commit, and the end
		t.Errorf("%d AuditEvents", n)
	}
	for id, p := range w.all("Provenance") {
		if _, old := known[id]; old {
			continue
		}
		for _, want := range []string{"mapped to FHIR again", "/identifier/remap-job"} {
			if !bytes.Contains(p.JSON, []byte(want)) {
				t.Errorf("no %q in %s", want, p.JSON)
			}
		}
		want := []string{"apple|1.1.0#" + weightType, "apple|1.1.0#" + heartRateType}
		if rows := w.namedRows(p.JSON); !slices.Equal(rows, want) {
			t.Errorf("rows %v, want %v", rows, want)
		}
	}
	if jobs, err := w.pipeline.RemapJobs(t.Context()); err != nil || len(jobs) != 1 ||
		jobs[0].Status != RemapDone || jobs[0].By != "uid:0" || !slices.Equal(jobs[0].Packs, []string{"apple|1.1.0"}) ||
		jobs[0].Report.Changed != 4 {
		t.Errorf("%+v %v", jobs, err)
	}
	again := len(w.all("Provenance"))
	if report := w.remap(RemapRequest{Vendor: "apple"}); report.Unchanged != 4 || report.changes() != 0 ||
		len(w.all("Provenance")) != again {
		t.Errorf("again: %+v", report)
	}
}

// TestRemapLeavesAlone checks that Observations that were retracted, deleted, or written
// by a client since are left as they are.
func TestRemapLeavesAlone(t *testing.T) {
	w := newWorld(t)
	w.othersWrite = true
	w.twoKinds(3)
	ids := w.ids()
	var rows, documents []string
	for _, id := range ids {
		switch r, ok := w.all("Observation")[id]; {
		case !ok:
		case bytes.Contains(r.JSON, []byte(weightType)):
			documents = append(documents, id)
		default:
			rows = append(rows, id)
		}
	}
	write := func(id string, change func(body []byte) []byte, op store.Op) {
		t.Helper()
		v := w.all("Observation")[id]
		// As package interaction does, an update keeps the vendor.
		_, err := w.pipeline.Store.Commit(t.Context(), &store.Batch{Writes: []store.Write{{Op: op, Vendor: "apple",
			Resource: fhir.Resource{Type: "Observation", ID: id, JSON: change(unstamped(&v))}}}})
		if err != nil {
			t.Fatal(err)
		}
	}
	same := func(body []byte) []byte { return body }
	noted := func(body []byte) []byte {
		return append(bytes.TrimSuffix(bytes.Clone(body), []byte("}")), `,"note":[{"text":"seen"}]}`...)
	}
	write(rows[0], same, store.Remove)
	write(rows[1], func(body []byte) []byte { return withStatus(body, statusRetracted) }, store.Put)
	write(rows[2], noted, store.Put)
	write(documents[0], noted, store.Put)
	before := w.content("Observation")
	w.use(renamed(t))
	report := w.remap(RemapRequest{Vendor: "apple"})
	if report.changes() != 0 {
		t.Errorf("%+v", report)
	}
	after := w.content("Observation")
	for id, body := range before {
		if after[id] != body {
			t.Errorf("changed to %s", after[id])
		}
	}
}

// TestRemapRejected checks that Observations whose samples the corrected pack rejects stay
// as they are and are reported by reason.
func TestRemapRejected(t *testing.T) {
	for reason, edit := range map[string]func(map[string]map[string]any, map[string]any){
		sample.ReasonBadValue: func(rows map[string]map[string]any, _ map[string]any) {
			rows[heartRateType]["range"] = []int{100, 200}
		},
		sample.ReasonUnmapped: func(rows map[string]map[string]any, _ map[string]any) { delete(rows, heartRateType) },
		sample.ReasonBadUnit: func(rows map[string]map[string]any, _ map[string]any) {
			rows[heartRateType]["unit"] = "%"
			delete(rows[heartRateType], "profile")
			delete(rows[heartRateType], "codes")
			rows[heartRateType]["trust"] = "local"
		},
	} {
		w := newWorld(t)
		w.othersWrite = true // that is, what is stored is not what the Mapper makes
		w.twoKinds(3)
		before := w.content("Observation")
		w.use(corrected(t, "apple", edit))
		report := w.remap(RemapRequest{Vendor: "apple"})
		if report.Rejected[reason] != 3 || report.changes() != 0 || report.Unchanged != 1 {
			t.Errorf("%s: %+v", reason, report.RemapCounts)
		}
		for id, body := range w.content("Observation") {
			if before[id] != body {
				t.Errorf("%s: changed to %s", reason, body)
			}
		}
		if len(w.items()) != 0 {
			t.Errorf("%s: items in quarantine", reason)
		}
	}
}

// TestRemapConsent checks that nothing is mapped again without a consent, and that a new
// category needs a consent too.
func TestRemapConsent(t *testing.T) {
	w := newWorld(t)
	w.othersWrite = true
	w.twoKinds(3)
	w.use(corrected(t, "apple", func(rows map[string]map[string]any, _ map[string]any) {
		rows["HKQuantityTypeIdentifierStepCount"]["name"] = "Steps"
		for _, metric := range []string{heartRateType, weightType} {
			rows[metric]["name"] = "New"
		}
		rows[weightType]["category"] = "activity"
		delete(rows[weightType], "profile")
		delete(rows[weightType], "codes")
		rows[weightType]["trust"] = "local"
	}))
	w.consents.withdrawn = true
	if report := w.remap(RemapRequest{Vendor: "apple"}); report.WithoutConsent != 1 || report.Read != 0 {
		t.Errorf("without a consent: %+v", report)
	}
	w.consents.withdrawn, w.consents.categories = false, map[string]bool{"vital-signs": true}
	report := w.remap(RemapRequest{Vendor: "apple"})
	if report.Changed != 3 || report.Skipped[SkippedNoConsent] != 1 {
		t.Errorf("without a consent for the new category: %+v", report.RemapCounts)
	}
	// The consent is withdrawn during the job: at the second commit.
	other := newWorld(t)
	other.othersWrite = true
	other.twoKinds(remapBatch + 50)
	other.use(renamed(t))
	other.consents.withdrawAfter = 3
	if report := other.remap(RemapRequest{Vendor: "apple"}); report.WithoutConsent != 1 ||
		report.Changed != remapBatch {
		t.Errorf("withdrawn: %+v", report)
	}
}

// TestRemapSelects checks that a request selects metrics, a time and patients, and limits
// the changes.
func TestRemapSelects(t *testing.T) {
	w := newWorld(t)
	w.twoKinds(9)
	w.use(renamed(t))
	dry := func(req RemapRequest) RemapReport {
		req.Vendor, req.DryRun = "apple", true
		return w.remap(req)
	}
	if r := dry(RemapRequest{Metrics: []string{weightType}}); r.Changed != 1 || r.Read != 1 {
		t.Errorf("metric: %+v", r.RemapCounts)
	}
	if r := dry(RemapRequest{Since: noon.Add(5 * time.Minute)}); r.Changed != 4 {
		t.Errorf("since: %+v", r.RemapCounts)
	}
	if r := dry(RemapRequest{Patient: "p1"}); r.Changed != 10 || r.Patients != 1 {
		t.Errorf("patient: %+v", r)
	}
	if r := dry(RemapRequest{Patient: "nobody"}); r.Changed != 0 || r.Unavailable != 1 {
		t.Errorf("another patient: %+v", r)
	}
	if r := w.remap(RemapRequest{Vendor: "apple", Limit: 4}); r.Changed != 4 || !r.Limited {
		t.Errorf("limit: %+v", r)
	}
	if r := w.remap(RemapRequest{Vendor: "apple"}); r.Changed != 6 || r.Unchanged != 4 || r.Limited {
		t.Errorf("the rest: %+v", r)
	}
	for _, req := range []RemapRequest{{Vendor: "acme"}, {Vendor: "apple", Patient: "a b"},
		{Vendor: "apple", Metrics: []string{"steps"}}, {Vendor: "apple", Limit: -1},
		{Vendor: "apple", Examples: 1000}} {
		if _, err := w.pipeline.Remap(t.Context(), req); fhir.KindOf(err) != fhir.Invalid {
			t.Errorf("%+v: %v", req, err)
		}
	}
}

// TestRemapContinues checks that the next call continues a job that failed at any of its
// commits, with the same result.
func TestRemapContinues(t *testing.T) {
	const n = 2*remapBatch + 20
	m := renamed(t)
	whole := newWorld(t)
	whole.twoKinds(n)
	whole.use(m)
	want := whole.remap(RemapRequest{Vendor: "apple"})
	for fails := 0; ; fails++ {
		w := newWorld(t)
		w.twoKinds(n)
		w.use(m)
		sound := w.pipeline.Store
		w.pipeline.Store = &failingStore{sound, fails}
		_, err := w.pipeline.Remap(t.Context(), RemapRequest{Vendor: "apple", Caller: operator()})
		w.pipeline.Store = sound
		got := w.remap(RemapRequest{Vendor: "apple"})
		if fails > 0 && err != nil && (got.Changed != want.Changed || got.Read != want.Read || got.Patients != 1) {
			t.Errorf("after %d commits: %+v, want %+v", fails, got, want)
		}
		w.sameChart(whole)
		if v := w.versions(); v["2 amended"] != n+1 {
			t.Errorf("after %d commits: %v", fails, v)
		}
		if err == nil {
			if fails != 5 { // the beginning, three batches and the end
				t.Errorf("the job made %d commits", fails)
			}
			return
		}
	}
}

// TestRemapWhileRunning checks that a running job can be canceled, excludes others of its
// vendor, and lets deliveries in between its batches.
func TestRemapWhileRunning(t *testing.T) {
	w := newWorld(t)
	w.twoKinds(2*remapBatch + 20)
	w.use(renamed(t))
	restated := false
	_, err := w.pipeline.Remap(t.Context(),
		RemapRequest{Vendor: "apple", Caller: operator(), Progress: func(job RemapJob) {
			if job.Report.Changed == 0 || restated {
				return
			}
			restated = true
			if _, err := w.pipeline.Remap(t.Context(),
				RemapRequest{Vendor: "apple"}); fhir.KindOf(err) != fhir.Conflict {
				t.Errorf("a second job: %v", err)
			}
			if sum, err := w.take("restated", weight("a1", "71")); err != nil || sum.Updated != 1 {
				t.Errorf("%+v %v", sum.Counts, err)
			}
			if jobs, err := w.pipeline.RemapJobs(t.Context()); err != nil || len(jobs) != 1 ||
				jobs[0].Status != RemapRunning {
				t.Errorf("%+v %v", jobs, err)
			}
			if err := w.pipeline.CancelRemap(t.Context(), "apple", operator()); err != nil {
				t.Error(err)
			}
		}})
	if !errors.Is(err, errRemapCanceled) || !restated {
		t.Errorf("canceled: %v", err)
	}
	jobs, err := w.pipeline.RemapJobs(t.Context())
	if err != nil || len(jobs) != 1 || jobs[0].Status != RemapCanceled || jobs[0].Report.Changed != remapBatch {
		t.Errorf("%+v %v", jobs, err)
	}
	if err := w.pipeline.CancelRemap(t.Context(), "apple", operator()); fhir.KindOf(err) != fhir.NotFound {
		t.Errorf("canceled again: %v", err)
	}
	w.remap(RemapRequest{Vendor: "apple"})
	for _, o := range w.all("Observation") {
		if bytes.Contains(o.JSON, []byte(weightType)) && !bytes.Contains(o.JSON, []byte(`"value":71,`)) {
			t.Errorf("the later statement is lost: %s", o.JSON)
		}
	}
}

// TestRemapAfterRestart checks that a job that was running when the server ended is
// continued with the same packs only.
func TestRemapAfterRestart(t *testing.T) {
	for _, changed := range []bool{false, true} {
		w := newWorld(t)
		w.othersWrite = changed
		w.twoKinds(remapBatch + 20)
		w.use(renamed(t))
		ctx, stop := context.WithCancel(t.Context())
		_, err := w.pipeline.Remap(ctx, RemapRequest{Vendor: "apple", Caller: operator(), Progress: func(job RemapJob) {
			if job.Report.Changed > 0 {
				stop()
			}
		}})
		stop()
		if fhir.KindOf(err) != fhir.Unavailable {
			t.Fatal(err)
		}
		if changed {
			w.use(corrected(t, "apple", func(rows map[string]map[string]any, _ map[string]any) {}))
			w.pipeline.Mapper.Table().Packs[0].Version = "1.2.0"
		}
		jobs, err := w.pipeline.InterruptedRemaps(t.Context())
		if err != nil || len(jobs) == 1 == changed {
			t.Fatalf("%+v %v", jobs, err)
		}
		if changed {
			all, err := w.pipeline.RemapJobs(t.Context())
			if err != nil || all[0].Status != RemapFailed || all[0].Reason != RemapPacksChanged {
				t.Errorf("%+v %v", all, err)
			}
			continue
		}
		if report := w.remap(jobs[0].Request(operator())); report.Changed != remapBatch+21 ||
			report.Read != report.Changed {
			t.Errorf("continued: %+v", report)
		}
	}
}

// TestRemapQuarantine checks that items in quarantine are tried again: a metric that has a
// row now, and a component that is valid now. An item that is still invalid names the new
// content.
func TestRemapQuarantine(t *testing.T) {
	w := newWorld(t)
	w.use(w.pipeline.Mapper)
	w.must("apple", "export.xml", exportXML(recordXML("HKQuantityTypeIdentifierUnheardOf", "count/min", "61",
		"2026-10-01 08:30:00 +0200", "11.0")))
	w.must("apple", "export.xml", rowing(
		`<WorkoutStatistics type="HKQuantityTypeIdentifierHeartRate" average="90" maximum="410" unit="count/min"/>`))
	if len(w.items()) != 2 {
		t.Fatalf("%+v", w.items())
	}
	edit := func(highest int) *mapping.Mapper {
		return corrected(t, "apple", func(rows map[string]map[string]any, _ map[string]any) {
			rows["HKWorkoutTypeIdentifier"]["name"] = "Exercise"
			rows[heartRateType]["also"] = []string{"HKQuantityTypeIdentifierUnheardOf"}
			for _, c := range components(rows["HKWorkoutTypeIdentifier"]) {
				if strings.Contains(c["name"].(string), "eart") && c["unit"] != nil {
					c["range"] = []int{0, highest}
				}
			}
		})
	}
	w.use(edit(300))
	if dry := w.remap(RemapRequest{Vendor: "apple", DryRun: true}); dry.Items != 2 || dry.Released != 1 {
		t.Errorf("dry run: %d of %d items", dry.Released, dry.Items)
	}
	report := w.remap(RemapRequest{Vendor: "apple"})
	if report.Items != 2 || report.Released != 1 || report.Changed != 1 || len(w.items()) != 1 {
		t.Errorf("%+v", report)
	}
	w.use(edit(500))
	w.pipeline.Mapper.Table().Packs[0].Version = "1.2.0"
	report = w.remap(RemapRequest{Vendor: "apple"})
	if report.Items != 1 || report.Released != 1 || len(w.items()) != 0 {
		t.Errorf("the component: %+v, %+v", report, w.items())
	}
	found := false
	for _, o := range w.all("Observation") {
		found = found || bytes.Contains(o.JSON, []byte(`"value":410,`))
	}
	if !found {
		t.Error("the component is missing")
	}
}

// TestRemapNights checks that nights that are derived from segments are derived again with
// the row of nights.
func TestRemapNights(t *testing.T) {
	w := newWorld(t)
	w.use(w.pipeline.Mapper)
	w.must("apple", "a.json", pushPayload(append(slices.Clone(lateEvening), smallHours...)...))
	w.wantNights("2026-04-14T22:40:00+02:00 to 2026-04-15T06:40:00+02:00: 480 min, final")
	w.use(corrected(t, "apple", func(rows map[string]map[string]any, _ map[string]any) {
		rows["night"]["name"] = "Night's rest"
	}))
	for _, dry := range []bool{true, false} {
		report := w.remap(RemapRequest{Vendor: "apple", DryRun: dry})
		if report.Changed != 1 || report.ByMetric["night"].Changed != 1 {
			t.Errorf("dry %v: %+v", dry, report.RemapCounts)
		}
	}
	w.wantNights("2026-04-14T22:40:00+02:00 to 2026-04-15T06:40:00+02:00: 480 min, amended")
	if report := w.remap(RemapRequest{Vendor: "apple"}); report.changes() != 0 {
		t.Errorf("again: %+v", report.RemapCounts)
	}
}

// TestRemapReplaces checks that a correction of a conversion gives other ids to samples
// with numbers in their ids: the old Observation is retracted, and a redelivery changes
// nothing, whether it comes before or after the samples are mapped again.
func TestRemapReplaces(t *testing.T) {
	m := corrected(t, "apple", corrections["scale"])
	for _, early := range []bool{false, true} {
		w := newWorld(t)
		w.othersWrite = true // the retracted rows are those of the old pack
		w.twoKinds(5)
		before := w.all("Observation")
		w.use(m)
		deliver := func() Counts {
			t.Helper()
			samples := []sample.Sample{weight("a1", "70.5")}
			for i := range 5 {
				samples = append(samples, heartRate(noon.Add(time.Duration(i)*time.Minute), "62"))
			}
			sum, err := w.take("two", samples...)
			if err != nil {
				t.Fatal(err)
			}
			return sum.Counts
		}
		if early {
			if c := deliver(); c.Created != 5 || c.Updated != 1 {
				t.Errorf("under the corrected pack: %+v", c)
			}
		}
		dry := w.remap(RemapRequest{Vendor: "apple", DryRun: true})
		report := w.remap(RemapRequest{Vendor: "apple"})
		if report.Replaced != 5 || report.Kinds[ChangeIdentity] != 5 || dry.Replaced != 5 ||
			dry.Changed != report.Changed {
			t.Errorf("early %v: %+v after %+v", early, report.RemapCounts, dry.RemapCounts)
		}
		if c := deliver(); c.Created+c.Updated != 0 || c.Unchanged != 6 {
			t.Errorf("early %v: redelivered: %+v", early, c)
		}
		retracted, current := 0, 0
		for id, o := range w.all("Observation") {
			switch _, old := before[id]; {
			case statusOf(o.JSON) == statusRetracted:
				retracted++
			case bytes.Contains(o.JSON, []byte(heartRateType)) && !old && bytes.Contains(o.JSON, []byte(`"value":31,`)):
				current++
			}
		}
		if retracted != 5 || current != 5 {
			t.Errorf("early %v: %d retracted and %d current", early, retracted, current)
		}
		if r := w.remap(RemapRequest{Vendor: "apple"}); r.changes() != 0 || r.Skipped[SkippedRetracted] != 5 ||
			len(r.Rejected) != 0 {
			t.Errorf("early %v: again: %+v", early, r.RemapCounts)
		}
	}
}

// TestRemapOfAnyPayload checks that any samples mapped again under any correction are what
// they would be if they had been delivered under the corrected pack, and that a redelivery
// has the same effect. It leaves out payloads of which the correction joins samples: numbers
// that differ before a conversion and not after it, because it rounds.
func TestRemapOfAnyPayload(t *testing.T) {
	mappers := map[string]*mapping.Mapper{}
	for name, edit := range corrections {
		mappers[name] = corrected(t, "apple", edit)
	}
	names := slices.Sorted(maps.Keys(mappers))
	rapid.Check(t, func(t *rapid.T) {
		samples := drawSamples(t, 12)
		m := mappers[rapid.SampledFrom(names).Draw(t, "correction")]
		w, done := newWorldOf(t)
		defer done()
		other, doneOther := newWorldOf(t)
		defer doneOther()
		if distinct(w.pipeline.Mapper, samples) != distinct(m, samples) {
			t.Skip("the correction joins samples")
		}
		w.use(w.pipeline.Mapper)
		deliver := func(w *world) Counts {
			sum, err := w.take("payload", samples...)
			if err != nil {
				t.Fatal(err)
			}
			return sum.Counts
		}
		deliver(w)
		w.use(m)
		other.use(m)
		deliver(other)
		if report := w.remap(RemapRequest{Vendor: "apple"}); len(report.Rejected) > 0 {
			t.Fatalf("%+v", report.RemapCounts)
		}
		w.sameChart(other)
		if got, want := deliver(w), deliver(other); got != want {
			t.Fatalf("redelivered: %+v, want %+v", got, want)
		}
		w.sameChart(other)
	})
}

// distinct returns the number of ids that m gives to samples.
func distinct(m *mapping.Mapper, samples []sample.Sample) int {
	ids := map[string]bool{}
	for i := range samples {
		if r, err := m.Map(nil, "apple", &samples[i], "p1", nil); err == nil {
			ids[r.ID] = true
		}
	}
	return len(ids)
}
