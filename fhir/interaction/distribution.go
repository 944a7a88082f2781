package interaction

import (
	"math"
	"slices"
)

// distribution counts how often each value occurs. It gives exact statistics and
// is small if values repeat, as the values of wearables do.
type distribution struct {
	runs  []run // by value
	buf   []float64
	count uint64
}

type run struct {
	value float64
	count uint64
}

const (
	distributionBuffer = 1 << 15
	// maxDistinct bounds the memory of a request: 16 bytes per value, and twice as
	// much during a merge.
	maxDistinct = 2 << 20
)

// add counts v. It returns false if there are too many distinct values.
func (d *distribution) add(v float64) bool {
	d.buf = append(d.buf, v)
	d.count++
	if len(d.buf) >= distributionBuffer {
		d.merge()
	}
	return len(d.runs) <= maxDistinct
}

// maxSpan bounds the range of whole numbers that is counted in an array.
const maxSpan = 4096

// addPrefix counts the first values of vs, at least one, and returns their number.
// It counts many whole numbers in a narrow range, such as heart rates, without
// sorting.
func (d *distribution) addPrefix(vs []float64) int {
	lo, hi, k := vs[0], vs[0], 0
	for ; k < len(vs) && vs[k] == math.Trunc(vs[k]) && math.Abs(vs[k]) < 1<<52; k++ {
		l, h := min(lo, vs[k]), max(hi, vs[k])
		if h-l >= maxSpan {
			break
		}
		lo, hi = l, h
	}
	if k < 64 {
		d.add(vs[0])
		return 1
	}
	d.merge()
	counts := make([]uint64, int(hi-lo)+1)
	for _, v := range vs[:k] {
		counts[int(v-lo)]++
	}
	var fresh []run
	for i, n := range counts {
		if n > 0 {
			fresh = append(fresh, run{lo + float64(i), n})
		}
	}
	d.addRuns(fresh)
	return k
}

// addRuns counts values in ascending order.
func (d *distribution) addRuns(fresh []run) {
	d.merge()
	i, j := 0, 0
	for ; i < len(d.runs) && j < len(fresh) && d.runs[i].value <= fresh[j].value; i++ {
		if d.runs[i].value == fresh[j].value { // usually all values are present already
			d.runs[i].count += fresh[j].count
			d.count += fresh[j].count
			j++
		}
	}
	if fresh = fresh[j:]; len(fresh) == 0 {
		return
	}
	out := make([]run, 0, len(d.runs)+len(fresh))
	i, j = 0, 0
	for i < len(d.runs) || j < len(fresh) {
		switch {
		case j == len(fresh) || i < len(d.runs) && d.runs[i].value < fresh[j].value:
			out = append(out, d.runs[i])
			i++
		case i == len(d.runs) || fresh[j].value < d.runs[i].value:
			out = append(out, fresh[j])
			j++
		default:
			out = append(out, run{fresh[j].value, fresh[j].count + d.runs[i].count})
			i, j = i+1, j+1
		}
	}
	d.runs = out
	for _, r := range fresh {
		d.count += r.count
	}
}

// merge sorts the buffer and merges it into the runs.
func (d *distribution) merge() {
	if len(d.buf) == 0 {
		return
	}
	slices.Sort(d.buf)
	out := make([]run, 0, len(d.runs)+64)
	put := func(v float64, n uint64) {
		if k := len(out) - 1; k >= 0 && out[k].value == v {
			out[k].count += n
			return
		}
		out = append(out, run{v, n})
	}
	i := 0
	for _, v := range d.buf {
		for i < len(d.runs) && d.runs[i].value <= v {
			put(d.runs[i].value, d.runs[i].count)
			i++
		}
		put(v, 1)
	}
	for ; i < len(d.runs); i++ {
		put(d.runs[i].value, d.runs[i].count)
	}
	d.runs, d.buf = out, d.buf[:0]
}

// at returns the value at index k of all values in ascending order.
func (d *distribution) at(k uint64) float64 {
	for _, r := range d.runs {
		if k < r.count {
			return r.value
		}
		k -= r.count
	}
	return math.NaN()
}

// quantile interpolates between adjacent values. 0 is the least and 1 the greatest
// value (type 7 in R, the method of spreadsheets).
func (d *distribution) quantile(q float64) float64 {
	if d.count == 0 {
		return math.NaN()
	}
	pos := q * float64(d.count-1)
	k := uint64(pos)
	lo := d.at(k)
	if frac := pos - float64(k); frac > 0 && k+1 < d.count {
		return lo + frac*(d.at(k+1)-lo)
	}
	return lo
}

func (d *distribution) sum() float64 {
	s, carry := 0.0, 0.0 // Kahan
	for _, r := range d.runs {
		y := r.value*float64(r.count) - carry
		t := s + y
		carry = (t - s) - y
		s = t
	}
	return s
}

func (d *distribution) mean() float64 { return d.sum() / float64(d.count) }

// moment returns the sum of (v-mean)^k.
func (d *distribution) moment(k int) float64 {
	m, s := d.mean(), 0.0
	for _, r := range d.runs {
		x := r.value - m
		p := x
		for range k - 1 {
			p *= x
		}
		s += p * float64(r.count)
	}
	return s
}

// variance returns the sample variance (n-1).
func (d *distribution) variance() float64 {
	if d.count < 2 {
		return math.NaN()
	}
	return d.moment(2) / float64(d.count-1)
}

// skew returns the adjusted Fisher-Pearson coefficient of a sample.
func (d *distribution) skew() float64 {
	n, s2 := float64(d.count), d.variance()
	if d.count < 3 || s2 == 0 {
		return math.NaN()
	}
	return n / ((n - 1) * (n - 2)) * d.moment(3) / math.Pow(s2, 1.5)
}

// kurtosis returns the bias-corrected excess kurtosis of a sample.
func (d *distribution) kurtosis() float64 {
	n, s2 := float64(d.count), d.variance()
	if d.count < 4 || s2 == 0 {
		return math.NaN()
	}
	return n*(n+1)/((n-1)*(n-2)*(n-3))*d.moment(4)/(s2*s2) - 3*(n-1)*(n-1)/((n-2)*(n-3))
}
