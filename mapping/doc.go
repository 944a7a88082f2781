// Package mapping turns Samples into FHIR R4 resources by a metric table.
//
// It owns: the metric table (table/*.yaml, checked against
// table/table.schema.json), the Mapper (Sample -> Observation and Device),
// Streams (Sample -> series template and columns), the
// shape of ingest Provenance, identities of ingested resources and unit
// conversion. It does not own: vendor formats (adapters), batching,
// restatement and quarantine (mapping/ingest), storage.
//
// # Table
//
// One file a vendor, one row a metric; table/codes.yaml holds the display of
// every standard code, table/units.yaml every UCUM unit with the vendor
// spellings that are accepted for it and the exact factor. A row's codes are
// emitted in order, then the vendor's own code. Codes under doubtful are
// emitted only with Options.Doubtful. Variants override a row's codes and unit
// where the sent unit, the channel or a daily value asks for it; the first
// that fits counts. A rate (typical samples a day of one source) makes a row
// of quantities, of codes that the row lists, or of components that are all
// numbers, a stream. A component that has no row keeps the vendor's name, unit
// and value under the vendor's code system.
//
// The category is HL7's; what refines it (sleep, of activity) stands beside it
// in a second category of CodeSystem/observation-category.
//
// # Identity
//
// A sample that came through two channels has the id that it had first; ingest
// finds that out (see its documentation).
//
// Ids are base32 of the first 16 bytes of HMAC-SHA-256, under the secret of the
// installation (Options.Key), over length-prefixed vendor, patient, metric and
// either the vendor's id or the natural key: start and end (instants) or day,
// source name, device identity, and the value where Sample.KeyValue says so.
// Printed offsets and versions never count.
//
// A row with a rate is a stream, and its samples have the ids of fhir/series:
// stream, start in microseconds, and a check over the end and, with KeyValue,
// over the numbers (as converted; 62 and 62.0 are one) and the rest of the
// content. The stream is the first 9 bytes of the same HMAC over vendor, patient,
// metric, source name and device identity. All Observations of a stream share
// a second identifier (StreamSystem, StreamID). What has an id of the vendor's
// or is a daily value is no sample of a stream: among dense rows that is what
// a source app gave an external or sync id in HealthKit, and named data points
// of the Google Health API. Times are cut to microseconds.
//
// Without the secret no id can be derived from what is known of a person, so an
// id tells nothing and asking for one tells nothing. Of samples it is the
// stream that is secret: who may read one of a stream knows how the ids of its
// others begin. A store that was written before there was a secret stays
// without one (plain SHA-256; ingest.Key).
//
// A Device is its manufacturer and serial number, if it has one; else
// manufacturer, model and hardware; else its name or the source.
//
// # Series
//
// Where a row's rate is at least Options.SeriesFrom, Streams gives a sample
// out as a series.Template and a row of its columns instead of an Observation;
// written by the template it is, byte for byte, what Map gives (the Observation
// is rendered once and cut where numbers, time and id stand). A sample that
// does not fit is Map's, with the same id: a status other than final, a note, a
// range, more than series.MaxValues numbers, a number that a series.Decimal
// does not hold or writes otherwise, a code that the row does not list, a
// component of free text, a time within a day of 1900 or after 2200-11-30. A
// code is part of the template, as the value and in components: a stream of
// sleep stages is one series a stage, with columns for times only. So nothing
// but storage depends on the rate.
//
// # Provenance
//
// One a commit. Its targets are the patient, the stream of every new sample,
// once, as {"type":"Observation","identifier":{…/identifier/series}}, and one
// by one every other Observation, new version and Device; the same whether
// samples are stored as series or as documents. Its agents are those of US
// Core: the vendor's Organization as author, this server's as transmitter and,
// on whose behalf the software assembled it, as assembler.
//
// # Time
//
// An instant keeps the stated offset and its written precision (seconds,
// milliseconds or microseconds). ZoneInstant takes the patient's zone; without
// one the printed offset stays and meta.tag says
// CodeSystem/measures|zone-unknown: the instant is right, the wall clock is
// not. ZoneFloating takes the patient's zone, else it is rejected; a wall
// clock that occurs twice in a night of clock change is tagged too, one that
// never occurs is rejected. A daily value is a date.
package mapping
