// Package fitbit reads what Fitbit wearers' data looks like today: pages of
// the Google Health API v4. It streams one data point at a time and hands out
// Samples. It knows no FHIR, opens no connection and keeps nothing.
//
// # Payloads
//
// Format "google-health": bodies of list, reconcile, rollUp, dailyRollUp and
// of pairedDevices, settings, profile, identity and irnProfile; one body,
// several one after another (NDJSON), or an array of bodies. The JSON member
// beside name, dataPointName, dataSource and the times names the type
// ("dailyRestingHeartRate" is "daily-resting-heart-rate"). A body whose items
// carry no such member needs Input.Hint, a file name such as
// dailyRollUp_steps.json, or the format "google-health:steps". An error body
// (google.rpc.Status) is a PayloadError with its reason. {} and pages without
// points are fine.
//
// # Metrics
//
// Channel "v4" for list and reconcile, "v4-rollup" for both roll-ups. Codes
// are the vendor's enum names, unknown ones included. Component names are the
// vendor's member names. "when": i instant, p period, d Day.
//
//	Metric                               when value              unit         components
//	heart-rate                           i    Number             bpm          motionContext, sensorLocation (Code)
//	heart-rate-variability.rmssd         i    Number             ms           lowFrequencyPower, highFrequencyPower (Number, ms2)
//	heart-rate-variability.sdnn          i    Number             ms           -
//	daily-heart-rate-variability         d    Number RMSSD       ms           deepSleepRootMeanSquareOfSuccessiveDifferencesMilliseconds (ms),
//	                                                                          entropy (no unit), nonRemHeartRateBeatsPerMinute (bpm)
//	daily-resting-heart-rate             d    Number             bpm          - (Method: WITH_SLEEP, ONLY_WITH_AWAKE_DATA)
//	daily-heart-rate-zones               d    None               -            LIGHT, MODERATE, VIGOROUS, PEAK (Interval, bpm)
//	oxygen-saturation                    i    Number             %            -
//	daily-oxygen-saturation              d    Number average     %            lowerBoundPercentage, upperBoundPercentage (confidence bounds,
//	                                                                          not extremes), standardDeviationPercentage (%)
//	daily-respiratory-rate               d    Number             breaths/min  -
//	respiratory-rate-sleep-summary       i    Number full sleep  breaths/min  deepSleepStats, lightSleepStats, remSleepStats, standardDeviation
//	                                                                          (breaths/min), signalToNoise (no unit)
//	daily-sleep-temperature-derivations  d    Number nightly     Cel          baselineTemperatureCelsius (Cel), deviation (K, nightly - baseline,
//	                                                                          computed here in decimals), relativeNightlyStddev30dCelsius (K)
//	core-body-temperature                i    Number             Cel          measurementLocation (Code)
//	skin-temperature                     i    Number             Cel          measurementLocation (Code): core-body-temperature points whose
//	                                                                          location is WRIST, FINGER or TOE
//	vo2-max, run-vo2-max                 i    Number             mL/kg/min    - (Method: measurementMethod)
//	daily-vo2-max                        d    Number             mL/kg/min    cardioFitnessLevel (Code), estimated (Boolean),
//	                                                                          vo2MaxCovariance (no unit); Method "estimated"
//	steps, floors                        p    Number             count        -
//	distance, altitude                   p    Number             mm           - (altitude may be negative)
//	active-energy-burned                 p    Number             kcal         -
//	basal-energy-burned                  p    Number             kcal         -
//	active-zone-minutes.ZONE             p    Number, weighted   min          - (ZONE: fat-burn, cardio, peak, ...)
//	active-minutes                       p    None               -            LIGHT, MODERATE, VIGOROUS, ... (Number, min)
//	activity-level                       p    Code               -            -
//	time-in-heart-rate-zone              p    Code               -            -
//	sedentary-period                     p    Number             s            -
//	swim-lengths-data                    p    Number strokes     count        swimStrokeType (Code)
//	weight                               i    Number             g            -
//	body-fat                             i    Number             %            -
//	height                               i    Number             mm           -
//	blood-glucose.SPECIMEN               i    Number             mg/dL        measurementSource, measurementTiming, mealType (Code); SPECIMEN:
//	                                                                          interstitial, capillary, whole-blood, plasma, serum, tears,
//	                                                                          unspecified. Without a specimen the measurementSource decides:
//	                                                                          CGM interstitial, self monitoring capillary
//	hydration-log                        p    Number             mL           -
//	exercise                             p    Code exerciseType  -            activeDuration (s), caloriesKcal (kcal), distanceMillimeters,
//	                                                                          elevationGainMillimeters (mm), steps (count),
//	                                                                          averageHeartRateBeatsPerMinute (bpm), activeZoneMinutes (min),
//	                                                                          averagePaceSecondsPerMeter (s/m), averageSpeedMillimetersPerSecond
//	                                                                          (mm/s), runVo2Max (mL/kg/min), lightTime, moderateTime,
//	                                                                          vigorousTime, peakTime (s)
//	sleep                                p    Number asleep      min          deep, light, rem, awake, restless (min), minutesInSleepPeriod,
//	                                                                          minutesToFallAsleep, minutesAfterWakeUp (min), type (Code CLASSIC
//	                                                                          or STAGES), nap (Boolean), stages (Series)
//	electrocardiogram                    p    Series             mV           resultClassification (Code), beatsPerMinuteAvg (bpm),
//	                                                                          leadNumber (no unit), samplingFrequencyHertz (Hz)
//	irregular-rhythm-notification        p    None               -            positiveWindows, windows (count)
//	paired-device                        i    Number battery     %            batteryStatus (Code); VendorID and Device.Serial: id of the
//	                                                                          pairing, never the MAC address; None without a battery level
//
// Roll-ups: Metric is the type with "/day" (dailyRollUp, Day) or "/rollup"
// (rollUp, period, ZoneInstant because windows carry no offset):
//
//	steps, floors, swim-lengths-data     Number countSum, strokeCountSum      count        -
//	distance, altitude                   Number millimetersSum, gain...Sum    mm           -
//	active-energy-burned, total-calories Number kcalSum                       kcal         -
//	heart-rate                           Number beatsPerMinuteAvg             bpm          beatsPerMinuteMin, beatsPerMinuteMax (bpm)
//	weight, body-fat, blood-glucose      Number average                       g, %, mg/dL  -
//	core-body-temperature                Number temperatureCelsiusAvg         Cel          temperatureCelsiusMin, temperatureCelsiusMax (Cel)
//	run-vo2-max                          Number rateAvg                       mL/kg/min    rateMin, rateMax (mL/kg/min)
//	sedentary-period                     Number durationSum                   s            -
//	hydration-log                        Number millilitersSum                mL           -
//	active-zone-minutes                  None                                 -            sumInFatBurnHeartZone, sumInCardioHeartZone, sumInPeakHeartZone (min)
//	active-minutes                       None                                 -            LIGHT, MODERATE, VIGOROUS, ... (min)
//	activity-level                       None                                 -            SEDENTARY, ... (s)
//	time-in-heart-rate-zone              None                                 -            LIGHT, MODERATE, VIGOROUS, PEAK (s)
//	calories-in-heart-rate-zone          None                                 -            LIGHT, MODERATE, VIGOROUS, PEAK (kcal)
//	heart-rate-variability-personal-range None                                -            range (Interval, ms)
//	resting-heart-rate-personal-range    None                                 -            range (Interval, bpm)
//
// Every other type (food, moods, symptoms, cycle, ...) is a Reject
// "unmapped".
//
// # Sleep stages
//
// The component "stages" is a Series without unit of one digit an epoch, from
// the start of the night: 1 DEEP, 2 LIGHT, 3 REM, 4 AWAKE, 5 ASLEEP
// (classic), 6 RESTLESS, E unknown to us. It is there if the stages follow
// each other without gap from the night's start to its end on a grid of 1
// minute or 30 s. (SampledData takes numbers only, hence no letters; 1 to 4
// are Oura's digits.) Short awakenings overlap the stages and are not added.
// A stagesSummary that repeats a type counts it once; without a summary the
// minutes are summed from the stages.
//
// # Identity
//
// A point's updateTime is its Revision. A named point (sleep, exercise, weight, ...) has the last segment of name
// or dataPointName as VendorID, so a restated night keeps its identity.
// Nights and exercises say nothing that only one of list and reconcile knows
// (no physical device, no platform), so that both pages give the same sample.
// Spot measurements keep what list says of the source, for MANUAL matters
// clinically. A daily value's VendorID is its date, with the platform behind
// it for other platforms than Fitbit's. All other points have the natural key
// with their source: list keeps every source apart (phone and watch count the
// same steps). The reconciled stream names no source, and its points are
// Coarse: ingest finds which of list's they are.
//
// # Times, zeros and quality
//
// Offsets are as stated, start and end each their own ("-18000s", and
// tolerated "-07:00"); a point without offset is ZoneInstant. A roll-up or
// daily value of the present day (in the patient's zone, else in UTC) is
// Preliminary, and so is a night that is not processed. proto3 leaves out
// zeros: an absent count, sum or "positive" is zero; an absent physical
// quantity (rate, weight, temperature) is no value. "NaN" and infinities are
// absent components; as main value a Reject. A component that is anything else
// but a number is a Reject with Component. A recording lasts as long as its
// samples and their rate say; an exercise without an endTime lasts its active
// duration, a night without one until its last stage, and without these an
// exercise is an instant, Preliminary. Dropped as low quality: a heart
// rate of 0, SpO2 of 50 or less, an unreadable ECG.
package fitbit
