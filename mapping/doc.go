// Package mapping turns Samples into FHIR R4 resources by a metric table.
//
// It owns: the metric table (table/*.yaml, checked against
// table/table.schema.json), the Mapper (Sample -> Observation and Device), the
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
// that fits counts. A component that has no row keeps the vendor's name, unit
// and value under the vendor's code system.
//
// The category is HL7's; what refines it (sleep, of activity) stands beside it
// in a second category of CodeSystem/observation-category.
//
// # Identity
//
// Ids are base32 of the first 16 bytes of SHA-256 over length-prefixed
// vendor, patient, metric and either the vendor's id or the natural key: start
// and end (instants) or day, source name, device identity, and the value where
// Sample.KeyValue says so. Printed offsets and versions never count.
//
// A Device is its manufacturer and serial number, if it has one; else
// manufacturer, model and hardware; else its name or the source.
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
