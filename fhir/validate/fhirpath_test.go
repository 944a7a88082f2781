package validate

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"pulsegate/fhir"
	"pulsegate/fhir/fhirpath"
	"pulsegate/fhir/internal/fixtures"
)

// evaluated is an invariant that the FHIRPath engine evaluates.
type evaluated struct{ expression *fhirpath.Expression }

func (e evaluated) Holds(n Node) (bool, error) {
	d, err := fhirpath.Parse(n.JSON())
	if err != nil {
		return true, err
	}
	typ := ""
	if st := n.Structure(); st == nil {
		typ = n.Member().TypeName()
	} else if typ = st.Name; typ == "SimpleQuantity" || typ == "MoneyQuantity" {
		typ = st.Type
	}
	focus, err := d.As(typ)
	if err != nil {
		return true, err
	}
	owner, err := fhirpath.Parse(n.Owner().JSON())
	if err != nil {
		return true, err
	}
	return e.expression.Holds(context.Background(), focus, &fhirpath.Env{Resource: owner.Root()})
}

var keyOfRule = regexp.MustCompile(`\(([a-z]+-\d+)\)$`)

// brokenBy returns the keys of the invariants in Go that a body breaks, or nil if
// it is malformed.
func brokenBy(v *Validator, typ string, body []byte) map[string]bool {
	d, err := v.Resource(Request{Type: typ}, body)
	if d != nil {
		d.Release()
	}
	out := map[string]bool{}
	var e *fhir.Error
	if errors.As(err, &e) {
		for _, is := range e.Issues {
			if is.Code != "invariant" {
				return nil
			}
			if m := keyOfRule.FindStringSubmatch(is.Diagnostics); m != nil && handled[m[1]] {
				out[m[1]] = true
			}
		}
	}
	return out
}

// TestGoAgreesWithFHIRPath compares the invariants in Go with HL7's expressions on
// mutations of HL7's examples.
func TestGoAgreesWithFHIRPath(t *testing.T) {
	compile := func(expression string) (Invariant, error) {
		e, err := fhirpath.Compile(expression)
		return evaluated{e}, err
	}
	inGo, byEngine := New(Options{}), newValidator(Options{Compile: compile}, nil, nil)
	files, err := filepath.Glob(filepath.Join(fixtures.Dir(t, "r4"), "hl7-test-cases", "examples", "*.json"))
	if err != nil {
		t.Fatal(err)
	}
	rng := rand.New(rand.NewPCG(3, 4))
	broken := map[string]int{}
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		for k := range 40 {
			var tree map[string]any
			dec := json.NewDecoder(bytes.NewReader(b))
			dec.UseNumber()
			if dec.Decode(&tree) != nil || tree["resourceType"] == nil || len(b) > 8000 {
				break
			}
			typ, _ := tree["resourceType"].(string)
			for range 1 + k%3 {
				change(rng, tree)
			}
			body, err := json.Marshal(tree)
			if err != nil {
				t.Fatal(err)
			}
			ours, theirs := brokenBy(inGo, typ, body), brokenBy(byEngine, typ, body)
			for key := range ours {
				broken[key]++
				// ppc-2 to ppc-5 have a placeholder in their expressions.
				if theirs != nil && !theirs[key] && key[:3] != "ppc" {
					t.Errorf("%s is broken for Go only: %s", key, body)
				}
			}
			for key := range theirs {
				if ours != nil && !ours[key] {
					t.Errorf("%s is broken for FHIRPath only: %s", key, body)
				}
			}
		}
	}
	if len(broken) < 7 {
		t.Errorf("only %v", broken)
	}
}

// change removes or changes a member or an element of an array.
func change(rng *rand.Rand, tree map[string]any) {
	type spot struct {
		object map[string]any
		name   string
		list   []any
		index  int
	}
	var all []spot
	var walk func(any)
	walk = func(v any) {
		switch v := v.(type) {
		case map[string]any:
			for _, name := range slices.Sorted(maps.Keys(v)) {
				if name != "resourceType" && name != "text" {
					all = append(all, spot{object: v, name: name})
					walk(v[name])
				}
			}
		case []any:
			for i := range v {
				all = append(all, spot{list: v, index: i})
				walk(v[i])
			}
		}
	}
	walk(tree)
	if len(all) == 0 {
		return
	}
	s := all[rng.IntN(len(all))]
	if s.object == nil {
		s.list[s.index] = s.list[0]
		return
	}
	if n, ok := s.object[s.name].(json.Number); ok && rng.IntN(2) == 0 {
		s.object[s.name] = json.Number("-" + strings.TrimPrefix(n.String(), "-"))
		return
	}
	if d, ok := s.object[s.name].(string); ok && len(d) > 4 && d[4] == '-' && rng.IntN(2) == 0 {
		s.object[s.name] = "2099" + d[4:]
		return
	}
	delete(s.object, s.name)
}
