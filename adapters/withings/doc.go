// Package withings decodes answers of the Withings API: measures of scales, blood
// pressure monitors and thermometers (getmeas), summaries of nights (getsummary) and
// totals of days (getactivity). It does not depend on FHIR, opens no connection and
// keeps no state.
//
// The facts come from the API reference (https://developer.withings.com/api-reference:
// Measure - Getmeas, Measure v2 - Getactivity, Sleep v2 - Getsummary) and its models
// measuregrp_object, measure_object, sleep_summary_object and activity_object.
//
// # Formats
//
// The only format is "api". A payload is one answer {"status":0,"body":{...}}, or several
// of them in sequence. The list in the body tells its type: measuregrps, series or
// activities. An answer with another status is an error of the service and is refused.
//
// # Example
//
// The answer
//
//	{"status":0,"body":{"timezone":"Europe/Paris","measuregrps":[{"grpid":12,"attrib":0,
//	  "date":1767596400,"category":1,"measures":[{"value":65750,"type":1,"unit":-3}]}]}}
//
// becomes the Sample
//
//	Metric    measure.weight
//	Start     2026-01-05T08:00:00+01:00 (ZoneStated, IANA Europe/Paris)
//	Value     65.750 kg
//	VendorID  12
//
// ExampleNew in example_test.go runs it.
//
// # Metrics
//
// The channel is "api". The column "time" is i for an instant, p for a period and d for
// a Day. Numbers are as written; those of measures are value * 10^unit, exactly.
//
//	Metric                       time value               unit        components
//	measure.weight               i    Number type 1       kg          -
//	measure.height               i    Number type 4       m           -
//	measure.fat_free_mass        i    Number type 5       kg          -
//	measure.fat_ratio            i    Number type 6       %           -
//	measure.fat_mass             i    Number type 8       kg          -
//	measure.blood_pressure       i    None                -           systole (type 10), diastole (type 9), mmHg
//	measure.heart_pulse          i    Number type 11      bpm         -
//	measure.temperature          i    Number type 12      degC        -
//	measure.spo2                 i    Number type 54      %           -
//	measure.body_temperature     i    Number type 71      degC        -
//	measure.skin_temperature     i    Number type 73      degC        -
//	measure.muscle_mass          i    Number type 76      kg          -
//	measure.hydration            i    Number type 77      kg          -
//	measure.bone_mass            i    Number type 88      kg          -
//	measure.pulse_wave_velocity  i    Number type 91      m/s         -
//	sleep                        p    Number total sleep  s           deepsleepduration, lightsleepduration,
//	                                                                  remsleepduration, wakeupduration, sleep_latency,
//	                                                                  total_timeinbed (s), wakeupcount (count)
//	sleep.hr_average             p    Number              bpm         -
//	sleep.hr_min                 p    Number              bpm         -
//	sleep.rr_average             p    Number              breaths/min -
//	sleep.sleep_score            p    Number              score       -
//	activity.steps               d    Number              count       -
//	activity.distance            d    Number              m           -
//	activity.elevation           d    Number of floors    count       -
//	activity.calories            d    Number, active      kcal        -
//	activity.totalcalories       d    Number              kcal        -
//	activity.time                d    None                -           soft, moderate, intense (s)
//
// Other types of measures are Rejects with the reason "unmapped". The heart rates and
// zones of days are not read, because the documents do not state what part of the day
// they cover. sleep_efficiency is not read, because its unit is not documented.
//
// # Identity
//
// The VendorID is the grpid of a measure and the id of a night. Days have the natural
// key. The Revision is "modified".
//
// # Time zones
//
// Times are Unix seconds. The IANA zone is stated for each night and day, and for all
// measures of an answer, before their list. Without a zone that is known, times are
// ZoneInstant. A day that is not over at receipt is Preliminary.
//
// # Left out
//
// Objectives (category 2) are not measurements. Measures that may be another person's
// (attrib 1) are dropped as low quality. Days with brand 18 come from other vendors,
// whose own data count. Entries by hand (attrib 2 and 4) are UserEntered.
package withings
