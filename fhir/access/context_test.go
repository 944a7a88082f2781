package access

import "testing"

type permitting map[string]bool

func (p permitting) Permits(_ string, f *Facts) bool { return p[f.Patient] }

// TestInContext decides about a Binary of the caller whose securityContext names another
// resource.
func TestInContext(t *testing.T) {
	named := map[string]*Facts{}
	for _, f := range []*Facts{{Type: "Patient", ID: "a", Patient: "a"}, {Type: "Patient", ID: "b", Patient: "b"},
		{Type: "Observation", ID: "o", Patient: "b"}, {Type: "Binary", ID: "x", Author: "app"}} {
		f.Tokens = func(string) []Token { return nil }
		named[f.Type+"/"+f.ID] = f
	}
	binary := func(context ...string) *Facts {
		return &Facts{Type: "Binary", ID: "y", Author: "app", Tokens: func(param string) (out []Token) {
			for _, c := range context {
				if param == SecurityContext {
					out = append(out, Token{Code: c})
				}
			}
			return out
		}}
	}
	all := Rule{Type: "*", May: Read | Search | Create}
	for _, c := range []struct {
		binary *Facts
		rules  []Rule
		search bool
		want   bool
	}{
		{binary(), []Rule{all}, true, true},
		{binary("Patient/a"), []Rule{all}, true, true},
		{binary("Patient/a/_history/2"), []Rule{all}, false, true},
		{binary("Patient/b"), []Rule{all}, true, false},     // no consent
		{binary("Observation/o"), []Rule{all}, true, false}, // no consent of its patient
		{binary("Patient/none"), []Rule{all}, true, false},
		{binary("https://other.example.org/Patient/a"), []Rule{all}, true, false},
		{binary("Binary/x"), []Rule{all}, true, false},
		{binary(""), []Rule{all}, true, false},
		{binary("Patient/a"), []Rule{{Type: "Binary", May: Read | Search}}, true, false},
		{binary("Patient/a"), []Rule{{Type: "Binary", May: Search}, {Type: "Patient", May: Read}}, true, true},
		{binary("Patient/a"), []Rule{{Type: "Binary", May: Read}, {Type: "Patient", ID: "b", May: Read}}, false, false},
	} {
		g := &Grant{Recipient: "app", Rules: c.rules, Consents: permitting{"a": true},
			Context: func(typ, id string) *Facts { return named[typ+"/"+id] }}
		i := Read
		if c.search {
			i = Search
		}
		if got := g.Filter(i).Allow(c.binary); got != c.want {
			t.Errorf("%v: %t", c.binary.Tokens(SecurityContext), got)
		}
	}
	if !All().Filter(Search).Allow(binary("Patient/none")) {
		t.Error("a Binary is hidden from the operator")
	}
	blind := &Grant{Recipient: "app", Rules: []Rule{all}, Consents: permitting{"a": true}}
	if blind.Filter(Read).Allow(binary("Patient/a")) || !blind.Filter(Create).Allow(binary("Patient/a")) {
		t.Error("a grant that finds no context shows the Binary, or prevents its creation")
	}
}
