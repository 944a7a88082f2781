package main

import (
	"fmt"
	"net/http"
	"strconv"

	"pulsegate/conformance/cluster/history"
)

// conditionally does a conditional write of the Observation with an identifier, or reads
// it by a search. Whichever comes first creates it, and a delete lets it be created again.
func (w *worker) conditionally(n *node, key string) bool {
	marker := w.marker()
	in := history.Input{Kind: [...]history.Kind{history.Read, history.Ensure, history.Upsert, history.Patch,
		history.Remove}[w.random.IntN(5)], Key: key, New: strconv.Itoa(marker)}
	path := "Observation?identifier=urn:test|" + key
	o := w.history.Begin(w.number, in)
	switch in.Kind {
	case history.Read:
		status, out := w.json(n, "GET", path, nil)
		if status != http.StatusOK {
			return false
		}
		o.End(matchOf(out))
		return true
	case history.Ensure:
		return ended(o, in.Kind)(w.json(n, "POST", "Observation", w.body("", key, marker), "If-None-Exist",
			"identifier=urn:test|"+key))
	case history.Upsert:
		return ended(o, in.Kind)(w.json(n, "PUT", path, w.body("", key, marker)))
	case history.Patch:
		return ended(o, in.Kind)(w.json(n, "PATCH", path, fmt.Appendf(nil,
			`[{"op":"replace","path":"/valueQuantity/value","value":%d}]`, marker), "Content-Type",
			"application/json-patch+json"))
	}
	return ended(o, in.Kind)(w.json(n, "DELETE", path, nil))
}

// ended returns a function that records the answer to a conditional write.
func ended(o *history.Operation, kind history.Kind) func(status int, out map[string]any) bool {
	return func(status int, out map[string]any) bool {
		switch status {
		case http.StatusOK, http.StatusCreated, http.StatusNoContent:
			one := history.Output{Status: history.Done}
			if kind != history.Remove {
				one.Version, one.Value = version(out), value(out)
			}
			o.End(one)
		case http.StatusNotFound:
			if kind != history.Patch {
				return false
			}
			o.End(history.Output{Status: history.Refused})
		case http.StatusPreconditionFailed:
			o.End(history.Output{Status: history.Done, Value: "more than one match"})
		default:
			return false
		}
		return true
	}
}

// matchOf returns the only match of a search, or the value of none.
func matchOf(bundle map[string]any) history.Output {
	out := history.Output{Status: history.Done}
	entries, _ := bundle["entry"].([]any)
	for _, e := range entries {
		m, _ := e.(map[string]any)
		r, _ := m["resource"].(map[string]any)
		if out.Value != "" {
			out.Value = "more than one match"
			return out
		}
		out.Version, out.Value = version(r), value(r)
	}
	return out
}
