package withings

import (
	"cmp"
	"encoding/json"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"pulsegate/adapters/simulate"
)

// kind is a kind of item. A wearer has at most one item of each kind on a day.
type kind struct {
	name  string
	appli int     // of the notification
	share float64 // of the days that have one
	// measured returns when the item of a day was measured.
	measured func(w *simulate.Wearer, day simulate.Day) time.Time
	// restated and deleted are the shares of the items that are changed or deleted at
	// the next synchronization.
	restated, deleted float64
	render            func(it *item) map[string]any
}

// item is a version of an item.
type item struct {
	wearer   *simulate.Wearer
	kind     *kind
	day      simulate.Day
	key      simulate.Key
	measured time.Time
	created  time.Time // synchronization that delivered it
	at       time.Time // synchronization that delivered this version
	revision int
	gone     bool
	elapsed  float64 // share of the day that is over, for totals of days
}

// list is a method of the API.
type list struct {
	path, action, scope, member string
	kinds                       []*kind
	dates                       bool // windows are dates
}

var lists = []list{
	{path: "/measure", action: "getmeas", scope: "user.metrics", member: "measuregrps",
		kinds: []*kind{weight, pressure, temperature}},
	{path: "/v2/sleep", action: "getsummary", scope: "user.activity", member: "series", kinds: []*kind{night}, dates: true},
	{path: "/v2/measure", action: "getactivity", scope: "user.activity", member: "activities", kinds: []*kind{total},
		dates: true},
}

func up(w *simulate.Wearer, day simulate.Day) time.Time {
	_, up := w.Night(day)
	return up
}

func clock(hour int) func(*simulate.Wearer, simulate.Day) time.Time {
	return func(w *simulate.Wearer, day simulate.Day) time.Time {
		return day.At(w.Zone, hour, w.Key.Named("measured").With(int(day), hour).Between(0, 59))
	}
}

var (
	weight = &kind{name: "weight", appli: 1, share: 0.9, restated: 0.1, deleted: 0.05,
		measured: func(w *simulate.Wearer, day simulate.Day) time.Time { return up(w, day).Add(10 * time.Minute) },
		render: func(it *item) map[string]any {
			grams := it.wearer.Key.Named("weight").Between(52_000, 98_000) + it.between("weight", -900, 900)
			fat := it.wearer.Key.Named("fat").Between(150, 320) + it.between("fat", -8, 8)
			return it.group("Body+", [3]int{grams, 1, -3}, [3]int{fat, 6, -1}, [3]int{grams * fat / 1000, 8, -3},
				[3]int{grams * 29 / 1000, 88, -3})
		}}
	pressure = &kind{name: "pressure", appli: 4, share: 0.5, restated: 0.05, deleted: 0.1, measured: clock(19),
		render: func(it *item) map[string]any {
			return it.group("BPM Connect", [3]int{it.between("diastole", 64, 88), 9, 0},
				[3]int{it.between("systole", 104, 138), 10, 0}, [3]int{it.between("pulse", 55, 84), 11, 0})
		}}
	temperature = &kind{name: "temperature", appli: 2, share: 0.2, deleted: 0.05, measured: clock(12),
		render: func(it *item) map[string]any {
			return it.group("Thermo", [3]int{it.between("temperature", 3620, 3740), 71, -2})
		}}
	night = &kind{name: "night", appli: 44, share: 0.95, restated: 0.3, measured: up,
		render: func(it *item) map[string]any {
			bed, up := it.wearer.Night(it.day)
			whole := int(up.Sub(bed).Seconds())
			awake, latency := whole*it.between("awake", 3, 9)/100, 60*it.between("latency", 3, 25)
			asleep := whole - awake - latency
			deep, rem := asleep*it.between("deep", 12, 24)/100, asleep*it.between("rem", 17, 26)/100
			return map[string]any{"id": int(it.day)*10 + 4, "timezone": it.wearer.Zone.String(), "model": 32, "model_id": 63,
				"hash_deviceid": it.wearer.Key.Named("withings night").Hex(40), "startdate": bed.Unix(), "enddate": up.Unix(),
				"date": it.day.String(), "created": it.created.Unix(), "modified": it.at.Unix(),
				"data": map[string]any{"total_sleep_time": asleep, "total_timeinbed": whole, "sleep_latency": latency,
					"wakeupcount": it.between("wakeups", 0, 5), "wakeupduration": awake, "deepsleepduration": deep,
					"remsleepduration": rem, "lightsleepduration": asleep - deep - rem,
					"hr_average": it.wearer.RestingHeartRate(it.day) + 2, "hr_min": it.wearer.RestingHeartRate(it.day) - 4,
					"rr_average": it.between("breaths", 12, 18), "sleep_score": it.between("score", 55, 95)}}
		}}
	total = &kind{name: "total", appli: 16, share: 1,
		measured: func(w *simulate.Wearer, day simulate.Day) time.Time { return day.At(w.Zone, 0, 0) },
		render: func(it *item) map[string]any {
			part := func(whole int) int { return int(float64(whole) * it.elapsed) }
			steps := part(it.wearer.Steps(it.day))
			return map[string]any{"date": it.day.String(), "timezone": it.wearer.Zone.String(), "deviceid": nil,
				"hash_deviceid": it.wearer.Key.Named("withings watch").Hex(40), "brand": 1, "is_tracker": true, "steps": steps,
				"distance": steps * 7 / 10, "elevation": steps / 1000, "soft": steps / 3, "moderate": steps / 8,
				"intense": steps / 20, "active": steps/8 + steps/20, "calories": steps / 25,
				"totalcalories": part(1700) + steps/25}
		}}
)

// between draws a value of an item. A restated version has other values.
func (it *item) between(name string, low, high int) int {
	return it.key.Named(name).With(it.revision).Between(low, high)
}

// group returns a group of measures, each a value, a type and a power of ten.
func (it *item) group(model string, measures ...[3]int) map[string]any {
	var list []map[string]int
	for _, m := range measures {
		list = append(list, map[string]int{"value": m[0], "type": m[1], "unit": m[2], "algo": 0, "fm": 3})
	}
	device := it.wearer.Key.Named("withings " + model).Hex(40)
	return map[string]any{"grpid": int(it.day)*10 + it.kind.appli, "attrib": 0, "category": 1, "measures": list,
		"date": it.measured.Unix(), "created": it.created.Unix(), "modified": it.at.Unix(), "deviceid": device,
		"hash_deviceid": device, "model": model, "comment": nil, "timezone": it.wearer.Zone.String()}
}

// versions returns the versions of an item, or nil if there is none on that day.
func (k *kind) versions(w *simulate.Wearer, day simulate.Day) []item {
	key := w.Key.Named("withings " + k.name).With(int(day))
	if !key.Named("share").Chance(k.share) {
		return nil
	}
	it := item{wearer: w, kind: k, day: day, key: key, measured: k.measured(w, day)}
	if k == total {
		return totals(it)
	}
	it.at = w.NextSync(it.measured)
	it.created = it.at
	out := []item{it}
	if key.Named("restated").Chance(k.restated) {
		it.at, it.revision = w.NextSync(it.at), 1
		out = append(out, it)
	}
	if key.Named("deleted").Chance(k.deleted) {
		it.at, it.gone = w.NextSync(it.at), true
		out = append(out, it)
	}
	return slices.DeleteFunc(out, func(it item) bool { return it.at.IsZero() })
}

// totals returns the versions of the totals of a day: one of each synchronization on the
// day, and the last one of the first synchronization thereafter.
func totals(it item) []item {
	end := (it.day + 1).At(it.wearer.Zone, 0, 0)
	var out []item
	for at := it.wearer.NextSync(it.measured); !at.IsZero(); at = it.wearer.NextSync(at) {
		it.at, it.elapsed = at, min(float64(at.Sub(it.measured))/float64(end.Sub(it.measured)), 1)
		if it.revision++; len(out) == 0 {
			it.created = at
		}
		out = append(out, it)
		if !at.Before(end) {
			break
		}
	}
	return out
}

// items returns the current versions of the items of some days that exist at a time.
func (s *Server) items(l *list, w *simulate.Wearer, from, to simulate.Day, now time.Time) []item {
	first, last := simulate.DayOf(s.opts.Start), simulate.DayOf(now.In(w.Zone))
	var out []item
	for day := min(to, last); day >= max(from, first); day-- {
		for _, k := range l.kinds {
			var current *item
			for _, it := range k.versions(w, day) {
				if !it.at.After(now) {
					current = &it
				}
			}
			if current != nil && !current.gone {
				out = append(out, *current)
			}
		}
	}
	slices.SortStableFunc(out, func(a, b item) int { return cmp.Compare(b.measured.Unix(), a.measured.Unix()) })
	return out
}

// list answers a read. Items are listed newest first.
func (s *Server) list(w http.ResponseWriter, r *http.Request, l *list, who *simulate.Wearer) {
	f, now := r.PostFormValue, s.opts.Clock.Now()
	keep, from, to, ok := l.window(f, now)
	offset := 0
	if text := f("offset"); text != "" {
		var err error
		offset, err = strconv.Atoi(text)
		ok = ok && err == nil && offset >= 0
	}
	if !ok || f("category") == "2" {
		refuse(w, statusInvalid, "Invalid Params")
		return
	}
	all := s.items(l, who, from, to, now)
	all = slices.DeleteFunc(all, func(it item) bool { return !keep(&it) })
	offset = min(offset, len(all))
	end := min(offset+s.opts.PageSize, len(all))
	if s.faults.Draw(simulate.EmptyPage, who.Name) {
		end = offset
	}
	rows := []map[string]any{}
	for i := range all[offset:end] {
		rows = append(rows, fields(all[offset+i].kind.render(&all[offset+i]), f("data_fields")))
	}
	body := map[string]any{l.member: rows}
	more := end < len(all) && end > offset
	if l.dates {
		body["more"], body["offset"] = more, 0
	} else {
		body["updatetime"], body["timezone"] = now.Unix(), who.Zone.String()
	}
	if more {
		if body["offset"] = end; !l.dates {
			body["more"] = 1
		}
	}
	answer(w, 0, body, "")
}

// window returns the condition of the items to list, and the days that can have them.
func (l *list) window(f func(string) string, now time.Time) (keep func(*item) bool, from, to simulate.Day, ok bool) {
	if text := f("lastupdate"); text != "" {
		since, err := strconv.ParseInt(text, 10, 64)
		// A version is delivered within a month of the measurement.
		return func(it *item) bool { return it.at.Unix() > since }, simulate.DayOf(time.Unix(since, 0)) - 40,
			simulate.DayOf(now) + 1, err == nil
	}
	if l.dates {
		first, bad := simulate.ParseDay(f("startdateymd"))
		last, worse := simulate.ParseDay(f("enddateymd"))
		return func(*item) bool { return true }, first, last, bad == nil && worse == nil
	}
	start, bad := strconv.ParseInt(f("startdate"), 10, 64)
	end, worse := strconv.ParseInt(f("enddate"), 10, 64)
	return func(it *item) bool { return it.measured.Unix() >= start && it.measured.Unix() <= end },
		simulate.DayOf(time.Unix(start, 0)) - 2, simulate.DayOf(time.Unix(end, 0)) + 2, bad == nil && worse == nil
}

// fields removes the members that data_fields does not name, for nights from their data.
func fields(row map[string]any, names string) map[string]any {
	data, ok := row["data"].(map[string]any)
	if !ok || names == "" {
		return row
	}
	for name := range data {
		if !slices.Contains(strings.Split(names, ","), name) {
			delete(data, name)
		}
	}
	return row
}

// Truth returns the answers that hold everything that a wearer has now, without pages.
func (s *Server) Truth(wearer int) [][]byte {
	now := s.opts.Clock.Now()
	var out [][]byte
	for i := range lists {
		rows := []map[string]any{}
		for _, it := range s.items(&lists[i], &s.opts.Wearers[wearer], 0, simulate.DayOf(now)+2, now) {
			rows = append(rows, it.kind.render(&it))
		}
		b, _ := json.Marshal(map[string]any{"status": 0, "body": map[string]any{lists[i].member: rows,
			"timezone": s.opts.Wearers[wearer].Zone.String()}}) // numbers and texts can be encoded
		out = append(out, b)
	}
	return out
}
