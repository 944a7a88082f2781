package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"

	"pulsegate/conformance/blackbox"
)

const (
	phoneProfile = `"meta":{"profile":["https://pulsegate.dev/fhir/StructureDefinition/phone-made-observation"]},`
	phoneUUID    = "AAAAAAAA-0000-4000-8000-00000000000A"
	// marker is a text that no page may repeat. The pages of a person show the person's
	// name, which contains the canary.
	marker = "Quxotlin"
)

// ofPhone returns a phone-made oxygen saturation of a patient. more are further members,
// each with a comma.
func ofPhone(patient, value, more string) string {
	return `{"resourceType":"Observation","id":"` + phoneUUID + `","identifier":[{"id":"` + phoneUUID + `"}],` + more +
		`"status":"final","code":{"coding":[{"system":"http://developer.apple.com/documentation/healthkit",` +
		`"code":"HKQuantityTypeIdentifierOxygenSaturation"}]},"subject":{"reference":"Patient/` + patient + `"},` +
		`"effectiveDateTime":"2026-09-05T08:00:01+02:00","valueQuantity":{"value":` + value +
		`,"unit":"%","system":"http://unitsofmeasure.org","code":"%"}}`
}

// vendors attacks what concerns the data of vendors: phone-made Observations, preferred
// sources, the pages of a patient about them, and the keys for targets.
func (w *world) vendors() error {
	w.preferred()
	if err := w.phones(); err != nil {
		return err
	}
	if err := w.devicePages(); err != nil {
		return err
	}
	w.assertionKeys()
	return nil
}

// registerPhone registers a client that sends phone-made Observations only.
func (w *world) registerPhone(scope string) (*blackbox.Client, error) {
	var c struct {
		ID string `json:"client_id"`
	}
	err := w.srv.Run(&c, "client", "add", "--name", canary, "--jwks", w.path("jwks.json"), "--scope", scope,
		"--phone-made")
	return w.client(c.ID, scope), err
}

func (w *world) phones() error {
	registered, err := w.registerPhone("system/Observation.cru system/Patient.r")
	if err != nil {
		return err
	}
	laboratory, err := w.registerPhone("system/Observation.cu?" + category + "laboratory")
	if err != nil {
		return err
	}
	good := ofPhone(w.patient, "0.97", phoneProfile)
	change := func(old, with string) string { return strings.Replace(good, old, with, 1) }
	post := func(name, body string, want ...int) {
		w.try(attack{name: "phone-made: " + name, path: "Observation", body: text(body), want: want})
	}
	post("a value out of range", change("0.97", "6173519"), 422)
	post("a value of 1e99999", change("0.97", "1e99999"), 400, 422)
	post("a value that is an object", change("0.97", `{"Zanaria":1}`), 400)
	post("an unknown type", change("HKQuantityTypeIdentifierOxygenSaturation", "HKZanaria"), 422)
	post("half a blood pressure", change("IdentifierOxygenSaturation", "IdentifierBloodPressureSystolic"), 422)
	post("a code of another system", change(`healthkit","code":"HK`, `zanaria","code":"Zanaria`), 422)
	post("another unit", change(`"code":"%"}}`, `"code":"[degF]"}}`), 422)
	post("in the future", change("2026-09-05", "2096-09-05"), 422)
	post("February 31", change("2026-09-05", "2026-02-31"), 400, 422)
	post("no subject", change(`"subject":{"reference":"Patient/`+w.patient+`"},`, ""), 422)
	post("a Group as its subject", change("Patient/"+w.patient, "Group/zanaria"), 422)
	post("a subject on another server", change("Patient/"+w.patient, "https://zanaria.example/Patient/1"), 400, 422)
	post("a subject with .. in it", change("Patient/"+w.patient, "Patient/../Patient/"+w.patient), 400, 422)
	post("a value of another kind", change("valueQuantity", "valueSampledData"), 400, 422)
	post("a profile of 1 MiB", change(`observation"]`, `observation","`+strings.Repeat("Zanaria!", 1<<17)+`"]`), 201,
		400, 413, 422)
	post("100 identifiers", change(`"identifier":[`, `"identifier":[`+
		strings.Repeat(`{"system":"urn:zanaria","value":"Zanaria"},`, 100)), 200, 201, 400, 422)
	post("a duplicate key", change(`"status":"final"`, `"status":"final","status":"Zanaria"`), 400)
	post("an array of them", "["+good+","+good+"]", 400)
	w.try(attack{name: "phone-made: PUT", method: "PUT", path: "Observation/" + phoneUUID, body: text(good),
		want: []int{422}})
	bundle := func(typ string) string {
		return `{"resourceType":"Bundle","type":"` + typ + `","entry":[{"resource":` + good +
			`,"request":{"method":"POST","url":"Observation"}}]}`
	}
	w.try(attack{name: "phone-made: in a transaction", path: "", body: text(bundle("transaction")), want: []int{422}})
	w.try(attack{name: "phone-made: PUT by a client registered for them", method: "PUT", by: registered,
		path: "Observation/" + phoneUUID, body: text(ofPhone(w.patient, "0.97", "")), want: []int{422}})
	w.try(attack{name: "phone-made: a category in scope that it does not have", path: "Observation", by: laboratory,
		body: text(ofPhone(w.patient, "0.97", `"category":[{"coding":[{"system":"http://terminology.hl7.org/CodeSystem/`+
			`observation-category","code":"laboratory"}]}],`)), want: []int{403}})
	w.try(attack{name: "phone-made: a deletion out of scope", path: "Observation", by: laboratory,
		body: text(strings.Replace(ofPhone(w.patient, "0.97", ""), `"final"`, `"entered-in-error"`, 1)), want: []int{403}})
	return w.phonesConceal()
}

// phonesConceal checks that the answers to phone-made Observations disclose nothing.
func (w *world) phonesConceal() error {
	barred, err := w.wearer("any") // consents to no vendor
	if err != nil {
		return err
	}
	blind, err := w.registerPhone("system/Observation.cu")
	if err != nil {
		return err
	}
	same := func(name, answer string, status int, by *blackbox.Client, first, second string) {
		s1, b1, err := w.send(attack{path: "Observation", by: by, body: text(first)})
		if err == nil {
			var s2 int
			var b2 []byte
			if s2, b2, err = w.send(attack{path: "Observation", by: by, body: text(second)}); err == nil &&
				(s1 != status || s2 != status || string(b1) != string(b2)) {
				err = fmt.Errorf("%d %s; %d %s", s1, b1, s2, b2)
			}
		}
		w.note("phone-made: "+name, answer, err)
	}
	same("a patient who does not consent", "422 as if absent", 422, w.ehr, ofPhone(barred, "0.97", phoneProfile),
		ofPhone("zanaria-absent", "0.97", phoneProfile))
	same("the same sample again, by a client that may not read it", "201 as if new", 201, blind,
		ofPhone(w.patient, "0.97", ""), ofPhone(w.patient, "0.95", ""))
	found, err := w.ehr.Search("Observation?patient=" + barred)
	if err == nil && len(found) > 0 {
		err = fmt.Errorf("%d Observations", len(found))
	}
	w.note("phone-made: … of whom nothing is stored", "nothing", err)
	if found, err = w.ehr.Search("Observation?patient=" + w.patient + "&date=2026-09-05&code=2708-6"); err == nil {
		found = slices.DeleteFunc(found, func(o map[string]any) bool {
			return !strings.Contains(fmt.Sprint(o["identifier"]), phoneUUID)
		})
		if len(found) != 1 {
			err = fmt.Errorf("%d Observations", len(found))
		}
	}
	w.note("phone-made: … is one Observation", "1", err)
	return nil
}

// preferred attacks $stats over preferred sources.
func (w *world) preferred() {
	steps := "Observation/$stats?subject=Patient/" + w.patient + "&system=http://loinc.org&code=55423-8&"
	for _, q := range []string{"preferred=Zanaria", "preferred=true&preferred=false",
		"preferred=true&include=true", "preferred=true&statistic=Zanaria", "preferred=true&code=Zanaria",
		"preferred=true&period=Zanaria", "preferred=true&period=2026-02-31/2026-03-01", "preferred=true&duration=1e99",
		"preferred=true&duration=NaN", "preferred=true&limit=-1", "preferred=true&Zanaria=1", "preferred=%ff",
		"preferred=true&coding=Zanaria|Zanaria", "preferred=true&" + strings.Repeat("code=Zanaria&", 2000)} {
		w.try(attack{name: "$stats: " + cut(q), method: "GET", path: steps + q + "&statistic=sum",
			want: []int{400, 413, 414, 422, 431}})
	}
	w.try(attack{name: "$stats: preferred of all times", method: "GET",
		path: steps + "preferred=true&statistic=sum&period=0001-01-01/9999-12-31", want: []int{200, 400}})
	w.try(attack{name: "$stats: preferred in Parameters of 11 MiB", path: "Observation/$stats",
		body: repeated(`{"resourceType":"Parameters","parameter":[{"name":"preferred","valueString":"`, "Zanaria!", 11<<17,
			`"}]}`), want: []int{413}})
	w.note("$stats: preferred of hidden sources", "as if absent", w.hiddenSources())
}

// hiddenSources checks that the preferred sources of a patient who is hidden from the
// client are like those of a patient who does not exist.
func (w *world) hiddenSources() error {
	other, err := w.wearer(w.ehr.ID, "apple")
	if err != nil {
		return err
	}
	stranger, err := w.register("system/*.rs")
	if err != nil {
		return err
	}
	if err := w.ingestFile(other, "export.xml", good["export.xml"]); err != nil {
		return err
	}
	ask := func(by *blackbox.Client, patient string) (string, error) {
		status, b, err := w.send(attack{method: "GET", by: by, path: "Observation/$stats?preferred=true&subject=Patient/" +
			patient + "&system=http://loinc.org&code=55423-8&statistic=sum"})
		if err == nil && status != 200 {
			err = fmt.Errorf("%d %s", status, b)
		}
		return strings.ReplaceAll(string(b), patient, ""), err
	}
	seen, err := ask(w.ehr, other)
	if err != nil {
		return err
	}
	hidden, err := ask(stranger, other)
	if err != nil {
		return err
	}
	absent, err := ask(stranger, "zanaria-absent")
	if err == nil && (hidden != absent || seen == hidden || !strings.Contains(seen, "812")) {
		err = fmt.Errorf("%s; absent: %s; visible: %s", hidden, absent, seen)
	}
	return err
}

// devicePages attacks the pages of a patient about Observations and sources.
func (w *world) devicePages() error {
	id := fmt.Sprint(w.kept[0]["id"])
	for _, path := range []string{"/auth/explain/Observation/" + id, "/auth/explain/Observation/zanaria-absent",
		"/auth/devices/source?vendor=apple"} {
		page, err := get(w.srv.Base+path, 200) // the page to sign in, after a redirect
		if err == nil && (!strings.Contains(page, `type="password"`) || strings.Contains(page, "Zanaria-Muster")) {
			err = errors.New("not the page to sign in")
		}
		w.note("page without a session: "+strings.Replace(path, id, "ID", 1), "the page to sign in", err)
	}
	patient, err := w.wearer("any", "apple", "oura")
	if err != nil {
		return err
	}
	var invite struct{ Link string }
	if err := w.srv.Run(&invite, "user", "invite", "--login", "hostile", "--name", "Kim", "--role", "patient",
		"--patient", patient); err != nil {
		return err
	}
	person, err := blackbox.Enroll(invite.Link, "seven lamps under water")
	if err != nil {
		return err
	}
	var answers []string
	for _, other := range []string{id, "absent", "..%2f..%2fPatient%2f" + w.patient, "%00", strings.Repeat("z", 65),
		marker + "%3Cscript%3E"} {
		page, err := person.Page("/auth/explain/Observation/" + other)
		name := "page: explanation of " + cut(strings.Replace(other, id, "another patient's Observation", 1))
		if err == nil || !strings.Contains(err.Error(), "status 404") && !strings.Contains(err.Error(), "status 400") ||
			strings.Contains(page, marker) {
			err = fmt.Errorf("%w: %.300s", err, page)
		} else {
			err = nil
		}
		answers = append(answers, page)
		w.note(name, "404", err)
	}
	if err = nil; requestID.ReplaceAllString(answers[0], "") != requestID.ReplaceAllString(answers[1], "") {
		err = fmt.Errorf("%s\n%s", answers[0], answers[1])
	}
	w.note("page: explanation of another patient's Observation", "as if absent", err)
	return w.sourcePages(person, patient)
}

// sourcePages attacks the page on which a patient decides about a source.
func (w *world) sourcePages(person *blackbox.Person, patient string) error {
	consents := func() (string, error) {
		found, err := w.ehr.Search("Consent?patient=" + patient)
		b, jerr := json.Marshal(found)
		return string(b), errors.Join(err, jerr)
	}
	before, err := consents()
	if err != nil {
		return err
	}
	const path = "/auth/devices/source"
	for _, c := range []struct {
		name, page string
		form       url.Values
	}{
		{"without a token against forged requests", "/livez", url.Values{"vendor": {"apple"}, "do": {"withdraw"},
			"data": {"delete"}}},
		{"of an unknown vendor", path + "?vendor=apple", url.Values{"vendor": {marker}, "do": {"withdraw"},
			"data": {"delete"}}},
		{"without a vendor", path + "?vendor=apple", url.Values{"do": {"withdraw"}, "data": {"delete"}}},
		{"with an unknown button", path + "?vendor=apple", url.Values{"vendor": {"apple"}, "do": {marker}}},
		{"with an unknown choice", path + "?vendor=apple", url.Values{"vendor": {"apple"}, "do": {"withdraw"},
			"data": {marker}}},
		{"with an unknown recipient", path + "?vendor=apple", url.Values{"vendor": {"apple"}, "do": {"agree"},
			"sees": {marker}}},
		{"about locations of a vendor without any", path + "?vendor=oura", url.Values{"vendor": {"oura"},
			"do": {"locate"}}},
		{"with a form of 2 MiB", path + "?vendor=apple", url.Values{"vendor": {"apple"}, "do": {"withdraw"},
			"data": {strings.Repeat("z", 2<<20)}}},
	} {
		page, err := person.Submit(c.page, path, c.form)
		after, cerr := consents()
		switch {
		case err == nil || !strings.Contains(err.Error(), "status 4"):
			err = fmt.Errorf("accepted: %w: %.300s", err, page)
		case strings.Contains(page, marker):
			err = errors.New("the page repeats the input")
		case after != before:
			err = errors.New("the consents have changed")
		default:
			err = cerr
		}
		w.note("page: a decision "+c.name, "refused, and the consents are unchanged", err)
	}
	return nil
}

// assertionKeys attacks the keys with which this server authenticates at targets.
func (w *world) assertionKeys() {
	const path = "/.well-known/client-jwks.json"
	b, err := get(w.srv.Base+path, 200)
	var set struct{ Keys []map[string]any }
	if err == nil {
		err = json.Unmarshal([]byte(b), &set)
	}
	if err == nil && len(set.Keys) == 0 {
		err = errors.New("no keys")
	}
	for _, key := range set.Keys {
		for _, private := range []string{"d", "p", "q", "dp", "dq", "qi", "k", "oth"} {
			if key[private] != nil {
				err = fmt.Errorf("the key has %s", private)
			}
		}
	}
	w.note("GET "+path, "public keys alone", err)
	for _, m := range []string{"POST", "PUT", "DELETE", "ZANARIA"} {
		w.try(attack{name: m + " " + path, method: m, path: path, body: text(`{"keys":[]}`), want: []int{404, 405, 501},
			free: true})
	}
	for _, p := range []string{path + "/Zanaria", path + "%00", "/.well-known/%2e%2e/client-jwks.json",
		"/.well-known/CLIENT-JWKS.json"} {
		w.try(attack{name: "GET " + p, method: "GET", path: p, want: []int{400, 404}, free: true})
	}
}
