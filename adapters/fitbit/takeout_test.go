package fitbit_test

import (
	"archive/zip"
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"pulsegate/adapters"
	"pulsegate/adapters/adaptertest"
	"pulsegate/adapters/fitbit"
	"pulsegate/mapping/sample"
)

// zipFile is a file of an archive of a test.
type zipFile struct{ name, body string }

// zipped returns an archive. Profiles are stored, so that tests find their texts.
func zipped(t testing.TB, files ...zipFile) []byte {
	t.Helper()
	var buf bytes.Buffer
	z := zip.NewWriter(&buf)
	for _, f := range files {
		h := &zip.FileHeader{Name: f.name, Method: zip.Deflate}
		if strings.HasSuffix(f.name, "Profile.csv") {
			h.Method = zip.Store
		}
		w, err := z.CreateHeader(h)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, f.body); err != nil {
			t.Fatal(err)
		}
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

func decodeZip(t testing.TB, body []byte, zone *time.Location) (*adaptertest.Recorder, error) {
	t.Helper()
	r := adaptertest.NewRecorder()
	err := fitbit.New().Decode(t.Context(), adapters.Input{Name: "takeout.zip", Format: "takeout",
		Body: bytes.NewReader(body), At: bytes.NewReader(body), Size: int64(len(body)), Zone: zone,
		Received: adaptertest.Received()}, r)
	for i, s := range r.Samples {
		if err := adaptertest.Check(s); err != nil {
			t.Errorf("sample %d (%s): %v", i, s.Metric, err)
		}
	}
	return r, err
}

const profileCSV = "id,full_name,date_of_birth,timezone,email_address\n" +
	"ZX9QQ7,\"Quilla, Wilhelmina\",1970-01-02,Europe/Berlin,wq@example.org\n"

// archiveFiles returns the files of the archive in testdata: both trees, private
// folders, and files that no reader knows.
func archiveFiles(t testing.TB) []zipFile {
	t.Helper()
	const root = "Takeout/Fitbit/"
	out := []zipFile{{root + "Your Profile/Profile.csv", profileCSV}, {root + "Your Profile/Photos.json", "[]"},
		{root + "Social/badge.json", `[{"name":"Wilhelmina"}]`}, {root + "README.txt", "read me"},
		{root + "Physical Activity_GoogleData/gps_location_2026-05-04.csv", "timestamp,latitude\n"},
		{root + "Oxygen Saturation (SpO2)/estimated_oxygen_variation-2026-05-04.csv", "timestamp,ratio\n"},
		{root + "Global Export Data/hiccups-2026-05-04.json", "[]"},
		{root + "Global Export Data/height-2026-05-04.json", "[{"},
		{root + "Global Export Data/steps-2026-05-05.json", `[{"dateTime":`}, {"__MACOSX/._steps-2026-05-04.json", "x"}}
	folders := map[string]string{".json": "Global Export Data/", ".csv": "Physical Activity_GoogleData/"}
	files, err := filepath.Glob("testdata/takeout/*.*")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if folder := folders[filepath.Ext(f)]; folder != "" {
			b, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			// The archive covers another month than the files in its directory.
			move := strings.NewReplacer("2026-05-0", "2026-06-0", "2026-08-0", "2026-06-0", "05/0", "06/0",
				"4000000", "4200000", "77000", "77200", "17778", "17808", "17779", "17809", "17780", "17810")
			out = append(out, zipFile{root + folder + move.Replace(filepath.Base(f)), move.Replace(string(b))})
		}
	}
	return out
}

// TestArchiveIsCurrent checks that the archive in testdata holds the files of its
// directory. It writes the archive with -update.
func TestArchiveIsCurrent(t *testing.T) {
	const path = "testdata/takeout/takeout.zip"
	want := zipped(t, archiveFiles(t)...)
	if f := flag.Lookup("update"); f != nil && f.Value.String() == "true" {
		if err := os.WriteFile(path, want, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	a, err := zip.NewReader(bytes.NewReader(got), int64(len(got)))
	if err != nil {
		t.Fatal(err)
	}
	files := archiveFiles(t)
	if len(a.File) != len(files) {
		t.Fatalf("%d files in the archive, want %d (run the test with -update)", len(a.File), len(files))
	}
	for i, f := range a.File {
		rc, err := f.Open()
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(rc)
		if err != nil || f.Name != files[i].name || string(b) != files[i].body {
			t.Errorf("file %d differs from testdata (run the test with -update): %v", i+1, err)
		}
	}
}

// TestArchiveIsPrivate checks that of the private folders only the zone of the
// profile is read, and that names that the wearer wrote are not.
func TestArchiveIsPrivate(t *testing.T) {
	r, err := decodeZip(t, zipped(t, archiveFiles(t)...), nil)
	if err != nil {
		t.Fatal(err)
	}
	lines, err := adaptertest.JSONLines(r)
	if err != nil {
		t.Fatal(err)
	}
	for _, private := range []string{"Wilhelmina", "Quilla", "1970-01-02", "example.org", "ZX9QQ7"} {
		if bytes.Contains(lines, []byte(private)) {
			t.Errorf("%s reaches the sink", private)
		}
	}
	if !bytes.Contains(lines, []byte(`"iana":"Europe/Berlin"`)) {
		t.Error("the zone of the profile is not used")
	}
	if r.Drops["ignored private-file"] != 2 || r.Drops["ignored location"] != 1 {
		t.Errorf("drops: %v", r.Drops)
	}
}

// TestOneTreePerMetric checks that the copy of the data that reaches further is read,
// and the legacy one if both reach as far.
func TestOneTreePerMetric(t *testing.T) {
	legacy := func(day string) zipFile {
		return zipFile{"Fitbit/Global Export Data/heart_rate-" + day + ".json",
			`[{"dateTime":"06/01/26 10:00:00","value":{"bpm":61,"confidence":3}}]`}
	}
	google := func(day string) zipFile {
		return zipFile{"Fitbit/Physical Activity_GoogleData/heart_rate_" + day + ".csv",
			"timestamp,beats per minute,data source\n2026-06-01T10:00:00Z,61,Sense\n"}
	}
	weights := zipFile{"Fitbit/Global Export Data/weight-2026-06-01.json",
		`[{"logId":1,"weight":176.4,"bmi":25.3,"fat":20,"date":"06/01/26","time":"07:00:00"}]`}
	for name, c := range map[string]struct {
		files []zipFile
		want  string // metric and device of the samples, then drops
	}{
		"as far":       {[]zipFile{legacy("2026-06-01"), google("2026-06-01")}, "heart-rate/ duplicate file"},
		"google ahead": {[]zipFile{legacy("2026-06-01"), google("2026-06-02")}, "heart-rate/Sense duplicate file"},
		"unreadable copies": {[]zipFile{{"Fitbit/distance-2026-06-01.json", "[]"},
			{"Fitbit/distance_2026-05-01.csv", "timestamp,millimeters,data source\n2026-06-01T07:00:00Z,5000,Sense\n"},
			{"Fitbit/UserSleeps_2026-07-01.csv", "a,b\n"}, {"Fitbit/sleep-2026-06-01.json", "[]"}},
			"distance/Sense duplicate file"},
		"only google":   {[]zipFile{google("2026-06-02")}, "heart-rate/Sense"},
		"weights alone": {[]zipFile{weights}, "weight/ bmi/ body-fat/"},
		"two weights": {[]zipFile{weights, {"weight.csv", "timestamp,weight grams,data source\n2026-06-01T07:00:00Z,80000,Aria\n"}},
			"bmi/ body-fat/ weight/ duplicate weight"},
	} {
		r, err := decodeZip(t, zipped(t, c.files...), nil)
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
		var got []string
		for _, s := range r.Samples {
			got = append(got, s.Metric+"/"+s.Device.Name)
		}
		for d := range r.Drops {
			got = append(got, d)
		}
		if g := strings.Join(got, " "); g != c.want {
			t.Errorf("%s: %q, want %q", name, g, c.want)
		}
	}
}

// TestMalformedExports checks that bodies that are no archive and no known file, and
// broken archives, give clear errors.
func TestMalformedExports(t *testing.T) {
	good := zipped(t, zipFile{"Fitbit/steps-2026-06-01.json", `[{"dateTime":"06/01/26 10:00:00","value":"5"}]`})
	for _, c := range []struct{ name, body, rule string }{
		{"takeout.zip", "", "neither an archive nor a known file"},
		{"notes.json", "[]", "the name of the file must be kept"},
		{"takeout.zip", "PK\x03\x04junk", "no readable zip directory"},
		{"takeout.zip", string(zipped(t)), "neither an archive nor"},
		{"takeout.zip", string(zipped(t, zipFile{"Fitbit/notes.txt", "x"})), "no known file"},
		{"takeout.zip", strings.Replace(string(good), "steps-2026-06-01.json", "sleep-2026-06-01.json", 1), ""},
		{"steps-2026-06-01.json", "", "the body is empty"},
		{"steps-2026-06-01.json", "{}", "an object or array is expected"},
		{"steps-2026-06-01.json", "[][]", "more than one list"},
		{"steps-2026-06-01.json", `[{"dateTime":`, "ends in the middle"},
		{"sleep_score.csv", "", "the header is missing"},
		{"sleep_score.csv", "a,b\n", "no column timestamp"},
		{"sleep_score.csv", "timestamp,b\n" + strings.Repeat("x", 1<<17), "longer than 64 KiB"},
	} {
		r := adaptertest.NewRecorder()
		err := fitbit.New().Decode(t.Context(), adapters.Input{Name: c.name, Format: "takeout",
			Body: strings.NewReader(c.body), At: strings.NewReader(c.body), Size: int64(len(c.body)),
			Received: adaptertest.Received()}, r)
		var pe *adapters.PayloadError
		if c.rule != "" && (!errors.As(err, &pe) || !strings.Contains(pe.Rule, c.rule)) {
			t.Errorf("%s: %v, want %q", c.name, err, c.rule)
		}
		if c.rule == "" && err != nil && !errors.As(err, &pe) {
			t.Errorf("%s: %v is not a PayloadError", c.name, err)
		}
	}
}

// TestLargeExports checks that memory does not grow with a file of an archive, as
// JSON or CSV, or with the number of files.
func TestLargeExports(t *testing.T) {
	var beats, spo2 strings.Builder
	beats.WriteString("[")
	spo2.WriteString("timestamp,value\n")
	const items = 200_000
	for i := range items {
		if i > 0 {
			beats.WriteString(",")
		}
		at := time.Date(2026, 6, 1, 0, 0, i, 0, time.UTC)
		fmt.Fprintf(&beats, `{"dateTime":"%s","value":{"bpm":%d,"confidence":3}}`, at.Format("01/02/06 15:04:05"), 50+i%60)
		fmt.Fprintf(&spo2, "%s,9%d.5\n", at.Format(time.RFC3339), i%10)
	}
	beats.WriteString("]")
	files := []zipFile{{"Fitbit/heart_rate-2026-06-01.json", beats.String()}, {"Fitbit/Minute SpO2 - 2026-06-01.csv", spo2.String()}}
	for i := range 500 {
		day := time.Date(2026, 6, i, 0, 0, 0, 0, time.UTC).Format(time.DateOnly)
		files = append(files, zipFile{"Fitbit/steps-" + day + ".json", "[]"})
	}
	body := zipped(t, files...)
	beats.Reset()
	spo2.Reset()
	files = nil
	sink := &heapSink{t: t}
	sink.base = heap()
	err := fitbit.New().Decode(t.Context(), adapters.Input{Name: "takeout.zip", Body: bytes.NewReader(body),
		At: bytes.NewReader(body), Size: int64(len(body)), Received: adaptertest.Received()}, sink)
	if err != nil || sink.samples != 2*items {
		t.Errorf("%v: %d samples", err, sink.samples)
	}
	if grown := sink.peak >> 20; grown > 8 {
		t.Errorf("the heap grew by %d MiB", grown)
	}
}

// heap returns the bytes in use after a collection.
func heap() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// heapSink counts samples and measures the heap after every 50,000.
type heapSink struct {
	t          *testing.T
	samples    int
	base, peak int64
}

func (s *heapSink) Sample(*sample.Sample) error {
	if s.samples++; s.samples%50_000 == 0 {
		s.peak = max(s.peak, heap()-s.base)
	}
	return nil
}

func (s *heapSink) Reject(r *sample.Reject) error {
	s.t.Errorf("rejected: %s %s", r.Where, r.Detail)
	return nil
}
func (s *heapSink) Drop(string, string, int) {}
func (s *heapSink) Progress(int64)           {}

// TestDetectLeavesOtherVendors checks that the payloads of the other adapters are not
// taken for legacy payloads or exports.
func TestDetectLeavesOtherVendors(t *testing.T) {
	files, err := filepath.Glob("../*/testdata/*/*.*")
	if err != nil || len(files) == 0 {
		t.Fatalf("no payloads: %v", err)
	}
	for _, f := range files {
		if strings.HasPrefix(f, "../fitbit/") || filepath.Ext(f) == ".golden" {
			continue
		}
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		if format, ok := fitbit.New().Detect(filepath.Base(f), b[:min(len(b), 64<<10)]); ok && format != "google-health" {
			t.Errorf("%s is taken for %s", f, format)
		}
	}
}
