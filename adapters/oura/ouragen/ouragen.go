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

type object = map[string]any

type generator struct {
	rnd     *rand.Rand
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
	gen := &generator{rnd: rand.New(rand.NewPCG(o.Seed, 0x0a2a)), ring: fmt.Sprintf("ring-%d", o.Seed),
		replies: map[string][]any{}}
	for i := range o.Days {
		gen.day(first.AddDate(0, 0, i), i)
	}
	gen.put("ring_configuration", object{"id": gen.ring, "color": "silver", "design": "balance",
		"firmware_version": "3.1.0",
		"hardware_type":    "gen4", "set_up_at": stamp(first.AddDate(0, -2, 0)), "size": 10})
	all := object{}
	for typ, data := range gen.replies {
		all[typ] = object{"data": data, "next_token": nil}
	}
	w, err := create("oura.json")
	if err != nil {
		return err
	}
	return json.NewEncoder(w).Encode(all)
}

// stamp formats a time with its offset, even for UTC, as Oura does.
func stamp(t time.Time) string { return t.Format("2006-01-02T15:04:05-07:00") }

func (gen *generator) put(typ string, doc object) { gen.replies[typ] = append(gen.replies[typ], doc) }

func (gen *generator) between(low, high int) int { return low + gen.rnd.IntN(high-low+1) }

func (gen *generator) daily(typ string, day time.Time, doc object) {
	doc["id"] = typ + "-" + day.Format("20060102")
	doc["day"] = day.Format(time.DateOnly)
	gen.put(typ, doc)
}

func (gen *generator) day(day time.Time, i int) {
	gen.night(day)
	midnight := stamp(day)
	gen.daily("daily_sleep", day, object{"score": gen.between(62, 93), "timestamp": midnight, "contributors": object{
		"deep_sleep": gen.between(50, 99), "efficiency": gen.between(70, 99), "latency": gen.between(60, 99),
		"rem_sleep":   gen.between(50, 99),
		"restfulness": gen.between(50, 90), "timing": gen.between(60, 99), "total_sleep": gen.between(55, 97)}})
	gen.daily("daily_readiness", day, object{"score": gen.between(60, 94), "timestamp": midnight,
		"temperature_deviation":       float64(gen.between(-45, 45)) / 100,
		"temperature_trend_deviation": float64(gen.between(-20, 20)) / 100,
		"contributors": object{"activity_balance": gen.between(60, 95), "body_temperature": gen.between(70, 99),
			"hrv_balance":    gen.between(60, 99),
			"recovery_index": gen.between(40, 99), "resting_heart_rate": gen.between(60, 99),
			"sleep_balance": gen.between(60, 95), "sleep_regularity": nil}})
	steps := gen.between(3500, 14500)
	gen.daily("daily_activity", day, object{"score": gen.between(60, 98), "timestamp": stamp(day.Add(4 * time.Hour)),
		"steps":           steps,
		"active_calories": steps / 22, "total_calories": 1750 + steps/22, "equivalent_walking_distance": steps * 8 / 10,
		"high_activity_time": gen.between(0, 30) * 60, "medium_activity_time": gen.between(10, 90) * 60,
		"low_activity_time": gen.between(150, 320) * 60,
		"sedentary_time":    gen.between(350, 600) * 60, "resting_time": gen.between(420, 560) * 60,
		"non_wear_time":     gen.between(0, 40) * 60,
		"inactivity_alerts": gen.between(0, 3),
		"contributors":      object{"stay_active": gen.between(50, 99), "move_every_hour": gen.between(60, 99)}})
	gen.daily("daily_spo2", day, object{"spo2_percentage": object{"average": float64(gen.between(9500, 9850)) / 100},
		"breathing_disturbance_index": gen.between(0, 9)})
	gen.daily("daily_stress", day, object{"stress_high": gen.between(0, 16) * 900,
		"recovery_high": gen.between(0, 16) * 900,
		"day_summary":   []string{"restored", "normal", "stressful"}[gen.rnd.IntN(3)]})
	gen.daily("daily_resilience", day, object{"level": []string{"adequate", "solid", "strong"}[gen.rnd.IntN(3)],
		"contributors": object{"sleep_recovery": gen.between(50, 95), "daytime_recovery": gen.between(40, 90),
			"stress": gen.between(40, 90)}})
	if i%7 == 0 {
		gen.daily("daily_cardiovascular_age", day,
			object{"vascular_age": gen.between(36, 39), "pulse_wave_velocity": float64(gen.between(66, 72)) / 10})
		gen.daily("vO2_max", day, object{"vo2_max": gen.between(41, 44), "timestamp": midnight})
	}
	for minute := 8 * 60; minute < 22*60; minute += 15 {
		gen.heartrate(day.Add(time.Duration(minute)*time.Minute), gen.between(62, 95), "awake")
	}
	gen.put("ring_battery_level", object{"timestamp": day.Add(20 * time.Hour).UTC().Format(time.RFC3339),
		"level": 95 - i%6*14, "charging": false, "in_charger": false})
	if i%3 == 2 {
		start := day.Add(18 * time.Hour)
		length := gen.between(25, 60)
		gen.daily("workout", day, object{"activity": []string{"running", "cycling", "walking"}[i/3%3],
			"calories": length * 8, "distance": length * 150,
			"start_datetime": stamp(start), "end_datetime": stamp(start.Add(time.Duration(length) * time.Minute)),
			"intensity": "moderate", "label": nil, "source": "confirmed"})
	}
}

func (gen *generator) heartrate(t time.Time, bpm int, source string) {
	gen.put("heartrate", object{"timestamp": t.UTC().Format("2006-01-02T15:04:05.000Z"),
		"timestamp_unix": t.UnixMilli(), "bpm": bpm, "source": source})
}

// night adds a sleep document with its phases and series.
func (gen *generator) night(day time.Time) {
	start := day.Add(-time.Duration(gen.between(20, 100)) * time.Minute)
	phases := []byte{'4', '4'}
	for cycle := range 5 {
		for _, run := range []struct {
			phase  byte
			length int
		}{{'2', gen.between(5, 8)}, {'1', max(1, 6-cycle)}, {'2', gen.between(2, 5)}, {'3', 2 + cycle}} {
			for range run.length {
				phases = append(phases, run.phase)
			}
		}
	}
	phases = append(phases, '4')
	secs := map[byte]int{}
	var hr, hrv []any
	low := 200
	for i, p := range phases {
		secs[p] += 300
		if i%17 == 3 {
			hr, hrv = append(hr, nil), append(hrv, nil)
			continue
		}
		bpm := gen.between(51, 63)
		low = min(low, bpm)
		hr, hrv = append(hr, bpm), append(hrv, gen.between(30, 62))
		gen.heartrate(start.Add(time.Duration(i)*5*time.Minute), bpm, "sleep")
	}
	inBed := len(phases) * 300
	asleep := inBed - secs['4']
	gen.daily("sleep", day, object{
		"bedtime_start": stamp(start), "bedtime_end": stamp(start.Add(time.Duration(inBed) * time.Second)),
		"type": "long_sleep", "period": 0,
		"total_sleep_duration": asleep, "deep_sleep_duration": secs['1'], "light_sleep_duration": secs['2'],
		"rem_sleep_duration": secs['3'],
		"awake_time":         secs['4'], "time_in_bed": inBed, "latency": 600, "efficiency": asleep * 100 / inBed,
		"restless_periods":   gen.between(60, 220),
		"average_breath":     float64(gen.between(105, 125)) / 8,
		"average_heart_rate": float64(gen.between(220, 236)) / 4,
		"average_hrv":        gen.between(38, 52),
		"lowest_heart_rate":  low, "app_sleep_phase_5_min": string(phases), "low_battery_alert": false,
		"ring_id":    gen.ring,
		"heart_rate": object{"interval": 300.0, "items": hr, "timestamp": stamp(start)},
		"hrv":        object{"interval": 300.0, "items": hrv, "timestamp": stamp(start)},
	})
}
