// Package definitions holds the definitions of FHIR R4 (4.0.1) as tables: the
// structure of every resource type and data type, the invariants, and the codes
// of the value sets with required bindings.
//
// It owns the tables, their decoding, and the lookup of types and members. It
// does not own validation (fhir/validate). It imports no other package of this
// module.
//
// # Source
//
// The tables are generated from HL7's StructureDefinitions (gen), which HL7
// publishes under CC0. HL7's packages do not expand the value sets; their codes
// are in gen/codes.txt, which was derived from the R4 value sets (CC0) and
// compared between two independent sources. The profiles are generated from the
// packages of US Core 6.1.0, 7.0.0 and 9.0.0 (CC0), and from fhir/guide. They have codes of LOINC, which
// are copyright Regenstrief Institute, Inc. (loinc.org/license).
//
// # Form
//
// r4.txt.gz and profiles.txt.gz are text compressed with gzip. A line is a
// record; tabs separate its fields. `go run ./gen -print` shows the text.
//
//	V url system code... [tab system code...]           value set; a no-break space stands for a space
//	I key severity expression human                     invariant, numbered from 0
//	T name kind type invariant...                       structure: resource, element or data type
//	E name min max flags binding invariant... type...   element of the last structure
//	G version                                           guide; begins a section of its own
//	P url type base                                     profile
//	C id min max type... flags binding value slicing invariant...   constraint of the last profile
//
// The kind of a structure is r for a resource, d for a data type and e for an
// element with children. The flags of an element are m for modifier elements and s for
// the elements of the summary. A type is a primitive type, the name of a
// structure, or Reference and the allowed target types. An exclamation mark stands
// behind primitive types without extensions, such as that of Element.id.
//
// In a constraint, an empty field is not constrained. The id has no type in front,
// a type may be followed by @ and the URL of its profile, and the flag M stands for
// mustSupport. A binding is required, or extensible if it begins with +; - stands for a
// weaker one. A value begins with = if it is
// fixed and with ~ if it is a pattern. The slicing has the rules and then the type
// and the path of each discriminator.
//
// R4 and KnownProfiles decode the tables on first use and keep them. They take 5 ms
// and 1.7 MB for R4, and 1.3 ms and 0.8 MB for the profiles.
package definitions
