package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// guide is a set of profiles with their value sets.
type guide struct {
	profiles    []*definition
	valueSets   []*definition
	codeSystems map[string]*definition
}

func (g *guide) add(d *definition) {
	switch {
	case d.ResourceType == "StructureDefinition" && d.Derivation == "constraint":
		g.profiles = append(g.profiles, d)
	case d.ResourceType == "ValueSet":
		g.valueSets = append(g.valueSets, d)
	case d.ResourceType == "CodeSystem":
		g.codeSystems[d.URL] = d
	}
}

// profileTables writes the profiles of R4 on Observation, those of the guides, and those
// of this project in the folder own.
func profileTables(core string, guides []string, own string) ([]byte, error) {
	types := map[string]string{} // type by the URL of a type or profile
	for _, f := range []string{"datatypes.ndjson.gz", "resources.ndjson.gz"} {
		if err := each(filepath.Join(core, f), func(d *definition) { types[d.URL] = d.Type }); err != nil {
			return nil, err
		}
	}
	base := &guide{codeSystems: map[string]*definition{}}
	if err := each(filepath.Join(core, "observation-profiles.ndjson.gz"), base.add); err != nil {
		return nil, err
	}
	files, err := filepath.Glob(filepath.Join(core, "..", "r4-vitals", "ValueSet-ucum-*.json"))
	if err != nil {
		return nil, err
	}
	if err := base.addFiles(files); err != nil {
		return nil, err
	}
	var out bytes.Buffer
	base.write(&out, "4.0.1", types)
	for _, name := range guides {
		if name == "" {
			continue
		}
		version, name, ok := strings.Cut(name, "=")
		if !ok {
			return nil, fmt.Errorf("%s: want version=file", version)
		}
		g, err := readGuide(name)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		g.write(&out, version, types)
	}
	g := &guide{codeSystems: map[string]*definition{}}
	for _, typ := range []string{"StructureDefinition", "ValueSet", "CodeSystem"} {
		if files, err = filepath.Glob(filepath.Join(own, typ+"-*.json")); err != nil {
			return nil, err
		}
		if err := g.addFiles(files); err != nil {
			return nil, err
		}
	}
	if len(g.profiles) == 0 {
		return nil, fmt.Errorf("no profiles in %s", own)
	}
	g.write(&out, g.profiles[0].Version, types)
	return out.Bytes(), nil
}

func (g *guide) addFiles(files []string) error {
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			return err
		}
		if err := addJSON(g, b); err != nil {
			return fmt.Errorf("%s: %w", f, err)
		}
	}
	return nil
}

func addJSON(g *guide, b []byte) error {
	d := &definition{}
	if err := json.Unmarshal(b, d); err != nil {
		return err
	}
	g.add(d)
	return nil
}

// readGuide reads the definitions in a package (.tgz), in the layout of a
// published package or of US Core's source.
func readGuide(name string) (g *guide, err error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer func() {
		if e := f.Close(); err == nil {
			err = e
		}
	}()
	z, err := gzip.NewReader(f)
	if err != nil {
		return nil, err
	}
	g = &guide{codeSystems: map[string]*definition{}}
	for t := tar.NewReader(z); ; {
		h, err := t.Next()
		if errors.Is(err, io.EOF) {
			return g, nil
		}
		if err != nil {
			return nil, err
		}
		file := strings.ToLower(path.Base(h.Name))
		dir := path.Base(path.Dir(h.Name))
		if dir != "package" && dir != "resources" || !strings.HasSuffix(file, ".json") ||
			!strings.HasPrefix(file, "structuredefinition-") && !strings.HasPrefix(file, "valueset-") &&
				!strings.HasPrefix(file, "codesystem-") {
			continue
		}
		b, err := io.ReadAll(t)
		if err != nil {
			return nil, err
		}
		if err := addJSON(g, b); err != nil {
			return nil, fmt.Errorf("%s: %w", h.Name, err)
		}
	}
}

// write writes a section: the version, the value sets that can be enumerated,
// the invariants and the profiles.
func (g *guide) write(out *bytes.Buffer, version string, types map[string]string) {
	byURL := func(a, b *definition) int { return strings.Compare(a.URL, b.URL) }
	slices.SortFunc(g.profiles, byURL)
	slices.SortFunc(g.valueSets, byURL)
	types = mapsClone(types)
	for _, d := range g.profiles {
		types[d.URL] = d.Type
	}
	line(out, "G", version)
	for _, d := range g.valueSets {
		if systems := g.expand(d); systems != nil {
			line(out, append([]string{"V", d.URL}, systems...)...)
		}
	}
	w := &r4Writer{numbers: map[string]int{}}
	for _, d := range g.profiles {
		line(&w.structures, "P", d.URL, d.Type, d.BaseDefinition)
		for i := range d.Differential.Element {
			w.constrained(d, &d.Differential.Element[i], types)
		}
	}
	out.Write(w.invariants.Bytes())
	out.Write(w.structures.Bytes())
}

func mapsClone(m map[string]string) map[string]string {
	out := make(map[string]string, len(m))
	for k, v := range m {
		out[k] = v
	}
	return out
}

// expand returns the systems of a value set with their codes, or nil if it
// cannot be enumerated.
func (g *guide) expand(d *definition) []string {
	if len(d.Compose.Include) == 0 || len(d.Compose.Exclude) > 0 {
		return nil
	}
	codes := map[string][]string{}
	for _, in := range d.Compose.Include {
		list := in.Concept
		if len(in.Filter) > 0 || len(in.ValueSet) > 0 || in.System == "" {
			return nil
		}
		if len(list) == 0 {
			cs := g.codeSystems[in.System]
			if cs == nil {
				return nil
			}
			list = flat(cs.Concept)
		}
		for _, c := range list {
			if strings.ContainsAny(c.Code, "\t\u00a0") {
				return nil
			}
			codes[in.System] = append(codes[in.System], strings.ReplaceAll(c.Code, " ", "\u00a0"))
		}
	}
	var out []string
	for _, s := range sortedKeys(codes) {
		slices.Sort(codes[s])
		out = append(out, s+" "+strings.Join(slices.Compact(codes[s]), " "))
	}
	return out
}

func sortedKeys(m map[string][]string) []string {
	var out []string
	for k := range m {
		out = append(out, k)
	}
	slices.Sort(out)
	return out
}

func flat(list []concept) (out []concept) {
	for _, c := range list {
		out = append(append(out, c), flat(c.Concept)...)
	}
	return out
}

// constrained writes a constraint of a profile.
func (w *r4Writer) constrained(d *definition, e *element, types map[string]string) {
	id := strings.TrimPrefix(strings.TrimPrefix(e.ID, d.Type), ".")
	lowest := ""
	if e.Min != nil {
		lowest = strconv.Itoa(*e.Min)
	}
	flags := ""
	if e.MustSupport {
		flags = "M"
	}
	binding := ""
	if e.Binding.Strength == "required" {
		binding, _, _ = strings.Cut(e.Binding.ValueSet, "|")
	} else if e.Binding.Strength == "extensible" {
		binding, _, _ = strings.Cut(e.Binding.ValueSet, "|")
		binding = "+" + binding
	} else if e.Binding.Strength != "" {
		binding = "-" // US Core loosens required bindings of R4's vital signs
	}
	value := ""
	for _, name := range sortedNames(e.raw) {
		for prefix, mark := range map[string]string{"fixed": "=", "pattern": "~"} {
			if strings.HasPrefix(name, prefix) {
				var b bytes.Buffer
				if json.Compact(&b, e.raw[name]) == nil {
					value = mark + b.String()
				}
			}
		}
	}
	slicing := ""
	if e.Slicing != nil {
		slicing = e.Slicing.Rules
		for _, d := range e.Slicing.Discriminator {
			slicing += " " + d.Type + ":" + d.Path
		}
	}
	constraints := w.constraints(e.Constraint)
	kinds := profileTypes(e, types)
	if id != "" && lowest+e.Max+kinds+flags+binding+value+slicing+constraints == "" && e.SliceName == "" {
		return
	}
	line(&w.structures, "C", id, lowest, e.Max, kinds, flags, binding, value, slicing, constraints)
}

func sortedNames(m map[string]json.RawMessage) []string {
	var out []string
	for k := range m {
		out = append(out, k)
	}
	slices.Sort(out)
	return out
}

// profileTypes returns the types of a constraint. The targets of references are
// types; they are left out if one of them is a profile of another guide.
func profileTypes(e *element, types map[string]string) string {
	var out []string
	for _, t := range e.Type {
		code := t.Code
		if strings.HasPrefix(code, "http://hl7.org/fhirpath/") {
			code = ""
		}
		targets := ""
		if code == "Reference" {
			for _, p := range t.TargetProfile {
				name := types[p]
				if name == "" {
					targets = ""
					break
				}
				if !slices.Contains(strings.Split(targets, "|"), name) {
					targets += "|" + name
				}
			}
		}
		code += targets
		for _, p := range t.Profile {
			code += "@" + p
		}
		if code != "" {
			out = append(out, code)
		}
	}
	return strings.Join(out, " ")
}
