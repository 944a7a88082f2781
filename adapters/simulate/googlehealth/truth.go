package googlehealth

import (
	"encoding/json"
	"errors"
	"maps"
	"net/http"
	"slices"
	"time"

	"pulsegate/adapters/simulate"
)

// Record is a data point that the cloud holds.
type Record struct {
	Type string
	// Key is the resource name of an identifiable point, the date of a daily value, and the
	// start of other points with their data source.
	Key  string
	Time time.Time // start, in the wearer's zone
	JSON []byte    // the point as list answers it (reconcile for floors), in canonical form
}

// Truth returns the data points of an account that the cloud holds now, by type, with the
// latest first. Without types it returns all. Types that only roll up are left out; see
// DayTotals.
func (s *Server) Truth(account string, types ...string) []Record {
	w := s.accounts[account]
	if w == nil {
		return nil
	}
	var out []Record
	for _, t := range allTypes {
		if t.ops&opRead == 0 || len(types) > 0 && !slices.Contains(types, t.name) {
			continue
		}
		q := &query{wearer: w, typ: t, filter: &filter{}, now: s.Now(), merged: t.ops&opList == 0}
		s.each(q, func(p *point) bool {
			out = append(out, Record{Type: t.name, Key: recordKey(w, t, p), Time: p.start,
				JSON: canonical(render(w, t, p, q.merged))})
			return true
		})
	}
	return out
}

// DayTotals returns what dailyRollUp answers for a type now, for all days with data, with
// the latest first. The key of a record is the date.
func (s *Server) DayTotals(account, typ string) []Record {
	w, t := s.accounts[account], dataTypes[typ]
	if w == nil || t == nil || t.ops&opDailyRollUp == 0 {
		return nil
	}
	from := s.first.At(time.UTC, 0, 0)
	req := &rollUpRequest{from: from, to: from.AddDate(100, 0, 0), size: 24 * time.Hour, pageSize: 100 * 366,
		token: &pageToken{}}
	items, _ := s.rollUpPage(&call{wearer: w, now: s.Now()}, t, true, req)["rollupDataPoints"].([]any)
	out := make([]Record, len(items))
	for i, item := range items {
		o, _ := item.(object)
		civil, _ := o["civilStartTime"].(object)
		date, _ := civil["date"].(object)
		year, _ := date["year"].(int)
		month, _ := date["month"].(int)
		day, _ := date["day"].(int)
		at := time.Date(year, time.Month(month), day, 0, 0, 0, 0, w.Zone)
		out[i] = Record{Type: typ, Key: at.Format(time.DateOnly), Time: at, JSON: canonical(item)}
	}
	return out
}

// canonical returns v as JSON with the members in the order of their names.
func canonical(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil { // v is built of maps, lists, strings and numbers
		panic("googlehealth: " + err.Error())
	}
	return b
}

func recordKey(w *wearer, t *dataType, p *point) string {
	switch {
	case p.id != "":
		return pointName(w, t, p)
	case t.kind == daily:
		return p.start.Format(time.DateOnly)
	}
	return stamp(p.start) + " " + string(canonical(p.source))
}

// Types returns the names of all data types.
func Types() []string {
	var out []string
	for _, t := range allTypes {
		out = append(out, t.name)
	}
	return out
}

// Scopes returns the read scopes of all data types and of the profile and settings.
func Scopes() []string {
	var out []string
	for _, group := range scopeGroups {
		if group != location {
			out = append(out, readScope(group))
		}
	}
	return out
}

// DeleteDay deletes the points of a type that the cloud holds for a day, as the wearer
// does in the app, and notifies the subscribers. Points that arrive later stay. A night
// belongs to the day on which it ends.
func (s *Server) DeleteDay(account, typ string, day simulate.Day) error {
	w, t := s.accounts[account], dataTypes[typ]
	if w == nil || t == nil {
		return errors.New("googlehealth: no such account or data type")
	}
	now := s.Now()
	var from, to time.Time
	s.each(&query{wearer: w, typ: t, filter: &filter{}, now: now}, func(p *point) bool {
		if dayOf(t, p) == day {
			to = maxTime(to, maxTime(p.end, p.start.Add(time.Second)))
			from = p.start
		}
		return dayOf(t, p) >= day-1
	})
	s.mu.Lock()
	defer s.mu.Unlock()
	key := account + " " + typ
	s.tombs[key] = append(s.tombs[key][:len(s.tombs[key]):len(s.tombs[key])], tomb{day, now})
	if !to.IsZero() {
		s.collect(account, now)
		s.notify(account, now, []change{{typ: t, deleted: true, at: now, start: from, end: to}})
	}
	return nil
}

// Stats counts what the cloud has done.
type Stats struct {
	Answers   map[int]int // by status code; 0 is a dropped connection
	Methods   map[string]int
	Consents  int
	Tokens    int // access tokens issued
	Refreshes int
	Days      int // days of wearers that were drawn
	Queued    int // notifications that await delivery
	Sent      int // deliveries attempted
	Accepted  int // notifications answered 204
	Dropped   int // notifications given up after seven days
}

// Stats returns the counters.
func (s *Server) Stats() Stats {
	s.models.mu.Lock()
	days := s.models.drawn
	s.models.mu.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	out := s.stats
	out.Answers = maps.Clone(out.Answers)
	out.Methods = maps.Clone(out.Methods)
	out.Days, out.Queued = days, len(s.queue)
	return out
}

// count counts a successful call of a method.
func (s *Server) count(method string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stats.Methods == nil {
		s.stats.Methods = map[string]int{}
	}
	s.stats.Methods[method]++
}

// resource answers identity, profile, settings, irnProfile and the list of devices.
func (s *Server) resource(c *call) (any, *apiError) {
	w, name := c.wearer, "users/"+c.wearer.account+"/"+c.request.PathValue("resource")
	_, utcOffset := c.now.In(w.Zone).Zone()
	needs := ""
	var body object
	switch c.request.PathValue("resource") {
	case "identity":
		body = object{"name": "users/me/identity", "healthUserId": w.account}
		if w.Index%2 == 0 {
			body["legacyUserId"] = w.Key.Named("legacy").Hex(6)
		}
	case "profile":
		needs = profileGroup
		joined := s.first.At(w.Zone, 0, 0).AddDate(-1-w.Index%5, 0, 0)
		body = object{"name": name, "age": w.Key.Named("age").Between(19, 84), "membershipStartDate": dateOf(joined),
			"autoWalkingStrideLengthMm": 740, "autoRunningStrideLengthMm": 1010}
	case "settings":
		needs = settings
		body = object{"name": name, "autoStrideEnabled": true, "distanceUnit": "DISTANCE_UNIT_KILOMETERS",
			"glucoseUnit": "GLUCOSE_UNIT_MG_DL", "heightUnit": "HEIGHT_UNIT_CENTIMETERS", "languageLocale": "en-US",
			"strideLengthRunningType": "STRIDE_LENGTH_TYPE_DEFAULT",
			"strideLengthWalkingType": "STRIDE_LENGTH_TYPE_DEFAULT", "temperatureUnit": "TEMPERATURE_UNIT_CELSIUS",
			"timeZone": w.Zone.String(), "utcOffset": seconds(time.Duration(utcOffset) * time.Second),
			"waterUnit": "WATER_UNIT_ML", "weightUnit": "WEIGHT_UNIT_KILOGRAMS"}
	case "irnProfile":
		needs = irnGroup
		body = object{"name": name} // proto3 omits false
		if w.hasECG {
			body["onboardingStatus"], body["enrollmentStatus"] = true, true
			if last := w.LastSync(c.now); !last.IsZero() {
				body["updateTime"] = stamp(last)
			}
		}
	case "pairedDevices":
		return s.pairedDevices(c)
	default:
		return nil, errNotFound
	}
	if bad := checkQuery(c.request); bad != nil {
		return nil, bad
	}
	if needs != "" && !c.may(readScope(needs)) || !slices.ContainsFunc(c.scopes, isHealthScope) {
		return nil, errScope
	}
	return body, nil
}

// devices returns the paired devices of a wearer.
func (s *Server) devices(w *wearer, now time.Time) []object {
	name := "users/" + w.account + "/pairedDevices/"
	level := 20 + int(w.Key.Named("battery").With(int(now.Unix()/86400)))&0x3f
	tracker := object{"name": name + "1", "deviceType": "TRACKER", "deviceVersion": w.device, "batteryStatus": "High",
		"batteryLevel": level, "macAddress": w.Key.Named("mac").Hex(12),
		"features": []any{"HEART_RATE", "SPO2", "SLEEP", "SMART_SLEEP", "STEPS"}}
	if level < 40 {
		tracker["batteryStatus"] = "Medium"
	}
	out := []object{tracker}
	if w.hasScale {
		out = append(out, object{"name": name + "2", "deviceType": "SCALE", "deviceVersion": "Aria Air",
			"batteryStatus": "Medium"})
	}
	if last := w.LastSync(now); !last.IsZero() {
		for _, d := range out {
			d["lastSyncTime"] = stamp(last)
		}
	}
	return out
}

// pairedDevices answers the list of devices. The default page has 5, the largest 100.
func (s *Server) pairedDevices(c *call) (any, *apiError) {
	if !c.may(readScope(settings)) {
		return nil, errScope
	}
	if bad := checkQuery(c.request, "pageSize", "pageToken"); bad != nil {
		return nil, bad
	}
	params := c.request.URL.Query()
	size, bad := pageSize(params.Get("pageSize"), 5, 100)
	if bad != nil {
		return nil, bad
	}
	tok, bad := s.openToken(params.Get("pageToken"), requestHash(c.request.URL.Path, params))
	if bad != nil {
		return nil, bad
	}
	all := s.devices(c.wearer, c.now)
	from := min(max(tok.Rank, 0), len(all))
	to := min(from+size, len(all))
	body := object{}
	if from < to {
		body["pairedDevices"] = all[from:to]
	}
	if to < len(all) {
		tok.Rank = to
		body["nextPageToken"] = s.sealToken(tok)
	}
	return body, nil
}

// pairedDevice answers one device.
func (s *Server) pairedDevice(c *call) (any, *apiError) {
	if !c.may(readScope(settings)) {
		return nil, errScope
	}
	for _, d := range s.devices(c.wearer, c.now) {
		if d["name"] == "users/"+c.wearer.account+"/pairedDevices/"+c.request.PathValue("id") {
			return d, nil
		}
	}
	return nil, errNotFound
}

var _ http.Handler = (*Server)(nil)
