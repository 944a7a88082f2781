package oura

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"pulsegate/adapters/simulate"
)

// TestEveryVersionHasASync compares the versions that the syncs deliver, one by one, with
// the histories of all documents. Events and truth rest on one each.
func TestEveryVersionHasASync(t *testing.T) {
	const days = 45
	start := time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC) // with the beginning of daylight saving time
	ws, err := simulate.Wearers(11, 12)
	if err != nil {
		t.Fatal(err)
	}
	m := &model{first: simulate.DayOf(start)}
	for i := range ws {
		w := &ws[i]
		from, to := m.first.At(w.Zone, 0, 0).Add(-time.Hour), (m.first+days).At(w.Zone, 0, 0)
		var delivered, all []string
		for s := w.NextSync(from); s.Before(to); s = w.NextSync(s) {
			m.versionsAt(w, s, func(it item, v version) { delivered = append(delivered, describe(it, v)) })
		}
		for _, k := range kinds {
			m.items(w, k, m.first, m.first+days, func(it item) bool {
				last := time.Time{}
				for i, v := range k.history(m, it, to) {
					if v.rev != i || v.at.Before(last) || (i == 0) != (v.event == "create") {
						t.Errorf("%s %s: version %d %+v", k.name, it.day, i, v)
					}
					last = v.at
					if v.at.Before(to) {
						all = append(all, describe(it, v))
					}
				}
				if back, ok := m.itemOf(w, k, it.id()); !ok || back != it {
					t.Errorf("%s %s: the id does not lead back", k.name, it.day)
				}
				return true
			})
		}
		slices.Sort(delivered)
		slices.Sort(all)
		if !slices.Equal(delivered, all) || len(all) < days*10 {
			t.Errorf("wearer %d: %d versions delivered by syncs, %d in histories", i, len(delivered), len(all))
		}
	}
}

func describe(it item, v version) string {
	return fmt.Sprint(it.kind.name, " ", it.day, " ", it.slot, " ", v.rev, " ", v.at.Unix(), " ", v.event)
}

// TestOnlyTheStateChanges checks that two versions of a document with the same form and
// revision are equal, and that a document changes with each of its versions.
func TestOnlyTheStateChanges(t *testing.T) {
	ws, err := simulate.Wearers(11, 2)
	if err != nil {
		t.Fatal(err)
	}
	m := &model{first: simulate.DayOf(time.Date(2026, 10, 1, 0, 0, 0, 0, time.UTC))}
	for _, k := range kinds {
		unchanged, versions := 0, 0
		m.items(&ws[1], k, m.first, m.first+30, func(it item) bool {
			last := ""
			for _, v := range k.history(m, it, time.Date(2026, 12, 1, 0, 0, 0, 0, time.UTC)) {
				if v.event == "delete" {
					continue
				}
				now := string(canonical(m.document(it, v)))
				if now != string(canonical(m.document(it, v))) {
					t.Errorf("%s %s: a version has two contents", k.name, it.day)
				}
				versions++
				if now == last {
					unchanged++
				}
				last = now
			}
			return true
		})
		// Stress is measured in quarters of an hour, so that a sync may bring nothing new.
		if versions == 0 || unchanged > versions/3 || unchanged > 0 && k.name != "daily_stress" {
			t.Errorf("%s: %d of %d versions change nothing", k.name, unchanged, versions)
		}
	}
}
