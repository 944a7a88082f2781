package explain

import (
	"fmt"
	"io"
	"strings"
	"time"
	"unicode/utf8"
)

// sideBySide is the width from which sent, rule and written stand side by side.
const sideBySide = 100

// Print writes x as text for a terminal of the given width in columns.
func (x *Explanation) Print(w io.Writer, width int) error {
	p := &printer{width: max(width, 40)}
	p.line("Observation/" + x.ID + " of Patient/" + x.Patient)
	p.wrapped("", x.Text)
	for i := range x.Samples {
		p.sample(&x.Samples[i])
	}
	if x.Method != "" && len(x.Samples) == 0 {
		p.wrapped("", "Method: "+x.Method)
	}
	if len(x.DerivedFrom) > 0 {
		p.line("")
		p.line("Derived from")
		for _, ref := range x.DerivedFrom {
			p.line("  " + ref)
		}
	}
	p.now(&x.Now)
	p.versions(x)
	_, err := io.WriteString(w, p.out.String())
	return err
}

type printer struct {
	out   strings.Builder
	width int
}

func (p *printer) line(text string) { p.out.WriteString(strings.TrimRight(text, " ") + "\n") }

// wrapped writes text in lines that begin with indent.
func (p *printer) wrapped(indent, text string) {
	for _, l := range wrap(text, p.width-len(indent)) {
		p.line(indent + l)
	}
}

func (p *printer) sample(s *Sample) {
	p.line("")
	if s.Text != "" {
		p.wrapped("", s.Text)
	}
	if p.width < sideBySide {
		for _, l := range s.Lines {
			p.line(l.Part)
			for _, cell := range [][2]string{{"sent", l.Sent}, {"rule", l.Rule}, {"written", l.Written}} {
				if cell[1] != "" {
					p.cells([]int{10, p.width - 10}, "  "+cell[0], cell[1])
				}
			}
		}
		return
	}
	column := (p.width - 20) / 3
	widths := []int{20, column, column, column}
	p.cells(widths, "", "SENT", "RULE", "WRITTEN")
	for _, l := range s.Lines {
		p.cells(widths, l.Part, l.Sent, l.Rule, l.Written)
	}
}

// cells writes texts next to each other, each wrapped in its width.
func (p *printer) cells(widths []int, texts ...string) {
	var columns [][]string
	height := 0
	for i, t := range texts {
		columns = append(columns, wrap(t, widths[i]-2))
		height = max(height, len(columns[i]))
	}
	for row := range height {
		var b strings.Builder
		for i, c := range columns {
			cell := ""
			if row < len(c) {
				cell = c[row]
			}
			b.WriteString(cell + strings.Repeat(" ", max(0, widths[i]-utf8.RuneCountInString(cell))))
		}
		p.line(b.String())
	}
}

func (p *printer) now(n *Now) {
	if !n.Known {
		return
	}
	p.line("")
	switch {
	case n.Same:
		p.wrapped("", "The table in force maps it to the same content.")
	case n.Problem != "":
		p.wrapped("", "The table in force does not map it: "+n.Problem)
	default:
		p.wrapped("", "The table in force maps it differently:")
		for _, c := range n.Changes {
			p.wrapped("  ", c.Path+": stored "+quoted(c.Stored)+", now "+quoted(c.Now))
		}
	}
}

func quoted(s string) string {
	if s == "" {
		return "absent"
	}
	return "“" + s + "”"
}

func (p *printer) versions(x *Explanation) {
	p.line("")
	for i := range x.Versions {
		v := &x.Versions[i]
		text := fmt.Sprintf("Version %d, %s: %s", v.Version, v.At.UTC().Format(time.RFC3339), v.Why)
		text += labeled(", status ", v.Status) + labeled(", by the client ", v.Client) +
			labeled(", from ", v.Vendor) + labeled(" by ", v.Channel) + labeled(", link ", v.Link)
		p.wrapped("", text)
		if v.Provenance != "" {
			p.line("  " + v.Provenance)
		}
	}
	if x.More {
		p.line("Older versions are not shown.")
	}
}

// wrap splits text into lines of at most width characters. It splits longer words.
func wrap(text string, width int) (lines []string) {
	line := ""
	for _, word := range strings.Fields(text) {
		for utf8.RuneCountInString(word) > width {
			if line != "" {
				lines, line = append(lines, line), ""
			}
			runes := []rune(word)
			lines, word = append(lines, string(runes[:width])), string(runes[width:])
		}
		if line != "" && utf8.RuneCountInString(line)+1+utf8.RuneCountInString(word) > width {
			lines, line = append(lines, line), ""
		}
		if line != "" {
			line += " "
		}
		line += word
	}
	if line != "" {
		lines = append(lines, line)
	}
	return lines
}
