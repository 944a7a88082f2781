package main

import (
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
)

// tally is the independent count of a payload.
type tally struct {
	items int
	// notes counts by rule what is read beyond one for each item. Negative numbers are
	// for items that are read as one.
	notes Reasons
}

// counter counts the items of a payload in one of the formats.
type counter func(format, name string, body *io.SectionReader) (tally, error)

// note adds n to a rule.
func (t *tally) note(rule string, n int) {
	if n == 0 {
		return
	}
	if t.notes == nil {
		t.notes = Reasons{}
	}
	if t.notes[rule] += n; t.notes[rule] == 0 {
		delete(t.notes, rule)
	}
}

func (t *tally) add(other tally) {
	t.items += other.items
	for rule, n := range other.notes {
		t.note(rule, n)
	}
}

// countItems counts the items of a payload with the decoders of the standard library.
// name is the base name of the file. The counters know the formats from the vendors'
// documents and share no code with the adapters.
func countItems(format, name string, body *io.SectionReader) (t tally, err error) {
	switch format {
	case "export.xml":
		return countExport(body)
	case "export.zip":
		return countAppleArchive(body)
	case "ecg.csv":
		return tally{items: 1}, nil
	case "takeout":
		return countTakeout(name, body)
	}
	ofValue := map[string]func(*tally, object){
		"health-auto-export": (*tally).autoExport, "companion": (*tally).companion,
		"healthkit-fhir": (*tally).resource, "open-wearables": (*tally).openWearables,
		"google-health": (*tally).googlePage, "fitbit-web-api": func(t *tally, o object) { t.webBody(name, o) },
		"v2": (*tally).ouraBody, "api": (*tally).withingsAnswer,
	}[format]
	if ofValue == nil {
		return t, errors.New("there is no counter for the format")
	}
	return t, values(body, func(o object) { ofValue(&t, o) })
}

// object is a JSON object.
type object = map[string]any

// values calls fn for the JSON objects of a body, which is a sequence of objects and
// arrays of objects. Numbers keep their text.
func values(body io.Reader, fn func(object)) error {
	dec := json.NewDecoder(body)
	dec.UseNumber()
	for n := 0; ; n++ {
		var v any
		switch err := dec.Decode(&v); {
		case errors.Is(err, io.EOF) && n > 0:
			return nil
		case err != nil:
			// The text of a syntax error may have a character of the payload.
			return fmt.Errorf("JSON is not well-formed near byte %d", dec.InputOffset())
		}
		for _, item := range listOf(v) {
			o, ok := item.(object)
			if !ok {
				o = object{}
			}
			fn(o)
		}
	}
}

// listOf returns the elements of an array, or v itself.
func listOf(v any) []any {
	if list, ok := v.([]any); ok {
		return list
	}
	return []any{v}
}

// items returns the elements of the arrays that o has under the names.
func items(o object, names ...string) (out []any) {
	for _, name := range names {
		if list, ok := o[name].([]any); ok {
			out = append(out, list...)
		}
	}
	return out
}

// inner returns the member at a path, or nil.
func inner(v any, path ...string) any {
	for _, name := range path {
		o, ok := v.(object)
		if !ok {
			return nil
		}
		v = o[name]
	}
	return v
}

// has reports whether o has one of the names with a value.
func has(o object, names ...string) bool { return present(o, names...) > 0 }

// present returns how many of the names o has with a value.
func present(o object, names ...string) (n int) {
	for _, name := range names {
		if o[name] != nil {
			n++
		}
	}
	return n
}

// rows returns the rows of a CSV file, the first being the header.
func rows(body io.Reader) (out [][]string, err error) {
	r := csv.NewReader(body)
	r.FieldsPerRecord, r.LazyQuotes = -1, true
	for {
		row, err := r.Read()
		switch {
		case errors.Is(err, io.EOF):
			return out, nil
		case err != nil:
			return nil, errors.New("CSV is not well-formed")
		case len(row) > 1 || strings.TrimSpace(row[0]) != "":
			out = append(out, row)
		}
	}
}
