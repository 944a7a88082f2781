package rows

import (
	"slices"
	"strings"
	"sync"

	"pulsegate/fhir/search"
	"pulsegate/fhir/store/pebblestore/internal/keys"
)

// Indexed reports whether a search parameter has X rows.
func Indexed(p *search.Param) bool {
	switch p.Type {
	case search.TypeToken, search.TypeReference, search.TypeURI:
	default:
		return false
	}
	if few := indexedFew(p.ResourceType); few != nil {
		return slices.Contains(few, p.Code)
	}
	return p.Code != "_id"
}

var ( // read only
	fewOfObservation  = append([]string{"identifier", "device"}, lateOfObservation...)
	lateOfObservation = []string{"performer", "subject", "encounter"}
	fewOfAuditEvent   = []string{"patient", "entity"}
)

// Late reports whether a parameter of Observation has the rows that version 2 of the index
// added. A reference to the patient in whose cluster the Observation lies has none:
// most Observations name no other person, and the cluster is walked instead.
func Late(p *search.Param) bool {
	return p.ResourceType == "Observation" && slices.Contains(lateOfObservation, p.Code) && !Runtime(p)
}

// TagParams returns the parameters of Observation under which a series has Y rows.
func TagParams() []string { return fewOfObservation }

// Builds reports whether the documents of a type have rows that schema 4 did not have.
func Builds(typ string) bool { return Generic(typ) || typ == "Observation" }

// OwnPatient reports whether an index value of a Late parameter names the patient in whose
// cluster the resource lies.
func OwnPatient(typ, code, value, patient string) bool {
	id, ok := strings.CutPrefix(value, "Patient/")
	return ok && id == patient && typ == "Observation" && slices.Contains(lateOfObservation, code)
}

// indexedFew returns the only parameters of a type that have X rows, or nil if the
// type has no such restriction.
func indexedFew(typ string) []string {
	switch typ {
	case "Observation":
		return fewOfObservation
	case "AuditEvent":
		return fewOfAuditEvent
	}
	return nil
}

// rowValues selects the index values that the rows and the signature of a document
// need, for the types that have many documents and few X rows.
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

// ExtractStored returns the index values that the committer needs of a document. If
// complete is false, the document has others.
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

// IndexValue returns the value under which v has an X row, or "" if it has none.
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

// IndexParam returns the parameter under which a value has its X rows. A patient
// that an AuditEvent names as an entity is also one of its patients; the rows of
// "patient" suffice.
func IndexParam(typ, code, value string) string {
	if typ == "AuditEvent" && code == "entity" && strings.HasPrefix(value, "Patient/") {
		return "patient"
	}
	return code
}

// EachIndexPrefix calls fn with the prefix of every X row of a document under the
// parameters of R4. If ordered is not set, it leaves out the rows that schema 5 added.
func EachIndexPrefix(typ string, v *search.Values, ordered bool, fn func(prefix []byte)) {
	of := func(code string, vals []search.Value) {
		p, ok := search.Stored(typ, code)
		if !ok {
			return
		}
		eachValue(p, vals, ordered, func(x string) {
			if IndexParam(typ, code, x) == code && !OwnPatient(typ, code, x, v.Patient) {
				fn(keys.IndexPrefix(typ, code, x))
			}
		})
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

// OtherCodes returns the clusters of an Observation's codings other than the
// primary one.
func OtherCodes(typ string, v *search.Values, primary [8]byte) [][8]byte {
	if typ != "Observation" {
		return nil
	}
	var out [][8]byte
	var seen distinct[[8]byte]
	for i := range v.ByParam["code"] {
		c := v.ByParam["code"][i].Code
		if c == "" {
			continue
		}
		if h := keys.CodeHash(c); h != primary && seen.add(h) {
			out = append(out, h)
		}
	}
	return out
}

// SignatureParams are the parameters that a signature of documents covers (see
// package find). They must have no leaf in a search.Template.
var SignatureParams = [...]string{"category", "code", "status"} // read only
