package interaction

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"pulsegate/fhir"
	"pulsegate/fhir/element"
	"pulsegate/fhir/store"
)

// TestDistribution compares the statistics with plain arithmetic over all values.
func TestDistribution(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		vs := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) float64 {
			return float64(rapid.IntRange(-50, 50).Draw(t, "v")) / 4
		}), 1, 300).Draw(t, "values")
		d := &distribution{}
		for i, v := range vs {
			if !d.add(v) {
				t.Fatal("too many")
			}
			if i%7 == 0 {
				d.merge()
			}
		}
		d.merge()
		slices.Sort(vs)
		n := float64(len(vs))
		sum, dev := 0.0, 0.0
		for _, v := range vs {
			sum += v
		}
		for _, v := range vs {
			dev += (v - sum/n) * (v - sum/n)
		}
		near := func(what string, got, want float64) {
			if math.Abs(got-want) > 1e-9*(1+math.Abs(want)) {
				t.Fatalf("%s: %v, want %v", what, got, want)
			}
		}
		near("sum", d.sum(), sum)
		near("mean", d.mean(), sum/n)
		if len(vs) > 1 {
			near("variance", d.variance(), dev/(n-1))
		}
		q := rapid.Float64Range(0, 1).Draw(t, "q")
		pos := q * (n - 1)
		lo, hi := vs[int(pos)], vs[min(len(vs)-1, int(pos)+1)]
		near("quantile", d.quantile(q), lo+(pos-math.Floor(pos))*(hi-lo))
		near("least", d.quantile(0), vs[0])
		near("greatest", d.quantile(1), vs[len(vs)-1])
	})
}

// TestDistributionIsBounded tests that a million heart rates take only a few runs.
func TestDistributionIsBounded(t *testing.T) {
	d := &distribution{}
	for i := range 1_000_000 {
		if !d.add(float64(40 + i%160)) {
			t.Fatal("refused")
		}
	}
	d.merge()
	if len(d.runs) != 160 || cap(d.buf) > 2*distributionBuffer || d.count != 1_000_000 {
		t.Fatalf("%d runs, buffer of %d", len(d.runs), cap(d.buf))
	}
}

// TestGroups tests that the groups of $lastn are the connected components of the graph
// of codings, in any order of the Observations.
func TestGroups(t *testing.T) {
	when, err := selection("date")
	if err != nil {
		t.Fatal(err)
	}
	type obs struct {
		codes []string
		at    int
	}
	rapid.Check(t, func(t *rapid.T) {
		all := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) obs {
			return obs{rapid.SliceOfNDistinct(rapid.SampledFrom([]string{"a", "b", "c", "d", "e", "f"}), 1, 3,
				rapid.ID).Draw(t, "codes"), rapid.IntRange(10, 20).Draw(t, "at")}
		}), 1, 25).Draw(t, "observations")
		most := rapid.IntRange(1, 4).Draw(t, "max")
		g := &codeGroups{most: most, capacity: 1 << 20, when: when, sets: map[string]*codeSet{},
			concepts: map[string]*codeSet{}}
		part := make([]int, len(all)) // naive: join until nothing changes
		for i, o := range all {
			part[i] = i
			var cs []string
			for _, c := range o.codes {
				cs = append(cs, `{"system":"s","code":"`+c+`"}`)
			}
			json := fmt.Sprintf(`{"resourceType":"Observation","code":{"coding":[%s]},"effectiveDateTime":"2026-01-%d"}`, strings.Join(cs, ","), o.at)
			if err := g.add(&store.Found{Resource: fhir.Resource{Type: "Observation", ID: fmt.Sprint(i),
				JSON: []byte(json)}}); err != nil {
				t.Fatal(err)
			}
		}
		for changed := true; changed; {
			changed = false
			for i := range all {
				for j := range all {
					if part[j] < part[i] &&
						slices.ContainsFunc(all[i].codes,
							func(c string) bool { return slices.Contains(all[j].codes, c) }) {
						part[i], changed = part[j], true
					}
				}
			}
		}
		want := map[string]bool{}
		for i := range all {
			newer := 0
			for j := range all {
				if part[i] == part[j] && all[j].at > all[i].at {
					newer++
				}
			}
			if newer < most {
				want[fmt.Sprint(i)] = true
			}
		}
		got := g.newest()
		for _, o := range got {
			if !want[o.id] {
				t.Fatalf("%s is given, of %v max %d", o.id, all, most)
			}
		}
		if len(got) != len(want) {
			t.Fatalf("%d given, %d wanted, of %v max %d", len(got), len(want), all, most)
		}
	})
}

// TestIgnored tests that values that are not measurements are counted but not used.
func TestIgnored(t *testing.T) {
	when, err := selection("date")
	if err != nil {
		t.Fatal(err)
	}
	const code = `"code":{"coding":[{"code":"a"}]},`
	const value = `"valueQuantity":{"value":600,"system":"http://unitsofmeasure.org","code":"/min"}`
	for json, want := range map[string]int{
		`{` + code + value + `}`: 1,
		`{"modifierExtension":[{"url":"urn:x"}],` + code + value + `}`:                        0,
		`{` + code + strings.Replace(value, "value\":600", "x\":1", 1) + `}`:                  0,
		`{` + code + strings.Replace(value, "unitsofmeasure", "units", 1) + `}`:               0,
		`{` + code + strings.Replace(value, `"value":`, `"comparator":"<","value":`, 1) + `}`: 0,
		`{` + code + strings.Replace(value, "600", "1e999", 1) + `}`:                          0,
		`{` + code + `"valueString":"x"}`:                                                     0,
	} {
		values, ignored := 0, uint64(0)
		m := &measurements{codes: []element.Coding{{Code: "a"}}, when: when, fn: func(n *Numbers) bool {
			values, ignored = values+len(n.Values), ignored+n.Ignored
			return true
		}}
		v, err := m.parser.Parse(json)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := m.observation(v, []byte(json)); err != nil || values != want || ignored != uint64(1-want) {
			t.Errorf("%s: %d values, %d ignored, %v", json, values, ignored, err)
		}
	}
}

func FuzzParseParameters(f *testing.F) {
	f.Add([]byte(`{"resourceType":"Parameters","parameter":[{"name":"max","valuePositiveInt":2},{"name":"coding","valueCoding":{"system":"s","code":"c"}}]}`))
	f.Add([]byte(`{"resourceType":"Parameters","parameter":[{"name":"period","valuePeriod":{"start":"2026"}},{"name":"x","valueString":null}]}`))
	s := &Service{Base: "https://pg.example/fhir"}
	f.Fuzz(func(t *testing.T, b []byte) {
		ps, err := ParseParameters(b)
		if err != nil {
			if fhir.KindOf(err) == fhir.Internal {
				t.Fatal(err)
			}
			return
		}
		again, err := QueryParameters(FormatParameters(ps))
		if err == nil && len(again) != len(ps) {
			t.Fatalf("%d parameters became %d", len(ps), len(again))
		}
		if a, err := s.readStats(ps); err == nil && (a.patient == "" || len(a.codes) == 0 || len(a.statistics) == 0) {
			t.Fatal("read without what is required")
		}
	})
}
