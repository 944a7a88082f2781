// Package fitbitgen generates pages of the Google Health API for an invented wearer: a
// realistic month of heart rates, steps, sleep and daily values. The same Options give the
// same bytes. The package is for demonstrations and tests and contains no data of real
// people.
package fitbitgen

import (
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"strconv"
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

// generator holds the state that all pages share.
type generator struct {
	rnd    *rand.Rand
	days   int
	first  time.Time // midnight of the first day
	offset string
	pages  map[string][]any
	order  []string
}

// Generate writes the pages. create returns the writer for a file name such as
// list_heart-rate.json or dailyRollUp_steps.json.
func Generate(create func(name string) (io.Writer, error), o Options) error {
	if o.Days == 0 {
		o.Days = 30
	}
	if o.Days < 0 || o.Days > 3660 {
		return fmt.Errorf("fitbitgen: %d days are not between 1 and 3660", o.Days)
	}
	y, m, d := o.Start.Date()
	gen := &generator{
		rnd: rand.New(rand.NewPCG(o.Seed, 0xf17b17)), days: o.Days,
		first:  time.Date(y, m, d, 0, 0, 0, 0, time.FixedZone("", int(o.Offset.Seconds()))),
		offset: strconv.Itoa(int(o.Offset.Seconds())) + "s", pages: map[string][]any{},
	}
	for i := range gen.days {
		gen.day(gen.first.AddDate(0, 0, i), i)
	}
	for _, name := range gen.order {
		member := "dataPoints"
		if name[0] == 'd' {
			member = "rollupDataPoints"
		}
		if err := write(create, name+".json", object{member: gen.pages[name]}); err != nil {
			return err
		}
	}
	last := gen.first.AddDate(0, 0, gen.days).Add(-2 * time.Hour)
	return write(create, "pairedDevices.json", object{"pairedDevices": []any{object{
		"name": "users/1/pairedDevices/1", "deviceType": "TRACKER", "deviceVersion": "Charge 6",
		"batteryStatus": "High", "batteryLevel": 60 + gen.rnd.IntN(40), "lastSyncTime": utc(last),
		"features": []string{"HEART_RATE", "SPO2", "SLEEP", "STEPS"},
	}}})
}

func write(create func(string) (io.Writer, error), name string, page object) error {
	w, err := create(name)
	if err != nil {
		return err
	}
	return json.NewEncoder(w).Encode(page)
}

func utc(t time.Time) string { return t.UTC().Format(time.RFC3339) }

func (gen *generator) put(page string, item object) {
	if _, ok := gen.pages[page]; !ok {
		gen.order = append(gen.order, page)
	}
	gen.pages[page] = append(gen.pages[page], item)
}

// around returns a random value between mean - spread and mean + spread with
// one decimal place.
func (gen *generator) around(mean, spread float64) float64 {
	v := mean + spread*(gen.rnd.Float64()+gen.rnd.Float64()-1)
	return float64(int(v*10+0.5)) / 10
}

func (gen *generator) source(method string) object {
	return object{"recordingMethod": method, "platform": "FITBIT",
		"device": object{"displayName": "Charge 6", "formFactor": "FITNESS_BAND"}}
}

func date(t time.Time) object {
	return object{"year": t.Year(), "month": int(t.Month()), "day": t.Day()}
}

func (gen *generator) interval(start, end time.Time) object {
	return object{"startTime": utc(start), "startUtcOffset": gen.offset, "endTime": utc(end),
		"endUtcOffset": gen.offset}
}

func (gen *generator) at(t time.Time) object {
	return object{"physicalTime": utc(t), "utcOffset": gen.offset}
}

func (gen *generator) daily(typ, member string, day time.Time, values object) {
	values["date"] = date(day)
	gen.put("list_"+typ, object{"dataSource": object{"recordingMethod": "DERIVED", "platform": "FITBIT",
		"device": object{}}, member: values})
}

func (gen *generator) rollup(typ, member string, day time.Time, values object) {
	gen.put("dailyRollUp_"+typ, object{
		"civilStartTime": object{"date": date(day), "time": object{}},
		"civilEndTime":   object{"date": date(day.AddDate(0, 0, 1)), "time": object{}}, member: values,
	})
}

func (gen *generator) day(day time.Time, i int) {
	rest := int(gen.around(58, 4))
	bed := day.Add(-time.Duration(30+gen.rnd.IntN(90)) * time.Minute)
	wake := gen.night(bed, i)
	steps, active := 0, 7+gen.rnd.IntN(4)
	for minute := 0; minute < 24*60; minute += 10 {
		t := day.Add(time.Duration(minute) * time.Minute)
		awake := !t.Before(wake) && minute < 22*60+30
		moving := awake && gen.rnd.IntN(active) == 0
		bpm := rest - 2 + gen.rnd.IntN(6)
		if awake {
			bpm += 8 + gen.rnd.IntN(14)
		}
		if moving {
			bpm += 20
			count := 200 + gen.rnd.IntN(900)
			steps += count
			gen.put("list_steps", object{"dataSource": gen.source("PASSIVELY_MEASURED"),
				"steps": object{"interval": gen.interval(t, t.Add(10*time.Minute)), "count": strconv.Itoa(count)}})
		}
		gen.put("list_heart-rate", object{"dataSource": gen.source("PASSIVELY_MEASURED"),
			"heartRate": object{"sampleTime": gen.at(t), "beatsPerMinute": strconv.Itoa(bpm)}})
	}
	gen.rollup("steps", "steps", day, object{"countSum": strconv.Itoa(steps)})
	gen.rollup("distance", "distance", day, object{"millimetersSum": strconv.Itoa(steps * 740)})
	gen.rollup("floors", "floors", day, object{"countSum": strconv.Itoa(gen.rnd.IntN(15))})
	gen.rollup("total-calories", "totalCalories", day, object{"kcalSum": 1700 + float64(steps)/20})
	gen.daily("daily-resting-heart-rate", "dailyRestingHeartRate", day, object{"beatsPerMinute": strconv.Itoa(rest),
		"dailyRestingHeartRateMetadata": object{"calculationMethod": "WITH_SLEEP"}})
	gen.daily("daily-heart-rate-variability", "dailyHeartRateVariability", day, object{
		"averageHeartRateVariabilityMilliseconds": gen.around(44, 9),
		"nonRemHeartRateBeatsPerMinute":           strconv.Itoa(rest - 3)})
	gen.daily("daily-oxygen-saturation", "dailyOxygenSaturation", day, object{
		"averagePercentage": gen.around(96, 1), "lowerBoundPercentage": gen.around(94, 0.5),
		"upperBoundPercentage": gen.around(98, 0.5)})
	gen.daily("daily-respiratory-rate", "dailyRespiratoryRate", day, object{"breathsPerMinute": gen.around(14.6, 0.9)})
	gen.daily("daily-sleep-temperature-derivations", "dailySleepTemperatureDerivations", day, object{
		"nightlyTemperatureCelsius": gen.around(34, 0.5), "baselineTemperatureCelsius": 34.0,
		"relativeNightlyStddev30dCelsius": 0.3})
	if i%7 == 0 {
		gen.put("list_weight", object{"name": fmt.Sprintf("users/1/dataTypes/weight/dataPoints/%d", 7000+i),
			"dataSource": object{"recordingMethod": "MANUAL", "platform": "FITBIT", "device": object{}},
			"weight": object{"sampleTime": gen.at(wake.Add(20 * time.Minute)),
				"weightGrams": int(gen.around(74, 0.6) * 1000)}})
		gen.daily("daily-vo2-max", "dailyVo2Max", day,
			object{"vo2Max": gen.around(43, 1), "cardioFitnessLevel": "GOOD", "estimated": true})
	}
	if i%3 == 1 {
		gen.exercise(day.Add(17*time.Hour), i)
	}
}

// night adds a night and returns the time of waking.
func (gen *generator) night(bed time.Time, i int) time.Time {
	var stages []any
	minutes, counts := map[string]int{}, map[string]int{}
	t := bed
	add := func(kind string, length int) {
		end := t.Add(time.Duration(length) * time.Minute)
		stage := gen.interval(t, end)
		stage["type"] = kind
		stages = append(stages, stage)
		minutes[kind] += length
		counts[kind]++
		t = end
	}
	latency := 4 + gen.rnd.IntN(15)
	add("AWAKE", latency)
	for cycle := range 5 {
		add("LIGHT", 25+gen.rnd.IntN(20))
		add("DEEP", max(5, 30-6*cycle+gen.rnd.IntN(8)))
		add("LIGHT", 10+gen.rnd.IntN(15))
		add("REM", 8+5*cycle+gen.rnd.IntN(8))
	}
	add("AWAKE", 3+gen.rnd.IntN(5))
	var summary []any
	asleep := 0
	for _, kind := range []string{"AWAKE", "LIGHT", "DEEP", "REM"} {
		summary = append(summary, object{"type": kind, "minutes": strconv.Itoa(minutes[kind]),
			"count": strconv.Itoa(counts[kind])})
		if kind != "AWAKE" {
			asleep += minutes[kind]
		}
	}
	gen.put("list_sleep", object{
		"name": fmt.Sprintf("users/1/dataTypes/sleep/dataPoints/%d", 9000+i), "dataSource": gen.source("DERIVED"),
		"sleep": object{
			"interval": gen.interval(bed, t), "type": "STAGES", "stages": stages,
			"metadata": object{"processed": true, "mainSleep": true, "stagesStatus": "SUCCEEDED"},
			"summary": object{
				"minutesInSleepPeriod": strconv.Itoa(int(t.Sub(bed).Minutes())), "minutesAsleep": strconv.Itoa(asleep),
				"minutesAwake": strconv.Itoa(minutes["AWAKE"]), "minutesToFallAsleep": strconv.Itoa(latency),
				"stagesSummary": summary,
			},
		},
	})
	return t
}

func (gen *generator) exercise(start time.Time, i int) {
	length := 25 + gen.rnd.IntN(35)
	end := start.Add(time.Duration(length) * time.Minute)
	gen.put("list_exercise", object{
		"name":       fmt.Sprintf("users/1/dataTypes/exercise/dataPoints/%d", 8000+i),
		"dataSource": gen.source("ACTIVELY_MEASURED"),
		"exercise": object{
			"interval": gen.interval(start, end), "exerciseType": []string{"RUNNING", "BIKING", "WALKING"}[i/3%3],
			"activeDuration": strconv.Itoa(length*60) + "s",
			"metricsSummary": object{"caloriesKcal": length * 9, "distanceMillimeters": length * 160_000,
				"averageHeartRateBeatsPerMinute": strconv.Itoa(125 + gen.rnd.IntN(25))},
		},
	})
}
