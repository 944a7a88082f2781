package r4

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"

	"github.com/go-json-experiment/json/jsontext"

	"pulsegate/fhir"
)

// Bundle is a batch or transaction. Its resources have not been validated: each
// must pass Validator.Resource or Validator.Create.
type Bundle struct {
	Type    string // "batch" or "transaction"
	Entries []Entry
}

// Entry is one entry of a batch or transaction.
type Entry struct {
	FullURL         string
	Method          string // GET, HEAD, POST, PUT, PATCH, DELETE
	URL             string
	IfMatch         string
	IfNoneExist     string
	IfNoneMatch     string
	IfModifiedSince string
	Resource        []byte // nil if the entry has none
	// Err is set if the entry is malformed but the rest of the Bundle can be read.
	// In a batch it affects this entry only; a transaction fails.
	Err error
}

const opBundle = "r4.Bundle"

// envelopeDepth is the nesting that a Bundle adds to its resources: the array of
// entries, the entry and the resource.
const envelopeDepth = 3

// Bundle reads a batch or transaction.
func (val *Validator) Bundle(body []byte) (*Bundle, error) {
	v, err := compact(opBundle, body, val.limits.Bytes)
	if err != nil {
		return nil, err
	}
	// Scan the whole Bundle first. If that finds an issue, scan each part alone, so
	// that a malformed entry does not affect the others.
	part := func(string, jsontext.Value) error { return nil }
	scanErr := val.scanned("Bundle", val.limits.Depth+envelopeDepth, v)
	if scanErr != nil {
		part = func(path string, raw jsontext.Value) error { return val.scanned(path, val.limits.Depth+1, raw) }
	}
	b := &Bundle{}
	err = members(v, func(name string, raw jsontext.Value) error {
		switch name {
		case "resourceType":
			if t, ok := text(raw); !ok || t != "Bundle" {
				return malformed("Bundle.resourceType", "must be Bundle")
			}
		case "type":
			var ok bool
			if b.Type, ok = text(raw); !ok || b.Type != "batch" && b.Type != "transaction" {
				return malformed("Bundle.type", "must be batch or transaction")
			}
		case "entry":
			return val.entries(b, raw, part)
		case "implicitRules":
			return malformed("Bundle.implicitRules", "names rules that this server does not know")
		case "id", "meta", "language", "identifier", "timestamp", "link", "total", "signature":
			return part("Bundle."+name, raw)
		default:
			return malformed("Bundle", "has an element that R4 does not define here")
		}
		return nil
	})
	if err != nil {
		return nil, withPositions(body, hideForeign(err))
	}
	if b.Type == "" {
		return nil, malformed("Bundle.type", "must be batch or transaction")
	}
	for i := range b.Entries {
		err := b.Entries[i].Err
		if err != nil && b.Type == "transaction" {
			return nil, withPositions(body, err)
		}
		if err != nil {
			scanErr = nil // the issue belongs to an entry
		}
	}
	if scanErr != nil {
		return nil, withPositions(body, scanErr)
	}
	return b, nil
}

// withPositions adds the line and column in body to the issues of an error.
func withPositions(body []byte, err error) error {
	var e *fhir.Error
	if errors.As(err, &e) {
		locate(bytes.TrimPrefix(body, byteOrderMark), e.Issues)
	}
	return err
}

// hideForeign replaces errors of other packages, because they may quote the
// input.
func hideForeign(err error) error {
	if fhir.KindOf(err) == fhir.Internal {
		return malformed("Bundle", "is not a valid R4 Bundle")
	}
	return err
}

func malformed(path, rule string) *fhir.Error {
	e := issueError(fhir.Invalid, "structure", path, rule)
	e.Op = opBundle
	return e
}

// scanned scans a Bundle or a part of it.
func (val *Validator) scanned(path string, depth int, raw jsontext.Value) error {
	if string(raw) == "{}" || string(raw) == "[]" {
		return malformed(path, "must not be empty")
	}
	s := &scan{op: opBundle, maxDepth: depth, root: path}
	if err := s.run(raw); err != nil {
		return err
	}
	if len(s.issues) > 0 {
		return &fhir.Error{Kind: fhir.Invalid, Op: opBundle, Issues: s.issues}
	}
	return nil
}

func (val *Validator) entries(b *Bundle, raw jsontext.Value, part func(string, jsontext.Value) error) error {
	dec := jsontext.NewDecoder(bytes.NewReader(raw))
	if raw.Kind() != '[' {
		return malformed("Bundle.entry", "must be an array")
	}
	if _, err := dec.ReadToken(); err != nil {
		return err
	}
	for dec.PeekKind() != ']' {
		if len(b.Entries) == val.limits.Entries {
			e := malformed("Bundle.entry", "has more than "+itoa(val.limits.Entries)+" elements")
			e.Kind, e.Issues[0].Code = fhir.TooLarge, "too-long"
			return e
		}
		e, err := dec.ReadValue()
		if err != nil {
			return err
		}
		path := "Bundle.entry[" + itoa(len(b.Entries)) + "]"
		var entry Entry
		if entry.Err = part(path, e); entry.Err == nil {
			entry = readEntry(path, e)
		}
		b.Entries = append(b.Entries, entry)
	}
	return nil
}

func readEntry(path string, raw jsontext.Value) Entry {
	var e Entry
	if raw.Kind() != '{' {
		e.Err = malformed(path, "must be an object")
		return e
	}
	err := members(raw, func(name string, raw jsontext.Value) error {
		switch name {
		case "fullUrl":
			var ok bool
			if e.FullURL, ok = text(raw); !ok {
				return malformed(path+".fullUrl", "must be a string")
			}
		case "resource":
			if raw.Kind() != '{' {
				return malformed(path+".resource", "must be an object")
			}
			e.Resource = bytes.Clone(raw)
		case "request":
			if raw.Kind() != '{' {
				return malformed(path+".request", "must be an object")
			}
			return e.request(path+".request", raw)
		case "id", "extension", "link", "search", "response":
		default:
			return malformed(path, "has an element that R4 does not define here")
		}
		return nil
	})
	if err != nil {
		e.Err = hideForeign(err)
		return e
	}
	switch e.Method {
	case "GET", "HEAD", "POST", "PUT", "PATCH", "DELETE":
	default:
		e.Err = malformed(path+".request.method", "must be GET, HEAD, POST, PUT, PATCH or DELETE")
		return e
	}
	if e.URL == "" {
		e.Err = malformed(path+".request.url", "is required")
	} else if (e.Method == "POST" && !strings.Contains(e.URL, "$") || e.Method == "PUT") && e.Resource == nil {
		e.Err = malformed(path+".resource", "is required for "+e.Method)
	}
	return e
}

func (e *Entry) request(path string, raw jsontext.Value) error {
	return members(raw, func(name string, raw jsontext.Value) error {
		to := map[string]*string{"method": &e.Method, "url": &e.URL, "ifMatch": &e.IfMatch,
			"ifNoneExist": &e.IfNoneExist,
			"ifNoneMatch": &e.IfNoneMatch, "ifModifiedSince": &e.IfModifiedSince}[name]
		if to == nil {
			if name == "id" || name == "extension" {
				return nil
			}
			return malformed(path, "has an element that R4 does not define here")
		}
		var ok bool
		if *to, ok = text(raw); !ok {
			return malformed(path+"."+name, "must be a string")
		}
		return nil
	})
}

// text reads a JSON string.
func text(raw jsontext.Value) (string, bool) {
	var s string
	if raw.Kind() != '"' || json.Unmarshal(raw, &s) != nil {
		return "", false
	}
	return s, true
}
