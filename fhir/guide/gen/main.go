// Command gen writes the snapshots of the StructureDefinitions of fhir/guide. It takes
// the differential of each file and HL7's StructureDefinition of the constrained type.
package main

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

func main() {
	core := flag.String("definitions", "", "folder with resources.ndjson.gz and datatypes.ndjson.gz of R4 4.0.1")
	dir := flag.String("resources", "resources", "folder with the StructureDefinitions to rewrite")
	flag.Parse()
	if err := run(*core, *dir); err != nil {
		fmt.Fprintln(os.Stderr, "gen:", err)
		os.Exit(1)
	}
}

func run(core, dir string) error {
	files, err := filepath.Glob(filepath.Join(dir, "StructureDefinition-*.json"))
	if err != nil {
		return err
	}
	bases := map[string][]object{}
	for _, f := range []string{"datatypes.ndjson.gz", "resources.ndjson.gz"} {
		if err := readBases(filepath.Join(core, f), bases); err != nil {
			return err
		}
	}
	for _, name := range files {
		body, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		out, err := withSnapshot(body, bases)
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		if err := os.WriteFile(name, out, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// readBases adds the elements of the snapshots in a file by URL.
func readBases(name string, into map[string][]object) error {
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }() // it is only read
	z, err := gzip.NewReader(f)
	if err != nil {
		return err
	}
	lines := bufio.NewScanner(z)
	lines.Buffer(nil, 16<<20)
	for lines.Scan() {
		var d struct {
			ResourceType, URL string
			Snapshot          struct{ Element []object }
		}
		if err := json.Unmarshal(lines.Bytes(), &d); err != nil {
			return err
		}
		if d.ResourceType == "StructureDefinition" {
			into[d.URL] = d.Snapshot.Element
		}
	}
	return lines.Err()
}

// left lists members of elements that the snapshots leave out: they repeat texts of HL7's
// definitions that the rules of a profile do not depend on.
var left = []string{"mapping", "comment", "requirements", "alias", "extension"}

// withSnapshot returns a StructureDefinition with a new snapshot.
func withSnapshot(body []byte, bases map[string][]object) ([]byte, error) {
	var sd object
	if err := json.Unmarshal(body, &sd); err != nil {
		return nil, err
	}
	var from struct {
		BaseDefinition string
		Differential   struct{ Element []object }
	}
	if err := json.Unmarshal(body, &from); err != nil {
		return nil, err
	}
	base := bases[from.BaseDefinition]
	if base == nil {
		return nil, fmt.Errorf("no definition of %s", from.BaseDefinition)
	}
	var s snapshot
	for _, e := range base {
		e = e.clone()
		for _, name := range left {
			e.remove(name)
		}
		s.elements = append(s.elements, e)
	}
	for _, d := range from.Differential.Element {
		if err := s.apply(d); err != nil {
			return nil, err
		}
	}
	raw, err := json.Marshal(map[string][]object{"element": s.elements})
	if err != nil {
		return nil, err
	}
	sd.remove("snapshot")
	at := slices.IndexFunc(sd, func(m member) bool { return m.name == "differential" })
	sd = slices.Insert(sd, at, member{"snapshot", raw})
	compact, err := json.Marshal(sd)
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	if err := json.Indent(&out, compact, "", "  "); err != nil {
		return nil, err
	}
	out.WriteByte('\n')
	return out.Bytes(), nil
}

// snapshot holds the elements of a snapshot in their order.
type snapshot struct{ elements []object }

// apply merges a constraint of a differential. Slices are added behind the element that
// they belong to, with copies of its children.
func (s *snapshot) apply(d object) error {
	id := d.text("id")
	at := s.index(id)
	if at < 0 {
		dot, colon := strings.LastIndexByte(id, '.'), strings.LastIndexByte(id, ':')
		if colon < dot {
			return fmt.Errorf("%s is not in the base, and is no slice", id)
		}
		of := id[:colon]
		first := s.index(of)
		if first < 0 {
			return fmt.Errorf("%s is a slice of an unknown element", id)
		}
		last := first + 1
		var copies []object
		for ; last < len(s.elements); last++ {
			other := s.elements[last].text("id")
			if !strings.HasPrefix(other, of+".") && !strings.HasPrefix(other, of+":") {
				break
			}
			if strings.HasPrefix(other, of+".") {
				copies = append(copies, s.elements[last].renamed(id+strings.TrimPrefix(other, of)))
			}
		}
		slice := s.elements[first].renamed(id)
		slice.remove("slicing")
		s.elements = slices.Insert(s.elements, last, append([]object{slice}, copies...)...)
		at = last
	}
	s.elements[at].merge(d)
	return nil
}

func (s *snapshot) index(id string) int {
	return slices.IndexFunc(s.elements, func(e object) bool { return e.text("id") == id })
}

// merge replaces the members of e by those of the differential. Constraints are added.
func (e *object) merge(d object) {
	for _, m := range d {
		at := slices.IndexFunc(*e, func(have member) bool { return have.name == m.name })
		switch {
		case at < 0:
			*e = append(*e, m)
		case m.name == "constraint":
			have := bytes.TrimSuffix((*e)[at].value, []byte("]"))
			(*e)[at].value = slices.Concat(have, []byte(","), bytes.TrimPrefix(m.value, []byte("[")))
		default:
			(*e)[at].value = m.value
		}
	}
	slices.SortStableFunc(*e, func(a, b member) int { return rank(a.name) - rank(b.name) })
}

// order lists the members of ElementDefinition in their order. Values (fixed, pattern,
// default) stand at contentReference.
var order = []string{"id", "extension", "path", "representation", "sliceName", "sliceIsConstraining", "label", "code",
	"slicing", "short", "definition", "min", "max", "base", "contentReference", "type", "value", "meaningWhenMissing",
	"orderMeaning", "example", "minValue", "maxValue", "maxLength", "condition", "constraint", "mustSupport",
	"isModifier", "isModifierReason", "isSummary", "binding"}

func rank(name string) int {
	for _, prefix := range []string{"fixed", "pattern", "default"} {
		if strings.HasPrefix(name, prefix) {
			name = "value"
		}
	}
	return slices.Index(order, name)
}
