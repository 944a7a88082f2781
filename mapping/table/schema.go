package table

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	"gopkg.in/yaml.v3"
)

// This file repeats the rules of table.schema.json and pack.schema.json, because the
// server has no JSON Schema validator. The package's test compares the two on many
// broken files.

// A shape checks one node of a YAML document. path names the node.
type shape func(d *document, n *yaml.Node, path string)

// document is a YAML document that is being checked.
type document struct {
	file   string
	errs   []error
	visits int
}

// maxVisits limits the nodes of a document, counted where aliases are used.
const maxVisits = 200_000

// checkShape returns the problems of a document as one error per problem.
func checkShape(file string, root *yaml.Node, s shape) []error {
	d := &document{file: file}
	s(d, root, "")
	return d.errs
}

// report adds a problem.
func (d *document) report(n *yaml.Node, path, problem string) {
	if path != "" {
		problem = path + ": " + problem
	}
	d.errs = append(d.errs, fmt.Errorf("%s:%d: %s", d.file, n.Line, problem))
}

// visit counts a node. It reports false if there are too many.
func (d *document) visit(n *yaml.Node) bool {
	d.visits++
	if d.visits == maxVisits {
		d.report(n, "", "the file has too many values, counted where aliases are used")
	}
	return d.visits < maxVisits
}

// resolve returns the node that an alias stands for.
func resolve(n *yaml.Node) *yaml.Node {
	if n.Kind == yaml.AliasNode {
		return n.Alias
	}
	return n
}

// object accepts mappings with the given fields.
func object(required []string, fields map[string]shape) shape {
	return func(d *document, n *yaml.Node, path string) {
		if n = resolve(n); !d.visit(n) {
			return
		}
		if n.Kind != yaml.MappingNode {
			d.report(n, path, "must be a mapping of fields")
			return
		}
		for i := 0; i+1 < len(n.Content); i += 2 {
			key, value := n.Content[i], n.Content[i+1]
			field, ok := fields[key.Value]
			if !ok {
				d.report(key, path, "there is no field "+quoted(key.Value))
				continue
			}
			field(d, value, below(path, key.Value))
		}
		for _, name := range required {
			if member(n, name) == nil {
				d.report(n, path, "the field "+name+" is missing")
			}
		}
	}
}

// dictionary accepts mappings with any names that match the pattern.
func dictionary(names *regexp.Regexp, value shape) shape {
	return func(d *document, n *yaml.Node, path string) {
		if n = resolve(n); !d.visit(n) {
			return
		}
		if n.Kind != yaml.MappingNode {
			d.report(n, path, "must be a mapping")
			return
		}
		for i := 0; i+1 < len(n.Content); i += 2 {
			key := n.Content[i]
			if key.Tag != "!!str" {
				d.report(key, path, "names must be text; put numbers in quotes")
			} else if names != nil && !names.MatchString(key.Value) {
				d.report(key, path, "the name does not match "+names.String())
			}
			value(d, n.Content[i+1], below(path, key.Value))
		}
	}
}

// list accepts sequences of least to most items; most is without limit if it is 0.
func list(least, most int, item shape) shape {
	return func(d *document, n *yaml.Node, path string) {
		if n = resolve(n); !d.visit(n) {
			return
		}
		if n.Kind != yaml.SequenceNode {
			d.report(n, path, "must be a list")
			return
		}
		switch {
		case len(n.Content) < least:
			d.report(n, path, fmt.Sprintf("must have at least %d items", least))
		case most > 0 && len(n.Content) > most:
			d.report(n, path, fmt.Sprintf("must have at most %d items", most))
			return
		}
		for i, c := range n.Content {
			name := fmt.Sprintf("%s[%d]", path, i)
			if metric := member(resolve(c), "metric"); path == "metrics" && metric != nil {
				name = "row " + quoted(metric.Value)
			}
			item(d, c, name)
		}
	}
}

// text accepts strings that match the pattern, which may be nil.
func text(pattern *regexp.Regexp) shape {
	return func(d *document, n *yaml.Node, path string) {
		if n = resolve(n); !d.visit(n) {
			return
		}
		switch {
		case n.Kind != yaml.ScalarNode || n.Tag != "!!str":
			d.report(n, path, "must be text; put numbers in quotes")
		case pattern != nil && !pattern.MatchString(n.Value):
			d.report(n, path, "must match "+pattern.String())
		}
	}
}

// oneOf accepts the given strings.
func oneOf(values ...string) shape {
	return func(d *document, n *yaml.Node, path string) {
		if n = resolve(n); !d.visit(n) {
			return
		}
		if n.Kind != yaml.ScalarNode || n.Tag != "!!str" || !slices.Contains(values, n.Value) {
			d.report(n, path, "must be one of "+strings.Join(values, ", "))
		}
	}
}

// scalar accepts values with one of the given tags.
func scalar(name string, tags ...string) shape {
	return func(d *document, n *yaml.Node, path string) {
		if n = resolve(n); !d.visit(n) {
			return
		}
		if n.Kind != yaml.ScalarNode || !slices.Contains(tags, n.Tag) {
			d.report(n, path, "must be "+name)
		}
	}
}

// member returns the value of a field of a mapping, or nil.
func member(n *yaml.Node, name string) *yaml.Node {
	if n.Kind != yaml.MappingNode {
		return nil
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		if n.Content[i].Value == name {
			return resolve(n.Content[i+1])
		}
	}
	return nil
}

func below(path, name string) string {
	if path == "" {
		return name
	}
	return path + "." + name
}

// quoted returns a name for an error text, limited in length.
func quoted(s string) string {
	if len(s) > 120 {
		s = s[:120] + "…"
	}
	return fmt.Sprintf("%q", s)
}

var (
	vendorPattern  = regexp.MustCompile(`^[a-z][a-z0-9-]{0,31}$`)
	packPattern    = regexp.MustCompile(`^[a-z][a-z0-9-]{0,47}$`)
	versionPattern = regexp.MustCompile(`^[0-9]{1,5}\.[0-9]{1,5}\.[0-9]{1,5}$`)
	systemPattern  = regexp.MustCompile(`^[a-z-]+$`)
	codePattern    = regexp.MustCompile(`^[a-z][a-z0-9-]{0,31} [!-~]{1,100}$`)
	scalePattern   = regexp.MustCompile(`^[0-9./]+$`)
	factorPattern  = regexp.MustCompile(`^-?[0-9.]+(/[0-9.]+)?$`)
	metricPattern  = regexp.MustCompile(`^[!-~]{1,120}$`)
	prefixPattern  = regexp.MustCompile(`^[a-z][a-z0-9-]{0,31}$`)
	printable      = regexp.MustCompile(`^[!-~]{1,100}$`)
	urlPattern     = regexp.MustCompile(`^(https?://|urn:)[!-~]{1,200}$`)
	profilePattern = regexp.MustCompile(`^https?://[!-{}~]{1,200}$`)
	namedPattern   = regexp.MustCompile(`^.{1,200}$`)
)

var (
	boolean  = scalar("true or false", "!!bool")
	number   = scalar("a number", "!!int", "!!float")
	codeList = list(0, 0, text(codePattern))
	scales   = dictionary(nil, text(scalePattern))
	interval = list(2, 2, number)
	zero     = oneOf(ZeroAbsent)
	displays = dictionary(nil, text(nil))
)

func componentShape() shape {
	return object([]string{"name"}, map[string]shape{"name": text(nil), "display": text(nil), "codes": codeList,
		"doubtful": codeList, "unit": text(nil), "scale": scales, "range": interval, "zero": zero,
		"required": boolean, "shape": oneOf(ShapeCodeable), "values": displays})
}

func rowFields() map[string]shape {
	when := object(nil, map[string]shape{"units": list(0, 0, text(nil)), "day": boolean, "channel": text(nil)})
	variant := object([]string{"when"}, map[string]shape{"when": when, "codes": codeList, "doubtful": codeList,
		"unit": text(nil), "range": interval})
	return map[string]shape{"metric": text(metricPattern), "also": list(0, 0, text(nil)), "name": text(nil),
		"trust": oneOf(TrustSure, TrustDoubtful, TrustLocal), "codes": codeList, "doubtful": codeList,
		"category": oneOf("vital-signs", "activity", "exam", "laboratory", "procedure", "survey", "device"),
		"refined":  oneOf("sleep"),
		"profile": oneOf("heartrate", "resprate", "oxygensat", "bodytemp", "bodyheight", "bodyweight", "bmi",
			"bp"),
		"profiles": list(0, 10, text(profilePattern)),
		"shape": oneOf(ShapeQuantity, ShapeCodeable, ShapeComponents, ShapeSampled, ShapeEvent,
			ShapeDevice),
		"rate": number, "segmentsOf": oneOf("night"), "unit": text(nil), "scale": scales, "range": interval,
		"zero": zero, "method": text(nil), "values": displays, "series": codeList,
		"components": list(0, 0, componentShape()), "variants": list(0, 0, variant)}
}

// requiredOfRow lists the fields that a row must have, after overriding.
var requiredOfRow = []string{"name", "trust", "category", "shape"}

// vendorShape describes the file of a vendor.
func vendorShape() shape {
	return object([]string{"vendor", "version", "system", "title", "metrics"}, map[string]shape{
		"vendor": text(vendorPattern), "version": text(versionPattern), "system": text(systemPattern),
		"title": text(nil), "shared": dictionary(nil, componentShape()),
		"metrics": list(1, 1000, object(append([]string{"metric"}, requiredOfRow...), rowFields()))})
}

// packShape describes a tenant's pack.
func packShape() shape {
	row := rowFields()
	row["remove"] = boolean
	delete(row, "segmentsOf")
	system := object([]string{"codes"}, map[string]shape{"url": text(urlPattern), "publish": boolean,
		"title": text(nil), "codes": dictionary(printable, text(namedPattern))})
	accepted := object([]string{"as"}, map[string]shape{"as": list(1, 100, text(nil)), "times": text(factorPattern),
		"plus": text(factorPattern)})
	unit := object([]string{"accepts"}, map[string]shape{"text": text(namedPattern), "accepts": list(0, 100, accepted)})
	return object([]string{"pack", "version", "vendor"}, map[string]shape{"pack": text(packPattern),
		"version": text(versionPattern), "vendor": text(vendorPattern), "title": text(namedPattern),
		"codes":   dictionary(prefixPattern, system),
		"units":   dictionary(printable, unit),
		"shared":  dictionary(nil, componentShape()),
		"metrics": list(1, 1000, object([]string{"metric"}, row))})
}
