package keys

import (
	"math"
	"testing"
)

func TestDaySlots(t *testing.T) {
	for _, ms := range []int64{0, 1, -1, DayMS, DayMS - 1, -DayMS, -DayMS - 1, SlotMS, SlotMS - 1, 1772000000123,
		-1772000000123, math.MinInt64, math.MinInt64 + 1, math.MaxInt64, math.MaxInt64 - 1} {
		day, slot := DayOf(ms)
		if slot < 0 || slot >= DaySlots {
			t.Fatalf("%d is in slot %d", ms, slot)
		}
		if lo, hi := SlotRange(day, slot); ms < lo || ms >= hi && ms != math.MaxInt64 {
			t.Errorf("%d is in slot %d of day %d, which is [%d, %d)", ms, slot, day, lo, hi)
		}
	}
}
