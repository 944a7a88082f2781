package search

import (
	"time"

	"pulsegate/fhir"
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
	TypeComposite // known, refused as not supported
	TypeSpecial
)

// Prefix is a comparison of date, number and quantity parameters.
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

// Modifier is what follows the colon of a parameter name.
type Modifier uint8

const (
	NoModifier    Modifier = iota
	ModNot                 // token :not
	ModMissing             // any :missing=true|false (then Clause.Missing holds the wanted answer)
	ModExact               // string :exact
	ModContains            // string :contains
	ModText                // token :text (display or text, as string prefix)
	ModType                // reference :Patient (then the values carry RefType)
	ModIdentifier          // reference :identifier (token on Reference.identifier)
)

// Value is one wanted value of a clause, or one index value of a resource.
// Which fields count follows from the Kind of the parameter.
type Value struct {
	// token, uri (Code), string (Code, as written; compare with Fold)
	System string
	Code   string
	// date: the half-open interval [Lo, Hi) in Unix milliseconds that the
	// written precision covers; an open end is math.MinInt64 / MaxInt64.
	Lo, Hi int64
	// reference: RefType and RefID of a local reference, else URI in Code. A
	// logical reference (Reference.identifier) is a value of its own, with
	// HasSystem set and the identifier in System and Code.
	RefType, RefID string
	// Text: token: display or text, folded, for :text (a CodeableConcept.text
	// without coding is a value whose Code is empty: no index row needed);
	// string: Fold(Code); quantity: the unit as written for people.
	Text string
	// quantity and number: [NumLo, NumHi) from the written precision, Num as
	// written; System and Code hold the unit.
	Num, NumLo, NumHi float64
	// LoNs and HiNs are nanoseconds to be added to the ends of the interval of
	// a date that has digits beyond the millisecond; HiNs may be negative. Of a
	// resource, Lo and Hi are the milliseconds around it; of a clause, they are
	// rounded so that every match also matches by the millisecond.
	LoNs, HiNs int32
	HasSystem  bool // "|" was written: System is exact even when empty
	Prefix     Prefix
	// Comparator of a quantity of a resource: the quantity is every value
	// less or greater than Num. Exact is 0.
	Comparator Comparator
	// Unvalued marks an element of a resource that is there without anything
	// to compare, such as a reference with a display alone. It matters to
	// :missing only.
	Unvalued bool
}

// Comparator is Quantity.comparator.
type Comparator uint8

const (
	Exact Comparator = iota
	Less
	LessOrEqual
	GreaterOrEqual
	Greater
)

// Clause is one parameter of a query: Values are ORed, clauses ANDed.
type Clause struct {
	Param    *Param
	Modifier Modifier
	Missing  bool
	Values   []Value
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

// summaries are the values of _summary, by Summary.
var summaries = []string{"false", "true", "text", "data", "count"} // read only

// String returns the value of _summary; it is empty for SummaryNone.
func (s Summary) String() string {
	if s == SummaryNone {
		return ""
	}
	return summaries[s]
}

// Total is the _total mode.
type Total uint8

const (
	TotalNone Total = iota
	TotalEstimate
	TotalAccurate
)

// Include is one _include: Source:Param[:Target].
type Include struct {
	Source, Param, Target string
	Iterate               bool
}

// Query is a parsed search on one type.
type Query struct {
	Type     string
	Clauses  []Clause
	Sort     []SortKey
	Count    int // -1: not given
	Total    Total
	Summary  Summary
	Elements []string
	Includes []Include
	// Patient is set when the query is limited to exactly one patient by the
	// type's patient parameter (patient, subject=Patient/x, or _id on
	// Patient): the patient-first path.
	Patient string
	// Applied are the parameters that were honoured, in order, as they go
	// into the self link; Ignored those dropped under lenient handling.
	Applied [][2]string
	Ignored []string
	// Page is the sealed parameter of a page link; "" on a first page. Who made
	// it reads it, and sets After: the position behind which to go on.
	Page, After string
}

// Param is one search parameter of one resource type (registry entry).
type Param struct {
	ResourceType string // resource type
	Code         string // "patient"
	Type         ParamType
	URL          string // canonical of HL7's SearchParameter
	// Targets are the types a reference may name; none: any.
	Targets []string
	// Paths are the compiled FHIRPath alternatives (see gen); none:
	// the parameter is known and not supported.
	Paths []Path
}

// Path is one alternative of a parameter's expression.
type Path struct {
	Steps []string // JSON member names from the resource's root
	// Type is the FHIR data type at the end ("Quantity", "dateTime", ...);
	// choice elements are expanded, one path for each type. "exists" is the
	// boolean "is there, and not false".
	Type string
	// Want restricts a reference to a resource type: where(resolve() is
	// Patient).
	Want string
	// WhereMember is a member=value condition on the element at the end
	// (telecom.where(system='phone')).
	WhereMember, WhereValue string
}

// Values are the index values of one resource.
type Values struct {
	// Patient is the id of the patient whose compartment holds the resource
	// ("" none; the first, when there are several).
	Patient string
	// Categories are the codes of Observation.category.
	Categories []string
	// Code is the primary code by which documents of a patient are
	// clustered: "system|code" of the first coding of Observation.code; the
	// empty string for types without one.
	Code string
	// Start and End are the clinical time, [Start, End) in Unix
	// milliseconds; both 0 when there is none.
	Start, End int64
	// ByParam holds the values of every registered parameter that has any.
	ByParam map[string][]Value
}

// Position of a match in the sort order, opaque to callers.
type Position = string

// Now is handed in where a default depends on the time (prefix ap).
type Now func() time.Time

var _ = fhir.Types // the vocabulary this package speaks
