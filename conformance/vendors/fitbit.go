package main

import (
	"archive/zip"
	"bytes"
	"cmp"
	"io"
	"maps"
	"path"
	"regexp"
	"slices"
	"strings"
)

// Rules of the counts of the formats of Fitbit and Google.
const (
	ruleMeasures = "values of an item that are Observations of their own"
	ruleMinutes  = "minutes of an item that are Observations of their own"
	ruleUnread   = "file with unknown columns, units or syntax"
	ruleCopy     = "file of the tree that reaches less far"
)

// sortedKeys returns the names of the members of o.
func sortedKeys(o object) []string { return slices.Sorted(maps.Keys(o)) }

// googlePage counts a body of the Google Health API.
func (t *tally) googlePage(o object) {
	paged := false
	for _, list := range []string{"dataPoints", "rollupDataPoints", "pairedDevices", "nextPageToken"} {
		_, ok := o[list]
		paged = paged || ok
	}
	switch {
	case !paged && len(o) == 0, has(o, "error", "error_description"), has(o, "access_token"):
	case !paged:
		t.googlePoint(o)
	default:
		for _, v := range items(o, "dataPoints", "rollupDataPoints", "pairedDevices") {
			point, _ := v.(object)
			t.googlePoint(point)
		}
	}
}

// googlePoint counts a data point.
func (t *tally) googlePoint(o object) {
	t.items++
	hrv, _ := o["heartRateVariability"].(object)
	both := present(hrv, "rootMeanSquareOfSuccessiveDifferencesMilliseconds", "standardDeviationMilliseconds")
	n := max(both, 1)
	symptoms, _ := o["symptoms"].(object)
	moods, _ := o["moods"].(object)
	sensors, _ := o["skinTemperatureSensors"].(object)
	for _, list := range [][]any{items(symptoms, "symptoms"), items(moods, "moods", "valences"),
		items(sensors, "sensorData")} {
		n = max(n, len(list))
	}
	t.note(ruleMeasures, n-1)
}

// webBody counts a body of the Fitbit Web API.
func (t *tally) webBody(name string, o object) {
	switch {
	case has(o, "errors", "user", "access_token", "collectionType"):
		if has(o, "user") {
			t.items++
		}
		return
	case o["meta"] != nil:
		return
	}
	lists := false
	for _, member := range sortedKeys(o) {
		switch v := o[member].(type) {
		case []any:
			if member != "minutes" && member != "features" {
				lists = true
				for _, item := range v {
					t.webItem(member, item)
				}
			}
		case object:
			if dataset, ok := v["dataset"].([]any); ok {
				lists = true
				t.items += len(dataset)
			}
		}
	}
	if !lists {
		t.webItem(name, o)
	}
}

// webItem counts an item of the Fitbit Web API or of an archive. kind is the member
// that holds the list, or the name of the file.
func (t *tally) webItem(kind string, item any) {
	o, _ := item.(object)
	t.items++
	n := 0
	if strings.HasPrefix(kind, "weight") || strings.HasPrefix(kind, "fat") {
		n = present(o, "weight", "bmi", "fat")
	}
	if value, ok := o["value"].(object); ok && strings.HasPrefix(kind, "activities-heart") {
		n += present(value, "restingHeartRate")
		if len(items(value, "heartRateZones")) > 0 {
			n++
		}
	}
	t.note(ruleMeasures, max(n, 1)-1)
	if minutes := items(o, "minutes"); len(minutes) > 0 {
		t.note(ruleMinutes, len(minutes)-1)
	}
}

// countTakeout counts the items of an archive or of one of its files.
func countTakeout(name string, body *io.SectionReader) (t tally, err error) {
	head := make([]byte, 4)
	if _, err := body.ReadAt(head, 0); err == nil && bytes.HasPrefix(head, []byte("PK")) {
		return countArchive(body)
	}
	return countFile(name, io.NewSectionReader(body, 0, body.Size()))
}

// unreadable matches the files that state no unit or have no documentation. Each of
// them is read as one.
var unreadable = regexp.MustCompile(
	`(?i)^(distance|altitude)[-_0-9]*\.json$|temperature|^user(sleeps|sleepstages|exercises)`)

// countFile counts the items of one file of an archive.
func countFile(name string, body io.Reader) (t tally, err error) {
	if unreadable.MatchString(name) {
		t.note(ruleUnread, 1)
		return t, nil
	}
	if strings.HasSuffix(strings.ToLower(name), ".csv") {
		r, err := rows(body)
		if err != nil || len(r) == 0 {
			return t, err
		}
		if len(r) > 0 && !statesUnits(name, r[0]) {
			t.note(ruleUnread, 1)
			return t, nil
		}
		t.items += len(r) - 1
		return t, nil
	}
	return t, values(body, func(o object) { t.webItem(name, o) })
}

// statesUnits reports whether the header of a file states the unit of a distance or of
// a mass.
func statesUnits(name string, header []string) bool {
	stem, _ := stemOf(name)
	if stem != "distance.csv" && stem != "weight.csv" {
		return true
	}
	units := regexp.MustCompile(`(?i)meter|\bkm\b|mile|gram|kg|pound|\blbs?\b`)
	return slices.ContainsFunc(header, units.MatchString)
}

// dates matches the dates in the names of files. Those with parentheses have a number
// and no day.
var dates = regexp.MustCompile(`[-_ ]*\d{4}-\d{2}-(\d{2}|\(\d+\))`)

// numbered matches the number that distinguishes the parts of a file.
var numbered = regexp.MustCompile(`[-_ ]+\d*$`)

// stemOf returns a base name in lower case without dates and
// numbers, and the last date in it.
func stemOf(base string) (stem, date string) {
	base = strings.ToLower(base)
	for _, d := range dates.FindAllString(base, -1) {
		if date = strings.TrimLeft(d, "-_ "); strings.Contains(date, "(") {
			date = ""
		}
	}
	stem = dates.ReplaceAllString(base, "")
	ext := path.Ext(stem)
	return numbered.ReplaceAllString(strings.TrimSuffix(stem, ext), "") + ext, date
}

// copies pairs the stems of the legacy tree with those of Google's for the same metric.
var copies = map[string]string{
	"heart_rate.json": "heart_rate.csv", "steps.json": "steps.csv",
	"resting_heart_rate.json":                  "daily_resting_heart_rate.csv",
	"daily spo2.csv":                           "daily_oxygen_saturation.csv",
	"minute spo2.csv":                          "oxygen_saturation.csv",
	"daily heart rate variability summary.csv": "daily_heart_rate_variability.csv",
	"heart rate variability details.csv":       "heart_rate_variability.csv",
	"daily respiratory rate summary.csv":       "daily_respiratory_rate.csv",
}

// countArchive counts the items of an archive.
func countArchive(body *io.SectionReader) (t tally, err error) {
	z, err := zip.NewReader(body, body.Size())
	if err != nil {
		return t, err
	}
	last := map[string]string{} // the last date by stem
	for _, f := range z.File {
		if stem, date := stemOf(path.Base(f.Name)); isData(f) {
			last[stem] = max(last[stem], cmp.Or(date, "9999-12-31"))
		}
	}
	skipped := map[string]bool{}
	for legacy, google := range copies {
		skipped[legacy] = last[google] > last[legacy] && last[legacy] != ""
		skipped[google] = last[google] <= last[legacy] && last[google] != ""
	}
	for _, f := range z.File {
		stem, _ := stemOf(path.Base(f.Name))
		switch {
		case !isData(f), stem == "profile.csv":
		case skipped[stem]:
			t.note(ruleCopy, 1)
		case !known(f.Name):
			t.note(ruleFile, 1)
		default:
			var one tally
			err := inEntry(f, func(r io.Reader) (err error) {
				one, err = countFile(path.Base(f.Name), r)
				return err
			})
			if err != nil {
				one = tally{notes: Reasons{ruleUnread: 1}}
			}
			t.add(one)
		}
	}
	return t, nil
}

// knownStems lists the files of an archive that hold measurements.
var knownStems = strings.Fields(`heart_rate steps calories exercise sleep weight resting_heart_rate
	demographic_vo2_max time_in_heart_rate_zones sedentary_minutes lightly_active_minutes moderately_active_minutes
	very_active_minutes sleep_score heart_rate_variability oxygen_saturation floors distance altitude
	active_energy_burned height body_fat daily_resting_heart_rate daily_heart_rate_variability
	daily_oxygen_saturation daily_respiratory_rate usersleeps usersleepstages userexercises`)

// known reports whether the file with a path in an archive holds measurements.
func known(name string) bool {
	stem, _ := stemOf(path.Base(name))
	ext := path.Ext(stem)
	bare := strings.TrimSuffix(stem, ext)
	if ext != ".csv" && ext != ".json" || stem == "height.json" {
		return false
	}
	_, themed := copies[stem]
	return themed || slices.Contains(knownStems, bare) || strings.Contains(bare, "temperature")
}
