package applegen

import (
	"bufio"
	"fmt"
	"io"
	"strconv"
	"time"
)

// GenerateHAE writes a Health Auto Export body (version 2): minutes of heart
// rate, days of steps and energy, nights and workouts.
func GenerateHAE(w io.Writer, o Options) error {
	g := newGen(w, o, max(o.Days, 1))
	g.w = bufio.NewWriterSize(w, 64<<10)
	g.str(`{"data":{"metrics":[`)
	g.metric("heart_rate", "count/min", false, g.haeHeartRate)
	g.metric("step_count", "count", false,
		g.perDay(func(day int) string { return strconv.Itoa(5000 + g.rnd(101, day).IntN(9000)) }))
	g.metric("active_energy", "kcal", false,
		g.perDay(func(day int) string { return fmt.Sprintf("%.3f", 350+300*g.rnd(102, day).Float64()) }))
	g.metric("resting_heart_rate", "count/min", false,
		g.perDay(func(day int) string { return strconv.Itoa(54 + g.rnd(103, day).IntN(8)) }))
	g.metric("heart_rate_variability", "ms", false,
		g.perDay(func(day int) string { return fmt.Sprintf("%.2f", 32+25*g.rnd(104, day).Float64()) }))
	g.metric("blood_oxygen_saturation", "%", false,
		g.perDay(func(day int) string { return strconv.Itoa(94 + g.rnd(105, day).IntN(5)) }))
	g.metric("sleep_analysis", "hr", true, g.haeSleep)
	g.str(`],"workouts":[`)
	first := true
	for day := range g.days {
		if g.rnd(110, day).IntN(3) == 0 {
			g.comma(&first)
			g.haeWorkout(day)
		}
	}
	g.str("]}}\n")
	g.flush()
	if g.err != nil {
		return g.err
	}
	return g.w.Flush()
}

func (g *gen) comma(first *bool) {
	if !*first {
		g.str(",\n")
	}
	*first = false
}

func (g *gen) metric(name, units string, last bool, row func(day int)) {
	g.str(`{"name":"`, name, `","units":"`, units, `","data":[`)
	first := true
	for day := range g.days {
		g.comma(&first)
		row(day)
		g.flush()
	}
	g.str("]}")
	if !last {
		g.str(",\n")
	}
}

func (g *gen) perDay(value func(day int) string) func(day int) {
	return func(day int) {
		g.str(`{"date":"`)
		g.date(day, 0)
		g.str(`","qty":`, value(day), `,"source":"`, g.watch, `"}`)
	}
}

func (g *gen) haeHeartRate(day int) {
	r := g.rnd(100, day)
	first := true
	for sec := 60; sec < 86400; sec += 300 {
		g.comma(&first)
		v := max(42, pulse(r, sec))
		g.str(`{"date":"`)
		g.date(day, sec)
		g.b = fmt.Appendf(g.b, `","Min":%d,"Avg":%.4f,"Max":%d,"source":"%s"}`, int(v)-r.IntN(6), v,
			int(v)+1+r.IntN(9), g.watch)
	}
}

func (g *gen) haeSleep(day int) {
	r := g.rnd(106, day)
	core, deep, rem := 3.5+r.Float64(), 0.7+0.5*r.Float64(), 1.2+0.6*r.Float64()
	from := 23*3600 + r.IntN(3000)
	to := from + int((core+deep+rem+0.2)*3600)
	g.str(`{"date":"`, g.dates[day+1][:10], `","sleepStart":"`)
	g.date(day, from)
	g.str(`","sleepEnd":"`)
	g.date(day, to)
	g.b = fmt.Appendf(g.b, `","totalSleep":%.3f,"asleep":0,"core":%.3f,"deep":%.3f,"rem":%.3f,"awake":0.2,"inBed":%.3f,"source":"%s"}`,
		core+deep+rem, core, deep, rem, core+deep+rem+0.5, g.watch)
}

func (g *gen) haeWorkout(day int) {
	r := g.rnd(111, day)
	from, length := 18*3600+r.IntN(1800), 1500+r.IntN(1500)
	g.b = fmt.Appendf(g.b, `{"id":"550E8400-E29B-41D4-%04X-%012X","name":"Outdoor Run","start":"`, g.seed&0xffff,
		g.start.Add(time.Duration(day)*24*time.Hour).Unix())
	g.date(day, from)
	g.str(`","end":"`)
	g.date(day, from+length)
	g.b = fmt.Appendf(g.b, `","duration":%d,"location":"Outdoor","activeEnergyBurned":{"qty":%d,"units":"kcal"},"distance":{"qty":%.2f,"units":"km"},"metadata":{}}`,
		length, length/6, float64(length)/400)
}
