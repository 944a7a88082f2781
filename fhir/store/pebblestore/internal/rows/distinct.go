package rows

import "slices"

// distinct tells which values are the first of their kind. The time for a value does not
// grow with their number, so that a document with a great many does not hold up the
// committer.
type distinct[K comparable] struct {
	few  []K
	many map[K]struct{} // holds all, once there are more than fewDistinct
}

const fewDistinct = 16

// add reports whether k was not added before.
func (d *distinct[K]) add(k K) bool {
	if d.many != nil {
		n := len(d.many)
		d.many[k] = struct{}{}
		return len(d.many) > n
	}
	if slices.Contains(d.few, k) {
		return false
	}
	if d.few = append(d.few, k); len(d.few) > fewDistinct {
		d.many = make(map[K]struct{}, 4*fewDistinct)
		for _, k := range d.few {
			d.many[k] = struct{}{}
		}
	}
	return true
}
