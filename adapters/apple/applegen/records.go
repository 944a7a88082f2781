package applegen

import (
	"fmt"
	"math/rand/v2"
	"strconv"
)

// heartRate writes a heart rate about every ten minutes, and every 15 seconds
// in a workout.
func (gen *generator) heartRate(series, day int) {
	r := gen.rng(series, day)
	_, from, length, ok := gen.session(day)
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
		gen.record("HKQuantityTypeIdentifierHeartRate", gen.watch, "count/min", day, sec, sec,
			strconv.Itoa(int(max(42, v))))
		gen.str(">\n")
		gen.meta("  ", "HKMetadataKeyHeartRateMotionContext", []string{"0", "1", "2"}[context])
		gen.str(" </Record>\n")
		gen.flush()
		sec = next
	}
}

// quantity describes the simple records of one type on each day.
type quantity struct {
	typ, unit     string
	phone         bool
	perDay, span  int // records per day, seconds per record
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

func (gen *generator) quantities(series, day int) {
	for i := range daily {
		qty := &daily[i]
		r := gen.rng(series*100+i, day)
		source := gen.watch
		if qty.phone {
			source = gen.phone
		}
		step := (qty.to - qty.from) * 3600 / qty.perDay
		for n := range qty.perDay {
			sec := qty.from*3600 + n*step + r.IntN(max(1, step/4))
			gen.record("HKQuantityTypeIdentifier"+qty.typ, source, qty.unit, day, sec,
				sec+min(qty.span, max(step-step/4, qty.span/8)), "")
			gen.float(qty.value(r), qty.digits)
			if qty.meta == "" {
				gen.end()
				continue
			}
			gen.str(">\n")
			gen.meta("  ", qty.meta, qty.metaVal)
			gen.str(" </Record>\n")
			gen.flush()
		}
	}
}

func (qty *quantity) value(r *rand.Rand) float64 {
	v := qty.mean + qty.spread*r.NormFloat64()
	floor := qty.mean / 20
	if qty.digits == 0 {
		floor = 1
	}
	return max(v, floor)
}

func (gen *generator) body(series, day int) {
	r := gen.rng(series, day)
	if day%3 == 0 {
		gen.record("HKQuantityTypeIdentifierVO2Max", gen.watch, "mL/min·kg", day, 64800, 64800,
			strconv.FormatFloat(39+r.Float64(), 'f', 2, 64))
		gen.str(">\n")
		gen.meta("  ", "HKVO2MaxTestType", "2")
		gen.str(" </Record>\n")
	}
	if day%7 == 0 {
		kg := 71 + r.NormFloat64()
		for _, x := range [][3]string{
			{"BodyMass", "kg", strconv.FormatFloat(kg, 'f', 2, 64)},
			{"BodyFatPercentage", "%", strconv.FormatFloat(0.22+0.004*r.NormFloat64(), 'f', 3, 64)},
			{"BodyMassIndex", "count", strconv.FormatFloat(kg/1.74/1.74, 'f', 2, 64)},
		} {
			gen.record("HKQuantityTypeIdentifier"+x[0], "Scale", x[1], day, 25200, 25200, x[2])
			gen.str(">\n")
			gen.meta("  ", "HKMetadataKeySyncIdentifier", fmt.Sprintf("scale-%s-%d", x[0], day))
			gen.meta("  ", "HKMetadataKeySyncVersion", "1")
			gen.str(" </Record>\n")
		}
	}
	if day == 0 {
		gen.record("HKQuantityTypeIdentifierHeight", "Health", "cm", day, 25200, 25200, "174")
		gen.str(">\n")
		gen.meta("  ", "HKWasUserEntered", "1")
		gen.str(" </Record>\n")
	}
	if day%5 == 2 {
		for _, h := range []int{7, 12, 18} {
			gen.record("HKQuantityTypeIdentifierBloodGlucose", "Glucose", "mg/dL", day, h*3600+900, h*3600+900,
				strconv.Itoa(84+r.IntN(40)))
			gen.str(">\n")
			gen.meta("  ", "HKBloodGlucoseMealTime", "1")
			gen.str(" </Record>\n")
		}
	}
	gen.flush()
}

func (gen *generator) sleep(series, day int) {
	r := gen.rng(series, day)
	segment := func(source, value string, from, to int) {
		gen.record("HKCategoryTypeIdentifierSleepAnalysis", source, "", day, from, to,
			"HKCategoryValueSleepAnalysis"+value)
		gen.str(">\n")
		gen.meta("  ", "HKTimeZone", "Europe/Stockholm")
		gen.str(" </Record>\n")
		gen.flush()
	}
	bed := 22*3600 + 1800 + r.IntN(3600)
	wake := bed + 7*3600 + r.IntN(5400)
	segment(gen.phone, "InBed", bed, wake+600)
	cycle := []string{"AsleepCore", "AsleepDeep", "AsleepCore", "AsleepREM", "Awake"}
	for at, i := bed+600+r.IntN(900), 0; at < wake; i++ {
		length := 600 + r.IntN(1800)
		if i%5 == 4 {
			length = 60 + r.IntN(240)
		}
		segment(gen.watch, cycle[i%5], at, min(at+length, wake))
		at += length
	}
}

func (gen *generator) variability(series, day int) {
	r := gen.rng(series, day)
	for n := range 3 {
		from := n*28000 + r.IntN(3000)
		gen.record("HKQuantityTypeIdentifierHeartRateVariabilitySDNN", gen.watch, "ms", day, from, from+60,
			strconv.FormatFloat(30+30*r.Float64(), 'f', 4, 64))
		gen.str(">\n  <HeartRateVariabilityMetadataList>\n")
		ms := from*1000 + 300
		for range 50 {
			bpm := 52 + r.IntN(20)
			gen.buf = fmt.Appendf(gen.buf,
				"   <InstantaneousBeatsPerMinute bpm=\"%d\" time=\"%02d:%02d:%02d,%02d\"/>\n",
				bpm, ms/3600000%24, ms/60000%60, ms/1000%60, ms/10%100)
			ms += 60000 / bpm
		}
		gen.str("  </HeartRateVariabilityMetadataList>\n </Record>\n")
		gen.flush()
	}
}

func (gen *generator) standHours(series, day int) {
	r := gen.rng(series, day)
	for hour := 7; hour < 23; hour++ {
		value := "Stood"
		if r.IntN(5) == 0 {
			value = "Idle"
		}
		gen.record("HKCategoryTypeIdentifierAppleStandHour", gen.watch, "", day, hour*3600, hour*3600+3600,
			"HKCategoryValueAppleStandHour"+value)
		gen.end()
	}
}

func (gen *generator) events(series, day int) {
	if gen.rng(series, day).IntN(30) != 0 {
		return
	}
	gen.record("HKCategoryTypeIdentifierHighHeartRateEvent", gen.watch, "", day, 70000, 70600, "")
	gen.str(">\n")
	gen.meta("  ", "HKHeartRateEventThreshold", "120 count/min")
	gen.str(" </Record>\n")
	gen.flush()
}

func (gen *generator) bloodPressure(series, day int) {
	if day%2 == 1 {
		return
	}
	r := gen.rng(series, day)
	at := 8*3600 + r.IntN(1800)
	sys, dia := strconv.Itoa(112+r.IntN(20)), strconv.Itoa(68+r.IntN(16))
	halves := func() {
		gen.record("HKQuantityTypeIdentifierBloodPressureSystolic", "Cuff", "mmHg", day, at, at, sys)
		gen.end()
		gen.record("HKQuantityTypeIdentifierBloodPressureDiastolic", "Cuff", "mmHg", day, at, at, dia)
		gen.end()
	}
	halves()
	gen.str(` <Correlation type="HKCorrelationTypeIdentifierBloodPressure"`)
	gen.common("HKCorrelationTypeIdentifierBloodPressure", "Cuff", "", day, at, at)
	gen.str(">\n")
	halves()
	gen.str(" </Correlation>\n")
	gen.flush()
}

// session returns the start and the length of the day's workout in seconds. Its
// random numbers continue with the details.
func (gen *generator) session(day int) (r *rand.Rand, from, length int, ok bool) {
	r = gen.rng(sessionSeries, day)
	ok = r.IntN(7) <= 2
	return r, 17*3600 + r.IntN(3600), 1500 + r.IntN(1800), ok
}

const (
	sessionSeries = 200
	clinicalDays  = 20
)

func (gen *generator) workouts(_, day int) {
	r, from, length, ok := gen.session(day)
	if !ok {
		return
	}
	to := from + length + 90
	activity := []string{"Running", "Walking", "Cycling"}[r.IntN(3)]
	distance := "DistanceWalkingRunning"
	if activity == "Cycling" {
		distance = "DistanceCycling"
	}
	gen.str(` <Workout workoutActivityType="HKWorkoutActivityType`, activity, `" duration="`,
		strconv.FormatFloat(float64(length)/60, 'f', 3, 64), `" durationUnit="min"`)
	gen.common("HKWorkoutTypeIdentifier", gen.watch, "", day, from, to)
	gen.str(">\n")
	gen.meta("  ", "HKIndoorWorkout", "0")
	gen.meta("  ", "HKTimeZone", "Europe/Stockholm")
	gen.meta("  ", "HKWeatherTemperature", strconv.Itoa(40+r.IntN(30))+" degF")
	gen.meta("  ", "HKWeatherHumidity", strconv.Itoa(40+r.IntN(50))+"00 %")
	gen.meta("  ", "HKAverageMETs", "8.4 kcal/hr·kg")
	event := func(typ string, at int) {
		gen.str(`  <WorkoutEvent type="HKWorkoutEventType`, typ, `" date="`)
		gen.date(day, at)
		gen.str("\"/>\n")
	}
	event("Pause", from+length/2)
	event("Resume", from+length/2+90)
	for at := from; at+600 < to; at += 600 {
		gen.str(`  <WorkoutEvent type="HKWorkoutEventTypeSegment" date="`)
		gen.date(day, at)
		gen.str("\" duration=\"10\" durationUnit=\"min\"/>\n")
	}
	gen.buf = fmt.Appendf(gen.buf, `  <WorkoutActivity uuid="550E8400-E29B-41D4-%04X-%012X" startDate="`,
		gen.seed&0xffff, day)
	gen.date(day, from)
	gen.str(`" endDate="`)
	gen.date(day, to)
	gen.buf = fmt.Appendf(gen.buf, "\" duration=\"%.3f\" durationUnit=\"min\"/>\n", float64(length)/60)
	statistic := func(typ string, more ...string) {
		gen.str(`  <WorkoutStatistics type="HKQuantityTypeIdentifier`, typ, `" startDate="`)
		gen.date(day, from)
		gen.str(`" endDate="`)
		gen.date(day, to)
		gen.str(`"`)
		for i := 0; i+1 < len(more); i += 2 {
			gen.str(" ", more[i], `="`, more[i+1], `"`)
		}
		gen.str("/>\n")
	}
	statistic(distance, "sum", strconv.FormatFloat(float64(length)/400, 'f', 3, 64), "unit", "km")
	statistic("ActiveEnergyBurned", "sum", strconv.FormatFloat(float64(length)/6, 'f', 2, 64), "unit", "kcal")
	statistic("HeartRate", "average", strconv.Itoa(128+r.IntN(20)), "minimum", strconv.Itoa(80+r.IntN(15)),
		"maximum", strconv.Itoa(158+r.IntN(20)), "unit", "count/min")
	gen.str("  <WorkoutRoute")
	gen.common("HKWorkoutRouteTypeIdentifier", gen.watch, "", day, from, to)
	gen.str(">\n")
	gen.meta("   ", "HKMetadataKeySyncVersion", "2")
	gen.str(`   <FileReference path="/`, gen.route(day), "\"/>\n  </WorkoutRoute>\n")
	gen.str(" </Workout>\n")
	gen.flush()
}

// route returns the name of the route file of a day's workout in the archive.
func (gen *generator) route(day int) string {
	return "workout-routes/route_" + gen.dates[day][:10] + "_5.31pm.gpx"
}

func (gen *generator) clinical(_, day int) {
	if day%clinicalDays != clinicalDays-1 {
		return
	}
	gen.buf = fmt.Appendf(gen.buf, " <ClinicalRecord type=\"Observation\" identifier=\"obs-%d\" sourceName=\"Example Health\" sourceURL=\"https://fhir.example.org/R4/Observation/obs-%d\" fhirVersion=\"4.0.1\" receivedDate=\"", day, day)
	gen.date(day, 10*3600)
	gen.str(`" resourceFilePath="/`, gen.clinicalFile(day), "\"/>\n")
	gen.flush()
}

func (gen *generator) clinicalFile(day int) string {
	return fmt.Sprintf("clinical-records/Observation-00000000-0000-4000-8000-%012X.json", day)
}

func (gen *generator) summaries(series, day int) {
	r := gen.rng(series, day)
	gen.buf = fmt.Appendf(gen.buf, " <ActivitySummary dateComponents=\"%s\" activeEnergyBurned=\"%.3f\" activeEnergyBurnedGoal=\"500\" activeEnergyBurnedUnit=\"kcal\" appleMoveTime=\"0\" appleMoveTimeGoal=\"0\" appleExerciseTime=\"%d\" appleExerciseTimeGoal=\"30\" appleStandHours=\"%d\" appleStandHoursGoal=\"12\"/>\n",
		gen.dates[day][:10], 380+260*r.Float64(), 15+r.IntN(50), 8+r.IntN(8))
	gen.flush()
}
