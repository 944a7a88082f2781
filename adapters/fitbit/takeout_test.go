package fitbit_test

import (
	"archive/zip"
	"bytes"
	"flag"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"pulsegate/adapters"
	"pulsegate/adapters/adaptertest"
	"pulsegate/adapters/fitbit"
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
			// The archive is of another month than the files beside it.
			move := strings.NewReplacer("2026-05-0", "2026-06-0", "2026-08-0", "2026-06-0", "05/0", "06/0",
				"4000000", "4200000", "77000", "77200", "17778", "17808", "17779", "17809", "17780", "17810")
			out = append(out, zipFile{root + folder + move.Replace(filepath.Base(f)), move.Replace(string(b))})
		}
	}
	return out
}

// TestArchiveIsCurrent checks that the archive in testdata holds the files beside
// it. It writes the archive with -update.
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
