// Package applegen generates realistic Apple Health payloads of invented wearers:
// export.xml, export.zip and Health Auto Export JSON, streamed and of any size. The same
// Options give the same bytes. The package is for demonstrations, tests and benchmarks and
// contains no data of real people.
//
// # Proportions of an export.xml
//
// The table shows the percentage of Records by type, next to the published counts of two
// real exports. A covers eight years and has 3.2 GB and about 7 million Records. (Another
// published file has 3.1 GB, 7.4 million Records and 0.9 million beats.) B covers two
// months with a newer watch and phone and has 298,000 Records.
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
// A Record of heart rate variability lists 50 beats, which makes one beat per eight
// Records as in the file with 0.9 million beats. The other elements follow the format,
// without a published share: workouts on three of seven days with events, statistics,
// activity, route and a heart rate every 15 seconds; blood pressure every second day, as
// Records and as a Correlation; a ClinicalRecord every 20 days; an ActivitySummary per
// day. A day has about 1,150 Records of 420 bytes (A: 2,400 per day).
//
// As in Apple's exports, all dates have the offset of the exporting phone, only sleep and
// workouts have HKTimeZone, Records are ordered by type, the address in a device
// description differs by type and day, versions change every two months, and the wearer
// replaces watch and phone after 900 days.
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

// Options select the wearer and the amount of data.
type Options struct {
	Seed uint64
	// Days is the number of days from Start. It is ignored if Bytes is set.
	Days int
	// Bytes is the size of the export.xml, met within a few percent (about 500 KB per
	// day).
	Bytes int64
	// Start is the first day. All dates have the offset of its zone.
	Start time.Time
	// Name is the wearer's name, as in "<Name>’s Apple Watch".
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

// generator writes one export, type by type like the Health app.
type generator struct {
	out      *bufio.Writer
	buf      []byte // text that has not been written to out
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
	return newGenerator(w, o, days).export()
}

// days returns the number of days of data.
func (opts Options) days() (int, error) {
	if opts.Bytes <= 0 {
		return max(opts.Days, 1), nil
	}
	const probe = 14
	var c counter
	if err := newGenerator(&c, opts, probe).export(); err != nil {
		return 0, err
	}
	return int(max(1, opts.Bytes*probe/c.size)), nil
}

// counter counts the bytes written to it.
type counter struct{ size int64 }

func (c *counter) Write(p []byte) (int, error) { c.size += int64(len(p)); return len(p), nil }

func newGenerator(w io.Writer, o Options, days int) *generator {
	name := cmp.Or(o.Name, "Alva")
	y, m, d := o.Start.Date()
	start := time.Date(y, m, d, 0, 0, 0, 0, o.Start.Location())
	gen := &generator{
		out: bufio.NewWriterSize(w, 1<<20), seed: o.Seed, days: days, zone: start.Format(" -0700"), start: start,
		watch: name + "’s Apple Watch", phone: name + "’s iPhone",
	}
	for i := range days + 2 {
		gen.dates = append(gen.dates, time.Date(y, m, d+i, 0, 0, 0, 0, time.UTC).Format("2006-01-02 "))
	}
	for i := range days/60 + 1 {
		gen.versions = append(gen.versions, fmt.Sprintf("%d.%d", 9+i/6, i%6))
	}
	return gen
}

// rng returns the random numbers of one series of data on one day. Series and
// days are independent of each other.
func (gen *generator) rng(series, day int) *rand.Rand {
	return rand.New(rand.NewPCG(gen.seed, uint64(series)<<32|uint64(day)))
}

// flush writes buf and keeps the first error.
func (gen *generator) flush() {
	if gen.err == nil {
		_, gen.err = gen.out.Write(gen.buf)
	}
	gen.buf = gen.buf[:0]
}

// date appends the time sec seconds after the midnight of day.
func (gen *generator) date(day, sec int) {
	day += sec / 86400
	sec %= 86400
	gen.buf = append(gen.buf, gen.dates[min(day, len(gen.dates)-1)]...)
	for i, v := range [3]int{sec / 3600, sec / 60 % 60, sec % 60} {
		if i > 0 {
			gen.buf = append(gen.buf, ':')
		}
		gen.buf = append(gen.buf, byte('0'+v/10), byte('0'+v%10))
	}
	gen.buf = append(gen.buf, gen.zone...)
}

// str appends texts.
func (gen *generator) str(parts ...string) {
	for _, p := range parts {
		gen.buf = append(gen.buf, p...)
	}
}

// device appends the device of a source as Apple escapes it. The address
// differs by type and day.
func (gen *generator) device(typ, source string, day int) {
	if source != gen.watch && source != gen.phone {
		return
	}
	h := uint64(14695981039346656037) // FNV-1a
	for i := range len(typ) {
		h = (h ^ uint64(typ[i])) * 1099511628211
	}
	h = (h ^ uint64(day)) * 1099511628211
	gen.str(` device="&lt;&lt;HKDevice: 0x3`)
	for range 7 {
		gen.buf = append(gen.buf, "0123456789abcdef"[h>>60])
		h <<= 4
	}
	hardware := [4]string{"Watch6,7", "Watch7,2", "iPhone14,5", "iPhone16,1"}
	n := min(day/900, 1)
	if source == gen.watch {
		gen.str(`0&gt;, name:Apple Watch, manufacturer:Apple Inc., model:Watch, hardware:`, hardware[n])
	} else {
		gen.str(`0&gt;, name:iPhone, manufacturer:Apple Inc., model:iPhone, hardware:`, hardware[2+n])
	}
	gen.str(`, software:`, gen.versions[day/60], `&gt;"`)
}

// common appends the attributes for source, device and dates.
func (gen *generator) common(typ, source, unit string, day, from, to int) {
	gen.str(` sourceName="`, source, `" sourceVersion="`, gen.versions[day/60], `"`)
	gen.device(typ, source, day)
	if unit != "" {
		gen.str(` unit="`, unit, `"`)
	}
	gen.str(` creationDate="`)
	gen.date(day, to+7)
	gen.str(`" startDate="`)
	gen.date(day, from)
	gen.str(`" endDate="`)
	gen.date(day, to)
	gen.str(`"`)
}

// record appends the start of a Record. The caller ends it with end or with
// children.
func (gen *generator) record(typ, source, unit string, day, from, to int, value string) {
	gen.str(` <Record type="`, typ, `"`)
	gen.common(typ, source, unit, day, from, to)
	if value != "" {
		gen.str(` value="`, value, `"`)
	}
}

// float appends a value attribute.
func (gen *generator) float(v float64, digits int) {
	gen.str(` value="`)
	gen.buf = strconv.AppendFloat(gen.buf, v, 'f', digits, 64)
	gen.str(`"`)
}

// end closes an element without children.
func (gen *generator) end() { gen.str("/>\n"); gen.flush() }

// meta appends a MetadataEntry.
func (gen *generator) meta(indent, key, value string) {
	gen.str(indent, `<MetadataEntry key="`, key, `" value="`, value, "\"/>\n")
}

// export writes the complete export.xml.
func (gen *generator) export() error {
	gen.str(dtd, "<HealthData locale=\"en_SE\">\n <ExportDate value=\"")
	gen.date(gen.days, 9*3600)
	gen.str("\"/>\n <Me HKCharacteristicTypeIdentifierDateOfBirth=\"1984-02-11\" HKCharacteristicTypeIdentifierBiologicalSex=\"HKBiologicalSexNotSet\" HKCharacteristicTypeIdentifierBloodType=\"HKBloodTypeNotSet\" HKCharacteristicTypeIdentifierFitzpatrickSkinType=\"HKFitzpatrickSkinTypeNotSet\" HKCharacteristicTypeIdentifierCardioFitnessMedicationsUse=\"None\"/>\n")
	gen.flush()
	for series, write := range []func(series, day int){
		gen.heartRate, gen.quantities, gen.body, gen.sleep, gen.variability, gen.standHours, gen.events,
		gen.bloodPressure,
		gen.workouts, gen.clinical, gen.summaries,
	} {
		for day := range gen.days {
			write(series, day)
		}
	}
	gen.str("</HealthData>\n")
	gen.flush()
	if gen.err != nil {
		return gen.err
	}
	return gen.out.Flush()
}

// pulse returns a realistic heart rate at a time of the day.
func pulse(r *rand.Rand, sec int) float64 {
	hour := float64(sec) / 3600
	base := 56 + 18*math.Max(0, math.Sin((hour-6)/17*math.Pi))
	if r.IntN(25) == 0 {
		base += 40 * r.Float64()
	}
	return base + 6*r.NormFloat64()
}
