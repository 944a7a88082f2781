package main

import "strings"

// operations attacks $time-buckets, $everything, $validate, $meta and the operations on
// terminology.
func (w *world) operations() {
	buckets := "Observation/$time-buckets?subject=Patient/" + w.patient + "&code=8867-4&"
	for _, q := range []string{"calendar=Zanaria", "calendar=day&zone=Zanaria", "calendar=day&zone=../../etc/passwd",
		"calendar=day&zone=Local", "calendar=day&zone=" + strings.Repeat("z", 5000), "minutes=-1",
		"minutes=99999999999999999999",
		"minutes=1&zone=UTC", "minutes=1&start=Zanaria", "minutes=1&end=2026-02-31", "minutes=1&statistic=Zanaria",
		"minutes=1&device=Zanaria", "minutes=1&Zanaria=1", "minutes=1&calendar=day", "minutes=1&preferred=Zanaria"} {
		w.try(attack{name: "$time-buckets: " + cut(q), method: "GET", path: buckets + q, want: []int{400, 414, 431}})
	}
	w.try(attack{name: "$time-buckets: Parameters of 1 MiB", path: "Observation/$time-buckets",
		body: repeated(`{"resourceType":"Parameters","parameter":[{"name":"zone","valueCode":"`, "Zanaria!", 1<<17,
			`"}]}`),
		want: []int{413}})
	for _, q := range []string{"start=Zanaria", "_since=Zanaria", "_type=Zanaria", "_count=Zanaria", "__page=Zanaria",
		"_type=" + strings.Repeat("Patient,", 3000), "Zanaria=1"} {
		w.try(attack{name: "$everything: " + cut(q), method: "GET", path: "Patient/" + w.patient + "/$everything?" + q,
			want: []int{400, 414, 431}})
	}
	w.hostileValidation()
	for _, p := range []string{"ValueSet/$expand?url=Zanaria", "ValueSet/$expand?Zanaria=1",
		"ValueSet/$expand?url=a&count=Zanaria",
		"ValueSet/$validate-code?url=a&coding=Zanaria", "CodeSystem/$lookup?system=Zanaria&code=Zanaria",
		"CodeSystem/$subsumes?codeA=Zanaria", "ConceptMap/$translate?coding=Zanaria|Zanaria&url=Zanaria",
		"ValueSet/$expand?url=" + strings.Repeat("Zanaria", 1000), "CodeSystem/zanaria/$subsumes?codeA=a&codeB=b"} {
		w.try(attack{name: "terminology: " + cut(p), method: "GET", path: p, want: []int{400, 403, 404, 414, 431}})
	}
	circle := `{"resourceType":"Parameters","parameter":[{"name":"valueSet","resource":{"resourceType":"ValueSet","url":"urn:zanaria","compose":{"include":[{"valueSet":["urn:zanaria"]}]}}}]}`
	w.try(attack{name: "$expand: a value set that imports itself", path: "ValueSet/$expand", body: text(circle),
		want: []int{403, 422}})
	w.try(attack{name: "$expand: 10,000 levels of contains", path: "ValueSet/$expand",
		body: text(`{"resourceType":"Parameters","parameter":[{"name":"valueSet","resource":{"expansion":` +
			strings.Repeat(`{"contains":[`, 10_000) + strings.Repeat(`]}`, 10_000) + `}}]}`), want: []int{400, 403}})
}

// hostileValidation sends $validate what a create refuses: it answers with an
// OperationOutcome, or refuses, in bounded time.
func (w *world) hostileValidation() {
	send := func(name, body string, want ...int) {
		w.try(attack{name: "$validate: " + name, path: "Observation/$validate", body: text(body), want: want})
	}
	send("no JSON", "Zanaria", 200, 400)
	send("10,000 levels", strings.Repeat(`{"extension":[`, 10_000), 200, 400)
	send("duplicate names", `{"resourceType":"Observation","status":"final","status":"Zanaria"}`, 200, 400)
	send("a resource in a resource", `{"resourceType":"Parameters","parameter":[{"name":"resource","resource":`+
		`{"resourceType":"Parameters","Zanaria":1}}]}`, 200, 400)
	send("an unknown mode", `{"resourceType":"Parameters","parameter":[{"name":"mode","valueCode":"Zanaria"}]}`, 400)
	w.try(attack{name: "$meta-add: no Meta", path: "Patient/" + w.patient + "/$meta-add",
		body: text(`{"resourceType":"Parameters","parameter":[{"name":"meta","valueMeta":{"tag":"Zanaria"}}]}`),
		want: []int{400, 403}})
}
