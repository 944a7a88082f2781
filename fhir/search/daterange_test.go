package search_test

import (
	"fmt"
	"testing"
	"time"
)

// TestDatesBeyondNanosecondRange compares dates of all centuries, with and without
// digits beyond the millisecond, for each prefix. An int64 of nanoseconds since
// 1970 reaches only from 1678 to 2262.
func TestDatesBeyondNanosecondRange(t *testing.T) {
	years := []int{1, 1500, 1677, 1678, 1969, 2026, 2261, 2262, 2263, 4183, 9998}
	type preciseTime struct {
		text   string
		lo, hi time.Time
	}
	var all []preciseTime
	for _, y := range years {
		lo := time.Date(y, 1, 1, 0, 0, 0, 0, time.UTC)
		all = append(all, preciseTime{fmt.Sprintf("%04d", y), lo, lo.AddDate(1, 0, 0)})
		at := time.Date(y, 5, 31, 22, 18, 57, 929_000_000, time.UTC)
		all = append(all, preciseTime{at.Format("2006-01-02T15:04:05.000Z"), at, at.Add(time.Millisecond)})
		at = at.Add(936 * time.Microsecond)
		all = append(all, preciseTime{at.Format("2006-01-02T15:04:05.000000Z"), at, at.Add(time.Microsecond)})
	}
	matches := func(prefix string, want, have preciseTime) bool {
		within := !have.lo.Before(want.lo) && !have.hi.After(want.hi)
		above, below := have.hi.After(want.hi), have.lo.Before(want.lo)
		switch prefix {
		case "eq":
			return within
		case "ne":
			return !within
		case "gt":
			return above
		case "lt":
			return below
		case "ge":
			return within || above
		case "le":
			return within || below
		case "sa":
			return !have.lo.Before(want.hi)
		}
		return !have.hi.After(want.lo) // eb
	}
	check := func(want, have preciseTime, body string) {
		for _, prefix := range []string{"eq", "ne", "gt", "lt", "ge", "le", "sa", "eb"} {
			if got := finds(t, "Observation", "date="+prefix+want.text,
				`{"resourceType":"Observation","id":"o",`+body+`}`); got != matches(prefix, want, have) {
				t.Errorf("date=%s%s of %s: %v", prefix, want.text, body, got)
			}
		}
	}
	for _, want := range all {
		for _, have := range all {
			check(want, have, fmt.Sprintf(`"effectiveDateTime":%q`, have.text))
			for _, end := range all {
				if end.lo.Before(have.lo) {
					continue
				}
				check(want, preciseTime{lo: have.lo, hi: end.hi},
					fmt.Sprintf(`"effectivePeriod":{"start":%q,"end":%q}`, have.text, end.text))
			}
		}
	}
}
