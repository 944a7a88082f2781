package validate

import (
	"errors"
	"os"
	"strings"
	"testing"

	"pulsegate/fhir"
)

func TestProfX(t *testing.T) {
	read := func(f string) string {
		b, err := os.ReadFile("/tmp/defs/uc6/package/example/" + f)
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	try := func(what, typ, body string) {
		d, err := plain().Resource(Request{Op: "x", Type: typ}, []byte(body))
		if d != nil {
			d.Release()
		}
		var e *fhir.Error
		if errors.As(err, &e) {
			for _, is := range e.Issues {
				t.Log(what, is)
			}
		} else {
			t.Log(what, "OK")
		}
	}
	hr := read("Observation-heart-rate.json")
	t.Log(hr)
	try("", "Observation", hr)
	for _, r := range [][2]string{{`"8867-4"`, `"8867-5"`}, {`"subject"`, `"focus"`}, {`"vital-signs"`, `"laboratory"`}, {`"/min"`, `"min"`}, {`"effectiveDateTime":"1999-07-02"`, `"effectiveDateTime":"1999"`}, {`Patient/example`, `Group/example`}, {`"valueQuantity"`, `"_valueQuantity"`}, {`"valueQuantity":{`, `"valueString":"x","x":{`}} {
		b := strings.Replace(hr, r[0], r[1], 1)
		if b == hr {
			t.Log("no", r)
		}
		try(r[0]+" -> "+r[1], "Observation", b)
	}
	bp := read("Observation-blood-pressure.json")
	try("", "Observation", bp)
	try("dia", "Observation", strings.Replace(bp, `"8462-4"`, `"8462-5"`, 1))
	p := read("Patient-example.json")
	t.Log(p[:6000])
	for _, r := range [][2]string{{`"2106-3"`, `"9999"`}, {`"identifier"`, `"x"`}, {`"gender"`, `"x"`}, {`"url":"text","valueString":"White`, `"url":"textx","valueString":"White`}, {`"us-core-race"`, `"x"`}} {
		b := strings.Replace(p, r[0], r[1], 1)
		if b == p {
			t.Log("no", r)
		}
		try(r[0]+" -> "+r[1], "Patient", b)
	}
}
