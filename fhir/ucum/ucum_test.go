package ucum

import (
	"math/big"
	"strings"
	"testing"
)

func TestConversions(t *testing.T) {
	for _, c := range []struct{ value, from, to, want string }{
		{"1", "kg", "g", "1000"},
		{"4000", "mg", "g", "4"},
		{"1", "[lb_av]", "g", "453.59237"},
		{"1", "[in_i]", "cm", "2.54"},
		{"7", "d", "wk", "1"},
		{"60", "/min", "Hz", "1"},
		{"37", "Cel", "[degF]", "98.6"},
		{"98.6", "[degF]", "Cel", "37"},
		{"100", "mm[Hg]", "kPa", "13.3322"},
		{"1", "cm.m", "m2", "0.01"},
		{"1", "mg/dL", "g/L", "0.01"},
		{"1", "{beats}/min", "/min", "1"},
		{"5", "10*3/uL", "10*9/L", "5"},
		{"1", "kg/m2", "g/cm2", "0.1"},
		{"1", "[IU]", "m[iU]", "1000"},
		{"1", "mL/(kg.min)", "mL/kg/min", "1"},
		{"1", "J", "N.m", "1"},
		{"50", "%", "1", "0.5"},
		{"1", "kcal", "J", "4184"},
		{"1", "m/s", "km/h", "3.6"},
	} {
		from, err1 := Parse(c.from)
		to, err2 := Parse(c.to)
		if err1 != nil || err2 != nil {
			t.Errorf("%s, %s: %v, %v", c.from, c.to, err1, err2)
			continue
		}
		value, _ := new(big.Rat).SetString(c.value)
		want, _ := new(big.Rat).SetString(c.want)
		if from.Base != to.Base {
			t.Errorf("%s and %s have the bases %q and %q", c.from, c.to, from.Base, to.Base)
		} else if got := to.From(from.Canonical(value)); got.Cmp(want) != 0 {
			t.Errorf("%s %s = %s %s, want %s", c.value, c.from, got.FloatString(6), c.to, c.want)
		}
	}
}

func TestNotCommensurable(t *testing.T) {
	for _, c := range [][2]string{{"cm", "s"}, {"[IU]", "mg"}, {"[IU]", "[CFU]"}, {"g/m", "g"}, {"Cel", "%"}} {
		a, err1 := Parse(c[0])
		b, err2 := Parse(c[1])
		if err1 != nil || err2 != nil || a.Base == b.Base {
			t.Errorf("%s and %s: %v, %v, bases %q and %q", c[0], c[1], err1, err2, a.Base, b.Base)
		}
	}
}

func TestNoUnits(t *testing.T) {
	for _, s := range []string{"lbs", "beats", "mmHg ", "kk", "[in", "m(", "(m", "m)", "{x", "m..s", "m.", "0", "1e5",
		"Cel/min", "kg.Cel", "Cel2", "mCel", "k[in_i]", "m99", "m31", "²", "/", "m//s", "wk day",
		strings.Repeat("(", 20) + "m" + strings.Repeat(")", 20), strings.Repeat("m.", 200) + "m", strings.Repeat("mol30.", 10) + "m"} {
		if u, err := Parse(s); err == nil {
			t.Errorf("Parse(%q) = %q, want an error", s, u.Base)
		}
	}
}

// TestTable checks that every definition resolves to base units.
func TestTable(t *testing.T) {
	for u := range units {
		if _, err := parse(u); err != nil {
			t.Errorf("%s: %v", u, err)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{"mg/dL", "10*3/uL", "(m.s)-2", "{a}/min", "mm[Hg]", "Cel"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		u, err := Parse(s)
		if err == nil && u.factor.Sign() <= 0 {
			t.Errorf("%q has the factor %s", s, u.factor)
		}
	})
}
