package definitions

// Primitive is the type of a primitive element.
type Primitive uint8

// The primitive types of R4. LanguageTag, MediaType and Currency are codes with
// value sets that are not enumerable (BCP 47, BCP 13 and ISO 4217).
const (
	NotPrimitive Primitive = iota
	Boolean
	Integer
	PositiveInt
	UnsignedInt
	Decimal
	String
	Markdown
	XHTML
	Code
	ID
	URI
	URL
	Canonical
	OID
	UUID
	Base64
	Date
	DateTime
	Instant
	Time
	LanguageTag
	MediaType
	Currency
)

var primitiveNames = [...]string{ // read only
	Boolean: "boolean", Integer: "integer", PositiveInt: "positiveInt", UnsignedInt: "unsignedInt",
	Decimal: "decimal", String: "string", Markdown: "markdown", XHTML: "xhtml", Code: "code", ID: "id", URI: "uri",
	URL: "url", Canonical: "canonical", OID: "oid", UUID: "uuid", Base64: "base64Binary", Date: "date",
	DateTime: "dateTime", Instant: "instant", Time: "time",
}

// String returns the name of the type in R4.
func (p Primitive) String() string {
	switch p {
	case NotPrimitive:
		return ""
	case LanguageTag, MediaType, Currency:
		return "code"
	}
	return primitiveNames[p]
}

// JSON returns the kind of JSON value that p has: 't' for true and false, '0' for
// a number, '"' for a string.
func (p Primitive) JSON() byte {
	switch p {
	case Boolean:
		return 't'
	case Integer, PositiveInt, UnsignedInt, Decimal:
		return '0'
	}
	return '"'
}

// Kind is the kind of a structure.
type Kind uint8

const (
	DataType Kind = iota
	Backbone      // an element with children that are defined in place
	Resource
)

// Structure is a resource type, a data type, or an element with children that
// are defined in place.
type Structure struct {
	Name string // "Observation", "Observation.component", "Quantity"
	ID   int    // numbers the structures of a Set from 0
	// Type is the name of the type in R4: "Quantity" for SimpleQuantity,
	// "BackboneElement" or "Element" for an element.
	Type string
	Kind Kind
	// Elements are in the order of the definition, Members too: a choice element
	// has a member for each type.
	Elements []Element
	Members  []Member
	// Required has a bit for each element with a minimum cardinality of 1. The
	// number of the bit is the index of the element.
	Required   uint64
	Invariants []*Invariant
	// Constrained is set if an element has invariants of its value (Element.Invariants).
	Constrained bool

	index []uint16 // open hash table of 1 + the index of a member
}

// Element is an element of a structure. A choice element has several types.
type Element struct {
	Name       string // without the type: "value" for value[x]
	Min        int
	Many       bool // the maximum cardinality is *
	Modifier   bool
	Summary    bool
	Invariants []*Invariant // the focus is the value of the element
}

// Member is a member of a JSON object: an element, or an element with one of
// the types of a choice.
type Member struct {
	Name    string // "valueQuantity"
	Element uint8  // index in Structure.Elements
	Many    bool
	Choice  bool // one of the types of a choice element
	Bare    bool // a primitive that cannot have an id or extensions, such as Element.id
	// Primitive is the type if it is primitive. Structure is the type if it is not.
	// Both are zero if the type is Resource.
	Primitive Primitive
	Structure *Structure
	// Targets are the resource types that a Reference may have as its target. A nil
	// Targets allows all.
	Targets *Targets
	// Codes is the required binding. It is nil if there is none, or if the codes are
	// not enumerable.
	Codes *ValueSet
}

// TypeName returns the name of the member's type in R4.
func (m *Member) TypeName() string {
	switch {
	case m.Structure != nil:
		return m.Structure.Type
	case m.Primitive != NotPrimitive:
		return m.Primitive.String()
	}
	return "Resource"
}

// Invariant is a constraint with a FHIRPath expression.
type Invariant struct {
	Key        string
	Error      bool // severity error, otherwise warning
	Expression string
	Human      string
}

// Targets is a set of resource types.
type Targets struct{ names []string }

// Has reports whether a resource type is in the set.
func (t *Targets) Has(typ string) bool {
	for _, n := range t.names {
		if n == typ {
			return true
		}
	}
	return false
}

// Names returns the resource types. The slice is shared and must not be changed.
func (t *Targets) Names() []string { return t.names }

// ValueSet is a set of codes.
type ValueSet struct {
	URL     string
	Systems []System
}

// System is the part of a ValueSet that belongs to a code system.
type System struct {
	URL   string
	Codes []string // sorted
}

// has searches the codes. It is written out because comparing with string(code) in
// place does not allocate.
func (s *System) has(code []byte) bool {
	low, high := 0, len(s.Codes)
	for low < high {
		if mid := (low + high) / 2; s.Codes[mid] < string(code) {
			low = mid + 1
		} else {
			high = mid
		}
	}
	return low < len(s.Codes) && s.Codes[low] == string(code)
}

// HasCode reports whether one of the systems has the code. It is meant for
// elements of type code, which have no system.
func (v *ValueSet) HasCode(code []byte) bool {
	for i := range v.Systems {
		if v.Systems[i].has(code) {
			return true
		}
	}
	return false
}

// Units reports whether the value set has only units of UCUM. It then binds the units of
// Quantities and nothing else.
func (v *ValueSet) Units() bool {
	return len(v.Systems) == 1 && v.Systems[0].URL == "http://unitsofmeasure.org"
}

// Has reports whether the code of a system is in the value set.
func (v *ValueSet) Has(system, code []byte) bool {
	for i := range v.Systems {
		if s := &v.Systems[i]; s.URL == string(system) && s.has(code) {
			return true
		}
	}
	return false
}

// Lookup returns the member with a JSON name, or nil. It does not find names
// with a leading underscore.
func (s *Structure) Lookup(name []byte) *Member {
	if len(name) == 0 || len(name) > 255 {
		return nil
	}
	mask := uint32(len(s.index) - 1)
	for h := hash(name) & mask; ; h = (h + 1) & mask {
		i := s.index[h]
		if i == 0 {
			return nil
		}
		if m := &s.Members[i-1]; m.Name == string(name) {
			return m
		}
	}
}

// LookupString is Lookup for a string.
func (s *Structure) LookupString(name string) *Member { return s.Lookup([]byte(name)) }

// hash mixes the length and three bytes of a name, which tell apart nearly all
// names of a structure.
func hash(name []byte) uint32 {
	n := len(name)
	h := uint32(n) | uint32(name[0])<<8 | uint32(name[n-1])<<16 | uint32(name[n/2])<<24
	h *= 0x9E3779B1
	return h>>15 ^ h
}

func (s *Structure) buildIndex() {
	n := 4
	for n < 2*len(s.Members) {
		n *= 2
	}
	s.index = make([]uint16, n)
	for i := range s.Members {
		h := hash([]byte(s.Members[i].Name)) & uint32(n-1)
		for s.index[h] != 0 {
			h = (h + 1) & uint32(n-1)
		}
		s.index[h] = uint16(i + 1)
	}
}
