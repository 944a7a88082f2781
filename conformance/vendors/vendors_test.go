package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"pulsegate/adapters/adaptertest"
	"pulsegate/adapters/vendors"
)

const testdata = "../../adapters"

func fixed() time.Time { return time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC) }

func berlin(t *testing.T) *time.Location {
	t.Helper()
	zone, err := time.LoadLocation("Europe/Berlin")
	if err != nil {
		t.Fatal(err)
	}
	return zone
}

func surveyOf(t *testing.T, dir string) *Report {
	t.Helper()
	r, err := survey(t.Context(), dir, berlin(t), fixed)
	if err != nil {
		t.Fatal(err)
	}
	for i := range r.Rows {
		if row := &r.Rows[i]; row.State == failed {
			t.Errorf("%s (%s): %s; notes %s", row.File, row.Format, row.Reason, row.Notes)
		}
	}
	return r
}

// payloads returns the paths of all payloads in the testdata of the adapters, relative
// to the directory testdata.
func payloads(t *testing.T) (out []string) {
	t.Helper()
	for _, a := range vendors.All() {
		n := 0
		for _, f := range a.Formats() {
			dir := filepath.Join(testdata, a.Vendor(), "testdata", f.Name)
			entries, err := os.ReadDir(dir)
			if err != nil {
				t.Fatal(err)
			}
			for _, e := range entries {
				if !strings.HasSuffix(e.Name(), ".golden") {
					n++
					out = append(out, a.Vendor()+"/testdata/"+f.Name+"/"+e.Name())
				}
			}
		}
		if n == 0 {
			t.Fatalf("%s has no payloads", a.Vendor())
		}
	}
	return out
}

// TestTestdata requires that every payload in the testdata of the adapters decodes, with
// the detected vendor and format, and that its items are all accounted for.
func TestTestdata(t *testing.T) {
	r := surveyOf(t, testdata)
	rows := map[string]*Row{}
	for i := range r.Rows {
		rows[r.Rows[i].File] = &r.Rows[i]
	}
	for _, name := range payloads(t) {
		row := rows[name]
		if row == nil || row.State != decoded {
			t.Errorf("%s: %+v", name, row)
			continue
		}
		if parts := strings.Split(name, "/"); row.Vendor != parts[0] || row.Format != parts[2] {
			t.Errorf("%s: detected as %s %s", name, row.Vendor, row.Format)
		}
		if row.Read > 0 && row.Created+row.Quarantined.sum()+row.Dropped.sum() == 0 {
			t.Errorf("%s: %d items became nothing", name, row.Read)
		}
		if row.Created+row.Updated+row.Unchanged+row.Quarantined.sum()+row.Dropped.sum() != row.Read+row.Derived {
			t.Errorf("%s: read %d and derived %d, but the outcomes differ: %+v", name, row.Read, row.Derived,
				row.Figures)
		}
		delete(rows, name)
	}
	for name, row := range rows {
		if row.State != noPayload {
			t.Errorf("%s is %s and not among the payloads of the adapters", name, row.State)
		}
	}
	if len(r.Totals) != len(vendors.All()) {
		t.Errorf("totals of %d vendors", len(r.Totals))
	}
}

// TestFixtures requires that every payload of the fixtures decodes or says why not, and
// that each pattern of notPayloads is needed.
func TestFixtures(t *testing.T) {
	dir := adaptertest.Fixtures(t, ".")
	r := surveyOf(t, dir)
	if len(r.Rows) < 100 {
		t.Errorf("only %d files", len(r.Rows))
	}
	names, err := list(testdata)
	if err != nil {
		t.Fatal(err)
	}
	for i := range r.Rows {
		names = append(names, r.Rows[i].File)
	}
	used := map[int]bool{}
	for _, name := range names {
		used[notPayload(name)] = true
	}
	for i, n := range notPayloads {
		if !used[i] && n.pattern != "fuzz/" { // the fuzzer may add such a directory
			t.Errorf("no file needs the pattern %s", n.pattern)
		}
	}
}

// TestOffByOne checks that every payload fails if its independent count is off by one.
func TestOffByOne(t *testing.T) {
	w, err := newWorld(berlin(t), fixed)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := w.close(); err != nil {
			t.Error(err)
		}
	}()
	for _, by := range []int{1, -1} {
		off := func(format, name string, body *io.SectionReader) (tally, error) {
			n, err := countItems(format, name, body)
			n.items += by
			return n, err
		}
		for _, name := range payloads(t) {
			if row := w.file(t.Context(), testdata, name, off); row.State != failed {
				t.Errorf("%s: %s with a count that is off by %d", name, row.State, by)
			}
		}
	}
	broken := func(string, string, *io.SectionReader) (tally, error) { return tally{}, errors.New("broken") }
	if row := w.file(t.Context(), testdata, payloads(t)[0], broken); row.State != failed {
		t.Errorf("%s without a count", row.State)
	}
}

// TestBadFiles checks which files fail.
func TestBadFiles(t *testing.T) {
	dir := t.TempDir()
	const point = `{"dataPoints":[{"steps":{"count":"7","interval":{"startTime":"2026-05-01T10:00:00Z",` +
		`"startUtcOffset":"0s","endTime":"2026-05-01T10:01:00Z","endUtcOffset":"0s"}}}`
	const both = `{"data":{"workouts":[{"id":"w","name":"Swim","start":"2026-03-10 19:00:00 +0100",` +
		`"end":"2026-03-10 19:45:00 +0100","duration":2640,"distance":{"qty":1.8,"units":"km"}}]}}`
	for name, c := range map[string]struct{ body, state, reason string }{
		"good.json":        {point + `]}`, decoded, ""},
		"error.json":       {`{"error":{"code":401,"status":"UNAUTHENTICATED"}}`, refused, "UNAUTHENTICATED"},
		"README.md":        {"text", noPayload, "text"},
		"empty.json":       {"", failed, "no vendor"},
		"text.txt":         {"Wilhelmina", failed, "no vendor"},
		"cut.json":         {point, failed, "the independent count fails"},
		"malformed.json":   {`{"dataPoints":[Wilhelmina]}`, failed, "refused"},
		"workout.json":     {both, failed, "apple and oura have a format like this"},
		"hae/workout.json": {both, decoded, ""},
	} {
		path := filepath.Join(dir, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(c.body), 0o600); err != nil {
			t.Fatal(err)
		}
		row := rowOf(t, dir, name)
		if row.State != c.state || !strings.Contains(row.Reason, c.reason) {
			t.Errorf("%s: %s: %s, want %s: %s", name, row.State, row.Reason, c.state, c.reason)
		}
		if strings.Contains(row.Reason, "Wilhelmina") {
			t.Errorf("%s: the reason repeats the payload: %s", name, row.Reason)
		}
	}
	if err := os.Symlink(filepath.Join(dir, "missing"), filepath.Join(dir, "unreadable.json")); err != nil {
		t.Fatal(err)
	}
	if row := rowOf(t, dir, "unreadable.json"); row.State != failed || !strings.Contains(row.Reason, "cannot be read") {
		t.Errorf("an unreadable file is %s: %s", row.State, row.Reason)
	}
}

// rowOf returns the row of a file in the survey of dir.
func rowOf(t *testing.T, dir, name string) *Row {
	t.Helper()
	r, err := survey(t.Context(), dir, nil, fixed)
	if err != nil {
		t.Fatal(err)
	}
	for i := range r.Rows {
		if r.Rows[i].File == name {
			return &r.Rows[i]
		}
	}
	t.Fatalf("%s is not in the report", name)
	return nil
}

// TestRefusedWithItems checks that a payload must not be refused if the count finds items.
func TestRefusedWithItems(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "e.json"), []byte(`{"error":{"status":"UNAUTHENTICATED"}}`),
		0o600); err != nil {
		t.Fatal(err)
	}
	w, err := newWorld(nil, fixed)
	if err != nil {
		t.Fatal(err)
	}
	one := func(string, string, *io.SectionReader) (tally, error) { return tally{items: 1}, nil }
	if row := w.file(t.Context(), dir, "e.json", one); row.State != failed {
		t.Errorf("%s: %s", row.State, row.Reason)
	}
	if err := w.close(); err != nil {
		t.Error(err)
	}
}

// TestOutput checks that two reports are equal but for the seconds, that the forms
// agree, that nothing of a payload is printed, and which results run has.
func TestOutput(t *testing.T) {
	var texts []string
	for range 2 {
		r := surveyOf(t, testdata)
		var table, object bytes.Buffer
		if err := errors.Join(r.writeTable(&table), r.writeJSON(&object)); err != nil {
			t.Fatal(err)
		}
		var again Report
		if err := json.Unmarshal(object.Bytes(), &again); err != nil {
			t.Fatal(err)
		}
		if len(again.Rows) != len(r.Rows) || !reflect.DeepEqual(again.Totals, r.Totals) {
			t.Error("the JSON differs from the report")
		}
		if !slices.IsSortedFunc(r.Rows, func(a, b Row) int { return strings.Compare(a.File, b.File) }) {
			t.Error("the files are not sorted")
		}
		for i := range r.Rows {
			if !strings.Contains(table.String(), r.Rows[i].File) {
				t.Errorf("%s is not in the table", r.Rows[i].File)
			}
		}
		texts = append(texts, table.String()+object.String())
	}
	if texts[0] != texts[1] {
		t.Error("two reports differ")
	}
	for _, a := range vendors.All() {
		canaries, err := os.ReadFile(filepath.Join(testdata, a.Vendor(), "testdata", "canaries.txt"))
		if err != nil {
			t.Fatal(err)
		}
		for c := range strings.SplitSeq(strings.TrimSpace(string(canaries)), "\n") {
			if strings.Contains(texts[0], c) {
				t.Errorf("the report has the canary %q", c)
			}
		}
	}
	bad := t.TempDir()
	if err := os.WriteFile(filepath.Join(bad, "x.bin"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		args   []string
		ok, is bool
	}{
		{[]string{"-dir", testdata + "/oura/testdata", "-json"}, true, true},
		{[]string{"-dir", bad}, false, true},
		{[]string{"-dir", t.TempDir()}, false, false},
		{[]string{"-dir", filepath.Join(bad, "missing")}, false, false},
		{[]string{"-dir", ""}, false, false},
		{[]string{"-dir", bad, "-zone", "Mars/Base"}, false, false},
	} {
		if ok, err := run(t.Context(), c.args, io.Discard); ok != c.ok || (err == nil) != c.is {
			t.Errorf("%v: %v, %v", c.args, ok, err)
		}
	}
}

// TestCount compares the counters with counts by hand.
func TestCount(t *testing.T) {
	const pair = `<Record type="HKQuantityTypeIdentifierBloodPressureSystolic" sourceName="a" startDate="1"/>` +
		`<Record type="HKQuantityTypeIdentifierBloodPressureDiastolic" sourceName="a" startDate="1"/>`
	for _, c := range []struct {
		format, name, body string
		items, expected    int
	}{
		{"export.xml", "", `<HealthData><Me/>` + pair +
			`<Correlation type="HKCorrelationTypeIdentifierBloodPressure">` +
			pair + `</Correlation><Workout><WorkoutEvent/></Workout></HealthData>`, 5, 4},
		{"health-auto-export", "", `{"data":{"metrics":[{"data":[{},{}]},{"data":[{}]}],"workouts":[{}]}}`, 4, 4},
		{"companion", "", `{"samples":[{},{}],"deleted":[{}]}`, 3, 3},
		{"healthkit-fhir", "", `{"resourceType":"Observation"} [{"resourceType":"Observation"},{}]`, 3, 3},
		{"open-wearables", "", `{"provider":"samsung","data":{"records":[{}]}}`, 0, 0},
		{"google-health", "", `{"dataPoints":[{"heartRateVariability":{"standardDeviationMilliseconds":1,` +
			`"rootMeanSquareOfSuccessiveDifferencesMilliseconds":2}},{"steps":{}}]} {}`, 2, 3},
		{"fitbit-web-api", "", `{"weight":[{"weight":80,"bmi":20}],"pagination":{}}`, 1, 2},
		{"takeout", "steps-2026-05-04.json", `[{},{}]`, 2, 2},
		{"takeout", "Daily SpO2 - 2026-05-04.csv", "a,b\n1,2\n\n3\n", 2, 2},
		{"takeout", "distance-2026-05-04.json", `[{},{}]`, 0, 1},
		{"v2", "", `{"sleep":{"data":[{"type":"deleted"},{"type":"nap","hrv":{}}]},"personal_info":{"weight":1}}`,
			3, 10},
	} {
		n, err := countItems(c.format, c.name, io.NewSectionReader(strings.NewReader(c.body), 0, int64(len(c.body))))
		if err != nil || n.items != c.items || n.items+n.notes.sum() != c.expected {
			t.Errorf("%s %s: %d items and %s, %v; want %d and %d", c.format, c.name, n.items, n.notes, err, c.items,
				c.expected)
		}
	}
	for _, format := range []string{"export.xml", "health-auto-export", "v2", "unknown"} {
		if _, err := countItems(format, "", io.NewSectionReader(strings.NewReader("{"), 0, 1)); err == nil {
			t.Errorf("%s: no error for a body that ends early", format)
		}
	}
}
