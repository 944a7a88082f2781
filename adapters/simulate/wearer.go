package simulate

import (
	"fmt"
	"slices"
	"time"
	_ "time/tzdata" // wearers live in IANA zones, and a container may lack them
)

// zones lists where wearers live. Most have daylight saving time, which begins and ends
// on different days; the others have none or an offset that is not a whole hour.
var zones = []string{
	"Europe/Berlin", "America/New_York", "Europe/London", "Australia/Sydney", "America/Los_Angeles", "Asia/Kolkata",
	"America/Sao_Paulo", "Pacific/Auckland", "America/Chicago", "Asia/Tokyo", "Europe/Helsinki", "America/Phoenix",
}

// Wearer is an invented person with devices of all vendors. The same night and day
// underlie the data of every vendor, so that phone, watch and ring agree.
type Wearer struct {
	Index int
	Key   Key
	Zone  *time.Location
	Name  string // a name for pages, such as "Wearer 7"
	Ring  string // serial number of the ring
	Watch string // serial number of the watch
}

// Wearers returns the first n wearers of a seed.
func Wearers(seed uint64, n int) ([]Wearer, error) {
	locations := make([]*time.Location, len(zones))
	for i, name := range zones {
		loc, err := time.LoadLocation(name)
		if err != nil {
			return nil, fmt.Errorf("simulate: %w", err)
		}
		locations[i] = loc
	}
	out := make([]Wearer, n)
	for i := range out {
		k := Key(seed).Named("wearer").With(i)
		out[i] = Wearer{Index: i, Key: k, Zone: locations[i%len(locations)], Name: fmt.Sprintf("Wearer %d", i),
			Ring: "R" + k.Named("ring").Hex(12), Watch: "W" + k.Named("watch").Hex(12)}
	}
	return out, nil
}

// Account returns the wearer's account id at a vendor: 32 hexadecimal digits, different
// for each vendor.
func (w Wearer) Account(vendor string) string { return w.Key.Named("account " + vendor).Hex(32) }

// Night returns when the wearer went to bed and got up on day. In a night in which
// daylight saving time changes, it is an hour shorter or longer.
func (w Wearer) Night(day Day) (bed, up time.Time) {
	k := w.Key.Named("night").With(int(day))
	bed = day.At(w.Zone, 0, k.Named("bed").Between(-110, 30))
	up = day.At(w.Zone, 0, k.Named("up").Between(6*60, 8*60))
	return bed, up
}

// Steps returns the number of steps of a whole day.
func (w Wearer) Steps(day Day) int { return w.Key.Named("steps").With(int(day)).Between(3500, 14500) }

// RestingHeartRate returns the wearer's resting heart rate on day in beats per minute.
func (w Wearer) RestingHeartRate(day Day) int {
	return w.Key.Named("resting").Between(50, 64) + w.Key.Named("resting").With(int(day)).Between(-2, 2)
}

// Workout returns the start and the length of the day's workout. ok is false on two days
// of three.
func (w Wearer) Workout(day Day) (start time.Time, length time.Duration, ok bool) {
	k := w.Key.Named("workout").With(int(day))
	return day.At(w.Zone, 17, k.Named("start").Between(0, 90)),
		time.Duration(k.Named("length").Between(25, 60)) * time.Minute, k.With(0).Chance(1.0 / 3)
}

// offline is the share of days on which the phone reaches no cloud.
const offline = 0.05

// Syncs returns the times on day at which the wearer's phone delivers to the clouds all
// that was measured before, ascending. On some days there is none.
func (w Wearer) Syncs(day Day) []time.Time {
	k := w.Key.Named("sync").With(int(day))
	if k.Chance(offline) {
		return nil
	}
	_, up := w.Night(day)
	return []time.Time{
		up.Add(time.Duration(k.With(1).Between(5*60, 50*60)) * time.Second),
		day.At(w.Zone, 12, k.With(2).Between(0, 150)).Add(time.Duration(k.With(3).Between(0, 59)) * time.Second),
		day.At(w.Zone, 20, k.With(4).Between(0, 150)).Add(time.Duration(k.With(5).Between(0, 59)) * time.Second),
	}
}

// LastSync returns the latest sync at or before t. If there is none in the month before
// t, it returns the zero time.
func (w Wearer) LastSync(t time.Time) time.Time {
	for day, i := DayOf(t.In(w.Zone)), 0; i < 31; day, i = day-1, i+1 {
		for _, s := range slices.Backward(w.Syncs(day)) {
			if !s.After(t) {
				return s
			}
		}
	}
	return time.Time{}
}

// NextSync returns the first sync after t. If there is none in the month after t, it
// returns the zero time.
func (w Wearer) NextSync(t time.Time) time.Time {
	for day, i := DayOf(t.In(w.Zone)), 0; i < 31; day, i = day+1, i+1 {
		for _, s := range w.Syncs(day) {
			if s.After(t) {
				return s
			}
		}
	}
	return time.Time{}
}
