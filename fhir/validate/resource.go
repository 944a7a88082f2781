package validate

import (
	"bytes"
	"slices"
	"strings"
	"unicode"

	"pulsegate/fhir/definitions"
)

// resource reads a resource into node i and checks the rules that concern a whole
// resource: the contained resources, the references and the ids of elements.
func (d *Document) resource(i int, st *definitions.Structure, depth int) bool {
	m := d.nodes[i].member
	if m != nil && m.Name == "contained" {
		outer := d.holder
		d.holder = uint32(i)
		ok := d.object(i, st, depth)
		d.holder = outer
		if ok {
			d.checkContained(i, outer != 0)
		}
		return ok
	}
	outer, references, fragments := d.owner, len(d.references), len(d.fragments)
	contained, ids, late, holder := len(d.contained), len(d.ids), len(d.late), d.holder
	d.owner, d.holder = uint32(i), 0
	if !d.object(i, st, depth) {
		return false
	}
	d.checkReferences(d.contained[contained:], d.references[references:], d.fragments[fragments:])
	d.checkIDs(d.ids[ids:])
	for _, c := range d.late[late:] {
		c.run(Node{doc: d, index: c.node})
	}
	d.owner, d.holder = outer, holder
	d.references, d.fragments = d.references[:references], d.fragments[:fragments]
	d.contained, d.ids, d.late = d.contained[:contained], d.ids[:ids], d.late[:late]
	return true
}

// topicStatus is the one modifier extension that this server understands: the status of a
// topic of subscriptions (fhir/subscription/topic), which R4 represents as a Basic.
const topicStatus = "http://hl7.org/fhir/5.0/StructureDefinition/extension-SubscriptionTopic.status"

// note records what the checks of the resource need about a member of an object
// with structure st.
func (d *Document) note(i int, m *definitions.Member, st *definitions.Structure) {
	switch {
	case m.Name == "id":
		// The elements of a StructureDefinition have the same ids in the snapshot and
		// in the differential.
		if st.Kind != definitions.Resource && d.nodes[i].kind == String && st != d.validator.elementDefinition {
			d.ids = append(d.ids, elementID{uint32(i), d.holder})
		}
	case st.Kind == definitions.Resource && m.Name == "implicitRules":
		if d.validator.strict {
			d.broken(i, "", "names rules that this server does not know")
		}
	case m.Name == "extension" && st != d.validator.extension:
		// Only the extensions of an extension may have names that it defines.
		for e := (Node{doc: d, index: uint32(i)}).first(); e.Exists(); e = e.next() {
			if url := e.text("url"); len(url) > 0 && bytes.IndexByte(url, ':') < 0 {
				d.broken(int(e.index), "url", "the URL of an extension must be absolute, unless it is within an extension")
			}
		}
	case m.Name == "modifierExtension" && d.validator.strict:
		for e := (Node{doc: d, index: uint32(i)}).first(); e.Exists(); e = e.next() {
			if st.Name == "Basic" && string(e.text("url")) == topicStatus {
				continue
			}
			d.broken(int(e.index), "", "is a modifier extension that this server does not understand")
		}
	}
}

// checkContained checks a contained resource. nested is set if it is contained in
// a contained resource.
func (d *Document) checkContained(i int, nested bool) {
	n := Node{doc: d, index: uint32(i)}
	if nested {
		d.broken(i, "", "a contained resource must not contain others (dom-2)")
		return
	}
	if len(n.text("id")) == 0 {
		d.broken(i, "", "a contained resource needs an id")
	}
	meta := n.get("meta")
	if meta.exists("versionId") || meta.exists("lastUpdated") {
		d.broken(i, "", "a contained resource must not have meta.versionId or meta.lastUpdated (dom-4)")
	}
	if meta.exists("security") {
		d.broken(i, "", "a contained resource must not have meta.security (dom-5)")
	}
	d.contained = append(d.contained, n.index)
}

// checkIDs checks that no two elements of a resource have the same id (R4
// element.html#id).
func (d *Document) checkIDs(ids []elementID) {
	if len(ids) == 0 {
		return
	}
	type key struct {
		holder uint32
		id     string
	}
	seen := make(map[key]bool, len(ids))
	for _, e := range ids {
		text := (Node{doc: d, index: e.node}).Text()
		if bytes.IndexFunc(text, unicode.IsSpace) >= 0 {
			d.broken(int(e.node), "", "the id of an element must not have white space")
		}
		k := key{e.holder, string(text)}
		if seen[k] {
			d.broken(int(e.node), "", "two elements of a resource must not have the same id")
		}
		seen[k] = true
	}
}

// containedResources holds the contained resources of a resource while its
// references are checked.
type containedResources struct {
	nodes []uint32
	used  []bool           // there is a reference to or from the resource (dom-3)
	byID  map[string]int32 // if there are many
}

// manyContained is the number of contained resources above which they are looked
// up in a map.
const manyContained = 8

// find returns the index of the contained resource with an id, or -1.
func (r *containedResources) find(d *Document, id []byte) int {
	if r.byID != nil {
		if k, ok := r.byID[string(id)]; ok {
			return int(k)
		}
		return -1
	}
	for k, i := range r.nodes {
		if bytes.Equal((Node{doc: d, index: i}).text("id"), id) {
			return k
		}
	}
	return -1
}

// around returns the index of the contained resource around a node, or -1.
func (r *containedResources) around(d *Document, i uint32) int {
	k, found := slices.BinarySearch(r.nodes, i)
	if !found {
		k--
	}
	if k >= 0 && i < d.nodes[r.nodes[k]].next {
		return k
	}
	return -1
}

// checkReferences checks the references of a resource, its contained resources
// included.
func (d *Document) checkReferences(contained, references, fragments []uint32) {
	r := &containedResources{nodes: contained}
	if len(contained) > 0 {
		r.used = make([]bool, len(contained))
	}
	if len(contained) > manyContained {
		r.byID = make(map[string]int32, len(contained))
	}
	for k, i := range contained {
		id := (Node{doc: d, index: i}).text("id")
		if first := r.find(d, id); len(id) > 0 && first >= 0 && first != k {
			d.broken(int(i), "", "two contained resources have the same id")
		} else if r.byID != nil {
			r.byID[string(id)] = int32(k)
		}
	}
	for _, i := range references {
		d.checkReference(Node{doc: d, index: i}, r)
	}
	for _, i := range fragments {
		if k := r.find(d, (Node{doc: d, index: i}).Text()[1:]); k >= 0 {
			r.used[k] = true
		}
	}
	for k, i := range contained {
		if n := (Node{doc: d, index: i}); !r.used[k] && n.exists("id") {
			d.broken(int(i), "", "a contained resource must be referred to from the resource (dom-3)")
		}
	}
}

// checkReference checks a Reference: the form of its URL, its type, and the type
// of its target if it is known.
func (d *Document) checkReference(n Node, r *containedResources) {
	var targets *definitions.Targets
	if m := n.at().member; m != nil {
		targets = m.Targets
	}
	typ := d.validator.typeName(bytes.TrimPrefix(n.text("type"), typeBase))
	if typ != "" && targets != nil && !targets.Has(typ) {
		d.broken(int(n.index), "type", "is a type that this element cannot refer to")
	}
	ref := n.text("reference")
	if ref == nil {
		return
	}
	shown := "" // the type of the target
	if len(ref) > 0 && ref[0] == '#' {
		shown = d.fragment(n, ref[1:], r)
		if shown != "" && targets != nil && !targets.Has(shown) {
			d.broken(int(n.index), "", "refers to a contained resource of a type that is not allowed here")
		}
	} else {
		var relative bool
		shown, relative = d.target(n, ref)
		if shown != "" && relative && targets != nil && !targets.Has(shown) {
			d.structureIssue(int(n.index), "structure",
				"refers to a type that is not allowed here, or is not a reference")
		}
	}
	if typ != "" && shown != "" && typ != shown {
		d.broken(int(n.index), "type", "must be the type that the reference names")
	}
}

// fragment checks a reference to a contained resource, or to the container if id
// is empty, and returns the type of the target.
func (d *Document) fragment(n Node, id []byte, r *containedResources) string {
	if len(id) == 0 {
		// A reference to the container counts as the use of the contained resource
		// that has it (dom-3).
		if k := r.around(d, n.index); k >= 0 {
			r.used[k] = true
		}
		return d.nodes[d.owner].structure.Name
	}
	k := r.find(d, id)
	if k < 0 {
		d.broken(int(n.index), "", "refers to a contained resource that is not there (ref-1)")
		return ""
	}
	r.used[k] = true
	return d.nodes[r.nodes[k]].structure.Name
}

var typeBase = []byte("http://hl7.org/fhir/StructureDefinition/") // read only

// target checks a reference that is not a fragment and returns the type of its
// target, if it shows one, and whether the reference is relative.
func (d *Document) target(n Node, ref []byte) (typ string, relative bool) {
	if i := bytes.IndexByte(ref, '?'); i > 0 && d.validator.typeName(ref[:i]) != "" {
		d.broken(int(n.index), "", "is a conditional reference, which is resolved in a transaction only")
		return "", false
	}
	if scheme, rest, ok := bytes.Cut(ref, []byte{':'}); ok {
		if !absolute(scheme, rest) {
			d.broken(int(n.index), "", "is not an absolute URL of a known scheme: http, https or urn")
		}
		if i := bytes.Index(ref, historyPart); i >= 0 {
			ref = ref[:i]
		}
		if i := bytes.LastIndexByte(ref, '/'); i > 0 {
			ref = ref[:i]
			typ = d.validator.typeName(ref[bytes.LastIndexByte(ref, '/')+1:])
		}
		return typ, false
	}
	name, id, ok := bytes.Cut(ref, []byte{'/'})
	version := []byte{'1'}
	if i := bytes.Index(id, historyPart); i >= 0 {
		id, version = id[:i], id[i+len(historyPart):]
	}
	if typ = d.validator.typeName(name); ok && typ != "" && validID(id) && validID(version) {
		return typ, true
	}
	d.broken(int(n.index), "", "is neither Type/id with a type of R4, nor an absolute URL, nor a fragment")
	return "", true
}

var historyPart = []byte("/_history/") // read only

// absolute reports whether a reference is an http URL with a host, or a URN with
// a namespace. Other schemes do not identify resources, and some ("javascript:")
// are executed by clients that follow them.
func absolute(scheme, rest []byte) bool {
	switch strings.ToLower(string(scheme)) {
	case "http", "https":
		host, ok := bytes.CutPrefix(rest, []byte("//"))
		return ok && len(host) > 0 && host[0] != '/'
	case "urn":
		namespace, name, ok := bytes.Cut(rest, []byte{':'})
		return ok && len(namespace) > 1 && len(name) > 0
	}
	return false
}

// checkExtension checks an Extension: it has either a value or extensions, and
// its URL is absolute unless it is part of another extension.
func (d *Document) checkExtension(n Node) {
	if n.hasChoice("value") == n.exists("extension") {
		d.broken(int(n.index), "", "an extension must have either a value or extensions (ext-1)")
	}
}

// checkBinding checks a Coding or CodeableConcept with a required binding. One of
// the codings of a CodeableConcept must be in the value set (R4
// terminologies.html#required).
func (d *Document) checkBinding(i int, set *definitions.ValueSet) {
	n := Node{doc: d, index: uint32(i)}
	switch n.at().structure.Name {
	case "Coding":
		if !set.Has(n.text("system"), n.text("code")) {
			d.structureIssue(i, "code-invalid", ruleBinding)
		}
	case "CodeableConcept":
		for c := n.items("coding"); c.Exists(); c = c.next() {
			if set.Has(c.text("system"), c.text("code")) {
				return
			}
		}
		d.structureIssue(i, "code-invalid", ruleBinding)
	}
}

const ruleBinding = "does not have a code of its required value set"
