package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"strings"

	"pulsegate/conformance/blackbox"
)

// leaks tries to read data that a granular scope or a consent does not allow.
func (w *world) leaks() error {
	act, err := w.create(w.ehr, w.patient, "activity", "")
	if err != nil {
		return err
	}
	for _, cat := range []string{"laboratory", "survey", "exam"} {
		if _, err := w.create(w.ehr, w.patient, cat, ""); err != nil {
			return err
		}
	}
	// A resource in scope that refers to one out of scope.
	if _, err := w.create(w.ehr, w.patient, "vital-signs",
		`,"hasMember":[{"reference":"Observation/`+act+`"}]`); err != nil {
		return err
	}
	all, err := w.ehr.Search("Observation?_count=500")
	if err != nil {
		return err
	}
	granular, err := w.register("system/Observation.rs?" + category +
		"vital-signs system/Patient.rs system/Provenance.rs system/Device.rs")
	if err != nil {
		return err
	}
	var hidden []string
	visible := 0
	for _, o := range all {
		if vitalSign(o) {
			visible++
		} else {
			hidden = append(hidden, fmt.Sprint(o["id"]))
		}
	}
	if len(hidden) < 3 || visible < 3 {
		return fmt.Errorf("%d Observations in scope and %d out of scope are too few", visible, len(hidden))
	}
	w.readHidden("granular scope", granular, hidden, vitalSign, visible)

	other, err := w.wearer(w.ehr.ID, "apple", "oura")
	if err != nil {
		return err
	}
	for _, name := range []string{"export.xml", "sleep.json"} {
		if err := w.ingestFile(other, name, good[name]); err != nil {
			return err
		}
	}
	if all, err = w.ehr.Search("Observation?patient=" + other + "&_count=500"); err != nil {
		return err
	}
	if len(all) < 5 {
		return fmt.Errorf("the named recipient sees %d Observations", len(all))
	}
	stranger, err := w.register("system/*.cruds")
	if err != nil {
		return err
	}
	hidden = nil
	for _, o := range all {
		hidden = append(hidden, fmt.Sprint(o["id"]))
	}
	notHidden := func(o map[string]any) bool { return !strings.Contains(fmt.Sprint(o["subject"]), other) }
	w.readHidden("consent names another", stranger, hidden, notHidden, -1)
	for _, typ := range []string{"Device", "Provenance"} {
		seen, err := w.ehr.Search(typ + "?patient=" + other)
		if err == nil && len(seen) == 0 {
			err = fmt.Errorf("the named recipient sees no %s", typ)
		}
		var leaked []map[string]any
		if err == nil {
			leaked, err = stranger.Search(typ + "?patient=" + other)
		}
		if err == nil && len(leaked) > 0 {
			err = fmt.Errorf("%d visible", len(leaked))
		}
		w.note("consent names another: search of "+typ, "nothing", err)
		for _, r := range seen {
			w.note("consent names another: read of a "+typ, "404 as if absent",
				w.sameAsAbsent(stranger, typ, fmt.Sprint(r["id"])))
			break
		}
	}
	return nil
}

// create creates an Observation of a category and returns its id.
func (w *world) create(by *blackbox.Client, patient, cat, extra string) (string, error) {
	body := strings.Replace(fmt.Sprintf(vital, patient, extra), "vital-signs", cat, 1)
	status, out, err := by.JSON("POST", "Observation", []byte(body))
	if err == nil && status != 201 {
		err = fmt.Errorf("create: %d", status)
	}
	id, _ := out["id"].(string)
	return id, err
}

// vitalSign reports whether an Observation is a vital sign.
func vitalSign(o map[string]any) bool {
	b, err := json.Marshal(o["category"])
	return err == nil && strings.Contains(string(b), `"vital-signs"`)
}

// readHidden tries to read hidden Observations in every way. may reports whether the
// client by may see an Observation, and count is the number of all Observations that it
// may see, or -1 if that is unknown.
func (w *world) readHidden(name string, by *blackbox.Client, hidden []string,
	may func(map[string]any) bool, count int) {
	id := hidden[0]
	for _, path := range []string{"", "/_history/1", "/_history"} {
		w.note(name+": read"+path, "404 as if absent",
			w.each(hidden, func(id string) error { return w.sameAsAbsent(by, "Observation", id+path) }))
	}
	for _, q := range []string{"", "_id=" + strings.Join(hidden, ","), "_include=Observation:has-member",
		"_include=Observation:device&_include=Observation:subject", "category=activity,sleep,vital-signs,survey",
		"_elements=id", "_summary=true", "patient=" + w.patient + "&_sort=-date", "code=55423-8,93832-4,29463-7"} {
		label, _, _ := strings.Cut(strings.ReplaceAll(q, w.patient, "ID"), "="+hidden[0])
		w.note(name+": search "+label, "only what it may see",
			w.searchSees(by, "Observation?_count=500&"+q, hidden, may))
	}
	w.note(name+": POST _search", "only what it may see", w.postSees(by, id))
	if count >= 0 {
		status, out, err := by.JSON("GET", "Observation?_summary=count", nil)
		if total, _ := out["total"].(float64); err == nil && (status != 200 || int(total) != count) {
			err = fmt.Errorf("status %d, count %v, want %d", status, total, count)
		}
		w.note(name+": _summary=count", "counts only what it may see", err)
	}
	status, out, err := by.JSON("GET", "Observation?_summary=count&_id="+strings.Join(hidden, ","), nil)
	if err == nil {
		if total, _ := out["total"].(float64); status != 200 || total != 0 {
			err = fmt.Errorf("%d, count %v", status, total)
		}
	}
	w.note(name+": _summary=count of those ids", "0", err)
	entry := `{"resourceType":"Bundle","type":"batch","entry":[{"request":{"method":"GET","url":"Observation/` +
		id + `"}},{"request":{"method":"GET","url":"Observation?_id=` + id + `"}}]}`
	b, err := w.bodyOf(by, entry)
	if err == nil && strings.Contains(b, `"effective`) {
		err = errors.New("the batch contains the Observation")
	}
	w.note(name+": batch", "404 and an empty search", err)
	for _, path := range []string{"Patient/$export?_type=Observation", "$export?_type=Observation"} {
		w.note(name+": "+path, "only what it may see, or refused", w.exportSees(by, path, hidden, may))
	}
}

// each calls do for every id until an error.
func (w *world) each(ids []string, do func(string) error) error {
	for _, id := range ids {
		if err := do(id); err != nil {
			return err
		}
	}
	return nil
}

// requestID matches the ids in an answer. Without them, the answers for hidden and for
// absent resources must be equal.
var requestID = regexp.MustCompile(`[a-z0-9]{26}|zanaria-absent`)

// sameAsAbsent checks that the answer for a hidden resource equals the answer for an
// absent one.
func (w *world) sameAsAbsent(by *blackbox.Client, typ, rest string) error {
	id, tail, _ := strings.Cut(rest, "/")
	path := typ + "/zanaria-absent"
	if tail != "" {
		path += "/" + tail
	}
	s1, b1, err := w.send(attack{method: "GET", path: typ + "/" + rest, by: by})
	if err != nil {
		return err
	}
	s2, b2, err := w.send(attack{method: "GET", path: path, by: by})
	if err != nil {
		return err
	}
	if s1 != 404 || s2 != 404 || requestID.ReplaceAllString(string(b1),
		"") != requestID.ReplaceAllString(string(b2), "") {
		return fmt.Errorf("%s: %d %s; absent: %d %s", id, s1, b1, s2, b2)
	}
	return nil
}

// searchSees checks that a search returns only what by may see.
func (w *world) searchSees(by *blackbox.Client, path string, hidden []string, may func(map[string]any) bool) error {
	found, err := by.Search(path)
	if err != nil {
		return err
	}
	partial := strings.Contains(path, "_elements") || strings.Contains(path, "_summary")
	for _, r := range found {
		for _, id := range hidden {
			if r["id"] == id {
				return fmt.Errorf("shows %s", id)
			}
		}
		if r["resourceType"] == "Observation" && !partial && !may(r) {
			return fmt.Errorf("shows %v", r["id"])
		}
	}
	return nil
}

// postSees checks that a search by POST does not return the Observation id.
func (w *world) postSees(by *blackbox.Client, id string) error {
	status, b, err := w.send(attack{path: "Observation/_search", body: text("_id=" + id),
		header: []string{"Content-Type", "application/x-www-form-urlencoded"}, by: by})
	if err == nil && (status != 200 || strings.Contains(string(b), `"effective`)) {
		err = fmt.Errorf("%d %s", status, b)
	}
	return err
}

// bodyOf returns the answer to a batch.
func (w *world) bodyOf(by *blackbox.Client, bundle string) (string, error) {
	status, b, err := w.send(attack{path: "", body: text(bundle), by: by})
	if err == nil && status != 200 {
		err = fmt.Errorf("%d %s", status, b)
	}
	return string(b), err
}

// exportSees checks that an export contains only what by may see, or is refused.
func (w *world) exportSees(by *blackbox.Client, path string, hidden []string, may func(map[string]any) bool) error {
	lines, _, err := by.Export(path)
	if err != nil && strings.Contains(err.Error(), "kick-off: 403") {
		return nil
	}
	if err != nil {
		return err
	}
	for _, l := range lines["Observation"] {
		var r map[string]any
		if err := json.Unmarshal(l, &r); err != nil {
			return err
		}
		for _, id := range hidden {
			if r["id"] == id {
				return fmt.Errorf("exports %s", id)
			}
		}
		if !may(r) {
			return fmt.Errorf("exports %v", r["id"])
		}
	}
	return nil
}
