package googlehealth_test

import (
	"bytes"
	"context"
	"encoding/xml"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"pulsegate/adapters"
	"pulsegate/adapters/adaptertest"
	"pulsegate/adapters/fitbit"
	"pulsegate/adapters/simulate"
	"pulsegate/adapters/simulate/googlehealth"
)

// listable reports the method by which a type is read: "" for list, ":reconcile", or
// false if it only rolls up.
func listable(typ string) (suffix string, ok bool) {
	switch typ {
	case "floors":
		return ":reconcile", true
	case "total-calories", "calories-in-heart-rate-zone":
		return "", false
	}
	return "", true
}

// byType groups the truth by type.
func byType(records []googlehealth.Record) map[string][]string {
	out := map[string][]string{}
	for _, r := range records {
		out[r.Type] = append(out[r.Type], string(r.JSON))
	}
	return out
}

// TestPagesEqualTruth reads every type of some wearers to the end and compares the points
// with the truth, in order. It also checks that the pages have the documented quirks.
func TestPagesEqualTruth(t *testing.T) {
	c := newCloud(t, googlehealth.Options{Wearers: 7, Every: 30 * time.Minute})
	empty, bare := 0, 0
	for _, i := range []int{3} {
		account := c.Accounts()[i]
		token := c.access(account)
		truth := byType(c.Truth(account))
		for _, typ := range googlehealth.Types() {
			suffix, ok := listable(typ)
			if !ok {
				continue
			}
			size := "300"
			if typ == "sleep" || typ == "exercise" {
				size = "7"
			}
			got, bodies := c.pages(token, points(typ)+suffix, url.Values{"pageSize": {size}})
			want := truth[typ]
			if len(got) != len(want) {
				t.Errorf("%s: %d points, want %d", typ, len(got), len(want))
				continue
			}
			for n := range got {
				if g := canonical(t, got[n]); g != want[n] {
					t.Errorf("%s %d: %.300s\nwant %.300s", typ, n, g, want[n])
					break
				}
			}
			for n, b := range bodies {
				if !bytes.Contains(b, []byte("dataPoints")) && n < len(bodies)-1 {
					empty++
				}
				if len(bodies) > 1 && n == len(bodies)-1 && bytes.Equal(bytes.TrimSpace(b), []byte("{}")) {
					bare++
				}
			}
		}
	}
	if empty == 0 {
		t.Error("no page in the middle is empty")
	}
	t.Logf("%d empty pages, %d last pages {}", empty, bare)
}

// TestAdapterDecodesEverything feeds every page and roll-up to the adapter, which must
// understand all of it.
func TestAdapterDecodesEverything(t *testing.T) {
	c := newCloud(t, googlehealth.Options{Wearers: 12, Every: 30 * time.Minute})
	types := map[string]bool{}
	for _, i := range []int{0, 2, 3} {
		token := c.access(c.Accounts()[i])
		decode := func(name string, raw []byte) {
			rec := adaptertest.NewRecorder()
			in := adapters.Input{Format: "google-health", Name: name, Body: bytes.NewReader(raw), Received: c.Now()}
			if err := fitbit.New().Decode(context.Background(), in, rec); err != nil {
				t.Errorf("%s: %v", name, err)
			}
			for _, r := range rec.Rejects {
				t.Errorf("%s: %s at %s: %s", name, r.Reason, r.Where, r.Detail)
			}
			for _, s := range rec.Samples {
				types[s.Metric] = true
			}
		}
		week := c.Now().AddDate(0, 0, -7)
		for _, typ := range googlehealth.Types() {
			suffix, ok := listable(typ)
			if ok {
				_, bodies := c.pages(token, points(typ)+suffix, url.Values{"pageSize": {"2000"}})
				for _, b := range bodies {
					decode("list_"+typ+".json", b)
				}
			}
			a := c.do(http.MethodPost, points(typ)+":rollUp", token, map[string]any{"windowSize": "3600s",
				"range": map[string]any{"startTime": week.Format(time.RFC3339),
					"endTime": c.Now().Format(time.RFC3339)}})
			if a.code == http.StatusOK {
				decode("rollUp_"+typ+".json", a.raw)
			}
			a = c.do(http.MethodPost, points(typ)+":dailyRollUp", token, dailyRange(week, c.Now()))
			if a.code == http.StatusOK {
				decode("dailyRollUp_"+typ+".json", a.raw)
			}
		}
		for _, name := range []string{"identity", "profile", "settings", "irnProfile", "pairedDevices"} {
			decode(name+".json", c.do(http.MethodGet, "/v4/users/me/"+name, token, nil).raw)
		}
	}
	for _, metric := range []string{"sleep", "exercise", "heart-rate", "steps", "steps/day", "steps/rollup",
		"electrocardiogram",
		"irregular-rhythm-notification", "heart-rate-variability.rmssd", "daily-resting-heart-rate", "weight",
		"body-fat",
		"height", "active-zone-minutes.fat-burn", "hydration-log", "blood-glucose.interstitial", "run-vo2-max",
		"oxygen-saturation", "swim-lengths-data", "paired-device", "total-calories/day", "skin-temperature",
		"resting-heart-rate-personal-range/day", "nutrition-log", "nutrition-log/day", "symptoms", "moods",
		"menstrual-period", "ovulation-test"} {
		if !types[metric] {
			t.Errorf("no sample of %s", metric)
		}
	}
}

func civilDay(t time.Time) map[string]any {
	return map[string]any{"date": map[string]any{"year": t.Year(), "month": int(t.Month()), "day": t.Day()}}
}

func dailyRange(from, to time.Time) map[string]any {
	return map[string]any{"range": map[string]any{"start": civilDay(from), "end": civilDay(to)}, "windowSizeDays": 1}
}

// TestEveryType checks that the cloud knows exactly the types of the discovery document.
func TestEveryType(t *testing.T) {
	d := mustDiscovery(t)
	known := googlehealth.Types()
	for _, typ := range d.types {
		if !slices.Contains(known, typ) {
			t.Errorf("%s is missing", typ)
		}
	}
	for _, typ := range known {
		if typ != "total-calories" && typ != "calories-in-heart-rate-zone" && !slices.Contains(d.types, typ) {
			t.Errorf("%s is not a type", typ)
		}
	}
}

// TestRollUpsAgree checks that the day's steps of dailyRollUp, of hourly rollUp and of
// reconcile are the same, and that list has more because the phone counts as well.
func TestRollUpsAgree(t *testing.T) {
	c := newCloud(t, googlehealth.Options{Wearers: 12})
	for i := range 12 { // all zones, in the days around daylight saving time
		account := c.Accounts()[i]
		token := c.access(account)
		settings := c.do(http.MethodGet, "/v4/users/me/settings", token, nil).json(t)
		zone, err := time.LoadLocation(settings["timeZone"].(string))
		if err != nil {
			t.Fatal(err)
		}
		for _, day := range []int{7, 8, 28, 29} {
			from := time.Date(2026, 3, day, 0, 0, 0, 0, zone)
			to := time.Date(2026, 3, day+1, 0, 0, 0, 0, zone)
			filter := url.Values{"pageSize": {"10000"},
				"filter": {`steps.interval.civil_start_time >= "` + from.Format(time.DateOnly) +
					`" AND steps.interval.civil_start_time < "` + to.Format(time.DateOnly) + `"`}}
			merged, _ := c.pages(token, points("steps")+":reconcile", filter)
			all, _ := c.pages(token, points("steps"), filter)
			daily := sum(c.do(http.MethodPost, points("steps")+":dailyRollUp", token, dailyRange(from, to)).json(t))
			hourly := sum(c.do(http.MethodPost, points("steps")+":rollUp", token, map[string]any{"windowSize": "3600s",
				"range": map[string]any{"startTime": from.UTC().Format(time.RFC3339),
					"endTime": to.UTC().Format(time.RFC3339)}}).json(t))
			if got := count(merged); got != daily || got != hourly || got == 0 || count(all) <= got {
				t.Errorf("%s, March %d: reconcile %d, dailyRollUp %d, rollUp %d, list %d", zone, day, got, daily,
					hourly, count(all))
			}
		}
	}
}

// count sums the steps of points.
func count(points []map[string]any) (n int) {
	for _, p := range points {
		text, _ := p["steps"].(map[string]any)["count"].(string)
		v, _ := strconv.Atoi(text) // an absent count is zero
		n += v
	}
	return n
}

// sum sums the steps of roll-ups.
func sum(page map[string]any) (n int) {
	list, _ := page["rollupDataPoints"].([]any)
	for _, p := range list {
		v, _ := strconv.Atoi(p.(map[string]any)["steps"].(map[string]any)["countSum"].(string)) // digits
		n += v
	}
	return n
}

// TestFilters checks which members a filter of each kind of type may use, and what is
// selected.
func TestFilters(t *testing.T) {
	c := newCloud(t, googlehealth.Options{Wearers: 3})
	token := c.access(c.Accounts()[0]) // Europe/Berlin
	for _, tt := range []struct {
		typ, filter, reason string
	}{
		{"steps", `steps.interval.start_time >= "2026-03-10T00:00:00Z" AND ` +
			`steps.interval.start_time < "2026-03-11T00:00:00Z"`, ""},
		{"steps", `steps.interval.civil_start_time >= "2026-03-10T06:00:00"`, ""},
		{"steps", `steps.interval.end_time >= "2026-03-10T00:00:00Z"`, "INVALID_DATA_POINT_FILTER"},
		{"steps", `distance.interval.start_time >= "2026-03-10T00:00:00Z"`, "INVALID_DATA_POINT_FILTER"},
		{"steps", `steps.interval.start_time > "2026-03-10T00:00:00Z"`, "INVALID_DATA_POINT_FILTER"},
		{"steps", `steps.interval.start_time >= "2026-03-10"`, "INVALID_DATA_POINT_FILTER"},
		{"steps", `steps.interval.start_time >= 2026`, "INVALID_DATA_POINT_FILTER"},
		{"steps", `steps.interval.start_time >= "2026-03-10T00:00:00Z" OR ` +
			`steps.interval.start_time < "2026-03-09T00:00:00Z"`,
			"INVALID_DATA_POINT_FILTER"},
		{"steps", `steps.interval.start_time >= "2026-03-10T00:00:00Z" AND ` +
			`steps.interval.civil_start_time < "2026-03-11"`,
			"INVALID_DATA_POINT_FILTER"},
		{"steps", `steps.interval.start_time >= "2026-03-10T00:00:00Z" AND`, "INVALID_DATA_POINT_FILTER"},
		{"heart-rate", `heart_rate.sample_time.physical_time >= "2026-03-30T00:00:00+01:00"`, ""},
		{"heart-rate", `heart_rate.sample_time.civil_time < "2026-03-02"`, ""},
		{"heart-rate", `heart-rate.sample_time.civil_time < "2026-03-02"`, "INVALID_DATA_POINT_FILTER"},
		{"daily-heart-rate-variability", `daily_heart_rate_variability.date >= "2026-03-05"`, ""},
		{"daily-heart-rate-variability", `daily_heart_rate_variability.date >= "2026-03-05T00:00:00"`,
			"INVALID_DATA_POINT_FILTER"},
		{"exercise", `exercise.interval.civil_start_time >= "2026-03-05"`, ""},
		{"exercise", `exercise.interval.start_time >= "2026-03-05T00:00:00Z"`, "INVALID_DATA_POINT_FILTER"},
		{"sleep", `sleep.interval.end_time >= "2026-03-05T00:00:00Z" AND ` +
			`sleep.interval.end_time < "2026-03-08T00:00:00Z"`, ""},
		{"sleep", `sleep.interval.civil_end_time < "2026-03-05" OR sleep.interval.civil_end_time >= "2026-03-20"`, ""},
		{"sleep", `sleep.interval.civil_start_time >= "2026-03-05"`, "INVALID_DATA_POINT_FILTER"},
		{"electrocardiogram", `electrocardiogram.interval.start_time >= "2026-03-05T00:00:00Z"`, ""},
		{"electrocardiogram", `electrocardiogram.interval.start_time < "2026-03-05T00:00:00Z"`,
			"INVALID_DATA_POINT_FILTER"},
		{"food", `food.date >= "2026-03-05"`, "INVALID_DATA_POINT_FILTER"},
	} {
		a := c.do(http.MethodGet, points(tt.typ)+"?"+url.Values{"filter": {tt.filter}}.Encode(), token, nil)
		switch {
		case tt.reason == "" && a.code != http.StatusOK:
			t.Errorf("%s: %d, %s", tt.filter, a.code, a.raw)
		case tt.reason != "" && (a.code != http.StatusBadRequest || a.reason(t) != tt.reason):
			t.Errorf("%s: %d, want 400 %s", tt.filter, a.code, tt.reason)
		}
	}
}

// TestFilterSelects compares filtered answers with a filter over the truth.
func TestFilterSelects(t *testing.T) {
	c := newCloud(t, googlehealth.Options{Wearers: 3})
	account := c.Accounts()[1] // America/New_York, five or four hours behind UTC
	token := c.access(account)
	lower, upper := time.Date(2026, 3, 8, 3, 0, 0, 0, time.UTC), time.Date(2026, 3, 12, 3, 0, 0, 0, time.UTC)
	for typ, member := range map[string]string{"steps": "interval.start_time",
		"heart-rate":             "sample_time.physical_time",
		"heart-rate-variability": "sample_time.civil_time", "exercise": "interval.civil_start_time",
		"hydration-log": "interval.civil_start_time", "distance": "interval.civil_start_time",
		"daily-respiratory-rate": "date"} {
		layout, utc := time.RFC3339, true
		switch {
		case member == "date":
			layout, utc = time.DateOnly, false
		case strings.Contains(member, "civil"):
			layout, utc = "2006-01-02T15:04:05", false
		}
		name := strings.ReplaceAll(typ, "-", "_") + "." + member
		got, _ := c.pages(token, points(typ), url.Values{"filter": {name + ` >= "` + lower.Format(layout) + `" AND ` +
			name + ` < "` + upper.Format(layout) + `"`}, "pageSize": {"1000"}})
		want := 0
		for _, r := range c.Truth(account, typ) {
			at := r.Time
			if !utc {
				at = time.Date(at.Year(), at.Month(), at.Day(), at.Hour(), at.Minute(), at.Second(), 0, time.UTC)
			}
			low, high := lower, upper
			if member == "date" {
				low, high = lower.Truncate(24*time.Hour), upper.Truncate(24*time.Hour)
			}
			if r.Type == typ && !at.Before(low) && at.Before(high) {
				want++
			}
		}
		if len(got) != want || want == 0 {
			t.Errorf("%s: %d points, want %d", name, len(got), want)
		}
	}
}

// TestOperations checks that each type has the documented methods only.
func TestOperations(t *testing.T) {
	c := newCloud(t, googlehealth.Options{Wearers: 1})
	token := c.access(c.Accounts()[0])
	week := c.Now().AddDate(0, 0, -7)
	roll := map[string]any{"windowSize": "86400s", "range": map[string]any{"startTime": week.Format(time.RFC3339),
		"endTime": c.Now().Format(time.RFC3339)}}
	for typ, allowed := range map[string]string{
		"floors":                        "reconcile rollUp dailyRollUp",
		"total-calories":                "rollUp dailyRollUp",
		"calories-in-heart-rate-zone":   "rollUp dailyRollUp",
		"activity-level":                "list reconcile",
		"electrocardiogram":             "list",
		"irregular-rhythm-notification": "list",
		"sleep":                         "list reconcile",
		"steps":                         "list reconcile rollUp dailyRollUp",
	} {
		for name, a := range map[string]*answer{
			"list":        c.do(http.MethodGet, points(typ), token, nil),
			"reconcile":   c.do(http.MethodGet, points(typ)+":reconcile", token, nil),
			"rollUp":      c.do(http.MethodPost, points(typ)+":rollUp", token, roll),
			"dailyRollUp": c.do(http.MethodPost, points(typ)+":dailyRollUp", token, dailyRange(week, c.Now())),
		} {
			switch {
			case slices.Contains(strings.Fields(allowed), name) && a.code != http.StatusOK:
				t.Errorf("%s %s: %d, %s", name, typ, a.code, a.raw)
			case !slices.Contains(strings.Fields(allowed), name) && (a.code != http.StatusBadRequest ||
				a.reason(t) != "INVALID_PARENT_DATA_TYPE_COLLECTION"):
				t.Errorf("%s %s: %d", name, typ, a.code)
			}
		}
	}
}

// TestSleepIsRestated follows nights from their arrival on: unprocessed, then processed
// under the same name with a later updateTime.
func TestSleepIsRestated(t *testing.T) {
	c := newCloud(t, googlehealth.Options{Wearers: 1})
	token := c.access(c.Accounts()[0])
	type state struct{ kind, updated string }
	seen := map[string][]state{}
	edited := 0
	for range 14 * 24 * 4 {
		c.clock.Add(15 * time.Minute)
		a := c.do(http.MethodGet, points("sleep")+"?pageSize=3", token, nil)
		if a.code == http.StatusUnauthorized {
			token = c.access(c.Accounts()[0])
			continue
		}
		for _, p := range a.json(t)["dataPoints"].([]any) {
			name := p.(map[string]any)["name"].(string)
			night := p.(map[string]any)["sleep"].(map[string]any)
			s := state{night["type"].(string), night["updateTime"].(string)}
			if h := seen[name]; len(h) == 0 || h[len(h)-1] != s {
				seen[name] = append(h, s)
				if m := night["metadata"].(map[string]any); m["manuallyEdited"] == true {
					edited++
				}
			}
		}
	}
	restated := 0
	for name, h := range seen {
		if len(h) > 1 && h[0].kind == "CLASSIC" && h[1].kind == "STAGES" {
			restated++
		}
		for i := 1; i < len(h); i++ {
			if h[i].updated <= h[i-1].updated {
				t.Errorf("%s: updateTime %s after %s", name, h[i].updated, h[i-1].updated)
			}
		}
	}
	if restated < 8 || edited == 0 {
		t.Errorf("%d nights restated, %d edited", restated, edited)
	}
}

// TestDeterminism checks that two clouds with the same seed answer the same after
// different requests, and that another seed differs.
func TestDeterminism(t *testing.T) {
	a, b := newCloud(t, googlehealth.Options{Wearers: 4}), newCloud(t, googlehealth.Options{Wearers: 9})
	b.Truth(b.Accounts()[8], "steps")
	for _, types := range [][]string{{"sleep", "steps", "exercise"},
		{"weight", "daily-resting-heart-rate", "heart-rate"}} {
		a.clock.Add(7 * time.Hour)
		b.clock.Add(7 * time.Hour)
		x, y := a.Truth(a.Accounts()[3], types...), b.Truth(b.Accounts()[3], types...)
		if len(x) != len(y) {
			t.Fatalf("%d and %d records", len(x), len(y))
		}
		for i := range x {
			if x[i].Key != y[i].Key || !bytes.Equal(x[i].JSON, y[i].JSON) {
				t.Fatalf("record %d: %s and %s", i, x[i].JSON, y[i].JSON)
			}
		}
	}
	other, err := googlehealth.New(googlehealth.Options{Seed: 43, Wearers: 4, Start: start, Clock: a.clock})
	if err != nil {
		t.Fatal(err)
	}
	if other.Accounts()[3] == a.Accounts()[3] {
		t.Error("another seed has the same accounts")
	}
}

// TestKeysAreUnique checks that no two records of an account have the same type and key.
func TestKeysAreUnique(t *testing.T) {
	c := newCloud(t, googlehealth.Options{Wearers: 12, Every: 30 * time.Minute})
	for _, i := range []int{3, 10} {
		account := c.Accounts()[i]
		seen := map[string]bool{}
		for _, r := range c.Truth(account) {
			key := r.Type + " " + r.Key
			if seen[key] {
				t.Errorf("%s occurs twice", key)
			}
			seen[key] = true
		}
		if len(seen) < 1000 {
			t.Errorf("only %d records", len(seen))
		}
	}
}

// TestDeleteDay checks that the points of a day disappear, and only those.
func TestDeleteDay(t *testing.T) {
	c := newCloud(t, googlehealth.Options{Wearers: 1})
	account := c.Accounts()[0]
	day, err := simulate.ParseDay("2026-03-12")
	if err != nil {
		t.Fatal(err)
	}
	before := byType(c.Truth(account, "heart-rate", "steps"))
	if err := c.DeleteDay(account, "heart-rate", day); err != nil {
		t.Fatal(err)
	}
	after := byType(c.Truth(account, "heart-rate", "steps"))
	lost := len(before["heart-rate"]) - len(after["heart-rate"])
	if lost < 100 || lost > 144 || len(before["steps"]) != len(after["steps"]) {
		t.Errorf("%d heart rates were deleted", lost)
	}
	for _, r := range c.Truth(account, "heart-rate") {
		if simulate.DayOf(r.Time) == day {
			t.Errorf("%s is still there", r.Key)
		}
	}
	if err := c.DeleteDay(account, "nonsense", day); err == nil {
		t.Error("an unknown type is accepted")
	}
}

// TestLastPageMayBeBare checks that a page of exactly the remaining points has a token and
// is followed by {}.
func TestLastPageMayBeBare(t *testing.T) {
	c := newCloud(t, googlehealth.Options{Wearers: 1})
	token := c.access(c.Accounts()[0])
	n := len(c.Truth(c.Accounts()[0], "daily-respiratory-rate"))
	_, bodies := c.pages(token, points("daily-respiratory-rate"), url.Values{"pageSize": {strconv.Itoa(n)}})
	if last := bodies[len(bodies)-1]; len(bodies) < 2 || string(bytes.TrimSpace(last)) != "{}" {
		t.Errorf("%d pages, the last is %s", len(bodies), last)
	}
	for typ, want := range map[string]int{"heart-rate": 50, "sleep": 25, "oxygen-saturation": 1000} {
		params := url.Values{}
		if typ != "heart-rate" {
			params.Set("pageSize", "1000") // cut to 25 for sleep
		}
		page := c.do(http.MethodGet, points(typ)+"?"+params.Encode(), token, nil).json(t)
		if got := len(page["dataPoints"].([]any)); got != want {
			t.Errorf("%s: %d points, want %d", typ, got, want)
		}
	}
}

// TestDaylightSavingNight checks the nights in which Berlin changes its time: start and
// end state different offsets, and the stages cover the night to the minute.
func TestDaylightSavingNight(t *testing.T) {
	c := newCloud(t, googlehealth.Options{Wearers: 1})
	found := false
	for _, p := range nights(c) {
		span := p["interval"].(map[string]any)
		from, to := parseTime(t, span["startTime"]), parseTime(t, span["endTime"])
		if span["civilStartTime"] != nil {
			t.Error("a night has civil times")
		}
		minutes := 0.0
		for _, s := range p["stages"].([]any) {
			stage := s.(map[string]any)
			minutes += parseTime(t, stage["endTime"]).Sub(parseTime(t, stage["startTime"])).Minutes()
		}
		if minutes != to.Sub(from).Minutes() {
			t.Errorf("stages of %v minutes in a night of %v", minutes, to.Sub(from))
		}
		if strings.HasPrefix(span["endTime"].(string), "2026-03-29T0") {
			found = true
			if span["startUtcOffset"] != "3600s" || span["endUtcOffset"] != "7200s" {
				t.Errorf("offsets %v", span)
			}
		}
	}
	if !found {
		t.Error("no night ends on March 29")
	}
}

// nights returns the sleep of the first wearer.
func nights(c *cloud) (out []map[string]any) {
	list, _ := c.pages(c.access(c.Accounts()[0]), points("sleep"), nil)
	for _, p := range list {
		out = append(out, p["sleep"].(map[string]any))
	}
	return out
}

func parseTime(t *testing.T, v any) time.Time {
	at, err := time.Parse(time.RFC3339Nano, v.(string))
	if err != nil {
		t.Fatal(err)
	}
	return at
}

// TestDailyValueIsRestated checks that the resting heart rate is preliminary on its day
// and changes with the first sync of the next.
func TestDailyValueIsRestated(t *testing.T) {
	c := newCloud(t, googlehealth.Options{Wearers: 1})
	account := c.Accounts()[0]
	first := map[string]string{}
	changed := 0
	for range 60 {
		c.clock.Add(4 * time.Hour)
		for _, r := range c.Truth(account, "daily-resting-heart-rate")[:3] {
			value := string(r.JSON)
			if was, ok := first[r.Key]; !ok {
				first[r.Key] = value
			} else if was != value && strings.Contains(was, "ONLY_WITH_AWAKE_DATA") &&
				strings.Contains(value, "WITH_SLEEP") {
				changed++
				first[r.Key] = value
			}
		}
	}
	if changed < 7 {
		t.Errorf("%d of %d days were restated", changed, len(first))
	}
}

// TestGetPoint reads single points by their names, with the numeric user id.
func TestGetPoint(t *testing.T) {
	c := newCloud(t, googlehealth.Options{Wearers: 1})
	account := c.Accounts()[0]
	token := c.access(account)
	n := 0
	for _, r := range c.Truth(account, "sleep", "exercise", "weight", "electrocardiogram", "hydration-log")[:30] {
		a := c.do(http.MethodGet, "/v4/"+r.Key, token, nil)
		if a.code != http.StatusOK || canonical(t, a.json(t)) != string(r.JSON) {
			t.Errorf("%s: %d", r.Key, a.code)
		}
		n++
	}
	if n == 0 {
		t.Error("no named points")
	}
}

// TestPairedDevices pages through the devices one by one.
func TestPairedDevices(t *testing.T) {
	c := newCloud(t, googlehealth.Options{Wearers: 1})
	token := c.access(c.Accounts()[0])
	page := c.do(http.MethodGet, "/v4/users/me/pairedDevices?pageSize=1", token, nil).json(t)
	next, _ := page["nextPageToken"].(string)
	rest := c.do(http.MethodGet, "/v4/users/me/pairedDevices?pageToken="+next, token, nil).json(t)
	if len(page["pairedDevices"].([]any)) != 1 || next == "" || len(rest["pairedDevices"].([]any)) != 1 {
		t.Errorf("%v, %v", page, rest)
	}
	one := c.do(http.MethodGet, "/v4/users/me/pairedDevices/2", token, nil).json(t)
	if canonical(t, one) != canonical(t, rest["pairedDevices"].([]any)[0]) {
		t.Errorf("%v, %v", one, rest)
	}
}

// TestRollUpRefuses checks the limits of roll-ups.
func TestRollUpRefuses(t *testing.T) {
	c := newCloud(t, googlehealth.Options{Wearers: 1})
	token := c.access(c.Accounts()[0])
	hours := func(days int) map[string]any {
		return map[string]any{"windowSize": "3600s", "range": map[string]any{
			"startTime": c.Now().AddDate(0, 0, -days).Format(time.RFC3339), "endTime": c.Now().Format(time.RFC3339)}}
	}
	for _, tt := range []struct {
		typ, method string
		body        any
		code        int
	}{
		{"steps", "rollUp", hours(90), 200},
		{"steps", "rollUp", hours(91), 400},
		{"heart-rate", "rollUp", hours(14), 200},
		{"heart-rate", "rollUp", hours(15), 400},
		{"total-calories", "dailyRollUp", dailyRange(c.Now().AddDate(0, 0, -15), c.Now()), 400},
		{"steps", "rollUp", `{"windowSize":"1h"}`, 400},
		{"steps", "rollUp", `{"unknown":1}`, 400},
		{"steps", "rollUp", `{`, 400},
		{"steps", "dailyRollUp", `{"range":{"start":{"date":{"year":2026,"month":2,"day":30}},"end":{}}}`, 400},
		{"steps", "dailyRollUp", `{}`, 400},
	} {
		if a := c.do(http.MethodPost, points(tt.typ)+":"+tt.method, token, tt.body); a.code != tt.code {
			t.Errorf("%s of %s with %v: %d, want %d", tt.method, tt.typ, tt.body, a.code, tt.code)
		}
	}
	body := hours(14)
	body["pageSize"] = 20
	seen := map[string]bool{}
	for {
		page := c.do(http.MethodPost, points("steps")+":rollUp", token, body).json(t)
		list, _ := page["rollupDataPoints"].([]any)
		for _, p := range list {
			at := p.(map[string]any)["startTime"].(string)
			if seen[at] || len(list) > 20 {
				t.Fatalf("window %s is repeated, or the page has %d windows", at, len(list))
			}
			seen[at] = true
		}
		if body["pageToken"] = page["nextPageToken"]; page["nextPageToken"] == nil {
			break
		}
	}
	if len(seen) < 100 {
		t.Errorf("%d windows", len(seen))
	}
}

// TestReconciledSleepIsTheSame checks that the adapter reads the same nights from
// reconcile, which repeats the summary of some stages, and from list.
func TestReconciledSleepIsTheSame(t *testing.T) {
	c := newCloud(t, googlehealth.Options{Wearers: 1})
	token := c.access(c.Accounts()[0])
	read := func(suffix string) []string {
		rec := adaptertest.NewRecorder()
		_, bodies := c.pages(token, points("sleep")+suffix, nil)
		in := adapters.Input{Format: "google-health", Body: bytes.NewReader(bytes.Join(bodies, nil))}
		if err := fitbit.New().Decode(context.Background(), in, rec); err != nil {
			t.Fatal(err)
		}
		var out []string
		for _, s := range rec.Samples {
			out = append(out, canonical(t, s))
		}
		if doubled := bytes.Count(bytes.Join(bodies, nil), []byte(`"type":"REM"},{"count"`)); suffix != "" &&
			doubled == 0 {
			t.Error("no summary is repeated")
		}
		return out
	}
	if list, merged := read(""), read(":reconcile"); !slices.Equal(list, merged) || len(list) < 20 {
		t.Errorf("%d nights of list, %d of reconcile", len(list), len(merged))
	}
}

func TestExportTCX(t *testing.T) {
	c := newCloud(t, googlehealth.Options{Wearers: 1})
	account := c.Accounts()[0]
	target := "/v4/" + c.Truth(account, "exercise")[0].Key + ":exportExerciseTcx"
	token := c.access(account)
	if a := c.do(http.MethodGet, target, token, nil); a.code != http.StatusForbidden {
		t.Errorf("without the location scope: %d", a.code)
	}
	token = c.access(account, scope("activity_and_fitness"), scope("location"))
	a := c.do(http.MethodGet, target, token, nil)
	tcx, _ := a.json(t)["tcxData"].(string)
	raw := c.do(http.MethodGet, target+"?alt=media", token, nil)
	if string(raw.raw) != tcx || !strings.Contains(tcx, "<Trackpoint>") {
		t.Errorf("%d, %s, %s", a.code, a.raw, raw.raw)
	}
	for dec := xml.NewDecoder(strings.NewReader(tcx)); ; {
		if _, err := dec.Token(); err == io.EOF {
			return
		} else if err != nil {
			t.Fatal(err)
		}
	}
}

// TestDayTotals compares DayTotals with dailyRollUp, page by page.
func TestDayTotals(t *testing.T) {
	c := newCloud(t, googlehealth.Options{Wearers: 1})
	account := c.Accounts()[0]
	token := c.access(account)
	for _, typ := range []string{"floors", "total-calories", "calories-in-heart-rate-zone"} {
		var got []string
		for end := c.Now().AddDate(0, 0, 1); end.After(start); end = end.AddDate(0, 0, -14) {
			page := c.do(http.MethodPost, points(typ)+":dailyRollUp", token,
				dailyRange(end.AddDate(0, 0, -14), end)).json(t)
			list, _ := page["rollupDataPoints"].([]any)
			for _, item := range list {
				got = append(got, canonical(t, item))
			}
		}
		want := c.DayTotals(account, typ)
		if len(got) != len(want) || len(got) < 28 {
			t.Fatalf("%s: %d days, want %d", typ, len(got), len(want))
		}
		for i, r := range want {
			if got[i] != string(r.JSON) || !strings.HasPrefix(r.Key, "2026-03-") {
				t.Errorf("%s: %s, want %s", r.Key, got[i], r.JSON)
			}
		}
	}
}

// TestDaysAreDrawnWhenRead checks that thousands of wearers cost nothing until they are
// read, and that a page draws only the days that it shows.
func TestDaysAreDrawnWhenRead(t *testing.T) {
	c := newCloud(t, googlehealth.Options{Wearers: 5000})
	if n := c.Stats().Days; n != 0 {
		t.Errorf("%d days were drawn before a request", n)
	}
	token := c.access(c.Accounts()[4999])
	c.do(http.MethodGet, points("heart-rate")+"?pageSize=200", token, nil)
	c.do(http.MethodGet, points("sleep")+"?"+
		url.Values{"filter": {`sleep.interval.end_time >= "2026-03-05T00:00:00Z" ` +
			`AND sleep.interval.end_time < "2026-03-07T00:00:00Z"`}}.Encode(), token, nil)
	if n := c.Stats().Days; n == 0 || n > 12 {
		t.Errorf("%d days were drawn for two pages", n)
	}
}
