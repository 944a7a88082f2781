package googlehealth

import (
	"bytes"
	"encoding/json"
	"io"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
)

// civilTime is a CivilDateTime.
type civilTime struct {
	Date struct {
		Year  int `json:"year"`
		Month int `json:"month"`
		Day   int `json:"day"`
	} `json:"date"`
	Time struct {
		Hours   int `json:"hours"`
		Minutes int `json:"minutes"`
		Seconds int `json:"seconds"`
		Nanos   int `json:"nanos"`
	} `json:"time"`
}

// utc returns the civil time as a time in UTC.
func (c *civilTime) utc() (time.Time, bool) {
	t := time.Date(c.Date.Year, time.Month(c.Date.Month), c.Date.Day, c.Time.Hours, c.Time.Minutes, c.Time.Seconds,
		c.Time.Nanos, time.UTC)
	return t, t.Year() == c.Date.Year && int(t.Month()) == c.Date.Month && t.Day() == c.Date.Day && c.Date.Year > 1970
}

// readJSON decodes a body. Like the API, it refuses unknown names.
func readJSON(r io.Reader, v any) *apiError {
	data, err := io.ReadAll(r)
	if err == nil {
		dec := json.NewDecoder(bytes.NewReader(data))
		dec.DisallowUnknownFields()
		if err = dec.Decode(v); err == nil && dec.More() {
			err = io.ErrUnexpectedEOF
		}
	}
	if err != nil {
		e := invalid("", "")
		e.message = "Invalid JSON payload received."
		return e
	}
	return nil
}

// rollUpRequest holds what rollUp and dailyRollUp ask for.
type rollUpRequest struct {
	from, to time.Time // instants, or civil times in UTC
	size     time.Duration
	pageSize int
	family   string
	token    *pageToken
}

// rollUp answers rollUp and dailyRollUp.
func (s *Server) rollUp(c *call) (any, *apiError) {
	op := opRollUp
	switch c.request.PathValue("method") {
	case "dataPoints:rollUp":
	case "dataPoints:dailyRollUp":
		op = opDailyRollUp
	case "dataPoints", "dataPoints:batchDelete":
		return nil, errUnimplemented
	default:
		return nil, errNotFound
	}
	t, own, bad := c.typeFor(op)
	if bad != nil {
		return nil, bad
	}
	if bad := checkQuery(c.request); bad != nil {
		return nil, bad
	}
	req, bad := s.rollUpRequest(c, t, op, own)
	if bad != nil {
		return nil, bad
	}
	return s.rollUpPage(c, t, op == opDailyRollUp, req), nil
}

// rollUpRequest reads and checks the body.
func (s *Server) rollUpRequest(c *call, t *dataType, op operations, own bool) (*rollUpRequest, *apiError) {
	req := &rollUpRequest{}
	var family, token string
	var size int
	if op == opDailyRollUp {
		var body struct {
			Range struct {
				Start *civilTime `json:"start"`
				End   *civilTime `json:"end"`
			} `json:"range"`
			WindowSizeDays   int    `json:"windowSizeDays"`
			DataSourceFamily string `json:"dataSourceFamily"`
			PageSize         int    `json:"pageSize"`
			PageToken        string `json:"pageToken"`
		}
		if bad := readJSON(c.request.Body, &body); bad != nil {
			return nil, bad
		}
		if body.Range.Start == nil || body.Range.End == nil {
			return nil, invalid("range", "The range requires a start and an end.")
		}
		var ok1, ok2 bool
		req.from, ok1 = body.Range.Start.utc()
		req.to, ok2 = body.Range.End.utc()
		if !ok1 || !ok2 || body.WindowSizeDays < 0 || body.WindowSizeDays > 90 {
			return nil, invalid("range", "The range must consist of calendar days.")
		}
		if !req.from.Equal(req.from.Truncate(24 * time.Hour)) {
			return nil, invalid("range.start", "The start must be aligned with the aggregation window.")
		}
		req.size = time.Duration(max(body.WindowSizeDays, 1)) * 24 * time.Hour
		req.pageSize = min(orElse(body.PageSize, t.rangeDays()), t.rangeDays())
		family, token, size = body.DataSourceFamily, body.PageToken, body.PageSize
	} else {
		var body struct {
			Range struct {
				StartTime time.Time `json:"startTime"`
				EndTime   time.Time `json:"endTime"`
			} `json:"range"`
			WindowSize       string `json:"windowSize"`
			DataSourceFamily string `json:"dataSourceFamily"`
			PageSize         int    `json:"pageSize"`
			PageToken        string `json:"pageToken"`
		}
		if bad := readJSON(c.request.Body, &body); bad != nil {
			return nil, bad
		}
		seconds, err := strconv.ParseFloat(strings.TrimSuffix(body.WindowSize, "s"), 64)
		if err != nil || !strings.HasSuffix(body.WindowSize, "s") || !(seconds >= 1 && seconds <= 90*86400) {
			return nil, invalid("windowSize", "The window size must be a duration of at least one second.")
		}
		req.from, req.to, req.size = body.Range.StartTime, body.Range.EndTime,
			time.Duration(seconds*float64(time.Second))
		req.pageSize = min(orElse(body.PageSize, 1440), 10_000)
		family, token, size = body.DataSourceFamily, body.PageToken, body.PageSize
	}
	if size < 0 {
		return nil, invalid("pageSize", "The page size must not be negative.")
	}
	if req.from.Year() < 1971 || !req.from.Before(req.to) {
		return nil, invalid("range", "The range must end after its start.")
	}
	if limit := time.Duration(t.rangeDays()) * 24 * time.Hour; req.to.Sub(req.from) > limit {
		return nil, invalid("range", "The range must not exceed "+strconv.Itoa(t.rangeDays())+" days.")
	}
	var bad *apiError
	if req.family, bad = c.family(t, family, op, own); bad != nil {
		return nil, bad
	}
	hash := requestHash(c.request.URL.Path+stamp(req.from)+stamp(req.to)+req.size.String()+req.family, nil)
	req.token, bad = s.openToken(token, hash)
	return req, bad
}

func orElse(n, preset int) int {
	if n <= 0 {
		return preset
	}
	return n
}

// rollUpPage returns one page of windows that have data, the latest first.
func (s *Server) rollUpPage(c *call, t *dataType, civil bool, req *rollUpRequest) object {
	windows := map[int64][]*point{}
	q := &query{wearer: c.wearer, typ: t, family: req.family, merged: true, now: c.now,
		filter: &filter{civil: civil, groups: [][]condition{{{bound: req.from}}, {{upper: true, bound: req.to}}}}}
	s.each(q, func(p *point) bool {
		at := p.start
		if civil {
			at = civilUTC(at)
		}
		n := int64(at.Sub(req.from) / req.size)
		windows[n] = append(windows[n], p)
		return true
	})
	var order []int64
	for n := range windows {
		order = append(order, n)
	}
	slices.Sort(order)
	slices.Reverse(order)
	var out []any
	for _, n := range order {
		start := req.from.Add(time.Duration(n) * req.size)
		if req.token.Pages > 0 && start.UnixNano() >= req.token.Start {
			continue
		}
		if len(out) == req.pageSize {
			req.token.Pages++
			return object{"rollupDataPoints": out, "nextPageToken": s.sealToken(req.token)}
		}
		end := minTime(start.Add(req.size), req.to)
		item := object{t.rollupMember(): rolled(t, windows[n])}
		if civil {
			item["civilStartTime"], item["civilEndTime"] = civilOf(start), civilOf(end)
		} else {
			item["startTime"], item["endTime"] = stamp(start), stamp(end)
		}
		out = append(out, item)
		req.token.Start = start.UnixNano()
	}
	if out == nil {
		return object{}
	}
	return object{"rollupDataPoints": out}
}

// number reads a member of a point, which may be an int64 in a string.
func number(p *point, path ...string) float64 {
	var v any = p.body
	for _, name := range path {
		m, _ := v.(object)
		v = m[name]
	}
	switch v := v.(type) {
	case string:
		f, err := strconv.ParseFloat(v, 64)
		if err != nil {
			return 0 // an absent count
		}
		return f
	case int:
		return float64(v)
	case float64:
		return v
	}
	return 0
}

// spread holds sum, extremes and mean of a member.
type spread struct{ sum, low, high, mean float64 }

func spreadOf(points []*point, path ...string) spread {
	out := spread{low: math.Inf(1), high: math.Inf(-1)}
	for _, p := range points {
		v := number(p, path...)
		out.sum += v
		out.low, out.high = min(out.low, v), max(out.high, v)
	}
	out.sum = math.Round(out.sum*1000) / 1000
	out.mean = math.Round(out.sum/float64(len(points))*1000) / 1000
	return out
}

// total formats the sum of a count.
func total(points []*point, member string) string {
	return strconv.FormatInt(int64(spreadOf(points, member).sum), 10)
}

// byLevel sums a value of the points by an enum and lists the enum's values that occur.
func byLevel(points []*point, enum func(*point) string, value func(*point) float64,
	item func(name string, sum float64) object) []any {
	sums := map[string]float64{}
	for _, p := range points {
		sums[enum(p)] += value(p)
	}
	var names []string
	for name := range sums {
		names = append(names, name)
	}
	slices.Sort(names)
	var out []any
	for _, name := range names {
		out = append(out, item(name, sums[name]))
	}
	return out
}

func length(p *point) float64 { return p.end.Sub(p.start).Seconds() }

func text(name string) func(*point) string {
	return func(p *point) string {
		s, _ := p.body[name].(string)
		return s
	}
}

// rolled returns the value of a window.
func rolled(t *dataType, points []*point) object {
	switch t.name {
	case "steps", "floors":
		return object{"countSum": total(points, "count")}
	case "distance":
		return object{"millimetersSum": total(points, "millimeters")}
	case "altitude":
		return object{"gainMillimetersSum": total(points, "gainMillimeters")}
	case "swim-lengths-data":
		return object{"strokeCountSum": total(points, "strokeCount")}
	case "active-energy-burned", "total-calories":
		return object{"kcalSum": spreadOf(points, "kcal").sum}
	case "heart-rate":
		v := spreadOf(points, "beatsPerMinute")
		return object{"beatsPerMinuteAvg": v.mean, "beatsPerMinuteMin": v.low, "beatsPerMinuteMax": v.high}
	case "weight":
		return object{"weightGramsAvg": spreadOf(points, "weightGrams").mean}
	case "body-fat":
		return object{"bodyFatPercentageAvg": spreadOf(points, "percentage").mean}
	case "blood-glucose":
		return object{"bloodGlucoseMilligramsPerDeciliterAvg": spreadOf(points,
			"bloodGlucoseMilligramsPerDeciliter").mean}
	case "core-body-temperature":
		v := spreadOf(points, "temperatureCelsius")
		return object{"temperatureCelsiusAvg": v.mean, "temperatureCelsiusMin": v.low, "temperatureCelsiusMax": v.high}
	case "run-vo2-max":
		v := spreadOf(points, "runVo2Max")
		return object{"rateAvg": v.mean, "rateMin": v.low, "rateMax": v.high}
	case "hydration-log":
		return object{"amountConsumed": object{
			"millilitersSum":       spreadOf(points, "amountConsumed", "milliliters").sum,
			"userProvidedUnitLast": "MILLILITER"}}
	case "nutrition-log":
		return object{"energy": object{"kcalSum": spreadOf(points, "energy", "kcal").sum},
			"totalCarbohydrate": object{"gramsSum": spreadOf(points, "totalCarbohydrate", "grams").sum},
			"totalFat":          object{"gramsSum": spreadOf(points, "totalFat", "grams").sum}}
	case "daily-resting-heart-rate":
		v := spreadOf(points, "beatsPerMinute")
		return object{"beatsPerMinuteMin": v.low - 3, "beatsPerMinuteMax": v.high + 3}
	case "daily-heart-rate-variability":
		v := spreadOf(points, "averageHeartRateVariabilityMilliseconds")
		return object{"averageHeartRateVariabilityMillisecondsMin": v.low - 8,
			"averageHeartRateVariabilityMillisecondsMax": v.high + 8}
	}
	return rolledLevels(t, points)
}

// rolledLevels returns the value of a window of a type with levels.
func rolledLevels(t *dataType, points []*point) object {
	switch t.name {
	case "active-zone-minutes":
		out := object{}
		for _, p := range points {
			name := map[string]string{"FAT_BURN": "sumInFatBurnHeartZone", "CARDIO": "sumInCardioHeartZone",
				"PEAK": "sumInPeakHeartZone"}[text("heartRateZone")(p)]
			sum, _ := out[name].(string)
			n, _ := strconv.Atoi(sum) // empty at first
			out[name] = i64(n + int(number(p, "activeZoneMinutes")))
		}
		return out
	case "active-minutes":
		level := func(p *point) (object, bool) {
			list, _ := p.body["activeMinutesByActivityLevel"].([]any)
			if len(list) == 0 {
				return nil, false
			}
			o, ok := list[0].(object)
			return o, ok
		}
		return object{"activeMinutesRollupByActivityLevel": byLevel(points, func(p *point) string {
			o, _ := level(p)
			s, _ := o["activityLevel"].(string)
			return s
		}, func(p *point) float64 {
			o, _ := level(p)
			return number(&point{body: o}, "activeMinutes")
		}, func(name string, sum float64) object {
			return object{"activityLevel": name, "activeMinutesSum": i64(int(sum))}
		})}
	case "time-in-heart-rate-zone":
		return object{"timeInHeartRateZones": byLevel(points, text("heartRateZoneType"), length,
			func(name string, sum float64) object {
				return object{"heartRateZone": name, "duration": seconds(time.Duration(sum) * time.Second)}
			})}
	case "calories-in-heart-rate-zone":
		return object{"caloriesInHeartRateZones": byLevel(points, text("heartRateZone"),
			func(p *point) float64 { return number(p, "kcal") },
			func(name string, sum float64) object {
				return object{"heartRateZone": name, "kcal": math.Round(sum*1000) / 1000}
			})}
	case "sedentary-period":
		sum := 0.0
		for _, p := range points {
			sum += length(p)
		}
		return object{"durationSum": seconds(time.Duration(sum) * time.Second)}
	}
	return object{}
}
