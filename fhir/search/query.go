package search

import (
	"slices"
	"time"

	"pulsegate/fhir/fhirpath"
)

// ParamType is the type of a search parameter.
type ParamType uint8

const (
	TypeToken ParamType = iota + 1
	TypeDate
	TypeReference
	TypeString
	TypeQuantity
	TypeURI
	TypeNumber
	TypeComposite
	TypeSpecial
)

// Prefix is the comparison prefix of a date, number or quantity.
type Prefix uint8

const (
	EQ Prefix = iota
	NE
	GT
	LT
	GE
	LE
	SA
	EB
	AP
)

// Modifier is the part of a parameter name after the colon.
type Modifier uint8

const (
	NoModifier    Modifier = iota
	ModNot                 // token :not
	ModMissing             // any :missing=true|false (the value is in Clause.Missing)
	ModExact               // string :exact
	ModContains            // string :contains
	ModText                // token :text (display or text, as string prefix)
	ModType                // reference :Patient (then the values carry RefType)
	ModIdentifier          // reference :identifier (token on Reference.identifier)
	ModAbove               // uri :above (the value is below the URI of the clause)
	ModBelow               // uri and canonical :below
	ModOfType              // token :of-type, for identifiers
	ModEqual               // the folded strings are equal (_filter eq)
	ModEnds                // string ends with (_filter ew)
)

// Value is one value of a clause or one index value of a resource. The type of
// the parameter determines which fields are used.
type Value struct {
	// token, uri (Code), string (Code, as written; compare with Fold). For an identifier
	// with a type, RefType and RefID hold the system and the code of one type.
	System string
	Code   string
	// date: the interval [Lo, Hi) in Unix milliseconds that the written precision
	// covers. Open ends are math.MinInt64 and math.MaxInt64.
	Lo, Hi int64
	// reference: RefType and RefID of a local reference; for others, the URI is in
	// Code. A logical reference (Reference.identifier) is a separate value with
	// HasSystem set and the identifier in System and Code.
	RefType, RefID string
	// Text is, for a token, the folded display or text for :text (the text of a
	// CodeableConcept is a value with an empty Code, which needs no index row); for a
	// string, Fold(Code); for a quantity, the human-readable unit.
	Text string
	// quantity and number: Num is the number, and [NumLo, NumHi) the range that the
	// written precision covers. System and Code hold the unit.
	Num, NumLo, NumHi float64
	// LoNs and HiNs are nanoseconds to be added to Lo and Hi, for a date with digits
	// beyond the millisecond. HiNs may be negative. In a resource, Lo and Hi are the
	// enclosing milliseconds. In a clause, they are rounded so that every match is
	// also a match in milliseconds.
	LoNs, HiNs int32
	HasSystem  bool // the value was written with "|": System must match even if it is empty
	Prefix     Prefix
	// Comparator is set for a quantity of a resource that stands for all values
	// below or above Num, or, for Between, from NumLo to NumHi.
	Comparator Comparator
	// Unvalued marks an element that is present without anything to compare, such
	// as a reference with only a display. Only :missing depends on it.
	Unvalued bool
	// Part and Group are set for the parts of a composite parameter, see composeParts.
	Part  uint8
	Group uint16
}

// Comparator is Quantity.comparator.
type Comparator uint8

const (
	Exact Comparator = iota
	Less
	LessOrEqual
	GreaterOrEqual
	Greater
	// Between is a Range or SampledData: all values from NumLo to NumHi, both included.
	// An open end is an infinity.
	Between
)

// Clause is one parameter of a query. A resource matches a clause if it matches
// any of its values, and a query if it matches all of its clauses.
type Clause struct {
	Param    *Param
	Modifier Modifier
	Missing  bool
	Values   []Value

	// Joins is set for a chained parameter (subject:Patient.name=x), for _has, and for
	// _list. The store knows no joins: fhir/interaction evaluates them first, each as a
	// search of its own under the caller's Filter, and replaces the clause by Values. A
	// clause whose joins were not evaluated matches nothing.
	Joins []Join
	// Any, if set, makes the clause match the resources that match one of these lists of
	// clauses. It serves _filter and compartments. Param is then AnyOf, and Values is empty.
	Any [][]Clause
	// Not negates the clause.
	Not bool

	// lookup finds values in a long list of Values. It is set by Index.
	lookup *lookup
}

// AnyOf is the Param of a Clause with Any. No resource has values for it.
var AnyOf = &Param{Code: "_filter"} // read only

// Join connects a clause to resources of another type.
type Join struct {
	// Query selects resources of another type.
	Query *Query
	// Reverse is nil for a chained parameter: the Clause's Param refers to a match of
	// Query. For _has it is the parameter of Query.Type that refers to the resource; the
	// Clause's Param is then _id.
	Reverse *Param
	// List is set for _list: Query selects the List, and its current entries are the
	// matches. Reverse is nil.
	List bool
	// Name is the clause as the client wrote it, without its value, for errors.
	Name string
}

// SortKey is one element of _sort.
type SortKey struct {
	Param string // a parameter code, "_id" or "_lastUpdated"
	Desc  bool
}

// Summary is the _summary mode.
type Summary uint8

const (
	SummaryNone Summary = iota
	SummaryTrue
	SummaryText
	SummaryData
	SummaryCount
)

// summaries lists the values of _summary, indexed by Summary.
var summaries = []string{"false", "true", "text", "data", "count"} // read only

// String returns the value of _summary; it is empty for SummaryNone.
func (s Summary) String() string {
	if s == SummaryNone {
		return ""
	}
	return summaries[s]
}

// total is the _total mode.
type total uint8

const (
	TotalNone total = iota
	TotalEstimate
	TotalAccurate
)

// Include is one _include or _revinclude: Source:Param[:Target]. The Param "*"
// stands for all reference parameters of the Source.
type Include struct {
	Source, Param, Target string
	Iterate               bool
}

// Query is a parsed search on one type.
type Query struct {
	Type     string
	Registry *Registry // nil is Builtin
	Clauses  []Clause
	Sort     []SortKey
	Count    int // -1 if not given
	Total    total
	Summary  Summary
	Elements []string
	Includes []Include
	// RevIncludes holds each _revinclude, whose Source is the type of the resources to
	// be included.
	RevIncludes []Include
	// Patient is the id of the only patient that the query can match, if it is
	// limited to one by the type's patient parameter (patient,
	// subject=Patient/x, or _id for Patient).
	Patient string
	// Applied lists the parameters that were applied, in order, for the self link.
	// Ignored lists the names of those dropped by lenient handling.
	Applied [][2]string
	Ignored []string
	// Page is the sealed parameter of a page link, empty on the first page.
	// fhir/interaction opens it and sets After, the position of the last match on
	// the page before.
	Page, After string
}

// Param is the registry entry of one search parameter of one resource type.
type Param struct {
	ResourceType string
	Code         string // for example "patient"
	Type         ParamType
	URL          string // canonical URL of HL7's SearchParameter
	// Targets lists the types that a reference may name. If it is empty, any type
	// is allowed.
	Targets []string
	// Paths holds the alternatives of the FHIRPath expression, compiled by gen.
	Paths []Path
	// Expression holds the alternatives that are not Paths. If there are neither, the
	// parameter is not supported. Of a composite parameter, it selects the elements on
	// which the components are evaluated.
	Expression *fhirpath.Expression
	// Components holds the parts of a composite parameter.
	Components []Component

	in    *typeIndex
	parts []*Param // of a composite parameter that has a Value per part
}

// Component is one part of a composite parameter.
type Component struct {
	URL        string // canonical URL of the SearchParameter that defines its type
	Expression *fhirpath.Expression
}

// Path is one alternative of a parameter's expression.
type Path struct {
	Steps []string // JSON member names from the resource's root
	// Type is the FHIR data type of the last element ("Quantity", "dateTime").
	// Choice elements have one path per type. "exists" stands for the boolean
	// "present and not false".
	Type string
	// Want restricts a reference to a resource type, as where(resolve() is Patient)
	// does.
	Want string
	// WhereMember and WhereValue are a condition on the last element, as in
	// telecom.where(system='phone').
	WhereMember, WhereValue string
}

// Values holds the index values of one resource.
type Values struct {
	// Patient is the id of the patient whose compartment holds the resource. If
	// there are several, it is the first; if there is none, it is empty.
	Patient string
	// Categories holds the codes of Observation.category.
	Categories []string
	// Code is the primary code, by which a patient's documents are clustered:
	// "system|code" of the first coding of Observation.code. It is empty for other
	// types.
	Code string
	// Start and End are the clinical time, [Start, End) in Unix milliseconds. Both
	// are 0 if there is none.
	Start, End int64
	// ByParam holds the values of every registered parameter that has any.
	ByParam map[string][]Value
	// context is the reference in the securityContext of a Binary, and within reports
	// whether it has one. It is not searched for.
	context string
	within  bool
}

// Position is the position of a match in the sort order. It is opaque to callers.
type Position = string

// now returns the current time, on which the prefix ap depends.
type now func() time.Time

// HasJoins reports whether clauses contain joins.
func HasJoins(clauses []Clause) bool {
	return slices.ContainsFunc(clauses, func(c Clause) bool {
		return len(c.Joins) > 0 || slices.ContainsFunc(c.Any, HasJoins)
	})
}
