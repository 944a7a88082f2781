package interaction

import (
	"math"
	"math/big"
	"strconv"
	"testing"

	"pgregory.net/rapid"

	"pulsegate/fhir/series"
)

// TestExactSum tests that the sums of numbers added one by one, as columns and in any
// order are the exact sum, rounded once.
func TestExactSum(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		col := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) series.Decimal {
			bound := rapid.SampledFrom([]int64{100, 1e6, 1 << 47, 1e15 - 1, math.MaxInt64}).Draw(t, "bound")
			return series.Decimal{Mant: rapid.Int64Range(-bound, bound).Draw(t, "mant"),
				Scale: rapid.SampledFrom([]uint8{0, 0, 1, 2, 18}).Draw(t, "scale")}
		}), 1, 50).Draw(t, "column")
		want := new(big.Rat)
		single, column, merged, other := &exactSum{}, &exactSum{}, &exactSum{}, &exactSum{}
		least, most := math.Inf(1), math.Inf(-1)
		for i, d := range col {
			v := d.Float()
			r, ok := new(big.Rat).SetString(strconv.FormatFloat(v, 'g', -1, 64))
			if !ok {
				t.Fatal(v)
			}
			want.Add(want, r)
			least, most = min(least, v), max(most, v)
			single.add(v)
			if i%2 == 0 {
				merged.add(v)
			} else {
				other.addColumn(col[i : i+1])
			}
		}
		column.addColumn(col)
		merged.merge(other)
		for name, s := range map[string]*exactSum{"single": single, "column": column, "merged": merged} {
			for _, n := range []uint64{1, uint64(len(col)), 3} {
				exact, _ := new(big.Rat).Quo(want, new(big.Rat).SetUint64(n)).Float64()
				if got := s.over(n); got != exact {
					t.Fatalf("%s over %d: %v, want %v", name, n, got, exact)
				}
			}
			if s.count != uint64(len(col)) || s.least != least || s.most != most {
				t.Fatalf("%s: %d numbers from %v to %v", name, s.count, s.least, s.most)
			}
		}
	})
	s := &exactSum{}
	for _, v := range []float64{1e308, 1e-300, -1e308, 1} {
		s.add(v)
	}
	if got := s.over(1); got != 1 {
		t.Errorf("numbers of all sizes: %v", got)
	}
}
