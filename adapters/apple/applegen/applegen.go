// Package applegen writes lifelike Apple Health payloads of invented wearers:
// export.xml, export.zip and Health Auto Export JSON, of any size and as a
// stream. The same Options give the same bytes. It is for demonstrations,
// tests and benchmarks, and copies no real person's data.
//
// # Proportions of an export.xml
//
// Records by type, in percent, beside two real exports whose owners published
// their counts: A of eight years, 3.2 GB (some 7 million Records; a file of
// 3.1 GB with 7.4 million Records and 0.9 million beats is known too), B of
// two months with a newer watch and phone, 298,000 Records counted.
//
//	                                    here    A     B
//	ActiveEnergyBurned                  29      30    18
//	HeartRate                           18      18    11
//	BasalEnergyBurned                   13      14    24
//	DistanceWalkingRunning              12      13    14
//	StepCount                            8       8     7
//	WalkingSpeed, WalkingStepLength      5       -    17
//	AppleExerciseTime                    3       3     1
//	PhysicalEffort                       3       -     5
//	AppleStandHour, AppleStandTime       3       -     1
//	audio exposure                       1       -     -
//	RespiratoryRate                      1       1     0.4
//	SleepAnalysis                        2       0.7   1
//	OxygenSaturation                     0.3     0.3   0.2
//	HeartRateVariabilitySDNN             0.3     -     0.1
//	others                               2
//
// A variability Record lists 50 beats: one beat for eight Records, as in the
// file with 0.9 million. The rest is by the shapes of the format and has no
// measured share: workouts on three days of seven with events, statistics,
// activity and route, their heart rate every 15 seconds; blood pressure every
// second day, both as Records and as Correlation; a ClinicalRecord every 20
// days; an ActivitySummary a day. A day has some 1,150 Records, 420 bytes
// each (A: 2,400 a day).
//
// As Apple does it, all dates have the one offset of the exporting phone,
// HKTimeZone stands with sleep and workouts only, Records come type by type,
// the address in a device description differs by type and day, versions rise
// every two months, and the wearer changes watch and phone after 900 days.
package applegen

import (
	"bufio"
	"cmp"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"strconv"
	"time"
)

// Options say whose data and how much.
type Options struct {
	Seed uint64
	// Days of data from Start; or Bytes, the wanted size of the export.xml
	// (it is met within a few percent, about 500 KB a day).
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
<!ELEMENT Workout ((MetadataEntry|WorkoutEvent|WorkoutRoute|WorkoutStatistics|WorkoutActivity)*)>
<!ELEMENT ActivitySummary EMPTY>
<!ELEMENT MetadataEntry EMPTY>
<!ATTLIST MetadataEntry key CDATA #REQUIRED value CDATA #REQUIRED>
]>
`

// gen writes one export, type by type as the Health app does.
type gen struct {
	w        *bufio.Writer
	b        []byte
	seed     uint64
	days     int
	zone     string // " +0100"
	dates    []string
	versions []string // of the system, for 60 days each
	watch    string
	phone    string
	err      error
	start    time.Time
}

// Generate writes an export.xml.
func Generate(w io.Writer, o Options) error {
	days, err := o.days()
	if err != nil {
		return err
	}
	return newGen(w, o, days).export()
}

// days is how many days of data are wanted.
func (o Options) days() (int, error) {
	if o.Bytes <= 0 {
		return max(o.Days, 1), nil
	}
	const probe = 14
	var c counter
	if err := newGen(&c, o, probe).export(); err != nil {
		return 0, err
	}
	return int(max(1, o.Bytes*probe/c.n)), nil
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
	for i := range days/60 + 1 {
		g.versions = append(g.versions, fmt.Sprintf("%d.%d", 9+i/6, i%6))
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

// device of a source, as Apple escapes it; the address differs by type and day.
func (g *gen) device(typ, source string, day int) {
	if source != g.watch && source != g.phone {
		return
	}
	h := uint64(14695981039346656037) // FNV-1a
	for i := range len(typ) {
		h = (h ^ uint64(typ[i])) * 1099511628211
	}
	h = (h ^ uint64(day)) * 1099511628211
	g.str(` device="&lt;&lt;HKDevice: 0x3`)
	for range 7 {
		g.b = append(g.b, "0123456789abcdef"[h>>60])
		h <<= 4
	}
	hardware := [4]string{"Watch6,7", "Watch7,2", "iPhone14,5", "iPhone16,1"}
	n := min(day/900, 1)
	if source == g.watch {
		g.str(`0&gt;, name:Apple Watch, manufacturer:Apple Inc., model:Watch, hardware:`, hardware[n])
	} else {
		g.str(`0&gt;, name:iPhone, manufacturer:Apple Inc., model:iPhone, hardware:`, hardware[2+n])
	}
	g.str(`, software:`, g.versions[day/60], `&gt;"`)
}

// common appends source, device and dates.
func (g *gen) common(typ, source, unit string, day, from, to int) {
	g.str(` sourceName="`, source, `" sourceVersion="`, g.versions[day/60], `"`)
	g.device(typ, source, day)
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
	g.common(typ, source, unit, day, from, to)
	if value != "" {
		g.str(` value="`, value, `"`)
	}
}

// float ends the attributes with a value.
func (g *gen) float(v float64, digits int) {
	g.str(` value="`)
	g.b = strconv.AppendFloat(g.b, v, 'f', digits, 64)
	g.str(`"`)
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
		g.heartRate, g.quantities, g.body, g.sleep, g.variability, g.standHours, g.events, g.bloodPressure,
		g.workouts, g.clinical, g.summaries,
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
