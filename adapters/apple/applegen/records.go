package applegen

import (
	"fmt"
	"math/rand/v2"
	"strconv"
)

// heartRate is measured every ten minutes or so, and every 15 seconds in a
// workout.
func (g *gen) heartRate(kind, day int) {
	r := g.rnd(kind, day)
	_, from, length, ok := g.session(day)
	if !ok {
		from, length = 86400, 0
	}
	const every = 15
	for sec := r.IntN(420); sec < 86400; {
		v, context := pulse(r, sec), r.IntN(3)
		next := sec + 420 + r.IntN(360)
		switch {
		case sec >= from && sec < from+length:
			v, context, next = v+70, 2, sec+every
		case sec < from && next > from:
			next = from
		}
		g.record("HKQuantityTypeIdentifierHeartRate", g.watch, "count/min", day, sec, sec,
			strconv.Itoa(int(max(42, v))))
		g.str(">\n")
		g.meta("  ", "HKMetadataKeyHeartRateMotionContext", []string{"0", "1", "2"}[context])
		g.str(" </Record>\n")
		g.flush()
		sec = next
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
	{typ: "StepCount", unit: "count", phone: true, perDay: 36, span: 500, from: 7, to: 22, mean: 140, spread: 90},
	{typ: "StepCount", unit: "count", perDay: 53, span: 420, from: 7, to: 22, mean: 120, spread: 80},
	{typ: "DistanceWalkingRunning", unit: "km", phone: true, perDay: 38, span: 500, from: 7, to: 22, mean: 0.1,
		spread: 0.06, digits: 5},
	{typ: "DistanceWalkingRunning", unit: "km", perDay: 105, span: 420, from: 7, to: 22, mean: 0.09, spread: 0.05,
		digits: 6},
	{typ: "ActiveEnergyBurned", unit: "kcal", perDay: 335, span: 60, from: 6, to: 23, mean: 1.3, spread: 1.1,
		digits: 3},
	{typ: "BasalEnergyBurned", unit: "kcal", perDay: 155, span: 560, from: 0, to: 24, mean: 10.6, spread: 0.6,
		digits: 3},
	{typ: "PhysicalEffort", unit: "kcal/hr·kg", perDay: 35, span: 300, from: 7, to: 22, mean: 2.1, spread: 0.9,
		digits: 1},
	{typ: "FlightsClimbed", unit: "count", phone: true, perDay: 8, span: 40, from: 8, to: 20, mean: 1.6, spread: 0.8},
	{typ: "AppleExerciseTime", unit: "min", perDay: 34, span: 60, from: 8, to: 20, mean: 1},
	{typ: "AppleStandTime", unit: "min", perDay: 14, span: 300, from: 7, to: 22, mean: 3, spread: 1},
	{typ: "TimeInDaylight", unit: "min", perDay: 4, span: 300, from: 9, to: 18, mean: 4, spread: 1},
	{typ: "OxygenSaturation", unit: "%", perDay: 4, span: 15, from: 0, to: 24, mean: 0.966, spread: 0.008, digits: 2,
		meta: "HKMetadataKeyBarometricPressure", metaVal: "100.912 kPa"},
	{typ: "RespiratoryRate", unit: "count/min", perDay: 11, from: 0, to: 7, mean: 14.5, spread: 1.2, digits: 1},
	{typ: "EnvironmentalAudioExposure", unit: "dBASPL", perDay: 9, span: 1500, from: 8, to: 21, mean: 62, spread: 7,
		digits: 4},
	{typ: "HeadphoneAudioExposure", unit: "dBASPL", phone: true, perDay: 5, span: 900, from: 8, to: 21, mean: 66,
		spread: 6, digits: 4},
	{typ: "WalkingSpeed", unit: "km/hr", phone: true, perDay: 28, span: 40, from: 8, to: 20, mean: 4.7, spread: 0.4,
		digits: 3},
	{typ: "WalkingStepLength", unit: "cm", phone: true, perDay: 28, span: 40, from: 8, to: 20, mean: 71, spread: 4},
	{typ: "WalkingDoubleSupportPercentage", unit: "%", phone: true, perDay: 8, span: 40, from: 8, to: 20,
		mean: 0.29, spread: 0.01, digits: 3},
	{typ: "WalkingAsymmetryPercentage", unit: "%", phone: true, perDay: 4, span: 40, from: 8, to: 20, mean: 0.02,
		spread: 0.01, digits: 2},
	{typ: "RestingHeartRate", unit: "count/min", perDay: 1, span: 60000, from: 0, to: 2, mean: 57, spread: 2},
	{typ: "WalkingHeartRateAverage", unit: "count/min", perDay: 1, span: 40000, from: 8, to: 9, mean: 98, spread: 5,
		digits: 1},
	{typ: "AppleSleepingWristTemperature", unit: "degC", perDay: 1, span: 21600, from: 0, to: 1, mean: 35.4,
		spread: 0.2, digits: 4},
}

func (g *gen) quantities(kind, day int) {
	for i := range daily {
		q := &daily[i]
		r := g.rnd(kind*100+i, day)
		source := g.watch
		if q.phone {
			source = g.phone
		}
		step := (q.to - q.from) * 3600 / q.perDay
		for n := range q.perDay {
			sec := q.from*3600 + n*step + r.IntN(max(1, step/4))
			g.record("HKQuantityTypeIdentifier"+q.typ, source, q.unit, day, sec,
				sec+min(q.span, max(step-step/4, q.span/8)), "")
			g.float(q.value(r), q.digits)
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

func (q *quantity) value(r *rand.Rand) float64 {
	v := q.mean + q.spread*r.NormFloat64()
	floor := q.mean / 20
	if q.digits == 0 {
		floor = 1
	}
	return max(v, floor)
}

func (g *gen) body(kind, day int) {
	r := g.rnd(kind, day)
	if day%3 == 0 {
		g.record("HKQuantityTypeIdentifierVO2Max", g.watch, "mL/min·kg", day, 64800, 64800,
			strconv.FormatFloat(39+r.Float64(), 'f', 2, 64))
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
			g.record("HKQuantityTypeIdentifierBloodGlucose", "Glucose", "mg/dL", day, h*3600+900, h*3600+900,
				strconv.Itoa(84+r.IntN(40)))
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
		g.record("HKCategoryTypeIdentifierSleepAnalysis", source, "", day, from, to,
			"HKCategoryValueSleepAnalysis"+value)
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
		g.record("HKQuantityTypeIdentifierHeartRateVariabilitySDNN", g.watch, "ms", day, from, from+60,
			strconv.FormatFloat(30+30*r.Float64(), 'f', 4, 64))
		g.str(">\n  <HeartRateVariabilityMetadataList>\n")
		ms := from*1000 + 300
		for range 50 {
			bpm := 52 + r.IntN(20)
			g.b = fmt.Appendf(g.b, "   <InstantaneousBeatsPerMinute bpm=\"%d\" time=\"%02d:%02d:%02d,%02d\"/>\n",
				bpm, ms/3600000%24, ms/60000%60, ms/1000%60, ms/10%100)
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
		g.record("HKCategoryTypeIdentifierAppleStandHour", g.watch, "", day, hour*3600, hour*3600+3600,
			"HKCategoryValueAppleStandHour"+value)
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
	g.common("HKCorrelationTypeIdentifierBloodPressure", "Cuff", "", day, at, at)
	g.str(">\n")
	halves()
	g.str(" </Correlation>\n")
	g.flush()
}

// session is the workout of a day, in seconds; r goes on with its details.
func (g *gen) session(day int) (r *rand.Rand, from, length int, ok bool) {
	r = g.rnd(sessionKind, day)
	ok = r.IntN(7) <= 2
	return r, 17*3600 + r.IntN(3600), 1500 + r.IntN(1800), ok
}

const (
	sessionKind  = 200
	clinicalDays = 20
)

func (g *gen) workouts(_, day int) {
	r, from, length, ok := g.session(day)
	if !ok {
		return
	}
	to := from + length + 90
	activity := []string{"Running", "Walking", "Cycling"}[r.IntN(3)]
	distance := "DistanceWalkingRunning"
	if activity == "Cycling" {
		distance = "DistanceCycling"
	}
	g.str(` <Workout workoutActivityType="HKWorkoutActivityType`, activity, `" duration="`,
		strconv.FormatFloat(float64(length)/60, 'f', 3, 64), `" durationUnit="min"`)
	g.common("HKWorkoutTypeIdentifier", g.watch, "", day, from, to)
	g.str(">\n")
	g.meta("  ", "HKIndoorWorkout", "0")
	g.meta("  ", "HKTimeZone", "Europe/Stockholm")
	g.meta("  ", "HKWeatherTemperature", strconv.Itoa(40+r.IntN(30))+" degF")
	g.meta("  ", "HKWeatherHumidity", strconv.Itoa(40+r.IntN(50))+"00 %")
	g.meta("  ", "HKAverageMETs", "8.4 kcal/hr·kg")
	event := func(typ string, at int) {
		g.str(`  <WorkoutEvent type="HKWorkoutEventType`, typ, `" date="`)
		g.date(day, at)
		g.str("\"/>\n")
	}
	event("Pause", from+length/2)
	event("Resume", from+length/2+90)
	for at := from; at+600 < to; at += 600 {
		g.str(`  <WorkoutEvent type="HKWorkoutEventTypeSegment" date="`)
		g.date(day, at)
		g.str("\" duration=\"10\" durationUnit=\"min\"/>\n")
	}
	g.b = fmt.Appendf(g.b, `  <WorkoutActivity uuid="550E8400-E29B-41D4-%04X-%012X" startDate="`, g.seed&0xffff, day)
	g.date(day, from)
	g.str(`" endDate="`)
	g.date(day, to)
	g.b = fmt.Appendf(g.b, "\" duration=\"%.3f\" durationUnit=\"min\"/>\n", float64(length)/60)
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
	statistic(distance, "sum", strconv.FormatFloat(float64(length)/400, 'f', 3, 64), "unit", "km")
	statistic("ActiveEnergyBurned", "sum", strconv.FormatFloat(float64(length)/6, 'f', 2, 64), "unit", "kcal")
	statistic("HeartRate", "average", strconv.Itoa(128+r.IntN(20)), "minimum", strconv.Itoa(80+r.IntN(15)),
		"maximum", strconv.Itoa(158+r.IntN(20)), "unit", "count/min")
	g.str("  <WorkoutRoute")
	g.common("HKWorkoutRouteTypeIdentifier", g.watch, "", day, from, to)
	g.str(">\n")
	g.meta("   ", "HKMetadataKeySyncVersion", "2")
	g.str(`   <FileReference path="/`, g.route(day), "\"/>\n  </WorkoutRoute>\n")
	g.str(" </Workout>\n")
	g.flush()
}

// route is the file of a day's workout within the archive.
func (g *gen) route(day int) string {
	return "workout-routes/route_" + g.dates[day][:10] + "_5.31pm.gpx"
}

func (g *gen) clinical(_, day int) {
	if day%clinicalDays != clinicalDays-1 {
		return
	}
	g.b = fmt.Appendf(g.b, " <ClinicalRecord type=\"Observation\" identifier=\"obs-%d\" sourceName=\"Example Health\" sourceURL=\"https://fhir.example.org/R4/Observation/obs-%d\" fhirVersion=\"4.0.1\" receivedDate=\"", day, day)
	g.date(day, 10*3600)
	g.str(`" resourceFilePath="/`, g.clinicalFile(day), "\"/>\n")
	g.flush()
}

func (g *gen) clinicalFile(day int) string {
	return fmt.Sprintf("clinical-records/Observation-00000000-0000-4000-8000-%012X.json", day)
}

func (g *gen) summaries(kind, day int) {
	r := g.rnd(kind, day)
	g.b = fmt.Appendf(g.b, " <ActivitySummary dateComponents=\"%s\" activeEnergyBurned=\"%.3f\" activeEnergyBurnedGoal=\"500\" activeEnergyBurnedUnit=\"kcal\" appleMoveTime=\"0\" appleMoveTimeGoal=\"0\" appleExerciseTime=\"%d\" appleExerciseTimeGoal=\"30\" appleStandHours=\"%d\" appleStandHoursGoal=\"12\"/>\n",
		g.dates[day][:10], 380+260*r.Float64(), 15+r.IntN(50), 8+r.IntN(8))
	g.flush()
}
