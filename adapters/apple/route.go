package apple

import (
	"bufio"
	"bytes"
	"io"
	"math"
	"strconv"
	"time"

	"pulsegate/mapping/sample"
)

// route summarizes the locations of a workout. Its start, end and area, which show where
// a person lives, become a sample of their own, which needs a consent of its own. No
// other location is kept.
type route struct {
	distance, ascent, descent float64 // meters
	duration                  float64 // seconds from the first to the last location
	points                    int
	climbs                    bool // some locations have an altitude

	last, first time.Time
	lat, lon    float64
	level       float64 // altitude from which the next climb is measured
	leveled     bool
	area        area
}

// position is a latitude and a longitude in degrees.
type position [2]float64

// area holds the ends of a route and its bounds. It is empty until known is set.
type area struct {
	known                bool
	start, end           position
	southWest, northEast position
}

// extend adds a position. A route across the 180th meridian has bounds around the
// world.
func (a *area) extend(p position) {
	a.add(area{known: true, start: p, end: p, southWest: p, northEast: p})
}

// add adds the area of a later route.
func (a *area) add(other area) {
	if !other.known {
		return
	}
	if !a.known {
		*a = other
		return
	}
	a.end = other.end
	for i := range a.southWest {
		a.southWest[i] = min(a.southWest[i], other.southWest[i])
		a.northEast[i] = max(a.northEast[i], other.northEast[i])
	}
}

// metricRoute is the metric of the location of a workout.
const metricRoute = "workout.route"

// routeSuffix follows the id of a workout in the id of its location.
const routeSuffix = "/route"

// locationOf returns the sample with the location of a workout, of the same time and
// origin. ok is false if the workout has none.
func (r *route) locationOf(workout *sample.Sample) (out sample.Sample, ok bool) {
	if !r.area.known || r.points < 2 {
		return out, false
	}
	out = *workout
	out.Metric, out.Value, out.Components, out.Note, out.SharedID = metricRoute, sample.Value{}, nil, "", false
	if out.VendorID != "" {
		out.VendorID += routeSuffix
	}
	for _, c := range []struct {
		name string
		at   position
	}{{"start", r.area.start}, {"end", r.area.end}, {"southWest", r.area.southWest}, {"northEast", r.area.northEast}} {
		for i, axis := range []string{"Latitude", "Longitude"} {
			// Five decimals are one meter.
			text := strconv.FormatFloat(math.Round(c.at[i]*1e5)/1e5, 'f', -1, 64)
			out.Components = append(out.Components,
				sample.Component{Name: c.name + axis, Value: number(text, "deg"), Derived: true})
		}
	}
	return out, true
}

const (
	earthRadius = 6371008.8 // mean radius in meters (IUGG)
	// minClimb is the change of altitude in meters that counts. Smaller ones are
	// noise of the receiver.
	minClimb = 2
)

// location adds a location in degrees. alt is the altitude in meters, or NaN. A
// location that is impossible is left out.
func (r *route) location(lat, lon, alt float64, at time.Time) {
	if !(math.Abs(lat) <= 90 && math.Abs(lon) <= 180) {
		return
	}
	if r.points > 0 {
		r.distance += greatCircle(r.lat, r.lon, lat, lon)
	}
	r.points++
	r.lat, r.lon = lat, lon
	r.area.extend(position{lat, lon})
	if !at.IsZero() {
		if r.first.IsZero() {
			r.first = at
		}
		if at.After(r.last) {
			r.last = at
		}
		r.duration = r.last.Sub(r.first).Seconds()
	}
	r.climb(alt)
}

func (r *route) climb(alt float64) {
	switch {
	case math.IsNaN(alt) || math.Abs(alt) > 12000:
		return
	case !r.leveled:
		r.level, r.leveled, r.climbs = alt, true, true
		return
	}
	if d := alt - r.level; math.Abs(d) >= minClimb {
		r.level = alt
		r.ascent += max(d, 0)
		r.descent += max(-d, 0)
	}
}

// greatCircle returns the distance in meters of two positions in degrees by the
// haversine formula.
func greatCircle(lat1, lon1, lat2, lon2 float64) float64 {
	const rad = math.Pi / 180
	a := math.Sin((lat2 - lat1) * rad / 2)
	b := math.Sin((lon2 - lon1) * rad / 2)
	h := a*a + math.Cos(lat1*rad)*math.Cos(lat2*rad)*b*b
	return 2 * earthRadius * math.Asin(math.Min(1, math.Sqrt(h)))
}

// add adds another route of the same workout.
func (r *route) add(other route) {
	r.distance += other.distance
	r.ascent += other.ascent
	r.descent += other.descent
	r.duration += other.duration
	r.points += other.points
	r.climbs = r.climbs || other.climbs
	r.area.add(other.area)
}

// parts adds the components of the summary to a workout. A route needs two
// locations.
func (r *route) parts(rec *record) {
	if r.points < 2 {
		return
	}
	put := func(name string, v float64, unit string) {
		rec.component(name, number(strconv.FormatFloat(math.Round(v*10)/10, 'f', -1, 64), unit))
		rec.sample.Components[len(rec.sample.Components)-1].Derived = true
	}
	put("routeDistance", r.distance, "m")
	if r.climbs {
		put("routeAscent", r.ascent, "m")
		put("routeDescent", r.descent, "m")
	}
	if r.duration > 0 {
		put("routeDuration", r.duration, "s")
	}
}

// routeTime reads the time of a location, or returns the zero time.
func (c *clock) routeTime(b []byte) time.Time {
	if t, ok := c.parse(b); ok {
		return t
	}
	t, err := time.Parse(time.RFC3339, string(bytes.TrimSpace(b)))
	if err != nil {
		return time.Time{}
	}
	return t
}

// degrees reads a number of a location, or returns NaN.
func degrees(b []byte) float64 {
	f, err := strconv.ParseFloat(string(bytes.TrimSpace(b)), 64)
	if err != nil {
		return math.NaN()
	}
	return f
}

// maxTrackPoint is the limit for one location of a GPX file in bytes.
const maxTrackPoint = 64 << 10

// gpxRoute summarizes the track points of a GPX file. What is not a track point is
// left out.
func gpxRoute(r io.Reader, c *clock) (route, error) {
	var out route
	end := []byte("</trkpt>")
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, maxTrackPoint)
	lines.Split(func(data []byte, atEOF bool) (int, []byte, error) {
		if i := bytes.Index(data, end); i >= 0 {
			return i + len(end), data[:i], nil
		}
		if atEOF {
			return len(data), nil, nil
		}
		return 0, nil, nil
	})
	for lines.Scan() {
		b := lines.Bytes()
		at := bytes.LastIndex(b, []byte("<trkpt"))
		if at < 0 {
			continue
		}
		tag, rest, _ := bytes.Cut(b[at:], []byte(">"))
		out.location(degrees(between(tag, `lat="`, `"`)), degrees(between(tag, `lon="`, `"`)),
			degrees(between(rest, "<ele>", "<")), c.routeTime(between(rest, "<time>", "<")))
	}
	return out, lines.Err()
}

// between returns the bytes between two texts, or nil.
func between(b []byte, before, after string) []byte {
	_, b, ok := bytes.Cut(b, []byte(before))
	if !ok {
		return nil
	}
	b, _, _ = bytes.Cut(b, []byte(after))
	return b
}
