package crosscheck

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"pulsegate/fhir"
	"pulsegate/fhir/internal/fixtures"
	"pulsegate/fhir/validate"
)

var google = sync.OnceValue(func() *Validator {
	v, err := New()
	if err != nil {
		panic(err)
	}
	return v
})

var tables = sync.OnceValue(func() *validate.Validator { return validate.New(validate.Options{}) })

// example is a resource of the fixtures.
type example struct {
	name, typ string
	body      []byte
}

// examples returns HL7's examples of R4 that are JSON.
func examples(t *testing.T) []example {
	var out []example
	for _, dir := range []string{"hl7-test-cases", "hl7-test-cases/examples", "hl7-phd", "smart-brands"} {
		files, err := filepath.Glob(filepath.Join(fixtures.Dir(t, "r4"), dir, "*.json"))
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range files {
			body, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			var head struct{ ResourceType string }
			if json.Unmarshal(body, &head) == nil && head.ResourceType != "" {
				out = append(out, example{filepath.Base(f), head.ResourceType, body})
			}
		}
	}
	return out
}

// verdict returns the issues of fhir/validate.
func verdict(typ string, body []byte) []fhir.Issue {
	d, err := tables().Resource(validate.Request{Op: "test", Type: typ}, body)
	if d != nil {
		d.Release()
	}
	if err == nil {
		return nil
	}
	var e *fhir.Error
	if !errors.As(err, &e) {
		panic(err)
	}
	return e.Issues
}

func TestMutations(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	mineOnly, googleOnly := map[string]int{}, map[string]int{}
	samples := map[string]string{}
	n, both, neither := 0, 0, 0
	for _, e := range examples(t) {
		if len(e.body) > 8000 {
			continue
		}
		for k := range 60 {
			var tree map[string]any
			dec := json.NewDecoder(bytes.NewReader(e.body))
			dec.UseNumber()
			if dec.Decode(&tree) != nil {
				t.Fatal(e.name)
			}
			what := "unchanged"
			if k > 0 {
				what = mutate(rng, tree)
			}
			body, err := json.Marshal(tree)
			if err != nil {
				t.Fatal(err)
			}
			if what == "duplicate" {
				// TODO
			}
			typ := e.typ
			if x, _ := tree["resourceType"].(string); x != typ {
				continue
			}
			n++
			mine, theirs := verdict(typ, body), google().Check(body)
			switch {
			case mine == nil && theirs == nil:
				both++
			case mine != nil && theirs != nil:
				neither++
			case theirs == nil:
				key := mine[0].Diagnostics + " | " + what
				if mine[0].Code == "invariant" {
					key = "invariant"
				}
				mineOnly[key]++
				samples[key] = e.name + " " + fmt.Sprint(mine[0])
			default:
				key := strings.Split(theirs.Error(), "\n")[0]
				if i := strings.Index(key, ": "); i > 0 {
					key = key[i+2:]
				}
				key = what + " | " + key
				if len(key) > 90 {
					key = key[:90]
				}
				googleOnly[key]++
				samples[key] = e.name + " " + strings.Split(theirs.Error(), "\n")[0]
			}
		}
	}
	t.Log(n, both, neither)
	for _, m := range []map[string]int{mineOnly, googleOnly} {
		for _, k := range slices.Sorted(maps.Keys(m)) {
			t.Logf("%5d %s\n            %.250s", m[k], k, samples[k])
		}
		t.Log("-----------")
	}
}

// spot is a member or an element of an array.
type spot struct {
	object map[string]any
	name   string
	list   []any
	index  int
	set    func(any)
}

func spots(v any, out []spot) []spot {
	switch v := v.(type) {
	case map[string]any:
		for _, name := range slices.Sorted(maps.Keys(v)) {
			out = append(out, spot{object: v, name: name, set: func(x any) { v[name] = x }})
			out = spots(v[name], out)
		}
	case []any:
		for i := range v {
			out = append(out, spot{list: v, index: i, set: func(x any) { v[i] = x }})
			out = spots(v[i], out)
		}
	}
	return out
}

var values = []any{ // read only
	"x", "", " ", "a b", "not-a-code", "final", "2026", "2026-02-29", "2024-02-29", "2026-13", "2026-03-01T08:00:00Z",
	"2026-03-01T08:00:00", "2026-03-01T24:00:00Z", "2026-03-01T08:00:60Z", "2026-03-01T08:00Z", "08:30:00", "24:00:00",
	"http://a.test/x", "http://a b", "urn:oid:1.2.3", "urn:oid:1.02", "urn:uuid:53fefa32-fcbb-4ff8-8a92-55ee120877b7",
	"urn:uuid:X", "Patient/1", "Medication/1", "#x", "aGVsbG8=", "aGVsbG8", "a\u0001", strings.Repeat("x", 65), "é",
	"en", "en_US", "text/plain", "EUR", "XYZ", true, false, json.Number("0"), json.Number("1"), json.Number("-1"),
	json.Number("1.50"), json.Number("1e3"), json.Number("2147483648"), json.Number("-0"), json.Number("4294967296"),
	nil, map[string]any{}, []any{}, []any{"x"}, []any{nil}, map[string]any{"id": "x"},
	map[string]any{"extension": []any{map[string]any{"url": "http://x.test", "valueCode": "c"}}},
}

// mutate changes one spot of a tree and returns the kind of the change.
func mutate(rng *rand.Rand, tree map[string]any) string {
	all := spots(tree, nil)
	s := all[rng.IntN(len(all))]
	var old any
	if s.object != nil {
		old = s.object[s.name]
	} else {
		old = s.list[s.index]
	}
	switch rng.IntN(8) {
	case 0:
		if s.object != nil {
			delete(s.object, s.name)
			return "drop"
		}
	case 1:
		s.set([]any{old})
		return "array"
	case 2:
		if l, ok := old.([]any); ok {
			s.set(l[0])
			return "unwrap"
		}
	case 3:
		if s.object != nil {
			s.object["_"+s.name] = map[string]any{"extension": []any{map[string]any{"url": "http://x.test",
				"valueCode": "c"}}}
			return "shadow"
		}
	case 4:
		if s.object != nil {
			s.object["valueString"] = "x"
			return "valueString"
		}
	case 5:
		if l, ok := old.([]any); ok {
			s.set(append(slices.Clone(l), l[0]))
			return "twice"
		}
	}
	v := values[rng.IntN(len(values))]
	s.set(v)
	b, _ := json.Marshal(v)
	return fmt.Sprintf("value %.40s", b)
}
