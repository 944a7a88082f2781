package fhirpath

import (
	"encoding/json"
	"strings"
)

// place is a member of an object, and an item of it if the member is an array.
type place struct {
	object int32
	name   string // without "_"
	index  int    // -1 for a member that is not an array
}

// placeOf returns the place of an element of the Document.
func (d *Document) placeOf(v Value) place {
	n := v.node
	if n == 0 {
		n = v.shadow
	}
	p := place{index: -1}
	parent := d.nodes[n].parent
	if parent != 0 && d.nodes[parent].kind == nodeArray {
		p.index = 0
		for c := d.nodes[parent].child; c != n; c = d.nodes[c].next {
			p.index++
		}
		n, parent = parent, d.nodes[parent].parent
	}
	p.object = parent
	if p.name = d.key(&d.nodes[n]); v.node == 0 {
		p.name = strings.TrimPrefix(p.name, "_")
	}
	return p
}

// typeOfNode returns the type of an object in the Document.
func (d *Document) typeOfNode(n int32) typeID {
	if t := d.typeOfResource(n); t != noType {
		return t
	}
	parent, key := d.nodes[n].parent, n
	if parent != 0 && d.nodes[parent].kind == nodeArray {
		key, parent = parent, d.nodes[parent].parent
	}
	if parent == 0 {
		return noType
	}
	name := strings.TrimPrefix(d.key(&d.nodes[key]), "_")
	return model().types[d.typeOfNode(parent)].members[name].typ
}

// raw returns the JSON text of a node.
func (d *Document) raw(n int32) string {
	p := &d.nodes[n]
	if p.kind == nodeString {
		return d.src[p.start-1 : p.end+1]
	}
	return d.src[p.start:p.end]
}

// content is the text of one value: that of the value itself and that of the object
// with its id and extensions. Either may be "".
type content struct{ value, shadow string }

// contents returns the values of a member, as a list if it is an array.
func (d *Document) contents(object int32, name string) []content {
	var out []content
	add := func(n int32, set func(*content, string)) {
		if n == 0 {
			return
		}
		c, i := n, 0
		if d.nodes[n].kind == nodeArray {
			c = d.nodes[n].child
		}
		for ; c != 0; c = d.nodes[c].next {
			if i == len(out) {
				out = append(out, content{})
			}
			if d.nodes[c].kind != nodeNull {
				set(&out[i], d.raw(c))
			}
			if i++; c == n {
				return
			}
		}
	}
	add(d.member(object, name), func(c *content, s string) { c.value = s })
	add(d.member(object, "_"+name), func(c *content, s string) { c.shadow = s })
	return out
}

// replace returns the text of the Document with other contents of a member. The
// member is removed without contents, and so are an object and an array that are empty
// then.
func (d *Document) replace(object int32, name string, list []content, many bool) string {
	set := map[string]string{name: "", "_" + name: ""}
	for key, part := range map[string]func(content) string{
		name: func(c content) string { return c.value }, "_" + name: func(c content) string { return c.shadow },
	} {
		var items []string
		found := false
		for _, c := range list {
			s := part(c)
			if found = found || s != ""; s == "" {
				s = "null"
			}
			items = append(items, s)
		}
		switch {
		case !found:
		case many:
			set[key] = "[" + strings.Join(items, ",") + "]"
		default:
			set[key] = items[0]
		}
	}
	text := d.objectWith(object, name, set)
	if text != "{}" || d.nodes[object].parent == 0 {
		p := &d.nodes[object]
		return d.src[:p.start] + text + d.text0()[p.end:]
	}
	at := d.placeOf(Value{node: object})
	rest := d.contents(at.object, at.name)
	if at.index < 0 {
		return d.replace(at.object, at.name, nil, false)
	}
	return d.replace(at.object, at.name, append(rest[:at.index:at.index], rest[at.index+1:]...), true)
}

// text0 returns the text of the Document without the decoded names after it.
func (d *Document) text0() string { return d.src[:d.length] }

// objectWith returns the text of an object with other members. New ones are at the
// end.
func (d *Document) objectWith(object int32, name string, set map[string]string) string {
	var b strings.Builder
	b.WriteByte('{')
	write := func(key, value string) {
		if value == "" {
			return
		}
		if b.Len() > 1 {
			b.WriteByte(',')
		}
		k, _ := json.Marshal(key) // a string has no error
		b.Write(k)
		b.WriteByte(':')
		b.WriteString(value)
	}
	done := map[string]bool{}
	for c := d.nodes[object].child; c != 0; c = d.nodes[c].next {
		key := d.key(&d.nodes[c])
		value, changed := set[key]
		if !changed {
			value = d.raw(c)
		}
		done[key] = true
		write(key, value)
	}
	for _, key := range []string{name, "_" + name} {
		if !done[key] {
			write(key, set[key])
		}
	}
	b.WriteByte('}')
	return b.String()
}
