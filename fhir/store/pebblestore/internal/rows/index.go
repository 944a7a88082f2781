package rows

import (
	"slices"
	"strings"
	"sync"

	"pulsegate/fhir/search"
	"pulsegate/fhir/store/pebblestore/internal/keys"
)

// indexed reports whether a parameter of a type has X rows.
func Indexed(p *search.Param) bool {
	switch p.Kind {
	case search.TypeToken, search.TypeReference, search.TypeURI:
	default:
		return false
	}
	if few := indexedFew(p.Type); few != nil {
		return slices.Contains(few, p.Code)
	}
	return p.Code != "_id"
}

var ( // read only
	fewOfObservation = []string{"identifier", "device"}
	fewOfAuditEvent  = []string{"patient", "entity"}
)

// indexedFew are the parameters of the types that have X rows for a few only.
func indexedFew(typ string) []string {
	switch typ {
	case "Observation":
		return fewOfObservation
	case "AuditEvent":
		return fewOfAuditEvent
	}
	return nil
}

// rowValues are the index values that a document's rows and its kind are made of,
// for the types of which there are many documents and few such rows.
var rowValues = sync.OnceValues(func() (map[string]*search.Selection, error) {
	out := map[string]*search.Selection{}
	for _, typ := range []string{"Observation", "AuditEvent"} {
		s, err := search.SelectStored(typ, append(SignatureParams[:], indexedFew(typ)...)...)
		if err != nil {
			return nil, err
		}
		out[typ] = s
	}
	return out, nil
})

// extractStored returns the values that the committer reads of a document;
// complete is false when it has others, too.
func ExtractStored(typ string, json []byte) (v *search.Values, complete bool, err error) {
	some, err := rowValues()
	if err != nil {
		return nil, false, err
	}
	if s := some[typ]; s != nil {
		v, err = search.Extractor{}.ExtractFor(s, json)
		return v, false, err
	}
	v, err = search.Extract(typ, json)
	return v, true, err
}

// indexValue is the value under which v has an X row; "" none.
func IndexValue(k search.ParamType, v *search.Value) string {
	if k == search.TypeReference {
		if v.HasSystem { // a logical reference
			return ""
		}
		if v.RefType != "" {
			return v.RefType + "/" + v.RefID
		}
	}
	return v.Code
}

// under is the parameter under which a value has its X rows. A patient whom an
// AuditEvent names as an entity is one of its patients, too: those rows are
// enough.
func IndexParam(typ, code, value string) string {
	if typ == "AuditEvent" && code == "entity" && strings.HasPrefix(value, "Patient/") {
		return "patient"
	}
	return code
}

// indexRows calls fn with every X prefix of a document.
func EachIndexPrefix(typ string, v *search.Values, fn func(prefix []byte)) {
	var seen []string
	of := func(code string, vals []search.Value) {
		p, ok := search.Lookup(typ, code)
		if !ok || !Indexed(p) {
			return
		}
		seen = seen[:0]
		for i := range vals {
			x := IndexValue(p.Kind, &vals[i])
			if x == "" || IndexParam(typ, code, x) != code || slices.Contains(seen, x) {
				continue
			}
			seen = append(seen, x)
			fn(keys.IndexPrefix(typ, code, x))
		}
	}
	if few := indexedFew(typ); few != nil {
		for _, code := range few {
			of(code, v.ByParam[code])
		}
		return
	}
	for code, vals := range v.ByParam {
		of(code, vals)
	}
}

// otherCodes are the clusters of the codings beside the primary one.
func OtherCodes(typ string, v *search.Values, primary [8]byte) [][8]byte {
	if typ != "Observation" {
		return nil
	}
	var out [][8]byte
	for i := range v.ByParam["code"] {
		c := v.ByParam["code"][i].Code
		if c == "" {
			continue
		}
		if h := keys.CodeHash(c); h != primary && !slices.Contains(out, h) {
			out = append(out, h)
		}
	}
	return out
}

// kindParams are what kinds know of; no leaf of a Shape is part of them.
var SignatureParams = [...]string{"category", "code", "status"} // read only
