package decimal_test

import (
	"maps"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"pulsegate/mapping/decimal"
)

// TestInvert checks for every conversion of the table, alone and after a scale, that the
// inverse of a result converts to the result, that a number with few digits is found
// again up to the zeros at its end, and that Text says what the conversion is.
func TestInvert(t *testing.T) {
	all := units(t)
	names := slices.Sorted(maps.Keys(all))
	rapid.Check(t, func(t *rapid.T) {
		unit := all[rapid.SampledFrom(names).Draw(t, "ucum")]
		conv := unit.Accepts[rapid.SampledFrom(slices.Sorted(maps.Keys(unit.Accepts))).Draw(t, "unit")]
		if scale, ok := decimal.NewConversion(rapid.SampledFrom([]string{"1", "100", "0.01", "1/60",
			"60"}).Draw(t, "scale"), ""); ok {
			conv = conv.After(scale)
		}
		text := rapid.StringMatching(`-?(0|[1-9][0-9]{0,5})(\.[0-9]{1,4})?(e[0-9])?`).Draw(t, "number")
		number, ok := decimal.Parse(text)
		if !ok {
			t.Fatal(text)
		}
		times, plus := conv.Text()
		again, ok := decimal.NewConversion(times, plus)
		want := conv.Apply(number)
		if !ok || written(again.Apply(number)) != written(want) {
			t.Errorf("%q %q is another conversion of %s", times, plus, text)
		}
		inverse, ok := conv.Invert(want)
		if !ok || written(conv.Apply(inverse)) != written(want) {
			t.Fatalf("%s is %s, whose inverse is %s, which is %s", text, want, inverse, conv.Apply(inverse))
		}
		if places(want) < 9 && written(inverse.Trimmed()) != written(number.Trimmed()) {
			t.Errorf("%s is %s, whose inverse is %s", text, want, inverse)
		}
	})
}

// written returns a number as it is written in an Observation.
func written(d decimal.Decimal) string { return string(d.Append(nil)) }

// places returns the number of decimal places.
func places(d decimal.Decimal) int {
	_, fraction, _ := strings.Cut(written(d), ".")
	return len(fraction)
}

func TestInvertKeepsWhatItCan(t *testing.T) {
	all := units(t)
	percent, _ := decimal.NewConversion("100", "")
	for _, c := range []struct {
		conv     decimal.Conversion
		in, want string
	}{
		{percent, "97.0", "0.970"}, {percent, "90", "0.9"}, {percent, "0", "0"}, {percent, "-1.25", "-0.0125"},
		{all["kg"].Accepts["g"], "81.500", "81500"}, {all["kg"].Accepts["lb"], "81.6466266", "180"},
		{all["Cel"].Accepts["degF"], "37.777777778", "100"}, {all["min"].Accepts["s"], "1.666666667", "100"},
		{all["cm"].Accepts["ft"], "167.64", "5.5"}, {all["kg"].Accepts["kg"], "81.500", "81.500"},
		{all["m"].Accepts["cm"], "10", "10e2"}, {all["m"].Accepts["cm"], "0.0", "0e1"},
	} {
		d, _ := decimal.Parse(c.in)
		if got, ok := c.conv.Invert(d); !ok || got.String() != c.want {
			t.Errorf("the inverse of %s is %s, want %q", c.in, got, c.want)
		}
	}
}
