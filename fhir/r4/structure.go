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
)

// form is what the JSON of a data type looks like.
type form uint8

const (
	unsure form = iota // google/fhir is asked
	object
	reference
	boolean
	integer
	positiveInt
	unsignedInt
	decimal
	plainText // string, with R4's rules of characters and length
	free      // markdown, xhtml
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

// primitives are the forms of R4's primitive types by name. Those that are
// not here (base64Binary, oid, uuid) are left to google/fhir.
var primitives = map[protoreflect.Name]form{ // read only
	"Boolean": boolean, "Integer": integer, "PositiveInt": positiveInt, "UnsignedInt": unsignedInt, "Decimal": decimal,
	"String": plainText, "Markdown": free, "Xhtml": free, "Code": code, "Id": id, "Uri": uri, "Url": uri,
	"Canonical": uri,
	"Date":      date, "DateTime": dateTime, "Instant": instant, "Time": timeOfDay,
	"Oid": oid, "Uuid": uuid,
}

// shape is one data type or resource type, compiled from the descriptor that
// google/fhir itself validates with.
type shape struct {
	form     form
	members  map[string]member // by JSON name
	required uint64            // slots that must be filled
	codes    map[string]bool   // of a coded form
	// check holds the invariants of the type; nil when it has none.
	check func(v *fastjson.Value, r reporter)
}

// member is one member of an object. Members of the same slot are the types
// of one choice, of which one may be there.
type member struct {
	shape    *shape
	slot     uint8
	repeated bool
	targets  []string // resource types of a reference; nil: any
}

// shapes compiles on first use.
type shapes struct {
	mu        sync.Mutex
	byMessage map[protoreflect.FullName]*shape
	roots     sync.Map        // resource type -> *shape
	types     map[string]bool // that a Reference may name
}

func newShapes() *shapes {
	s := &shapes{byMessage: map[protoreflect.FullName]*shape{}, types: map[string]bool{}}
	fields := (*dpb.Reference)(nil).ProtoReflect().Descriptor().Oneofs().ByName("reference").Fields()
	for i := range fields.Len() {
		if t, _ := proto.GetExtension(fields.Get(i).Options(), apb.E_ReferencedFhirType).(string); t != "" {
			s.types[t] = true
		}
	}
	return s
}

// of is the shape of a resource type, nil when there is none.
func (s *shapes) of(typ string) *shape {
	if v, ok := s.roots.Load(typ); ok {
		return v.(*shape)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	fields := (*rpb.ContainedResource)(nil).ProtoReflect().Descriptor().Oneofs().ByName("oneof_resource").Fields()
	for i := range fields.Len() {
		if m := fields.Get(i).Message(); m != nil && string(m.Name()) == typ {
			sh := s.compile(m)
			s.roots.Store(typ, sh)
			return sh
		}
	}
	return nil
}

// compile returns the shape of a message; a type that holds itself meets the
// shape that is being made.
func (s *shapes) compile(m protoreflect.MessageDescriptor) *shape {
	if sh := s.byMessage[m.FullName()]; sh != nil {
		return sh
	}
	sh := &shape{}
	s.byMessage[m.FullName()] = sh
	switch {
	case isPrimitive(m):
		sh.primitive(m)
	case m.FullName().Parent() == "google.protobuf", m.Name() == "ContainedResource":
	case proto.HasExtension(m.Options(), apb.E_FhirReferenceType):
		sh.form = reference
		s.fill(sh, m)
	default:
		sh.form = object
		s.fill(sh, m)
		sh.check = invariants[strings.TrimPrefix(string(m.FullName()), "google.fhir.r4.core.")]
	}
	return sh
}

// tagged47 is the shape of a code that is a language tag: Resource.language and
// Attachment.language, whose value set is BCP 47 (R4 languages.html).
var tagged47 = &shape{form: languageTag} // read only

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

func (sh *shape) primitive(m protoreflect.MessageDescriptor) {
	if m.ParentFile().Package() == "google.fhir.r4.core" && primitives[m.Name()] != unsure &&
		m.Parent() == m.ParentFile() {
		sh.form = primitives[m.Name()]
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
		case "http://hl7.org/fhir/ValueSet/mimetypes":
			sh.form = mediaType
		case "http://hl7.org/fhir/ValueSet/currencies":
			sh.form = currencyCode
		default:
			sh.form = code
		}
	case value.Kind() == protoreflect.EnumKind:
		sh.form, sh.codes = coded, map[string]bool{}
		values := value.Enum().Values()
		for i := range values.Len() {
			v := values.Get(i)
			c, _ := proto.GetExtension(v.Options(), apb.E_FhirOriginalCode).(string)
			if c == "" {
				c = strings.ReplaceAll(strings.ToLower(string(v.Name())), "_", "-")
			}
			if v.Number() != 0 {
				sh.codes[c] = true
			}
		}
	}
}

// fill adds the members of an object.
func (s *shapes) fill(sh *shape, m protoreflect.MessageDescriptor) {
	sh.members = map[string]member{}
	fields := m.Fields()
	if fields.Len() > 63 && sh.form == object {
		sh.form = unsure
		return
	}
	slot := uint8(0)
	for i := range fields.Len() {
		f := fields.Get(i)
		if f.Message() == nil || sh.form == reference && f.ContainingOneof() != nil && f.Name() != "uri" {
			continue // what google/fhir keeps for itself: the targets of a Reference by type
		}
		if proto.GetExtension(f.Options(), apb.E_ValidationRequirement) == apb.Requirement_REQUIRED_BY_FHIR {
			sh.required |= 1 << slot
		}
		if choice, _ := proto.GetExtension(f.Message().Options(), apb.E_IsChoiceType).(bool); choice {
			kinds := f.Message().Fields()
			for j := range kinds.Len() {
				k := kinds.Get(j)
				name := f.JSONName() + strings.ToUpper(k.JSONName()[:1]) + k.JSONName()[1:]
				sh.members[name] = member{s.compile(k.Message()), slot, k.IsList(), targets(k)}
			}
		} else if isLanguage(m, f) {
			sh.members[f.JSONName()] = member{tagged47, slot, false, nil}
		} else {
			sh.members[f.JSONName()] = member{s.compile(f.Message()), slot, f.IsList(), targets(f)}
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
