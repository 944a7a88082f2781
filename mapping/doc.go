// Package mapping maps Samples to FHIR R4 resources by a metric table.
//
// It owns the Mapper (Sample to Observation and Device), the ids of ingested
// resources and their series templates. Its subpackages hold the metric table
// (table), the conversion of numbers (decimal), the mapping of dense samples to
// series (stream), the Samples (sample), nights of sleep (sleep), the publication of
// the table as CodeSystems and ConceptMaps (terminology), its comparison with LOINC
// (loinc), and the ingest pipeline with batching, restatement, Provenance and
// quarantine (ingest). Vendor formats belong to package adapters and storage to package fhir/store.
//
// # Table
//
// There is one file per vendor with one row per metric. The codes of a row are
// emitted in order, followed by the vendor's own code. Codes under doubtful are
// emitted only with Options.Doubtful. Variants replace a row's codes and unit
// depending on the unit as sent, the channel, or whether the value is daily. The
// first variant that matches counts. A row with a rate (typical samples per day
// from one source) is a stream; it consists of quantities, of codes that the row
// lists, or of components that are all numbers. A component that has no row keeps
// the vendor's name, unit and value under the vendor's code system.
//
// The category is HL7's. A refinement, such as sleep for activity, is a second
// category of CodeSystem/observation-category.
//
// # Identity
//
// A sample that arrives through two channels has the id that it got first; see
// package ingest.
//
// Ids are the base32 encoding of the first 16 bytes of HMAC-SHA-256 under the
// secret of the installation (Options.Key). The message consists of
// length-prefixed fields: vendor, patient, metric, and either the vendor's id or
// the natural key. The natural key is the start and the end as instants, or the
// day; the source name; the identity of the device; and the value if
// Sample.KeyValue is set. Printed offsets and versions never count.
//
// A row with a rate is a stream, and its samples have the ids of package
// fhir/series: the stream, the start in microseconds, and a check of the end and,
// with KeyValue, of the numbers (as converted; 62 and 62.0 are equal) and the rest
// of the content. The stream is the first 9 bytes of the same HMAC over vendor,
// patient, metric, source name and device identity. All Observations of a stream
// share a second identifier (StreamSystem, StreamID). Samples with an id of the
// vendor's and daily values are not samples of a stream. Among dense rows these are
// samples to which a source app gave an external or sync id in HealthKit, samples that
// an app on the phone delivers with the UUID of HealthKit, and named data points of the
// Google Health API. Times are truncated to microseconds.
//
// Without the secret, no id can be derived from facts about a person. An id
// therefore discloses nothing, and neither does the answer to a request for an id.
// For samples, the stream is the secret part: a reader of one sample of a stream
// knows how the ids of the others begin.
//
// A pack of a tenant cannot change ids: package table refuses the overrides that would.
// So a stored Observation keeps its id when a pack comes, changes or goes, and a
// redelivery finds it.
//
// A Device is identified by manufacturer and serial number if it has a serial
// number; else by manufacturer, model and hardware; else by its name or the source.
//
// # Series
//
// If the rate of a row is at least Options.SeriesFrom, package stream maps a sample
// to a series.Template and a row of its columns instead of an Observation. Written
// by the template, the row is byte for byte the result of Map, because the template
// is an Observation that was cut at its numbers, times and ids. Both are made of the
// same Resolved. Storage is therefore all that depends on the rate.
//
// A sample that does not fit in a series becomes an Observation with the same id:
// a sample with a status other than final, a note, a range, more than
// series.MaxValues numbers, a number that a series.Decimal cannot hold or would
// write differently, a code that the row does not list, a component of free text, or
// a time before 1900-01-02 or after 2200-11-30. Codes are part of the template, as
// values and in components: a stream of sleep stages has one series per stage, with
// columns for times only.
//
// # Time
//
// An instant keeps the stated offset and its written precision (seconds,
// milliseconds or microseconds). ZoneInstant uses the patient's zone. If the
// patient has no zone, the printed offset is kept and meta.tag has
// CodeSystem/measures|zone-unknown: the instant is correct, the local time may not
// be. ZoneFloating uses the patient's zone and is rejected without one. A local time
// that occurs twice because the clock is set back is tagged too, and a local time
// that never occurs is rejected. A daily value is written as a date.
package mapping
