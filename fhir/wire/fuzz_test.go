package wire

import (
	"bytes"
	"encoding/json"
	"io"
	"reflect"
	"testing"
)

// FuzzFromXML checks that XML that is taken becomes JSON which converts to the same XML
// and back, and that the JSON is not much larger than the XML.
func FuzzFromXML(f *testing.F) {
	f.Add([]byte(patient(`<id value="a"/><name id="n"><given value="b"/><given><extension url="u"><valueCode value="c"/></extension></given></name>`)))
	f.Add([]byte(`<Bundle xmlns="http://hl7.org/fhir"><type value="batch"/><entry><resource><Patient/></resource></entry></Bundle>`))
	f.Add([]byte(patient(`<text><status value="generated"/><div xmlns="http://www.w3.org/1999/xhtml"><p a='"'>a&#13;<![CDATA[&]]></p></div></text>`)))
	f.Add([]byte(`<!DOCTYPE a><a/>`))
	f.Fuzz(func(t *testing.T, x []byte) {
		out, err := FromXML(x)
		if err != nil {
			return
		}
		if !json.Valid(out) {
			t.Fatalf("not JSON: %s", out)
		}
		if len(out) > 8*len(x)+64 {
			t.Fatalf("%d bytes became %d", len(x), len(out))
		}
		var again bytes.Buffer
		var e Encoder
		if err := e.Encode(&again, out); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		back, err := FromXML(again.Bytes())
		if err != nil {
			t.Fatalf("%v: %s", err, again.Bytes())
		}
		if !reflect.DeepEqual(tree(t, out), tree(t, back)) {
			t.Fatalf("%s\n%s", out, back)
		}
	})
}

// FuzzToXML checks that what an Encoder writes is XML that FromXML takes or refuses for
// a rule of R4 only, and that no JSON makes it panic.
func FuzzToXML(f *testing.F) {
	f.Add([]byte(observation))
	f.Add([]byte(`{"resourceType":"Patient","text":{"div":"<div xmlns=\"http://www.w3.org/1999/xhtml\">\u0001&nbsp;</div>"}}`))
	f.Add([]byte(`{"resourceType":"Bundle","entry":[{"resource":{"resourceType":"Patient","_birthDate":{"id":"\ud800\\"}}}]}`))
	f.Fuzz(func(t *testing.T, j []byte) {
		var x bytes.Buffer
		var e Encoder
		err := e.Encode(&x, j)
		if err == nil && json.Valid(j) {
			checkSyntax(t, x.Bytes())
		}
		half := len(j) / 2
		if err := e.Encode(io.Discard, j[:half], j[half:]); err != nil {
			return
		}
	})
}
