package keys

import (
	"math"
	"slices"
)

// A W row says which runs (patient, code, bucket) have something that begins on
// a day, and in which quarters of an hour: a search by date over all patients
// opens those runs only. Bits are never taken back.
const (
	DayMS     = 24 * 3600 * 1000
	SlotMS    = 15 * 60 * 1000
	DaySlots  = DayMS / SlotMS
	SlotBytes = DaySlots / 8
)

// dayOf is the day of an instant and its slot.
func DayOf(ms int64) (day, slot int64) {
	day = ms / DayMS
	if ms%DayMS < 0 {
		day--
	}
	return day, (ms - day*DayMS) / SlotMS // exact by wrap-around, too
}

// slotRange is the time of a slot, [lo, hi) in Unix milliseconds. The first
// and the last day reach beyond the range of int64 and are cut there.
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

// daysPrefix is the prefix of the W rows of a type and bucket. The undated have
// one day, 0.
func DayPrefix(typ string, bucket byte) []byte {
	return append(AppendString(append(make([]byte, 0, 120), TableDay), typ), bucket)
}

func DayKey(prefix []byte, day int64) []byte {
	return AppendUint64(slices.Clone(prefix), Sortable(day))
}

// dayRunKey completes a day's key.
func DayRunKey(day []byte, code [8]byte, patient string, tab byte) []byte {
	k := append(slices.Clone(day), code[:]...)
	return append(AppendString(k, patient), tab)
}

func FloorMS(us int64) int64 {
	ms := us / 1000
	if us%1000 < 0 {
		ms--
	}
	return ms
}
