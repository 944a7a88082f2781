package wire

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"errors"
	"io"
	"testing"

	"pulsegate/fhir/validate"
)

// observation is a typical measurement.
const observation = `{"resourceType":"Observation","id":"hr-1","meta":{"versionId":"1","lastUpdated":"2026-03-01T08:00:00.000Z","profile":["http://hl7.org/fhir/StructureDefinition/heartrate"]},"status":"final","category":[{"coding":[{"system":"http://terminology.hl7.org/CodeSystem/observation-category","code":"vital-signs","display":"Vital Signs"}]}],"code":{"coding":[{"system":"http://loinc.org","code":"8867-4","display":"Heart rate"}],"text":"Heart rate"},"subject":{"reference":"Patient/p1"},"effectiveDateTime":"2026-03-01T07:59:58+01:00","valueQuantity":{"value":61.00,"unit":"beats/minute","system":"http://unitsofmeasure.org","code":"/min"},"device":{"reference":"Device/d1"}}`

func document(b *testing.B) (jsonText, xmlText []byte) {
	var buf bytes.Buffer
	var e Encoder
	if err := e.Encode(&buf, []byte(observation)); err != nil {
		b.Fatal(err)
	}
	return []byte(observation), buf.Bytes()
}

func BenchmarkToXML(b *testing.B) {
	j, _ := document(b)
	b.SetBytes(int64(len(j)))
	var e Encoder
	for b.Loop() {
		if err := e.Encode(io.Discard, j); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkFromXML(b *testing.B) {
	_, x := document(b)
	b.SetBytes(int64(len(x)))
	for b.Loop() {
		if _, err := FromXML(x); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkEncodingXML reads the tokens with encoding/xml, without making JSON.
func BenchmarkEncodingXML(b *testing.B) {
	_, x := document(b)
	b.SetBytes(int64(len(x)))
	for b.Loop() {
		dec := xml.NewDecoder(bytes.NewReader(x))
		for {
			if _, err := dec.Token(); errors.Is(err, io.EOF) {
				break
			} else if err != nil {
				b.Fatal(err)
			}
		}
	}
}

// BenchmarkValidateJSON validates the same resource, which a write does in any case.
func BenchmarkValidateJSON(b *testing.B) {
	j, _ := document(b)
	b.SetBytes(int64(len(j)))
	v := validate.New(validate.Options{})
	for b.Loop() {
		d, err := v.Resource(validate.Request{Type: "Observation"}, j)
		if err != nil {
			b.Fatal(err)
		}
		d.Release()
	}
}

// BenchmarkCompactJSON copies the JSON with encoding/json.
func BenchmarkCompactJSON(b *testing.B) {
	j, _ := document(b)
	b.SetBytes(int64(len(j)))
	var out bytes.Buffer
	for b.Loop() {
		out.Reset()
		if err := json.Compact(&out, j); err != nil {
			b.Fatal(err)
		}
	}
}
