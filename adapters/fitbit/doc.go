// Package fitbit decodes the data of Fitbit wearers: pages of the Google Health API
// v4, data exports, and stored payloads of the ended Fitbit Web API. It streams one item
// at a time and emits Samples. It does not depend on FHIR, opens no connection and keeps
// no state.
//
// # Formats
//
// The format "google-health" covers the bodies of list, reconcile, rollUp, dailyRollUp,
// pairedDevices, settings, profile, identity and irnProfile. A payload is one body,
// several consecutive bodies (NDJSON), or an array of bodies.
//
// The type of an item is its object member other than name, dataPointName, dataSource
// and the times: "dailyRestingHeartRate" is the type "daily-resting-heart-rate". Items
// without such a member get the type from Input.Hint, from the format
// "google-health:steps", or from a file name such as dailyRollUp_steps.json.
//
// An error body (google.rpc.Status) is a PayloadError that states its reason. The body
// {} and pages without points are valid.
//
// The formats "takeout" and "fitbit-web-api" are described under "Data exports" and
// "Fitbit Web API" below.
//
// # Example
//
// The item of list
//
//	{"dataSource": {"platform": "FITBIT", "device": {"displayName": "Charge 6", "formFactor": "FITNESS_BAND"}},
//	 "heartRate": {"sampleTime": {"physicalTime": "2026-01-05T06:00:00Z", "utcOffset": "7200s"},
//	  "beatsPerMinute": "61", "metadata": {"motionContext": "SEDENTARY"}}}
//
// becomes the Sample
//
//	Metric      heart-rate
//	Channel     v4
//	Start       2026-01-05T08:00:00+02:00 (ZoneStated)
//	Value       61 bpm
//	Components  motionContext: SEDENTARY
//	Device      Charge 6 by Fitbit, a band
//	Source      FITBIT
//
// ExampleNew in example_test.go runs it.
//
// # Metrics of list and reconcile
//
// The channel is "v4". Codes are the vendor's enum names, including unknown ones.
// Component names are the vendor's member names. The column "time" is i for an instant,
// p for a period and d for a Day.
//
//	Metric                               time value             unit        components
//	heart-rate                           i    Number            bpm         motionContext, sensorLocation (Code)
//	heart-rate-variability.rmssd         i    Number            ms          lowFrequencyPower,
//	                                                                        highFrequencyPower (Number, ms2)
//	heart-rate-variability.sdnn          i    Number            ms          -
//	daily-heart-rate-variability         d    Number RMSSD      ms          deepSleepRootMeanSquareOfSuccessive-
//	                                                                        DifferencesMilliseconds (ms), entropy (no
//	                                                                        unit), nonRemHeartRateBeatsPerMinute (bpm)
//	daily-resting-heart-rate             d    Number            bpm         - (Method: WITH_SLEEP,
//	                                                                        ONLY_WITH_AWAKE_DATA)
//	daily-heart-rate-zones               d    None              -           LIGHT, MODERATE, VIGOROUS, PEAK
//	                                                                        (Interval, bpm)
//	oxygen-saturation                    i    Number            %           -
//	daily-oxygen-saturation              d    Number average    %           lowerBoundPercentage,
//	                                                                        upperBoundPercentage (confidence bounds,
//	                                                                        not extremes),
//	                                                                        standardDeviationPercentage (%)
//	daily-respiratory-rate               d    Number            breaths/min -
//	respiratory-rate-sleep-summary       i    Number full sleep breaths/min deepSleepStats, lightSleepStats,
//	                                                                        remSleepStats, standardDeviation
//	                                                                        (breaths/min), signalToNoise (no unit)
//	daily-sleep-temperature-derivations  d    Number nightly    Cel         baselineTemperatureCelsius (Cel),
//	                                                                        deviation (K; nightly minus baseline,
//	                                                                        computed exactly by the adapter),
//	                                                                        relativeNightlyStddev30dCelsius (K)
//	core-body-temperature                i    Number            Cel         measurementLocation (Code)
//	skin-temperature                     i    Number            Cel         measurementLocation (Code); points of
//	                                                                        core-body-temperature with the location
//	                                                                        WRIST, FINGER or TOE
//	vo2-max, run-vo2-max                 i    Number            mL/kg/min   - (Method: measurementMethod)
//	daily-vo2-max                        d    Number            mL/kg/min   cardioFitnessLevel (Code), estimated
//	                                                                        (Boolean), vo2MaxCovariance (no unit);
//	                                                                        Method "estimated"
//	steps, floors                        p    Number            count       -
//	distance, altitude                   p    Number            mm          - (altitude may be negative)
//	active-energy-burned                 p    Number            kcal        -
//	basal-energy-burned                  p    Number            kcal        -
//	active-zone-minutes.ZONE             p    Number, weighted  min         - (ZONE: fat-burn, cardio, peak, ...)
//	active-minutes                       p    None              -           LIGHT, MODERATE, VIGOROUS, ... (min)
//	activity-level                       p    Code              -           -
//	time-in-heart-rate-zone              p    Code              -           -
//	sedentary-period                     p    Number            s           -
//	swim-lengths-data                    p    Number strokes    count       swimStrokeType (Code)
//	weight                               i    Number            g           -
//	body-fat                             i    Number            %           -
//	height                               i    Number            mm          -
//	blood-glucose.SPECIMEN               i    Number            mg/dL       measurementSource, measurementTiming,
//	                                                                        mealType (Code)
//	hydration-log                        p    Number            mL          -
//	exercise                             p    Code exerciseType -           activeDuration, lightTime, moderateTime,
//	                                                                        vigorousTime, peakTime (s), caloriesKcal
//	                                                                        (kcal), distanceMillimeters,
//	                                                                        elevationGainMillimeters (mm), steps
//	                                                                        (count), averageHeartRateBeatsPerMinute
//	                                                                        (bpm), activeZoneMinutes (min),
//	                                                                        averagePaceSecondsPerMeter (s/m),
//	                                                                        averageSpeedMillimetersPerSecond (mm/s),
//	                                                                        runVo2Max (mL/kg/min)
//	sleep                                p    Number asleep     min         deep, light, rem, awake, restless,
//	                                                                        minutesInSleepPeriod,
//	                                                                        minutesToFallAsleep, minutesAfterWakeUp
//	                                                                        (min), type (Code CLASSIC or STAGES), nap
//	                                                                        (Boolean), stages (Series)
//	electrocardiogram                    p    Series            mV          resultClassification (Code),
//	                                                                        beatsPerMinuteAvg (bpm), leadNumber (no
//	                                                                        unit), samplingFrequencyHertz (Hz)
//	irregular-rhythm-notification        p    None              -           positiveWindows, windows (count)
//	symptoms, moods, moods.valence       i    Code              -           -
//	menstrual-period                     p    None              -           -
//	ovulation-test                       i    Code result       -           -
//	nutrition-log                        p    Number energy     kcal        energyFromFat (kcal), totalCarbohydrate,
//	                                                                        totalFat, PROTEIN, SODIUM, ... (g),
//	                                                                        mealType (Code)
//	skin-temperature-sensors             i    Number            Cel         measurementLocation, measurementState
//	                                                                        (Code); v4beta only
//	paired-device                        i    Number battery    %           batteryStatus (Code); None without a
//	                                                                        battery level
//
// SPECIMEN is interstitial, capillary, whole-blood, plasma, serum, tears or unspecified.
// If a point lacks the specimen, its measurementSource decides: continuous monitoring is
// interstitial, self monitoring is capillary. A paired-device has the id of the pairing
// as VendorID and Device.Serial, never the MAC address.
//
// Every symptom and every mood of a point is a sample of its own: its code is added to
// the VendorID, or is part of the natural key. Notes, the names of foods and the catalog
// of foods (food, food-measurement-unit) are left out. A sensor inside the device
// measures its surroundings and is left out.
//
// # Metrics of roll-ups
//
// The channel is "v4-rollup". Metric is the type with "/day" for dailyRollUp (Day) or
// "/rollup" for rollUp (a period; ZoneInstant because windows have no offset).
//
//	steps, floors                         Number countSum              count      -
//	swim-lengths-data                     Number strokeCountSum        count      -
//	distance                              Number millimetersSum        mm         -
//	altitude                              Number gainMillimetersSum    mm         -
//	active-energy-burned, total-calories  Number kcalSum               kcal       -
//	heart-rate                            Number beatsPerMinuteAvg     bpm        beatsPerMinuteMin,
//	                                                                              beatsPerMinuteMax (bpm)
//	weight, body-fat, blood-glucose       Number average               g, %,      -
//	                                                                   mg/dL
//	core-body-temperature                 Number temperatureCelsiusAvg Cel        temperatureCelsiusMin,
//	                                                                              temperatureCelsiusMax (Cel)
//	run-vo2-max                           Number rateAvg               mL/kg/min  rateMin, rateMax (mL/kg/min)
//	sedentary-period                      Number durationSum           s          -
//	hydration-log                         Number millilitersSum        mL         -
//	nutrition-log                         Number kcalSum               kcal       as in list
//	active-zone-minutes                   None                         -          sumInFatBurnHeartZone,
//	                                                                              sumInCardioHeartZone,
//	                                                                              sumInPeakHeartZone (min)
//	active-minutes                        None                         -          LIGHT, MODERATE, VIGOROUS, ... (min)
//	activity-level                        None                         -          SEDENTARY, ... (s)
//	time-in-heart-rate-zone               None                         -          LIGHT, MODERATE, VIGOROUS, PEAK (s)
//	calories-in-heart-rate-zone           None                         -          LIGHT, MODERATE, VIGOROUS, PEAK
//	                                                                              (kcal)
//	heart-rate-variability-personal-range None                         -          range (Interval, ms)
//	resting-heart-rate-personal-range     None                         -          range (Interval, bpm)
//
// All other types are Rejects with the reason "unmapped".
//
// # Data exports
//
// The format "takeout" reads the archive of Google Takeout or of Fitbit's own export, in
// parts or as a whole, and single files of it by their names. The channel is "takeout".
// The archive holds the data twice: the legacy tree (Global Export Data and the folders
// by theme) and the tree of Google (folders ending in _GoogleData). For each metric, the
// files of the tree with the later date in a file name are read, or else those of the
// legacy tree. A file without a date counts as the latest. The column "clock" is the
// meaning of times.
//
//	file                                         clock       metrics
//	heart_rate-D.json                            UTC         heart-rate (confidence 2 and 3)
//	steps-D.json, calories-D.json                UTC         steps, total-calories, one minute each
//	exercise-N.json                              UTC         exercise
//	sleep-D.json                                 local       sleep
//	weight-D.json                                local       weight, bmi, body-fat
//	resting_heart_rate-D.json                    local date  daily-resting-heart-rate
//	demographic_vo2_max-D.json                   local date  daily-vo2-max
//	time_in_heart_rate_zones-D.json              local date  heart-rate-zone-minutes/day
//	sedentary_minutes-D.json,                    local date  sedentary-minutes/day, lightly-active-minutes/day,
//	{lightly,moderately,very}_active_minutes-D               moderately-..., very-active-minutes/day
//	Daily SpO2 - D.csv                           local date  daily-oxygen-saturation
//	Minute SpO2 - D.csv                          UTC         oxygen-saturation
//	Daily Heart Rate Variability Summary - D.csv local date  daily-heart-rate-variability
//	Heart Rate Variability Details - D.csv       local       heart-rate-variability.rmssd (coverage from 0.7)
//	Daily Respiratory Rate Summary - D.csv       local date  daily-respiratory-rate
//	sleep_score.csv                              local date  sleep-score (composition_score,
//	                                                         revitalization_score, duration_score, restlessness)
//	TYPE.csv, TYPE_D.csv of the tree of Google   UTC         the type of the API with that name: heart_rate,
//	                                                         heart_rate_variability, oxygen_saturation, steps,
//	                                                         floors, distance, active_energy_burned, weight,
//	                                                         height, body_fat, daily_resting_heart_rate,
//	                                                         daily_heart_rate_variability,
//	                                                         daily_oxygen_saturation, daily_respiratory_rate
//
// Columns of Google's files have the names of the API's members in words ("beats per
// minute"). A column that does not state the unit of a distance, an energy or a mass is a
// Reject with the reason "bad-unit", once per file. So are distance-D.json and
// altitude-D.json, because their units are not documented. The temperature files and
// UserSleeps, UserSleepStages and UserExercises are Rejects with the reason "unmapped",
// because their columns are not documented, and so are files with unknown names. A file
// that is not well-formed is one Reject; the other files are still read.
//
// Metrics that only exports and the Fitbit Web API have:
//
//	total-calories               p  Number                kcal   - (a minute, resting energy included)
//	bmi                          i  Number                kg/m2  -
//	heart-rate-zone-minutes/day  d  None                  -      outOfRangeMinutes, fatBurnMinutes, cardioMinutes,
//	                                                             peakMinutes (min), ...Calories (kcal)
//	sedentary-minutes/day, ...   d  Number                min    -
//	sleep-score                  d  Number overall_score  score  see above
//
// The folders Your Profile and Social and the like are not read, except for the column
// timezone of Profile.csv. Files of places (gps_location, TCX) are left out. An
// exercise has the type of the API if its name is a common one, and else
// ACTIVITY_activityTypeId: names that the wearer wrote are not read. The estimated
// oxygen variation is not an oxygen saturation and is left out.
//
// # Fitbit Web API
//
// The format "fitbit-web-api" reads stored bodies of the API that ended in 2026, one or
// several (NDJSON), or an array of items. The channel is "web-api". Times are local.
//
//	member                                metrics
//	activities-heart                      daily-resting-heart-rate, heart-rate-zone-minutes/day
//	activities-{steps,floors,calories}    steps/day, floors/day, total-calories/day
//	activities-minutes...                 sedentary-minutes/day and so on
//	activities-active-zone-minutes        active-zone-minutes/day
//	activities-{heart,steps,floors,       heart-rate, steps, floors, total-calories; the day must precede the
//	calories}-intraday                    dataset, which has no dates
//	activities                            exercise
//	hrv                                   daily-heart-rate-variability, or heart-rate-variability.rmssd
//	br                                    daily-respiratory-rate, or respiratory-rate-sleep-summary of a day
//	dateTime with value.avg, or minutes   daily-oxygen-saturation (minPercentage, maxPercentage are extremes),
//	                                      or oxygen-saturation
//	tempSkin                              daily-sleep-temperature-derivations (deviation only)
//	tempCore                              core-body-temperature (Cel or degF by the value)
//	cardioScore                           daily-vo2-max, which may be an Interval
//	ecgReadings                           electrocardiogram (deviceModel, firmwareVersion)
//	alerts                                irregular-rhythm-notification (windows, deviceModel)
//	sleep                                 sleep
//	weight, fat                           weight, bmi, body-fat
//	id with mac                           paired-device, without the mac
//	user                                  none; its time zone applies to the bodies after it
//
// activities-distance and activities-elevation depend on the unit system of the request
// and are Rejects with the reason "bad-unit". Other lists are Rejects with the reason
// "unmapped". Answers with errors, tokens, notifications and pending nights are
// PayloadErrors.
//
// The unit of a weight depends on the request too. The body mass index of the entry tells
// it (massUnit); without one the weight is a Reject with the reason "bad-unit".
//
// # Sleep stages
//
// The component "stages" is a Series without a unit, with one digit per epoch from the
// start of the night: 1 DEEP, 2 LIGHT, 3 REM, 4 AWAKE, 5 ASLEEP (classic), 6 RESTLESS, E
// for unknown stages. (SampledData allows only numbers; Oura's digits 1 to 4 are the
// same.) It is present if the stages follow each other without a gap from the start to
// the end of the night on a grid of 1 minute or 30 s. Short awakenings overlap the
// stages and are not added. If a stagesSummary repeats a type, its first entry counts.
// Without a summary the minutes are summed from the stages.
//
// # Identity
//
// The updateTime of a point is its Revision. Points with a VendorID and types without an
// updateTime, and daily roll-ups, have the Revision 2. Values of days and entries with
// a log id from exports and the Fitbit Web API have the Revision 1, so that they never
// replace what the API states.
//
// A named point (sleep, exercise, weight, ...) has the last segment of name or
// dataPointName as its VendorID, so that a corrected night keeps its identity. Nights
// and exercises omit the physical device and the platform, which only list states, so
// that list and reconcile give the same sample. Spot measurements keep their source,
// because MANUAL is clinically relevant.
//
// A daily value has its date as VendorID, followed by the platform if it is not Fitbit.
//
// All other points have the natural key with their source: list separates sources that
// measure the same (a phone and a watch count the same steps). Points of reconcile name
// no source and are Coarse; ingest finds their counterparts of list.
//
// Exports and the Fitbit Web API give values of days the identity of the API. Their other
// samples do not know the device and are Coarse, with the log id as VendorID if there is
// one. Rows of the tree of Google name the device in the column "data source" and have the
// natural key of the point in list.
//
// # Time zones
//
// Start and end have the offset that the payload states for each ("-18000s"; "-07:00" is
// accepted too): ZoneStated. A point without an offset is ZoneInstant. A roll-up or a
// daily value of the present day, in the patient's zone or else in UTC, is Preliminary,
// and so is a night that has not been processed.
//
// Exports and the Fitbit Web API have no offsets. If Input.Zone is set, their times in UTC
// are ZoneInstant and their local times ZoneFloating, and package mapping applies the
// zone. Otherwise the zone of the profile applies: ZoneStated, or ZoneInstant for a clock
// time that occurs twice; a time that the zone skips is a Reject. Otherwise the heart rate
// files of an archive imply offsets, because each begins at local midnight of the day in
// its name: ZoneInstant. Local times of days without an offset are ZoneFloating.
//
// An electrocardiogram lasts as long as its samples at their rate. An exercise without an
// endTime lasts for its active duration, and a night without one until its last stage.
// Without these an exercise is an instant and Preliminary.
//
// # Zeros and quality
//
// proto3 omits zeros. An absent count, sum or "positive" is zero; an absent physical
// quantity (rate, weight, temperature) is no value. "NaN" and infinities are absent as
// components and a Reject as main value. A component that is not a number otherwise is a
// Reject with Component. A heart rate of 0, an oxygen saturation of 50 or less and an
// unreadable electrocardiogram are dropped as low quality.
//
// Zeros of the legacy service may mean that the device was not worn. They are dropped as
// placeholders, and so are days without a date. A heart rate of confidence 0 or 1 and a
// heart rate variability of a coverage below 0.7 are dropped as low quality.
package fitbit
