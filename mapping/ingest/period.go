package ingest

import (
	"cmp"
	"slices"
)

// merged are the periods in order, those that lie close together as one.
func mergePeriods(periods []period) []period {
	slices.SortFunc(periods, func(a, b period) int { return cmp.Or(cmp.Compare(a[0], b[0]), cmp.Compare(a[1], b[1])) })
	for gap := int64(mergeGap); ; gap *= 2 {
		out := periods[:0]
		for _, p := range periods {
			if n := len(out); n > 0 && p[0] <= out[n-1][1]+gap {
				out[n-1][1] = max(out[n-1][1], p[1])
				continue
			}
			out = append(out, p)
		}
		if periods = out; len(periods) <= maxPeriods {
			return periods
		}
	}
}

const (
	// apart is the longest pause in seconds between two periods that are
	// merged.
	mergeGap = 3 * secondsPerDay
	// maxPeriods bounds the periods of a source: nights of that many weeks,
	// with as long a pause between any two.
	maxPeriods = 1024
)

// period is from and to, Unix seconds.
type period [2]int64

const secondsPerDay = 24 * 3600
