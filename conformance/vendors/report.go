package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"path"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

// States of a file.
const (
	decoded   = "decoded"
	refused   = "refused"
	noPayload = "no payload"
	failed    = "FAILED"
)

// Reasons counts by reason.
type Reasons map[string]int

func (r Reasons) sum() (n int) {
	for _, c := range r {
		n += c
	}
	return n
}

// rest adds what r lacks to total under a reason.
func (r Reasons) rest(reason string, total int) {
	if n := total - r.sum(); n != 0 {
		r[reason] = n
	}
}

// String lists the counts by reason: "2 bad-unit, 10 unmapped".
func (r Reasons) String() string {
	if len(r) == 0 {
		return "0"
	}
	var out []string
	for _, reason := range slices.Sorted(maps.Keys(r)) {
		out = append(out, fmt.Sprintf("%d %s", r[reason], reason))
	}
	return strings.Join(out, ", ")
}

// Figures are the counts of a file or of a vendor.
type Figures struct {
	Items       int     `json:"items"`           // by the independent count
	Notes       Reasons `json:"notes,omitempty"` // what the items become beyond one each
	Expected    int     `json:"expected"`        // Items with Notes
	Read        int     `json:"read"`            // without Parts and Derived
	Parts       int     `json:"parts"`           // partsOfItems
	Derived     int     `json:"derived"`         // nights that ingest has derived from segments
	Created     int     `json:"created"`
	Updated     int     `json:"updated"`
	Unchanged   int     `json:"unchanged"`
	Quarantined Reasons `json:"quarantined,omitempty"`
	Dropped     Reasons `json:"dropped,omitempty"`
	LeftOut     int     `json:"leftOut"`
	Seconds     float64 `json:"seconds"`
}

func (f *Figures) add(other *Figures) {
	f.Items += other.Items
	f.Expected += other.Expected
	f.Read += other.Read
	f.Parts += other.Parts
	f.Derived += other.Derived
	f.Created += other.Created
	f.Updated += other.Updated
	f.Unchanged += other.Unchanged
	f.LeftOut += other.LeftOut
	f.Seconds += other.Seconds
	for into, from := range map[*Reasons]Reasons{&f.Notes: other.Notes, &f.Quarantined: other.Quarantined,
		&f.Dropped: other.Dropped} {
		for reason, n := range from {
			if *into == nil {
				*into = Reasons{}
			}
			(*into)[reason] += n
		}
	}
}

// Row is the outcome of one file.
type Row struct {
	File   string `json:"file"`
	State  string `json:"state"`
	Vendor string `json:"vendor,omitempty"`
	Format string `json:"format,omitempty"`
	Reason string `json:"reason,omitempty"` // of every state but decoded
	Figures
}

// Total holds the sums of one vendor.
type Total struct {
	Vendor  string `json:"vendor"`
	Files   int    `json:"files"`
	Refused int    `json:"refused"`
	Failed  int    `json:"failed"`
	Figures
}

// Report is the outcome of all files of a directory.
type Report struct {
	Rows   []Row   `json:"files"`
	Totals []Total `json:"totals"`
	Failed int     `json:"failed"`
}

// survey ingests every file below dir.
func survey(ctx context.Context, dir string, zone *time.Location, clock func() time.Time) (r *Report, err error) {
	names, err := list(dir)
	if err != nil {
		return nil, err
	}
	w, err := newWorld(zone, clock)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, w.close()) }()
	r = &Report{}
	if len(names) == 0 {
		return nil, errors.New("the directory has no files")
	}
	for _, name := range names {
		row := w.file(ctx, dir, name, countItems)
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		r.add(&row)
	}
	slices.SortFunc(r.Totals, func(a, b Total) int { return cmp.Compare(a.Vendor, b.Vendor) })
	return r, nil
}

// add adds a row to the report and to the totals of its vendor.
func (r *Report) add(row *Row) {
	r.Rows = append(r.Rows, *row)
	if row.State == failed {
		r.Failed++
	}
	if row.Vendor == "" {
		return
	}
	i := slices.IndexFunc(r.Totals, func(t Total) bool { return t.Vendor == row.Vendor })
	if i < 0 {
		i = len(r.Totals)
		r.Totals = append(r.Totals, Total{Vendor: row.Vendor})
	}
	t := &r.Totals[i]
	t.Files++
	switch row.State {
	case refused:
		t.Refused++
	case failed:
		t.Failed++
	}
	t.add(&row.Figures)
}

// file ingests one file and compares the result with that of count.
func (w *world) file(ctx context.Context, dir, name string, count counter) (r Row) {
	r = Row{File: name, State: decoded}
	if i := notPayload(name); i >= 0 {
		r.State, r.Reason = noPayload, notPayloads[i].reason
		return r
	}
	fail := func(format string, args ...any) Row {
		r.State, r.Reason = failed, fmt.Sprintf(format, args...)
		return r
	}
	l, f, err := open(dir, name)
	if err != nil {
		return fail("cannot be read: %v", err)
	}
	defer func() {
		if err := f.Close(); err != nil {
			fail("cannot be closed: %v", err)
		}
	}()
	if r.Vendor, r.Format, err = detect(l); err != nil {
		return fail("%v", err)
	}
	if err := w.deliver(ctx, l, &r); err != nil {
		return fail("the delivery failed: %v", err)
	}
	n, err := count(r.Format, path.Base(l.path), l.body)
	r.Items, r.Notes, r.Expected = n.items, n.notes, n.items+n.notes.sum()
	switch {
	case err != nil && r.State == refused:
		return fail("refused (%s), and the independent count fails: %v", r.Reason, err)
	case err != nil:
		return fail("the independent count fails: %v", err)
	case r.State == refused && r.Reason == "":
		return fail("refused without a reason")
	case r.State == refused && (r.Expected > 0 || r.Read > 0):
		return fail("refused (%s) after %d of %d", r.Reason, r.Read, r.Expected)
	case r.Read != r.Expected:
		return fail("read %d, expected %d", r.Read, r.Expected)
	}
	return r
}

// writeJSON prints the report as one JSON object.
func (r *Report) writeJSON(w io.Writer) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	return enc.Encode(r)
}

// writeTable prints the report as tables for people.
func (r *Report) writeTable(w io.Writer) error {
	var text bytes.Buffer
	tab := tabwriter.NewWriter(&text, 0, 0, 2, ' ', 0)
	const columns = "items\texpected\tread\tparts\tnights\tcreated\tupdated\tunchanged\tquarantined\tdropped\t" +
		"left out\tseconds\t"
	p := func(format string, args ...any) {
		fmt.Fprintf(tab, format, args...) // writing to a bytes.Buffer does not fail
	}
	p("file\tvendor\tformat\t%snotes\n", columns)
	others := 0
	for i := range r.Rows {
		row := &r.Rows[i]
		switch {
		case row.State == noPayload:
			others++
		case row.State == decoded:
			p("%s\t%s\t%s\t%s\t%s\n", row.File, row.Vendor, row.Format, row.columns(), notes(row.Notes))
		default:
			p("%s\t%s\t%s\t%s\t%s: %s\n", row.File, cmp.Or(row.Vendor, "-"), cmp.Or(row.Format, "-"), row.columns(),
				row.State, row.Reason)
		}
	}
	p("\nvendor\tfiles\trefused\t%sfailed\n", columns)
	for i := range r.Totals {
		t := &r.Totals[i]
		p("%s\t%d\t%d\t%s\t%d\n", t.Vendor, t.Files, t.Refused, t.columns(), t.Failed)
	}
	p("\nno payload\treason\n")
	for i := range r.Rows {
		if row := &r.Rows[i]; row.State == noPayload {
			p("%s\t%s\n", row.File, row.Reason)
		}
	}
	p("\nby-ingest: repeated in the payload, a placeholder by the metric table, or a retraction of absent data\n")
	p("parts: dropped parts of items that are no items; nights: derived from segments; neither is in read\n")
	p("\n%d files: %d no payloads, %d failed\n", len(r.Rows), others, r.Failed)
	if err := tab.Flush(); err != nil {
		return err
	}
	_, err := text.WriteTo(w)
	return err
}

func (f *Figures) columns() string {
	return fmt.Sprintf("%d\t%d\t%d\t%d\t%d\t%d\t%d\t%d\t%s\t%s\t%d\t%.2f", f.Items, f.Expected, f.Read, f.Parts,
		f.Derived, f.Created, f.Updated, f.Unchanged, f.Quarantined, f.Dropped, f.LeftOut, f.Seconds)
}

// notes lists the rules by which a file has more or less to read than items.
func notes(r Reasons) string {
	var out []string
	for _, rule := range slices.Sorted(maps.Keys(r)) {
		out = append(out, fmt.Sprintf("%+d %s", r[rule], rule))
	}
	return strings.Join(out, ", ")
}
