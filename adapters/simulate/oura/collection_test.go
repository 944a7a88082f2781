package oura_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"pulsegate/adapters"
	"pulsegate/adapters/adaptertest"
	format "pulsegate/adapters/oura"
	"pulsegate/adapters/simulate"
	"pulsegate/adapters/simulate/oura"
)

// same reports the first difference of two lists.
func same(t *testing.T, what string, got, want []string) {
	t.Helper()
	for i := range max(len(got), len(want)) {
		if i >= len(got) || i >= len(want) || got[i] != want[i] {
			t.Errorf("%s: record %d of %d and %d:\n%.200s\n%.200s", what, i, len(got), len(want),
				strings.Join(got[min(i, len(got)):min(i+1, len(got))], ""),
				strings.Join(want[min(i, len(want)):min(i+1, len(want))], ""))
			return
		}
	}
}

// TestFullReadIsTruth reads everything page by page at several times, with pages that are
// empty but not the last, and compares it with the truth.
func TestFullReadIsTruth(t *testing.T) {
	for name, rates := range map[string]map[simulate.Fault]float64{"without faults": nil,
		"empty pages": {simulate.EmptyPage: 0.3}} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, 2, func(o *oura.Options) { o.PageSize, o.Faults.Rates = 7, rates })
			w.clock.Set(start.AddDate(0, 0, 30))
			tok := make([]tokens, 2)
			for i := range tok {
				tok[i] = w.link(i, everything)
			}
			for range 3 {
				w.clock.Add(5 * time.Hour)
				for i := range tok {
					got := w.readEverything(tok[i].Access)
					if len(got) < 30*200 {
						t.Fatalf("only %d records", len(got))
					}
					same(t, fmt.Sprint("wearer ", i), got, w.truth(i))
				}
			}
			if rates != nil && w.cloud.Sent().Injected[simulate.EmptyPage] == 0 {
				t.Error("no page was empty")
			}
		})
	}
}

// TestDocumentsByID reads each document that the cloud holds by its id.
func TestDocumentsByID(t *testing.T) {
	w := newWorld(t, 1, nil)
	tok := w.link(0, everything)
	n := 0
	for _, r := range w.cloud.Truth(w.cloud.Accounts()[0], documentTypes...) {
		n++
		a := w.get("/v2/usercollection/"+r.Type+"/"+r.ID, tok.Access)
		if a.status != 200 || strings.TrimSpace(a.body) != string(r.JSON) {
			t.Errorf("%s/%s: %d %.200s", r.Type, r.ID, a.status, a.body)
		}
	}
	if n < 200 {
		t.Errorf("only %d documents", n)
	}
	for _, id := range []string{"x", "00000000-0000-4000-8000-000000000000", "00000000-0000-4000-8000-00000000000z"} {
		if a := w.get("/v2/usercollection/sleep/"+id, tok.Access); a.status != 404 ||
			!strings.Contains(a.body, `{"detail":"Document not found."}`) {
			t.Errorf("%s: %d %s", id, a.status, a.body)
		}
	}
}

// TestAdapterDecodesEverything decodes what the cloud of both versions of the API serves
// with the adapter.
func TestAdapterDecodesEverything(t *testing.T) {
	for _, old := range []bool{false, true} {
		w := newWorld(t, 3, func(o *oura.Options) { o.OldAPI = old })
		metrics := map[string]int{}
		for i := range 3 {
			lists := map[string][]json.RawMessage{}
			for _, r := range w.cloud.Truth(w.cloud.Accounts()[i]) {
				lists[r.Type] = append(lists[r.Type], r.JSON)
			}
			for typ, docs := range lists {
				body, err := json.Marshal(map[string]any{"data": docs, "next_token": nil})
				if err != nil {
					t.Fatal(err)
				}
				rec := adaptertest.NewRecorder()
				if err := format.New().Decode(t.Context(), adapters.Input{Hint: typ, Body: bytes.NewReader(body),
					Received: w.clock.Now()}, rec); err != nil {
					t.Fatalf("%s: %v", typ, err)
				}
				if len(rec.Rejects) > 0 || len(rec.Drops) > 0 {
					t.Errorf("%s: rejects %v, drops %v", typ, *rec.Rejects[0], rec.Drops)
				}
				for _, s := range rec.Samples {
					metrics[s.Metric]++
					if err := adaptertest.Check(s); err != nil {
						t.Errorf("%s: %v", s.Metric, err)
					}
				}
			}
		}
		for _, m := range []string{"sleep", "sleep.heart_rate", "sleep.hrv", "heartrate", "daily_activity.steps",
			"daily_activity.met", "daily_activity.class_5_min", "daily_readiness.score", "daily_sleep.score",
			"daily_spo2.spo2_percentage", "daily_stress", "daily_resilience", "daily_cardiovascular_age", "vO2_max",
			"workout", "session", "enhanced_tag", "tag", "rest_mode_period", "sleep_time", "personal_info.weight",
			"ring_battery_level", "ring_configuration"} {
			if metrics[m] == 0 {
				t.Errorf("no sample of %s", m)
			}
		}
	}
}

// days returns the days of the documents of a window.
func (w *world) days(typ, token, from, to string) (out []string) {
	w.t.Helper()
	for _, raw := range w.readAll("/v2/usercollection/"+typ, token,
		url.Values{"start_date": {from}, "end_date": {to}}) {
		var doc struct{ Day string }
		if err := json.Unmarshal(raw, &doc); err != nil {
			w.t.Fatal(err)
		}
		if !slices.Contains(out, doc.Day) {
			out = append(out, doc.Day)
		}
	}
	return out
}

// TestWindowEdges shows which days a window contains, type by type.
func TestWindowEdges(t *testing.T) {
	w := newWorld(t, 1, nil)
	tok := w.link(0, everything)
	for _, c := range []struct{ typ, from, to, want string }{
		{"daily_activity", "2026-10-10", "2026-10-12", "10 11"},
		{"daily_activity", "2026-10-10", "2026-10-12T23:59:59", "10 11 12"},
		{"daily_activity", "2026-10-10T00:00:00+02:00", "2026-10-12T00:00:01Z", "10 11 12"},
		{"daily_sleep", "2026-10-10", "2026-10-12", "10 11 12"},
		{"daily_readiness", "2026-10-10", "2026-10-12", "10 11 12"},
		{"sleep", "2026-10-10", "2026-10-12", "11 12"},
		{"sleep", "2026-10-12", "2026-10-12", ""},
		{"daily_sleep", "2026-10-12", "2026-10-12", "12"},
		{"daily_activity", "2026-10-12", "2026-10-12", ""},
		{"daily_spo2", "2000-01-01T00:00:00Z", "2026-10-02", "01 02"},
	} {
		var got []string
		for _, day := range w.days(c.typ, tok.Access, c.from, c.to) {
			got = append(got, strings.TrimPrefix(day, "2026-10-"))
		}
		if s := strings.Join(got, " "); s != c.want {
			t.Errorf("%s from %s to %s: days %q, want %q", c.typ, c.from, c.to, s, c.want)
		}
	}
	today := w.clock.Now().Format(time.DateOnly)
	w.clock.Set(time.Date(2026, 11, 10, 22, 0, 0, 0, time.UTC))
	if got := w.days("daily_activity", tok.Access, "2026-11-09", today); slices.Contains(got, today) {
		t.Errorf("end_date %s contains today's activity: %v", today, got)
	}
}

func TestRowsOfAWindow(t *testing.T) {
	w := newWorld(t, 1, nil)
	tok := w.link(0, everything)
	read := func(q url.Values) (times []string) {
		for _, raw := range w.readAll("/v2/usercollection/heartrate", tok.Access, q) {
			var row struct{ Timestamp string }
			if err := json.Unmarshal(raw, &row); err != nil {
				t.Fatal(err)
			}
			times = append(times, row.Timestamp)
		}
		return times
	}
	from, to := "2026-10-10T08:00:00Z", "2026-10-10T12:00:00Z"
	got := read(url.Values{"start_datetime": {from}, "end_datetime": {to}})
	if len(got) < 40 || len(got) > 50 || got[0] < from[:19] || got[len(got)-1] >= to[:19] || !slices.IsSorted(got) {
		t.Errorf("%d rows from %s to %s", len(got), got[0], got[len(got)-1])
	}
	latest := read(url.Values{"latest": {"true"}})
	all := read(url.Values{})
	if len(latest) != 1 || latest[0] != all[len(all)-1] {
		t.Errorf("latest %v, want %s", latest, all[len(all)-1])
	}
}

func TestFields(t *testing.T) {
	w := newWorld(t, 1, nil)
	tok := w.link(0, everything)
	q := url.Values{"start_date": {"2026-10-10"}, "end_date": {"2026-10-10"}, "fields": {"score"}}
	docs := w.readAll("/v2/usercollection/daily_sleep", tok.Access, q)
	var doc map[string]any
	if err := json.Unmarshal(docs[0], &doc); err != nil {
		t.Fatal(err)
	}
	if doc["score"] == nil || doc["id"] == nil || doc["day"] == nil || doc["contributors"] != nil {
		t.Errorf("%v", doc)
	}
}

// TestTokensOfPages checks that a next_token belongs to its request.
func TestTokensOfPages(t *testing.T) {
	w := newWorld(t, 1, func(o *oura.Options) { o.PageSize = 3 })
	tok := w.link(0, everything)
	path := "/v2/usercollection/daily_sleep?start_date=2026-10-05&end_date=2026-10-20"
	var p page
	if err := json.Unmarshal([]byte(w.get(path, tok.Access).body), &p); err != nil || p.Next == nil ||
		len(p.Data) != 3 {
		t.Fatalf("%v, %d documents, next %v", err, len(p.Data), p.Next)
	}
	for _, bad := range []string{
		path + "&next_token=nonsense",
		"/v2/usercollection/daily_sleep?start_date=2026-10-06&end_date=2026-10-20&next_token=" + *p.Next,
		"/v2/usercollection/daily_readiness?start_date=2026-10-05&end_date=2026-10-20&next_token=" + *p.Next,
	} {
		if a := w.get(bad, tok.Access); a.status != 400 {
			t.Errorf("%s: %d", bad, a.status)
		}
	}
}

func TestErrors(t *testing.T) {
	w := newWorld(t, 2, func(o *oura.Options) { o.RateLimit = 40 })
	tok := w.link(0, "extapi:workout")
	const list = "/v2/usercollection/"
	for _, c := range []struct {
		path, token string
		status      int
		body        string
	}{
		{"sleep", tok.Access, 403, `"detail":"Forbidden"`},
		{"sleep/x", tok.Access, 403, `"detail":"Forbidden"`},
		{"heartrate", tok.Access, 403, `"detail":"Forbidden"`},
		{"interbeat_interval", tok.Access, 403, `"detail":"Forbidden"`},
		{"workout", tok.Access, 200, `"data"`},
		{"workout", tok.Refresh, 401, ""},
		{"workout", "nonsense", 401, ""},
		{"workout", tok.Access[:len(tok.Access)-1] + "0", 401, ""},
		{"blood_glucose", tok.Access, 404, "Not Found"},
		{"vo2_max", tok.Access, 404, "Not Found"},
		{"workout?start_date=yesterday", tok.Access, 422, `"loc":["query","start_date"]`},
		{"workout?start_date=2026-10-03&end_date=2026-10-01", tok.Access, 400, "Start date is greater"},
		{"personal_info", tok.Access, 200, `{"id":"` + w.cloud.Accounts()[0] + `"}`},
	} {
		a := w.get(list+c.path, c.token)
		if a.status != c.status || !strings.Contains(a.body, c.body) || c.status == 401 && a.body != "" {
			t.Errorf("%s: %d %s, want %d %s", c.path, a.status, a.body, c.status, c.body)
		}
	}
	if a := w.do(w.request("GET", list+"workout", "")); a.status != 400 ||
		!strings.Contains(a.body, "Token is missing") {
		t.Errorf("no token: %d %s", a.status, a.body)
	}
	limited := 0
	for range 60 {
		a := w.get(list+"personal_info", tok.Access)
		if a.status != 429 {
			continue
		}
		limited++
		for _, h := range []string{"Retry-After", "X-RateLimit-Limit", "X-RateLimit-Window", "X-RateLimit-Reset",
			"X-RateLimit-Tier"} {
			if a.header.Get(h) == "" {
				t.Errorf("429 without %s", h)
			}
		}
	}
	if limited == 0 {
		t.Error("no limit of requests")
	}
	if a := w.get(list+"personal_info", w.link(1, everything).Access); a.status != 200 {
		t.Errorf("the limit of one token reaches another: %d", a.status)
	}
	w.clock.Add(5 * time.Minute)
	if a := w.get(list+"personal_info", tok.Access); a.status != 200 {
		t.Errorf("limited after the window: %d", a.status)
	}
}

func TestMembershipAndOutage(t *testing.T) {
	w := newWorld(t, 2, nil)
	a, b := w.link(0, everything), w.link(1, everything)
	now := w.clock.Now()
	w.cloud.LapseMembership(w.cloud.Accounts()[0], now, now.Add(time.Hour))
	if got := w.get("/v2/usercollection/sleep", a.Access); got.status != 403 ||
		!strings.Contains(got.body, "membership") {
		t.Errorf("lapsed: %d %s", got.status, got.body)
	}
	if got := w.get("/v2/usercollection/sleep", b.Access); got.status != 200 {
		t.Errorf("the other account: %d", got.status)
	}
	w.clock.Add(time.Hour)
	if got := w.get("/v2/usercollection/sleep", a.Access); got.status != 200 {
		t.Errorf("after the lapse: %d", got.status)
	}
	w.cloud.Outage(w.clock.Now(), w.clock.Now().Add(time.Minute))
	if got := w.get("/v2/usercollection/sleep", a.Access); got.status != 503 {
		t.Errorf("outage: %d", got.status)
	}
	if _, got := w.redeem("/oauth/v2/ext/oauth-token", moi, refresh(a.Refresh)); got.status != 503 {
		t.Errorf("token endpoint in an outage: %d", got.status)
	}
	w.clock.Add(time.Minute)
	if _, got := w.redeem("/oauth/v2/ext/oauth-token", moi, refresh(a.Refresh)); got.status != 200 {
		t.Errorf("token endpoint after the outage: %d", got.status)
	}
}

// TestDeterministic checks that two clouds of one seed hold the same, with and without
// reads, and that another seed differs.
func TestDeterministic(t *testing.T) {
	a, b := newWorld(t, 2, nil), newWorld(t, 2, nil)
	b.readEverything(b.link(1, everything).Access)
	for range 3 {
		a.clock.Add(7 * time.Hour)
		b.clock.Add(7 * time.Hour)
		for i := range 2 {
			same(t, fmt.Sprint("wearer ", i), a.truth(i), b.truth(i))
		}
	}
	if slices.Equal(a.truth(0), a.truth(1)) {
		t.Error("two wearers have the same data")
	}
}

// TestNightOfDaylightSaving checks a night in which clocks are set back: its two offsets
// differ and its length is that of its stages.
func TestNightOfDaylightSaving(t *testing.T) {
	w := newWorld(t, 1, nil) // wearer 0 lives in Berlin
	for _, r := range w.cloud.Truth(w.cloud.Accounts()[0], "sleep") {
		if r.Day.String() != "2026-10-25" {
			continue
		}
		var night struct {
			Start  time.Time `json:"bedtime_start"`
			End    time.Time `json:"bedtime_end"`
			InBed  int       `json:"time_in_bed"`
			Phases string    `json:"app_sleep_phase_5_min"`
		}
		if err := json.Unmarshal(r.JSON, &night); err != nil {
			t.Fatal(err)
		}
		_, from := night.Start.Zone()
		_, to := night.End.Zone()
		if from != 7200 || to != 3600 || int(night.End.Sub(night.Start).Seconds()) != night.InBed ||
			len(night.Phases)*300 != night.InBed {
			t.Errorf("%s", r.JSON)
		}
		return
	}
	t.Error("no night")
}

// TestFaultsAreDeterministic sends the same requests to two clouds of one seed and to one
// of another. Faults of an account do not depend on the requests of others.
func TestFaultsAreDeterministic(t *testing.T) {
	rates := map[simulate.Fault]float64{simulate.Outage: 0.1, simulate.Drop: 0.1, simulate.RateLimit: 0.1,
		simulate.EmptyPage: 0.1, simulate.Unexpected: 0.1, simulate.Lapse: 1, simulate.Slow: 0.1}
	run := func(seed uint64, disturbed bool) (got []string, s oura.Stats) {
		w := newWorld(t, 2, func(o *oura.Options) { o.Seed, o.Faults.SlowBy = seed, time.Millisecond })
		a, b := w.link(0, everything), w.link(1, everything)
		w.cloud.Faults().SetRates(rates)
		for i := range 240 {
			w.clock.Add(3 * time.Hour)
			if disturbed && i%3 == 0 {
				w.get("/v2/usercollection/workout", b.Access) // also when it has expired
			}
			if i%7 == 6 { // tokens last for a day
				w.cloud.Faults().SetRates(nil)
				a, _ = w.redeem(moiToken, moi, refresh(a.Refresh))
				w.cloud.Faults().SetRates(rates)
			}
			ans := w.get("/v2/usercollection/workout?start_date=2026-10-01&end_date=2026-11-01", a.Access)
			got = append(got, fmt.Sprint(ans.status, ans.header.Get("Retry-After"), len(ans.body)))
		}
		return got, w.cloud.Sent()
	}
	first, s := run(1, false)
	second, _ := run(1, true)
	same(t, "answers of one seed", second, first)
	if other, _ := run(2, false); slices.Equal(first, other) {
		t.Error("two seeds have the same faults")
	}
	for fault := range rates {
		if s.Injected[fault] == 0 {
			t.Errorf("no %s", fault)
		}
	}
	if s.Limited == 0 {
		t.Error("no answer 429")
	}
}
