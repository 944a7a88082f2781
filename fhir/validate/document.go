package validate

import (
	"pulsegate/fhir/definitions"
)

// Kind is the kind of a JSON value.
type Kind uint8

const (
	Missing Kind = iota // no value: the zero Node
	Object
	Array
	String
	Number
	True
	False
	Null
)

// node is a value of the tree. The nodes of a document are in the order of the
// body, so that the children of a node follow it.
type node struct {
	start, end uint32 // of the value in the body
	key        uint32 // of the name of a member; zero for an element of an array
	next       uint32 // index of the first node after the children; zero while the value is read
	kind       Kind
	shadow     bool // holds the id and the extensions of a primitive: a member with a leading underscore
	escaped    bool // the string has escape sequences
	// member defines the value. It is nil for a resource that is the root.
	member *definitions.Member
	// structure is the type of an object.
	structure *definitions.Structure
}

// Document is a resource that has been read. It refers to the body that it was
// read from. It is not safe for concurrent use, and not to be used after Release.
type Document struct {
	validator *Validator
	limits    Limits
	body      []byte
	nodes     []node
	pos       int
	// spaced is set if the body has white space between tokens.
	spaced      bool
	invalidUTF8 bool
	skipped     int // values without nodes
	stopped     stop
	issues      []issue
	malformed   bool              // an issue concerns the structure, not an invariant
	texts       map[uint32][]byte // unescaped strings, by node

	// The resource around the current value, for the rules about the whole resource.
	owner          uint32 // node of the resource that is not contained
	holder         uint32 // node of the contained resource; zero outside of one
	references     []uint32
	fragments      []uint32 // strings that refer to a contained resource without being references
	contained      []uint32
	ids            []elementID
	narrativeBytes int
	late           []lateCheck
	values         []Node // of profileCheck
	checked        []*definitions.Profile
	state          State
}

// State holds data of an implementation of Options.Compile about a Document, such
// as the body in another form.
type State interface {
	// Reset is called before the Document reads another body.
	Reset()
}

// State returns what SetState has set, or nil. It is kept when the Document is
// reused for another body.
func (d *Document) State() State { return d.state }

// SetState sets the state of d.
func (d *Document) SetState(s State) { d.state = s }

// elementID is the id of an element. Ids of elements are unique within a resource.
type elementID struct{ node, holder uint32 }

// lateCheck is a check that waits for the end of the resource.
type lateCheck struct {
	node uint32
	run  func(Node)
}

// stop is the reason why a body was not read to its end.
type stop uint8

const (
	stopNone stop = iota
	stopSyntax
	stopDepth
	stopValues
)

// Release returns the memory of d to the Validator.
func (d *Document) Release() {
	if cap(d.nodes) > maxPooledNodes {
		return
	}
	d.body = nil
	d.validator.documents.Put(d)
}

// maxPooledNodes bounds the memory that a released Document keeps.
const maxPooledNodes = 1 << 14

func (d *Document) reset(body []byte) {
	if d.state != nil {
		d.state.Reset()
	}
	*d = Document{validator: d.validator, limits: d.limits, body: body, nodes: d.nodes[:0], issues: d.issues[:0],
		references: d.references[:0], fragments: d.fragments[:0],
		contained: d.contained[:0], ids: d.ids[:0], late: d.late[:0], values: d.values[:0], checked: d.checked[:0],
		state: d.state}
}

// Root returns the resource.
func (d *Document) Root() Node { return Node{doc: d} }

// Node is a JSON value in a Document. The zero Node is no value; its methods may
// be called.
type Node struct {
	doc   *Document
	index uint32
	end   uint32 // index after the last sibling, for next; zero if it is not known
}

// Exists reports whether n is a value.
func (n Node) Exists() bool { return n.doc != nil }

func (n Node) at() *node { return &n.doc.nodes[n.index] }

// Document returns the Document of n.
func (n Node) Document() *Document { return n.doc }

// Owner returns the resource around n that is not contained in another one: the
// root, or an entry of a Bundle. It may be called by an Invariant.
func (n Node) Owner() Node { return Node{doc: n.doc, index: n.doc.owner} }

// Start returns the offset of n in the body.
func (n Node) Start() int { return int(n.at().start) }

// Kind returns the kind of JSON value that n is.
func (n Node) Kind() Kind {
	if n.doc == nil {
		return Missing
	}
	return n.at().kind
}

// Structure returns the definition of an object, or nil.
func (n Node) Structure() *definitions.Structure {
	if n.doc == nil {
		return nil
	}
	return n.at().structure
}

// Member returns the definition of a member, or of the elements of an array. It
// is nil for the root.
func (n Node) Member() *definitions.Member {
	if n.doc == nil {
		return nil
	}
	return n.at().member
}

// Shadow reports whether n holds the id and the extensions of a primitive.
func (n Node) Shadow() bool { return n.doc != nil && n.at().shadow }

// JSON returns the bytes of n in the body.
func (n Node) JSON() []byte {
	if n.doc == nil {
		return nil
	}
	return n.doc.body[n.at().start:n.at().end]
}

// Text returns the text of a string, without quotes and escape sequences. It is
// nil for other values. The slice is valid until the Document is released and
// must not be changed.
func (n Node) Text() []byte {
	if n.doc == nil || n.at().kind != String {
		return nil
	}
	s := n.doc.body[n.at().start+1 : n.at().end-1]
	if !n.at().escaped {
		return s
	}
	return n.doc.unescaped(n.index, s)
}

// unescaped returns the text of node i, a string with escape sequences. It keeps
// the text, so that a document has each text once.
func (d *Document) unescaped(i uint32, s []byte) []byte {
	text, ok := d.texts[i]
	if !ok {
		if d.texts == nil {
			d.texts = map[uint32][]byte{}
		}
		text = appendUnescaped(make([]byte, 0, len(s)), s)
		d.texts[i] = text
	}
	return text
}

// Children calls yield for each member of an object and each element of an array.
func (n Node) Children(yield func(Node) bool) {
	for c := n.first(); c.doc != nil; c = c.next() {
		if !yield(c) {
			return
		}
	}
}

// first returns the first member of an object or element of an array. Calls of
// next return the others:
//
//	for c := n.first(); c.Exists(); c = c.next() {
func (n Node) first() Node {
	if n.doc == nil || n.at().kind != Object && n.at().kind != Array {
		return Node{}
	}
	if end := n.after(); n.index+1 < end {
		return Node{n.doc, n.index + 1, end}
	}
	return Node{}
}

// next returns the value after n in its object or array. n must be a result of
// first or next.
func (n Node) next() Node {
	if i := n.at().next; i != 0 && i < n.end {
		return Node{n.doc, i, n.end}
	}
	return Node{}
}

// get returns a member of an object by its JSON name.
func (n Node) get(name string) Node { return n.find(name, false) }

// find returns a member, or the member that holds the extensions of a primitive.
func (n Node) find(name string, shadow bool) Node {
	if n.doc == nil || n.at().kind != Object {
		return Node{}
	}
	nodes := n.doc.nodes
	for i, end := n.index+1, n.after(); i < end; i = nodes[i].next {
		if c := &nodes[i]; c.shadow == shadow && c.member != nil && c.member.Name == name {
			return Node{doc: n.doc, index: i}
		}
	}
	return Node{}
}

// after returns the index after the children of n, also while n is read.
func (n Node) after() uint32 {
	if next := n.at().next; next != 0 {
		return next
	}
	return uint32(len(n.doc.nodes))
}

// exists reports whether n has a member with a value. An element that has only
// extensions does not count.
func (n Node) exists(name string) bool { return n.get(name).doc != nil }

// has reports whether n has an element with a value or with extensions.
func (n Node) has(name string) bool { return n.exists(name) || n.find(name, true).doc != nil }

// hasChoice reports whether n has a choice element of any type.
func (n Node) hasChoice(base string) bool { return n.choice(base).doc != nil }

// choice returns a choice element of any type.
func (n Node) choice(base string) Node {
	if n.doc == nil || n.at().kind != Object {
		return Node{}
	}
	st, nodes := n.at().structure, n.doc.nodes
	for i, end := n.index+1, n.after(); i < end; i = nodes[i].next {
		if m := nodes[i].member; m != nil && m.Choice && st.Elements[m.Element].Name == base {
			return Node{doc: n.doc, index: i}
		}
	}
	return Node{}
}

// text returns the text of a string member.
func (n Node) text(name string) []byte { return n.get(name).Text() }

// is reports whether a string member has a text.
func (n Node) is(name, want string) bool { return string(n.text(name)) == want }

// items returns the first element of an array member. Calls of next return the
// others.
func (n Node) items(name string) Node { return n.get(name).first() }
