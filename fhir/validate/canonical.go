package validate

import (
	"bytes"

	"pulsegate/fhir"
	"pulsegate/fhir/element"
)

// Canonical returns the resource in the canonical form of fhir.Resource: the
// members that the server manages come first and have the given id, and all
// others keep their bytes, without white space between tokens.
func (d *Document) Canonical(id string) []byte {
	root := d.Root()
	out := append(make([]byte, 0, len(d.body)+96), fhir.Prefix(root.Structure().Name, id)...)
	first := true
	for c := root.get("meta").first(); c.Exists(); c = c.next() {
		switch c.Member().Name {
		case "versionId", "lastUpdated":
			continue
		}
		if !first {
			out = append(out, ',')
		}
		first = false
		out = d.appendMember(out, c)
	}
	out = append(out, '}')
	for c := root.first(); c.Exists(); c = c.next() {
		switch c.Member().Name {
		case "id", "meta":
			continue
		}
		out = d.appendMember(append(out, ','), c)
	}
	return append(out, '}')
}

// appendMember appends the name and the value of a member.
func (d *Document) appendMember(out []byte, n Node) []byte {
	if n.Shadow() {
		out = append(out, '"', '_')
		out = append(out, n.Member().Name...)
		out = append(out, '"')
	} else {
		out = element.AppendString(out, n.Member().Name)
	}
	return n.Append(append(out, ':'))
}

// Append appends the JSON of n without white space between tokens.
func (n Node) Append(out []byte) []byte {
	s := n.JSON()
	if !n.doc.spaced {
		return append(out, s...)
	}
	for len(s) > 0 {
		i := bytes.IndexAny(s, "\" \t\r\n")
		if i < 0 {
			return append(out, s...)
		}
		out = append(out, s[:i]...)
		if s = s[i:]; s[0] != '"' {
			s = s[1:]
			continue
		}
		end := 1
		for ; s[end] != '"'; end++ {
			if s[end] == '\\' {
				end++
			}
		}
		out = append(out, s[:end+1]...)
		s = s[end+1:]
	}
	return out
}
