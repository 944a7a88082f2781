package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"pulsegate/conformance/clusterrun"
)

// submits reads the Bundles that $ehr-bundle offers, page by page, and posts each twice,
// unchanged, to a second server, where the patient has another id. The first time each
// entry creates an Observation, and the second time none does.
func (w *world) submits() (err error) {
	other := &world{bin: w.bin, dir: filepath.Join(w.dir, "ehr"), key: w.key}
	if err := os.MkdirAll(other.dir, 0o700); err != nil {
		return err
	}
	if other.srv, err = clusterrun.Start(clusterrun.Options{Bin: w.bin, Dir: other.dir}); err != nil {
		return err
	}
	defer func() {
		if cerr := other.srv.Stop(); err == nil {
			err = cerr
		}
	}()
	if err = other.setUp(); err != nil {
		return fmt.Errorf("the second server: %w", err)
	}
	created := 0
	for _, query := range []string{"form=us-core&_count=3", "form=us-core&every=0", "form=physical-activity&_count=1000"} {
		n, err := w.submit(other, query)
		if err != nil {
			return fmt.Errorf("%s: %w", query, err)
		}
		created += n
	}
	found, err := other.ehr.Search("Observation?patient=" + other.patient +
		"&_tag=http://hl7.org/fhir/us/core/CodeSystem/us-core-tags|patient-supplied&_count=1000")
	if err != nil {
		return err
	}
	// Every heart rate, the saturation, the respiratory rates, the blood pressure, the
	// weight and the averages of the night; no series and nothing without a profile.
	return expect(created >= 10 && len(found) == created, "%d Observations were created, %d are found", created,
		len(found))
}

// submit posts the pages of a query twice and returns the number of Observations that the
// first time created.
func (w *world) submit(other *world, query string) (created int, err error) {
	next := "Patient/" + w.patient + "/$ehr-bundle?subject=" + url.QueryEscape("Patient/"+other.patient) + "&" + query
	for next != "" {
		body, err := w.fetch(next)
		if err != nil {
			return created, err
		}
		var bundle map[string]any
		if err := json.Unmarshal(body, &bundle); err != nil {
			return created, err
		}
		entries, _ := bundle["entry"].([]any)
		next = linkOf(bundle, "next")
		if len(entries) == 0 {
			continue
		}
		first, err := other.accept(body, len(entries), "201", "200")
		if err != nil {
			return created, err
		}
		created += first
		if again, err := other.accept(body, len(entries), "200"); err != nil || again != 0 {
			return created, fmt.Errorf("the second time %d Observations are created: %v", again, err)
		}
	}
	return created, nil
}

// fetch returns the bytes of an answer.
func (w *world) fetch(path string) ([]byte, error) {
	resp, err := w.ehr.Do("GET", path, nil)
	if err != nil {
		return nil, err
	}
	body, err := io.ReadAll(resp.Body)
	if cerr := resp.Body.Close(); err == nil {
		err = cerr
	}
	if err == nil && resp.StatusCode != 200 {
		err = fmt.Errorf("%s: %d %s", path, resp.StatusCode, body)
	}
	return body, err
}

// accept posts a Bundle and returns the number of entries with the status 201. All must
// have one of the statuses.
func (w *world) accept(body []byte, entries int, statuses ...string) (created int, err error) {
	status, out, err := w.ehr.JSON("POST", "", body)
	if err != nil {
		return 0, err
	}
	list, _ := out["entry"].([]any)
	if status != 200 || len(list) != entries {
		return 0, fmt.Errorf("the Bundle of %d entries: %d %v", entries, status, out)
	}
	for i, e := range list {
		m, _ := e.(map[string]any)
		r, _ := m["response"].(map[string]any)
		got, _, _ := strings.Cut(fmt.Sprint(r["status"]), " ")
		if got == "201" {
			created++
		}
		if !strings.Contains(strings.Join(statuses, " "), got) {
			return created, fmt.Errorf("entry %d: %v", i, r)
		}
	}
	return created, nil
}

// linkOf returns the URL of a link of a Bundle, or "".
func linkOf(bundle map[string]any, relation string) string {
	links, _ := bundle["link"].([]any)
	for _, l := range links {
		if m, _ := l.(map[string]any); m["relation"] == relation {
			u, _ := m["url"].(string)
			return u
		}
	}
	return ""
}
