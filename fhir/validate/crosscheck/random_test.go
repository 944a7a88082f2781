package crosscheck

import (
	"bytes"
	"encoding/json"
	"math/rand/v2"
	"strings"
	"testing"

	"pulsegate/fhir/definitions"
	"pulsegate/fhir/definitions/sample"
)

// drawn returns a random object with the structure st.
func drawn(rng *rand.Rand, st *definitions.Structure, depth int) string {
	var out []string
	if st.Kind == definitions.Resource {
		out = append(out, `"resourceType":"`+st.Name+`"`)
	}
	if st.Name == "Extension" { // has either a value or extensions
		return sample.Value(&definitions.Member{Structure: st})
	}
	for e := range st.Elements {
		optional := st.Required&(1<<e) == 0
		if optional && (rng.IntN(len(st.Elements)) >= 5-depth || st.Elements[e].Name == "contained") {
			continue
		}
		var choices []*definitions.Member
		for i := range st.Members {
			if m := &st.Members[i]; int(m.Element) == e {
				choices = append(choices, m)
			}
		}
		m := choices[rng.IntN(len(choices))]
		values := []string{value(rng, m, depth)}
		if m.Many && rng.IntN(3) == 0 {
			values = append(values, value(rng, m, depth))
		}
		out = append(out, `"`+m.Name+`":`+sample.List(m, strings.Join(values, ",")))
	}
	if len(out) == 0 {
		return sample.Minimal(st, "", "")
	}
	return "{" + strings.Join(out, ",") + "}"
}

func value(rng *rand.Rand, m *definitions.Member, depth int) string {
	if m.Name == "id" {
		return `"id-` + strings.Repeat("x", 1+rng.IntN(20)) + `"`
	}
	if m.Structure == nil || m.Codes != nil || m.Structure.Name == "Reference" || depth > 4 {
		all := sample.Values(m)
		return all[rng.IntN(len(all))]
	}
	return drawn(rng, m.Structure, depth+1)
}

// TestAgreesOnRandomResources compares the validators on random resources of all
// types, half of them with one or two changes.
func TestAgreesOnRandomResources(t *testing.T) {
	set := definitions.R4()
	rng := rand.New(rand.NewPCG(5, 6))
	accepted, agreed, listed := 0, 0, 0
	for round := range 12 {
		for _, name := range set.Resources() {
			body := []byte(drawn(rng, set.Structure(name), 0))
			what := name
			for range round % 3 {
				var tree map[string]any
				dec := json.NewDecoder(bytes.NewReader(body))
				dec.UseNumber()
				if err := dec.Decode(&tree); err != nil {
					t.Fatal(err)
				}
				what += ", " + mutate(rng, tree)
				var err error
				if body, err = json.Marshal(tree); err != nil {
					t.Fatal(err)
				}
				if tree["resourceType"] != name {
					body = []byte(sample.Minimal(set.Structure(name), "", ""))
				}
			}
			if verdict(name, body) == nil {
				accepted++
			}
			if compare(t, what+": "+string(body), name, body) {
				agreed++
			} else {
				listed++
			}
		}
	}
	if accepted < 500 || agreed < 1000 {
		t.Errorf("only %d accepted, %d agreements", accepted, agreed)
	}
	t.Logf("%d accepted, %d agreements, %d disagreements that are on the lists", accepted, agreed, listed)
}
