// Package wire converts FHIR R4 resources between JSON and XML by the tables of
// fhir/definitions.
//
// It owns the XML representation (R4 xml.html) and the indentation of both formats.
// It does not own validation (fhir/validate) or the choice of a format (fhir/rest).
// The server stores and validates JSON only: FromXML runs before validation, and an
// Encoder runs on JSON that was validated.
//
// # From XML
//
// FromXML has its own reader of XML, because encoding/xml accepts input that is not
// well-formed (duplicate attributes, undeclared prefixes) and is slower. The reader
// knows the part of XML 1.0 that R4 uses: elements, attributes, comments, namespaces,
// the five predefined entities and character references. Document types, other
// entities and processing instructions are refused, so nothing is expanded. Depth,
// attributes, names and namespace declarations are bounded; the size of the JSON is at
// most a small multiple of the size of the XML.
//
// Elements must be in the order of the definition, as R4 requires. Numbers keep their
// text. What XML can express but R4's JSON cannot, such as text between elements, is an
// error; comments are dropped outside of narrative.
//
// The JSON has the line breaks of the XML, and spaces such that a member has the
// column of its element wherever the JSON is not longer than the XML before it. So the
// positions that fhir/validate reports are those of the XML.
//
// # To XML
//
// An Encoder puts members into the order of the definition. It takes a resource in
// one piece, or a Bundle in the parts in which the server keeps it, which it converts
// entry by entry, so that memory is bounded by the largest entry.
//
// Both directions are lossless except for the order of JSON members, white space
// between tokens, and named HTML entities in narrative, which become character
// references in XML. Characters that XML cannot express become U+FFFD; fhir/validate
// refuses them.
package wire
