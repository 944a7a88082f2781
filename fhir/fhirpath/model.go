package fhirpath

import (
	_ "embed"
	"strings"
	"sync"
	"unicode"
	"unicode/utf8"
)

//go:generate go run ./gen -definitions ../../../shared/fixtures/r4/hl7-core-4.0.1 -out r4.model

//go:embed r4.model
var modelText string

// typeID identifies a type of FHIR: a resource type, a data type, or the type of a
// backbone element, which has the path of the element as its name.
type typeID int16

const noType typeID = 0 // an element that R4 does not define

// fhirType is a type of FHIR.
type fhirType struct {
	id   typeID
	name string
	kind string // resource, complex, primitive or backbone
	base typeID
	// system is the type in System that values convert to: a primitive type for
	// primitives, KindQuantity for Quantity and its subtypes, or KindElement.
	system Kind
	// elements holds the elements by their name in paths, without [x].
	elements map[string]*element
	// members holds the elements by the names of members in JSON.
	members map[string]member
	// order holds the elements in the order of the definition, those of the base types
	// first.
	order []*element
}

// element is an element of a type. owner is the type that was looked up, even if the
// element is inherited.
type element struct {
	owner  typeID
	name   string
	many   bool
	choice bool
	types  []typeID
}

// member is an element under one of its names in JSON.
type member struct {
	element *element
	typ     typeID
}

type modelTables struct {
	types  []*fhirType // by typeID; the first is nil
	byName map[string]typeID

	resource, domainResource, reference, extension, quantity, xhtml typeID
}

// model returns the tables of R4, built on first use.
var model = sync.OnceValue(func() *modelTables {
	m := &modelTables{types: []*fhirType{{name: ""}}, byName: map[string]typeID{}}
	bases := map[typeID]string{}
	for line := range strings.Lines(modelText) {
		if f := strings.Fields(line); line[0] != '#' && line[0] != ' ' {
			t := &fhirType{id: typeID(len(m.types)), name: f[0], kind: f[1]}
			m.types = append(m.types, t)
			m.byName[t.name] = t.id
			bases[t.id] = f[2]
		}
	}
	for id, name := range bases {
		m.types[id].base = m.byName[name]
	}
	m.addElements()
	m.resource, m.domainResource = m.byName["Resource"], m.byName["DomainResource"]
	m.reference, m.extension = m.byName["Reference"], m.byName["Extension"]
	m.quantity, m.xhtml = m.byName["Quantity"], m.byName["xhtml"]
	for _, t := range m.types[1:] {
		t.system = m.systemKind(t)
	}
	return m
})

// addElements gives each type its own elements and those of its base types.
func (m *modelTables) addElements() {
	own := make([][]element, len(m.types))
	var at typeID
	for line := range strings.Lines(modelText) {
		f := strings.Fields(line)
		switch {
		case line[0] == '#':
		case line[0] != ' ':
			at = m.byName[f[0]]
		default:
			e := element{many: f[1] == "*"}
			e.name, e.choice = strings.CutSuffix(f[0], "[x]")
			for t := range strings.SplitSeq(f[2], "|") {
				e.types = append(e.types, m.byName[t])
			}
			own[at] = append(own[at], e)
		}
	}
	for _, t := range m.types[1:] {
		t.elements, t.members = map[string]*element{}, map[string]member{}
		var chain []typeID
		for id := t.id; id != noType; id = m.types[id].base {
			chain = append(chain, id)
		}
		for i := len(chain) - 1; i >= 0; i-- {
			for _, e := range own[chain[i]] {
				e.owner = t.id
				t.add(m, &e)
			}
		}
	}
}

func (t *fhirType) add(m *modelTables, e *element) {
	t.elements[e.name] = e
	t.order = append(t.order, e)
	if !e.choice {
		t.members[e.name] = member{e, e.types[0]}
		return
	}
	for _, id := range e.types {
		t.members[e.name+title(m.types[id].name)] = member{e, id}
	}
}

func title(s string) string {
	r, n := utf8.DecodeRuneInString(s)
	return string(unicode.ToUpper(r)) + s[n:]
}

// systemKind returns the type in System that values of t convert to.
func (m *modelTables) systemKind(t *fhirType) Kind {
	for id := t.id; id != noType; id = m.types[id].base {
		switch m.types[id].name {
		case "boolean":
			return KindBoolean
		case "integer":
			return KindInteger
		case "decimal":
			return KindDecimal
		case "string", "uri", "base64Binary", "xhtml":
			return KindString
		case "date":
			return KindDate
		case "dateTime", "instant":
			return KindDateTime
		case "time":
			return KindTime
		case "Quantity":
			return KindQuantity
		}
	}
	return KindElement
}

// is reports whether sub is base or derived from it.
func (m *modelTables) is(sub, base typeID) bool {
	for ; sub != noType; sub = m.types[sub].base {
		if sub == base {
			return true
		}
	}
	return false
}

func (m *modelTables) primitive(id typeID) bool { return m.types[id].kind == "primitive" }

// resourceType returns the type of a resource by its name.
func (m *modelTables) resourceType(name string) typeID {
	if id := m.byName[name]; id != noType && m.types[id].kind == "resource" {
		return id
	}
	return noType
}
