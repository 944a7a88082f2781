package r4_test

import (
	"bytes"
	"regexp"
	"strings"
	"testing"

	"pulsegate/fhir/r4"
)

// TestErrorsNeverQuoteInput replaces every name and value of a resource with a
// marker, one at a time. No error may contain the marker.
func TestErrorsNeverQuoteInput(t *testing.T) {
	const rich = `{"resourceType":"Patient","id":"x1","meta":{"profile":["http://x.test/p"],"tag":[{"system":"urn:a","code":"b"}]},"language":"en",
"text":{"status":"generated","div":"<div xmlns='http://www.w3.org/1999/xhtml'>a</div>"},
"contained":[{"resourceType":"Organization","id":"c","name":"n","active":true}],
"extension":[{"url":"http://x.test/e","valueDecimal":1.50},{"url":"http://x.test/f","extension":[{"url":"g","valueInstant":"2026-01-01T00:00:00Z"}]}],
"identifier":[{"use":"usual","system":"urn:i","value":"7","period":{"start":"2020-01-01","end":"2021"}}],"active":true,
"name":[{"family":"A","given":["B",null],"_given":[null,{"extension":[{"url":"http://x.test/e","valueCode":"unknown"}]}]}],
"telecom":[{"system":"phone","value":"1","rank":1}],"gender":"female","birthDate":"1980-01-01","multipleBirthInteger":2,
"photo":[{"contentType":"image/png","data":"aGVsbG8=","size":5}],"managingOrganization":{"reference":"#c"},
"generalPractitioner":[{"reference":"Practitioner/a","type":"Practitioner"}],"link":[{"other":{"reference":"Patient/b"},"type":"seealso"}]}`
	if _, err := validator().Resource("Patient", []byte(rich), "x1"); err != nil {
		t.Fatalf("%s", r4.OutcomeJSON(err))
	}
	refused := 0
	for _, at := range regexp.MustCompile(`"[^"]*"|\b[0-9.]+\b|true|null`).FindAllStringIndex(rich, -1) {
		for _, mark := range []string{`"CANARY"`, `"cANARY"`, `"CANARY/x"`, `"#CANARY"`, `"2026-CANARY"`,
			`"urn:CANARY C"`, `"<CANARY"`, `"\u0043ANARY"`, `["CANARY"]`, `{"url":"CANARY"}`, `CANARY`} {
			body := rich[:at[0]] + mark + rich[at[1]:]
			_, err := validator().Resource("Patient", []byte(body), "x1")
			if err == nil {
				continue
			}
			refused++
			out := r4.OutcomeJSON(err)
			if bytes.Contains(bytes.ToUpper(out), []byte("CANARY")) ||
				strings.Contains(strings.ToUpper(err.Error()), "CANARY") {
				t.Errorf("%s at %s: error quotes the input: %s", mark, rich[at[0]:at[1]], out)
			}
		}
	}
	if refused < 200 {
		t.Errorf("only %d bodies were refused", refused)
	}
}
