package wire

import (
	"bytes"
	"encoding/json"
	"reflect"
	"strconv"
	"testing"

	"pgregory.net/rapid"

	"pulsegate/fhir/definitions"
)

// generator draws resources of any type by the tables, with all that JSON and XML
// express differently: attributes, choices, arrays with nulls, ids and extensions of
// primitives, narrative, and resources in resources.
type generator struct {
	t     *rapid.T
	b     bytes.Buffer
	depth int
}

func (g *generator) chance(n int) bool { return rapid.IntRange(0, n-1).Draw(g.t, "chance") == 0 }

func (g *generator) resource() {
	types := definitions.R4().Resources()
	st := definitions.R4().Structure(rapid.SampledFrom(types).Draw(g.t, "type"))
	g.b.WriteString(`{"resourceType":"` + st.Name + `"`)
	g.members(st, true)
	g.b.WriteByte('}')
}

func (g *generator) name(first *bool, prefix, name string) {
	if !*first {
		g.b.WriteByte(',')
	}
	*first = false
	g.b.WriteString(`"` + prefix + name + `":`)
}

// members writes some members, and at least one unless begun is set.
func (g *generator) members(st *definitions.Structure, begun bool) {
	g.depth++
	defer func() { g.depth-- }()
	first := !begun
	order := rapid.Permutation(indexes(len(st.Members))).Draw(g.t, "order")
	taken := map[uint8]bool{}
	for i, j := range order {
		m := &st.Members[j]
		must := i == len(order)-1 && first
		if taken[m.Element] || !must && !g.chance(3+g.depth*2) {
			continue
		}
		leaf := m.Primitive != definitions.NotPrimitive
		if g.depth > 4 && !leaf && !must {
			continue
		}
		taken[m.Element] = true
		g.member(&first, m)
	}
}

func indexes(n int) []int {
	out := make([]int, n)
	for i := range out {
		out[i] = i
	}
	return out
}

func (g *generator) member(first *bool, m *definitions.Member) {
	n := 1
	if m.Many {
		n = rapid.IntRange(1, 3).Draw(g.t, "count")
	}
	if m.Primitive == definitions.NotPrimitive {
		g.name(first, "", m.Name)
		g.array(m.Many, n, func(int) {
			if m.Structure == nil {
				g.resource()
				return
			}
			g.b.WriteByte('{')
			g.members(m.Structure, false)
			g.b.WriteByte('}')
		})
		return
	}
	// values and shadows say which of the two an element has.
	values, shadows := make([]bool, n), make([]bool, n)
	anyValue, anyShadow := false, false
	for i := range n {
		shadows[i] = !m.Bare && g.depth < 5 && g.chance(4)
		values[i] = !shadows[i] || g.chance(2)
		anyValue, anyShadow = anyValue || values[i], anyShadow || shadows[i]
	}
	if anyValue {
		g.name(first, "", m.Name)
		g.array(m.Many, n, func(i int) {
			if !values[i] {
				g.b.WriteString("null")
				return
			}
			g.primitive(m.Primitive)
		})
	}
	if anyShadow {
		g.name(first, "_", m.Name)
		g.array(m.Many, n, func(i int) {
			if !shadows[i] {
				g.b.WriteString("null")
				return
			}
			g.b.WriteByte('{')
			g.members(definitions.R4().Structure("Element"), false)
			g.b.WriteByte('}')
		})
	}
}

func (g *generator) array(many bool, n int, element func(i int)) {
	if !many {
		element(0)
		return
	}
	g.b.WriteByte('[')
	for i := range n {
		if i > 0 {
			g.b.WriteByte(',')
		}
		element(i)
	}
	g.b.WriteByte(']')
}

func (g *generator) primitive(p definitions.Primitive) {
	switch p.JSON() {
	case 't':
		g.b.WriteString(strconv.FormatBool(g.chance(2)))
	case '0':
		g.b.WriteString(rapid.SampledFrom([]string{"0", "1.00", "-3.10", "1e10", "2.50E-7", "100", "0.000", "-0",
			"12345678901234567890.1234567890"}).Draw(g.t, "number"))
	default:
		s := rapid.StringOfN(rapid.SampledFrom(
			[]rune("aZ09 \n\t\r\"'\\<>&/;#é\u00a0\u2028\U0001F600\uFFFD\u0085\u007f]")),
			1, 12, -1).Draw(g.t, "string")
		if p == definitions.XHTML {
			s = `<div xmlns="` + xhtmlURI + `"><p title="` + escaped(s) + `">` + escaped(s) +
				"<br/>\r\n<!-- c --> &#160;</p></div>"
		}
		j, err := json.Marshal(s)
		if err != nil {
			panic(err)
		}
		g.b.Write(j)
	}
}

func escaped(s string) string {
	var out []byte
	for _, r := range s {
		switch r {
		case '>':
			out = append(out, "&gt;"...)
		case '\n', '\t', '\r':
			out = append(out, byte(r))
		default:
			out = appendEscaped(out, r)
		}
	}
	return string(out)
}

// TestProperty converts resources with members in any order to XML and back.
func TestProperty(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		g := generator{t: t}
		g.resource()
		b := g.b.Bytes()
		var x bytes.Buffer
		e := Encoder{Indent: g.chance(2)}
		if err := e.Encode(&x, b); err != nil {
			t.Fatalf("%v: %s", err, b)
		}
		back, err := FromXML(x.Bytes())
		if err != nil {
			t.Fatalf("%v: %s", err, x.Bytes())
		}
		want, got := parse(t, b), parse(t, back)
		if !reflect.DeepEqual(want, got) {
			t.Fatalf("JSON changed\n%s\n%s\n%s", b, x.Bytes(), back)
		}
	})
}

// parse is tree for rapid.
func parse(t *rapid.T, b []byte) any {
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.UseNumber()
	var v any
	if err := dec.Decode(&v); err != nil {
		t.Fatalf("%v: %s", err, b)
	}
	return v
}

// TestParts cuts a Bundle into parts anywhere in strings and between tokens. The XML
// must be that of the whole Bundle.
func TestParts(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		g := generator{t: t}
		g.b.WriteString(`{"resourceType":"Bundle","id":"b","type":"searchset","total":3, "link":[{"relation":"self",` +
			`"url":"https://pulsegate.example/fhir/Patient?name=\"x\""}],"entry" : [`)
		for i := range rapid.IntRange(0, 4).Draw(t, "entries") {
			if i > 0 {
				g.b.WriteByte(',')
			}
			g.b.WriteString(`{"fullUrl":"urn:uuid:1","resource":`)
			g.resource()
			g.b.WriteString(` ,"search":{"mode":"match"}}`)
		}
		g.b.WriteString(`] }`)
		b := g.b.Bytes()
		var parts [][]byte
		for rest := b; ; {
			n := rapid.IntRange(0, len(rest)).Draw(t, "part")
			parts = append(parts, rest[:n])
			if rest = rest[n:]; len(rest) == 0 {
				break
			}
			if len(parts) > 20 {
				parts = append(parts, rest)
				break
			}
		}
		var whole, cut bytes.Buffer
		var e Encoder
		if err := e.Encode(&whole, b); err != nil {
			t.Fatal(err)
		}
		if err := e.Encode(&cut, append(parts, nil)...); err != nil {
			t.Fatalf("%v: %q", err, parts)
		}
		if !bytes.Equal(whole.Bytes(), cut.Bytes()) {
			t.Fatalf("%s\n%s", whole.Bytes(), cut.Bytes())
		}
	})
}
