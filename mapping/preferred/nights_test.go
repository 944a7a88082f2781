package preferred

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"pulsegate/mapping/sample"
)

// session is a sleep session of a model source.
type session struct {
	vendor   string
	device   sample.Device
	rank     int // of the kind of the device
	id       string
	from, to time.Time
	minutes  int
	deep     int // minutes, or -1
}

func (s *session) sample() sample.Sample {
	out := sample.Sample{Metric: "sleep", Channel: "v2", Start: s.from, End: s.to, Device: s.device, VendorID: s.id,
		Value: number(strconv.Itoa(s.minutes), "min")}
	if s.deep >= 0 {
		name := map[string]string{"oura": "deep_sleep_duration", "fitbit": "deep"}[s.vendor]
		out.Components = []sample.Component{{Name: name, Value: number(strconv.Itoa(s.deep), "min")}}
	}
	return out
}

func (s *session) source() string { return s.vendor + "/" + s.device.Name }

// nightText returns a preferred night as a test compares it.
func nightText(from, to time.Time, minutes string) string {
	return from.Format(time.RFC3339) + " to " + to.Format(time.RFC3339) + ": " + minutes
}

// reference returns the preferred nights of sessions, slowly: sessions belong together if a
// chain of sessions with gaps of at most 90 minutes connects them, and of each such set the
// source with the best rank, then the longest sleep, counts.
func reference(all []*session) (out []string) {
	group := make([]int, len(all))
	for i := range group {
		group[i] = i
	}
	near := func(a, b *session) bool {
		return a.from.Sub(b.to) <= 90*time.Minute && b.from.Sub(a.to) <= 90*time.Minute
	}
	for changed := true; changed; {
		changed = false
		for i := range all {
			for j := range all {
				if near(all[i], all[j]) && group[j] != group[i] {
					group[i], group[j] = min(group[i], group[j]), min(group[i], group[j])
					changed = true
				}
			}
		}
	}
	for g := range all {
		bySource := map[string][]*session{}
		for i, s := range all {
			if group[i] == g {
				bySource[s.source()] = append(bySource[s.source()], s)
			}
		}
		type candidate struct {
			name     string
			rank     int
			minutes  int
			from, to time.Time
		}
		var list []candidate
		for name, ss := range bySource {
			c := candidate{name: name, rank: ss[0].rank}
			slices.SortFunc(ss, func(a, b *session) int {
				return cmp.Or(cmp.Compare(b.to.Sub(b.from), a.to.Sub(a.from)), cmp.Compare(b.minutes, a.minutes),
					a.from.Compare(b.from))
			})
			var used []*session
			for _, s := range ss {
				if slices.ContainsFunc(used,
					func(u *session) bool { return s.from.Before(u.to) && u.from.Before(s.to) }) {
					continue
				}
				used = append(used, s)
				c.minutes += s.minutes
				if c.from.IsZero() || s.from.Before(c.from) {
					c.from = s.from
				}
				if s.to.After(c.to) {
					c.to = s.to
				}
			}
			list = append(list, c)
		}
		if len(list) == 0 {
			continue
		}
		best := slices.MinFunc(list, func(a, b candidate) int {
			return cmp.Or(cmp.Compare(a.rank, b.rank), cmp.Compare(b.minutes, a.minutes))
		})
		out = append(out, nightText(best.from, best.to, strconv.Itoa(best.minutes)))
	}
	slices.Sort(out)
	return out
}

// nights returns the valid preferred nights in the store.
func (w *world) nights() (out []string) {
	for _, s := range w.preferred("preferred-sleep") {
		if s.Status == statusRetracted {
			continue
		}
		from, _ := parseTime(s.EffectivePeriod.Start)
		to, _ := parseTime(s.EffectivePeriod.End)
		out = append(out, nightText(from, to, s.ValueQuantity.Value.String()))
	}
	slices.Sort(out)
	return out
}

// TestNightsAgainstReference adds, grows, moves and retracts sleep sessions of several
// sources around the end of summer time, and compares the preferred nights with a slow
// reference after each change.
func TestNightsAgainstReference(t *testing.T) {
	paris, err := time.LoadLocation("Europe/Paris")
	if err != nil {
		t.Fatal(err)
	}
	sources := []session{
		{vendor: "fitbit", device: tracker, rank: 0},
		{vendor: "fitbit", device: sample.Device{Name: "Watch", Manufacturer: "Maker", Kind: "watch"}, rank: 0},
		{vendor: "fitbit", device: sample.Device{Name: "Phone", Manufacturer: "Maker", Kind: "phone"}, rank: 3},
		{vendor: "oura", rank: 2},
	}
	rapid.Check(t, func(t *rapid.T) {
		w, done := newWorldOf(t)
		defer done()
		live := map[string]*session{}
		base := time.Date(2026, 10, 23, 0, 0, 0, 0, paris)
		for range rapid.IntRange(1, 12).Draw(t, "changes") {
			i := rapid.IntRange(0, len(sources)-1).Draw(t, "source")
			s := sources[i]
			s.id = fmt.Sprintf("n%d-%d", i, rapid.IntRange(0, 2).Draw(t, "id"))
			s.from = base.Add(time.Duration(rapid.IntRange(0, 90).Draw(t, "from")) * time.Hour)
			hours := rapid.SampledFrom([]int{1, 2, 4, 8, 9}).Draw(t, "hours")
			s.to = s.from.Add(time.Duration(hours)*time.Hour + 30*time.Minute)
			// Sleep of different length avoids equal candidates, which ids would decide.
			s.minutes = hours*40 + i + 4*rapid.IntRange(0, 4).Draw(t, "minutes")
			s.deep = rapid.SampledFrom([]int{-1, 20}).Draw(t, "deep")
			smp := s.sample()
			if old := live[s.id]; old != nil && rapid.IntRange(0, 3).Draw(t, "retract") == 0 {
				smp = old.sample()
				smp.Status = sample.Retracted
				delete(live, s.id)
			} else {
				live[s.id] = &s
			}
			w.deliver(s.vendor, smp)
			if rapid.Bool().Draw(t, "sync") {
				w.sync()
				w.checkNights(live)
			}
		}
		w.sync()
		w.checkNights(live)
	})
}

func (w *world) checkNights(live map[string]*session) {
	w.t.Helper()
	var all []*session
	for _, s := range live {
		all = append(all, s)
	}
	got, want := w.nights(), reference(all)
	if !slices.Equal(got, want) {
		w.t.Fatalf("preferred nights:\n  %s\nwant:\n  %s", strings.Join(got, "\n  "), strings.Join(want, "\n  "))
	}
}
