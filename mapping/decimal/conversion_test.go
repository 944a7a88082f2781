package decimal_test

import (
	"bytes"
	"math/big"
	"testing"

	"pgregory.net/rapid"

	"pulsegate/mapping/decimal"
	"pulsegate/mapping/table"
)

func units(t *testing.T) map[string]table.Unit {
	t.Helper()
	tab, err := table.Load(table.Builtin())
	if err != nil {
		t.Fatal(err)
	}
	return tab.Units
}

func TestConversions(t *testing.T) {
	all := units(t)
	for _, c := range []struct{ ucum, unit, in, want string }{
		{"/min", "count/min", "62.0", "62.0"},
		{"/min", "count/s", "1.25", "75"},
		{"Cel", "degF", "98.6", "37"},
		{"Cel", "degF", "100", "37.777777778"},
		{"kg", "lb", "154.5", "70.080021165"},
		{"kg", "g", "81500", "81.500"},
		{"kg", "st", "11", "69.85322498"},
		{"cm", "in", "70", "177.8"},
		{"cm", "ft", "5.5", "167.64"},
		{"cm", "m", "1.75", "175"},
		{"cm", "mm", "1755", "175.5"},
		{"m", "mi", "1", "1609.344"},
		{"m", "mm", "1234", "1.234"},
		{"kcal", "kJ", "418.4", "100"},
		{"kcal", "Cal", "12.5", "12.5"},
		{"min", "s", "5400", "90"},
		{"min", "s", "100", "1.666666667"},
		{"min", "hr", "7.25", "435"},
		{"m/s", "km/hr", "3.6", "1"},
		{"mmol/L", "mmol<180.1558800000541>/L", "5.50", "5.50"},
		{"mm[Hg]", "kPa", "101.325", "760"},
	} {
		conv, ok := all[c.ucum].Accepts.From(c.unit)
		d, parsed := decimal.Parse(c.in)
		if !ok || !parsed {
			t.Errorf("%s from %s is not accepted", c.ucum, c.unit)
			continue
		}
		if got := string(conv.Apply(d).Append(nil)); got != c.want {
			t.Errorf("%s %s in %s is %s, want %s", c.in, c.unit, c.ucum, got, c.want)
		}
		converter := decimal.NewConverter(conv)
		if got, ok := converter.Number(c.in); !ok || string(got.Append(nil)) != c.want {
			t.Errorf("%s %s in %s is %s by Converter, want %s", c.in, c.unit, c.ucum, got.Append(nil), c.want)
		}
	}
}

// TestFiniteProductIsExact checks conversions whose results have a finite
// expansion against rational arithmetic.
func TestFiniteProductIsExact(t *testing.T) {
	all := units(t)
	rapid.Check(t, func(t *rapid.T) {
		in := rapid.StringMatching(`-?[0-9]{1,9}(\.[0-9]{1,6})?`).Draw(t, "number")
		ucum := rapid.SampledFrom([]string{"kg", "cm", "m", "/min", "%"}).Draw(t, "unit")
		d, ok := decimal.Parse(in)
		if !ok {
			t.Fatalf("Parse(%q) failed", in)
		}
		exact, _ := new(big.Rat).SetString(in)
		for unit, c := range all[ucum].Accepts {
			factor, _ := new(big.Rat).SetString(string(c.Apply(decimal.One).Append(nil)))
			got, ok := new(big.Rat).SetString(string(c.Apply(d).Append(nil)))
			if !ok || got.Cmp(new(big.Rat).Mul(exact, factor)) != 0 {
				t.Fatalf("%s %s in %s is not exact", in, unit, ucum)
			}
		}
	})
}

// TestConverter checks that Converter computes the results of Conversion.Apply.
func TestConverter(t *testing.T) {
	all := units(t)
	rapid.Check(t, func(t *rapid.T) {
		in := rapid.OneOf(rapid.StringMatching(`-?[0-9]{1,6}(\.[0-9]{1,6})?`),
			rapid.StringMatching(`-?[0-9]{0,18}\.?[0-9]{0,18}`)).Draw(t, "number")
		d, ok := decimal.Parse(in)
		for ucum, u := range all {
			for unit, c := range u.Accepts {
				converter := decimal.NewConverter(c)
				got, fits := converter.Number(in)
				if !ok {
					if fits {
						t.Fatalf("Number(%q) succeeded", in)
					}
					continue
				}
				exact := c.Apply(d)
				want, short := exact.Short()
				if fits != short || got != want && fits {
					t.Fatalf("%s %s in %s: %+v %v, want %+v %v", in, unit, ucum, got, fits, want, short)
				}
				if text := exact.Append(nil); fits && !bytes.Equal(got.Append(nil), text) {
					t.Fatalf("%s %s in %s: %s, want %s", in, unit, ucum, got.Append(nil), text)
				}
				if fits && exact.IsJSON() && string(got.Append(nil)) != in {
					t.Fatalf("%s is written as %s", in, got.Append(nil))
				}
			}
		}
	})
}
