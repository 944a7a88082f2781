// Package oura decodes documents and list replies of the Oura API v2, with all types of
// usercollection. It streams one document at a time and emits Samples. It does not
// depend on FHIR, opens no connection and keeps no state.
//
// # Formats
//
// The only format is "v2". A payload is one document, one list reply
// {"data":[...],"next_token":...}, an object of list replies with their types as keys, an
// array of documents, or several of these in sequence. The type of a document is the key
// of its list, or it is recognized by the first of these fields that the document has:
//
//	bedtime_start                                    sleep
//	bpm                                              heartrate
//	ibi                                              interbeat_interval
//	equivalent_walking_distance                      daily_activity
//	temperature_trend_deviation or
//	  contributors.recovery_index                    daily_readiness
//	contributors.restfulness                         daily_sleep
//	contributors.sleep_recovery                      daily_resilience
//	spo2_percentage or breathing_disturbance_index   daily_spo2
//	stress_high, recovery_high or day_summary        daily_stress
//	vascular_age                                     daily_cardiovascular_age
//	vo2_max                                          vO2_max
//	activity with start_datetime                     workout
//	start_datetime                                   session
//	tag_type_code                                    enhanced_tag
//	episodes                                         rest_mode_period
//	optimal_bedtime                                  sleep_time
//	hardware_type or set_up_at                       ring_configuration
//	tags                                             tag
//	level with timestamp                             ring_battery_level
//	biological_sex                                   personal_info
//
// Otherwise it is Input.Hint, the type in the format ("v2:heartrate") or in the file name
// (heartrate.json).
//
// # Example
//
// The document
//
//	{"timestamp": "2026-01-05T08:00:00+02:00", "bpm": 61, "source": "awake"}
//
// becomes the Sample
//
//	Metric      heartrate
//	Channel     v2
//	Start       2026-01-05T08:00:00+02:00 (ZoneStated)
//	Value       61 bpm
//	Components  source: awake
//	Device      Oura Ring
//
// ExampleNew in example_test.go runs it.
//
// # Metrics
//
// The channel is "v2". Numbers are as written. Component names are the vendor's field
// names. The column "time" is i for an instant, p for a period and d for a Day.
//
//	Metric                               time value              unit        components
//	sleep                                p    Number total sleep s           deep_sleep_duration,
//	                                                                         light_sleep_duration,
//	                                                                         rem_sleep_duration, awake_time, latency,
//	                                                                         time_in_bed (s), efficiency (%),
//	                                                                         restless_periods (count), type (Code),
//	                                                                         hypnogram, movement_30_sec (Series)
//	sleep.average_hrv                    p    Number RMSSD       ms          -
//	sleep.average_heart_rate             p    Number             bpm         -
//	sleep.lowest_heart_rate              p    Number             bpm         -
//	sleep.average_breath                 p    Number             breaths/min -
//	sleep.heart_rate                     p    Series             bpm         -
//	sleep.hrv                            p    Series RMSSD       ms          -
//	heartrate                            i    Number             bpm         source (Code awake, workout, rest,
//	                                                                         sleep, live, session)
//	interbeat_interval                   i    Number             ms          validity (Number)
//	daily_activity.steps                 d    Number             count       non_wear_time (s)
//	daily_activity.total_calories        d    Number             kcal        -
//	daily_activity.active_calories       d    Number             kcal        -
//	daily_activity.
//	  equivalent_walking_distance        d    Number             m           -
//	daily_activity.score                 d    Number             score       CONTRIBUTOR (Number, score)
//	daily_activity.time                  d    None               -           high_activity_time,
//	                                                                         medium_activity_time,
//	                                                                         low_activity_time, sedentary_time,
//	                                                                         resting_time, non_wear_time (s),
//	                                                                         inactivity_alerts (count),
//	                                                                         average_met_minutes,
//	                                                                         high_activity_met_minutes,
//	                                                                         medium_activity_met_minutes,
//	                                                                         low_activity_met_minutes,
//	                                                                         sedentary_met_minutes (MET.min)
//	daily_activity.met                   p    Series             MET         -
//	daily_activity.class_5_min           p    Series 0 to 5      -           -
//	daily_readiness.score                d    Number             score       CONTRIBUTOR (Number, score: never bpm
//	                                                                         or degrees)
//	daily_readiness.
//	  temperature_deviation              d    Number             K           -
//	daily_readiness.
//	  temperature_trend_deviation        d    Number             K           -
//	daily_sleep.score                    d    Number             score       CONTRIBUTOR (Number, score)
//	daily_spo2.spo2_percentage           d    Number average     %           -
//	daily_spo2.
//	  breathing_disturbance_index        d    Number 0 to 100    score       -
//	daily_stress                         d    Code day_summary   -           stress_high, recovery_high (s); None
//	                                                                         without a summary
//	daily_resilience                     d    Code level         -           sleep_recovery, daytime_recovery,
//	                                                                         stress (Number, score)
//	daily_cardiovascular_age             d    Number age         a           pulse_wave_velocity (m/s); None
//	                                                                         without an age
//	vO2_max                              d    Number             mL/kg/min   - (Method "estimated")
//	workout                              p    Code activity      -           calories (kcal), distance (m),
//	                                                                         duration (s), intensity, source (Code)
//	session                              p    Code type          -           mood (Code)
//	session.heart_rate                   p    Series             bpm         -
//	session.heart_rate_variability       p    Series RMSSD       ms          -
//	enhanced_tag                         i, p Code tag_type_code -           -
//	tag                                  i    None               -           tag (Code), tag_2, ... one per tag
//	rest_mode_period                     p, i None               -           episodes (Number, count); d without
//	                                                                         times
//	sleep_time                           d    None               -           start_offset, end_offset (s from
//	                                                                         midnight), day_tz (s),
//	                                                                         recommendation, status (Code)
//	personal_info.weight                 d    Number             kg          - (on the day of receipt: Oura states
//	                                                                         no time)
//	personal_info.height                 d    Number             m           - (likewise)
//	ring_battery_level                   i    Number level       %           charging, in_charger (Boolean);
//	                                                                         Device.Battery
//	ring_configuration                   i    None               -           - (Device: Serial, Hardware, Firmware,
//	                                                                         Facts color, design, size, set_up_at)
//
// CONTRIBUTOR stands for the names in "contributors". Comments, custom names, texts and
// e-mail addresses are not read. Unknown types are Rejects with the reason "unmapped".
//
// # Series
//
// Nulls are "E". The period is the interval in the data (60 and 300 s both occur). The
// component hypnogram has one digit per epoch, 1 deep, 2 light, 3 REM, 4 awake, from
// app_sleep_phase_5_min, else sleep_phase_30_sec, else sleep_phase_5_min. The component
// movement_30_sec has the digits 1 (none) to 4 (active). A series that begins more than
// 36 hours from the start of its document is a Reject; the rest of the document is kept.
//
// # Identity
//
// The id of a document is its VendorID. Documents without an id have the natural key; for
// heartrate and interbeat_interval it includes the value because several may have the
// same second. meta.updated_at, which older replies have, is the Revision. A document of
// the type "deleted" retracts the night with all its samples. So does the type "rest": a
// nap that Oura detected by mistake and that an earlier reply may have contained.
//
// # Time zones
//
// Offsets are the wearer's (ZoneStated), except for "Z" and "+00:00", which Oura prints
// for UTC whether or not it is the wearer's offset (ZoneInstant). The day of a night is
// the day of waking. A day of activity begins at 04:00 local time.
//
// Documents of a day that is not over are Preliminary if they still grow (activity,
// stress), and so is a workout or session without an end. A night without length is an
// instant; a night that ends before it begins is a Reject. A set_up_at of 1970 is unknown.
//
// # Values
//
// Stage times that do not add up stay as written. A component that is not a number is a
// Reject with Component; the rest of the document is kept.
package oura
