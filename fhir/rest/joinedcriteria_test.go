package rest

import (
	"fmt"
	"strings"
	"testing"
)

// TestConditionsByJoins tests chained parameters, _has, _list and _filter in the criteria
// of every conditional interaction.
func TestConditionsByJoins(t *testing.T) {
	onEveryStore(t, func(t *testing.T, w *world) {
		w.settle()
		body := `{"resourceType":"Observation","status":"final","code":{"text":"x"},"subject":{"reference":"Patient/ada"}}`
		for criteria, status := range map[string]int{
			"subject:Patient.identifier=http://x.test/mrn|111&code=8867-4": 200,
			"device.manufacturer=acme":                                     200,
			"device.organization.name=acme":                                200,
			"_list=plan":                                                   200,
			"_has:Observation:has-member:status=preliminary":               200,
			"_filter=device.manufacturer%20eq%20Acme":                      200,
			"subject:Patient.identifier=222":                               201,
			"device.manufacturer=none":                                     201,
			"_list=none":                                                   201,
			"patient.gender=female,male":                                   412,
			"_has:AuditEvent:entity:action=R":                              400,
			"device.manufacturer=acme&_revinclude=Provenance:target":       400,
			"device.zanaria=1":                                             400,
			"device.manufacturer.x=1":                                      400,
		} {
			a := w.want(status, "all", "POST", "/Observation", body, "If-None-Exist", criteria)
			if status == 200 && a.json["id"] != "hr" {
				t.Errorf("%s: %s", criteria, a.body)
			}
		}
		hr := strings.Replace(library[8], `"final"`, `"amended"`, 1)
		if a := w.want(200, "all", "PUT", "/Observation?device.manufacturer=acme", hr); a.header.Get("ETag") != `W/"2"` {
			t.Errorf("%v", a.header)
		}
		const noted = `[{"op":"add","path":"/note","value":[{"text":"seen"}]}]`
		if a := w.want(200, "all", "PATCH", "/Observation?_list=plan", noted, jsonPatch...); a.json["id"] != "hr" {
			t.Errorf("%s", a.body)
		}
		w.want(404, "all", "PATCH", "/Observation?device.manufacturer=none", noted, jsonPatch...)
		w.want(412, "all", "DELETE", "/Observation?patient.gender=female", "")
		w.want(204, "all", "DELETE", "/Medication?_has:MedicationRequest:medication:status=nothing", "")
		w.want(200, "all", "GET", "/Medication/pill", "")
		w.want(204, "all", "DELETE", "/Condition?encounter.participant:Practitioner.family=strange", "")
		w.want(410, "all", "GET", "/Condition/flu", "")
		// The token must cover the types of the joins.
		w.want(403, "vitals", "POST", "/Observation", observation("", "ada", "vital-signs", 60), "If-None-Exist",
			"device.manufacturer=acme")
	})
}

// TestConditionsByJoinsSeeWhatTheCallerSees tests that hidden resources decide no criteria,
// and that the patients whose data decided are named in the audit trail.
func TestConditionsByJoinsSeeWhatTheCallerSees(t *testing.T) {
	onEveryStore(t, func(t *testing.T, w *world) {
		w.settle()
		body := `{"resourceType":"Organization","name":"New"}`
		const criteria = "_has:Device:organization:manufacturer=acme"
		before := w.audited(`"reference":"Patient/ada"`)
		if a := w.want(200, "all", "POST", "/Organization", body, "If-None-Exist", criteria); a.json["id"] != "root" {
			t.Errorf("%s", a.body)
		}
		if now := w.audited(`"reference":"Patient/ada"`); now == before {
			t.Error("the patient who decided is not named")
		}
		w.consents.set("ada", true)
		if a := w.want(201, "all", "POST", "/Organization", body, "If-None-Exist", criteria); a.json["id"] == "root" {
			t.Errorf("%s", a.body)
		}
		w.want(204, "all", "DELETE", "/Organization?"+criteria, "")
		w.want(200, "all", "GET", "/Organization/root", "")
	})
}

// TestJoinsInTransactions tests criteria and conditional references with joins in a
// transaction: they see the state before it, and the transaction may not change what
// decides a conditional reference.
func TestJoinsInTransactions(t *testing.T) {
	onEveryStore(t, func(t *testing.T, w *world) {
		w.settle()
		send := func(status int, entries ...string) answer {
			t.Helper()
			return w.want(status, "all", "POST", "", `{"resourceType":"Bundle","type":"transaction","entry":[`+
				strings.Join(entries, ",")+`]}`, "Prefer", "return=representation")
		}
		entry := func(method, url, resource, more string) string {
			if resource != "" {
				resource = `"resource":` + resource + `,`
			}
			return `{` + resource + `"request":{"method":"` + method + `","url":"` + url + `"` + more + `}}`
		}
		note := `{"resourceType":"Observation","status":"final","code":{"text":"x"},"subject":{"reference":"Patient/ada"},"device":{"reference":"Device?patient.family=lovelace"}}`
		other := `{"resourceType":"Device","id":"d2","manufacturer":"Acme","patient":{"reference":"Patient/bob"}}`
		if a := send(200, entry("POST", "Observation", note, "")); !strings.Contains(string(a.body), `"Device/watch"`) {
			t.Errorf("%s", a.body)
		}
		// A Device that the transaction writes is another candidate.
		again := entry("PUT", "Device/d2", strings.Replace(other, "bob", "ada", 1), "")
		send(412, entry("POST", "Observation", note, ""), again)
		send(200, entry("POST", "Observation", note, ""), entry("PUT", "Device/d2", other, ""))
		// The chain may not depend on what the transaction changes.
		bob := strings.Replace(library[4], "Marley", "Lovelace", 1)
		a := send(400, entry("POST", "Observation", note, ""), entry("PUT", "Patient/bob", bob, ""))
		if !strings.Contains(fmt.Sprint(a.json["issue"]), "depends on a Patient by a chained parameter") {
			t.Errorf("%s", a.body)
		}
		// Criteria of entries see the state before.
		created := `{"resourceType":"Observation","status":"final","code":{"text":"y"},"subject":{"reference":"Patient/bob"}}`
		a = send(200, entry("POST", "Observation", created, `,"ifNoneExist":"patient.family=marley"`),
			entry("PUT", "Patient/bob", bob, ""))
		if !strings.Contains(string(a.body), `"200`) || !strings.Contains(string(a.body), `"weight"`) {
			t.Errorf("%s", a.body)
		}
		a = send(400, entry("PUT", "Observation?device.manufacturer=acme&status=unknown", created, ""),
			entry("POST", "Observation", created, ""), entry("POST", "Device", strings.Replace(other, `"id":"d2",`, "", 1), ""))
		if !strings.Contains(fmt.Sprint(a.json["issue"]), "depends on a Device") {
			t.Errorf("%s", a.body)
		}
		send(200, entry("DELETE", "MedicationDispense?prescription.encounter._id=visit", "", ""))
		w.want(410, "all", "GET", "/MedicationDispense/dose", "")
	})
}

// TestJoinsInOperations tests chained parameters, _has, _list and includes in $lastn, and
// search parameters in $stats.
func TestJoinsInOperations(t *testing.T) {
	onEveryStore(t, func(t *testing.T, w *world) {
		w.settle()
		for i, device := range []string{"watch", "ring", "watch"} {
			if i == 1 {
				w.put("Device/ring", `{"resourceType":"Device","id":"ring","manufacturer":"Ringo","patient":{"reference":"Patient/ada"}}`, 201)
			}
			id := fmt.Sprint("j", i)
			w.put("Observation/"+id, strings.Replace(observation(id, "ada", "vital-signs", 60+i), `"status"`,
				`"device":{"reference":"Device/`+device+`"},"status"`, 1), 201)
		}
		for query, want := range map[string]string{
			"device.manufacturer=ringo":                    "j1",
			"device.manufacturer=acme":                     "hr",
			"device.manufacturer=acme&max=3":               "hr j2 j0",
			"device.manufacturer=none":                     "",
			"_list=plan":                                   "hr",
			"_has:Observation:has-member:status=final":     "",
			"_has:Observation:has-member:code=85353-1":     "hr",
			"_filter=device.manufacturer%20eq%20Ringo":     "j1",
			"_has:Provenance:target:agent:Device._id=ring": "",
		} {
			a := w.want(200, "all", "GET", "/Observation/$lastn?patient=ada&code=8867-4&"+query, "")
			if got := strings.TrimSpace(a.inOrder()); got != want {
				t.Errorf("$lastn %s: %q, want %q", query, got, want)
			}
		}
		a := w.want(200, "all", "GET", "/Observation/$lastn?patient=ada&code=8867-4&_list=plan&_revinclude=Provenance:target", "")
		if got := fmt.Sprint(a.modes("include")); got != "[Provenance/prov]" {
			t.Errorf("$lastn includes %s", got)
		}
		w.want(403, "reader", "GET", "/Observation/$lastn?patient=ada&code=8867-4&device.manufacturer=x", "")
		for query, want := range map[string]string{
			"": "4", "&device.manufacturer=acme": "3", "&device.manufacturer=ringo": "1", "&_list=plan": "1",
			"&device=Device/ring": "1", "&category=vital-signs": "3", "&status:not=final": "0",
			"&_has:Observation:has-member:code=85353-1": "1", "&_filter=device.manufacturer%20eq%20Ringo": "1",
			"&value-quantity=gt60&device.manufacturer=acme&include=true": "2",
		} {
			a := w.want(200, "all", "GET",
				"/Observation/$stats?subject=Patient/ada&code=8867-4&system=http://loinc.org&statistic=count"+query, "")
			got := "0"
			if _, rest, ok := strings.Cut(string(a.body), `"valueQuantity":{"value":`); ok {
				got, _, _ = strings.Cut(rest, ",")
			}
			if strings.TrimSuffix(got, ".0") != want {
				t.Errorf("$stats %s: %q, want %q: %s", query, got, want, a.body)
			}
		}
		const stats = "/Observation/$stats?subject=Patient/ada&code=8867-4&statistic=count"
		w.want(403, "reader", "GET", stats+"&device.manufacturer=x", "")
		for _, query := range []string{"&_sort=date", "&_include=Observation:device", "&zanaria=1", "&device.zanaria=1",
			"&_count=1", "&_summary=true"} {
			w.want(400, "all", "GET", stats+query, "")
		}
		// The patients whose data decided are named, and no others.
		w.put("Device/watch", strings.Replace(library[7], "Patient/ada", "Patient/eve", 1), 200)
		eve := w.audited(`"reference":"Patient/eve"`)
		w.put("Device/bobs", strings.Replace(strings.Replace(library[7], "Patient/ada", "Patient/bob", 1), "watch", "bobs", 1), 201)
		bob := w.audited(`"reference":"Patient/bob"`)
		for i, path := range []string{stats + "&device.manufacturer=acme",
			"/Observation/$lastn?patient=ada&code=8867-4&device.manufacturer=acme"} {
			w.want(200, "all", "GET", path, "")
			if now := w.audited(`"reference":"Patient/eve"`); now != eve+i+1 {
				t.Errorf("%s: eve has %d events more", path, now-eve)
			}
			if now := w.audited(`"reference":"Patient/bob"`); now != bob {
				t.Errorf("%s: bob has %d events more", path, now-bob)
			}
		}
	})
}
