// Package loinc compares the LOINC codes of the metric table with a release of LOINC. It
// owns the comparison and the reading of Loinc.csv. The project may not distribute that
// file; loinc.org gives it to anyone who accepts its license.
package loinc

import (
	"bufio"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"pulsegate/fhir/element"
	"pulsegate/mapping/table"
)

// Values of Problem.Kind.
const (
	Missing     = "missing"     // the release does not have the code
	Deprecated  = "deprecated"  // STATUS is DEPRECATED
	Discouraged = "discouraged" // STATUS is DISCOURAGED
	Trial       = "trial"       // STATUS is TRIAL
	Display     = "display"     // LONG_COMMON_NAME differs
	Unit        = "unit"        // EXAMPLE_UCUM_UNITS has no unit of the table
)

// Problem is a difference between the table and the release.
type Problem struct {
	Code string `json:"code"`
	Kind string `json:"kind"`
	// Table and Release hold what the two say.
	Table   string `json:"table,omitempty"`
	Release string `json:"release,omitempty"`
	// Rows names the rows that have the code, as "vendor metric".
	Rows []string `json:"rows"`
}

// Fatal reports whether Observations must not carry the code.
func (p *Problem) Fatal() bool { return p.Kind == Missing || p.Kind == Deprecated }

// Report is the result of a comparison.
type Report struct {
	Codes    int       `json:"codes"`   // of the table
	Release  int       `json:"release"` // codes of the release
	Problems []Problem `json:"problems"`
}

// maxBytes limits the size of a file.
const maxBytes = 1 << 30

// columns lists the columns of Loinc.csv that are read.
var columns = []string{"LOINC_NUM", "STATUS", "LONG_COMMON_NAME", "EXAMPLE_UCUM_UNITS"}

// Check compares the LOINC codes of t with Loinc.csv of a release, which it reads as a
// stream. The problems are sorted by code.
func Check(t *table.Table, release io.Reader) (Report, error) {
	uses := usesOf(t)
	out := Report{Codes: len(uses), Problems: []Problem{}}
	text := bufio.NewReader(io.LimitReader(release, maxBytes))
	const mark = "\ufeff" // byte order mark
	if start, err := text.Peek(len(mark)); err == nil && string(start) == mark {
		if _, err := text.Discard(len(mark)); err != nil {
			return out, err
		}
	}
	r := csv.NewReader(text)
	r.ReuseRecord = true
	header, err := r.Read()
	if err != nil {
		return out, readError(err)
	}
	at := make([]int, len(columns))
	for i, name := range columns {
		if at[i] = slices.Index(header, name); at[i] < 0 {
			return out, fmt.Errorf("the file has no column %s; give Loinc.csv from the folder LoincTable of a release", name)
		}
	}
	for {
		record, err := r.Read()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return out, readError(err)
		}
		out.Release++
		if u := uses[record[at[0]]]; u != nil {
			u.found = true
			out.Problems = append(out.Problems, u.compare(record[at[1]], record[at[2]], record[at[3]])...)
		}
	}
	for _, u := range uses {
		if !u.found {
			out.Problems = append(out.Problems, Problem{Code: u.code, Kind: Missing, Table: u.display, Rows: u.rows})
		}
	}
	slices.SortStableFunc(out.Problems, func(a, b Problem) int { return strings.Compare(a.Code, b.Code) })
	return out, nil
}

// readError names the line of a CSV error without its content.
func readError(err error) error {
	var e *csv.ParseError
	if errors.As(err, &e) {
		return fmt.Errorf("line %d: %w", e.Line, e.Err)
	}
	if errors.Is(err, io.EOF) {
		return errors.New("the file is empty")
	}
	return err
}

// use is a LOINC code of the table.
type use struct {
	code, display string
	units, rows   []string
	found         bool
}

// usesOf returns the LOINC codes of t by code.
func usesOf(t *table.Table) map[string]*use {
	out := map[string]*use{}
	for _, c := range t.Codes {
		if c.System == element.LOINC {
			out[c.Code] = &use{code: c.Code, display: c.Display, rows: []string{}}
		}
	}
	for i := range t.Vendors {
		v := &t.Vendors[i]
		for j := range v.Rows {
			r := &v.Rows[j]
			add := func(unit string, lists ...[]string) {
				for _, name := range slices.Concat(lists...) {
					if u := out[t.Codes[name].Code]; u != nil && t.Codes[name].System == element.LOINC {
						u.units, u.rows = appendNew(u.units, unit), appendNew(u.rows, v.Vendor+" "+r.Metric)
					}
				}
			}
			add(r.Unit, r.Codes, r.Doubtful, r.Series)
			for k := range r.Components {
				c := &r.Components[k]
				add(c.Unit, c.Codes, c.Doubtful)
			}
			for k := range r.Variants {
				x := &r.Variants[k]
				if x.Unit == "" {
					add(r.Unit, x.Codes, x.Doubtful)
				} else {
					add(x.Unit, x.Codes, x.Doubtful)
				}
			}
		}
	}
	return out
}

func appendNew(list []string, s string) []string {
	if s == "" || slices.Contains(list, s) {
		return list
	}
	return append(list, s)
}

// compare returns the problems of a code that the release has.
func (u *use) compare(status, name, units string) (out []Problem) {
	add := func(kind, ours, theirs string) {
		out = append(out, Problem{u.code, kind, ours, theirs, u.rows})
	}
	switch status {
	case "DEPRECATED":
		add(Deprecated, "", status)
	case "DISCOURAGED":
		add(Discouraged, "", status)
	case "TRIAL":
		add(Trial, "", status)
	}
	if name != u.display {
		add(Display, u.display, name)
	}
	var examples []string
	for _, example := range strings.Split(units, ";") {
		examples = appendNew(examples, strings.TrimSpace(example))
	}
	for _, unit := range u.units {
		if len(examples) > 0 && !slices.Contains(examples, unit) {
			add(Unit, unit, strings.Join(examples, ", "))
		}
	}
	return out
}
