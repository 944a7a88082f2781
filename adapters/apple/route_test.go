package apple

import (
	"archive/zip"
	"bytes"
	"fmt"
	"math"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"pulsegate/adapters/adaptertest"
)

// TestRoutes checks that each channel summarizes the locations of a workout, and that
// only the sample of its location has positions: the ends and the bounds. The route
// goes 0.01 degrees north, 1112 m, and 20 m up.
func TestRoutes(t *testing.T) {
	const workout = `<Workout workoutActivityType="HKWorkoutActivityTypeHiking" sourceName="W" startDate="2026-01-05 18:00:00 +0200" endDate="2026-01-05 18:30:00 +0200"><WorkoutRoute>%s</WorkoutRoute></Workout>`
	locations := ""
	points, gpx := []string{`null`, `{"latitude":"x"}`},
		`<?xml version="1.0"?><gpx><trk><name>Wilhelmine</name><trkseg>`
	for i := range 11 {
		lat, alt, at := fmt.Sprintf("60.%04d", 1234+10*i), 100+2*i, fmt.Sprintf("2026-01-05T16:%02d:00Z", 2*i)
		locations += fmt.Sprintf(`<Location date=%q latitude="%s" longitude="24.9876" altitude="%d"/>`,
			strings.NewReplacer("T", " ", "Z", " +0000").Replace(at), lat, alt)
		points = append(points, fmt.Sprintf(`{"latitude":%s,"longitude":24.9876,"altitude":%d,"timestamp":%q}`, lat,
			alt,
			strings.NewReplacer("T", " ", "Z", " +0000").Replace(at)))
		gpx += fmt.Sprintf(`<trkpt lon="24.9876" lat="%s"><ele>%d.0</ele><time>%s</time><extensions><speed>1.5</speed></extensions></trkpt>`,
			lat, alt, at)
	}
	var archive bytes.Buffer
	z := zip.NewWriter(&archive)
	for name, body := range map[string]string{
		"apple_health_export/export.xml": health(fmt.Sprintf(workout,
			`<FileReference path="/workout-routes/route_1.gpx"/>`)),
		"apple_health_export/workout-routes/route_1.gpx": gpx + `</trkseg></trk></gpx>`} {
		f, err := z.Create(name)
		if err == nil {
			_, err = f.Write([]byte(body))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	for format, body := range map[string]string{
		formatXML: health(fmt.Sprintf(workout, locations)),
		formatZip: archive.String(),
		formatHAE: `{"data":{"workouts":[{"name":"Hiking","start":"2026-01-05 18:00:00 +0200","end":"2026-01-05 18:30:00 +0200","route":[` +
			strings.Join(points, ",") + `]}]}}`,
	} {
		r := adaptertest.NewRecorder()
		if err := decodeBytes(t.Context(), "export.zip", format, []byte(body), r); err != nil {
			t.Fatal(err)
		}
		if len(r.Samples) != 2 || r.Samples[1].Metric != metricRoute {
			t.Fatalf("%s: %d samples", format, len(r.Samples))
		}
		positions := ""
		for _, c := range r.Samples[1].Components {
			positions += c.Name + " " + c.Value.Num + c.Value.Unit + " "
		}
		if positions != "startLatitude 60.1234deg startLongitude 24.9876deg endLatitude 60.1334deg "+
			"endLongitude 24.9876deg southWestLatitude 60.1234deg southWestLongitude 24.9876deg "+
			"northEastLatitude 60.1334deg northEastLongitude 24.9876deg " ||
			r.Samples[1].Start != r.Samples[0].Start || r.Samples[1].End != r.Samples[0].End {
			t.Errorf("%s: %s, %+v", format, positions, r.Samples[1])
		}
		r.Samples = r.Samples[:1]
		got := map[string]string{}
		for _, c := range r.Samples[0].Components {
			if got[c.Name] = c.Value.Num + " " + c.Value.Unit; !c.Derived {
				t.Errorf("%s: %s is part of the natural key", format, c.Name)
			}
		}
		want := map[string]string{"routeDistance": "1112 m", "routeAscent": "20 m", "routeDescent": "0 m",
			"routeDuration": "1200 s"}
		if fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("%s: %v, want %v", format, got, want)
		}
		lines, err := adaptertest.JSONLines(r)
		if err != nil {
			t.Fatal(err)
		}
		for _, private := range []string{"60.1", "24.98", "Wilhelmine"} {
			if bytes.Contains(lines, []byte(private)) {
				t.Errorf("%s: a location is kept: %s", format, lines)
			}
		}
	}
	// A file that is missing or no GPX has no summary.
	r := decode(t, formatXML, health(fmt.Sprintf(workout, `<FileReference path="/workout-routes/route_1.gpx"/>`)))
	if len(r.Samples) != 1 || len(r.Samples[0].Components) != 0 {
		t.Errorf("%+v", r.Samples)
	}
}

// TestRouteBounds checks that no sequence of locations gives a number that is not
// finite, and that the parts of a route add up.
func TestRouteBounds(t *testing.T) {
	c := newClock(adaptertest.Received())
	rapid.Check(t, func(t *rapid.T) {
		var gpx strings.Builder
		var r route
		for range rapid.IntRange(0, 20).Draw(t, "points") {
			lat, lon := rapid.Float64().Draw(t, "lat"), rapid.Float64Range(-200, 200).Draw(t, "lon")
			alt := rapid.Float64Range(-100, 9000).Draw(t, "alt")
			fmt.Fprintf(&gpx, `<trkpt lat="%g" lon="%g"><ele>%g</ele></trkpt>`, lat, lon, alt)
			r.location(lat, lon, alt, c.routeTime(nil))
		}
		other, err := gpxRoute(strings.NewReader(gpx.String()), c)
		if err != nil || other.points != r.points || math.Abs(other.distance-r.distance) > 1e-3*(1+r.distance) {
			t.Fatalf("%+v, want %+v: %v", other, r, err)
		}
		for _, v := range []float64{r.distance, r.ascent, r.descent, r.duration} {
			if math.IsNaN(v) || math.IsInf(v, 0) || v < 0 {
				t.Fatalf("%+v", r)
			}
		}
	})
}

func FuzzGPX(f *testing.F) {
	f.Add([]byte(`<gpx><trkpt lat="1" lon="2"><ele>3</ele><time>2026-01-05T16:00:00Z</time></trkpt></gpx>`))
	f.Fuzz(func(t *testing.T, body []byte) {
		r, err := gpxRoute(bytes.NewReader(body), newClock(adaptertest.Received()))
		if err == nil && (math.IsNaN(r.distance) || r.distance < 0) {
			t.Fatalf("%+v", r)
		}
	})
}
