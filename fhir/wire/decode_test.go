package wire

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"pulsegate/fhir"
	"pulsegate/fhir/validate"
)

// patient returns a Patient in XML with the given content.
func patient(content string) string {
	return `<Patient xmlns="http://hl7.org/fhir">` + content + `</Patient>`
}

// TestFromXML shows each part of the representation.
func TestFromXML(t *testing.T) {
	for _, c := range []struct{ name, in, want string }{
		{"empty resource", `<Patient xmlns="http://hl7.org/fhir"/>`, `{"resourceType":"Patient"}`},
		{"prolog", "\xef\xbb\xbf<?xml version='1.0' encoding=\"utf-8\" standalone=\"yes\"?>\n<!-- c --> " +
			patient("") +
			"\n<!-- c -->\n", `{"resourceType":"Patient"}`},
		{"prefix", `<f:Patient xmlns:f="http://hl7.org/fhir"><f:active value="true"/></f:Patient>`,
			`{"resourceType":"Patient","active":true}`},
		{"schema location", `<Patient xmlns="http://hl7.org/fhir" xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" ` +
			`xsi:schemaLocation="http://hl7.org/fhir ../fhir-single.xsd"><active value='false'/></Patient>`,
			`{"resourceType":"Patient","active":false}`},
		{"resource id is an element", patient(`<id value="p1"/>`), `{"resourceType":"Patient","id":"p1"}`},
		{"element id and url are attributes",
			patient(`<extension id="e1" url="http://e.example/x"><valueCode value="a"/></extension>`),
			`{"resourceType":"Patient","extension":[{"id":"e1","url":"http://e.example/x","valueCode":"a"}]}`},
		{"numbers keep their text", patient(
			`<extension url="http://e.example/x"><valueDecimal value="1.00"/></extension>` +
				`<multipleBirthInteger value="2"/>`),
			`{"resourceType":"Patient","extension":[{"url":"http://e.example/x","valueDecimal":1.00}],"multipleBirthInteger":2}`},
		{"entities and references", patient(
			`<name><family value="&lt;&gt;&amp;&quot;&apos;&#x1F600;&#10;&#9;&#13;\/"/></name>`),
			`{"resourceType":"Patient","name":[{"family":"<>&\"'😀\n\t\r\\/"}]}`},
		{"white space in attributes", patient("<name><family value='a\r\nb\tc\nd\re'/></name>"),
			`{"resourceType":"Patient","name":[{"family":"a b c d e"}]}`},
		{"extension of a primitive", patient(
			`<birthDate id="b" value="1970-01-01"><extension url="http://e.example/t"><valueInstant value="1970-01-01T00:00:00Z"/></extension></birthDate>`),
			`{"resourceType":"Patient","birthDate":"1970-01-01","_birthDate":{"id":"b","extension":[{"url":"http://e.example/t","valueInstant":"1970-01-01T00:00:00Z"}]}}`},
		{"extension instead of a value",
			patient(`<birthDate><extension url="http://e.example/t"><valueCode value="a"/></extension></birthDate>`),
			`{"resourceType":"Patient","_birthDate":{"extension":[{"url":"http://e.example/t","valueCode":"a"}]}}`},
		{"arrays with nulls", patient(`<name><given value="A"/><given id="g2"/><given value="C"><extension url="u"><valueCode value="a"/></extension></given><given value="D"/></name>`),
			`{"resourceType":"Patient","name":[{"given":["A",null,"C","D"],"_given":[null,{"id":"g2"},{"extension":[{"url":"u","valueCode":"a"}]},null]}]}`},
		{"an array of nulls", patient(`<name><given id="a"/><given id="b"/></name>`),
			`{"resourceType":"Patient","name":[{"_given":[{"id":"a"},{"id":"b"}]}]}`},
		{"an element with white space", patient("<active value='true'> <!-- none -->\n</active>"),
			`{"resourceType":"Patient","active":true}`},
		{"contained", patient(`<contained><Organization><name value="O"/></Organization></contained><contained><Device xmlns="http://hl7.org/fhir"><id value="d"/></Device></contained>`),
			`{"resourceType":"Patient","contained":[{"resourceType":"Organization","name":"O"},{"resourceType":"Device","id":"d"}]}`},
		{"Bundle", `<Bundle xmlns="http://hl7.org/fhir"><type value="batch"/><entry><fullUrl value="urn:uuid:1"/><resource><Patient/></resource></entry></Bundle>`,
			`{"resourceType":"Bundle","type":"batch","entry":[{"fullUrl":"urn:uuid:1","resource":{"resourceType":"Patient"}}]}`},
		{"Parameters", `<Parameters xmlns="http://hl7.org/fhir"><parameter><name value="a"/><valueBoolean value="true"/></parameter><parameter><name value="b"/><resource><Patient/></resource></parameter></Parameters>`,
			`{"resourceType":"Parameters","parameter":[{"name":"a","valueBoolean":true},{"name":"b","resource":{"resourceType":"Patient"}}]}`},
		{"narrative", patient(`<text><status value="generated"/><div xmlns="http://www.w3.org/1999/xhtml" title='"x"'><p >a &lt; b &#160;<br/>` + "\r\n" + `<!-- c --></p></div></text>`),
			`{"resourceType":"Patient","text":{"status":"generated","div":"<div xmlns=\"http://www.w3.org/1999/xhtml\" title='\"x\"'><p >a &lt; b &#160;<br/>\n<!-- c --></p></div>"}}`},
		{"narrative with a prefix", `<Patient xmlns="http://hl7.org/fhir" xmlns:h="http://www.w3.org/1999/xhtml"><text><status value="generated"/><h:div><h:p title='"'>a</h:p></h:div></text></Patient>`,
			`{"resourceType":"Patient","text":{"status":"generated","div":"<div xmlns=\"http://www.w3.org/1999/xhtml\"><p title=\"&quot;\">a</p></div>"}}`},
		{"narrative with a CDATA section",
			patient(`<text><status value="generated"/><div xmlns="http://www.w3.org/1999/xhtml"><![CDATA[a < b & c > d]]></div></text>`),
			`{"resourceType":"Patient","text":{"status":"generated","div":"<div xmlns=\"http://www.w3.org/1999/xhtml\">a &lt; b &amp; c &gt; d</div>"}}`},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := fromXML(t, []byte(c.in))
			if s := compact(got); s != c.want {
				t.Errorf("got\n%s\nwant\n%s", s, c.want)
			}
		})
	}
}

// compact removes the white space between tokens.
func compact(b []byte) string {
	var out []byte
	quoted := false
	for i := 0; i < len(b); i++ {
		switch {
		case quoted && b[i] == '\\':
			out = append(out, b[i])
			i++
		case b[i] == '"':
			quoted = !quoted
		case !quoted && (b[i] == ' ' || b[i] == '\n'):
			continue
		}
		out = append(out, b[i])
	}
	return string(out)
}

// narrativeStart begins a narrative.
const narrativeStart = `<text><status value="generated"/><div xmlns="http://www.w3.org/1999/xhtml">`

const bomb = `<!DOCTYPE p [<!ENTITY a "SECRET"><!ENTITY b "&a;&a;&a;&a;">]>`

// refused lists XML that is refused, with the FHIRPath and a part of the rule.
var refused = []struct{ name, in, path, rule string }{ // read only
	{"nothing", "", "", "no root element"},
	{"JSON", `{"resourceType":"Patient"}`, "", "no root element"},
	{"two roots", patient("") + patient(""), "Patient", "after the root"},
	{"text after the root", patient("") + "SECRET", "Patient", "after the root"},
	{"entity expansion", bomb + patient(`<id value="&b;"/>`), "", "document type"},
	{"external entity", `<!DOCTYPE p SYSTEM "http://127.0.0.1/SECRET">` + patient(""), "", "document type"},
	{"document type in the root", patient(bomb), "Patient", "document type"},
	{"document type in narrative", patient(narrativeStart + bomb + `</div></text>`), "Patient.text.div",
		"document type"},
	{"undeclared entity", patient(`<id value="&SECRET;"/>`), "Patient.id", "others are refused"},
	{"HTML entity", patient(narrativeStart + `a&nbsp;b</div></text>`), "Patient.text.div", "others are refused"},
	{"bare ampersand", patient(`<id value="a & b"/>`), "Patient.id", "others are refused"},
	{"control reference", patient(`<id value="&#1;"/>`), "Patient.id", "others are refused"},
	{"surrogate reference", patient(`<id value="&#xD800;"/>`), "Patient.id", "others are refused"},
	{"reference beyond Unicode", patient(`<id value="&#x110000;"/>`), "Patient.id", "others are refused"},
	{"long reference", patient(`<id value="&#x00000000000000041;"/>`), "Patient.id", "others are refused"},
	{"processing instruction", `<?xml-stylesheet href="SECRET"?>` + patient(""), "", "processing instructions"},
	{"processing instruction inside", patient(`<?php SECRET ?>`), "Patient", "processing instructions"},
	{"processing instruction in narrative", patient(narrativeStart + `<?php SECRET ?></div></text>`),
		"Patient.text.div",
		"processing instructions"},
	{"second declaration", `<?xml version="1.0"?><?xml version="1.0"?>` + patient(""), "",
		"processing instructions"},
	{"other version", `<?xml version="1.1"?>` + patient(""), "", "XML 1.0"},
	{"other encoding", `<?xml version="1.0" encoding="UTF-16"?>` + patient(""), "", "UTF-8"},
	{"not UTF-8", patient("<id value=\"\xff\"/>"), "", "not valid UTF-8"},
	{"NUL", patient("<id value=\"a\x00\"/>"), "Patient.id", "character"},
	{"control character", patient("<id value=\"a\x01\"/>"), "Patient.id", "character"},
	{"control character in narrative", patient(narrativeStart + "a\x02</div></text>"), "Patient.text.div", "character"},
	{"control character in a comment", patient("<!-- \x03 -->"), "Patient", "character"},
	{"noncharacter", patient("<id value=\"\uFFFF\"/>"), "", "character"},
	{"duplicate attribute", patient(`<id value="a" value="SECRET"/>`), "Patient", "given twice"},
	{"duplicate attribute by namespace",
		`<Patient xmlns="http://hl7.org/fhir" xmlns:a="http://www.w3.org/2001/XMLSchema-instance" xmlns:b="http://www.w3.org/2001/XMLSchema-instance" a:x="1" b:x="2"/>`, "", "given twice"},
	{"duplicate attribute in narrative", patient(narrativeStart + `<p title="a" title="b"/></div></text>`),
		"Patient.text.div", "given twice"},
	{"many attributes", patient("<id" + numbered(` a%d="x"`, 70) + "/>"), "Patient", "too many attributes"},
	{"many namespaces", patient("<id" + numbered(` xmlns:a%d="x"`, 40) + "/>"), "Patient", "too many namespace"},
	{"long name", patient("<" + strings.Repeat("a", 100) + "/>"), "Patient", "a name"},
	{"no namespace", `<Patient/>`, "", "namespace"},
	{"wrong namespace", `<Patient xmlns="urn:hl7-org:v3"/>`, "", "namespace"},
	{"wrong namespace inside", patient(`<id xmlns="urn:x" value="a"/>`), "Patient", "namespace"},
	{"wrong namespace by prefix", `<Patient xmlns="http://hl7.org/fhir" xmlns:x="urn:x"><x:id value="a"/></Patient>`, "Patient", "namespace"},
	{"undeclared prefix", patient(`<x:id value="a"/>`), "Patient", "not declared"},
	{"undeclared prefix of an attribute", patient(`<id x:value="a"/>`), "Patient", "not declared"},
	{"narrative in FHIR's namespace", patient(`<text><status value="generated"/><div>a</div></text>`),
		"Patient.text", "namespace"},
	{"FHIR in narrative's namespace", patient(`<id xmlns="http://www.w3.org/1999/xhtml" value="a"/>`),
		"Patient", "namespace"},
	{"unknown type", `<SECRET xmlns="http://hl7.org/fhir"/>`, "", "resource type of R4"},
	{"a data type", `<Quantity xmlns="http://hl7.org/fhir"/>`, "", "resource type of R4"},
	{"unknown element", patient(`<SECRET value="a"/>`), "Patient", "not define an element"},
	{"attribute as element", patient(`<extension><url value="a"/></extension>`), "Patient.extension[0]",
		"not define an element"},
	{"unknown attribute", patient(`<id value="a" SECRET="b"/>`), "Patient.id", "not define an attribute"},
	{"element as attribute", `<Patient xmlns="http://hl7.org/fhir" id="a"/>`, "Patient", "not define an attribute"},
	{"value of a complex type", patient(`<name value="SECRET"/>`), "Patient.name[0]", "not define an attribute"},
	{"xml:lang", patient(`<name xml:lang="de"/>`), "Patient.name[0]", "not define an attribute"},
	{"schema location inside", patient(
		`<name xmlns:x="http://www.w3.org/2001/XMLSchema-instance" x:nil="true"/>`), "Patient.name[0]",
		"not define an attribute"},
	{"order", patient(`<active value="true"/><id value="a"/>`), "Patient.id", "order"},
	{"order of repetitions", patient(
		`<name><text value="a"/></name><active value="true"/><name><text value="b"/></name>`), "Patient.active",
		"order"},
	{"twice", patient(`<id value="a"/><id value="b"/>`), "Patient.id", "only once"},
	{"two choices", patient(`<deceasedBoolean value="true"/><deceasedDateTime value="2020"/>`),
		"Patient.deceasedDateTime", "only one type"},
	{"text", patient(`<active>true</active>`), "Patient.active", "must not have text"},
	{"CDATA section", patient(`<![CDATA[a]]>`), "Patient", "document type"},
	{"empty value", patient(`<id value=""/>`), "Patient.id", "must not be empty"},
	{"empty primitive", patient(`<id/>`), "Patient.id", "must not be empty"},
	{"empty element", patient(`<name></name>`), "Patient.name[0]", "must not be empty"},
	{"empty contained", patient(`<contained/>`), "Patient.contained[0]", "exactly one resource"},
	{"hollow contained", patient(`<contained> </contained>`), "Patient.contained[0]", "exactly one resource"},
	{"two contained in one", patient(`<contained><Device/><Device/></contained>`), "Patient.contained[0]",
		"exactly one resource"},
	{"attribute of contained", patient(`<contained id="a"><Device/></contained>`), "Patient.contained[0]",
		"not define an attribute"},
	{"boolean", patient(`<active value="TRUE"/>`), "Patient.active", "true or false"},
	{"boolean 1", patient(`<active value="1"/>`), "Patient.active", "true or false"},
	{"number", patient(`<multipleBirthInteger value="SECRET"/>`), "Patient.multipleBirthInteger", "number"},
	{"number with a plus sign", patient(`<multipleBirthInteger value="+1"/>`), "Patient.multipleBirthInteger",
		"number"},
	{"number with a zero", patient(`<multipleBirthInteger value="01"/>`), "Patient.multipleBirthInteger", "number"},
	{"JSON in a number", patient(`<multipleBirthInteger value='1,"id":"x"'/>`), "Patient.multipleBirthInteger",
		"number"},
	{"end tag", `<Patient xmlns="http://hl7.org/fhir"></Person>`, "Patient", "end tag"},
	{"end tag with another prefix", `<a:Patient xmlns:a="http://hl7.org/fhir" xmlns:b="http://hl7.org/fhir"></b:Patient>`, "Patient", "end tag"},
	{"no end", `<Patient xmlns="http://hl7.org/fhir"><id value="a"/>`, "Patient", "too early"},
	{"no end of a tag", `<Patient xmlns="http://hl7.org/fhir"><id value="a"`, "Patient", "too early"},
	{"no end of a value", `<Patient xmlns="http://hl7.org/fhir"><id value="a/>`, "Patient", "too early"},
	{"no end of a comment", patient("<!-- a"), "Patient", "too early"},
	{"two hyphens", patient("<!-- a -- b -->"), "Patient", "two hyphens"},
	{"no quotes", patient("<id value=a/>"), "Patient", "no quotes"},
	{"no space between attributes", patient(`<name id="a"id="b"/>`), "Patient", "a tag is malformed"},
	{"a bracket in a value", patient(`<id value="a<b"/>`), "Patient.id", "unescaped bracket"},
	{"the end of CDATA in narrative", patient(narrativeStart + `a]]>b</div></text>`), "Patient.text.div", "CDATA"},
	{"depth", patient(strings.Repeat(`<extension url="a">`, 100)), "", "too deeply"},
	{"depth of resources", patient(strings.Repeat(`<contained><Patient>`, 100)), "", "too deeply"},
	{"depth of narrative", patient(narrativeStart + strings.Repeat(`<b>`, 1000)), "Patient.text.div", "too deeply"},
}

// TestRefused shows that malformed and hostile XML is refused with its place and a rule,
// and that the error has no part of the input.
func TestRefused(t *testing.T) {
	for _, c := range refused {
		t.Run(c.name, func(t *testing.T) {
			_, err := FromXML([]byte(c.in))
			var e *fhir.Error
			if !errors.As(err, &e) || e.Kind != fhir.Invalid || len(e.Issues) != 1 {
				t.Fatalf("%#v", err)
			}
			is := e.Issues[0]
			path := strings.Join(is.Expression, ",")
			if !strings.Contains(is.Diagnostics, c.rule) || path != c.path &&
				!(c.path == "" && strings.Contains(c.name, "depth")) {
				t.Errorf("%s: %s", path, is.Diagnostics)
			}
			if s := fmt.Sprintf("%+v", *e); strings.Contains(s, "SECRET") {
				t.Errorf("the error has a part of the input: %s", s)
			}
			if is.Line != 1 || is.Column < 1 {
				t.Errorf("position %d:%d", is.Line, is.Column)
			}
		})
	}
}

func numbered(format string, n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, format, i)
	}
	return b.String()
}

// TestPlaces shows that the positions of the validator are those of the XML, whether the
// XML is indented or not.
func TestPlaces(t *testing.T) {
	const indented = `<?xml version="1.0" encoding="UTF-8"?>
<Observation xmlns="http://hl7.org/fhir">
  <!-- é
       a comment -->
  <status value="final"/>
  <code>
    <text value="a
    b"/>
  </code>
  <valueQuantity>
    <value value="1"/>
    <comparator value="wrong"/>
  </valueQuantity>
</Observation>`
	lines := strings.Split(indented, "\n")
	for i := range lines {
		lines[i] = strings.TrimSpace(lines[i])
	}
	single := strings.Join(lines, "")
	v := validate.New(validate.Options{})
	for _, x := range []string{indented, single} {
		out := fromXML(t, []byte(x))
		_, err := v.Resource(validate.Request{Type: "Observation"}, out)
		var e *fhir.Error
		if !errors.As(err, &e) || len(e.Issues) != 1 {
			t.Fatalf("%v", err)
		}
		is := e.Issues[0]
		before := x[:strings.Index(x, "<comparator")]
		line := 1 + strings.Count(before, "\n")
		column := 1 + len([]rune(before[strings.LastIndex(before, "\n")+1:]))
		if is.Line != line || is.Column < column || is.Column > column+1 ||
			is.Expression[0] != "Observation.valueQuantity.comparator" {
			t.Errorf("%+v, want %d:%d in\n%s\n%s", is, line, column, x, out)
		}
	}
}
