// Package apple decodes the data that leaves an iPhone: the export of the Health
// app (export.zip, export.xml, ECG CSV) and the JSON of Health Auto Export (HAE). It
// streams in constant memory and emits Samples. It does not depend on FHIR, opens no
// file or connection, and never copies a name from an archive.
//
// # Formats
//
//	export.zip          the archive of the Health app; needs random access
//	export.xml          its main document, one <HealthData> element
//	ecg.csv             one electrocardiogram of an export
//	health-auto-export  JSON of Health Auto Export, version 1 or 2
//
// # Example
//
// The Record
//
//	<Record type="HKQuantityTypeIdentifierHeartRate" sourceName="Siv’s Apple Watch" unit="count/min"
//	 startDate="2026-01-05 08:00:00 +0200" endDate="2026-01-05 08:00:00 +0200" value="61">
//	 <MetadataEntry key="HKMetadataKeyHeartRateMotionContext" value="1"/>
//	</Record>
//
// becomes the Sample
//
//	Metric      HKQuantityTypeIdentifierHeartRate
//	Channel     export.xml
//	Start       2026-01-05T08:00:00+02:00 (ZoneInstant)
//	Value       61 count/min
//	Components  motionContext: 1
//	Source      Siv’s Apple Watch
//
// ExampleNew in example_test.go runs it.
//
// # Metrics
//
// Channel "export.xml" (also for export.zip). Metric is Apple's type string. Types
// without a row in the metric table become Samples too; mapping decides what to do
// with them. Percent is a fraction (0.97 with unit "%").
//
//	Metric                                    value            unit        components
//	HKQuantityTypeIdentifier<Name>            Number           as written  see "Metadata"
//	HKCategoryTypeIdentifier<Name>            Code enum name   -           see "Metadata"; without a value
//	                                                                       None (an event)
//	HKDataTypeSleepDurationGoal               Number           hr          -
//	HKCorrelationTypeIdentifierBloodPressure  None             mmHg        systolic, diastolic (Number)
//	HKWorkoutTypeIdentifier                   Code activity    -           see "Workouts"; the activity is
//	                                                                       HKWorkoutActivityType<Name>
//	ActivitySummary (Day)                     None             -           activeEnergyBurned,
//	                                                                       activeEnergyBurnedGoal (kcal, kJ, Cal),
//	                                                                       appleMoveTime, appleMoveTimeGoal,
//	                                                                       appleExerciseTime,
//	                                                                       appleExerciseTimeGoal (min),
//	                                                                       appleStandHours,
//	                                                                       appleStandHoursGoal (count)
//
// HKQuantityTypeIdentifierBloodPressureSystolic and ...Diastolic are separate Metrics
// only if the other half is missing.
//
// Channel "ecg.csv":
//
//	HKDataTypeIdentifierElectrocardiogram     Series           uV (mV)     classification, symptoms, lead (Text),
//	                                                                       samplingFrequency (Number, Hz)
//
// Channel "hae" (Health Auto Export). Metric is the name in snake_case as sent.
// Percent is 0 to 100.
//
//	<name> (step_count, vo2max, ...)          Number qty       units       -
//	heart_rate and others with Min/Avg/Max    Number Avg       units       min, max (Number) where they differ
//	                                                                       from Avg
//	heart_rate.average                        Number Avg       units       min, max; see "Aggregation"
//	blood_pressure                            None             units       systolic, diastolic (Number)
//	blood_glucose                             Number           units       mealTime (Code: Before Meal, After
//	                                                                       Meal, Unspecified)
//	insulin_delivery                          Number           units       reason (Code: Bolus, Basal)
//	sexual_activity                           None             count       unspecified, protectionUsed,
//	                                                                       protectionNotUsed (Number)
//	handwashing, toothbrushing                Number           units       value (Code: Complete, Incomplete)
//	sleep_analysis (one segment)              Code             -           - (the code is Awake, Asleep, In Bed,
//	                                                                       Core, REM, Deep or Unspecified)
//	night (aggregated sleep_analysis)         Number asleep    hr          see "Nights", unit hr
//	HKWorkoutTypeIdentifier                   Code name        -           see "Workouts"; "Outdoor Run"
//	HKDataTypeIdentifierElectrocardiogram     Series           uV          classification, severity (Text),
//	                                                                       averageHeartRate (Number, count/min),
//	                                                                       samplingFrequency (Number, Hz)
//	heartRateNotification                     None             -           threshold (Number, count/min),
//	                                                                       heartRate (Interval, as sent)
//	stateOfMind                               Number valence   -           kind (Code), labels, associations
//	                                                                       (Text, joined by commas),
//	                                                                       valenceClassification (Number)
//	symptom                                   Code name        -           severity (Code)
//	medication                                Text name        -           status, form (Code), dosage (Text)
//	cycleTracking                             Code name        -           value (Code)
//
// # Metadata
//
// MetadataEntry elements, with or without Apple's prefix, become components:
// motionContext (Code 0 not set, 1 sedentary, 2 active), mealTime (Code 1 before, 2
// after), threshold (Number with unit), insulinReason (Code 1 basal, 2 bolus),
// sensorLocation (Code), barometricPressure (Number, kPa). HKVO2MaxTestType becomes
// Method: maxExercise, predictionSubMaxExercise, predictionNonExercise or
// predictionStepTest.
//
// # Workouts
//
// Components (Number, unit as sent; Boolean for indoor): duration (without pauses),
// activeEnergy, basalEnergy, distance, steps, flights, swimmingStrokes,
// heartRateAverage, heartRateMinimum, heartRateMaximum, averageMETs,
// elevationAscended, elevationDescended, weatherTemperature, weatherHumidity (0 to
// 100), indoor. A workout without an end lasts as long as its duration, an
// electrocardiogram as long as its voltages.
//
// # Nights
//
// A payload need not hold a whole night. Therefore sleep segments are emitted as they
// are, and ingest assembles nights from all stored segments.
//
// Components of HAE's aggregated nights (Number): deep, core, rem, unspecified (asleep
// without a stage), awake, inBed. The value is the total time asleep; a source that
// measures only the time in bed has no value.
//
// # Values that were not measured
//
// Health Auto Export writes 0 for values that a source does not measure. The decoder
// leaves out such members of a night (deep, rem, core, awake, asleep, inBed) by the
// rules of nightParts; the metric table handles the other metrics. A component that is
// not a number is left out and reported as a Reject with Component; the rest of the
// item is a Sample.
//
// # Aggregation
//
// The body of Health Auto Export does not state the aggregation of its rows. The
// automation sends it in the HTTP header automation-aggregation, which Input.Delivery
// holds. With "Days", a row at midnight is a Day. With "Minutes", "Hours", "Weeks",
// "Months" and "Years", a row gets the End of its interval. Intervals that are not over
// are Preliminary. Without the header, a metric is aggregated by day if it has rows at
// several midnights and at no other time. Rows at a single midnight are days if other
// metrics of the payload are aggregated by day and no metric has rows at another time;
// otherwise they are instants.
//
// A mean of heart rates must not be read as a spot value. It is named
// heart_rate.average if the header says that rows are aggregated, and, without the
// header, if Min, Avg and Max differ. Other means keep their name and get the Method
// "average" if the header says that rows are aggregated.
//
// # Blood pressure
//
// Apple writes each half at the top level and again inside the Correlation. Both ways
// give one sample: halves are paired by start and source, in any order, and a repeated
// half is counted as Drop(duplicate). At most 65,536 unpaired halves are kept; beyond
// that the oldest is emitted alone.
//
// # Time zones
//
// In an export all printed offsets are those of the exporting phone, while the instants
// are right. Zone is therefore ZoneInstant, or ZoneStated with the offset of HKTimeZone
// where an element has one. HAE prints the local offsets: ZoneStated.
//
// # Identity and revision
//
// Records of an export have the natural key with their value (KeyValue). If metadata
// has an id, VendorID is sync/SOURCE/ID (HKMetadataKeySyncIdentifier) or
// uuid/SOURCE/ID/START (HKMetadataKeyExternalUUID); SOURCE is a hash of the source's
// name. An ECG file is ecg/START/HASH. HAE's aggregated nights are
// night/SOURCE/DATE/hHOUR with the date of waking and the hour of the start; ingest
// finds the night that one restates by their common time. HAE names the source but not
// the device, so its samples are Coarse and ingest finds their counterparts in an
// export.
//
// The Revision of a sample with a VendorID is HKMetadataKeySyncVersion or else
// ExportDate, which also orders the ActivitySummary of a day in several exports. The
// ActivitySummary of the day of the export is Preliminary.
//
// # Speed and memory
//
// A Record that equals an earlier one except for its dates and its value is read with a
// template (template.go), nearly as fast as the bare scan and without allocation. The
// scanner reads all others. Receiving and inflating run on a goroutine, 1 MiB ahead of
// the decoder. Only one ActivitySummary per day and the unpaired halves of blood
// pressures are kept until the end of a document.
//
// # Left out
//
// Counted as Drop(ignored): Me, ExportDate, workout routes and events, the beats of
// heart rate variability (an irregular series), clinical records, vision prescriptions,
// export_cda.xml. Audiograms are Reject(unmapped). The name and the birth date in an
// ECG file and in Me are never copied.
package apple
