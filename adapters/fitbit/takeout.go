package fitbit

import (
	"bytes"
	"cmp"
	"errors"
	"io"
	"path"
	"slices"
	"strings"
	"time"

	"pulsegate/adapters"
	"pulsegate/adapters/internal/archive"
	"pulsegate/adapters/internal/jsonitem"
	"pulsegate/mapping/sample"
)

// formatTakeout is the format of Google Takeout and Fitbit archives and of their
// files.
const formatTakeout = "takeout"

// tree tells which of the two copies of the data in an archive a file belongs to.
type tree uint8

const (
	legacyTree tree = iota // Global Export Data and the folders by theme
	googleTree             // the folders ..._GoogleData
)

// fileSpec describes a file of an archive.
type fileSpec struct {
	metric string // the metric that decides which tree is read
	tree   tree
	// json reads an item of a JSON file, csv a row of a CSV file.
	json func(*decoder, *jsonitem.Node) error
	csv  func(*decoder, *row) error
	// header returns the rule that the columns of a CSV file break, or "".
	header func(columns []string) string
	// rule is set if the files cannot be read; it tells why. reason is then the
	// reason of the Reject.
	rule, reason string
}

// exportFiles maps the stems of file names, in lower case with their extension, to
// their descriptions. The stem is the name before the date or number. The map is
// never modified.
var exportFiles = map[string]fileSpec{
	"heart_rate.json": {metric: "heart-rate", json: (*decoder).exportBeat},
	"steps.json": {metric: "steps", json: func(d *decoder, n *jsonitem.Node) error {
		return d.over("steps", "count", n.Get("dateTime").String(), inUTC, time.Minute, n.Get("value"), n)
	}},
	"calories.json": {metric: "total-calories", json: func(d *decoder, n *jsonitem.Node) error {
		return d.over("total-calories", "kcal", n.Get("dateTime").String(), inUTC, time.Minute, n.Get("value"), n)
	}},
	"exercise.json": {metric: "exercise", json: func(d *decoder, n *jsonitem.Node) error {
		return d.workout(n, inUTC)
	}},
	"distance.json":                  unitless("distance"),
	"altitude.json":                  unitless("altitude"),
	"sleep.json":                     {metric: "sleep", json: (*decoder).night},
	"weight.json":                    {metric: "weight", json: (*decoder).body},
	"resting_heart_rate.json":        {metric: "daily-resting-heart-rate", json: (*decoder).exportResting},
	"time_in_heart_rate_zones.json":  {metric: metricZones, json: (*decoder).exportZones},
	"demographic_vo2_max.json":       {metric: "daily-vo2-max", json: (*decoder).exportVO2},
	"sedentary_minutes.json":         exportMinutes("sedentary-minutes/day"),
	"lightly_active_minutes.json":    exportMinutes("lightly-active-minutes/day"),
	"moderately_active_minutes.json": exportMinutes("moderately-active-minutes/day"),
	"very_active_minutes.json":       exportMinutes("very-active-minutes/day"),

	"daily spo2.csv":  {metric: "daily-oxygen-saturation", csv: (*decoder).exportDailySpO2},
	"minute spo2.csv": {metric: "oxygen-saturation", csv: (*decoder).exportSpO2},
	"sleep_score.csv": {metric: "sleep-score", csv: (*decoder).exportScore},

	"daily heart rate variability summary.csv": {metric: "daily-heart-rate-variability",
		csv: (*decoder).exportDailyHRV},
	"heart rate variability details.csv": {metric: "heart-rate-variability", csv: (*decoder).exportHRV},
	"daily respiratory rate summary.csv": {metric: "daily-respiratory-rate", csv: (*decoder).exportBreathing},

	"computed temperature.csv": undocumented("daily-sleep-temperature-derivations"),
	"device temperature.csv":   undocumented("skin-temperature"),
	"wrist temperature.csv":    undocumented("skin-temperature"),
	"usersleeps.csv":           undocumentedGoogle("sleep"),
	"usersleepstages.csv":      undocumentedGoogle("sleep"),
	"userexercises.csv":        undocumentedGoogle("exercise"),
}

// undocumented describes files with columns that the vendor does not document.
func undocumented(metric string) fileSpec {
	return fileSpec{metric: metric, reason: sample.ReasonUnmapped, rule: "the columns of this file are not documented"}
}

func undocumentedGoogle(metric string) fileSpec {
	s := undocumented(metric)
	s.tree = googleTree
	return s
}

// unitless describes files of numbers with a unit that the vendor does not document.
func unitless(metric string) fileSpec {
	return fileSpec{metric: metric, reason: sample.ReasonBadUnit, rule: "the unit of this file is not documented"}
}

// exportMinutes describes a file of minutes by day.
func exportMinutes(metric string) fileSpec {
	return fileSpec{metric: metric, json: func(d *decoder, n *jsonitem.Node) error {
		return d.daily(metric, "min", n.Get("dateTime").String(), n.Get("value"), n)
	}}
}

// notMeasured lists stems of files that hold no measurement of the wearer.
// estimated_oxygen_variation is a ratio of two light signals, not a saturation.
var notMeasured = []string{"estimated_oxygen_variation", "badge", "badges", "altitude_goal", "readme"}

// privateFolders are never read, except for the time zone in the profile.
var privateFolders = []string{"your profile", "social", "friends", "messages", "groups", "community", "media"}

// isLocation reports whether a file holds places where the wearer was.
func isLocation(stem string) bool {
	ext := path.Ext(stem)
	return strings.HasPrefix(stem, "gps_location") || strings.HasPrefix(stem, "live_pace") || ext == ".tcx" ||
		ext == ".gpx" || ext == ".kml"
}

// isPrivate reports whether a name in an archive is below a private folder.
func isPrivate(name string) bool {
	for part := range strings.SplitSeq(strings.ToLower(path.Dir(name)), "/") {
		if slices.Contains(privateFolders, part) {
			return true
		}
	}
	return false
}

// split returns the stem of a file name with its extension, in lower case, and the
// last date in the name, or "".
func split(base string) (stem, date string) {
	base = strings.ToLower(base)
	ext := path.Ext(base)
	name := strings.TrimSuffix(base, ext)
	for i := len(name) - len(time.DateOnly); i >= 0; i-- {
		if _, err := time.Parse(time.DateOnly, name[i:i+len(time.DateOnly)]); err == nil {
			date = name[i : i+len(time.DateOnly)]
			break
		}
	}
	for i := 1; i < len(name); i++ {
		if (name[i] >= '0' && name[i] <= '9' || name[i] == '(') && strings.IndexByte("-_ ", name[i-1]) >= 0 {
			name = name[:i]
			break
		}
	}
	return strings.TrimRight(name, "-_ ") + ext, date
}

// specOf returns the description of a file. In the tree of Google the stem of a CSV
// file is a type of the API.
func specOf(stem string) (fileSpec, bool) {
	if s, ok := exportFiles[stem]; ok {
		return s, true
	}
	name, ok := strings.CutSuffix(stem, ".csv")
	metric := strings.ReplaceAll(name, "_", "-")
	if _, isType := googleColumns[metric]; ok && isType {
		return fileSpec{metric: metric, tree: googleTree, csv: googleRow(metric), header: googleHeader(metric)}, true
	}
	return fileSpec{}, false
}

func isArchive(head []byte) bool { return bytes.HasPrefix(head, []byte("PK\x03\x04")) }

// looksLikeTakeout reports whether an archive is one of Google Takeout or Fitbit.
func looksLikeTakeout(name string, head []byte) bool {
	name = strings.ToLower(path.Base(name))
	for _, folder := range []string{"Fitbit/", "Google Health/", "MyFitbitData/", "Global Export Data/", "_GoogleData/"} {
		if bytes.Contains(head, []byte(folder)) {
			return true
		}
	}
	return strings.Contains(name, "takeout") || strings.Contains(name, "fitbit")
}

// isExportFile reports whether a file out of an archive has the given name and
// beginning.
func isExportFile(name string, head []byte) bool {
	stem, _ := split(path.Base(name))
	spec, ok := specOf(stem)
	switch {
	case !ok || len(head) == 0:
		return false
	case path.Ext(stem) == ".json":
		return head[0] == '['
	}
	line, _, _ := bytes.Cut(head, []byte("\n"))
	return head[0] != '[' && head[0] != '{' && (bytes.Contains(line, []byte("timestamp")) ||
		spec.rule != "" && bytes.Contains(line, []byte(",")))
}

// decodeTakeout reads an archive or one of its files.
func (a *adapter) decodeTakeout(d *decoder, in adapters.Input) error {
	d.channel = "takeout"
	head, body, err := peek(in.Body)
	if err != nil && !isArchive(head) {
		return &adapters.PayloadError{Format: formatTakeout, Where: "offset 0", Rule: "the body cannot be read", Err: err}
	}
	if isArchive(head) {
		return a.decodeArchive(d, in)
	}
	stem, _ := split(path.Base(in.Name))
	spec, ok := specOf(stem)
	if !ok {
		return &adapters.PayloadError{Format: formatTakeout, Where: "name",
			Rule: "this is neither an archive nor a known file of one; the name of the file must be kept"}
	}
	d.pos.entry = "file"
	return d.readFile(spec, body, 0)
}

// archiveFile is a file of an archive that is read.
type archiveFile struct {
	*archive.Entry
	spec fileSpec
	date string
}

// decodeArchive reads the files of an archive.
func (a *adapter) decodeArchive(d *decoder, in adapters.Input) error {
	z, err := archive.Open(formatTakeout, in, a.limits)
	if err != nil {
		return err
	}
	files, profile, err := d.choose(z.Entries())
	if err != nil {
		return err
	}
	all := make([]*archive.Entry, 0, len(files)+1)
	for _, f := range files {
		all = append(all, f.Entry)
	}
	if profile != nil {
		all = append(all, profile)
	}
	if err := z.CheckOverlap(all); err != nil {
		return err
	}
	if err := d.findZone(z, profile, files); err != nil {
		return err
	}
	var read int64
	for _, f := range files {
		d.pos = position{entry: f.Where()}
		err := z.Read(f.Entry, func(r *archive.Reader) error {
			err := d.readFile(f.spec, r, read)
			var pe *adapters.PayloadError
			if errors.As(err, &pe) && (r.Err == nil || r.Err == io.EOF) { // one malformed file, not the archive
				return d.sink.Reject(&sample.Reject{Reason: sample.ReasonBadValue, Metric: f.spec.metric,
					Where: f.Where() + ", " + pe.Where, Detail: pe.Rule})
			}
			return err
		})
		if err != nil {
			return err
		}
		read += int64(min(f.UncompressedSize64, 1<<40))
		d.sink.Progress(read)
	}
	if len(files) == 0 {
		return &adapters.PayloadError{Format: formatTakeout, Where: "directory", Rule: "no known file in the archive"}
	}
	return nil
}

// choose returns the files to read, in the order of the directory, and the profile.
// It counts the other files.
func (d *decoder) choose(entries []*archive.Entry) (files []archiveFile, profile *archive.Entry, err error) {
	latest := map[string][2]string{} // the last date of a metric by tree
	for _, e := range entries {
		stem, date := split(path.Base(e.Name))
		if !e.IsData() {
			continue
		}
		if stem == "profile.csv" {
			profile = e
			continue
		}
		if isPrivate(e.Name) {
			d.sink.Drop(sample.DropIgnored, "private-file", 1)
			continue
		}
		spec, ok := specOf(stem)
		ext := path.Ext(stem)
		switch {
		case isLocation(stem):
			d.sink.Drop(sample.DropIgnored, "location", 1)
		case ok:
			if spec.rule == "" {
				last := latest[spec.metric]
				last[spec.tree] = max(last[spec.tree], cmp.Or(date, "9999-12-31"))
				latest[spec.metric] = last
			}
			files = append(files, archiveFile{e, spec, date})
		case ext != ".json" && ext != ".csv", slices.Contains(notMeasured, strings.TrimSuffix(stem, ext)):
			d.sink.Drop(sample.DropIgnored, "file", 1)
		default:
			if err := d.sink.Reject(&sample.Reject{Reason: sample.ReasonUnmapped, Metric: "file", Where: e.Where(),
				Detail: "this file is not supported"}); err != nil {
				return nil, nil, err
			}
		}
	}
	return d.chooseTrees(files, latest), profile, nil
}

// chooseTrees returns the files of one tree for each metric: the tree that reaches
// further, or the legacy one if both reach as far. latest holds the last dates of the
// readable files by metric and tree.
func (d *decoder) chooseTrees(files []archiveFile, latest map[string][2]string) []archiveFile {
	d.fromGoogle = map[string]bool{}
	kept := files[:0]
	for _, f := range files {
		last, readable := latest[f.spec.metric]
		chosen := legacyTree
		if last[googleTree] > last[legacyTree] {
			chosen = googleTree
		}
		d.fromGoogle[f.spec.metric] = chosen == googleTree
		copied := f.spec.tree != chosen && f.spec.metric != "weight" // the log of weights has more metrics
		if readable && (copied || f.spec.rule != "") {
			d.sink.Drop(sample.DropDuplicate, "file", 1)
			continue
		}
		kept = append(kept, f)
	}
	return kept
}

// findZone finds the zone of clock times: the patient's, that of the profile, or
// the one that the first times of the heart rate files imply.
func (d *decoder) findZone(z *archive.Archive, profile *archive.Entry, files []archiveFile) error {
	if d.clock.configured {
		return nil
	}
	if profile != nil {
		if err := z.Read(profile, func(r *archive.Reader) error { return d.readProfile(r) }); err != nil {
			return err
		}
		if d.clock.account != nil {
			return nil
		}
	}
	starts := map[int64]time.Time{}
	for _, f := range files {
		day, err := time.Parse(time.DateOnly, f.date)
		if err != nil || f.spec.metric != "heart-rate" || f.spec.json == nil {
			continue
		}
		err = z.Read(f.Entry, func(r *archive.Reader) error {
			if at, ok := firstTime(r); ok {
				starts[floorDay(day.Unix())] = at
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	d.clock.infer(starts)
	return d.ctx.Err()
}

// firstTime returns the first dateTime of a file.
func firstTime(r io.Reader) (time.Time, bool) {
	head := make([]byte, 512)
	n, err := io.ReadFull(r, head)
	if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) {
		return time.Time{}, false
	}
	_, rest, ok := strings.Cut(string(head[:n]), `"dateTime"`)
	_, rest, ok2 := strings.Cut(rest, `"`)
	text, _, ok3 := strings.Cut(rest, `"`)
	if !ok || !ok2 || !ok3 {
		return time.Time{}, false
	}
	t, _, _, ok := reading(text)
	return t, ok
}

// readFile reads one file. before is the number of bytes read before it.
func (d *decoder) readFile(spec fileSpec, body io.Reader, before int64) error {
	switch {
	case spec.rule != "":
		if err := d.ctx.Err(); err != nil {
			return err
		}
		return d.sink.Reject(&sample.Reject{Reason: spec.reason, Metric: spec.metric,
			Where: d.pos.entry, Detail: spec.rule})
	case spec.csv != nil:
		return d.readCSV(body, before, spec)
	}
	d.rd = jsonitem.NewReader(d.ctx, body, func(n int64) { d.sink.Progress(before + n) })
	more, err := d.rd.Next()
	switch {
	case err != nil:
	case !more:
		err = d.rd.Fail("the body is empty")
	default:
		err = d.items(func(n *jsonitem.Node) error { return spec.json(d, n) })
		if err == nil {
			if more, err = d.rd.Next(); more {
				err = d.rd.Fail("the file has more than one list")
			}
		}
	}
	return jsonitem.Payload(formatTakeout, err)
}
