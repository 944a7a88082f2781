package search

import (
	_ "embed" // registry.txt
	"strings"

	"pulsegate/fhir/fhirpath"
)

// table is the generated table of parameters. A line is a record; tabs separate its
// fields, and trailing empty fields are omitted.
//
//	T type base                   resource type; the base is a type whose parameters it has as well
//	P code type url targets...    parameter of the last type
//	A path type want condition    alternative of the last parameter: Path
//	X expression                  the alternatives that are not paths
//	C url expression              component of a composite parameter
//	M compartment codes...        parameters that put the type into a compartment
//
// URLs are relative to urlPrefix.
//
//go:embed registry.txt
var table string

const urlPrefix = "http://hl7.org/fhir/SearchParameter/"

// section is the part of the table about one type.
type section struct {
	base string
	text string
	all  map[string]*section
}

// sections returns the sections of the table by type.
func sections() map[string]*section {
	out, all := map[string]*section{}, map[string]*section{}
	for rest := table; ; {
		i := strings.Index(rest, "\nT\t")
		if i < 0 {
			return out
		}
		rest = rest[i+3:]
		head, _, _ := strings.Cut(rest, "\n")
		typ, base, _ := strings.Cut(head, "\t")
		text := rest[len(head):]
		if end := strings.Index(text, "\nT\t"); end >= 0 {
			text = text[:end]
		}
		all[typ] = &section{base: base, text: text, all: all}
		if typ != "Resource" && typ != "DomainResource" {
			out[typ] = all[typ]
		}
	}
}

var paramTypes = map[string]ParamType{ // read only
	"token": TypeToken, "date": TypeDate, "reference": TypeReference, "string": TypeString,
	"quantity": TypeQuantity, "uri": TypeURI, "number": TypeNumber, "composite": TypeComposite,
	"special": TypeSpecial,
}

// read returns the parameters of a type, with those of its bases, and its compartments.
func (s *section) read(typ string) ([]*Param, map[string][]string) {
	var out []*Param
	members := map[string][]string{}
	for line := range strings.Lines(s.text) {
		f := strings.Split(strings.TrimSuffix(line, "\n"), "\t")
		f = append(f, "", "", "", "")
		switch f[0] {
		case "P":
			out = append(out, &Param{ResourceType: typ, Code: f[1], Type: paramTypes[f[2]], URL: urlOf(f[3]),
				Targets: strings.Fields(f[4])})
		case "A":
			p := out[len(out)-1]
			member, value, _ := strings.Cut(f[4], "=")
			p.Paths = append(p.Paths, Path{Steps: strings.Split(f[1], "."), Type: f[2], Want: f[3],
				WhereMember: member, WhereValue: value})
		case "X":
			out[len(out)-1].Expression = fhirpath.MustCompile(f[1])
		case "C":
			p := out[len(out)-1]
			p.Components = append(p.Components, Component{URL: urlOf(f[1]), Expression: fhirpath.MustCompile(f[2])})
		case "M":
			members[f[1]] = strings.Fields(f[2])
		}
	}
	for _, p := range out {
		p.compose()
	}
	if base := s.all[s.base]; base != nil {
		more, _ := base.read(typ)
		out = append(out, more...)
	}
	return out, members
}

func urlOf(s string) string {
	if s == "" || strings.Contains(s, ":") {
		return s
	}
	return urlPrefix + s
}
