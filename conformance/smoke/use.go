package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/url"
	"path/filepath"
	"strings"
	"time"
)

// measured leaves out the preferred values, which the server derives in the background.
const measured = "&_tag:not=https://pulsegate.dev/fhir/CodeSystem/measures%7Cpreferred"

func (w *world) searches() error {
	day := url.QueryEscape("http://loinc.org|8867-4")
	found, err := w.ehr.Search("Observation?patient=" + w.patient + "&code=" + day +
		"&date=ge2026-10-01&date=lt2026-10-02&_sort=-date&_count=2" + measured)
	if err != nil {
		return err
	}
	// There are two each of Apple, Fitbit and Oura. The average of the sleep session
	// belongs to the night.
	last := ""
	for _, o := range found {
		at, _ := o["effectiveDateTime"].(string)
		if at == "" {
			continue
		}
		t := instant(at)
		if last != "" && t > last {
			return fmt.Errorf("not sorted by -date: %s after %s", t, last)
		}
		last = t
	}
	if len(found) < 6 {
		return fmt.Errorf("heart rates by patient, code and date: %d, want at least 6", len(found))
	}
	status, b, err := w.ehr.JSON("GET", "Observation?patient=Patient/"+w.patient+"&_summary=count"+measured, nil)
	if err != nil {
		return err
	}
	total, _ := b["total"].(float64)
	if status != 200 || total < 14 || b["entry"] != nil {
		return fmt.Errorf("_summary=count: %d %v", status, b["total"])
	}
	all, err := w.ehr.Search("Observation?patient=" + w.patient + "&_count=5" + measured)
	if err != nil {
		return err
	}
	if len(all) != int(total) {
		return fmt.Errorf("the pages have %d matches, the count is %v", len(all), total)
	}
	spo2, err := w.ehr.Search("Observation?patient=" + w.patient + "&code=59408-5&_include=Observation:subject" + measured)
	if err != nil {
		return err
	}
	types := map[any]int{}
	for _, r := range spo2 {
		types[r["resourceType"]]++
		if v, ok := r["valueQuantity"].(map[string]any); ok {
			if n, _ := v["value"].(float64); n != 97 || v["code"] != "%" {
				return fmt.Errorf("SpO2 of 0.97 became %v", v)
			}
		}
	}
	return expect(types["Observation"] == 1 && types["Patient"] == 1, "SpO2 with _include: %v", types)
}

// instant converts a dateTime to UTC, so that dateTimes compare as text.
func instant(s string) string {
	if t, err := time.Parse(time.RFC3339, s); err == nil {
		return t.UTC().Format("2006-01-02T15:04:05Z")
	}
	return s
}

func (w *world) badRequests() error {
	for _, c := range []struct {
		method, path, body string
		want               int
	}{
		{"GET", "Observation?favourite=1", "", 400},
		{"GET", "Observation?code:above=1", "", 400},
		{"GET", "Observation?date=yesterday", "", 400},
		{"GET", "Nonsense", "", 404},
		{"GET", "Observation/does-not-exist", "", 404},
		{"POST", "Observation", `{"resourceType":"Observation","status":"final"`, 400},
		{"POST", "Observation", `{"resourceType":"Observation","status":"final","status":"final","code":{"text":"x"}}`, 400},
		{"POST", "Observation", `{"resourceType":"Observation","code":{"text":"x"}}`, 400},
		{"POST", "Observation", strings.Repeat(`{"a":`, 5000) + "1" + strings.Repeat("}", 5000), 400},
		{"PUT", "AuditEvent/a", `{"resourceType":"AuditEvent","id":"a"}`, 405},
		{"DELETE", "AuditEvent/a", "", 405},
	} {
		var body []byte
		if c.body != "" {
			body = []byte(c.body)
		}
		status, out, err := w.ehr.JSON(c.method, c.path, body)
		if err != nil {
			return err
		}
		ok := status == c.want || c.want == 400 && status == 422
		if !ok || out["resourceType"] != "OperationOutcome" {
			return fmt.Errorf("%s %.40s: %d %v, want %d and an OperationOutcome", c.method, c.path, status,
				out["resourceType"], c.want)
		}
	}
	return nil
}

func (w *world) crud() error {
	body := []byte(`{"resourceType":"Observation","status":"final","category":[{"coding":[{"system":"http://terminology.hl7.org/CodeSystem/observation-category","code":"vital-signs"}]}],"code":{"coding":[{"system":"http://loinc.org","code":"8867-4"}]},"subject":{"reference":"Patient/` + w.patient + `"},"effectiveDateTime":"2026-10-03T10:00:00+02:00","valueQuantity":{"value":80.0,"unit":"/min","system":"http://unitsofmeasure.org","code":"/min"}}`)
	status, out, err := w.ehr.JSON("POST", "Observation", body)
	if err != nil {
		return err
	}
	id, _ := out["id"].(string)
	if status != 201 || id == "" {
		return fmt.Errorf("create: %d %v", status, out)
	}
	var changed map[string]any
	if err := json.Unmarshal(body, &changed); err != nil {
		return err
	}
	changed["id"], changed["status"] = id, "amended"
	body2, err := json.Marshal(changed)
	if err != nil {
		return err
	}
	if status, _, err = w.ehr.JSON("PUT", "Observation/"+id, body2, "If-Match", `W/"7"`); err != nil || status != 412 {
		return fmt.Errorf("update with a stale If-Match: %d %v", status, err)
	}
	if status, _, err = w.ehr.JSON("PUT", "Observation/"+id, body2, "If-Match", `W/"1"`); err != nil || status != 200 {
		return fmt.Errorf("update: %d %v", status, err)
	}
	if status, out, err = w.ehr.JSON("GET", "Observation/"+id+"/_history/1", nil); err != nil || status != 200 ||
		out["status"] != "final" {
		return fmt.Errorf("vread: %d %v", status, err)
	}
	if status, out, err = w.ehr.JSON("GET", "Observation/"+id+"/_history", nil); err != nil || status != 200 ||
		len(out["entry"].([]any)) != 2 {
		return fmt.Errorf("history: %d %v", status, err)
	}
	resp, err := w.ehr.Do("DELETE", "Observation/"+id, nil)
	if err != nil {
		return err
	}
	if err := resp.Body.Close(); err != nil {
		return err
	}
	if resp.StatusCode != 204 && resp.StatusCode != 200 {
		return fmt.Errorf("delete: %d", resp.StatusCode)
	}
	if status, _, err = w.ehr.JSON("GET", "Observation/"+id, nil); err != nil || status != 410 {
		return fmt.Errorf("read after delete: %d %v", status, err)
	}
	tx := []byte(`{"resourceType":"Bundle","type":"transaction","entry":[{"fullUrl":"urn:uuid:5b9c1f2e-0001-4000-8000-000000000001","resource":{"resourceType":"Group","id":"smoke","type":"person","actual":true,"name":"Smoke","member":[{"entity":{"reference":"Patient/` + w.patient + `"}}]},"request":{"method":"PUT","url":"Group/smoke"}}]}`)
	if status, out, err = w.ehr.JSON("POST", "", tx); err != nil || status != 200 {
		return fmt.Errorf("transaction: %d %v %v", status, out, err)
	}
	return nil
}

func (w *world) exports() error {
	found, err := w.ehr.Search("Observation?_count=1000" + measured)
	if err != nil {
		return err
	}
	for _, path := range []string{"$export", "Patient/$export?_type=Observation,Patient",
		"Group/smoke/$export?_type=Observation"} {
		lines, manifest, err := w.ehr.Export(path)
		if err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		n := 0
		for _, line := range lines["Observation"] {
			if !bytes.Contains(line, []byte(`"code":"preferred"`)) {
				n++
			}
		}
		if n != len(found) || manifest["transactionTime"] == nil {
			return fmt.Errorf("%s: %d Observations, search finds %d", path, n, len(found))
		}
	}
	return nil
}

func (w *world) audited() error {
	found, err := w.ehr.Search("AuditEvent?patient=" + w.patient + "&_count=500")
	if err != nil {
		return err
	}
	subtypes := map[string]int{}
	for _, e := range found {
		list, _ := e["subtype"].([]any)
		for _, s := range list {
			m, _ := s.(map[string]any)
			code, _ := m["code"].(string)
			subtypes[code]++
		}
	}
	for _, want := range []string{"create", "read", "update", "delete"} {
		if subtypes[want] == 0 {
			return fmt.Errorf("no AuditEvent with subtype %q for the patient: %v", want, subtypes)
		}
	}
	return nil
}

func (w *world) survives() error {
	before, err := w.ehr.Search("Observation?patient=" + w.patient + measured + "&_count=1000")
	if err != nil {
		return err
	}
	if err := w.srv.Kill(); err != nil {
		return err
	}
	if err := w.srv.Restart(); err != nil {
		return err
	}
	after, err := w.ehr.Search("Observation?patient=" + w.patient + measured + "&_count=1000")
	if err != nil {
		return err
	}
	a, err := json.Marshal(before)
	if err != nil {
		return err
	}
	b, err := json.Marshal(after)
	if err != nil {
		return err
	}
	return expect(string(a) == string(b), "%d Observations before kill -9, %d after, or different ones",
		len(before), len(after))
}

func (w *world) withdraws() error {
	if err := w.srv.Run(nil, "consent", "withdraw", "--patient", w.patient); err != nil {
		return err
	}
	for _, path := range []string{"Observation?patient=" + w.patient, "Device?patient=" + w.patient,
		"Observation?_count=1000", "Provenance?patient=" + w.patient} {
		found, err := w.ehr.Search(path)
		if err != nil {
			return err
		}
		if len(found) != 0 {
			return fmt.Errorf("%s after withdrawal: %d", path, len(found))
		}
	}
	lines, _, err := w.ehr.Export("Patient/$export?_type=Observation")
	if err != nil {
		return err
	}
	if len(lines["Observation"]) != 0 {
		return fmt.Errorf("export after withdrawal: %d", len(lines["Observation"]))
	}
	f := filepath.Join(w.dir, "heartrate.json")
	return expect(w.srv.Run(nil, "ingest", "--patient", w.patient, "--vendor", "oura", f) != nil,
		"a payload was accepted after the withdrawal")
}

func (w *world) verifies() error {
	var out struct{ OK bool }
	if err := w.srv.Run(&out, "audit", "verify"); err != nil {
		return err
	}
	if !out.OK {
		return fmt.Errorf("audit verify: not ok")
	}
	if err := w.srv.RunAll("store", "check"); err != nil {
		return err
	}
	log := w.srv.Log()
	for _, canary := range []string{"Muster", "eyJ", "1980-02-29"} {
		if strings.Contains(log, canary) {
			return fmt.Errorf("the log contains %q", canary)
		}
	}
	return nil
}
