package googlehealth

import (
	"fmt"
	"math"
	"strings"
	"time"
)

// media is a body that is not JSON.
type media struct {
	contentType string
	text        string
}

// exportTCX answers an exercise in the format TCX. It needs the scopes of activity and of
// location.
func (s *Server) exportTCX(c *call, id string) (any, *apiError) {
	t := dataTypes["exercise"]
	if c.request.PathValue("type") != t.name {
		return nil, badType("Only exercises can be exported.")
	}
	if !c.may(readScope(t.group)) || !c.may(readScope(location)) {
		return nil, errScope
	}
	if bad := checkQuery(c.request, "partialData"); bad != nil {
		return nil, bad
	}
	p := s.findPoint(c, t, id)
	if p == nil {
		return nil, errNotFound
	}
	tcx := renderTCX(p)
	if c.request.URL.Query().Get("alt") == "media" {
		return media{"application/vnd.garmin.tcx+xml", tcx}, nil
	}
	return object{"tcxData": tcx}, nil
}

// findPoint returns the point of a type with an id, or nil.
func (s *Server) findPoint(c *call, t *dataType, id string) (found *point) {
	s.each(&query{wearer: c.wearer, typ: t, filter: &filter{}, now: c.now}, func(p *point) bool {
		if p.id == id {
			found = p
		}
		return found == nil
	})
	return found
}

// renderTCX draws a track point per minute. Exercises with GPS run a circle in the
// Atlantic Ocean.
func renderTCX(p *point) string {
	var b strings.Builder
	sport := map[string]string{"RUNNING": "Running", "BIKING": "Biking"}[text("exerciseType")(p)]
	metadata, _ := p.body["exerciseMetadata"].(object)
	if sport == "" {
		sport = "Other"
	}
	fmt.Fprintf(&b, `<?xml version="1.0" encoding="UTF-8"?>
<TrainingCenterDatabase xmlns="http://www.garmin.com/xmlschemas/TrainingCenterDatabase/v2"><Activities>
<Activity Sport="%s"><Id>%s</Id><Lap StartTime="%[2]s"><TotalTimeSeconds>%.0f</TotalTimeSeconds><Track>
`, sport, stamp(p.start), length(p))
	for n := 0; ; n++ {
		at := p.start.Add(time.Duration(n) * time.Minute)
		if at.After(p.end) {
			break
		}
		fmt.Fprintf(&b, "<Trackpoint><Time>%s</Time>", stamp(at))
		if metadata["hasGps"] == true {
			angle := float64(n) / 10
			fmt.Fprintf(&b, "<Position><LatitudeDegrees>%.6f</LatitudeDegrees>"+
				"<LongitudeDegrees>%.6f</LongitudeDegrees></Position>",
				30+0.01*math.Sin(angle), -40+0.01*math.Cos(angle))
		}
		fmt.Fprintf(&b, "<DistanceMeters>%d</DistanceMeters></Trackpoint>\n", 150*n)
	}
	b.WriteString("</Track></Lap></Activity></Activities></TrainingCenterDatabase>\n")
	return b.String()
}
