package mapping

import (
	"encoding/json"
	"fmt"
	"io/fs"
	"regexp"
	"slices"
	"strings"

	"gopkg.in/yaml.v3"
)

// schema is the part of JSON Schema (2020-12) that the table's schema uses.
// An unknown keyword is an error, so that nothing in the file is without
// effect.
type schema struct {
	Schema      string             `json:"$schema,omitempty"`
	ID          string             `json:"$id,omitempty"`
	Title       string             `json:"title,omitempty"`
	Description string             `json:"description,omitempty"`
	Ref         string             `json:"$ref,omitempty"`
	Type        string             `json:"type,omitempty"`
	Properties  map[string]*schema `json:"properties,omitempty"`
	Required    []string           `json:"required,omitempty"`
	Additional  json.RawMessage    `json:"additionalProperties,omitempty"`
	Items       *schema            `json:"items,omitempty"`
	MinItems    int                `json:"minItems,omitempty"`
	MaxItems    int                `json:"maxItems,omitempty"`
	Enum        []string           `json:"enum,omitempty"`
	Pattern     string             `json:"pattern,omitempty"`
	Defs        map[string]*schema `json:"$defs,omitempty"`

	root    *schema
	pattern *regexp.Regexp
	others  *schema // of additionalProperties
	closed  bool    // additionalProperties: false
}

func readSchema(dir fs.FS, name string) (*schema, error) {
	f, err := dir.Open(name)
	if err != nil {
		return nil, err
	}
	d := json.NewDecoder(f)
	d.DisallowUnknownFields()
	s := &schema{}
	err = d.Decode(s)
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = s.link(s)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return s, nil
}

func (s *schema) link(root *schema) error {
	s.root = root
	if s.Pattern != "" {
		var err error
		if s.pattern, err = regexp.Compile(s.Pattern); err != nil {
			return err
		}
	}
	switch string(s.Additional) {
	case "", "true":
	case "false":
		s.closed = true
	default:
		s.others = &schema{}
		if err := json.Unmarshal(s.Additional, s.others); err != nil {
			return err
		}
	}
	subs := []*schema{s.Items, s.others}
	for _, m := range []map[string]*schema{s.Properties, s.Defs} {
		for _, x := range m {
			subs = append(subs, x)
		}
	}
	for _, x := range subs {
		if x != nil {
			if err := x.link(root); err != nil {
				return err
			}
		}
	}
	return nil
}

// validate checks a YAML document; where names the place in words.
func (s *schema) validate(n *yaml.Node, where string) error {
	for n.Kind == yaml.AliasNode || n.Kind == yaml.DocumentNode {
		if n.Kind == yaml.AliasNode {
			n = n.Alias
		} else {
			n = n.Content[0]
		}
	}
	if s.Ref != "" {
		def, ok := s.root.Defs[strings.TrimPrefix(s.Ref, "#/$defs/")]
		if !ok {
			return fmt.Errorf("schema: no definition %s", s.Ref)
		}
		return def.validate(n, where)
	}
	if m := member(n, "metric"); m != nil {
		where += ": row " + m.Value
	}
	fail := func(format string, args ...any) error {
		return fmt.Errorf("%s: line %d: %s", where, n.Line, fmt.Sprintf(format, args...))
	}
	if !s.kind(n) {
		return fail("wants type %s", s.Type)
	}
	if len(s.Enum) > 0 && !slices.Contains(s.Enum, n.Value) {
		return fail("wants one of %s", strings.Join(s.Enum, ", "))
	}
	if s.pattern != nil && !s.pattern.MatchString(n.Value) {
		return fail("wants the form %s", s.Pattern)
	}
	switch n.Kind {
	case yaml.MappingNode:
		return s.object(n, where, fail)
	case yaml.SequenceNode:
		if len(n.Content) < s.MinItems || s.MaxItems > 0 && len(n.Content) > s.MaxItems {
			return fail("wants %d to %d items", s.MinItems, s.MaxItems)
		}
		for _, c := range n.Content {
			if s.Items == nil {
				break
			}
			if err := s.Items.validate(c, where); err != nil {
				return err
			}
		}
	}
	return nil
}

func (s *schema) object(n *yaml.Node, where string, fail func(string, ...any) error) error {
	for _, name := range s.Required {
		if member(n, name) == nil {
			return fail("%s is missing", name)
		}
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key := n.Content[i].Value
		sub := s.Properties[key]
		if sub == nil {
			sub = s.others
		}
		if sub == nil {
			if s.closed {
				return fmt.Errorf("%s: line %d: unknown field %s", where, n.Content[i].Line, key)
			}
			continue
		}
		if err := sub.validate(n.Content[i+1], where); err != nil {
			return err
		}
	}
	return nil
}

func member(n *yaml.Node, name string) *yaml.Node {
	if n.Kind != yaml.MappingNode {
		return nil
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		if n.Content[i].Value == name {
			return n.Content[i+1]
		}
	}
	return nil
}

func (s *schema) kind(n *yaml.Node) bool {
	switch s.Type {
	case "object":
		return n.Kind == yaml.MappingNode
	case "array":
		return n.Kind == yaml.SequenceNode
	case "string":
		return n.Kind == yaml.ScalarNode
	case "number":
		return n.Kind == yaml.ScalarNode && (n.Tag == "!!int" || n.Tag == "!!float")
	case "boolean":
		return n.Kind == yaml.ScalarNode && n.Tag == "!!bool"
	}
	return true
}
