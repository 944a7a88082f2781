package series

import (
	"math"
	"math/rand/v2"
)

// stream generates n synthetic samples of a typical wearable metric.
type stream struct {
	name string
	make func(n int) *Columns
}

const monday = 1767600000_000000 // 2026-01-05T08:00:00Z

// streams returns the streams on which encodings are measured. Golden files
// depend on their order.
func streams() []stream {
	return []stream{
		{"heart rate, 5 s", heart},
		{"heart rate, 5 s, exact", func(n int) *Columns { return rhythm(n, 5e6, 0, 0.001) }},
		{"heart rate, 5 s, in milliseconds", func(n int) *Columns { return rhythm(n, 5e6, 40e3, 0.002) }},
		{"heart rate, one commit per minute", func(n int) *Columns { return committed(heart(n), 12, 1) }},
		{"heart rate, late data merged", func(n int) *Columns { return committed(heart(n), 400, 6) }},
		{"steps", func(n int) *Columns {
			return intervals(n, func(r *rand.Rand, s int64) Decimal {
				return Decimal{1 + s*int64(60+r.IntN(60))/60, 0}
			})
		}},
		{"active energy, 3 to 5 decimals", func(n int) *Columns {
			return intervals(n, func(r *rand.Rand, s int64) Decimal {
				d := Decimal{int64(r.ExpFloat64()*50000*float64(s)/60) + 1, 5}
				if r.IntN(4) > 0 {
					d = Decimal{d.Mant / 100, 3}
				}
				return d.trimmed()
			})
		}},
		{"SpO2", func(n int) *Columns {
			return spots(n, 900, func(r *rand.Rand) Decimal {
				return Decimal{100 - int64(min(r.ExpFloat64()*2.5, 30)), 2}
			})
		}},
		{"HRV, 6 digits", func(n int) *Columns {
			return spots(n, 7200, func(r *rand.Rand) Decimal {
				return Decimal{int64(math.Exp(r.NormFloat64()*0.4) * 40e4), 4}
			})
		}},
		{"HRV, 15 digits", func(n int) *Columns {
			return spots(n, 7200, func(r *rand.Rand) Decimal {
				return Decimal{int64(math.Exp(r.NormFloat64()*0.4) * 40e13), 13}.trimmed()
			})
		}},
		{"glucose, 5 min", glucose},
	}
}

func newRand() *rand.Rand { return rand.New(rand.NewPCG(7, 11)) }

// instants returns samples without ends and one commit per 50,000 samples.
func instants(n int, next func(i int) (start int64, v Decimal)) *Columns {
	c := &Columns{}
	for i := range n {
		var s Sample
		s.Start, s.Values[0] = next(i)
		s.End, s.Off, s.Commit = NoEnd, 60, Commit{uint64(1000 + i/50000*3), 1767700000000 + int64(i/50000)*86400_000}
		if s.Start > monday+86400e6*83 {
			s.Off = 120
		}
		c.Append(&s, 1)
	}
	return c
}

// heart returns a heart rate every 5 seconds, in whole seconds with an occasional
// second of jitter and with gaps. The rate drifts and fluctuates.
func heart(n int) *Columns { return rhythm(n, 5e6, 1e6, 0.002) }

func rhythm(n int, every, jitter int64, gaps float64) *Columns {
	r := newRand()
	at, level, rate := int64(monday), 70.0, 70.0
	return instants(n, func(int) (int64, Decimal) {
		at += every
		switch {
		case jitter == 1e6 && r.IntN(5) == 0:
			at += []int64{-1e6, 1e6}[r.IntN(2)]
		case jitter > 0 && jitter < 1e6:
			at += r.Int64N(2*jitter/1000) * 1000
			at -= jitter
		}
		if r.Float64() < gaps {
			at += int64(1+r.IntN(7200)) * 1e6
			level = 55 + 80*r.Float64()*r.Float64()
		}
		level += r.NormFloat64() * 0.3
		level = min(max(level, 48), 175)
		rate += (level-rate)*0.2 + r.NormFloat64()*0.9
		return at, Decimal{int64(math.Round(rate)), 0}
	})
}

// intervals returns consecutive intervals with occasional pauses.
func intervals(n int, value func(r *rand.Rand, seconds int64) Decimal) *Columns {
	r := newRand()
	c := &Columns{}
	at := int64(monday)
	for i := range n {
		if r.IntN(6) == 0 {
			at += int64(r.ExpFloat64()*900) * 1e6
		}
		long := 5 + int64(r.IntN(60))
		if r.IntN(3) == 0 {
			long = 60 + int64(r.ExpFloat64()*200)
		}
		s := Sample{Start: at, End: at + long*1e6, Off: 60, EndOff: 60,
			Commit: Commit{uint64(1000 + i/50000*3), 1767700000000}}
		s.Values[0] = value(r, long)
		c.Append(&s, 1)
		at = s.End
	}
	return c
}

// spots returns measurements at random times, mean seconds apart.
func spots(n int, mean float64, value func(r *rand.Rand) Decimal) *Columns {
	r := newRand()
	at := int64(monday)
	return instants(n, func(int) (int64, Decimal) {
		at += int64(30+r.ExpFloat64()*mean) * 1e6
		return at, value(r)
	})
}

func glucose(n int) *Columns {
	r := newRand()
	at, g, slope := int64(monday), 110.0, 0.0
	return instants(n, func(int) (int64, Decimal) {
		at += 300e6 + int64(r.IntN(3)-1)*1e6
		if r.IntN(400) == 0 {
			at += int64(r.IntN(20)) * 300e6
		}
		slope = slope*0.8 + r.NormFloat64()*1.6 - (g-115)*0.01
		g = min(max(g+slope, 45), 320)
		return at, Decimal{int64(g), 0}
	})
}

// committed assigns commits to the samples of c. If few is 1, each commit has
// length samples; otherwise few commits alternate in runs of at most length.
func committed(c *Columns, length, few int) *Columns {
	r := newRand()
	left := 0
	t := 0
	for i := range c.Commits {
		if left--; left < 0 {
			if few > 1 {
				left = 1 + r.IntN(length/(1+r.IntN(20)))
				t = r.IntN(few)
			} else {
				left = length - 1
				t++
			}
		}
		c.Commits[i] = Commit{uint64(5000 + 2*t), 1767700000000 + int64(t)*60_000 + int64(t*t%977)}
	}
	return c
}
