package pebblestore

import (
	"math"
	"slices"
)

// A W row says which runs (patient, code, bucket) have something that begins on
// a day, and in which quarters of an hour: a search by date over all patients
// opens those runs only. Bits are never taken back.
const (
	dayMS     = 24 * 3600 * 1000
	slotMS    = 15 * 60 * 1000
	daySlots  = dayMS / slotMS
	slotBytes = daySlots / 8
)

// dayOf is the day of an instant and its slot.
func dayOf(ms int64) (day, slot int64) {
	day = ms / dayMS
	if ms%dayMS < 0 {
		day--
	}
	return day, (ms - day*dayMS) / slotMS // exact by wrap-around, too
}

// slotRange is the time of a slot, [lo, hi) in Unix milliseconds. The first
// and the last day reach beyond the range of int64 and are cut there.
func slotRange(day, slot int64) (lo, hi int64) {
	lo = day*dayMS + slot*slotMS
	if day < 0 && lo > 0 {
		lo = math.MinInt64
	}
	hi = day*dayMS + (slot+1)*slotMS
	if day > 0 && hi < 0 {
		hi = math.MaxInt64
	}
	return lo, hi
}

// daysPrefix is the prefix of the W rows of a type and bucket. The undated have
// one day, 0.
func daysPrefix(typ string, bucket byte) []byte {
	return append(appendStr(append(make([]byte, 0, 120), tabDay), typ), bucket)
}

func dayKey(prefix []byte, day int64) []byte {
	return appendU64(slices.Clone(prefix), sortable(day))
}

// dayRunKey completes a day's key.
func dayRunKey(day []byte, code [8]byte, patient string, tab byte) []byte {
	k := append(slices.Clone(day), code[:]...)
	return append(appendStr(k, patient), tab)
}

func floorMS(us int64) int64 {
	ms := us / 1000
	if us%1000 < 0 {
		ms--
	}
	return ms
}
