package validate

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"pulsegate/fhir"
)

var plain = sync.OnceValue(func() *Validator { return New(Options{}) })

const heartRate = `{"resourceType":"Observation","id":"o1","meta":{"profile":["http://hl7.org/fhir/StructureDefinition/heartrate"]},"status":"final","category":[{"coding":[{"system":"http://terminology.hl7.org/CodeSystem/observation-category","code":"vital-signs"}]}],"code":{"coding":[{"system":"http://loinc.org","code":"8867-4","display":"Heart rate"}],"text":"Heart rate"},"subject":{"reference":"Patient/p1"},"effectiveDateTime":"2026-03-01T08:00:00.250+01:00","valueQuantity":{"value":62.00,"unit":"beats/minute","system":"http://unitsofmeasure.org","code":"/min"},"device":{"reference":"Device/d1"}}`

func BenchmarkHeartRate(b *testing.B) {
	v := plain()
	body := []byte(heartRate)
	b.SetBytes(int64(len(body)))
	b.ReportAllocs()
	for b.Loop() {
		d, err := v.Resource(Request{Op: "x", Type: "Observation"}, body)
		if err != nil {
			b.Fatal(err)
		}
		d.Release()
	}
}

func TestTry(t *testing.T) {
	v := plain()
	dirs := []string{"/work/shared/fixtures/r4/hl7-test-cases/*.json", "/work/shared/fixtures/r4/hl7-test-cases/examples/*.json", "/work/shared/fixtures/r4/hl7-phd/*.json", "/tmp/defs/uc6/package/example/*.json", "/tmp/defs/uc7/package/example/*.json", "/tmp/defs/examples/*.json", "/work/shared/fixtures/r4/r4-vitals/*.json", "/work/shared/fixtures/r4/smart-brands/*.json", "/work/shared/fixtures/r4/subscriptions-backport/*.json"}
	for _, dir := range dirs {
		files, _ := filepath.Glob(dir)
		bad := 0
		n := 0
		for _, f := range files {
			b, _ := os.ReadFile(f)
			var h struct{ ResourceType string }
			if json.Unmarshal(b, &h) != nil || h.ResourceType == "" {
				continue
			}
			n++
			d, err := v.Resource(Request{Op: "x", Type: h.ResourceType}, b)
			if d != nil {
				d.Release()
			}
			if err != nil {
				bad++
				var e *fhir.Error
				errors.As(err, &e)
				for i, is := range e.Issues {
					if i < 4 {
						t.Logf("%s: %v", filepath.Base(f), is)
					}
				}
			}
		}
		t.Log(dir, n, bad)
	}
}
