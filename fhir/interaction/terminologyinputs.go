package interaction

import (
	"encoding/json"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"pulsegate/fhir"
	"pulsegate/fhir/element"
)

// codeInputs holds the inputs of an operation on terminology.
type codeInputs struct {
	values   map[string][]string
	codings  map[string]element.Coding
	concept  *element.CodeableConcept
	resource json.RawMessage
}

// codeSignature lists the parameters of an operation, as R4 defines them.
type codeSignature struct {
	single, several []string // primitives
	codings         []string
	concept         bool   // takes codeableConcept
	resource        string // name of the parameter that is a resource, or ""
	// unsupported lists parameters of R4 that this server does not support: they would
	// change the answer, so that ignoring them would make it wrong.
	unsupported []string
}

const (
	maxCodeInput    = 2048 // bytes of a value
	maxInputCodings = 50
)

func (g *codeSignature) read(op string, ps []Parameter) (*codeInputs, error) {
	in := &codeInputs{values: map[string][]string{}, codings: map[string]element.Coding{}}
	for i := range ps {
		p := &ps[i]
		if p.Name == "_format" || p.Name == "_pretty" {
			continue
		}
		if slices.Contains(g.unsupported, p.Name) {
			return nil, &fhir.Error{Kind: fhir.Invalid, Op: op, Issues: []fhir.Issue{{Code: "not-supported",
				Diagnostics: "the parameter " + p.Name + " is not supported; leave it out"}}}
		}
		if err := g.one(op, in, p); err != nil {
			return nil, err
		}
	}
	return in, nil
}

func (g *codeSignature) one(op string, in *codeInputs, p *Parameter) error {
	want, ok, again := "", false, false
	switch {
	case slices.Contains(g.codings, p.Name):
		want = "a Coding, in a URL system|code"
		_, again = in.codings[p.Name]
		c := p.Coding
		if c == nil && p.primitive() {
			system, code, cut := strings.Cut(p.Value, "|")
			if !cut {
				system, code = "", p.Value
			}
			c = &element.Coding{System: system, Code: code}
		}
		if ok = c != nil && validCoding(c); ok {
			in.codings[p.Name] = *c
		}
	case g.concept && p.Name == "codeableConcept":
		want = "a CodeableConcept with 1 to " + strconv.Itoa(maxInputCodings) + " codings"
		again = in.concept != nil
		ok = p.Concept != nil && len(p.Concept.Coding) > 0 && len(p.Concept.Coding) <= maxInputCodings
		for i := 0; ok && i < len(p.Concept.Coding); i++ {
			ok = validCoding(&p.Concept.Coding[i])
		}
		in.concept = p.Concept
	case g.resource != "" && p.Name == g.resource:
		want = "a resource, in the body of a POST"
		again = in.resource != nil
		ok = p.Resource != nil
		in.resource = p.Resource
	case slices.Contains(g.single, p.Name), slices.Contains(g.several, p.Name):
		want = "a text of at most " + strconv.Itoa(maxCodeInput) + " bytes"
		ok = p.primitive() && p.Value != "" && len(p.Value) <= maxCodeInput && utf8.ValidString(p.Value)
		again = slices.Contains(g.single, p.Name) && len(in.values[p.Name]) > 0
		in.values[p.Name] = append(in.values[p.Name], p.Value)
	default:
		names := slices.Concat(g.single, g.several, g.codings)
		if g.concept {
			names = append(names, "codeableConcept")
		}
		if g.resource != "" {
			names = append(names, g.resource)
		}
		return fhir.Errorf(fhir.Invalid, op, "a parameter is not supported; the operation takes %s", strings.Join(names, ", "))
	}
	switch {
	case !ok:
		return fhir.Errorf(fhir.Invalid, op, "%s must be %s", p.Name, want)
	case again:
		return fhir.Errorf(fhir.Invalid, op, "%s is given more than once; give it once", p.Name)
	}
	return nil
}

func validCoding(c *element.Coding) bool {
	return c.Code != "" && len(c.Code) <= maxCodeInput && len(c.System) <= maxCodeInput && utf8.ValidString(c.Code) &&
		utf8.ValidString(c.System)
}

// text returns a single value, or "".
func (in *codeInputs) text(name string) string {
	if v := in.values[name]; len(v) > 0 {
		return v[0]
	}
	return ""
}

// flag returns a boolean, false by default.
func (in *codeInputs) flag(op, name string) (bool, error) {
	switch v := in.text(name); v {
	case "", "false":
		return false, nil
	case "true":
		return true, nil
	}
	return false, fhir.Errorf(fhir.Invalid, op, "%s must be true or false", name)
}

// number returns a whole number, or absent.
func (in *codeInputs) number(op, name string, absent int) (int, error) {
	v := in.text(name)
	if v == "" {
		return absent, nil
	}
	n, err := strconv.Atoi(v)
	if err != nil || n < 0 || n > 1<<30 {
		return 0, fhir.Errorf(fhir.Invalid, op, "%s must be a whole number, 0 or greater", name)
	}
	return n, nil
}

// asked returns the codes in question: one of code (with system), coding and
// codeableConcept. Display is that of the code.
func (in *codeInputs) asked(op, systemName string) ([]element.Coding, error) {
	var out []element.Coding
	ways := 0
	if code := in.text("code"); code != "" {
		ways++
		system := in.text(systemName)
		if system == "" {
			return nil, fhir.Errorf(fhir.Invalid, op, "code needs %s", systemName)
		}
		out = []element.Coding{{System: system, Code: code, Display: in.text("display")}}
	}
	if c, ok := in.codings["coding"]; ok {
		ways++
		out = []element.Coding{c}
	}
	if in.concept != nil {
		ways++
		out = in.concept.Coding
	}
	if ways != 1 {
		return nil, &fhir.Error{Kind: fhir.Invalid, Op: op, Issues: []fhir.Issue{{Code: "required",
			Diagnostics: "the operation needs a code: one of code, coding and, if it takes one, codeableConcept"}}}
	}
	return out, nil
}

// parametersWriter writes a Parameters resource.
type parametersWriter struct{ json []byte }

func newParameters() *parametersWriter {
	return &parametersWriter{[]byte(`{"resourceType":"Parameters","parameter":[`)}
}

func (r *parametersWriter) next() {
	if r.json[len(r.json)-1] != '[' {
		r.json = append(r.json, ',')
	}
}

// add adds a parameter whose value has a type, such as valueString, and is JSON.
func (r *parametersWriter) add(name, typ string, value []byte) {
	r.next()
	r.json = append(r.json, `{"name":"`+name+`","`+typ+`":`...)
	r.json = append(append(r.json, value...), '}')
}

// text adds a parameter, unless the text is empty.
func (r *parametersWriter) text(name, typ, value string) {
	if value != "" {
		r.add(name, typ, element.AppendString(nil, value))
	}
}

func (r *parametersWriter) flag(name string, value bool) {
	r.add(name, "valueBoolean", strconv.AppendBool(nil, value))
}

// begin begins a parameter with parts, and end ends it.
func (r *parametersWriter) begin(name string) {
	r.next()
	r.json = append(r.json, `{"name":"`+name+`","part":[`...)
}

func (r *parametersWriter) end() { r.json = append(r.json, "]}"...) }

func (r *parametersWriter) bytes() []byte { return append(r.json, "]}"...) }

func codingJSON(c element.Coding) []byte { return c.Append(nil, element.AppendString) }
