package table

import (
	"reflect"
	"strings"

	"gopkg.in/yaml.v3"
)

// YAML returns r as a file has it: the fields that are set, in the order of the schema.
func (r *Row) YAML() string {
	b, err := yaml.Marshal(node(reflect.ValueOf(r).Elem()))
	if err != nil {
		return "" // not for strings, numbers and lists of them
	}
	return string(b)
}

// node returns a value as YAML without zero fields.
func node(v reflect.Value) *yaml.Node {
	switch v.Kind() {
	case reflect.Pointer:
		return node(v.Elem())
	case reflect.Struct:
		n := &yaml.Node{Kind: yaml.MappingNode}
		for i := range v.NumField() {
			name, _, _ := strings.Cut(v.Type().Field(i).Tag.Get("yaml"), ",")
			if name == "-" || v.Field(i).IsZero() {
				continue
			}
			n.Content = append(n.Content, &yaml.Node{Kind: yaml.ScalarNode, Value: name}, node(v.Field(i)))
		}
		return n
	case reflect.Slice:
		n := &yaml.Node{Kind: yaml.SequenceNode}
		for i := range v.Len() {
			n.Content = append(n.Content, node(v.Index(i)))
		}
		if v.Type().Elem().Kind() != reflect.Struct {
			n.Style = yaml.FlowStyle
		}
		return n
	}
	n := &yaml.Node{}
	_ = n.Encode(v.Interface()) // strings, numbers and mappings of strings can be encoded
	return n
}
