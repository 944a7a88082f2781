package ingest

import (
	"cmp"
	"slices"
)

// mergePeriods sorts periods and merges those that are at most mergeGap apart.
// The gap grows until at most maxPeriods are left.
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
	// mergeGap is the longest pause in seconds between periods that are merged.
	mergeGap = 3 * secondsPerDay
	// maxPeriods limits the number of periods of a source.
	maxPeriods = 1024
)

// period is a start and an end in Unix seconds.
type period [2]int64

const secondsPerDay = 24 * 3600
