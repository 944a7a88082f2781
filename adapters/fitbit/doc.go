// Package fitbit decodes the data of Fitbit wearers: pages of the Google Health API
// v4. It streams one data point at a time and emits Samples. It does not depend on
// FHIR, opens no connection and keeps no state.
//
// # Formats
//
// The only format is "google-health". It covers the bodies of list, reconcile, rollUp,
// dailyRollUp, pairedDevices, settings, profile, identity and irnProfile. A payload is
// one body, several consecutive bodies (NDJSON), or an array of bodies.
//
// The type of an item is its object member other than name, dataPointName, dataSource
// and the times: "dailyRestingHeartRate" is the type "daily-resting-heart-rate". Items
// without such a member get the type from Input.Hint, from the format
// "google-health:steps", or from a file name such as dailyRollUp_steps.json.
//
// An error body (google.rpc.Status) is a PayloadError that states its reason. The body
// {} and pages without points are valid.
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
//	paired-device                        i    Number battery    %           batteryStatus (Code); None without a
//	                                                                        battery level
//
// SPECIMEN is interstitial, capillary, whole-blood, plasma, serum, tears or unspecified.
// If a point lacks the specimen, its measurementSource decides: continuous monitoring is
// interstitial, self monitoring is capillary. A paired-device has the id of the pairing
// as VendorID and Device.Serial, never the MAC address.
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
// All other types (food, moods, symptoms, cycle, ...) are Rejects with the reason
// "unmapped".
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
// The updateTime of a point is its Revision.
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
// # Time zones
//
// Start and end have the offset that the payload states for each ("-18000s"; "-07:00" is
// accepted too): ZoneStated. A point without an offset is ZoneInstant. A roll-up or a
// daily value of the present day, in the patient's zone or else in UTC, is Preliminary,
// and so is a night that has not been processed.
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
package fitbit
