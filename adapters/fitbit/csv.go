package fitbit

import (
	"bufio"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"pulsegate/adapters"
	"pulsegate/adapters/internal/jsonitem"
	"pulsegate/mapping/sample"
)

// row is a line of a CSV file. It is reused for every line.
type row struct {
	columns []string // names in the header, in lower case
	cells   []string
	nodes   []jsonitem.Node // the cells as texts
}

// node returns the cell of a column, or nil if it is empty or there is none.
func (r *row) node(column string) *jsonitem.Node {
	i := slices.Index(r.columns, column)
	if i < 0 || i >= len(r.nodes) || r.nodes[i].Text == "" {
		return nil
	}
	return &r.nodes[i]
}

func (r *row) text(column string) string { return r.node(column).String() }

// item returns the row as an object for quarantine.
func (r *row) item() *jsonitem.Node {
	n := &jsonitem.Node{Kind: '{'}
	for i := range min(len(r.columns), len(r.nodes)) {
		n.Members = append(n.Members, jsonitem.Member{Name: r.columns[i], Value: r.nodes[i]})
	}
	return n
}

const (
	maxCSVLine    = 64 << 10
	maxCSVColumns = 64
)

// split sets the cells of r from a line. Cells may be quoted; a quoted cell does not
// contain a line break.
func (r *row) split(line string) {
	r.cells, r.nodes = r.cells[:0], r.nodes[:0]
	for len(r.cells) < maxCSVColumns {
		var cell string
		more := false
		if strings.HasPrefix(line, `"`) {
			var b strings.Builder
			rest := line[1:]
			for {
				part, after, closed := strings.Cut(rest, `"`)
				b.WriteString(part)
				if rest = after; !closed || !strings.HasPrefix(rest, `"`) {
					break
				}
				b.WriteByte('"')
				rest = rest[1:]
			}
			cell = b.String()
			_, line, more = strings.Cut(rest, ",")
		} else {
			cell, line, more = strings.Cut(line, ",")
		}
		cell = strings.ToValidUTF8(strings.TrimSpace(cell), "\ufffd")
		r.cells = append(r.cells, cell)
		r.nodes = append(r.nodes, jsonitem.Node{Kind: '"', Text: cell})
		if !more {
			return
		}
	}
}

// lines reads a CSV file line by line.
type lines struct {
	*bufio.Scanner
	row  row
	line int
	read int64
}

func newLines(body io.Reader) *lines {
	s := bufio.NewScanner(body)
	s.Buffer(make([]byte, 4096), maxCSVLine)
	return &lines{Scanner: s}
}

// next splits the next line that is not empty.
func (l *lines) next() bool {
	for l.Scan() {
		l.line++
		l.read += int64(len(l.Bytes())) + 1
		if text := strings.TrimSpace(strings.TrimPrefix(l.Text(), "\ufeff")); text != "" {
			l.row.split(text)
			return true
		}
	}
	return false
}

// header reads the names of the columns.
func (l *lines) header() bool {
	if !l.next() {
		return false
	}
	for _, c := range l.row.cells {
		l.row.columns = append(l.row.columns, strings.ToLower(c))
	}
	return true
}

// failure returns the error that ended the file.
func (l *lines) failure() error {
	err := l.Err()
	if err == nil {
		return nil
	}
	pe := &adapters.PayloadError{Format: formatTakeout, Where: "line " + strconv.Itoa(l.line+1),
		Rule: "the body cannot be read", Err: err}
	if err == bufio.ErrTooLong {
		pe.Rule, pe.Err = "a line is longer than 64 KiB", nil
	}
	return pe
}

// readCSV reads the rows of a file.
func (d *decoder) readCSV(body io.Reader, before int64, spec fileSpec) error {
	if err := d.ctx.Err(); err != nil {
		return err
	}
	l := newLines(body)
	if !l.header() {
		if err := l.failure(); err != nil {
			return err
		}
		return &adapters.PayloadError{Format: formatTakeout, Where: "line 1", Rule: "the header is missing"}
	}
	if !slices.Contains(l.row.columns, "timestamp") {
		return &adapters.PayloadError{Format: formatTakeout, Where: "line 1", Rule: "the header has no column timestamp"}
	}
	if spec.header != nil {
		if rule := spec.header(l.row.columns); rule != "" {
			return d.sink.Reject(&sample.Reject{Reason: sample.ReasonBadUnit, Metric: spec.metric,
				Where: d.pos.entry + ", line 1", Detail: rule})
		}
	}
	defer func() { d.pos.line = 0 }()
	for l.next() {
		if l.line&1023 == 0 {
			if err := d.ctx.Err(); err != nil {
				return err
			}
			d.sink.Progress(before + l.read)
		}
		if d.pos.line = l.line; len(l.row.cells) < 2 {
			if err := d.sink.Reject(&sample.Reject{Reason: sample.ReasonMissing, Metric: spec.metric,
				Where: d.pos.String(), Detail: "the line has fewer than two columns"}); err != nil {
				return err
			}
			continue
		}
		if err := spec.csv(d, &l.row); err != nil {
			return err
		}
	}
	d.sink.Progress(before + l.read)
	return l.failure()
}

// readProfile reads the time zone of the profile, and nothing else of it.
func (d *decoder) readProfile(body io.Reader) error {
	l := newLines(body)
	if l.header() && l.next() {
		d.clock.setAccount(l.row.text("timezone"))
	}
	return nil
}

// peek returns the beginning of a body and a reader of all of it.
func peek(body io.Reader) ([]byte, io.Reader, error) {
	b := bufio.NewReaderSize(body, 4096)
	head, err := b.Peek(4)
	if err == io.EOF {
		err = nil
	}
	return head, b, err
}

// googleType describes how the CSV files of a type in the Google tree are read.
type googleType struct {
	// plain is set if a single column of values is the type's value under any name,
	// because the value can have one unit only.
	plain bool
	// named is set if the API gives the points of the type ids, which the files lack.
	named bool
}

// googleColumns lists the types with CSV files that are read. It is never modified.
var googleColumns = map[string]googleType{
	"heart-rate": {plain: true}, "heart-rate-variability": {}, "oxygen-saturation": {plain: true},
	"steps": {plain: true}, "floors": {plain: true}, "distance": {}, "active-energy-burned": {},
	"weight": {named: true}, "height": {named: true}, "body-fat": {plain: true, named: true},
	"daily-resting-heart-rate": {plain: true}, "daily-heart-rate-variability": {},
	"daily-oxygen-saturation": {}, "daily-respiratory-rate": {plain: true},
}

// googleHeader returns the check of the columns of a type: one of them must be the
// type's value with its unit.
func googleHeader(metric string) func([]string) string {
	spec := types[metric]
	return func(columns []string) string {
		values := 0
		for _, c := range columns {
			if c != "timestamp" && c != "data source" {
				values++
			}
			if camel(c) == spec.value {
				return ""
			}
		}
		if spec.value == "" || values == 1 && googleColumns[metric].plain {
			return ""
		}
		return "no column states the value with its unit"
	}
}

// googleRow returns the reader of the rows of a type. Columns are named after the
// members of the API, in words: "beats per minute" is beatsPerMinute.
func googleRow(metric string) func(*decoder, *row) error {
	spec := types[metric]
	return func(d *decoder, r *row) error {
		body := &jsonitem.Node{Kind: '{'}
		values, found := 0, false
		for i := range min(len(r.columns), len(r.nodes)) {
			if r.columns[i] == "timestamp" || r.columns[i] == "data source" || r.nodes[i].Text == "" {
				continue
			}
			name := camel(r.columns[i])
			found = found || name == spec.value
			body.Members = append(body.Members, jsonitem.Member{Name: name, Value: r.nodes[i]})
			values++
		}
		if !found && values == 1 && googleColumns[metric].plain {
			body.Members[0].Name = spec.value
		}
		return d.googleSample(metric, r, body)
	}
}

// googlePoint returns a point for a row.
func (d *decoder) googlePoint(metric string, r *row, body *jsonitem.Node) *point {
	p := &point{dec: d, item: r.item(), body: body, spec: types[metric], metric: metric}
	p.sample.Metric, p.sample.Channel = metric, d.channel
	return p
}

// googleSample reads a row with the reader of the API's type. The data source is the
// device, so that the row has the identity of the point in list. Rows of named types
// leave it out; ingest finds their points by time and value.
func (d *decoder) googleSample(metric string, r *row, body *jsonitem.Node) error {
	p := d.googlePoint(metric, r, body)
	at := r.text("timestamp")
	if p.spec.timing == onDay {
		if !p.onDate(at) {
			return p.refuse(sample.ReasonBadTime, badDay)
		}
	} else {
		if bad := p.startAt(at, inUTC); bad != nil {
			return p.finish(bad)
		}
		if p.spec.timing == overPeriod { // like the legacy files, one row per minute
			p.sample.End = p.sample.Start.Add(time.Minute)
		}
		if name := r.text("data source"); name != "" && len(name) <= 64 && !googleColumns[metric].named {
			p.sample.Coarse = false
			p.sample.Source.Name = "FITBIT"
			p.sample.Device = sample.Device{Name: name, Model: name, Manufacturer: "Fitbit"}
		}
	}
	read := p.spec.read
	if read == nil {
		read = readPlain
	}
	bad, err := read(p)
	if err != nil {
		return err
	}
	if bad != nil {
		return p.refuse(bad.reason, bad.rule)
	}
	return nil
}

// camel turns a column such as "beats per minute" into a member name.
func camel(column string) string {
	var b strings.Builder
	for i, word := range strings.FieldsFunc(column, func(r rune) bool { return r == ' ' || r == '_' || r == '-' }) {
		if i > 0 {
			word = strings.ToUpper(word[:1]) + word[1:]
		}
		b.WriteString(word)
	}
	return b.String()
}
