package cli

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"
)

// table prints rows below a header, in columns as wide as their widest cell. All
// lists are printed as tables. Empty cells are printed as "-", so that scripts can
// split lines at white space.
type table struct {
	out *tabwriter.Writer
}

func newTable(w io.Writer, header ...string) *table {
	t := &table{tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)}
	t.write(header)
	return t
}

// row adds a row. Cells are strings, numbers, times or have a String method.
func (t *table) row(cells ...any) {
	out := make([]string, len(cells))
	for i, c := range cells {
		out[i] = cell(c)
	}
	t.write(out)
}

func (t *table) write(cells []string) {
	// tabwriter keeps the first error of the underlying writer; done returns it.
	_, _ = fmt.Fprintln(t.out, strings.Join(cells, "\t"))
}

// done writes the table.
func (t *table) done() error { return t.out.Flush() }

// cell formats the value of a cell.
func cell(c any) string {
	var s string
	switch c := c.(type) {
	case string:
		s = c
	case []string:
		s = strings.Join(c, ",")
	case float64:
		s = fmt.Sprintf("%.2f", c)
	case time.Time:
		if !c.IsZero() {
			s = c.UTC().Format("2006-01-02T15:04:05Z")
		}
	default:
		s = fmt.Sprint(c)
	}
	// A tab or line break in a name must not move the columns.
	if s = strings.Join(strings.Fields(s), " "); s == "" {
		return "-"
	}
	return s
}
