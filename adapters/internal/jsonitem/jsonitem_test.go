package jsonitem_test

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"pulsegate/adapters"
	"pulsegate/adapters/internal/jsonitem"
	"pulsegate/mapping/sample"
)

func read(s string) *jsonitem.Reader {
	return jsonitem.NewReader(context.Background(), strings.NewReader(s), func(int64) {})
}

func TestItemKeepsWrittenForm(t *testing.T) {
	const body = `{"a":[1.50,-0,"x\"y",true,false,null],"b":{"c":1e3}}`
	n, err := read("\xef\xbb\xbf " + body).Item()
	if err != nil || string(n.JSON()) != body {
		t.Errorf("%v %s", err, n.JSON())
	}
	if s, st := n.Get("b", "c").Decimal(); s != "1e3" || st != jsonitem.Given {
		t.Errorf("%q %v", s, st)
	}
}

// TestInternedTexts checks that interning never replaces a text by another one. The few
// letters and lengths make many texts similar.
func TestInternedTexts(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		text := rapid.OneOf(rapid.StringMatching(`[ab]{0,20}`), rapid.StringMatching(`(\\|"|é|\x00|a){0,70}`),
			rapid.String())
		want := rapid.SliceOfN(rapid.MapOfN(text, rapid.SliceOfN(text, 0, 4), 0, 12), 0, 30).Draw(t, "items")
		body, err := json.Marshal(want)
		if err != nil {
			t.Fatal(err)
		}
		var items []*jsonitem.Node
		r := read(string(body))
		if want != nil {
			err = r.Array(func(int) error {
				n, err := r.Item()
				items = append(items, n)
				return err
			})
		}
		if err != nil || len(items) != len(want) {
			t.Fatalf("%d items of %d: %v", len(items), len(want), err)
		}
		for i, n := range items {
			var got map[string][]string
			if err := json.Unmarshal(n.JSON(), &got); err != nil || len(n.Members) != len(want[i]) {
				t.Fatalf("item %d: %d members, %v", i, len(n.Members), err)
			}
			for name, texts := range want[i] {
				if !slices.Equal(got[name], texts) {
					t.Fatalf("item %d, %q: %q, want %q", i, name, got[name], texts)
				}
			}
		}
	})
}

func TestReaderSkipsRefusedItem(t *testing.T) {
	r := read(`[` + strings.Repeat("[", 50) + strings.Repeat("]", 50) + `,` + `[` + strings.Repeat("1,", 400000) +
		`1],7]`)
	var got []string
	err := r.Array(func(int) error {
		n, err := r.Item()
		switch {
		case errors.Is(err, jsonitem.ErrTooDeep):
			got = append(got, "deep")
		case errors.Is(err, jsonitem.ErrTooLarge):
			got = append(got, "large")
		case err != nil:
			return err
		default:
			got = append(got, n.Text)
		}
		return nil
	})
	if err != nil || strings.Join(got, " ") != "deep large 7" {
		t.Errorf("%v %v", got, err)
	}
}

func TestErrorsContainNoInput(t *testing.T) {
	for _, s := range []string{`{"secret`, `{"secret":x}`, `{"a":"secret\q"}`} {
		_, err := read(s).Item()
		var pe *adapters.PayloadError
		if err = jsonitem.Payload("f", err); !errors.As(err, &pe) || strings.Contains(err.Error(), "secret") {
			t.Errorf("%v", err)
		}
	}
}

func TestDecimal(t *testing.T) {
	for s, want := range map[string]jsonitem.State{
		`1`: jsonitem.Given, `"12"`: jsonitem.Given, `-0.5`: jsonitem.Given, `"NaN"`: jsonitem.NotFinite,
		`"-Infinity"`: jsonitem.NotFinite,
		`null`:        jsonitem.Absent, `""`: jsonitem.Bad, `"0x1p4"`: jsonitem.Bad, `"01"`: jsonitem.Bad,
		`"1."`: jsonitem.Bad, `".5"`: jsonitem.Bad,
		`"1.e5"`: jsonitem.Bad, `"+1"`: jsonitem.Bad, `"inf"`: jsonitem.Bad, `1e999`: jsonitem.Bad,
		`{}`: jsonitem.Bad, `true`: jsonitem.Bad,
		`"1_000"`: jsonitem.Bad, `1234567890123456789012345678901234567890`: jsonitem.Bad,
	} {
		n, err := read(s).Item()
		if err != nil {
			t.Fatal(s, err)
		}
		if _, got := n.Decimal(); got != want {
			t.Errorf("%s: %v, want %v", s, got, want)
		}
	}
}

func TestSubtract(t *testing.T) {
	for _, c := range [][3]string{{"34.12", "33.98", "0.14"}, {"34.5", "34.25", "0.25"}, {"33", "34.1", "-1.1"},
		{"1e1", "0.5", "9.5"}} {
		if got, ok := jsonitem.Subtract(c[0], c[1]); !ok || got != c[2] {
			t.Errorf("%s - %s = %s, want %s", c[0], c[1], got, c[2])
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		a := rapid.StringMatching(`-?(0|[1-9][0-9]{0,4})(\.[0-9]{1,6})?`).Draw(t, "a")
		if d, ok := jsonitem.Subtract(a, a); !ok || jsonitem.Float(d) != 0 {
			t.Fatalf("%s - itself = %s", a, d)
		}
	})
}

func TestTime(t *testing.T) {
	for s, want := range map[string]sample.Zone{
		"2026-05-02T10:00:00Z": sample.ZoneInstant, "2026-05-02T10:00:00.123+00:00": sample.ZoneStated,
		"2026-05-02T10:00:00": sample.ZoneFloating,
	} {
		n := &jsonitem.Node{Kind: '"', Text: s}
		if _, zone, ok := n.Time(); !ok || zone != want {
			t.Errorf("%s: %v %v", s, zone, ok)
		}
	}
	for _, s := range []string{"", "2026-05-02", "1970-01-01T00:00:00Z", "9999-01-01T00:00:00Z",
		"2026-02-30T00:00:00Z"} {
		n := &jsonitem.Node{Kind: '"', Text: s}
		if _, _, ok := n.Time(); ok {
			t.Errorf("Time accepts %s", s)
		}
	}
}

// TestMisread checks which readings of a value count as those of a wrong type, and that
// the path holds only names that were asked for.
func TestMisread(t *testing.T) {
	for _, c := range []struct {
		body string
		read func(n *jsonitem.Node)
		want string
	}{
		{`{"a":{}}`, func(n *jsonitem.Node) { _ = n.Get("a").String() }, "a"},
		{`{"a":"x"}`, func(n *jsonitem.Node) { _ = n.Get("a", "b") }, "a"},
		{`{"a":{"b":[]}}`, func(n *jsonitem.Node) { n.Get("a", "b").Decimal() }, "a.b"},
		{`{"a":"x"}`, func(n *jsonitem.Node) { n.Get("a").Decimal() }, "a"},
		{`{"a":[1,{}]}`, func(n *jsonitem.Node) { n.Get("a").List()[1].Decimal() }, "a[1]"},
		{`{"a":{}}`, func(n *jsonitem.Node) { _ = n.Get("a").List() }, "a"},
		{`{"a":[]}`, func(n *jsonitem.Node) { _ = n.Get("a").Fields() }, "a"},
		{`{"a":"true"}`, func(n *jsonitem.Node) { _ = n.Get("a").IsTrue() }, "a"},
		{`{"a":{"secret":true}}`, func(n *jsonitem.Node) { n.Get("a").Fields()[0].Value.Decimal() }, "a"},
		{`{"a":1}`, func(n *jsonitem.Node) { n.Get("a").Refuse() }, "a"},
		{`7`, func(n *jsonitem.Node) { _ = n.Get("a") }, "the item"},
		{`{"a":"1","b":null,"c":true,"d":{}}`, func(n *jsonitem.Node) {
			n.Get("a").Decimal()
			_ = n.Get("b").String() + n.Get("b", "c").String()
			n.Get("c").IsTrue()
			_ = n.Get("d", "e").List()
		}, ""},
	} {
		n, err := read(c.body).Item()
		if err != nil {
			t.Fatal(err)
		}
		if c.read(n); n.Misread() != c.want {
			t.Errorf("%s: %q, want %q", c.body, n.Misread(), c.want)
		}
	}
}
