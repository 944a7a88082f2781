// Package applegen writes lifelike Apple Health payloads of invented wearers:
// export.xml, export.zip and Health Auto Export JSON. The same Options give
// the same bytes. It is for demonstrations, tests and benchmarks, and copies
// no real person's data.
//
// # Proportions of an export.xml
//
// A day has about 1,180 Records in 430 bytes each, their children included,
// written type by type as the Health app does:
//
//	ActiveEnergyBurned                360 (31 %)
//	HeartRate                         290 (25 %)  every 200 to 400 s, each with its motion context
//	StepCount                         100 (8 %)   40 of the phone, 60 of the watch
//	BasalEnergyBurned                  96 (8 %)
//	AppleStandTime                     90 (8 %)
//	DistanceWalkingRunning             60 (5 %)
//	EnvironmentalAudioExposure         30
//	AppleExerciseTime                  28
//	RespiratoryRate                    24         asleep only
//	SleepAnalysis                      23         stages of the watch and one InBed of the phone, each with its zone
//	OxygenSaturation                   18         each with the air pressure
//	AppleStandHour                     16
//	WalkingSpeed, DoubleSupport        22
//	HeartRateVariabilitySDNN            3         each with a list of 50 beats
//	all others                         20         flights, resting and walking heart rate, temperature, weight, blood pressure, glucose
//	Workout                             3 in 7 days, with metadata, statistics and events
//	ActivitySummary                     1
//
// The size of a Record and one beat to eight Records are those of an export
// of 3.1 GB that its owner described (7.4 million Records, 0.9 million
// beats). The counts of the types are estimates, not measured on people: they
// follow the intervals in which a watch that is worn day and night writes.
// The pointer in a device attribute differs by day, and all dates have one
// offset, that of the exporting phone.
package applegen

import (
	"archive/zip"
	"bufio"
	"cmp"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"time"
)

// Options say whose data and how much.
type Options struct {
	Seed uint64
	// Days of data from Start; or Bytes, the wanted size of the export.xml
	// (it is met within a few percent, about 450 KB a day).
	Days  int
	Bytes int64
	// Start is the first day; its zone's offset is printed everywhere.
	Start time.Time
	// Name of the wearer, as it appears in "<Name>’s Apple Watch".
	Name string
}

const dtd = `<?xml version="1.0" encoding="UTF-8"?>
<!DOCTYPE HealthData [
<!-- HealthKit Export Version: 14 -->
<!ELEMENT HealthData (ExportDate,Me,(Record|Correlation|Workout|ActivitySummary|ClinicalRecord|Audiogram|VisionPrescription)*)>
<!ATTLIST HealthData locale CDATA #REQUIRED>
<!ELEMENT ExportDate EMPTY>
<!ATTLIST ExportDate value CDATA #REQUIRED>
<!ELEMENT Me EMPTY>
<!ELEMENT Record ((MetadataEntry|HeartRateVariabilityMetadataList)*)>
<!ELEMENT Correlation ((MetadataEntry|Record)*)>
<!ELEMENT Workout ((MetadataEntry|WorkoutEvent|WorkoutRoute|WorkoutStatistics)*)>
<!ELEMENT ActivitySummary EMPTY>
<!ELEMENT MetadataEntry EMPTY>
<!ATTLIST MetadataEntry key CDATA #REQUIRED value CDATA #REQUIRED>
]>
`

// gen writes one export, type by type as the Health app does.
type gen struct {
	w     *bufio.Writer
	b     []byte
	seed  uint64
	days  int
	zone  string // " +0100"
	dates []string
	watch string
	phone string
	err   error
	start time.Time
}

// Generate writes an export.xml.
func Generate(w io.Writer, o Options) error {
	days := o.Days
	if o.Bytes > 0 {
		const probe = 14
		var c counter
		g := newGen(&c, o, probe)
		if err := g.export(); err != nil {
			return err
		}
		days = int(max(1, o.Bytes*probe/c.n))
	}
	return newGen(w, o, max(days, 1)).export()
}

type counter struct{ n int64 }

func (c *counter) Write(p []byte) (int, error) { c.n += int64(len(p)); return len(p), nil }

func newGen(w io.Writer, o Options, days int) *gen {
	name := cmp.Or(o.Name, "Alva")
	y, m, d := o.Start.Date()
	start := time.Date(y, m, d, 0, 0, 0, 0, o.Start.Location())
	g := &gen{
		w: bufio.NewWriterSize(w, 1<<20), seed: o.Seed, days: days, zone: start.Format(" -0700"), start: start,
		watch: name + "’s Apple Watch", phone: name + "’s iPhone",
	}
	for i := range days + 2 {
		g.dates = append(g.dates, time.Date(y, m, d+i, 0, 0, 0, 0, time.UTC).Format("2006-01-02 "))
	}
	return g
}

// rnd is the chance of one kind of data on one day, so that kinds and days
// do not depend on each other.
func (g *gen) rnd(kind, day int) *rand.Rand {
	return rand.New(rand.NewPCG(g.seed, uint64(kind)<<32|uint64(day)))
}

func (g *gen) flush() {
	if g.err == nil {
		_, g.err = g.w.Write(g.b)
	}
	g.b = g.b[:0]
}

// date appends a moment, given in seconds after midnight of day.
func (g *gen) date(day, sec int) {
	day += sec / 86400
	sec %= 86400
	g.b = append(g.b, g.dates[min(day, len(g.dates)-1)]...)
	for i, v := range [3]int{sec / 3600, sec / 60 % 60, sec % 60} {
		if i > 0 {
			g.b = append(g.b, ':')
		}
		g.b = append(g.b, byte('0'+v/10), byte('0'+v%10))
	}
	g.b = append(g.b, g.zone...)
}

func (g *gen) str(parts ...string) {
	for _, p := range parts {
		g.b = append(g.b, p...)
	}
}

// device of a source, as Apple escapes it; the pointer differs by day.
func (g *gen) device(source string, day int) {
	switch source {
	case g.watch:
		g.b = fmt.Appendf(g.b, ` device="&lt;&lt;HKDevice: 0x30%07x0&gt;, name:Apple Watch, manufacturer:Apple Inc., model:Watch, hardware:Watch7,2, software:26.1&gt;"`, day)
	case g.phone:
		g.b = fmt.Appendf(g.b, ` device="&lt;&lt;HKDevice: 0x28%07x0&gt;, name:iPhone, manufacturer:Apple Inc., model:iPhone, hardware:iPhone16,1, software:26.1&gt;"`, day)
	}
}

// common appends source, device and dates.
func (g *gen) common(source, unit string, day, from, to int) {
	g.str(` sourceName="`, source, `" sourceVersion="26.1"`)
	g.device(source, day)
	if unit != "" {
		g.str(` unit="`, unit, `"`)
	}
	g.str(` creationDate="`)
	g.date(day, to+7)
	g.str(`" startDate="`)
	g.date(day, from)
	g.str(`" endDate="`)
	g.date(day, to)
	g.str(`"`)
}

// record opens a Record; the caller ends it with close or with children.
func (g *gen) record(typ, source, unit string, day, from, to int, value string) {
	g.str(` <Record type="`, typ, `"`)
	g.common(source, unit, day, from, to)
	if value != "" {
		g.str(` value="`, value, `"`)
	}
}

func (g *gen) end() { g.str("/>\n"); g.flush() }

func (g *gen) meta(indent, key, value string) {
	g.str(indent, `<MetadataEntry key="`, key, `" value="`, value, "\"/>\n")
}

func (g *gen) export() error {
	g.str(dtd, "<HealthData locale=\"en_SE\">\n <ExportDate value=\"")
	g.date(g.days, 9*3600)
	g.str("\"/>\n <Me HKCharacteristicTypeIdentifierDateOfBirth=\"1984-02-11\" HKCharacteristicTypeIdentifierBiologicalSex=\"HKBiologicalSexNotSet\" HKCharacteristicTypeIdentifierBloodType=\"HKBloodTypeNotSet\" HKCharacteristicTypeIdentifierFitzpatrickSkinType=\"HKFitzpatrickSkinTypeNotSet\" HKCharacteristicTypeIdentifierCardioFitnessMedicationsUse=\"None\"/>\n")
	g.flush()
	for kind, write := range []func(kind, day int){
		g.heartRate, g.quantities, g.body, g.sleep, g.variability, g.standHours, g.events, g.bloodPressure, g.workouts, g.summaries,
	} {
		for day := range g.days {
			write(kind, day)
		}
	}
	g.str("</HealthData>\n")
	g.flush()
	if g.err != nil {
		return g.err
	}
	return g.w.Flush()
}

// pulse is a lifelike heart rate at a moment of the day.
func pulse(r *rand.Rand, sec int) float64 {
	hour := float64(sec) / 3600
	base := 56 + 18*math.Max(0, math.Sin((hour-6)/17*math.Pi))
	if r.IntN(25) == 0 {
		base += 40 * r.Float64()
	}
	return base + 6*r.NormFloat64()
}

// GenerateZip writes an export.zip with two ECGs beside the export.xml.
func GenerateZip(w io.Writer, o Options) error {
	z := zip.NewWriter(w)
	create := func(name string) (io.Writer, error) {
		return z.CreateHeader(&zip.FileHeader{Name: "apple_health_export/" + name, Method: zip.Deflate, Modified: o.Start})
	}
	f, err := create("export.xml")
	if err != nil {
		return err
	}
	if err := Generate(f, o); err != nil {
		return err
	}
	for i := range 2 {
		at := o.Start.AddDate(0, 0, i)
		f, err := create("electrocardiograms/ecg_" + at.Format(time.DateOnly) + ".csv")
		if err != nil {
			return err
		}
		if err := GenerateECG(f, o, at); err != nil {
			return err
		}
	}
	return z.Close()
}

// GenerateECG writes one ECG CSV of 30 seconds at 512 Hz.
func GenerateECG(w io.Writer, o Options, at time.Time) error {
	b := bufio.NewWriter(w)
	y, m, d := at.Date()
	at = time.Date(y, m, d, 9, 15, 35, 0, at.Location())
	_, err := fmt.Fprintf(b, "Name,%s\nDate of Birth,\"Feb 11, 1984\"\nRecorded Date,%s\nClassification,Sinus Rhythm\nSymptoms,\nSoftware Version,2.0\nDevice,\"Watch7,2\"\nSample Rate,512 hertz\n\n\nLead,Lead I\nUnit,µV\n\n",
		cmp.Or(o.Name, "Alva"), at.Format("2006-01-02 15:04:05 -0700"))
	if err != nil {
		return err
	}
	r := rand.New(rand.NewPCG(o.Seed, uint64(at.Unix())))
	for i := range 30 * 512 {
		phase := math.Mod(float64(i)/512*1.1, 1)
		v := 80*math.Exp(-math.Pow((phase-0.2)/0.03, 2)) - 120*math.Exp(-math.Pow((phase-0.37)/0.008, 2)) +
			900*math.Exp(-math.Pow((phase-0.4)/0.009, 2)) + 180*math.Exp(-math.Pow((phase-0.65)/0.05, 2)) + 6*r.NormFloat64()
		if _, err := fmt.Fprintf(b, "%.3f\n", v); err != nil {
			return err
		}
	}
	return b.Flush()
}
