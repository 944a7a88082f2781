package r4

import (
	"slices"
	"strings"
	"sync"

	"github.com/valyala/fastjson"

	apb "github.com/google/fhir/go/proto/google/fhir/proto/annotations_go_proto"
	dpb "github.com/google/fhir/go/proto/google/fhir/proto/r4/core/datatypes_go_proto"
	rpb "github.com/google/fhir/go/proto/google/fhir/proto/r4/core/resources/bundle_and_contained_resource_go_proto"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"pulsegate/fhir/element"
)

// dataType classifies the JSON of an element.
type dataType uint8

const (
	delegated dataType = iota // left to google/fhir
	object
	reference
	boolean
	integer
	positiveInt
	unsignedInt
	decimal
	plainText // string, with R4's rules of characters and length
	anyText   // markdown, xhtml
	code
	coded // a code of a closed list
	id
	uri
	date
	dateTime
	instant
	timeOfDay
	oid
	uuid
	languageTag
	mediaType
	currencyCode
)

// primitives maps the names of R4's primitive types. base64Binary is missing:
// it is left to google/fhir.
var primitives = map[protoreflect.Name]dataType{ // read only
	"Boolean": boolean, "Integer": integer, "PositiveInt": positiveInt, "UnsignedInt": unsignedInt, "Decimal": decimal,
	"String": plainText, "Markdown": anyText, "Xhtml": anyText, "Code": code, "Id": id, "Uri": uri, "Url": uri,
	"Canonical": uri,
	"Date":      date, "DateTime": dateTime, "Instant": instant, "Time": timeOfDay,
	"Oid": oid, "Uuid": uuid,
}

// structure is one data type or resource type, compiled from the descriptor
// that google/fhir itself validates with.
type structure struct {
	typ      dataType
	members  map[string]member // by JSON name
	required uint64            // bit set of the slots that must be filled
	codes    map[string]bool   // allowed codes, if typ is coded
	// check holds the invariants of the type; nil when it has none.
	check func(v *fastjson.Value, r reporter)
}

// member is one member of an object. Members with the same slot are the types
// of one choice element; an object may have only one of them.
type member struct {
	structure *structure
	slot      uint8
	repeated  bool
	targets   []string // resource types that a reference may name; nil allows any
}

// structures compiles structures on first use. It is safe for concurrent use.
type structures struct {
	mu        sync.Mutex
	byMessage map[protoreflect.FullName]*structure
	roots     sync.Map        // resource type -> *structure
	types     map[string]bool // resource types that a Reference may name
}

func newStructures() *structures {
	s := &structures{byMessage: map[protoreflect.FullName]*structure{}, types: map[string]bool{}}
	fields := (*dpb.Reference)(nil).ProtoReflect().Descriptor().Oneofs().ByName("reference").Fields()
	for i := range fields.Len() {
		if t, _ := proto.GetExtension(fields.Get(i).Options(), apb.E_ReferencedFhirType).(string); t != "" {
			s.types[t] = true
		}
	}
	return s
}

// of returns the structure of a resource type, or nil if R4 has no such type.
func (s *structures) of(typ string) *structure {
	if v, ok := s.roots.Load(typ); ok {
		return v.(*structure)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	fields := (*rpb.ContainedResource)(nil).ProtoReflect().Descriptor().Oneofs().ByName("oneof_resource").Fields()
	for i := range fields.Len() {
		if m := fields.Get(i).Message(); m != nil && string(m.Name()) == typ {
			st := s.compile(m)
			s.roots.Store(typ, st)
			return st
		}
	}
	return nil
}

// compile returns the structure of a message. It registers the structure before
// it compiles the members, because types may contain themselves.
func (s *structures) compile(m protoreflect.MessageDescriptor) *structure {
	if st := s.byMessage[m.FullName()]; st != nil {
		return st
	}
	st := &structure{}
	s.byMessage[m.FullName()] = st
	switch {
	case isPrimitive(m):
		st.primitive(m)
	case m.FullName().Parent() == "google.protobuf", m.Name() == "ContainedResource":
	case proto.HasExtension(m.Options(), apb.E_FhirReferenceType):
		st.typ = reference
		s.fill(st, m)
	default:
		st.typ = object
		s.fill(st, m)
		st.check = invariants[strings.TrimPrefix(string(m.FullName()), "google.fhir.r4.core.")]
	}
	return st
}

// languageCode is the structure of Resource.language and Attachment.language,
// whose value set is BCP 47 (R4 languages.html).
var languageCode = &structure{typ: languageTag} // read only

// isLanguage reports whether a field of m is bound to BCP 47.
func isLanguage(m protoreflect.MessageDescriptor, f protoreflect.FieldDescriptor) bool {
	kind := proto.GetExtension(m.Options(), apb.E_StructureDefinitionKind)
	return f.JSONName() == "language" &&
		(kind == apb.StructureDefinitionKindValue_KIND_RESOURCE || m.Name() == "Attachment")
}

func isPrimitive(m protoreflect.MessageDescriptor) bool {
	return proto.GetExtension(m.Options(),
		apb.E_StructureDefinitionKind) == apb.StructureDefinitionKindValue_KIND_PRIMITIVE_TYPE
}

func (st *structure) primitive(m protoreflect.MessageDescriptor) {
	if m.ParentFile().Package() == "google.fhir.r4.core" && primitives[m.Name()] != delegated &&
		m.Parent() == m.ParentFile() {
		st.typ = primitives[m.Name()]
		return
	}
	if !proto.HasExtension(m.Options(), apb.E_FhirValuesetUrl) {
		return
	}
	value := m.Fields().ByName("value")
	switch {
	case value == nil:
	case value.Kind() == protoreflect.StringKind:
		switch url, _ := proto.GetExtension(m.Options(), apb.E_FhirValuesetUrl).(string); url {
		case element.HL7 + "ValueSet/mimetypes":
			st.typ = mediaType
		case element.HL7 + "ValueSet/currencies":
			st.typ = currencyCode
		default:
			st.typ = code
		}
	case value.Kind() == protoreflect.EnumKind:
		st.typ, st.codes = coded, map[string]bool{}
		values := value.Enum().Values()
		for i := range values.Len() {
			v := values.Get(i)
			c, _ := proto.GetExtension(v.Options(), apb.E_FhirOriginalCode).(string)
			if c == "" {
				c = strings.ReplaceAll(strings.ToLower(string(v.Name())), "_", "-")
			}
			if v.Number() != 0 {
				st.codes[c] = true
			}
		}
	}
}

// fill adds the members of an object.
func (s *structures) fill(st *structure, m protoreflect.MessageDescriptor) {
	st.members = map[string]member{}
	fields := m.Fields()
	if fields.Len() > 63 && st.typ == object {
		st.typ = delegated
		return
	}
	slot := uint8(0)
	for i := range fields.Len() {
		f := fields.Get(i)
		if f.Message() == nil || st.typ == reference && f.ContainingOneof() != nil && f.Name() != "uri" {
			continue // internal to google/fhir: the targets of a Reference by type
		}
		if proto.GetExtension(f.Options(), apb.E_ValidationRequirement) == apb.Requirement_REQUIRED_BY_FHIR {
			st.required |= 1 << slot
		}
		if choice, _ := proto.GetExtension(f.Message().Options(), apb.E_IsChoiceType).(bool); choice {
			kinds := f.Message().Fields()
			for j := range kinds.Len() {
				k := kinds.Get(j)
				name := f.JSONName() + strings.ToUpper(k.JSONName()[:1]) + k.JSONName()[1:]
				st.members[name] = member{s.compile(k.Message()), slot, k.IsList(), targets(k)}
			}
		} else if isLanguage(m, f) {
			st.members[f.JSONName()] = member{languageCode, slot, false, nil}
		} else {
			st.members[f.JSONName()] = member{s.compile(f.Message()), slot, f.IsList(), targets(f)}
		}
		slot++
	}
}

func targets(f protoreflect.FieldDescriptor) []string {
	t, _ := proto.GetExtension(f.Options(), apb.E_ValidReferenceType).([]string)
	if slices.Contains(t, "Resource") {
		return nil
	}
	return t
}
