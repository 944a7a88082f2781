package patch

import (
	"encoding/json"
	"reflect"
	"strconv"
	"strings"
)

// model applies one operation to a Go value, as RFC 6902 says and as simply as possible: it
// returns a new value.
func model(doc any, o map[string]any) (any, bool) {
	path, from := tokensOf(o["path"].(string)), tokensOf(o["from"].(string))
	switch o["op"] {
	case "add":
		return modelAdd(doc, path, o["value"])
	case "remove":
		return modelRemove(doc, path)
	case "replace":
		if len(path) == 0 {
			return o["value"], true
		}
		if _, ok := modelGet(doc, path); !ok {
			return nil, false
		}
		doc, _ = modelRemove(doc, path)
		return modelAdd(doc, path, o["value"])
	case "copy":
		v, ok := modelGet(doc, from)
		if !ok {
			return nil, false
		}
		return modelAdd(doc, path, v)
	case "test":
		v, ok := modelGet(doc, path)
		return doc, ok && reflect.DeepEqual(v, o["value"])
	}
	v, ok := modelGet(doc, from)
	if !ok || len(path) > len(from) && strings.HasPrefix(o["path"].(string), o["from"].(string)+"/") {
		return nil, false
	}
	if reflect.DeepEqual(path, from) {
		return doc, true
	}
	doc, ok = modelRemove(doc, from)
	if !ok {
		return nil, false
	}
	return modelAdd(doc, path, v)
}

func tokensOf(pointer string) []string {
	if pointer == "" {
		return nil
	}
	out := strings.Split(pointer[1:], "/")
	for i := range out {
		out[i] = strings.ReplaceAll(strings.ReplaceAll(out[i], "~1", "/"), "~0", "~")
	}
	return out
}

func modelGet(doc any, path []string) (any, bool) {
	if len(path) == 0 {
		return doc, true
	}
	switch x := doc.(type) {
	case map[string]any:
		v, ok := x[path[0]]
		if !ok {
			return nil, false
		}
		return modelGet(v, path[1:])
	case []any:
		i, err := strconv.Atoi(path[0])
		if err != nil || i < 0 || i >= len(x) {
			return nil, false
		}
		return modelGet(x[i], path[1:])
	}
	return nil, false
}

// modelEdit returns a copy of doc in which edit has changed the value that holds the last
// token.
func modelEdit(doc any, path []string, edit func(parent any, last string) (any, bool)) (any, bool) {
	var out any
	text, _ := json.Marshal(doc)
	if json.Unmarshal(text, &out) != nil {
		return nil, false
	}
	if len(path) == 1 {
		return edit(out, path[0])
	}
	switch x := out.(type) {
	case map[string]any:
		v, ok := x[path[0]]
		if !ok {
			return nil, false
		}
		x[path[0]], ok = modelEdit(v, path[1:], edit)
		return x, ok
	case []any:
		i, err := strconv.Atoi(path[0])
		if err != nil || i < 0 || i >= len(x) {
			return nil, false
		}
		var ok bool
		x[i], ok = modelEdit(x[i], path[1:], edit)
		return x, ok
	}
	return nil, false
}

func modelAdd(doc any, path []string, v any) (any, bool) {
	if len(path) == 0 {
		return v, true
	}
	return modelEdit(doc, path, func(parent any, last string) (any, bool) {
		switch x := parent.(type) {
		case map[string]any:
			x[last] = v
			return x, true
		case []any:
			i, err := strconv.Atoi(last)
			if last == "-" {
				i, err = len(x), nil
			}
			if err != nil || i < 0 || i > len(x) {
				return nil, false
			}
			return append(append(append([]any{}, x[:i]...), v), x[i:]...), true
		}
		return nil, false
	})
}

func modelRemove(doc any, path []string) (any, bool) {
	if len(path) == 0 {
		return nil, false
	}
	return modelEdit(doc, path, func(parent any, last string) (any, bool) {
		switch x := parent.(type) {
		case map[string]any:
			_, ok := x[last]
			delete(x, last)
			return x, ok
		case []any:
			i, err := strconv.Atoi(last)
			if err != nil || i < 0 || i >= len(x) {
				return nil, false
			}
			return append(append([]any{}, x[:i]...), x[i+1:]...), true
		}
		return nil, false
	})
}
