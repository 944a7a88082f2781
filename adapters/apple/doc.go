// Package apple decodes the data that leaves an iPhone: the export of the Health
// app (export.zip, export.xml, ECG CSV), the JSON of Health Auto Export (HAE) and of
// the Open Wearables SDK, Observations that HealthKitOnFHIR or Grove made on the
// phone, and the batches of our companion app. It streams in constant memory and emits
// Samples. It does not depend on package fhir, opens no file or connection, and never
// copies a name from an archive.
//
// # Formats
//
//	export.zip          the archive of the Health app; needs random access
//	export.xml          its main document, one <HealthData> element
//	ecg.csv             one electrocardiogram of an export
//	health-auto-export  JSON of Health Auto Export, version 1 or 2
//	companion           one batch of the companion app, see "Companion format"
//	healthkit-fhir      FHIR Observations: single resources, arrays, NDJSON, Bundles
//	open-wearables      one sync request of the Open Wearables iOS SDK
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
//	HKDataTypeIdentifierAudiogram             None             dBHL        left<F>Hz, right<F>Hz (Number),
//	                                                                       ...Masked (Boolean, if true); F is
//	                                                                       the frequency
//	ActivitySummary (Day)                     None             -           activeEnergyBurned,
//	                                                                       activeEnergyBurnedGoal (kcal, kJ, Cal),
//	                                                                       appleMoveTime, appleMoveTimeGoal,
//	                                                                       appleExerciseTime,
//	                                                                       appleExerciseTimeGoal (min),
//	                                                                       appleStandHours,
//	                                                                       appleStandHoursGoal (count)
//
// HKQuantityTypeIdentifierBloodPressureSystolic and ...Diastolic are separate Metrics
// only if the other half is missing. The value HKCategoryValueNotApplicable, which some
// exports write and others omit, counts as no value.
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
//	HKCategoryTypeIdentifier<Name>            Code enum name   -           - (symptoms and entries of the cycle
//	                                                                       with a name that HealthKit has)
//	symptom (any other)                       Code name        -           severity (Code)
//	medication                                Text name        -           status, form (Code), dosage (Text)
//	cycleTracking (any other)                 Code name        -           value (Code)
//
// Channels "companion", "healthkit-fhir", "grove" and "open-wearables". Metric is
// Apple's type string, and categories have the names that an export writes, whether the
// channel has their integers, names or displays. Components as in an export.
//
//	HKQuantityTypeIdentifier<Name>            Number           see below   see "Metadata"
//	HKCategoryTypeIdentifier<Name>            Code enum name   -           see "Metadata"
//	HKCorrelationTypeIdentifierBloodPressure  None             as sent     systolic, diastolic (Number)
//	HKWorkoutTypeIdentifier                   Code activity    -           see "Workouts"
//	HKDataTypeIdentifierElectrocardiogram     Series           uV (mV)     as in channel "hae", symptoms (Text)
//	HKDataTypeIdentifierAudiogram             None             dBHL        as in an export
//	HKDataTypeStateOfMind                     Number valence   -           as stateOfMind in channel "hae"
//	HKScoredAssessmentTypeIdentifier<Name>    Number           score       - (PHQ9, GAD7)
//	HKMedicationDoseEventTypeIdentifier...    Text name        -           status, form, rxnorm (Code), dose
//	                                                                       (Number)
//
// Percentages are fractions in "healthkit-fhir" and percent in "grove". In
// "open-wearables" they are fractions except for the oxygen saturation. In "companion"
// the unit says which: fraction or percent.
//
// # Metadata
//
// MetadataEntry elements, with or without Apple's prefix, become components:
// motionContext (Code 0 not set, 1 sedentary, 2 active), mealTime (Code 1 before, 2
// after), threshold (Number with unit), insulinReason (Code 1 basal, 2 bolus),
// sensorLocation, testType, estimationType, placementSide, userMotionContext,
// waterSalinity (Code), barometricPressure (Number, kPa), exposureDuration, vo2Max,
// activityDuration, maximumHeartRate (Number with unit), cycleStart, protectionUsed,
// clampedToLowerBound, clampedToUpperBound (Boolean). HKVO2MaxTestType becomes
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
// Routes are summarized as routeDistance, routeAscent, routeDescent (m) and
// routeDuration (s). Where the workout was is a sample of its own, workout.route, with the
// components start, end, southWest and northEast, each with Latitude and Longitude (deg):
// the ends of all routes of the workout and the rectangle around them. It shows where a
// person lives, so mapping gives it the category location, which only a consent that
// names it covers. No other location is kept, because the points of a route have no
// constant period, as SampledData requires. The id is that of the workout with /route,
// and deleting the workout deletes it. The
// distance is the sum of great circles, and changes of altitude count from 2 m on.
// Locations come from a GPX file of the archive, an export before iOS 13, or HAE. The
// summaries are Derived, because an export.xml without its archive lacks them.
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
// where an element has one. The same holds for FHIR Observations: their offsets may be
// those of the phone when it made them. HAE prints the local offsets: ZoneStated. Open
// Wearables prints UTC: ZoneInstant without a zoneOffset. The companion format prints
// the wearer's offset, or UTC if it does not know it.
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
// Samples of "companion", "healthkit-fhir", "grove" and "open-wearables" have the UUID
// of HealthKit, in upper case, as VendorID with SharedID, so that these channels
// coincide and ingest joins them with exports and HAE, which lack it. Their Revision is
// the time when the phone made the statement: created, issued or syncTimestamp. The
// blood pressures of Open Wearables have the natural key, because the SDK takes them
// apart and states only the UUIDs of the halves.
//
// # Companion format
//
// The companion app, or any app of a third party, posts what it reads from HealthKit to
// /ingest/apple/companion, as JSON with Content-Encoding zstd, gzip or identity.
// companion.schema.json (CompanionSchema) describes one batch:
//
//	{"format": "pulsegate-companion", "version": 1, "created": "2026-01-06T08:00:00+01:00",
//	 "installation": "CCCCCCCC-...", "sequence": 12, "anchor": "YW5jaG9y",
//	 "samples": [
//	  {"uuid": "AAAAAAAA-...", "type": "HKQuantityTypeIdentifierHeartRate",
//	   "start": "2026-01-05T08:00:01.250+01:00", "end": "2026-01-05T08:00:01.250+01:00",
//	   "timeZone": "Europe/Stockholm", "value": 64, "unit": "count/min",
//	   "source": {"name": "Siv's Apple Watch", "bundle": "com.apple.health.A1", "version": "11.1"},
//	   "device": {"name": "Apple Watch", "manufacturer": "Apple Inc.", "model": "Watch",
//	    "hardware": "Watch7,2", "software": "11.1"},
//	   "metadata": {"HKMetadataKeyHeartRateMotionContext": 1}}],
//	 "deleted": [{"uuid": "BBBBBBBB-...", "type": "HKQuantityTypeIdentifierHeartRate"}]}
//
// A batch is the result of one HKAnchoredObjectQuery for any types: the samples with
// their uuid and sampleType.identifier, and the HKDeletedObjects with the type of the
// query. Rules for the app:
//
//   - Store the batch, send it, and discard it after an answer with a status of 2xx.
//     Keep the anchor of the query with it, so that the next query continues there. The
//     server ignores anchor, installation and sequence; they are for the app and for
//     people who look for a gap.
//   - After any other answer, or none, send the same batch again, at any later time and
//     in any order. A repeated batch changes nothing. A deletion that arrives before its
//     sample, or a batch that arrives after a later one, is put in order by created.
//   - If the anchor is lost, query from the beginning. Samples that the server has
//     change nothing.
//   - created is the time of the query on the phone. A batch that is more than 48 hours
//     ahead is refused, and the app should correct its clock.
//   - start and end have the wearer's offset at that time, or "Z" if it is unknown, with
//     the fraction of a second that HealthKit has. timeZone is HKTimeZone, or the zone of
//     the phone if it recorded the sample itself.
//   - The unit is HKUnit.unitString, as in "count/min". A percentage has the unit
//     "fraction" (0.97, the result of doubleValue(for: .percent())) or "percent" (97); "%"
//     is refused.
//   - value is the integer of a category, such as 3 for AsleepCore, and the score of a
//     PHQ-9 or GAD-7.
//   - Send blood pressures as HKCorrelationTypeIdentifierBloodPressure with systolic and
//     diastolic. Halves and food correlations are left out.
//   - Send a workout with the activity as integer, its statistics, and its routes as
//     summaries. Their ends and bounds ("location") may be sent if the patient has agreed
//     to that; the server drops them if it has no such consent. Other locations must not
//     be sent.
//   - Metadata values are strings, numbers (enumerations as integers), booleans, or
//     objects with value and unit for quantities.
//   - The members before samples and deleted should be format, version and created. If
//     they follow, samples and deleted are limited to 16 MiB each. One sample is limited to
//     16 MiB.
//
// A sample that cannot be read goes to quarantine, and the rest of its batch is stored.
//
// # FHIR Observations made on the phone
//
// Only the sample that an Observation stands for is read: its type from the coding of
// HealthKit, or from LOINC for blood pressures and workouts, which have no other, its
// times, value and the extensions with device, source and metadata. Mapping makes a new
// Observation of it with its own codes, category and units. That repairs fractions as
// percent, [lb_av], [in_i], km/h and units that are not UCUM, LP203183-1, 59408-5
// without 2708-6, and missing categories and systems. Repaired here are the period of
// an electrocardiogram in seconds, its parts of ten seconds, its classification as a
// string, and a start after the end. Subject and performer are not read: the request
// names the patient. An Observation without the extensions is Coarse. One with the
// status entered-in-error is a deletion.
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
// Counted as Drop(ignored): Me, ExportDate, the locations of workouts, their events,
// the beats of heart rate variability (an irregular series), clinical records, vision
// prescriptions, export_cda.xml. LeftOut lists the types of HealthKit that no format
// reads, with the reasons. The name and the birth date in an ECG file and in Me are
// never copied.
package apple
