package keys

import (
	"math"
	"slices"
)

// Table W divides time into days, and days into slots of a quarter of an hour.
const (
	DayMS     = 24 * 3600 * 1000
	SlotMS    = 15 * 60 * 1000
	DaySlots  = DayMS / SlotMS
	SlotBytes = DaySlots / 8
)

// DayOf returns the day of an instant in Unix milliseconds, and the slot in the
// day.
func DayOf(ms int64) (day, slot int64) {
	day = ms / DayMS
	if ms%DayMS < 0 {
		day--
	}
	return day, (ms - day*DayMS) / SlotMS // exact even if the product overflows
}

// SlotRange returns the time of a slot, [lo, hi) in Unix milliseconds. The first
// and the last day exceed the range of int64 and are clipped.
func SlotRange(day, slot int64) (lo, hi int64) {
	lo = day*DayMS + slot*SlotMS
	if day < 0 && lo > 0 {
		lo = math.MinInt64
	}
	hi = day*DayMS + (slot+1)*SlotMS
	if day > 0 && hi < 0 {
		hi = math.MaxInt64
	}
	return lo, hi
}

// DayPrefix returns the prefix of the W rows of a type and bucket. Undated
// documents have one day, 0.
func DayPrefix(typ string, bucket byte) []byte {
	return append(AppendString(append(make([]byte, 0, 120), TableDay), typ), bucket)
}

// DayKey completes a DayPrefix with a day.
func DayKey(prefix []byte, day int64) []byte {
	return AppendUint64(slices.Clone(prefix), Sortable(day))
}

// DayRunKey completes the key of a day.
func DayRunKey(day []byte, code [8]byte, patient string, tab byte) []byte {
	k := append(slices.Clone(day), code[:]...)
	return append(AppendString(k, patient), tab)
}

// FloorMS converts Unix microseconds to milliseconds, rounding down.
func FloorMS(us int64) int64 {
	ms := us / 1000
	if us%1000 < 0 {
		ms--
	}
	return ms
}
