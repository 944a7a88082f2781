// Package ouragen generates list replies of the Oura API v2 for an invented wearer: a
// realistic month of nights, heart rates and daily values. The same Options give the same
// bytes. The package is for demonstrations and tests and contains no data of real people.
package ouragen

import (
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"time"
)

// Options select the wearer and the days.
type Options struct {
	Seed   uint64
	Days   int           // number of days; 0 means 30
	Start  time.Time     // first day; its calendar date counts, in Offset
	Offset time.Duration // the wearer's offset from UTC
}

type generator struct {
	Draw
	ring    string
	replies map[string][]any
}

// Generate writes one file, oura.json, to the writer that create returns. It is
// an object of list replies with their types as keys.
func Generate(create func(name string) (io.Writer, error), o Options) error {
	if o.Days == 0 {
		o.Days = 30
	}
	if o.Days < 0 || o.Days > 3660 {
		return fmt.Errorf("ouragen: %d days are not between 1 and 3660", o.Days)
	}
	y, m, d := o.Start.Date()
	first := time.Date(y, m, d, 0, 0, 0, 0, time.FixedZone("", int(o.Offset.Seconds())))
	gen := &generator{Draw: Draw{rand.New(rand.NewPCG(o.Seed, 0x0a2a))}, ring: fmt.Sprintf("ring-%d", o.Seed),
		replies: map[string][]any{}}
	for i := range o.Days {
		gen.day(first.AddDate(0, 0, i), i)
	}
	gen.put("ring_configuration", Object{"id": gen.ring, "color": "silver", "design": "balance",
		"firmware_version": "3.1.0",
		"hardware_type":    "gen4", "set_up_at": Stamp(first.AddDate(0, -2, 0)), "size": 10})
	all := Object{}
	for typ, data := range gen.replies {
		all[typ] = Object{"data": data, "next_token": nil}
	}
	w, err := create("oura.json")
	if err != nil {
		return err
	}
	return json.NewEncoder(w).Encode(all)
}

func (gen *generator) put(typ string, doc Object) { gen.replies[typ] = append(gen.replies[typ], doc) }

func (gen *generator) daily(typ string, day time.Time, doc Object) {
	doc["id"] = typ + "-" + day.Format("20060102")
	doc["day"] = day.Format(time.DateOnly)
	gen.put(typ, doc)
}

func (gen *generator) day(day time.Time, i int) {
	gen.night(day)
	gen.daily("daily_sleep", day, gen.DailySleep(day))
	gen.daily("daily_readiness", day, gen.DailyReadiness(day))
	gen.daily("daily_activity", day, gen.DailyActivity(day.Add(4*time.Hour)))
	gen.daily("daily_spo2", day, gen.DailySpO2())
	gen.daily("daily_stress", day, gen.DailyStress())
	gen.daily("daily_resilience", day, gen.DailyResilience())
	if i%7 == 0 {
		gen.daily("daily_cardiovascular_age", day, gen.CardiovascularAge())
		gen.daily("vO2_max", day, gen.VO2Max(day))
	}
	for minute := 8 * 60; minute < 22*60; minute += 15 {
		gen.heartrate(day.Add(time.Duration(minute)*time.Minute), gen.between(62, 95), "awake")
	}
	gen.put("ring_battery_level", Object{"timestamp": day.Add(20 * time.Hour).UTC().Format(time.RFC3339),
		"level": 95 - i%6*14, "charging": false, "in_charger": false})
	if i%3 == 2 {
		activity := []string{"running", "cycling", "walking"}[i/3%3]
		gen.daily("workout", day, Workout(activity, day.Add(18*time.Hour), gen.between(25, 60)))
	}
}

func (gen *generator) heartrate(t time.Time, bpm int, source string) {
	gen.put("heartrate", HeartRate(t, bpm, source))
}

// night adds a sleep document and the heart rates of the night.
func (gen *generator) night(day time.Time) {
	start := day.Add(-time.Duration(gen.between(20, 100)) * time.Minute)
	gen.daily("sleep", day, gen.Sleep(start, 0, gen.ring,
		func(t time.Time, bpm int) { gen.heartrate(t, bpm, "sleep") }))
}
