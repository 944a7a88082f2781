package applegen

import (
	"fmt"
	"math/rand/v2"
	"strconv"
)

func (g *gen) heartRate(kind, day int) {
	r := g.rnd(kind, day)
	for sec := r.IntN(200); sec < 86400; sec += 200 + r.IntN(200) {
		g.record("HKQuantityTypeIdentifierHeartRate", g.watch, "count/min", day, sec, sec, strconv.Itoa(int(max(42, pulse(r, sec)))))
		g.str(">\n")
		g.meta("  ", "HKMetadataKeyHeartRateMotionContext", []string{"0", "1", "2"}[r.IntN(3)])
		g.str(" </Record>\n")
		g.flush()
	}
}

// quantity is one type of simple records through a day.
type quantity struct {
	typ, unit     string
	phone         bool
	perDay, span  int // records a day, seconds each
	from, to      int // hours of the day
	mean, spread  float64
	digits        int
	meta, metaVal string
}

var daily = []quantity{
	{typ: "StepCount", unit: "count", phone: true, perDay: 40, span: 500, from: 7, to: 22, mean: 140, spread: 90},
	{typ: "StepCount", unit: "count", perDay: 60, span: 420, from: 7, to: 22, mean: 120, spread: 80},
	{typ: "DistanceWalkingRunning", unit: "km", perDay: 60, span: 420, from: 7, to: 22, mean: 0.09, spread: 0.05, digits: 6},
	{typ: "ActiveEnergyBurned", unit: "kcal", perDay: 360, span: 60, from: 6, to: 23, mean: 1.3, spread: 1.1, digits: 3},
	{typ: "BasalEnergyBurned", unit: "kcal", perDay: 96, span: 900, from: 0, to: 24, mean: 17.2, spread: 0.6, digits: 3},
	{typ: "FlightsClimbed", unit: "count", phone: true, perDay: 6, span: 40, from: 8, to: 20, mean: 1.6, spread: 0.8},
	{typ: "AppleExerciseTime", unit: "min", perDay: 28, span: 60, from: 8, to: 20, mean: 1},
	{typ: "AppleStandTime", unit: "min", perDay: 90, span: 300, from: 7, to: 22, mean: 3, spread: 1},
	{typ: "OxygenSaturation", unit: "%", perDay: 18, span: 15, from: 0, to: 24, mean: 0.966, spread: 0.008, digits: 2,
		meta: "HKMetadataKeyBarometricPressure", metaVal: "100.912 kPa"},
	{typ: "RespiratoryRate", unit: "count/min", perDay: 24, from: 0, to: 7, mean: 14.5, spread: 1.2, digits: 1},
	{typ: "EnvironmentalAudioExposure", unit: "dBASPL", perDay: 30, span: 1500, from: 8, to: 21, mean: 62, spread: 7, digits: 4},
	{typ: "WalkingSpeed", unit: "km/hr", phone: true, perDay: 14, span: 40, from: 8, to: 20, mean: 4.7, spread: 0.4, digits: 3},
	{typ: "WalkingDoubleSupportPercentage", unit: "%", phone: true, perDay: 8, span: 40, from: 8, to: 20, mean: 0.29, spread: 0.01, digits: 3},
	{typ: "RestingHeartRate", unit: "count/min", perDay: 1, span: 60000, from: 0, to: 2, mean: 57, spread: 2},
	{typ: "WalkingHeartRateAverage", unit: "count/min", perDay: 1, span: 40000, from: 8, to: 9, mean: 98, spread: 5, digits: 1},
	{typ: "AppleSleepingWristTemperature", unit: "degC", perDay: 1, span: 21600, from: 0, to: 1, mean: 35.4, spread: 0.2, digits: 4},
}

func (g *gen) quantities(kind, day int) {
	for i, q := range daily {
		r := g.rnd(kind*100+i, day)
		source := g.watch
		if q.phone {
			source = g.phone
		}
		step := (q.to - q.from) * 3600 / q.perDay
		for n := range q.perDay {
			sec := q.from*3600 + n*step + r.IntN(max(1, step/4))
			g.record("HKQuantityTypeIdentifier"+q.typ, source, q.unit, day, sec, sec+min(q.span, max(step-step/4, q.span/8)), g.value(r, q))
			if q.meta == "" {
				g.end()
				continue
			}
			g.str(">\n")
			g.meta("  ", q.meta, q.metaVal)
			g.str(" </Record>\n")
			g.flush()
		}
	}
}

func (g *gen) value(r *rand.Rand, q quantity) string {
	v := q.mean + q.spread*r.NormFloat64()
	floor := q.mean / 20
	if q.digits == 0 {
		floor = 1
	}
	return strconv.FormatFloat(max(v, floor), 'f', q.digits, 64)
}

func (g *gen) body(kind, day int) {
	r := g.rnd(kind, day)
	if day%3 == 0 {
		g.record("HKQuantityTypeIdentifierVO2Max", g.watch, "mL/min·kg", day, 64800, 64800, strconv.FormatFloat(39+r.Float64(), 'f', 2, 64))
		g.str(">\n")
		g.meta("  ", "HKVO2MaxTestType", "2")
		g.str(" </Record>\n")
	}
	if day%7 == 0 {
		kg := 71 + r.NormFloat64()
		for _, x := range [][3]string{
			{"BodyMass", "kg", strconv.FormatFloat(kg, 'f', 2, 64)},
			{"BodyFatPercentage", "%", strconv.FormatFloat(0.22+0.004*r.NormFloat64(), 'f', 3, 64)},
			{"BodyMassIndex", "count", strconv.FormatFloat(kg/1.74/1.74, 'f', 2, 64)},
		} {
			g.record("HKQuantityTypeIdentifier"+x[0], "Scale", x[1], day, 25200, 25200, x[2])
			g.str(">\n")
			g.meta("  ", "HKMetadataKeySyncIdentifier", fmt.Sprintf("scale-%s-%d", x[0], day))
			g.meta("  ", "HKMetadataKeySyncVersion", "1")
			g.str(" </Record>\n")
		}
	}
	if day == 0 {
		g.record("HKQuantityTypeIdentifierHeight", "Health", "cm", day, 25200, 25200, "174")
		g.str(">\n")
		g.meta("  ", "HKWasUserEntered", "1")
		g.str(" </Record>\n")
	}
	if day%5 == 2 {
		for _, h := range []int{7, 12, 18} {
			g.record("HKQuantityTypeIdentifierBloodGlucose", "Glucose", "mg/dL", day, h*3600+900, h*3600+900, strconv.Itoa(84+r.IntN(40)))
			g.str(">\n")
			g.meta("  ", "HKBloodGlucoseMealTime", "1")
			g.str(" </Record>\n")
		}
	}
	g.flush()
}

func (g *gen) sleep(kind, day int) {
	r := g.rnd(kind, day)
	segment := func(source, value string, from, to int) {
		g.record("HKCategoryTypeIdentifierSleepAnalysis", source, "", day, from, to, "HKCategoryValueSleepAnalysis"+value)
		g.str(">\n")
		g.meta("  ", "HKTimeZone", "Europe/Stockholm")
		g.str(" </Record>\n")
		g.flush()
	}
	bed := 22*3600 + 1800 + r.IntN(3600)
	wake := bed + 7*3600 + r.IntN(5400)
	segment(g.phone, "InBed", bed, wake+600)
	cycle := []string{"AsleepCore", "AsleepDeep", "AsleepCore", "AsleepREM", "Awake"}
	for at, i := bed+600+r.IntN(900), 0; at < wake; i++ {
		length := 600 + r.IntN(1800)
		if i%5 == 4 {
			length = 60 + r.IntN(240)
		}
		segment(g.watch, cycle[i%5], at, min(at+length, wake))
		at += length
	}
}

func (g *gen) variability(kind, day int) {
	r := g.rnd(kind, day)
	for n := range 3 {
		from := n*28000 + r.IntN(3000)
		g.record("HKQuantityTypeIdentifierHeartRateVariabilitySDNN", g.watch, "ms", day, from, from+60, strconv.FormatFloat(30+30*r.Float64(), 'f', 4, 64))
		g.str(">\n  <HeartRateVariabilityMetadataList>\n")
		ms := from*1000 + 300
		for range 50 {
			bpm := 52 + r.IntN(20)
			g.b = fmt.Appendf(g.b, "   <InstantaneousBeatsPerMinute bpm=\"%d\" time=\"%02d:%02d:%02d,%02d\"/>\n", bpm, ms/3600000%24, ms/60000%60, ms/1000%60, ms/10%100)
			ms += 60000 / bpm
		}
		g.str("  </HeartRateVariabilityMetadataList>\n </Record>\n")
		g.flush()
	}
}

func (g *gen) standHours(kind, day int) {
	r := g.rnd(kind, day)
	for hour := 7; hour < 23; hour++ {
		value := "Stood"
		if r.IntN(5) == 0 {
			value = "Idle"
		}
		g.record("HKCategoryTypeIdentifierAppleStandHour", g.watch, "", day, hour*3600, hour*3600+3600, "HKCategoryValueAppleStandHour"+value)
		g.end()
	}
}

func (g *gen) events(kind, day int) {
	if g.rnd(kind, day).IntN(30) != 0 {
		return
	}
	g.record("HKCategoryTypeIdentifierHighHeartRateEvent", g.watch, "", day, 70000, 70600, "")
	g.str(">\n")
	g.meta("  ", "HKHeartRateEventThreshold", "120 count/min")
	g.str(" </Record>\n")
	g.flush()
}

func (g *gen) bloodPressure(kind, day int) {
	if day%2 == 1 {
		return
	}
	r := g.rnd(kind, day)
	at := 8*3600 + r.IntN(1800)
	sys, dia := strconv.Itoa(112+r.IntN(20)), strconv.Itoa(68+r.IntN(16))
	halves := func() {
		g.record("HKQuantityTypeIdentifierBloodPressureSystolic", "Cuff", "mmHg", day, at, at, sys)
		g.end()
		g.record("HKQuantityTypeIdentifierBloodPressureDiastolic", "Cuff", "mmHg", day, at, at, dia)
		g.end()
	}
	halves()
	g.str(` <Correlation type="HKCorrelationTypeIdentifierBloodPressure"`)
	g.common("Cuff", "", day, at, at)
	g.str(">\n")
	halves()
	g.str(" </Correlation>\n")
	g.flush()
}

func (g *gen) workouts(kind, day int) {
	r := g.rnd(kind, day)
	if r.IntN(7) > 2 {
		return
	}
	from := 17*3600 + r.IntN(3600)
	length := 1500 + r.IntN(1800)
	to := from + length + 90
	activity := []string{"Running", "Walking", "Cycling"}[r.IntN(3)]
	distance := "DistanceWalkingRunning"
	if activity == "Cycling" {
		distance = "DistanceCycling"
	}
	g.str(` <Workout workoutActivityType="HKWorkoutActivityType`, activity, `" duration="`, strconv.FormatFloat(float64(length)/60, 'f', 3, 64), `" durationUnit="min"`)
	g.common(g.watch, "", day, from, to)
	g.str(">\n")
	g.meta("  ", "HKIndoorWorkout", "0")
	g.meta("  ", "HKTimeZone", "Europe/Stockholm")
	g.meta("  ", "HKWeatherTemperature", strconv.Itoa(40+r.IntN(30))+" degF")
	g.meta("  ", "HKWeatherHumidity", strconv.Itoa(40+r.IntN(50))+"00 %")
	g.meta("  ", "HKAverageMETs", "8.4 kcal/hr·kg")
	statistic := func(typ string, more ...string) {
		g.str(`  <WorkoutStatistics type="HKQuantityTypeIdentifier`, typ, `" startDate="`)
		g.date(day, from)
		g.str(`" endDate="`)
		g.date(day, to)
		g.str(`"`)
		for i := 0; i+1 < len(more); i += 2 {
			g.str(" ", more[i], `="`, more[i+1], `"`)
		}
		g.str("/>\n")
	}
	event := func(typ string, at int, more ...string) {
		g.str(`  <WorkoutEvent type="HKWorkoutEventType`, typ, `" date="`)
		g.date(day, at)
		g.str(`"`)
		for i := 0; i+1 < len(more); i += 2 {
			g.str(" ", more[i], `="`, more[i+1], `"`)
		}
		g.str("/>\n")
	}
	for at := from; at+300 < from+length; at += 300 {
		event("Segment", at, "duration", "5", "durationUnit", "min")
	}
	event("Pause", from+length/2)
	event("Resume", from+length/2+90)
	statistic(distance, "sum", strconv.FormatFloat(float64(length)/400, 'f', 3, 64), "unit", "km")
	statistic("ActiveEnergyBurned", "sum", strconv.FormatFloat(float64(length)/6, 'f', 2, 64), "unit", "kcal")
	statistic("HeartRate", "average", strconv.Itoa(128+r.IntN(20)), "minimum", strconv.Itoa(80+r.IntN(15)), "maximum", strconv.Itoa(158+r.IntN(20)), "unit", "count/min")
	g.str(" </Workout>\n")
	g.flush()
}

func (g *gen) summaries(kind, day int) {
	r := g.rnd(kind, day)
	g.b = fmt.Appendf(g.b, " <ActivitySummary dateComponents=\"%s\" activeEnergyBurned=\"%.3f\" activeEnergyBurnedGoal=\"500\" activeEnergyBurnedUnit=\"kcal\" appleMoveTime=\"0\" appleMoveTimeGoal=\"0\" appleExerciseTime=\"%d\" appleExerciseTimeGoal=\"30\" appleStandHours=\"%d\" appleStandHoursGoal=\"12\"/>\n",
		g.dates[day][:10], 380+260*r.Float64(), 15+r.IntN(50), 8+r.IntN(8))
	g.flush()
}
