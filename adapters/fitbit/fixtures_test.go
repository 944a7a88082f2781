package fitbit_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"pulsegate/adapters"
	"pulsegate/adapters/adaptertest"
	"pulsegate/adapters/fitbit"
)

// outcomes returns how many samples, rejects and drops an item of a file must leave,
// by rules that are independent of the decoder. Most items leave one.
func outcomes(file string, item map[string]any) int {
	n := 0
	for _, name := range []string{"weight", "bmi", "fat"} {
		if _, ok := item[name]; ok && (strings.HasPrefix(file, "weight") || strings.HasPrefix(file, "body_log")) {
			n++
		}
	}
	if minutes, ok := item["minutes"].([]any); ok {
		n += len(minutes)
	}
	if value, ok := item["value"].(map[string]any); ok && strings.HasPrefix(file, "activities-heart") {
		if _, ok := value["restingHeartRate"]; ok {
			n++
		}
		if zones, ok := value["heartRateZones"].([]any); ok && len(zones) > 0 {
			n++
		}
	}
	return max(n, 1)
}

// countItems counts what a file must leave, from its text alone.
func countItems(t *testing.T, name string, body []byte) (n int) {
	t.Helper()
	if strings.HasSuffix(name, ".csv") {
		return len(strings.Split(strings.TrimSpace(string(body)), "\n")) - 1
	}
	count := func(list []any) {
		for _, item := range list {
			if o, ok := item.(map[string]any); ok {
				n += outcomes(name, o)
			}
		}
	}
	var v any
	if err := json.Unmarshal(body, &v); err != nil {
		t.Fatal(err)
	}
	switch v := v.(type) {
	case []any:
		count(v)
	case map[string]any:
		lists := 0
		for member, inner := range v {
			switch inner := inner.(type) {
			case []any:
				if member != "minutes" {
					lists++
					count(inner)
				}
			case map[string]any:
				if dataset, ok := inner["dataset"].([]any); ok {
					lists++
					count(dataset)
				}
			}
		}
		if lists == 0 {
			count([]any{v})
		}
	}
	return n
}

// left counts what a payload left in r.
func left(r *adaptertest.Recorder) int {
	n := len(r.Samples)
	for _, x := range r.Rejects {
		if x.Component == "" {
			n++
		}
	}
	for _, d := range r.Drops {
		n += d
	}
	return n
}

// withoutData lists the fixtures that hold no data, with the rule that the error
// must state.
var withoutData = map[string]string{
	"error_401_expired.json":              "expired_token",
	"error_429.json":                      "answered with an error: request",
	"notification.json":                   "notification",
	"notification_userRevokedAccess.json": "notification",
	"sleep_v1.2_pending.json":             "still being processed",
	"token_response.json":                 "token endpoint",
}

// TestLegacyFixtures decodes every fixture of archives and of the Fitbit Web API. All
// items must be read, rejected or dropped, as an independent count says, and payloads
// without data must say so.
func TestLegacyFixtures(t *testing.T) {
	zone := time.FixedZone("", 3600)
	for dir, format := range map[string]string{"fitbit/takeout": "takeout",
		"fitbit/legacy-webapi/synthetic": "fitbit-web-api"} {
		files := 0
		err := filepath.WalkDir(adaptertest.Fixtures(t, dir), func(path string, e fs.DirEntry, err error) error {
			if err != nil || e.IsDir() {
				return err
			}
			files++
			body, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			checkFixture(t, e.Name(), format, body, zone)
			return nil
		})
		if err != nil || files < 10 {
			t.Errorf("%s: %d files, %v", dir, files, err)
		}
	}
}

func checkFixture(t *testing.T, name, format string, body []byte, zone *time.Location) {
	t.Helper()
	if f, ok := fitbit.New().Detect(name, body); !ok || f != format {
		t.Errorf("%s: detected as %q, want %q", name, f, format)
	}
	r := adaptertest.NewRecorder()
	err := fitbit.New().Decode(t.Context(), adapters.Input{Name: name, Body: bytes.NewReader(body), Zone: zone,
		Received: adaptertest.Received()}, r)
	if rule := withoutData[name]; rule != "" {
		var pe *adapters.PayloadError
		if !errors.As(err, &pe) || !strings.Contains(pe.Rule, rule) || left(r) != 0 {
			t.Errorf("%s: %v, want an error with %q", name, err, rule)
		}
		return
	}
	if err != nil {
		t.Errorf("%s: %v", name, err)
	}
	if got, want := left(r), countItems(t, name, body); got != want {
		t.Errorf("%s: %d samples, %d rejects, drops %v; the file has %d", name, len(r.Samples), len(r.Rejects),
			r.Drops, want)
	}
	for _, x := range r.Rejects {
		t.Errorf("%s: rejected: %s %s %s", name, x.Reason, x.Metric, x.Detail)
	}
}

// TestFixtureArchive decodes the fixtures of archives as one archive.
func TestFixtureArchive(t *testing.T) {
	root := adaptertest.Fixtures(t, "fitbit/takeout")
	var files []zipFile
	want := 0
	err := filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		body, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		name, err := filepath.Rel(root, path)
		files = append(files, zipFile{"Takeout/" + filepath.ToSlash(name), string(body)})
		want += countItems(t, e.Name(), body)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	r, err := decodeZip(t, zipped(t, files...), nil)
	if err != nil || left(r) != want || len(r.Rejects) > 0 {
		t.Errorf("%v: %d samples, rejects %v, drops %v; the archive has %d", err, len(r.Samples), r.Rejects, r.Drops, want)
	}
	// The heart rate file begins at 23:00:05 UTC for the tenth, so the offset is an hour.
	const night = "2026-03-09T23:20:00+01:00 2026-03-10T05:50:00+01:00"
	for _, s := range r.Samples {
		if got := s.Start.Format(time.RFC3339) + " " + s.End.Format(time.RFC3339); s.Metric == "sleep" && got != night {
			t.Errorf("night: %s", got)
		}
	}
}
