// Package oura reads documents and list replies of the Oura API v2 (all
// usercollection types). It streams one document at a time and hands out
// Samples. It knows no FHIR, opens no connection and keeps nothing.
//
// # Payloads
//
// Format "v2": one document, one list reply {"data":[...],"next_token":...},
// an object of list replies keyed by type, an array of documents, or several
// of these one after another. The type comes from the key, else from the
// first of these fields that a document has, else from Input.Hint, the format
// "v2:heartrate" or a file name heartrate.json:
//
//	sleep bedtime_start | heartrate bpm | interbeat_interval ibi |
//	daily_activity equivalent_walking_distance | daily_readiness
//	temperature_trend_deviation or contributors.recovery_index | daily_sleep
//	contributors.restfulness | daily_resilience contributors.sleep_recovery |
//	daily_spo2 spo2_percentage or breathing_disturbance_index | daily_stress
//	stress_high, recovery_high or day_summary | daily_cardiovascular_age
//	vascular_age | vO2_max vo2_max | workout activity with start_datetime |
//	session start_datetime | enhanced_tag tag_type_code | rest_mode_period
//	episodes | sleep_time optimal_bedtime | ring_configuration hardware_type
//	or set_up_at | tag tags | ring_battery_level level with timestamp |
//	personal_info biological_sex
//
// # Metrics
//
// Channel "v2". Numbers are as written. Component names are the vendor's
// field names. "when": i instant, p period, d Day. Documents with an id have
// it as VendorID.
//
//	Metric                                      when value              unit        components
//	sleep                                       p    Number total sleep s           deep_sleep_duration, light_sleep_duration, rem_sleep_duration,
//	                                                                                awake_time, latency, time_in_bed (s), efficiency (%),
//	                                                                                restless_periods (count), type (Code), hypnogram (Series),
//	                                                                                movement_30_sec (Series)
//	sleep.average_hrv                           p    Number RMSSD       ms          -
//	sleep.average_heart_rate                    p    Number             bpm         -
//	sleep.lowest_heart_rate                     p    Number             bpm         -
//	sleep.average_breath                        p    Number             breaths/min -
//	sleep.heart_rate                            p    Series             bpm         -
//	sleep.hrv                                   p    Series RMSSD       ms          -
//	heartrate                                   i    Number             bpm         source (Code awake, workout, rest, sleep, live, session)
//	interbeat_interval                          i    Number             ms          validity (Number)
//	daily_activity.steps                        d    Number             count       non_wear_time (s)
//	daily_activity.total_calories               d    Number             kcal        -
//	daily_activity.active_calories              d    Number             kcal        -
//	daily_activity.equivalent_walking_distance  d    Number             m           -
//	daily_activity.score                        d    Number             score       CONTRIBUTOR (Number, score)
//	daily_activity.time                         d    None               -           high_activity_time, medium_activity_time, low_activity_time,
//	                                                                                sedentary_time, resting_time, non_wear_time (s),
//	                                                                                inactivity_alerts (count), average_met_minutes,
//	                                                                                high_activity_met_minutes, medium_activity_met_minutes,
//	                                                                                low_activity_met_minutes, sedentary_met_minutes (MET.min)
//	daily_activity.met                          p    Series             MET         -
//	daily_activity.class_5_min                  p    Series 0 to 5      -           -
//	daily_readiness.score                       d    Number             score       CONTRIBUTOR (Number, score: never bpm or degrees)
//	daily_readiness.temperature_deviation       d    Number             K           -
//	daily_readiness.temperature_trend_deviation d    Number             K           -
//	daily_sleep.score                           d    Number             score       CONTRIBUTOR (Number, score)
//	daily_spo2.spo2_percentage                  d    Number average     %           -
//	daily_spo2.breathing_disturbance_index      d    Number 0 to 100    score       -
//	daily_stress                                d    Code day_summary   -           stress_high, recovery_high (s); None without a summary
//	daily_resilience                            d    Code level         -           sleep_recovery, daytime_recovery, stress (Number, score)
//	daily_cardiovascular_age                    d    Number age         a           pulse_wave_velocity (m/s); None without an age
//	vO2_max                                     d    Number             mL/kg/min   - (Method "estimated")
//	workout                                     p    Code activity      -           calories (kcal), distance (m), duration (s), intensity,
//	                                                                                source (Code)
//	session                                     p    Code type          -           mood (Code)
//	session.heart_rate                          p    Series             bpm         -
//	session.heart_rate_variability              p    Series RMSSD       ms          -
//	enhanced_tag                                i, p Code tag_type_code -           -
//	tag                                         i    None               -           tag (Code), tag_2, ... one a tag
//	rest_mode_period                            p, i None               -           episodes (Number, count); d without times
//	sleep_time                                  d    None               -           start_offset, end_offset (s from midnight), day_tz (s),
//	                                                                                recommendation, status (Code)
//	personal_info.weight                        d    Number             kg          - (the day of receipt: Oura states no time)
//	personal_info.height                        d    Number             m           -
//	ring_battery_level                          i    Number level       %           charging, in_charger (Boolean); Device.Battery
//	ring_configuration                          i    None               -           Device filled: Serial, Hardware, Firmware, Facts color,
//	                                                                                design, size, set_up_at
//
// CONTRIBUTOR stands for the names in the document's "contributors".
// Comments, custom names, texts and e-mail addresses are not read. Unknown
// types are Rejects "unmapped".
//
// # Series
//
// Nulls are "E"; the period is the interval in the data (60 and 300 s both
// occur). hypnogram is one digit an epoch, 1 deep, 2 light, 3 REM, 4 awake:
// of app_sleep_phase_5_min, else sleep_phase_30_sec, else sleep_phase_5_min.
// movement_30_sec is 1 (none) to 4 (active). A series of a night that begins
// more than a day off its bedtime is a Reject, the night stays.
//
// # Quirks
//
// type "deleted" retracts the night and everything split from it, and so does
// type "rest": a false positive, which an earlier reply may have given as a
// nap. meta.updated_at, which older replies have, is the Revision. Of heart
// rates and intervals of one second the value and the source are part of the
// identity. A night of no length is an instant; a night that ends before it
// begins is a Reject; stage times that do not add up stay as written.
// set_up_at of 1970 is unknown. Offsets in timestamps are the wearer's
// (ZoneStated), except for Z and +00:00, which Oura prints for UTC whatever
// the wearer's offset was (ZoneInstant). Documents of a day that is not over
// are Preliminary where they still grow (activity, stress), and so is a
// workout or session without an end. A component that is no number is a Reject
// with Component; the rest of the document stays. The day of a night is the
// day of waking; an activity day begins at
// 04:00 local time.
package oura
