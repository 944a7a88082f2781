package googlehealth

import (
	"cmp"
	"slices"
	"strconv"
	"sync"
	"time"

	"pulsegate/adapters/simulate"
)

// wearer is a wearer with the account and the devices of Google Health.
type wearer struct {
	simulate.Wearer
	account string // health user id
	linked  bool   // the Google account has Google Health data

	tracker, derived, phone, manual, scale, cgm object // data sources
	device                                      string // name of the tracker
	hasECG, hasScale, hasCGM                    bool
}

// trackers lists the devices that wearers have.
var trackers = []struct{ name, form string }{
	{"Sense 2", "WATCH"}, {"Charge 6", "FITNESS_BAND"}, {"Pixel Watch 4", "WATCH"}, {"Inspire 3", "FITNESS_BAND"},
}

func newWearer(w simulate.Wearer, linked bool) *wearer {
	dev := trackers[w.Index%len(trackers)]
	device := object{"displayName": dev.name, "formFactor": dev.form, "manufacturer": "Fitbit"}
	out := &wearer{
		Wearer: w, linked: linked, account: decimalID(w.Key.Named("account google health")), device: dev.name,
		hasECG: dev.form == "WATCH", hasScale: w.Index%3 == 0, hasCGM: w.Index%7 == 3,
		tracker: object{"recordingMethod": "PASSIVELY_MEASURED", "platform": "FITBIT", "device": device},
		derived: object{"recordingMethod": "DERIVED", "platform": "FITBIT", "device": device},
		manual:  object{"recordingMethod": "MANUAL", "platform": "FITBIT", "device": object{}},
		scale: object{"recordingMethod": "ACTIVELY_MEASURED", "platform": "FITBIT",
			"device": object{"displayName": "Aria Air", "formFactor": "SCALE", "manufacturer": "Fitbit"}},
		cgm: object{"recordingMethod": "UNKNOWN", "platform": "HEALTH_CONNECT", "device": object{},
			"application": object{"packageName": "com.example.cgm"}},
		phone: object{"recordingMethod": "PASSIVELY_MEASURED", "platform": "FITBIT",
			"device": object{"displayName": "Pixel 9", "formFactor": "PHONE", "manufacturer": "Google"}},
	}
	if w.Index%2 == 1 {
		out.phone = object{"recordingMethod": "UNKNOWN", "platform": "HEALTH_CONNECT",
			"device": object{"formFactor": "PHONE"}, "application": object{"packageName": "com.example.pedometer"}}
	}
	return out
}

// decimalID returns an id of up to 19 digits.
func decimalID(k simulate.Key) string { return strconv.FormatUint(uint64(k)>>1|1, 10) }

// arrival returns the time of the sync that delivers what was measured at t.
func (w *wearer) arrival(t time.Time) time.Time { return w.NextSync(t.Add(-1)) }

// point is one state of a data point. Earlier and later states of the same point are
// linked by next.
type point struct {
	start, end time.Time // in the wearer's zone; equal for samples
	id         string    // id of an identifiable point
	source     object
	rank       int    // points of a higher rank are left out of the merged stream
	body       object // members except the times
	at         time.Time
	gone       time.Time // time of the deletion; zero if there is none
	next       *point    // the restated point, which replaces this one at next.at
}

// state returns the state of the point at now, or nil if the cloud does not have it.
func (p *point) state(now time.Time) *point {
	if p.at.After(now) {
		return nil
	}
	for p.next != nil && !p.next.at.After(now) {
		p = p.next
	}
	if !p.gone.IsZero() && !p.gone.After(now) {
		return nil
	}
	return p
}

// window is a section of a day on the grid of the bulk types.
type window struct {
	start, end time.Time
	at         time.Time // time of the sync that delivers it
	worn       bool
	awake      bool
	training   bool
	steps      int
	phoneSteps int
	floors     int
	bpm        int
}

// minutes returns the length of the window in minutes.
func (win *window) minutes() int { return int(win.end.Sub(win.start) / time.Minute) }

// zone returns the heart rate zone of the window.
func (win *window) zone() string {
	switch {
	case win.bpm >= 160:
		return "PEAK"
	case win.bpm >= 135:
		return "VIGOROUS"
	case win.bpm >= 110:
		return "MODERATE"
	}
	return "LIGHT"
}

// level returns the activity level of the window.
func (win *window) level() string {
	switch {
	case win.training:
		return "VERY_ACTIVE"
	case win.steps > 600:
		return "MODERATELY_ACTIVE"
	case win.steps > 0:
		return "LIGHTLY_ACTIVE"
	}
	return "SEDENTARY"
}

// active returns the energy above the basal rate in kcal.
func (win *window) active() float64 { return float64(win.steps*4) / 100 }

// model holds what happened to a wearer on a calendar day.
type model struct {
	day     simulate.Day
	key     simulate.Key
	bed, up time.Time // the night that ends on the day
	windows []window

	training              bool
	workStart, workEnd    time.Time
	workout, workoutFinal string // exercise type, at first and as corrected by the wearer
}

// newModel draws a day.
func newModel(w *wearer, day simulate.Day, every time.Duration) *model {
	m := &model{day: day, key: w.Key.Named("google health").With(int(day))}
	m.bed, m.up = w.Night(day)
	nextBed, _ := w.Night(day + 1)
	start, length, ok := w.Workout(day)
	if ok {
		m.training, m.workStart = true, start
		m.workEnd = start.Add(length)
		kinds := []string{"RUNNING", "BIKING", "WALKING", "SWIMMING_POOL"}
		m.workout = kinds[m.key.Named("workout").Between(0, 3)]
		m.workoutFinal = m.workout
		if m.key.Named("correction").Chance(0.2) {
			m.workoutFinal = "HIKING"
		}
	}
	off := day.At(w.Zone, 19, m.key.Named("off").Between(40, 59))
	on := off.Add(time.Duration(m.key.Named("on").Between(-60, 70)) * time.Minute)

	rnd := m.key.Named("windows").Rand()
	rest := w.RestingHeartRate(day)
	end := (day + 1).At(w.Zone, 0, 0)
	weights, total := []int{}, 0
	for at := day.At(w.Zone, 0, 0); at.Before(end); at = at.Add(every) {
		win := window{start: at, end: minTime(at.Add(every), end)}
		win.awake = !win.start.Before(m.up) && win.end.Before(nextBed)
		win.worn = !win.start.Before(on) || win.end.Before(off)
		win.training = m.training && win.start.Before(m.workEnd) && win.end.After(m.workStart)
		if n := len(m.windows); n > 0 && !m.windows[n-1].at.Before(win.end) {
			win.at = m.windows[n-1].at
		} else {
			win.at = w.arrival(win.end)
		}
		weight := 0
		roll, spread := rnd.IntN(4), rnd.IntN(900)
		win.bpm = rest - 3 + rnd.IntN(6)
		if win.awake {
			win.bpm += 6 + rnd.IntN(16)
			if roll == 0 {
				weight = 100 + spread
				win.bpm += 18
			}
			if win.training {
				weight = 900 + spread
				win.bpm = 105 + spread/14
			}
		}
		if weight > 300 && spread%5 == 0 {
			win.floors = 1 + spread%3
		}
		weights, total = append(weights, weight), total+weight
		m.windows = append(m.windows, win)
	}
	for i := range m.windows {
		m.windows[i].steps = w.Steps(day) * weights[i] / max(total, 1)
		m.windows[i].phoneSteps = m.windows[i].steps * (60 + i%40) / 100
	}
	return m
}

func minTime(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

// models is a bounded cache of days. It is safe for concurrent use.
type models struct {
	mu    sync.Mutex
	days  map[modelKey]*model // guarded by mu
	drawn int                 // number of days that were drawn; guarded by mu
}

type modelKey struct {
	wearer int
	day    simulate.Day
}

// maxModels bounds the cache to about 30 MB.
const maxModels = 1024

// get returns a day, which it draws unless it is cached.
func (c *models) get(w *wearer, day simulate.Day, every time.Duration) *model {
	key := modelKey{w.Index, day}
	c.mu.Lock()
	m := c.days[key]
	c.mu.Unlock()
	if m != nil {
		return m
	}
	m = newModel(w, day, every)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.days == nil || len(c.days) >= maxModels {
		c.days = map[modelKey]*model{}
	}
	c.days[key] = m
	c.drawn++
	return m
}

// sortPoints sorts points as list answers them: latest start first.
func sortPoints(points []*point) {
	slices.SortStableFunc(points, func(a, b *point) int {
		return cmp.Or(b.start.Compare(a.start), cmp.Compare(a.rank, b.rank), cmp.Compare(a.id, b.id))
	})
}
