package r4

import (
	"bytes"
	"encoding/json"
	"errors"

	"github.com/go-json-experiment/json/jsontext"

	"pulsegate/fhir"
)

// Bundle is a batch or transaction as it came in. Its resources are raw: each
// still has to pass Door.Resource or Door.Create.
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
	Resource        []byte // nil when the entry has none
	// Err says what is wrong with the entry, if the Bundle around it can be
	// read: it fails a transaction, and concerns no other entry of a batch.
	Err error
}

const opBundle = "r4.Bundle"

// envelope is deeper than a resource by entry, element and resource.
const envelope = 3

// Bundle reads a batch or transaction.
func (d *Validator) Bundle(body []byte) (*Bundle, error) {
	v, err := compact(opBundle, body, d.limits.Bytes)
	if err != nil {
		return nil, err
	}
	// One scan of the whole is enough unless it finds something: then each part
	// is scanned by itself, so that one entry does not concern the others.
	part := func(string, jsontext.Value) error { return nil }
	flaw := d.scanned("Bundle", d.limits.Depth+envelope, v)
	if flaw != nil {
		part = func(place string, raw jsontext.Value) error { return d.scanned(place, d.limits.Depth+1, raw) }
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
			return d.entries(b, raw, part)
		case "implicitRules":
			return malformed("Bundle.implicitRules", implicitRule)
		case "id", "meta", "language", "identifier", "timestamp", "link", "total", "signature":
			return part("Bundle."+name, raw)
		default:
			return malformed("Bundle", "has an element that R4 does not define here")
		}
		return nil
	})
	if err != nil {
		return nil, placed(body, foreign(err))
	}
	if b.Type == "" {
		return nil, malformed("Bundle.type", "must be batch or transaction")
	}
	for i := range b.Entries {
		err := b.Entries[i].Err
		if err != nil && b.Type == "transaction" {
			return nil, placed(body, err)
		}
		if err != nil {
			flaw = nil // it is an entry's
		}
	}
	if flaw != nil {
		return nil, placed(body, flaw)
	}
	return b, nil
}

// placed adds line and column of the body to the issues of an error.
func placed(body []byte, err error) error {
	var e *fhir.Error
	if errors.As(err, &e) {
		locate(bytes.TrimPrefix(body, byteOrderMark), e.Issues)
	}
	return err
}

// foreign hides what is not an error of ours; it may quote the input.
func foreign(err error) error {
	if fhir.KindOf(err) == fhir.Internal {
		return malformed("Bundle", "is not a valid R4 Bundle")
	}
	return err
}

func malformed(place, rule string) *fhir.Error {
	e := refuse(fhir.Invalid, "structure", place, rule)
	e.Op = opBundle
	return e
}

// scanned reports what a scan finds in a Bundle or a part of it.
func (d *Validator) scanned(place string, depth int, raw jsontext.Value) error {
	if string(raw) == "{}" || string(raw) == "[]" {
		return malformed(place, "must not be empty")
	}
	s := &scan{op: opBundle, maxDepth: depth, root: place}
	if err := s.run(raw); err != nil {
		return err
	}
	if len(s.issues) > 0 {
		return &fhir.Error{Kind: fhir.Invalid, Op: opBundle, Issues: s.issues}
	}
	return nil
}

func (d *Validator) entries(b *Bundle, raw jsontext.Value, part func(string, jsontext.Value) error) error {
	dec := jsontext.NewDecoder(bytes.NewReader(raw))
	if raw.Kind() != '[' {
		return malformed("Bundle.entry", "must be an array")
	}
	if _, err := dec.ReadToken(); err != nil {
		return err
	}
	for dec.PeekKind() != ']' {
		if len(b.Entries) == d.limits.Entries {
			e := malformed("Bundle.entry", "has more than "+itoa(d.limits.Entries)+" elements")
			e.Kind, e.Issues[0].Code = fhir.TooLarge, "too-long"
			return e
		}
		e, err := dec.ReadValue()
		if err != nil {
			return err
		}
		place := "Bundle.entry[" + itoa(len(b.Entries)) + "]"
		var entry Entry
		if entry.Err = part(place, e); entry.Err == nil {
			entry = readEntry(place, e)
		}
		b.Entries = append(b.Entries, entry)
	}
	return nil
}

func readEntry(place string, raw jsontext.Value) Entry {
	var e Entry
	if raw.Kind() != '{' {
		e.Err = malformed(place, "must be an object")
		return e
	}
	err := members(raw, func(name string, raw jsontext.Value) error {
		switch name {
		case "fullUrl":
			var ok bool
			if e.FullURL, ok = text(raw); !ok {
				return malformed(place+".fullUrl", "must be a string")
			}
		case "resource":
			if raw.Kind() != '{' {
				return malformed(place+".resource", "must be an object")
			}
			e.Resource = bytes.Clone(raw)
		case "request":
			if raw.Kind() != '{' {
				return malformed(place+".request", "must be an object")
			}
			return e.request(place+".request", raw)
		case "id", "extension", "link", "search", "response":
		default:
			return malformed(place, "has an element that R4 does not define here")
		}
		return nil
	})
	if err != nil {
		e.Err = foreign(err)
		return e
	}
	switch e.Method {
	case "GET", "HEAD", "POST", "PUT", "PATCH", "DELETE":
	default:
		e.Err = malformed(place+".request.method", "must be GET, HEAD, POST, PUT, PATCH or DELETE")
		return e
	}
	if e.URL == "" {
		e.Err = malformed(place+".request.url", "is required")
	} else if (e.Method == "POST" || e.Method == "PUT") && e.Resource == nil {
		e.Err = malformed(place+".resource", "is required for "+e.Method)
	}
	return e
}

func (e *Entry) request(place string, raw jsontext.Value) error {
	return members(raw, func(name string, raw jsontext.Value) error {
		to := map[string]*string{"method": &e.Method, "url": &e.URL, "ifMatch": &e.IfMatch,
			"ifNoneExist": &e.IfNoneExist,
			"ifNoneMatch": &e.IfNoneMatch, "ifModifiedSince": &e.IfModifiedSince}[name]
		if to == nil {
			if name == "id" || name == "extension" {
				return nil
			}
			return malformed(place, "has an element that R4 does not define here")
		}
		var ok bool
		if *to, ok = text(raw); !ok {
			return malformed(place+"."+name, "must be a string")
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
