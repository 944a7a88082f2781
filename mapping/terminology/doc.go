// Package terminology publishes the metric table as R4 resources: CodeSystems and
// ConceptMaps. It owns their content; the server stores and serves them.
//
// # CodeSystems
//
// There is one CodeSystem per vendor, with the codes of metrics, components and listed
// values that Observations carry in the vendor's system. Its content is a fragment,
// because a vendor's values that no row lists are passed on as they are. The property
// kind tells where a code occurs. A code that occurs with several displays has all of
// them, and its definition tells which one belongs where. Codes of removed rows remain
// and are inactive, because stored Observations have them. The others are complete:
// measures, observation-category, device-property, and vendor, the codes by which
// Consents and Provenances name vendors. A tenant's code systems are published if the
// pack asks for it.
//
// # ConceptMaps
//
// There is one ConceptMap per pack, from the vendor's codes to standard codes. That of a
// built-in pack has the rows as they are built in, whatever a tenant's pack overrides:
// the version of a pack always stands for the same rows.
//
// A target is wider if other metrics of the vendor have it too, or if it is the code that
// a profile fixes beside a more specific one; otherwise it is equivalent. Doubtful codes
// are inexact. A code without a standard code is unmatched. Conditions, such as the unit
// as sent, are in the comment.
//
// The ConceptMap units has the spellings of units that are accepted, with the UCUM units
// that they may become and the conversion.
//
// # Versions
//
// A resource has the version of its file. If packs of a tenant add to it, their names
// and versions follow as build metadata of semantic versions: "1.0.0+acme.1.2.3".
package terminology
