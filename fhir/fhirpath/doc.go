// Package fhirpath evaluates FHIRPath over FHIR R4 resources in JSON.
//
// It owns the language (FHIRPath 2.0, http://hl7.org/fhirpath/N1), the functions that
// FHIR adds (R4 fhirpath.html), the types of R4, and the bounds of an evaluation. It
// does not own terminology, validation of profiles, or the lookup of references: the
// caller gives these in Env. It is used for search parameters, invariants, FHIRPath
// Patch and filters of subscriptions.
//
// # Use
//
// An expression is compiled once and evaluated often, by any number of goroutines. A
// resource is parsed once for all expressions:
//
//	e, err := fhirpath.Compile("Observation.component.where(code.coding.code = '8480-6').value")
//	doc, err := fhirpath.Parse(json)
//	values, err := e.Evaluate(ctx, doc.Root(), nil, nil)
//
// Evaluate returns the collection. Test evaluates a filter, and Holds an invariant;
// they differ in what an empty result means. Check finds paths and selections of types
// that cannot be right for a type, before an expression is stored. For prepares an
// expression for one type: of a search parameter for many types it keeps the operands
// that begin at that type.
//
// Patch applies a FHIRPath Patch to a resource, and keeps the text of what it does not
// change.
//
// A Value of a resource tells its place as a JSON Pointer, and its JSON text as it was
// written. Document.As gives the content of a Document as an element, so that the
// invariants of a data type can be evaluated on it alone.
//
// # Contract
//
//   - Values have the types of R4: choices are members without a type (value, not
//     valueQuantity, which is understood as well), and subtypes count as their base
//     types. A primitive has its extensions with it (hasValue(), extension()).
//   - As in HL7's test cases, "is" looks at base types, but "as" and ofType() select a
//     primitive only by its very type: a code is a string, but not selected as one.
//     Both take collections, since R4's invariants apply them to some.
//   - A reference resolves to a contained resource, then by Env.Resolve, and otherwise
//     to a Value that has a type and no elements, so that "resolve() is Patient" can be
//     answered from the text of the reference.
//   - Decimals are exact up to 60 digits; a division has 40. A Decimal beyond that, or
//     with a larger exponent, makes an empty result, as an overflow does.
//   - Quantities are compared in UCUM (fhir/ucum). The calendar's years and months are
//     comparable with each other, but not with UCUM's.
//   - Times without an offset are compared with times that have one only if the order
//     is the same for all offsets.
//   - Regular expressions are those of RE2, so that they run in linear time.
//   - Integers have 64 bits.
//   - After a point, a keyword is a name: Patient.text.div needs no backquotes.
//   - Functions of later versions that HL7's cases use are there: sort, lowBoundary,
//     highBoundary, precision, comparable, matchesFull, split, join, trim, encode,
//     decode, escape, unescape, lastIndexOf.
//
// # Bounds
//
// An expression has at most 32 KiB and 256 levels. A Document has at most 128 levels
// and 256 members per object. An evaluation is bounded in steps, items of a collection
// and bytes of a string by Limits, and ends when its context does. Work that grows
// with the size of values, such as matching patterns, counts as many steps.
//
// Errors are fhir.Errors: Invalid for an expression that does not compile,
// Unprocessable for one that fails on a resource, TooCostly for one that exceeds a
// limit, Unavailable for a context that ended. They name the place in the expression
// and never contain text of a resource.
//
// # Tables
//
// r4.model holds the types and elements of R4. It is generated from HL7's definitions,
// which are in the public domain (CC0).
package fhirpath
