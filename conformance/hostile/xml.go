package main

import (
	"io"
	"strings"
)

// xmlBodies sends hostile XML to the FHIR API. valid is a resource in JSON.
func (w *world) xmlBodies(valid string) {
	const ns = ` xmlns="http://hl7.org/fhir"`
	const opening, closing = `<Observation` + ns + `><status value="final"/>`, `</Observation>`
	header := []string{"Content-Type", "application/fhir+xml"}
	post := func(name string, body func() io.Reader, want ...int) {
		w.try(attack{name: "create in XML: " + name, path: "Observation", body: body, header: header, want: want})
	}
	laughs := `<!DOCTYPE z [<!ENTITY a "Zanaria"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;"><!ENTITY c "&b;&b;&b;&b;&b;&b;&b;&b;">]>`
	post("JSON", text(valid), 400)
	post("an entity declared (billion laughs)", text(laughs+opening+`<note><text value="&c;"/></note>`+closing), 400)
	post("an entity of a file", text(`<!DOCTYPE z [<!ENTITY a SYSTEM "file:///etc/passwd">]>`+opening+closing), 400)
	post("an external DTD", text(`<!DOCTYPE z SYSTEM "http://127.0.0.1:1/Zanaria">`+opening+closing), 400)
	post("an entity without a declaration", text(opening+`<note><text value="&Zanaria;"/></note>`+closing), 400)
	post("a processing instruction", text(`<?xml-stylesheet href="Zanaria"?>`+opening+closing), 400)
	post("a million open elements", repeated(opening, `<extension url="a">`, 500_000, ""), 400)
	post("a million attributes", repeated(`<Observation`+ns, ` a="b"`, 1_000_000, "/>"), 400)
	post("an attribute twice", text(`<Observation`+ns+`><status value="final" value="Zanaria"/>`+closing), 400)
	post("a name of 8 MiB", repeated("<", "z", 8<<20, "/>"), 400)
	post("an attribute of 256 MiB", repeated(opening+`<note><text value="`, "Zanaria!", 32<<20,
		`"/></note>`+closing), 413)
	post("a comment without an end", repeated(opening+"<!--", "Zanaria!", 1<<20, ""), 400)
	post("another namespace", text(`<Observation xmlns="urn:hl7-org:v3"/>`), 400)
	post("no namespace", text(`<Observation/>`), 400)
	post("a prefix without a declaration", text(opening+`<z:note/>`+closing), 400)
	post("10,000 namespaces", text(opening+strings.Repeat(`<extension url="a" xmlns:z="urn:z">`, 10_000)), 400)
	post("text between elements", text(opening+"Zanaria"+closing), 400)
	post("elements out of order", text(`<Observation`+ns+
		`><code><text value="Zanaria"/></code><status value="final"/>`+closing), 400)
	post("an unknown element", text(opening+`<Zanaria value="a"/>`+closing), 400)
	post("invalid UTF-8", text(opening+"<note><text value=\"\xffZanaria\"/></note>"+closing), 400)
	post("a control character", text(opening+"<note><text value=\"\x01Zanaria\"/></note>"+closing), 400)
	post("UTF-16", text(`<?xml version="1.0" encoding="UTF-16"?>`+opening+closing), 400)
	post("a script in a narrative", text(`<Observation`+ns+
		`><text><status value="generated"/><div xmlns="http://www.w3.org/1999/xhtml"><script>Zanaria</script></div></text><status value="final"/><code><text value="a"/></code>`+closing), 400, 422)
	w.try(attack{name: "bundle in XML: a document type in an entry", path: "", header: header, want: []int{400},
		body: text(`<Bundle` + ns + `><type value="batch"/><entry><resource>` + laughs +
			`<Patient/></resource></entry></Bundle>`)})
	w.try(attack{name: "bundle in XML: a malformed entry in a batch", path: "", header: header, want: []int{400},
		body: text(`<Bundle` + ns + `><type value="batch"/><entry><resource><Patient><Zanaria/></Patient></resource></entry></Bundle>`)})
}
