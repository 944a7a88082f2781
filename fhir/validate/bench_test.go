package validate_test

import (
	"syscall"
	"testing"

	"pulsegate/fhir/validate"
)

// vital is an Observation of 700 bytes that claims R4's profile of heart rate.
const vital = `{"resourceType":"Observation","id":"o1","meta":{"profile":["http://hl7.org/fhir/StructureDefinition/heartrate"]},` +
	`"status":"final","category":[{"coding":[{"system":"http://terminology.hl7.org/CodeSystem/observation-category","code":"vital-signs"}]}],` +
	`"code":{"coding":[{"system":"http://loinc.org","code":"8867-4","display":"Heart rate"}],"text":"Heart rate"},` +
	`"subject":{"reference":"Patient/p1"},"effectiveDateTime":"2026-03-01T08:00:00.250+01:00",` +
	`"valueQuantity":{"value":62.00,"unit":"beats/minute","system":"http://unitsofmeasure.org","code":"/min"},` +
	`"device":{"reference":"Device/d1"},"identifier":[{"system":"http://a.test/ids","value":"0a3c3c0e-0000"}]}`

// cpuTime returns the processor time of the process in nanoseconds. Benchmarks
// report it because the wall time depends on what else the machine does.
func cpuTime() int64 {
	var u syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &u) != nil {
		return 0
	}
	return u.Utime.Nano() + u.Stime.Nano()
}

func benchmark(b *testing.B, typ, body string) {
	v := validator()
	b.SetBytes(int64(len(body)))
	b.ReportAllocs()
	bytes := []byte(body)
	n, from := 0, cpuTime()
	for b.Loop() {
		d, err := v.Resource(validate.Request{Op: "bench", Type: typ}, bytes)
		if err != nil {
			b.Fatal(err)
		}
		d.Release()
		n++
	}
	b.ReportMetric(float64(cpuTime()-from)/float64(n), "cpu-ns/op")
}

func BenchmarkObservation(b *testing.B) {
	benchmark(b, "Observation", vital[:len(`{"resourceType":"Observation","id":"o1",`)]+
		vital[len(`{"resourceType":"Observation","id":"o1","meta":{"profile":["http://hl7.org/fhir/StructureDefinition/heartrate"]},`):])
}

func BenchmarkHeartRate(b *testing.B) { benchmark(b, "Observation", vital) }

func BenchmarkUSCoreHeartRate(b *testing.B) {
	const claim = "http://hl7.org/fhir/StructureDefinition/heartrate"
	at := len(`{"resourceType":"Observation","id":"o1","meta":{"profile":["`)
	benchmark(b, "Observation", vital[:at]+"http://hl7.org/fhir/us/core/StructureDefinition/us-core-heart-rate"+
		vital[at+len(claim):])
}

func BenchmarkCanonical(b *testing.B) {
	d, err := validator().Resource(validate.Request{Op: "bench", Type: "Observation"}, []byte(vital))
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		d.Canonical("o1")
	}
}
