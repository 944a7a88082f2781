// Package uscore writes Observations in the forms that EHRs take from apps: vital
// signs in the form of US Core 9, and physical activity in the form of HL7's
// Physical Activity guide.
//
// It owns VitalSign, EnteredInError, MarkEnteredInError and PhysicalActivity, which
// are pure functions of a Source: they read no store and no clock, and equal Sources
// give equal bytes. It does not own who may receive the result, or when (package
// fhir/interaction, operation $ehr-bundle; package fhir/push).
//
// # Vital signs
//
// VitalSign follows the page "Writing Vital Signs" of US Core 9.0.0 and the
// profiles of that version. From the page come the tag patient-supplied, the
// performer (the patient), the contained Device, which needs a deviceName, the
// contained Provenance with an author that has the URL of the manufacturer's cloud as
// identifier and with the transmitter, and the rule that the only update is the one
// of the status to entered-in-error. From the profiles come the codes, units and
// components. The examples of US Core 9.0.0 show the form of meta.profile with the
// version.
//
// An Observation qualifies if all of these hold:
//
//   - its category is vital-signs and its code is the one of a US Core profile. A
//     resting heart rate (LOINC 40443-4 beside 8867-4) is a heart rate;
//   - its value is a number in a UCUM unit of the profile, without a comparator. For a
//     blood pressure this holds for at least one component, and the other one has a
//     dataAbsentReason. Series (SampledData) and ranges do not qualify;
//   - its status is final, amended or corrected. A preliminary value is left out,
//     because US Core has no update that would complete it later;
//   - it comes from a vendor or was derived from such values (tag preferred), or the
//     patient is its only performer. Values that others measured are not
//     patient-supplied;
//   - it has an identifier, or Source.Base is set;
//   - it has no modifierExtension and no implicitRules, which may change its meaning.
//
// The result keeps codes, time, value, method, body site and the texts of notes. A
// component with a code as value, such as the context of a heart rate, becomes a note,
// because R4's profile vitalsigns requires that coded values of components are units. All
// other elements and all references to resources of this server are left out: ids,
// versions, other tags and categories, links to series, serial numbers.
//
// Averages over a night have the code of the profile and a period. US Core lets a
// server refuse values that were calculated.
//
// # Restated values
//
// IfNoneExist makes the submission idempotent. If the value changes after it was
// submitted, the receiver must mark the earlier Observation entered-in-error and
// create another one. Set Source.Revision for it: its identifier then differs from
// the earlier one.
//
// # Physical activity
//
// PhysicalActivity follows the Physical Activity guide, version 1.0.1 (profiles
// pa-observation-time-measure, pa-observation-activity-measure and
// pa-observation-activity-group; codes and units of its tables of measures). A total
// of a day is one Observation, a workout is one per measure and a group of them. Members refer
// to each other, so they belong into one transaction.
package uscore
