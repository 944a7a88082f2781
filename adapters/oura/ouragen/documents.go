package ouragen

import (
	"math/rand/v2"
	"time"
)

// Object is a JSON object.
type Object = map[string]any

// Draw draws the content of documents. It sets neither their id nor their day.
type Draw struct{ Rand *rand.Rand }

func (d Draw) between(low, high int) int { return low + d.Rand.IntN(high-low+1) }

// Stamp formats a time with its offset, even for UTC, as Oura does.
func Stamp(t time.Time) string { return t.Format("2006-01-02T15:04:05-07:00") }

// DailySleep returns the daily_sleep document of a day that begins at midnight.
func (d Draw) DailySleep(midnight time.Time) Object {
	return Object{"score": d.between(62, 93), "timestamp": Stamp(midnight), "contributors": Object{
		"deep_sleep": d.between(50, 99), "efficiency": d.between(70, 99), "latency": d.between(60, 99),
		"rem_sleep":   d.between(50, 99),
		"restfulness": d.between(50, 90), "timing": d.between(60, 99), "total_sleep": d.between(55, 97)}}
}

// DailyReadiness returns the daily_readiness document of a day that begins at midnight.
func (d Draw) DailyReadiness(midnight time.Time) Object {
	return Object{"score": d.between(60, 94), "timestamp": Stamp(midnight),
		"temperature_deviation":       float64(d.between(-45, 45)) / 100,
		"temperature_trend_deviation": float64(d.between(-20, 20)) / 100,
		"contributors": Object{"activity_balance": d.between(60, 95), "body_temperature": d.between(70, 99),
			"hrv_balance":    d.between(60, 99),
			"recovery_index": d.between(40, 99), "resting_heart_rate": d.between(60, 99),
			"sleep_balance": d.between(60, 95), "sleep_regularity": nil}}
}

// DailyActivity returns the daily_activity document of a day that begins at start, which
// is 04:00.
func (d Draw) DailyActivity(start time.Time) Object {
	steps := d.between(3500, 14500)
	return Object{"score": d.between(60, 98), "timestamp": Stamp(start),
		"steps":           steps,
		"active_calories": steps / 22, "total_calories": 1750 + steps/22, "equivalent_walking_distance": steps * 8 / 10,
		"high_activity_time": d.between(0, 30) * 60, "medium_activity_time": d.between(10, 90) * 60,
		"low_activity_time": d.between(150, 320) * 60,
		"sedentary_time":    d.between(350, 600) * 60, "resting_time": d.between(420, 560) * 60,
		"non_wear_time":     d.between(0, 40) * 60,
		"inactivity_alerts": d.between(0, 3),
		"contributors":      Object{"stay_active": d.between(50, 99), "move_every_hour": d.between(60, 99)}}
}

// DailySpO2 returns a daily_spo2 document.
func (d Draw) DailySpO2() Object {
	return Object{"spo2_percentage": Object{"average": float64(d.between(9500, 9850)) / 100},
		"breathing_disturbance_index": d.between(0, 9)}
}

// DailyStress returns a daily_stress document.
func (d Draw) DailyStress() Object {
	return Object{"stress_high": d.between(0, 16) * 900,
		"recovery_high": d.between(0, 16) * 900,
		"day_summary":   []string{"restored", "normal", "stressful"}[d.Rand.IntN(3)]}
}

// DailyResilience returns a daily_resilience document.
func (d Draw) DailyResilience() Object {
	return Object{"level": []string{"adequate", "solid", "strong"}[d.Rand.IntN(3)],
		"contributors": Object{"sleep_recovery": d.between(50, 95), "daytime_recovery": d.between(40, 90),
			"stress": d.between(40, 90)}}
}

// CardiovascularAge returns a daily_cardiovascular_age document.
func (d Draw) CardiovascularAge() Object {
	return Object{"vascular_age": d.between(36, 39), "pulse_wave_velocity": float64(d.between(66, 72)) / 10}
}

// VO2Max returns the vO2_max document of a day that begins at midnight.
func (d Draw) VO2Max(midnight time.Time) Object {
	return Object{"vo2_max": d.between(41, 44), "timestamp": Stamp(midnight)}
}

// Workout returns a workout document.
func Workout(activity string, start time.Time, minutes int) Object {
	return Object{"activity": activity,
		"calories": minutes * 8, "distance": minutes * 150,
		"start_datetime": Stamp(start), "end_datetime": Stamp(start.Add(time.Duration(minutes) * time.Minute)),
		"intensity": "moderate", "label": nil, "source": "confirmed"}
}

// HeartRate returns a row of heartrate.
func HeartRate(t time.Time, bpm int, source string) Object {
	return Object{"timestamp": t.UTC().Format("2006-01-02T15:04:05.000Z"),
		"timestamp_unix": t.UnixMilli(), "bpm": bpm, "source": source}
}

// Sleep returns the sleep document of a night that begins at start and lasts for epochs
// of five minutes; if epochs is 0, the length is drawn. row is called with the heart rate
// of each epoch that has one.
func (d Draw) Sleep(start time.Time, epochs int, ring string, row func(t time.Time, bpm int)) Object {
	phases := d.phases(epochs)
	secs := map[byte]int{}
	var hr, hrv []any
	low := 200
	for i, p := range phases {
		secs[p] += 300
		if i%17 == 3 {
			hr, hrv = append(hr, nil), append(hrv, nil)
			continue
		}
		bpm := d.between(51, 63)
		low = min(low, bpm)
		hr, hrv = append(hr, bpm), append(hrv, d.between(30, 62))
		row(start.Add(time.Duration(i)*5*time.Minute), bpm)
	}
	inBed := len(phases) * 300
	asleep := inBed - secs['4']
	return Object{
		"bedtime_start": Stamp(start), "bedtime_end": Stamp(start.Add(time.Duration(inBed) * time.Second)),
		"type": "long_sleep", "period": 0,
		"total_sleep_duration": asleep, "deep_sleep_duration": secs['1'], "light_sleep_duration": secs['2'],
		"rem_sleep_duration": secs['3'],
		"awake_time":         secs['4'], "time_in_bed": inBed, "latency": 600, "efficiency": asleep * 100 / inBed,
		"restless_periods":   d.between(60, 220),
		"average_breath":     float64(d.between(105, 125)) / 8,
		"average_heart_rate": float64(d.between(220, 236)) / 4,
		"average_hrv":        d.between(38, 52),
		"lowest_heart_rate":  low, "app_sleep_phase_5_min": string(phases), "low_battery_alert": false,
		"ring_id":    ring,
		"heart_rate": Object{"interval": 300.0, "items": hr, "timestamp": Stamp(start)},
		"hrv":        Object{"interval": 300.0, "items": hrv, "timestamp": Stamp(start)},
	}
}

// phases draws the sleep phases of a night, one digit per epoch. If epochs is not 0, they
// are cut or continued with light sleep to that number.
func (d Draw) phases(epochs int) []byte {
	phases := []byte{'4', '4'}
	for cycle := range 5 {
		for _, run := range []struct {
			phase  byte
			length int
		}{{'2', d.between(5, 8)}, {'1', max(1, 6-cycle)}, {'2', d.between(2, 5)}, {'3', 2 + cycle}} {
			for range run.length {
				phases = append(phases, run.phase)
			}
		}
	}
	phases = append(phases, '4')
	if epochs == 0 {
		return phases
	}
	for len(phases) < epochs {
		phases = append(phases, '2')
	}
	return phases[:epochs]
}
