package crosscheck

import (
	"strings"
	"testing"

	"pulsegate/fhir/definitions"
	"pulsegate/fhir/definitions/sample"
)

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
			for _, v := range sample.Values(m) {
				check(sample.Minimal(p.st, m.Name, sample.List(m, v)), true, m.Name)
			}
			if m.Structure != nil && !seen[m.Structure] {
				seen[m.Structure] = true
				queue = append(queue, place{m.Structure, func(s string) string {
					return p.wrap(sample.Minimal(p.st, m.Name, sample.List(m, s)))
				}, p.typ})
			}
			if m.Primitive != definitions.NotPrimitive && !m.Bare {
				const ext = `{"extension":[{"url":"http://a.test","valueCode":"c"}]}`
				check(sample.Minimal(p.st, "_"+m.Name, sample.List(m, ext)), true, "_"+m.Name)
			}
			if m.Codes != nil && m.Primitive == definitions.Code {
				check(sample.Minimal(p.st, m.Name, sample.List(m, `"no-such-code"`)), false, m.Name+" code")
			}
			if m.Targets != nil {
				check(sample.Minimal(p.st, m.Name, sample.List(m, `{"reference":"Linkage/1"}`)), m.Targets.Has("Linkage"),
					m.Name+" target")
			}
			if m.Many {
				check(sample.Minimal(p.st, m.Name, sample.Value(m)), false, m.Name+" no array")
			} else {
				check(sample.Minimal(p.st, m.Name, "["+sample.Value(m)+"]"), false, m.Name+" array")
			}
			if p.st.Required&(1<<m.Element) != 0 {
				body := sample.Minimal(p.st, m.Name, "0")
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
