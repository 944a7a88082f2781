package explain

import (
	"bytes"
	"encoding/json"
	"maps"
	"slices"
	"strconv"
	"strings"
)

// compare returns the elements in which two resources differ, without their version
// facts.
func compare(stored, now []byte) []Change {
	a, b := leaves(stored), leaves(now)
	paths := map[string]bool{}
	for path := range a {
		paths[path] = true
	}
	for path := range b {
		paths[path] = true
	}
	var out []Change
	for _, path := range slices.Sorted(maps.Keys(paths)) {
		if a[path] != b[path] && path != "meta.versionId" && path != "meta.lastUpdated" {
			out = append(out, Change{path, a[path], b[path]})
		}
	}
	return out
}

// leaves returns the primitive values of a resource by their paths.
func leaves(body []byte) map[string]string {
	out := map[string]string{}
	dec := json.NewDecoder(bytes.NewReader(body))
	dec.UseNumber()
	var tree any
	if dec.Decode(&tree) != nil {
		return out
	}
	var walk func(path string, node any)
	walk = func(path string, node any) {
		switch n := node.(type) {
		case map[string]any:
			for name, child := range n {
				walk(strings.TrimPrefix(path+"."+name, "."), child)
			}
		case []any:
			for i, child := range n {
				walk(path+"["+strconv.Itoa(i)+"]", child)
			}
		case string:
			out[path] = n
		case json.Number:
			out[path] = n.String()
		case bool:
			out[path] = strconv.FormatBool(n)
		}
	}
	walk("", tree)
	return out
}
