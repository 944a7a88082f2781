// Package apple reads what leaves an iPhone: the Health app's export
// (export.zip, export.xml, ECG CSV) and the JSON of Health Auto Export. It
// streams in constant memory and hands out Samples. It knows no FHIR, opens
// no file and no connection, and writes no name from an archive anywhere.
//
// # Metrics
//
// Channel "export.xml" (also for export.zip). Metric is Apple's type string;
// known and unknown types alike become Samples, and mapping decides. Percent
// is a fraction (0.97 with unit "%").
//
//	Metric                                    value            unit         components
//	HKQuantityTypeIdentifier<Name>            Number           as written   see "metadata"
//	HKCategoryTypeIdentifier<Name>            Code enum name   -            see "metadata"; no value at all: Value None (an event)
//	HKDataTypeSleepDurationGoal               Number           hr           -
//	HKCorrelationTypeIdentifierBloodPressure  None             mmHg         systolic, diastolic (Number)
//	HKWorkoutTypeIdentifier                   Code activity    -            see "workout"; HKWorkoutActivityType<Name>
//	ActivitySummary (Day)                     None             -            activeEnergyBurned, activeEnergyBurnedGoal (kcal, kJ, Cal),
//	                                                                        appleMoveTime, appleMoveTimeGoal, appleExerciseTime,
//	                                                                        appleExerciseTimeGoal (min), appleStandHours, appleStandHoursGoal (count)
//
// HKQuantityTypeIdentifierBloodPressureSystolic and ...Diastolic appear as
// Metrics of their own only where the other half is missing.
//
// Channel "ecg.csv":
//
//	HKDataTypeIdentifierElectrocardiogram     Series           uV (mV)      classification, symptoms, lead (Text), samplingFrequency (Number, Hz)
//
// Channel "hae" (Health Auto Export). Metric is the name in snake_case as
// sent. Percent is 0 to 100.
//
//	<name> (step_count, vo2max, ...)          Number qty       units        -
//	heart_rate and all with Min/Avg/Max       Number Avg       units        min, max (Number), only where they differ from Avg
//	heart_rate.average                        Number Avg       units        min, max; see "Aggregation"
//	blood_pressure                            None             units        systolic, diastolic (Number)
//	blood_glucose                             Number           units        mealTime (Code: Before Meal, After Meal, Unspecified)
//	insulin_delivery                          Number           units        reason (Code: Bolus, Basal)
//	sexual_activity                           None             count        unspecified, protectionUsed, protectionNotUsed (Number)
//	handwashing, toothbrushing                Number           units        value (Code: Complete, Incomplete)
//	sleep_analysis (one segment)              Code             -            - (Awake, Asleep, In Bed, Core, REM, Deep, Unspecified)
//	night (aggregated sleep_analysis)         Number asleep    hr           see "night", unit hr
//	HKWorkoutTypeIdentifier                   Code name        -            see "workout" ("Outdoor Run")
//	HKDataTypeIdentifierElectrocardiogram     Series           uV           classification, severity (Text), averageHeartRate (Number, count/min), samplingFrequency (Number, Hz)
//	heartRateNotification                     None             -            threshold (Number, count/min), heartRate (Interval, as sent)
//	stateOfMind                               Number valence   -            kind (Code), labels, associations (Text, comma-joined), valenceClassification (Number)
//	symptom                                   Code name        -            severity (Code)
//	medication                                Text name        -            status, form (Code), dosage (Text)
//	cycleTracking                             Code name        -            value (Code)
//
// # Aggregation
//
// The body does not tell the aggregation of a row of Health Auto Export. The
// automation sends it in its HTTP header automation-aggregation, which
// Input.Delivery holds: with "Days" a row at midnight is a Day; with
// "Minutes", "Hours", "Weeks", "Months" and "Years" a row gets the End of its
// interval; what is not over yet is Preliminary. Without the header a metric
// whose rows lie at several midnights, and at no other time, is aggregated by
// day. Rows of one midnight only are days if other metrics of the payload are
// and none has rows at another time; otherwise they stay instants.
//
// A mean of heart rates must not pass for a spot reading: it is named
// heart_rate.average where the header says that rows are aggregated, and, if
// the header says nothing, where Min, Avg and Max differ. Other means keep
// their name and have the Method "average" where the header says so.
//
// # Not measured
//
// Health Auto Export writes 0 for what a source does not measure; a night's
// deep, rem, core, awake, asleep and inBed are left out by the rules of
// nightParts, the rest by the metric table.
//
// Components "metadata" (from MetadataEntry, with or without Apple's prefix):
// motionContext (Code 0 not set, 1 sedentary, 2 active), mealTime (Code 1
// before, 2 after), threshold (Number with unit), insulinReason (Code 1
// basal, 2 bolus), sensorLocation (Code), barometricPressure (Number, kPa).
// HKVO2MaxTestType becomes Method: maxExercise, predictionSubMaxExercise,
// predictionNonExercise, predictionStepTest.
//
// Components "workout" (Number, unit as sent; Boolean for indoor): duration
// (without pauses), activeEnergy, basalEnergy, distance, steps, flights,
// swimmingStrokes, heartRateAverage, heartRateMinimum, heartRateMaximum,
// averageMETs, elevationAscended, elevationDescended, weatherTemperature,
// weatherHumidity (0 to 100), indoor.
//
// Components "night" (Number): deep, core, rem, unspecified (asleep without a
// stage), awake, inBed. The value is the whole time asleep; a source that
// only knows time in bed has no value. A component that is no number is left
// out: it is a Reject with Component, and the rest is a Sample.
//
// A workout without an end ends after its duration, an electrocardiogram after
// its voltages. The ActivitySummary of the day of the export is Preliminary.
//
// # Night
//
// A payload need not hold a whole night, so segments of sleep are handed out
// as they are, and ingest makes nights of all that are stored. The VendorID of
// an aggregated night of Health Auto Export is night/HASH(source)/DATE/hHOUR,
// DATE being the day of waking and HOUR that of its start; ingest finds the
// night that it restates by the time that both cover.
//
// # Channels
//
// Health Auto Export gives a source by its name only: its samples are Coarse,
// and ingest finds which of an export's they are.
//
// # Revision
//
// ExportDate orders what several exports state of one day or of one sample
// with an id of its own; HKMetadataKeySyncVersion comes before it.
//
// # Blood pressure
//
// Apple writes each half at the top level and again inside the Correlation.
// Both ways give one sample: halves are paired by start and source, whichever
// comes first; the second sighting is Drop(duplicate). At most 65,536 open
// halves are held, the oldest is then handed out alone.
//
// # Time
//
// Instants are right, printed offsets are the exporting phone's: Zone is
// ZoneInstant, or ZoneStated with HKTimeZone's offset where that is given. HAE
// prints real local offsets: ZoneStated.
//
// # Speed and memory
//
// A Record like an earlier one is read by comparing bytes (template.go), which
// runs at nearly the speed of a bare scan and allocates nothing; what is
// written otherwise goes through the scanner. Receiving and inflating go on on a
// goroutine of its own, a MiB ahead of the decoder. Held until the end are
// only what needs it: one ActivitySummary a day, open halves of blood pressures.
//
// # Left out, counted as Drop(ignored)
//
// Me, ExportDate, workout routes and events, HRV beat lists (irregular, not a
// regular series), clinical records, vision prescriptions, export_cda.xml.
// Audiograms are Reject(unmapped). The name and the birth date in an ECG file
// and in Me are never copied.
package apple
