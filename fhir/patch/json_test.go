package patch

import (
	"bytes"
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"pulsegate/fhir"
)

// TestJSONPatch has the examples of RFC 6902, appendix A, and the corners of RFC 6901.
func TestJSONPatch(t *testing.T) {
	for _, c := range []struct{ name, doc, patch, want string }{
		{"A.1", `{"foo":"bar"}`, `[{"op":"add","path":"/baz","value":"qux"}]`, `{"foo":"bar","baz":"qux"}`},
		{"A.2", `{"foo":["bar","baz"]}`, `[{"op":"add","path":"/foo/1","value":"qux"}]`, `{"foo":["bar","qux","baz"]}`},
		{"A.3", `{"baz":"qux","foo":"bar"}`, `[{"op":"remove","path":"/baz"}]`, `{"foo":"bar"}`},
		{"A.4", `{"foo":["bar","qux","baz"]}`, `[{"op":"remove","path":"/foo/1"}]`, `{"foo":["bar","baz"]}`},
		{"A.5", `{"baz":"qux","foo":"bar"}`, `[{"op":"replace","path":"/baz","value":"boo"}]`,
			`{"baz":"boo","foo":"bar"}`},
		{"A.6", `{"foo":{"bar":"baz","waldo":"fred"},"qux":{"corge":"grault"}}`,
			`[{"op":"move","from":"/foo/waldo","path":"/qux/thud"}]`,
			`{"foo":{"bar":"baz"},"qux":{"corge":"grault","thud":"fred"}}`},
		{"A.7", `{"foo":["all","grass","cows","eat"]}`, `[{"op":"move","from":"/foo/1","path":"/foo/3"}]`,
			`{"foo":["all","cows","eat","grass"]}`},
		{"A.8", `{"baz":"qux","foo":["a",2,"c"]}`,
			`[{"op":"test","path":"/baz","value":"qux"},{"op":"test","path":"/foo/1","value":2}]`,
			`{"baz":"qux","foo":["a",2,"c"]}`},
		{"A.10", `{"foo":"bar"}`, `[{"op":"add","path":"/child","value":{"grandchild":{}}}]`,
			`{"foo":"bar","child":{"grandchild":{}}}`},
		{"A.11", `{"foo":"bar"}`, `[{"op":"add","path":"/baz","value":"qux","xyz":123}]`, `{"foo":"bar","baz":"qux"}`},
		{"A.14", `{"/":9,"~1":10}`, `[{"op":"test","path":"/~01","value":10}]`, `{"/":9,"~1":10}`},
		{"A.16", `{"foo":["bar"]}`, `[{"op":"add","path":"/foo/-","value":["abc","def"]}]`,
			`{"foo":["bar",["abc","def"]]}`},
		{"root", `{"a":1}`, `[{"op":"replace","path":"","value":{"b":2}}]`, `{"b":2}`},
		{"root added", `{"a":1}`, `[{"op":"add","path":"","value":{"b":2}}]`, `{"b":2}`},
		{"escape", `{"a/b":1}`, `[{"op":"replace","path":"/a~1b","value":2}]`, `{"a/b":2}`},
		{"empty name", `{"":1}`, `[{"op":"replace","path":"/","value":2}]`, `{"":2}`},
		{"replace keeps the place", `{"a":1,"b":2}`, `[{"op":"add","path":"/a","value":3}]`, `{"a":3,"b":2}`},
		{"copy", `{"a":{"x":[1]}}`, `[{"op":"copy","from":"/a","path":"/b"},{"op":"add","path":"/b/x/-","value":2}]`,
			`{"a":{"x":[1]},"b":{"x":[1,2]}}`},
		{"copy into itself", `{"a":{"x":1}}`, `[{"op":"copy","from":"/a","path":"/a/y"}]`, `{"a":{"x":1,"y":{"x":1}}}`},
		{"move to itself", `{"a":1}`, `[{"op":"move","from":"/a","path":"/a"}]`, `{"a":1}`},
		{"move over", `{"a":1,"b":2}`, `[{"op":"move","from":"/a","path":"/b"}]`, `{"b":1}`},
		{"a value is not shared", `{}`, `[{"op":"add","path":"/a","value":{}},{"op":"add","path":"/a/x","value":1}]`, `{"a":{"x":1}}`},
		{"numbers keep their text", `{"v":60.10,"w":[1e2,0.0]}`, `[{"op":"add","path":"/x","value":1.500}]`,
			`{"v":60.10,"w":[1e2,0.0],"x":1.500}`},
		{"escapes keep their text", `{"v":"\u00e9\/"}`, `[{"op":"add","path":"/x","value":"\u00e9"}]`,
			`{"v":"\u00e9\/","x":"\u00e9"}`},
		{"equal numbers", `{"v":60.10}`, `[{"op":"test","path":"/v","value":6.01e1}]`, `{"v":60.10}`},
		{"equal zeros", `{"v":-0.0}`, `[{"op":"test","path":"/v","value":0e5}]`, `{"v":-0.0}`},
		{"equal strings", `{"v":"\u00e9"}`, `[{"op":"test","path":"/v","value":"é"}]`, `{"v":"\u00e9"}`},
		{"equal objects", `{"v":{"a":1,"b":[true,null]}}`,
			`[{"op":"test","path":"/v","value":{"b":[true,null],"a":1.0}}]`,
			`{"v":{"a":1,"b":[true,null]}}`},
		{"no operation", `{"a":1}`, `[]`, `{"a":1}`},
		{"byte order mark", `{"a":1}`, "\xef\xbb\xbf[]", `{"a":1}`},
	} {
		got, err := JSON([]byte(c.doc), []byte(c.patch))
		if err != nil || string(got) != c.want {
			t.Errorf("%s: %s, %v, want %s", c.name, got, err, c.want)
		}
	}
}

// canary stands in input that no error may quote.
const canary = "Xylocarp"

// TestRefused tests that what cannot be read is Invalid, and what cannot be applied is
// Unprocessable, with the number of the operation and without the input.
func TestRefused(t *testing.T) {
	const doc = `{"a":[1,2],"b":"` + canary + `","c":{"d":null}}`
	op := func(s string) string { return `[{"op":"test","path":"/a/0","value":1},` + s + `]` }
	for _, c := range []struct {
		kind  fhir.Kind
		patch string
	}{
		{fhir.Invalid, ``}, {fhir.Invalid, `{}`}, {fhir.Invalid, `[`}, {fhir.Invalid, `[]x`}, {fhir.Invalid, `[] []`},
		{fhir.Invalid, op(`7`)}, {fhir.Invalid, op(`{}`)}, {fhir.Invalid, op(`{"op":"` + canary + `","path":""}`)},
		{fhir.Invalid, op(`{"op":7,"path":""}`)}, {fhir.Invalid, op(`{"op":"remove"}`)},
		{fhir.Invalid, op(`{"op":"remove","path":7}`)}, {fhir.Invalid, op(`{"op":"remove","path":"` + canary + `"}`)},
		{fhir.Invalid, op(`{"op":"remove","path":"/~2` + canary + `"}`)},
		{fhir.Invalid, op(`{"op":"remove","path":"/~"}`)},
		{fhir.Invalid, op(`{"op":"add","path":"/a"}`)}, {fhir.Invalid, op(`{"op":"copy","path":"/x"}`)},
		{fhir.Invalid, op(`{"op":"add","path":"/a","value":1,"op":"remove"}`)},
		{fhir.Unprocessable, op(`{"op":"remove","path":"/` + canary + `"}`)},
		{fhir.Unprocessable, op(`{"op":"remove","path":""}`)},
		{fhir.Unprocessable, op(`{"op":"replace","path":"/x","value":1}`)},
		{fhir.Unprocessable, op(`{"op":"add","path":"/x/y","value":1}`)},
		{fhir.Unprocessable, op(`{"op":"add","path":"/a/3","value":1}`)},
		{fhir.Unprocessable, op(`{"op":"add","path":"/a/01","value":1}`)},
		{fhir.Unprocessable, op(`{"op":"add","path":"/a/+1","value":1}`)},
		{fhir.Unprocessable, op(`{"op":"add","path":"/a/-1","value":1}`)},
		{fhir.Unprocessable, op(`{"op":"add","path":"/a/99999999999999999999","value":1}`)},
		{fhir.Unprocessable, op(`{"op":"remove","path":"/a/-"}`)},
		{fhir.Unprocessable, op(`{"op":"remove","path":"/a/2"}`)},
		{fhir.Unprocessable, op(`{"op":"add","path":"/b/x","value":1}`)},
		{fhir.Unprocessable, op(`{"op":"add","path":"/c/d/x","value":1}`)},
		{fhir.Unprocessable, op(`{"op":"move","from":"/c","path":"/c/d"}`)},
		{fhir.Unprocessable, op(`{"op":"move","from":"/x","path":"/x"}`)},
		{fhir.Unprocessable, op(`{"op":"test","path":"/b","value":"other"}`)},
		{fhir.Unprocessable, op(`{"op":"test","path":"/c","value":{"e":null}}`)},
		{fhir.Unprocessable, op(`{"op":"test","path":"/a","value":[2,1]}`)},
		{fhir.Unprocessable, op(`{"op":"test","path":"/a/0","value":"1"}`)},
		{fhir.Unprocessable, op(`{"op":"test","path":"/a/0","value":1e9999999999}`)},
		{fhir.Unprocessable, op(`{"op":"replace","path":"","value":[]}`)},
		{fhir.TooLarge, op(`{"op":"remove","path":"` + strings.Repeat("/a", 65) + `"}`)},
		{fhir.TooLarge, op(`{"op":"remove","path":"/` + strings.Repeat("a", 5000) + `"}`)},
		{fhir.Invalid, strings.Repeat("[", 1000)},
		{fhir.Invalid, strings.Repeat("[", 1000) + strings.Repeat("]", 1000)},
	} {
		got, err := JSON([]byte(doc), []byte(c.patch))
		if err == nil || fhir.KindOf(err) != c.kind || got != nil {
			t.Errorf("%.120s: %s, %v, want kind %d", c.patch, got, err, c.kind)
			continue
		}
		if strings.Contains(err.Error(), canary) {
			t.Errorf("%.120s: the error quotes the input: %v", c.patch, err)
		}
		if strings.HasPrefix(c.patch, `[{"op":"test","path":"/a/0","value":1},`) &&
			!strings.Contains(err.Error(), "patched resource") &&
			!strings.Contains(err.Error(), "operation 2 of the patch") && !strings.Contains(c.patch, `"op":"remove"}`) {
			t.Errorf("%.120s: the error does not name the operation: %v", c.patch, err)
		}
	}
}

// TestGrowthIsBounded tests that a short patch can make neither a large resource nor much
// work. Copies double the resource, or replace one another. (What a test compares is as
// large as a part of the patch.)
func TestGrowthIsBounded(t *testing.T) {
	repeat := func(n int, op func(i int) string) []byte {
		var list []string
		for i := range n {
			list = append(list, op(i))
		}
		return []byte("[" + strings.Join(list, ",") + "]")
	}
	doc := []byte(`{"a":"` + strings.Repeat("x", 1000) + `"}`)
	large := []byte(`{"a":["` + strings.Repeat("x", 1<<20) + `"]}`)
	for name, c := range map[string]struct{ doc, patch []byte }{
		"copies": {doc, repeat(400, func(i int) string {
			return fmt.Sprintf(`{"op":"copy","from":"","path":"/c%d"}`, i)
		})},
		"copies over": {large, repeat(400, func(int) string { return `{"op":"copy","from":"/a","path":"/b"}` })},
		"moves": {large, repeat(400,
			func(int) string { return `{"op":"move","from":"/a","path":"/b"},{"op":"move","from":"/b","path":"/a"}` })},
		"operations": {doc, repeat(501, func(int) string { return `{"op":"add","path":"/b","value":1}` })},
	} {
		got, err := JSON(c.doc, c.patch)
		if err == nil || fhir.KindOf(err) != fhir.TooLarge {
			t.Errorf("%s: %d bytes, %v", name, len(got), err)
		}
	}
	// Ordinary patches of large resources are not refused.
	many := []byte(`{"a":[` + strings.Repeat(`{"v":1},`, 100_000) + `1]}`)
	if _, err := JSON(many, repeat(500, func(i int) string {
		return fmt.Sprintf(`{"op":"remove","path":"/a/%d"}`,
			i)
	})); err != nil {
		t.Error(err)
	}
}

// TestFromBinary tests the form of a JSON Patch in a Bundle.
func TestFromBinary(t *testing.T) {
	got, err := FromBinary([]byte(`{"resourceType":"Binary","contentType":"application/json-patch+json; charset=utf-8","data":"W10="}`))
	if err != nil || string(got) != "[]" {
		t.Errorf("%s %v", got, err)
	}
	for want, body := range map[fhir.Kind]string{
		fhir.Invalid: `{"resourceType":"Binary","contentType":"application/json-patch+json","data":"` + canary +
			`!"}`,
		fhir.Unsupported: `{"resourceType":"Binary","contentType":"` + canary + `","data":"W10="}`,
	} {
		if _, err := FromBinary([]byte(body)); fhir.KindOf(err) != want || strings.Contains(err.Error(), canary) {
			t.Errorf("%s: %v", body, err)
		}
	}
	for _, body := range []string{`{"resourceType":"Patient"}`, `[]`, ``, `{"resourceType":"Binary","data":7}`} {
		if _, err := FromBinary([]byte(body)); err == nil || fhir.KindOf(err) != fhir.Invalid {
			t.Errorf("%s: %v", body, err)
		}
	}
}

// value draws a JSON value.
func value(t *rapid.T, depth int) any {
	switch rapid.IntRange(0, 4-min(depth, 2)).Draw(t, "kind") {
	case 0:
		return rapid.SampledFrom([]any{nil, true, "x", 1.0, 2.5}).Draw(t, "scalar")
	case 1:
		return rapid.StringMatching(`[a-c~/]{0,2}`).Draw(t, "string")
	case 2:
		return float64(rapid.IntRange(-2, 2).Draw(t, "number"))
	case 3:
		out := map[string]any{}
		for range rapid.IntRange(0, 3).Draw(t, "members") {
			out[rapid.SampledFrom([]string{"a", "b", "~", "/"}).Draw(t, "name")] = value(t, depth+1)
		}
		return out
	}
	out := []any{}
	for range rapid.IntRange(0, 3).Draw(t, "items") {
		out = append(out, value(t, depth+1))
	}
	return out
}

// TestJSONPatchAgainstModel compares random patches with a model on Go values, and tests
// that the size is counted right.
func TestJSONPatchAgainstModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		doc := map[string]any{"a": value(t, 0), "b": value(t, 0)}
		pointer := func(what string) string {
			return rapid.SampledFrom([]string{"", "/a", "/b", "/a/a", "/a/b", "/a/0", "/a/1", "/a/-", "/b/a/0",
				"/b/0/a", "/~0",
				"/a/~1", "/b/0", "/a/0/0"}).Draw(t, what)
		}
		var list []map[string]any
		for range rapid.IntRange(1, 4).Draw(t, "operations") {
			o := map[string]any{"op": rapid.SampledFrom([]string{"add", "remove", "replace", "move", "copy",
				"test"}).Draw(t, "op"),
				"path": pointer("path"), "from": pointer("from"), "value": value(t, 1)}
			list = append(list, o)
		}
		text, _ := json.Marshal(doc)
		patch, _ := json.Marshal(list)
		var want any = doc
		ok := true
		for _, o := range list {
			if want, ok = model(want, o); !ok {
				break
			}
		}
		if _, object := want.(map[string]any); !object {
			ok = false
		}
		got, err := JSON(text, patch)
		if (err == nil) != ok {
			t.Fatalf("%s, %s: %s, %v, want success %v: %v", text, patch, got, err, ok, want)
		}
		if err != nil {
			return
		}
		var result any
		if json.Unmarshal(got, &result) != nil || !reflect.DeepEqual(result, want) {
			t.Fatalf("%s, %s: %s, want %v", text, patch, got, want)
		}
		operations, err := parseOperations(patch)
		if err != nil {
			t.Fatal(err)
		}
		root, _ := parse(text)
		d := &document{root: root, size: root.size()}
		for i := range operations {
			if err := d.apply(&operations[i]); err != nil {
				t.Fatal(err)
			}
		}
		if d.size != d.root.size() || d.size < len(got) {
			t.Fatalf("%s, %s: the size is %d, counted %d, in bytes %d", text, patch, d.root.size(), d.size, len(got))
		}
	})
}

// FuzzJSON tests that no patch makes JSON panic or return what is not JSON.
func FuzzJSON(f *testing.F) {
	f.Add([]byte(`{"a":[1]}`), []byte(`[{"op":"add","path":"/a/-","value":{"b":1.0}},{"op":"copy","from":"/a","path":"/c"}]`))
	f.Add([]byte(`{"a":1}`), []byte(`[{"op":"move","from":"/a","path":"/b"},{"op":"test","path":"/b","value":1e0}]`))
	f.Fuzz(func(t *testing.T, doc, patch []byte) {
		got, err := JSON(doc, patch)
		if err == nil && !json.Valid(bytes.ToValidUTF8(got, nil)) {
			t.Errorf("%q", got)
		}
		if err != nil && fhir.KindOf(err) == fhir.Internal {
			t.Errorf("%v", err)
		}
	})
}
