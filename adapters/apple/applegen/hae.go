package applegen

import (
	"bufio"
	"fmt"
	"io"
	"strconv"
	"time"
)

// GenerateHAE writes a body of Health Auto Export, version 2: heart rates every
// five minutes, daily values of steps and energy, nights and workouts.
func GenerateHAE(w io.Writer, o Options) error {
	gen := newGenerator(w, o, max(o.Days, 1))
	gen.out = bufio.NewWriterSize(w, 64<<10)
	gen.str(`{"data":{"metrics":[`)
	gen.metric("heart_rate", "count/min", false, gen.haeHeartRate)
	gen.metric("step_count", "count", false,
		gen.perDay(func(day int) string { return strconv.Itoa(5000 + gen.rng(101, day).IntN(9000)) }))
	gen.metric("active_energy", "kcal", false,
		gen.perDay(func(day int) string { return fmt.Sprintf("%.3f", 350+300*gen.rng(102, day).Float64()) }))
	gen.metric("resting_heart_rate", "count/min", false,
		gen.perDay(func(day int) string { return strconv.Itoa(54 + gen.rng(103, day).IntN(8)) }))
	gen.metric("heart_rate_variability", "ms", false,
		gen.perDay(func(day int) string { return fmt.Sprintf("%.2f", 32+25*gen.rng(104, day).Float64()) }))
	gen.metric("blood_oxygen_saturation", "%", false,
		gen.perDay(func(day int) string { return strconv.Itoa(94 + gen.rng(105, day).IntN(5)) }))
	gen.metric("sleep_analysis", "hr", true, gen.haeSleep)
	gen.str(`],"workouts":[`)
	first := true
	for day := range gen.days {
		if gen.rng(110, day).IntN(3) == 0 {
			gen.comma(&first)
			gen.haeWorkout(day)
		}
	}
	gen.str("]}}\n")
	gen.flush()
	if gen.err != nil {
		return gen.err
	}
	return gen.out.Flush()
}

func (gen *generator) comma(first *bool) {
	if !*first {
		gen.str(",\n")
	}
	*first = false
}

func (gen *generator) metric(name, units string, last bool, row func(day int)) {
	gen.str(`{"name":"`, name, `","units":"`, units, `","data":[`)
	first := true
	for day := range gen.days {
		gen.comma(&first)
		row(day)
		gen.flush()
	}
	gen.str("]}")
	if !last {
		gen.str(",\n")
	}
}

func (gen *generator) perDay(value func(day int) string) func(day int) {
	return func(day int) {
		gen.str(`{"date":"`)
		gen.date(day, 0)
		gen.str(`","qty":`, value(day), `,"source":"`, gen.watch, `"}`)
	}
}

func (gen *generator) haeHeartRate(day int) {
	r := gen.rng(100, day)
	first := true
	for sec := 60; sec < 86400; sec += 300 {
		gen.comma(&first)
		v := max(42, pulse(r, sec))
		gen.str(`{"date":"`)
		gen.date(day, sec)
		gen.buf = fmt.Appendf(gen.buf, `","Min":%d,"Avg":%.4f,"Max":%d,"source":"%s"}`, int(v)-r.IntN(6), v,
			int(v)+1+r.IntN(9), gen.watch)
	}
}

func (gen *generator) haeSleep(day int) {
	r := gen.rng(106, day)
	core, deep, rem := 3.5+r.Float64(), 0.7+0.5*r.Float64(), 1.2+0.6*r.Float64()
	from := 23*3600 + r.IntN(3000)
	to := from + int((core+deep+rem+0.2)*3600)
	gen.str(`{"date":"`, gen.dates[day+1][:10], `","sleepStart":"`)
	gen.date(day, from)
	gen.str(`","sleepEnd":"`)
	gen.date(day, to)
	gen.buf = fmt.Appendf(gen.buf, `","totalSleep":%.3f,"asleep":0,"core":%.3f,"deep":%.3f,"rem":%.3f,"awake":0.2,"inBed":%.3f,"source":"%s"}`,
		core+deep+rem, core, deep, rem, core+deep+rem+0.5, gen.watch)
}

func (gen *generator) haeWorkout(day int) {
	r := gen.rng(111, day)
	from, length := 18*3600+r.IntN(1800), 1500+r.IntN(1500)
	gen.buf = fmt.Appendf(gen.buf, `{"id":"550E8400-E29B-41D4-%04X-%012X","name":"Outdoor Run","start":"`,
		gen.seed&0xffff,
		gen.start.Add(time.Duration(day)*24*time.Hour).Unix())
	gen.date(day, from)
	gen.str(`","end":"`)
	gen.date(day, from+length)
	gen.buf = fmt.Appendf(gen.buf, `","duration":%d,"location":"Outdoor","activeEnergyBurned":{"qty":%d,"units":"kcal"},"distance":{"qty":%.2f,"units":"km"},"metadata":{}}`,
		length, length/6, float64(length)/400)
}
