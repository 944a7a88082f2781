package interaction

import (
	"context"
	"encoding/json"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"pulsegate/fhir"
	"pulsegate/fhir/access"
	"pulsegate/fhir/calendar"
	"pulsegate/fhir/element"
	"pulsegate/fhir/search"
	"pulsegate/fhir/store"
)

// bucketStatistics lists the statistics of a bucket in the order of the answer.
var bucketStatistics = []string{"count", "minimum", "maximum", "average", "sum"} // read only

const (
	maxBucketMinutes = 10_080 // a week
	maxZone          = 64     // bytes of the name of a zone
)

// bucketRequest is a validated request of $time-buckets.
type bucketRequest struct {
	statsRequest
	unit       calendar.Unit // zero for buckets of a fixed length
	minutes    int
	zone       *time.Location
	device     string
	start, end string // as given
	division   calendar.Division
	lo, hi     int64 // Unix milliseconds, the range of the beginnings
}

type bucketReader struct {
	stats statsReader
	into  *bucketRequest
	seen  []string
}

// readBuckets validates the inputs of $time-buckets, without those that depend on the zone.
func (s *Service) readBuckets(ps []Parameter) (*bucketRequest, error) {
	const op = "interaction.TimeBuckets"
	a := &bucketRequest{lo: math.MinInt64, hi: math.MaxInt64}
	r := &bucketReader{stats: statsReader{service: s, request: &a.statsRequest}, into: a}
	for i := range ps {
		if err := r.parameter(&ps[i]); err != nil {
			return nil, err
		}
	}
	for _, c := range r.stats.codes {
		a.codes = append(a.codes, element.Coding{System: r.stats.system, Code: c})
	}
	required := func(diagnostics string) error {
		return &fhir.Error{Kind: fhir.Invalid, Op: op,
			Issues: []fhir.Issue{{Code: "required", Diagnostics: diagnostics}}}
	}
	switch {
	case a.patient == "":
		return nil, required("$time-buckets needs the parameter subject")
	case len(a.codes) == 0:
		return nil, required("$time-buckets needs code, or coding")
	case len(a.codes) > maxStatsCodes:
		return nil, fhir.Errorf(fhir.Invalid, op, "$time-buckets takes at most %d codes", maxStatsCodes)
	case (a.unit == 0) == (a.minutes == 0):
		return nil, required("$time-buckets needs either calendar, for calendar buckets, or minutes, for buckets of a fixed length")
	case a.minutes > 0 && a.zone != nil:
		return nil, fhir.Errorf(fhir.Invalid, op,
			"zone cannot be combined with minutes: buckets of a fixed length are in UTC")
	case a.preferred && a.device != "":
		return nil, fhir.Errorf(fhir.Invalid, op, "preferred cannot be combined with device; leave out one of them")
	case a.preferred && s.Preferred == nil:
		return nil, fhir.Errorf(fhir.Unsupported, op, "this server has no preferred sources; leave out preferred")
	}
	if len(a.statistics) == 0 {
		a.statistics = bucketStatistics
	}
	return a, nil
}

func (r *bucketReader) parameter(p *Parameter) error {
	const op = "interaction.TimeBuckets"
	want, ok := "", utf8Value(p)
	switch p.Name {
	case "subject", "code", "system", "coding", "preferred":
		return r.stats.parameter(p)
	case "_format", "_pretty":
		return nil
	case "statistic":
		return r.statistic(p)
	case "calendar":
		want = "hour, day, week, month or year"
		r.into.unit, ok = calendar.ParseUnit(p.Value)
	case "minutes":
		want = "a whole number from 1 to " + strconv.Itoa(maxBucketMinutes)
		n, err := strconv.Atoi(p.Value)
		r.into.minutes, ok = n, err == nil && n >= 1 && n <= maxBucketMinutes
	case "zone":
		want = "an IANA time zone, such as Europe/Berlin"
		r.into.zone, ok = zoneNamed(p.Value)
	case "device":
		want = "a reference to a Device of this server, Device/[id]"
		ref, valid := fhir.ParseRef(strings.TrimPrefix(p.Value, r.stats.service.Base+"/"))
		r.into.device, ok = ref.ID, valid && ref.Type == "Device"
	case "start", "end":
		want = "a date, dateTime or instant"
		text := search.Plus(p.Value)
		_, _, valid := search.DateInterval(text)
		if ok = ok && valid; p.Name == "start" {
			r.into.start = text
		} else {
			r.into.end = text
		}
	default:
		return fhir.Errorf(fhir.Invalid, op,
			"a parameter is not supported; $time-buckets takes subject, code, system, "+
				"coding, calendar, minutes, zone, start, end, statistic, device and preferred")
	}
	switch {
	case !ok:
		return fhir.Errorf(fhir.Invalid, op, "%s must be %s", p.Name, want)
	case slices.Contains(r.seen, p.Name):
		return fhir.Errorf(fhir.Invalid, op, "%s is given more than once; give it once", p.Name)
	}
	r.seen = append(r.seen, p.Name)
	return nil
}

// utf8Value reports whether p is a primitive in UTF-8.
func utf8Value(p *Parameter) bool {
	return p.primitive() && utf8.ValidString(p.Value)
}

// statistic parses a list of statistics. Its error does not have the input.
func (r *bucketReader) statistic(p *Parameter) error {
	for _, name := range strings.SplitN(p.Value, ",", len(bucketStatistics)+1) {
		if !slices.Contains(bucketStatistics, name) {
			return &fhir.Error{Kind: fhir.Invalid, Op: "interaction.TimeBuckets",
				Issues: []fhir.Issue{{Code: "not-supported",
					Diagnostics: "a value of statistic is not supported; use some of " +
						strings.Join(bucketStatistics, ", ")}}}
		}
		if !slices.Contains(r.into.statistics, name) {
			r.into.statistics = append(r.into.statistics, name)
		}
	}
	return nil
}

// zoneNamed returns the IANA time zone with a name. The name of the server's own zone,
// Local, is none.
func zoneNamed(name string) (*time.Location, bool) {
	if name == "" || name == "Local" || len(name) > maxZone || !consistsOf(lower+upper+digits+"_+-/")(name) {
		return nil, false
	}
	zone, err := time.LoadLocation(name)
	return zone, err == nil
}

// timezoneURL is HL7's extension for the time zone of a Patient.
const timezoneURL = element.StructureDefinition + "timezone"

// locate determines the zone, the division and the range of the request. Without the
// parameter zone, the zone is that of the Patient resource. It is used only if the caller
// may see the Patient, or a measurement of the answer: otherwise the status would tell
// whether there is such a patient.
func (s *Service) locate(ctx context.Context, rq *Request, a *bucketRequest, find store.Find) error {
	const op = "interaction.TimeBuckets"
	if a.minutes > 0 {
		a.division = calendar.Fixed(time.Duration(a.minutes) * time.Minute)
	} else {
		if a.zone == nil {
			zone, err := s.knownZone(ctx, rq, a, find)
			if err != nil {
				return err
			}
			if a.zone = zone; zone == nil {
				return &fhir.Error{Kind: fhir.Invalid, Op: op,
					Issues: []fhir.Issue{{Code: "required", Diagnostics: "the time " +
						"zone of the patient is not known; state one with zone, for example zone=Europe/Berlin"}}}
			}
		}
		a.division = calendar.In(a.zone, a.unit)
	}
	if a.start != "" {
		a.lo, _ = a.bounds(a.start)
	}
	if a.end != "" {
		_, a.hi = a.bounds(a.end)
	}
	if a.lo >= a.hi {
		return fhir.Errorf(fhir.Invalid, op, "start must be before end")
	}
	return nil
}

// bounds returns the interval of a date or dateTime. A date is one of the zone.
func (a *bucketRequest) bounds(text string) (lo, hi int64) {
	lo, hi, _ = search.DateInterval(text)
	if len(text) > len(time.DateOnly) {
		return lo, hi
	}
	midnight := func(ms int64) int64 {
		year, month, day := time.UnixMilli(ms).UTC().Date()
		return calendar.Midnight(a.division.Zone(), year, month, day).UnixMilli()
	}
	return midnight(lo), midnight(hi)
}

// knownZone returns the zone of the Patient, or nil.
func (s *Service) knownZone(ctx context.Context, rq *Request, a *bucketRequest,
	find store.Find) (*time.Location, error) {
	r, facts, err := s.Store.Read(ctx, fhir.Ref{Type: "Patient", ID: a.patient}, find.At)
	if err != nil && fhir.KindOf(err) != fhir.NotFound {
		return nil, err
	}
	if err != nil || r.Deleted {
		return nil, nil
	}
	visible := rq.filter(access.Read).Allow(facts) || rq.filter(access.Search).Allow(facts)
	if !visible {
		find.Limit = 1
		if err := s.Store.Find(ctx, find, func(*store.Found) bool { visible = true; return false }); err != nil ||
			!visible {
			return nil, err
		}
	}
	var p struct {
		Extension []struct {
			URL       string `json:"url"`
			ValueCode string `json:"valueCode"`
		} `json:"extension"`
	}
	if err := json.Unmarshal(r.JSON, &p); err != nil {
		return nil, fhir.Wrap("interaction.TimeBuckets", err)
	}
	for _, e := range p.Extension {
		if e.URL == timezoneURL {
			if zone, ok := zoneNamed(e.ValueCode); ok {
				return zone, nil
			}
		}
	}
	return nil, nil
}
