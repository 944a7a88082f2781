package definitions

import (
	"bytes"
	"compress/gzip"
	_ "embed"
	"encoding/binary"
	"errors"
	"io"
	"slices"
	"strconv"
	"strings"
	"sync"
)

//go:generate go run ./gen -definitions ../../../shared/fixtures/r4/hl7-core-4.0.1 -guides 9.0.0=../../../shared/fixtures/r4/us_core_900.tgz,7.0.0=../../../shared/fixtures/r4/us_core_700.tgz,6.1.0=../../../shared/fixtures/r4/us_core_610.tgz

//go:embed r4.txt.gz
var r4Compressed []byte

// Set is a decoded set of tables.
type Set struct {
	structures map[string]*Structure
	valueSets  map[string]*ValueSet
	names      []string // of the resource types
	elements   map[string]struct{}
}

// Structure returns the structure with a name, or nil. Elements with children
// that are defined in place are named by their path, such as Observation.component.
func (s *Set) Structure(name string) *Structure { return s.structures[name] }

// Resource returns the structure of a resource type, or nil.
func (s *Set) Resource(name []byte) *Structure {
	if st := s.structures[string(name)]; st != nil && st.Kind == Resource {
		return st
	}
	return nil
}

// Len returns the number of structures. Their IDs are smaller.
func (s *Set) Len() int { return len(s.structures) }

// All calls yield for each structure, in no particular order.
func (s *Set) All(yield func(*Structure) bool) {
	for _, st := range s.structures {
		if !yield(st) {
			return
		}
	}
}

// Resources lists the resource types in alphabetical order. The slice is shared
// and must not be changed.
func (s *Set) Resources() []string { return s.names }

// ValueSet returns the value set with a URL, or nil.
func (s *Set) ValueSet(url string) *ValueSet { return s.valueSets[url] }

// ValueSets calls yield for each value set, in no particular order.
func (s *Set) ValueSets(yield func(*ValueSet) bool) {
	for _, v := range s.valueSets {
		if !yield(v) {
			return
		}
	}
}

// IsElement reports whether R4 defines an element of this name. Choice elements
// count with and without their type.
func (s *Set) IsElement(name []byte) bool {
	_, ok := s.elements[string(name)]
	return ok
}

// R4 returns the tables of R4. It decodes them on first use.
var R4 = sync.OnceValue(func() *Set {
	text, err := inflate(r4Compressed)
	if err == nil {
		var s *Set
		if s, err = decode(text); err == nil {
			return s
		}
	}
	panic("definitions: the embedded tables are damaged: " + err.Error()) // a fault of the build
})

// inflate decompresses b. The last four bytes of a gzip file are the size of its
// content (RFC 1952 section 2.3.1).
func inflate(b []byte) (string, error) {
	z, err := gzip.NewReader(bytes.NewReader(b))
	if err != nil {
		return "", err
	}
	out := make([]byte, binary.LittleEndian.Uint32(b[len(b)-4:]))
	_, err = io.ReadFull(z, out)
	return string(out), err
}

var errRecord = errors.New("a record is malformed")

// decoder reads the records of a table.
type decoder struct {
	set        *Set
	invariants []*Invariant
	targets    map[string]*Targets
}

// decode reads the tables. Structures refer to others by name, so the first pass
// collects their names and the second reads their elements.
func decode(text string) (*Set, error) {
	d := &decoder{set: &Set{structures: map[string]*Structure{}, valueSets: map[string]*ValueSet{},
		elements: map[string]struct{}{}}, targets: map[string]*Targets{}}
	var f fields
	var last *Structure
	count := func(elements, members int) {
		if last != nil {
			last.Elements, last.Members = make([]Element, 0, elements), make([]Member, 0, members)
		}
	}
	elements, members := 0, 0
	for rest := text; rest != ""; {
		switch rest = f.read(rest); {
		case f.is('V', 2):
			d.valueSet(&f)
		case f.is('I', 4):
			d.invariants = append(d.invariants, &Invariant{Key: f.field[0], Error: f.field[1] == "error",
				Expression: f.field[2], Human: f.field[3]})
		case f.is('T', 4):
			count(elements, members)
			elements, members = 0, 0
			last = d.structure(&f)
		case f.is('E', 7):
			elements++
			members += 1 + strings.Count(f.field[6], " ")
		default:
			return nil, errRecord
		}
	}
	count(elements, members)
	last = nil
	for rest := text; rest != ""; {
		var err error
		switch rest = f.read(rest); f.kind {
		case 'T':
			last = d.set.structures[f.field[0]]
			last.Invariants, err = d.numbered(f.field[3])
		case 'E':
			if last == nil {
				return nil, errRecord
			}
			err = d.element(last, &f)
		}
		if err != nil {
			return nil, err
		}
	}
	for _, s := range d.set.structures {
		s.buildIndex()
	}
	return d.set, nil
}

// fields holds the fields of a record.
type fields struct {
	kind  byte
	field [8]string
	count int
}

// read reads the first line of text and returns the others. The last field keeps
// the tabs that exceed the array.
func (f *fields) read(text string) string {
	l, rest, _ := strings.Cut(text, "\n")
	f.kind, f.count = 0, 0
	if len(l) < 2 || l[1] != '\t' {
		return rest
	}
	f.kind = l[0]
	l = l[2:]
	for more := true; more && f.count < len(f.field); f.count++ {
		if f.count == len(f.field)-1 {
			f.field[f.count], more = l, false
			continue
		}
		f.field[f.count], l, more = strings.Cut(l, "\t")
	}
	return rest
}

// is reports whether the record has a kind and at least n fields.
func (f *fields) is(kind byte, n int) bool { return f.kind == kind && f.count >= n }

func (d *decoder) structure(f *fields) *Structure {
	s := &Structure{Name: f.field[0], Type: f.field[2], ID: len(d.set.structures)}
	switch f.field[1] {
	case "r":
		s.Kind = Resource
		d.set.names = append(d.set.names, s.Name)
	case "e":
		s.Kind = Backbone
	}
	d.set.structures[s.Name] = s
	return s
}

func (d *decoder) valueSet(f *fields) {
	v := &ValueSet{URL: f.field[0]}
	for _, part := range f.field[1:f.count] {
		url, codes, _ := strings.Cut(part, " ")
		s := System{URL: url, Codes: strings.Split(codes, " ")}
		if strings.Contains(codes, "\u00a0") {
			for i, c := range s.Codes {
				s.Codes[i] = strings.ReplaceAll(c, "\u00a0", " ")
			}
		}
		slices.Sort(s.Codes)
		v.Systems = append(v.Systems, s)
	}
	d.set.valueSets[v.URL] = v
}

// numbered returns the invariants with the given numbers.
func (d *decoder) numbered(list string) ([]*Invariant, error) {
	if list == "" {
		return nil, nil
	}
	out := make([]*Invariant, 0, 1+strings.Count(list, " "))
	for w := range strings.SplitSeq(list, " ") {
		n, err := strconv.Atoi(w)
		if err != nil || n >= len(d.invariants) {
			return nil, errRecord
		}
		out = append(out, d.invariants[n])
	}
	return out, nil
}

// element adds an element and its members to s.
func (d *decoder) element(s *Structure, f *fields) error {
	name, choice := strings.CutSuffix(f.field[0], "[x]")
	lowest, err := strconv.Atoi(f.field[1])
	if err != nil || len(s.Elements) == 63 { // the validator needs a bit for each element
		return errRecord
	}
	inv, err := d.numbered(f.field[5])
	if err != nil {
		return err
	}
	if lowest > 0 {
		s.Required |= 1 << len(s.Elements)
	}
	e := Element{Name: name, Min: lowest, Many: f.field[2] == "*", Invariants: inv,
		Modifier: strings.Contains(f.field[3], "m"), Summary: strings.Contains(f.field[3], "s")}
	d.set.elements[name] = struct{}{}
	for typ := range strings.SplitSeq(f.field[6], " ") {
		typ, targets, _ := strings.Cut(typ, "|")
		typ, bare := strings.CutSuffix(typ, "!")
		m := Member{Name: name, Element: uint8(len(s.Elements)), Many: e.Many, Choice: choice, Bare: bare,
			Primitive: primitives[typ]}
		if choice {
			m.Name = choiceName(name, typ)
			d.set.elements[m.Name] = struct{}{}
		}
		if m.Primitive == NotPrimitive && typ != "Resource" {
			if m.Structure = d.set.structures[typ]; m.Structure == nil {
				return errRecord
			}
		}
		if targets != "" && targets != "Resource" && typ == "Reference" {
			if d.targets[targets] == nil {
				d.targets[targets] = &Targets{strings.Split(targets, "|")}
			}
			m.Targets = d.targets[targets]
		}
		d.bind(&m, f.field[4])
		s.Members = append(s.Members, m)
	}
	s.Elements = append(s.Elements, e)
	s.Constrained = s.Constrained || len(inv) > 0
	return nil
}

// bind sets the required binding of a member.
func (d *decoder) bind(m *Member, url string) {
	if url == "" {
		return
	}
	if m.Primitive == Code {
		switch url[strings.LastIndexByte(url, '/')+1:] {
		case "all-languages":
			m.Primitive = LanguageTag
		case "mimetypes":
			m.Primitive = MediaType
		case "currencies":
			m.Primitive = Currency
		}
	}
	if m.Primitive == Code || m.Structure != nil {
		m.Codes = d.set.valueSets[url]
	}
}

// choiceName returns the JSON name of a choice element with a type. The profiles
// of Quantity that R4 uses as types do not change the name.
func choiceName(base, typ string) string {
	if typ == "SimpleQuantity" || typ == "MoneyQuantity" {
		typ = "Quantity"
	}
	return base + strings.ToUpper(typ[:1]) + typ[1:]
}

var primitives = func() map[string]Primitive { // read only
	m := map[string]Primitive{}
	for p, n := range primitiveNames {
		if n != "" {
			m[n] = Primitive(p)
		}
	}
	return m
}()
