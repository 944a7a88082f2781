package ingest

import (
	"bytes"
	"cmp"
	"encoding/json"
	"maps"
	"slices"
	"strconv"
	"strings"

	"pulsegate/fhir"
)

// Kinds of changes that a new mapping makes to an Observation.
const (
	ChangeCodeAdded   = "code-added"
	ChangeCodeRemoved = "code-removed"
	ChangeText        = "text" // of a code or a unit, which has the same meaning
	ChangeUnit        = "unit"
	ChangeValue       = "value"
	ChangeCategory    = "category"
	ChangeProfile     = "profile"
	ChangeStatus      = "status"
	ChangeComponent   = "component" // added or removed
	ChangeIdentity    = "identity"  // the Observation has another id
	ChangeOther       = "other"
)

// ElementChange is one element that differs between two versions of an Observation.
// Before or After is "" if the element is absent.
type ElementChange struct {
	Kind    string `json:"kind"`
	Element string `json:"element"`
	Before  string `json:"before"`
	After   string `json:"after"`
}

// compareObservations returns the elements in which two versions of an Observation
// differ, by their paths. Codings and components are compared by their codes, not by
// their positions. The version, the time of the change and the status "amended" do
// not count.
func compareObservations(before, after []byte) ([]ElementChange, error) {
	old, err := flatten(before)
	if err != nil {
		return nil, err
	}
	updated, err := flatten(after)
	if err != nil {
		return nil, err
	}
	if old["status"] == "amended" && updated["status"] == "final" ||
		old["status"] == "final" && updated["status"] == "amended" {
		updated["status"] = old["status"]
	}
	paths := maps.Clone(old)
	maps.Copy(paths, updated)
	var out []ElementChange
	done := map[string]bool{} // components that were added or removed as a whole
	for _, path := range slices.Sorted(maps.Keys(paths)) {
		was, existed := old[path]
		is, exists := updated[path]
		if was == is && existed == exists {
			continue
		}
		if name, ok := componentOf(path); ok {
			inOld, inUpdated := hasComponent(old, name), hasComponent(updated, name)
			if !inOld || !inUpdated {
				if !done[name] {
					done[name] = true
					out = append(out, ElementChange{Kind: ChangeComponent, Element: name,
						Before: summary(old, name), After: summary(updated, name)})
				}
				continue
			}
		}
		out = append(out, ElementChange{Kind: kindOf(path, existed, exists), Element: path, Before: was, After: is})
	}
	return out, nil
}

// flatten returns the leaves of an Observation by their paths.
func flatten(body []byte) (map[string]string, error) {
	dec := json.NewDecoder(bytes.NewReader(body))
	dec.UseNumber()
	var tree map[string]any
	if err := dec.Decode(&tree); err != nil {
		return nil, fhir.Wrap("ingest.Remap", err)
	}
	if meta, ok := tree["meta"].(map[string]any); ok {
		delete(meta, "versionId")
		delete(meta, "lastUpdated")
	}
	out := map[string]string{}
	flattenInto(out, "", tree)
	return out, nil
}

func flattenInto(out map[string]string, path string, v any) {
	switch v := v.(type) {
	case map[string]any:
		if system, code, display, ok := codingOf(v); ok && strings.HasSuffix(path, "coding") {
			out[path+"["+system+"|"+code+"]"] = cmp.Or(display, code)
			return
		}
		for name, member := range v {
			flattenInto(out, strings.TrimPrefix(path+"."+name, "."), member)
		}
	case []any:
		for i, item := range v {
			switch {
			case strings.HasSuffix(path, "coding"):
				flattenInto(out, path, item)
			case path == "component" || path == "category":
				flattenInto(out, path+"["+nameOf(item, strconv.Itoa(i))+"]", item)
			default:
				flattenInto(out, path+"["+strconv.Itoa(i)+"]", item)
			}
		}
	case string:
		out[path] = v
	case json.Number:
		out[path] = v.String()
	case bool:
		out[path] = strconv.FormatBool(v)
	}
}

func codingOf(v map[string]any) (system, code, display string, ok bool) {
	system, _ = v["system"].(string)
	code, ok = v["code"].(string)
	display, _ = v["display"].(string)
	return system, code, display, ok
}

// nameOf returns the last code of a component or a category. For a component, that is
// the vendor's own code, which no pack changes.
func nameOf(item any, otherwise string) string {
	v, _ := item.(map[string]any)
	if concept, ok := v["code"].(map[string]any); ok {
		v = concept
	}
	codings, _ := v["coding"].([]any)
	if len(codings) == 0 {
		return otherwise
	}
	last, _ := codings[len(codings)-1].(map[string]any)
	code, _ := last["code"].(string)
	return cmp.Or(code, otherwise)
}

// componentOf returns the component that a path belongs to: "component[deep]" of
// "component[deep].valueQuantity.value".
func componentOf(path string) (string, bool) {
	if !strings.HasPrefix(path, "component[") {
		return "", false
	}
	end := strings.Index(path, "]")
	return path[:end+1], end > 0
}

func hasComponent(leaves map[string]string, name string) bool {
	for path := range leaves {
		if strings.HasPrefix(path, name) {
			return true
		}
	}
	return false
}

// summary returns the value of a component with its unit, or its code.
func summary(leaves map[string]string, component string) string {
	value := leaves[component+".valueQuantity.value"]
	if value != "" {
		return strings.TrimSpace(value + " " + leaves[component+".valueQuantity.unit"])
	}
	for _, path := range slices.Sorted(maps.Keys(leaves)) {
		if rest, ok := strings.CutPrefix(path, component+"."); ok && !strings.HasPrefix(rest, "code") {
			return cmp.Or(leaves[path], rest)
		}
	}
	if hasComponent(leaves, component) {
		return "present"
	}
	return ""
}

// kindOf returns the kind of a change of the element with a path.
func kindOf(path string, existed, exists bool) string {
	if name, ok := componentOf(path); ok {
		path = strings.TrimPrefix(path[len(name):], ".")
	}
	root, rest, _ := strings.Cut(path, ".")
	root, _, _ = strings.Cut(root, "[")
	switch {
	case root == "id" || root == "identifier":
		return ChangeIdentity
	case root == "status":
		return ChangeStatus
	case root == "category":
		return ChangeCategory
	case root == "meta" && strings.HasPrefix(rest, "profile"):
		return ChangeProfile
	case root == "code" && strings.HasPrefix(rest, "coding") && existed && exists, root == "code" && rest == "text":
		return ChangeText
	case root == "code" && strings.HasPrefix(rest, "coding") && exists:
		return ChangeCodeAdded
	case root == "code" && strings.HasPrefix(rest, "coding"):
		return ChangeCodeRemoved
	case strings.HasPrefix(root, "value") && strings.HasSuffix(path, ".unit"):
		return ChangeText
	case strings.HasPrefix(root, "value") && strings.Contains(path, "Quantity") && strings.HasSuffix(path, ".code"),
		strings.HasPrefix(root, "valueRange") && strings.HasSuffix(path, ".code"):
		return ChangeUnit
	case strings.HasPrefix(root, "value") && (strings.HasSuffix(path, ".display") || strings.HasSuffix(path, ".text")),
		strings.HasPrefix(root, "value") && strings.Contains(path, "coding[") && existed && exists:
		return ChangeText
	case strings.HasPrefix(root, "value") || root == "dataAbsentReason":
		return ChangeValue
	}
	return ChangeOther
}
