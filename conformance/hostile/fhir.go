package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"time"
)

const vital = `{"resourceType":"Observation","status":"final","category":[{"coding":[{"system":"http://terminology.hl7.org/CodeSystem/observation-category","code":"vital-signs"}]}],"code":{"coding":[{"system":"http://loinc.org","code":"8867-4"}]},"subject":{"reference":"Patient/%s"},"effectiveDateTime":"2026-09-10T10:00:00+02:00","valueQuantity":{"value":61.73519,"unit":"/min","system":"http://unitsofmeasure.org","code":"/min"}%s}`

func (w *world) requests() error {
	if err := w.bodies(); err != nil {
		return err
	}
	w.bundles()
	w.searches()
	w.operations()
	w.exports()
	w.paths()
	return w.rawRequests()
}

func (w *world) bodies() error {
	spare, err := w.create(w.ehr, w.patient, "vital-signs", "")
	if err != nil {
		return err
	}
	obs := func(extra string) string { return fmt.Sprintf(vital, w.patient, extra) }
	post := func(name string, body func() io.Reader, want ...int) {
		w.try(attack{name: "create: " + name, path: "Observation", body: body, want: want})
	}
	post("a body of 11 MiB", repeated(obs(`,"note":[{"text":"`)[:300], "Zanaria!", 11<<17, ""), 413)
	post("a body of 256 MiB without a length",
		repeated(`{"resourceType":"Observation","note":[{"text":"`, "Zanaria!", 32<<20, `"}]}`), 413)
	post("a million deep", repeated(`{"resourceType":"Observation","extension":`, `[`, 1_000_000, ""), 400)
	post("100 deep and well-formed", text(obs(`,"component":`+strings.Repeat(`[{"extension":`, 50)+"1"+
		strings.Repeat("}]", 50))), 400)
	post("a duplicate key", text(obs(`,"status":"entered-in-error"`)), 400)
	post("a duplicate key below", text(strings.Replace(obs(""), `"code":"8867-4"`,
		`"code":"8867-4","code":"zanaria"`, 1)), 400)
	post("a key in the wrong case", text(obs(`,"Status":"Zanaria"`)), 400, 422)
	post("a key escaped (\\u0073tatus twice)", text(obs(`,"\u0073tatus":"final"`)), 400)
	post("invalid UTF-8", text(obs(",\"note\":[{\"text\":\"\xff\xfeZanaria\"}]")), 400)
	post("a lone surrogate", text(obs(`,"note":[{"text":"\ud800Zanaria"}]`)), 400)
	post("an unknown element", text(obs(`,"Zanaria":"Zanaria"`)), 400, 422)
	post("a wrong type of an element", text(obs(`,"note":"Zanaria"`)), 400, 422)
	post("a null", text(obs(`,"note":null`)), 400, 422)
	post("an unknown code", text(strings.Replace(obs(""), `"final"`, `"Zanaria"`, 1)), 400, 422)
	post("a number of 100,000 digits", repeated(obs("")[:len(obs(""))-1]+`,"valueInteger":`, "9", 100_000, "}"),
		400, 422)
	w.try(attack{name: "create: a date of the year 0000", path: "Observation",
		body: text(strings.Replace(obs(""), "2026-09-10", "0000-09-10", 1)), want: []int{400, 422}})
	post("February 31", text(strings.Replace(obs(""), "2026-09-10", "2026-02-31", 1)), 400, 422)
	post("another resource type than in the URL", text(`{"resourceType":"Patient"}`), 400, 422)
	post("an unknown resource type", text(`{"resourceType":"Zanaria"}`), 400, 422)
	post("an empty body", text(""), 400)
	post("text after the end", text(obs("")+"Zanaria"), 400)
	post("an array", text(`["Zanaria"]`), 400)
	narrative := func(name, start, content string) {
		post(name+" in a narrative", text(obs(`,"text":{"status":"generated","div":"`+
			strings.ReplaceAll(start+content+"</div>", `"`, `\"`)+`"}`)), 400, 422)
	}
	const div = `<div xmlns="http://www.w3.org/1999/xhtml">`
	for _, c := range [][2]string{{"script", "<script>Zanaria</script>"},
		{"an event", `<p onmouseover="Zanaria">x</p>`}, {"an SVG with an event", "<svg/onload=Zanaria>x"},
		{"javascript in an entity", `<a href="java&#115;cript:Zanaria">x</a>`},
		{"an unclosed element", "<p>Zanaria"}, {"a CDATA section", "<![CDATA[ > <img src=x onerror=Zanaria> ]]>"},
		{"a DOCTYPE", `<!DOCTYPE a [<!ENTITY b "Zanaria">]>&b;`},
		{"a form", `<form action="http://x.test/"><input value="Zanaria"/></form>`},
		{"10,000 nested elements", strings.Repeat("<b>", 10_000) + "Zanaria"}} {
		narrative(c[0], div, c[1])
	}
	narrative("no namespace", "<div>", "Zanaria")
	w.xmlBodies(obs(""))
	for _, t := range []string{"text/html", "application/fhir+turtle", "multipart/form-data; boundary=x", "zanaria",
		"application/fhir+json; fhirVersion=5.0", "application/fhir+json; charset=utf-16", ""} {
		h := attack{name: "create: Content-Type " + t, path: "Observation", body: text(obs("")),
			header: []string{"Content-Type", t}, want: []int{415}}
		w.try(h)
	}
	w.try(attack{name: "read: Accept Turtle", method: "GET", path: "Patient/" + w.patient,
		header: []string{"Accept", "application/fhir+turtle"}, want: []int{406}})
	w.try(attack{name: "read: 5,000 media ranges", method: "GET", path: "Patient/" + w.patient,
		header: []string{"Accept", strings.Repeat("zanaria/x,", 5_000) + "text/turtle"}, want: []int{406}})
	id := fmt.Sprint(w.kept[0]["id"])
	put := func(name, at, body string, header []string, want ...int) {
		w.try(attack{name: "update: " + name, method: "PUT", path: "Observation/" + at, body: text(body),
			header: header, want: want})
	}
	mine := strings.Replace(obs(""), `"status"`, `"id":"`+id+`","status"`, 1)
	put("an id other than in the URL", "zanaria", mine, nil, 400, 422)
	w.try(attack{name: "update: without an id", method: "PUT", path: "Observation/" + spare, body: text(obs("")),
		want: []int{400}})
	put("a stale If-Match", id, mine, []string{"If-Match", `W/"99"`}, 412)
	put("a malformed If-Match", id, mine, []string{"If-Match", canary}, 400, 412)
	put("an id of 65 characters", strings.Repeat("z", 65), obs(""), nil, 400, 404, 422)
	w.patches(id)
	w.try(attack{name: "conditional create: an unknown parameter", path: "Observation", body: text(obs("")),
		header: []string{"If-None-Exist", "unknown=Zanaria"}, want: []int{400, 412}})
	return nil
}

// patches sends patches that cannot be read or applied, or that grow.
func (w *world) patches(id string) {
	send := func(name string, body func() io.Reader, want ...int) {
		w.try(attack{name: "patch: " + name, method: "PATCH", path: "Observation/" + id, body: body,
			header: []string{"Content-Type", "application/json-patch+json"}, want: want})
	}
	for name, patch := range map[string]string{
		"not JSON": "Zanaria", "no list": `{"op":"add"}`, "nothing": "",
		"an unknown operation":   `[{"op":"Zanaria","path":""}]`,
		"a path without a slash": `[{"op":"remove","path":"Zanaria"}]`, "no value": `[{"op":"add","path":"/note"}]`,
		"a malformed escape": `[{"op":"remove","path":"/~2Zanaria"}]`,
		"duplicate members":  `[{"op":"add","op":"remove","path":"/x"}]`,
	} {
		send(name, text(patch), 400)
	}
	for name, patch := range map[string]string{
		"an absent place":       `[{"op":"remove","path":"/Zanaria"}]`,
		"an index of 20 digits": `[{"op":"add","path":"/category/99999999999999999999","value":1}]`,
		"a failed test":         `[{"op":"test","path":"/status","value":"Zanaria"}]`,
		"a move into itself":    `[{"op":"move","from":"/code","path":"/code/x"}]`,
	} {
		send(name, text(patch), 422)
	}
	send("another id", text(`[{"op":"replace","path":"/id","value":"zanaria"}]`), 400, 422)
	send("another type", text(`[{"op":"replace","path":"/resourceType","value":"Patient"}]`), 400, 422)
	send("no subject", text(`[{"op":"replace","path":"/subject/reference","value":"Patient/zanaria"}]`), 422)
	send("100,000 operations", repeated("[", `{"op":"test","path":"/status","value":"final"},`, 100_000,
		`{"op":"test","path":"/status","value":"final"}]`), 413)
	send("copies that double", repeated("[", `{"op":"copy","from":"","path":"/note"},`, 400,
		`{"op":"copy","from":"","path":"/note"}]`), 400, 413, 422)
	send("a pointer of 1 MiB", repeated(`[{"op":"remove","path":"`, "/Zanaria", 1<<17, `"}]`), 413)
	send("1,000,000 brackets", repeated("", "[", 1_000_000, ""), 400)
	for _, url := range []string{"Observation", "Observation?unknown=Zanaria", "Observation?_id=zanaria"} {
		w.try(attack{name: "conditional patch: " + url, method: "PATCH", path: url, body: text("[]"),
			header: []string{"Content-Type", "application/json-patch+json"}, want: []int{400, 404, 412}})
		w.try(attack{name: "conditional delete: " + url, method: "DELETE", path: url, want: []int{204, 400, 412}})
	}
	for _, t := range []string{"application/json", "application/merge-patch+json", "text/zanaria", ""} {
		w.try(attack{name: "patch: Content-Type " + t, method: "PATCH", path: "Observation/" + id, body: text("[]"),
			header: []string{"Content-Type", t}, want: []int{415}})
	}
	w.try(attack{name: "FHIRPath patch: a path that is none", method: "PATCH", path: "Observation/" + id,
		body: text(`{"resourceType":"Parameters","parameter":[{"name":"operation","part":[{"name":"type","valueCode":"delete"},` +
			`{"name":"path","valueString":"Observation.((((Zanaria"}]}]}`), want: []int{400, 422}})
	for _, q := range []string{"_since=Zanaria", "_at=Zanaria", "_at=99999999999999", "_sort=Zanaria",
		"_count=Zanaria", "__page=Zanaria"} {
		for _, path := range []string{"_history?", "Observation/_history?", "Observation/" + id + "/_history?"} {
			w.try(attack{name: "history: " + path + q, method: "GET", path: path + q, want: []int{400}})
		}
	}
}

func (w *world) bundles() {
	send := func(name string, body func() io.Reader, want ...int) {
		w.try(attack{name: "bundle: " + name, path: "", body: body, want: want})
	}
	entry := `{"request":{"method":"DELETE","url":"Observation/z"}},`
	send("100,000 entries", repeated(`{"resourceType":"Bundle","type":"transaction","entry":[`, entry, 100_000,
		entry[:len(entry)-1]+"]}"), 400, 403, 413, 422)
	one := func(typ, e string) func() io.Reader {
		return text(`{"resourceType":"Bundle","type":"` + typ + `","entry":[` + e + `]}`)
	}
	send("an unsupported type", one("history", ""), 400, 422)
	send("an unknown method", one("transaction", `{"request":{"method":"ZANARIA","url":"Observation"}}`), 400, 422)
	send("an entry for another server",
		one("transaction", `{"request":{"method":"GET","url":"https://zanaria.example/Observation"}}`), 400, 404, 422)
	send("an entry with .. in its URL",
		one("transaction", `{"request":{"method":"GET","url":"../../ingest/Zanaria"}}`), 400, 404, 422)
	put := `{"resource":{"resourceType":"Group","id":"twice","type":"person","actual":true},"request":{"method":"PUT","url":"Group/twice"}}`
	send("the same resource written twice", one("transaction", put+","+put), 400, 422)
	// A Bundle is a resource, so it may be stored. It is not executed then.
	send("a bundle in a bundle", one("transaction", `{"resource":{"resourceType":"Bundle","type":"transaction","entry":[`+
		strings.ReplaceAll(put, "twice", "inner")+`]},"request":{"method":"POST","url":"Bundle"}}`), 200, 400, 404, 405, 422)
	w.try(attack{name: "bundle: … so that the inner one is not executed", method: "GET", path: "Group/inner",
		want: []int{404}})
	good := strings.ReplaceAll(put, "twice", "half")
	send("one invalid entry fails the whole transaction",
		one("transaction", good+`,{"resource":{"resourceType":"Observation","status":"Zanaria"},"request":{"method":"POST","url":"Observation"}}`), 400, 422)
	w.try(attack{name: "bundle: … so that the valid entry is not stored", method: "GET", path: "Group/half",
		want: []int{404}})
}

func (w *world) searches() {
	for _, q := range []string{"unknown=Zanaria", "Zanaria%20Zanaria=1", "code:Zanaria=1", "date=Zanaria",
		"date=gt", "date=xx2026", "_count=Zanaria", "_count=-1", "_sort=Zanaria", "_include=Zanaria",
		"_include=Observation:Zanaria", "_revinclude=Zanaria:target",
		"_has:Zanaria:subject:code=1", "_has:Observation=1", "patient.zanaria=1", "patient.name.name=1", "_filter=Zanaria",
		"_filter=((((", "_filter=code%20eq", "_list=Zanaria%2F", "subject:Zanaria.name=1", "code:in=Zanaria", "code:below=Zanaria",
		"combo-code-value-quantity=Zanaria", "_contained=Zanaria", "_type=Zanaria", "_elements=", "_total=Zanaria", "_summary=Zanaria",
		"subject:Patient.name=Zanaria", "_has:Observation:patient:code=Zanaria",
		"value-quantity=Zanaria", "value-quantity=gt1e99999999", "patient=Zanaria%00", "code=%ff%fe",
		"_page=Zanaria", "_lastUpdated=Zanaria", "code=" + strings.Repeat("Zanaria,", 4000),
		"_id=" + strings.Repeat("z", 65)} {
		name := q
		if len(q) > 60 {
			name = q[:30] + "…"
		}
		want := []int{400}
		if strings.HasPrefix(q, "_id=") || strings.HasPrefix(q, "code=Z") || strings.HasPrefix(q, "_elements") ||
			strings.HasPrefix(q, "patient=") || strings.HasPrefix(q, "subject:Patient.name=") {
			want = []int{200, 400, 403, 413, 414, 431}
		}
		h := attack{name: "search: " + name, method: "GET", path: "Observation?" + q, want: want,
			free: strings.HasPrefix(q, "code=Z")}
		w.try(h)
	}
	for _, q := range []string{"form=Zanaria", "every=Zanaria", "every=-1", "every=99999999999999999999",
		"preferred=Zanaria", "start=Zanaria", "end=2026-02-31", "_count=Zanaria", "_count=0", "Zanaria=1",
		"subject=Zanaria", "subject=Patient/" + strings.Repeat("z", 600),
		"subject=https://Zanaria@zanaria.example/Patient/1",
		"__page=Zanaria", "code=" + strings.Repeat("Zanaria,", 4000), "start=%ff", "every=1&every=2"} {
		w.try(attack{name: "$ehr-bundle: " + cut(q), method: "GET", path: "Patient/" + w.patient + "/$ehr-bundle?" + q,
			want: []int{400, 413, 414, 431}})
	}
	w.try(attack{name: "$ehr-bundle: Parameters of 1 MiB", path: "Patient/" + w.patient + "/$ehr-bundle",
		body: repeated(`{"resourceType":"Parameters","parameter":[{"name":"form","valueCode":"`, "Zanaria!", 1<<17,
			`"}]}`),
		want: []int{413}})
	w.try(attack{name: "POST _search: a form of 11 MiB", path: "Observation/_search",
		body:   repeated("code=", "Zanaria,", 11<<17, ""),
		header: []string{"Content-Type", "application/x-www-form-urlencoded"}, want: []int{413}})
	w.try(attack{name: "POST _search: JSON", path: "Observation/_search", body: text(`{"Zanaria":1}`),
		want: []int{415}})
}

// exports sends kick-offs and submissions.
func (w *world) exports() {
	async := []string{"Prefer", "respond-async", "Content-Type", "application/fhir+json"}
	for _, q := range []string{"_type=Zanaria", "_since=Zanaria", "_until=2026-02-31", "_outputFormat=Zanaria",
		"_elements=Zanaria.Zanaria.Zanaria", "_typeFilter=Zanaria", "_typeFilter=Observation%3Fcode:Zanaria=1",
		"_typeFilter=Observation%3F_include=Zanaria", "_typeFilter=" + strings.Repeat("Observation%3Fcode=Z,", 400),
		"includeAssociatedData=Zanaria", "organizeOutputBy=Zanaria", "allowPartialManifests=Zanaria",
		"patient=Patient/zanaria", "Zanaria=1"} {
		w.try(attack{name: "$export: " + cut(q), method: "GET", path: "$export?" + q, header: async,
			want: []int{400, 413, 414, 431}})
	}
	for _, op := range []string{"$export", "$bulk-submit", "$bulk-submit-status"} {
		w.try(attack{name: op + ": Parameters of 1 MiB", path: op, header: async, want: []int{413},
			body: repeated(`{"resourceType":"Parameters","parameter":[{"name":"_type","valueString":"`, "Zanaria!", 1<<17,
				`"}]}`)})
		w.try(attack{name: op + ": not Parameters", path: op, header: async, want: []int{400},
			body: text(`{"resourceType":"Zanaria"}`)})
	}
	for _, u := range []string{"http://169.254.169.254/zanaria", "file:///etc/passwd", "https://zanaria@10.0.0.1/", "Zanaria"} {
		w.try(attack{name: "$bulk-submit: " + u, path: "$bulk-submit", header: async, want: []int{400, 403},
			body: text(`{"resourceType":"Parameters","parameter":[` +
				`{"name":"submitter","valueIdentifier":{"value":"zanaria"}},{"name":"submissionId","valueString":"z"},` +
				`{"name":"fhirBaseUrl","valueUrl":"https://zanaria.example"},{"name":"manifestUrl","valueUrl":"` + u + `"}]}`)})
	}
}

func (w *world) paths() {
	for _, p := range []string{"Zanaria", "Zanaria/1", "observation", "Observation/" + strings.Repeat("z", 65),
		"Observation/%2e%2e%2fPatient", "Observation/zanaria%00",
		"Observation/zanaria/_history/zanaria", "Observation/zanaria/_history/-1", "Observation/zanaria/Zanaria",
		"Observation/$zanaria", "%2e%2e/%2e%2e/etc/passwd", "Observation/..%5c..%5cetc", "$export/../../Zanaria",
		"Observation/zanaria/$ehr-bundle", "Patient/zanaria%00/$ehr-bundle", "OperationDefinition/zanaria"} {
		w.try(attack{name: "read: " + cut(p), method: "GET", path: p, want: []int{400, 404}})
	}
	for _, p := range []string{"/Zanaria", "/../../etc/passwd", "/ingest", "/oauth/Zanaria", "/admin.sock",
		"/debug/pprof/"} {
		w.try(attack{name: "GET " + p, method: "GET", path: p, want: []int{404, 405}, free: true})
	}
	for _, m := range []string{"TRACE", "CONNECT", "ZANARIA"} {
		w.try(attack{name: m + " of a resource", method: m, path: "Observation/" + fmt.Sprint(w.kept[0]["id"]),
			want: []int{400, 404, 405, 501}, free: m == "CONNECT"})
	}
	for _, m := range []string{"PUT", "DELETE"} {
		w.try(attack{name: m + " of an AuditEvent", method: m, path: "AuditEvent/a",
			body: text(`{"resourceType":"AuditEvent","id":"a"}`), want: []int{405}})
	}
	w.try(attack{name: "create of an AuditEvent", path: "AuditEvent", body: text(`{"resourceType":"AuditEvent"}`),
		want: []int{405}})
	w.try(attack{name: "a header of 60 KiB", method: "GET", path: "Patient/" + w.patient,
		header: []string{"X-Zanaria", strings.Repeat("z", 60<<10)}, want: []int{200, 431}, free: true})
	w.try(attack{name: "a header of 1 MiB", method: "GET", path: "Patient/" + w.patient,
		header: []string{"X-Zanaria", strings.Repeat("z", 1<<20)}, want: []int{431}, free: true})
	w.try(attack{name: "X-Request-Id of 10 KiB", method: "GET", path: "Zanaria",
		header: []string{"X-Request-Id", strings.Repeat(canary, 1000)}, want: []int{404}})
	w.try(attack{name: "X-Forwarded-Host of another server", method: "GET", path: "Zanaria",
		header: []string{"X-Forwarded-Host", "zanaria.example"}, want: []int{404}})
}

// cut shortens a name.
func cut(s string) string {
	if len(s) > 40 {
		return s[:40] + "…"
	}
	return s
}

// rawRequests sends requests that no HTTP client would send.
func (w *world) rawRequests() error {
	tok, err := w.ehr.Token()
	if err != nil {
		return err
	}
	for _, c := range [][2]string{
		{"not HTTP", "Zanaria\r\n\r\n"},
		{"a header with a line feed", "GET /fhir/Patient HTTP/1.1\r\nHost: a\r\nX: Zanaria\nInjected\r\n\r\n"},
		{"two Content-Lengths", "POST /fhir/Observation HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{}"},
		{"a negative Content-Length", "POST /fhir/Observation HTTP/1.1\r\nHost: a\r\nContent-Length: -5\r\n\r\n"},
		{"a malformed chunk size", "POST /fhir/Observation HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer " + tok +
			"\r\nContent-Type: application/fhir+json\r\nTransfer-Encoding: chunked\r\n\r\nZanaria\r\n"},
		{"both Content-Length and chunked",
			"POST /fhir/Observation HTTP/1.1\r\nHost: a\r\nContent-Type: application/fhir+json\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"},
	} {
		status, err := "", error(nil)
		costs := w.costs(c[0], maxCPU, func() { status, err = w.raw(w.srv.Direct(), c[1]) })
		err = errors.Join(err, costs)
		if err == nil && !strings.HasPrefix(status, "40") && status != "" {
			err = fmt.Errorf("answer %q", status)
		}
		w.note("raw: "+c[0], status, err)
	}
	return nil
}

// raw sends bytes to the server and returns the status line of the answer.
func (w *world) raw(addr, req string) (string, error) {
	c, err := net.Dial("tcp", addr)
	if err != nil {
		return "", err
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(hung)); err != nil {
		return "", err
	}
	if _, err := io.WriteString(c, req); err != nil {
		return "", err
	}
	var b bytes.Buffer
	buf := make([]byte, 4096)
	n, err := c.Read(buf)
	if err != nil && err != io.EOF {
		return "", err
	}
	b.Write(buf[:n])
	if err := w.secret("the answer", b.String()); err != nil {
		return "", err
	}
	line, _, _ := strings.Cut(b.String(), "\r\n")
	return strings.TrimPrefix(line, "HTTP/1.1 "), nil
}
