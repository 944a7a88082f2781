package crosscheck

import (
	"strings"
	"testing"

	"pulsegate/fhir/definitions"
)

// samples holds a valid value of each primitive type.
var samples = map[definitions.Primitive]string{ // read only
	definitions.Boolean: "true", definitions.Integer: "-7", definitions.PositiveInt: "7",
	definitions.UnsignedInt: "0", definitions.Decimal: "1.50", definitions.String: `"text"`,
	definitions.Markdown: `"*text*"`, definitions.Code: `"a-code"`, definitions.ID: `"id-1"`,
	definitions.URI: `"http://a.test/x"`, definitions.URL: `"http://a.test/x"`,
	definitions.Canonical: `"http://a.test/x|1"`, definitions.OID: `"urn:oid:1.2.3"`,
	definitions.UUID:   `"urn:uuid:53fefa32-fcbb-4ff8-8a92-55ee120877b7"`,
	definitions.Base64: `"aGVsbG8="`, definitions.Date: `"2024-02-29"`, definitions.DateTime: `"2026-03-01"`,
	definitions.Instant: `"2026-03-01T08:00:00Z"`, definitions.Time: `"08:30:00"`,
	definitions.LanguageTag: `"en"`, definitions.MediaType: `"text/plain"`, definitions.Currency: `"EUR"`,
	definitions.XHTML: `"<div xmlns=\"http://www.w3.org/1999/xhtml\">text</div>"`,
}

// minimal returns an object with the elements that st requires, and with extra,
// which is a member or empty.
func minimal(st *definitions.Structure, name, extra string) string {
	var out []string
	if st.Kind == definitions.Resource {
		out = append(out, `"resourceType":"`+st.Name+`"`)
	}
	done := uint64(0)
	if extra != "" {
		out = append(out, `"`+name+`":`+extra)
		done = 1 << st.LookupString(strings.TrimPrefix(name, "_")).Element
	}
	for i := range st.Members {
		m := &st.Members[i]
		if bit := uint64(1) << m.Element; st.Required&bit != 0 && done&bit == 0 {
			done |= bit
			out = append(out, `"`+m.Name+`":`+list(m, sample(m)))
		}
	}
	if len(out) == 0 {
		for i := range st.Members {
			if m := &st.Members[i]; m.Name != "id" && m.Name != "extension" && m.Name != "modifierExtension" {
				return `{"` + m.Name + `":` + list(m, sample(m)) + "}"
			}
		}
		return `{"extension":[{"url":"http://a.test","valueCode":"c"}]}`
	}
	return "{" + strings.Join(out, ",") + "}"
}

func list(m *definitions.Member, s string) string {
	if m.Many {
		return "[" + s + "]"
	}
	return s
}

// sample returns a valid value of a member.
func sample(m *definitions.Member) string {
	switch {
	case m.Codes != nil && m.Primitive == definitions.Code:
		return `"` + m.Codes.Systems[0].Codes[0] + `"`
	case m.Codes != nil:
		s := &m.Codes.Systems[0]
		coding := `{"system":"` + s.URL + `","code":"` + s.Codes[0] + `"}`
		if m.Structure.Name == "CodeableConcept" {
			return `{"coding":[` + coding + `]}`
		}
		return coding
	case m.Primitive != definitions.NotPrimitive:
		return samples[m.Primitive]
	case m.Structure == nil:
		return `{"resourceType":"Basic","id":"b","code":{"text":"x"}}`
	case m.Structure.Name == "Reference":
		if m.Targets != nil {
			return `{"reference":"` + m.Targets.Names()[0] + `/1"}`
		}
		return `{"reference":"Patient/1"}`
	case m.Structure.Name == "Extension":
		return `{"url":"http://a.test","valueCode":"c"}`
	}
	return minimal(m.Structure, "", "")
}

// validValues returns valid values of a member: all codes, all targets.
func validValues(m *definitions.Member) []string {
	out := []string{sample(m)}
	switch {
	case m.Codes != nil && m.Primitive == definitions.Code:
		for _, s := range m.Codes.Systems {
			for _, c := range s.Codes {
				out = append(out, `"`+c+`"`)
			}
		}
	case m.Targets != nil:
		for _, t := range m.Targets.Names() {
			out = append(out, `{"reference":"`+t+`/1"}`)
		}
	}
	return out
}

// TestEveryElement tests that both validators accept every member of every type
// of R4, with every code of its required binding and every target of a reference,
// and that both refuse another code, another target, a wrong cardinality and the
// lack of a required element.
func TestEveryElement(t *testing.T) {
	type place struct {
		st   *definitions.Structure
		wrap func(string) string
		typ  string
	}
	seen := map[*definitions.Structure]bool{}
	var queue []place
	set := definitions.R4()
	for _, name := range set.Resources() {
		st := set.Structure(name)
		queue = append(queue, place{st, func(s string) string { return s }, name})
		seen[st] = true
	}
	agreed, faults := 0, 0
	for ; len(queue) > 0; queue = queue[1:] {
		p := queue[0]
		check := func(body string, valid bool, what string) {
			body = p.wrap(body)
			ours := true
			for _, is := range verdict(p.typ, []byte(body)) {
				ours = ours && is.Code == "invariant"
			}
			theirs := google().Check([]byte(body))
			switch {
			case ours != valid:
				t.Errorf("%s %s: valid is %v: %v: %s", p.st.Name, what, valid, verdict(p.typ, []byte(body)), body)
			case (theirs == nil) == valid:
				agreed++
			case googleFault(theirs) == "":
				t.Errorf("%s %s: valid is %v, but not for google/fhir: %v: %s", p.st.Name, what, valid, theirs, body)
			default:
				faults++
			}
		}
		for i := range p.st.Members {
			m := &p.st.Members[i]
			for _, v := range validValues(m) {
				check(minimal(p.st, m.Name, list(m, v)), true, m.Name)
			}
			if m.Structure != nil && !seen[m.Structure] {
				seen[m.Structure] = true
				queue = append(queue, place{m.Structure, func(s string) string {
					return p.wrap(minimal(p.st, m.Name, list(m, s)))
				}, p.typ})
			}
			if m.Primitive != definitions.NotPrimitive && !m.Bare {
				const ext = `{"extension":[{"url":"http://a.test","valueCode":"c"}]}`
				check(minimal(p.st, "_"+m.Name, list(m, ext)), true, "_"+m.Name)
			}
			if m.Codes != nil && m.Primitive == definitions.Code {
				check(minimal(p.st, m.Name, list(m, `"no-such-code"`)), false, m.Name+" code")
			}
			if m.Targets != nil {
				check(minimal(p.st, m.Name, list(m, `{"reference":"Linkage/1"}`)), m.Targets.Has("Linkage"),
					m.Name+" target")
			}
			if m.Many {
				check(minimal(p.st, m.Name, sample(m)), false, m.Name+" no array")
			} else {
				check(minimal(p.st, m.Name, "["+sample(m)+"]"), false, m.Name+" array")
			}
			if p.st.Required&(1<<m.Element) != 0 {
				body := minimal(p.st, m.Name, "0")
				body = strings.Replace(strings.Replace(body, `"`+m.Name+`":0,`, "", 1), `"`+m.Name+`":0`, "", 1)
				check(body, false, m.Name+" missing")
			}
		}
	}
	if agreed < 20_000 {
		t.Errorf("only %d cases", agreed)
	}
	t.Logf("%d structures, %d cases, and %d faults of google/fhir", len(seen), agreed, faults)
}
