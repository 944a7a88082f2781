package jsonitem

import (
	"strconv"

	"pulsegate/adapters"
	"pulsegate/mapping/sample"
)

// wrong notes that n was read as another type than it has.
func (n *Node) wrong(is bool) {
	if is {
		n.misread = true
	}
}

// Refuse notes that n has a type that the caller cannot read.
func (n *Node) Refuse() { n.wrong(n.Kind != 'n') }

// List returns the values of an array, or nil for other values.
func (n *Node) List() []Node {
	if n == nil {
		return nil
	}
	n.wrong(n.Kind != '[' && n.Kind != 'n')
	return n.Items
}

// Fields returns the members of an object, or nil for other values.
func (n *Node) Fields() []Member {
	if n == nil {
		return nil
	}
	n.wrong(n.Kind != '{' && n.Kind != 'n')
	return n.Members
}

// Misread returns the path of the first value in n that was read as another type than it
// has: an object as a text, for example. It returns "" if there is none. The path has
// only names that the caller passed to Get.
func (n *Node) Misread() string {
	_, path := n.misreadPath("")
	return path
}

func (n *Node) misreadPath(path string) (found bool, at string) {
	if n.misread {
		if path == "" {
			path = "the item"
		}
		return true, path
	}
	for i := range n.Members {
		m := &n.Members[i]
		inner := path
		if m.Value.asked {
			if inner != "" {
				inner += "."
			}
			inner += m.Name
		}
		if found, at := m.Value.misreadPath(inner); found {
			return true, at
		}
	}
	for i := range n.Items {
		if k := n.Items[i].Kind; k != '{' && k != '[' && !n.Items[i].misread {
			continue
		}
		if found, at := n.Items[i].misreadPath(path + "[" + strconv.Itoa(i) + "]"); found {
			return true, at
		}
	}
	return false, ""
}

// Watch is a sink that notes what an item gives, and rejects what was read of it as a
// wrong type.
type Watch struct {
	adapters.Sink
	samples, rejects int
	metric, id       string // of the last sample
}

// Sample passes s on.
func (w *Watch) Sample(s *sample.Sample) error {
	w.samples++
	w.metric, w.id = s.Metric, s.VendorID
	return w.Sink.Sample(s)
}

// Reject passes r on.
func (w *Watch) Reject(r *sample.Reject) error {
	w.rejects++
	return w.Sink.Reject(r)
}

// Item calls read, which reads the item n. If read reports nothing although a value of n
// has a wrong type, Item rejects that value, or the item if it gave no sample. where is
// the position of the item.
func (w *Watch) Item(n *Node, where func() string, read func() error) error {
	samples, rejects := w.samples, w.rejects
	if err := read(); err != nil || w.rejects > rejects {
		return err
	}
	path := n.Misread()
	if path == "" {
		return nil
	}
	r := sample.Reject{Reason: sample.ReasonBadValue, Where: where(), Detail: path + " has a wrong type"}
	if w.samples > samples {
		r.Metric, r.VendorID, r.Component = w.metric, w.id, path
	} else {
		r.Raw = n.JSON()
	}
	return w.Reject(&r)
}
