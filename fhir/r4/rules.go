package r4

import (
	"strings"

	"github.com/valyala/fastjson"

	"pulsegate/fhir"
	"pulsegate/fhir/search"
)

// rules checks what google/fhir does not: R4's invariants as far as they are
// cheap and sure. The key of each (obs-6, ext-1) is in its text.
type rules struct {
	typ       string
	root      *fastjson.Value
	contained map[string]bool // ids of contained resources
	used      map[string]bool // fragments that are referred to
	narrated  int             // bytes of narrative seen
	issues    []fhir.Issue
}

// shape checks that nulls in arrays of primitives stand where the twin array
// has the extensions. It runs before google/fhir, which does not see them.
func (r *rules) shape() error {
	r.nulls(r.typ, r.root)
	return r.err(fhir.Invalid, "structure")
}

func (r *rules) check() error {
	r.contained, r.used = map[string]bool{}, map[string]bool{}
	for _, c := range r.root.GetArray("contained") {
		r.containedRules(c)
	}
	r.object(r.typ, "", r.root)
	for id := range r.contained {
		if !r.used[id] && !r.used[""] {
			r.add(r.typ+".contained", "a contained resource must be referred to from the resource (dom-3)")
			break
		}
	}
	r.ofType()
	return r.err(fhir.Unprocessable, "invariant")
}

func (r *rules) add(place, rule string) {
	if len(r.issues) < maxIssues {
		r.issues = append(r.issues, fhir.Issue{Severity: "error", Diagnostics: rule, Expression: []string{place}})
	}
}

func (r *rules) err(k fhir.Kind, code string) error {
	if len(r.issues) == 0 {
		return nil
	}
	for i := range r.issues {
		r.issues[i].Code = code
	}
	return &fhir.Error{Kind: k, Op: op, Issues: r.issues}
}

// codes checks the codes of closed lists to the letter: google/fhir takes them
// in any case, and by the names of its own enumerations.
func (r *rules) codes(all *shapes, place string, v *fastjson.Value) {
	if sh := all.of(string(v.GetStringBytes("resourceType"))); sh != nil {
		r.closed(all, place, sh, v)
	}
}

func (r *rules) closed(all *shapes, place string, sh *shape, v *fastjson.Value) {
	v.GetObject().Visit(func(key []byte, e *fastjson.Value) {
		m, known := sh.members[string(key)]
		if !known {
			return
		}
		list := []*fastjson.Value{e}
		if e.Type() == fastjson.TypeArray {
			list = e.GetArray()
		}
		for i, e := range list {
			at := place + "." + string(key)
			if m.repeated {
				at += "[" + itoa(i) + "]"
			}
			switch m.shape.form {
			case coded:
				if e.Type() == fastjson.TypeString && !m.shape.codes[string(e.GetStringBytes())] {
					r.add(at, "does not have a code of its required value set")
				}
			case object, reference:
				r.closed(all, at, m.shape, e)
			case unsure:
				if string(key) == "contained" {
					r.codes(all, at, e)
				}
			}
		}
	})
}

func (r *rules) nulls(place string, v *fastjson.Value) {
	v.GetObject().Visit(func(key []byte, m *fastjson.Value) {
		name := string(key)
		at := below(place, name)
		switch m.Type() {
		case fastjson.TypeObject:
			r.nulls(at, m)
		case fastjson.TypeArray:
			r.aligned(at, name, m, v)
			for _, e := range m.GetArray() {
				if e.Type() == fastjson.TypeObject {
					r.nulls(at, e)
				}
			}
		}
	})
}

// aligned checks one array that may hold nulls against its twin.
func (r *rules) aligned(at, name string, m, parent *fastjson.Value) {
	list := m.GetArray()
	has := false
	for _, e := range list {
		has = has || e.Type() == fastjson.TypeNull
	}
	if !has {
		return
	}
	twin := "_" + name
	if n, ok := strings.CutPrefix(name, "_"); ok {
		twin = n
	}
	other := parent.GetArray(twin)
	if len(other) != len(list) {
		r.add(at, "null is allowed only in an array beside its extensions, of the same length")
		return
	}
	for i, e := range list {
		t, u := e.Type(), other[i].Type()
		if t == fastjson.TypeNull && u == fastjson.TypeNull {
			r.add(at, "an element has neither value nor extension")
			return
		}
		extension := name[0] == '_'
		if t != fastjson.TypeNull && extension != (t == fastjson.TypeObject) || t == fastjson.TypeArray {
			r.add(at, "an element has the wrong JSON type")
			return
		}
		if !extension && t != fastjson.TypeNull && t != fastjson.TypeString {
			r.add(at, "an element has the wrong JSON type")
			return
		}
	}
}

// below is the place of a member; names that R4 does not know are not
// repeated.
func below(place, name string) string {
	name = strings.TrimPrefix(name, "_")
	if !names().elements[name] {
		name = "(unknown)"
	}
	return place + "." + name
}

func (r *rules) containedRules(c *fastjson.Value) {
	place := r.typ + ".contained"
	if id := c.GetStringBytes("id"); len(id) > 0 {
		if r.contained[string(id)] {
			r.add(place, "two contained resources have the same id")
		}
		r.contained[string(id)] = true
	} else {
		r.add(place, "a contained resource needs an id")
	}
	if c.Exists("contained") {
		r.add(place, "a contained resource must not contain others (dom-2)")
	}
	if c.Exists("meta", "versionId") || c.Exists("meta", "lastUpdated") {
		r.add(place, "a contained resource has no meta.versionId and no meta.lastUpdated (dom-4)")
	}
	if c.Exists("meta", "security") {
		r.add(place, "a contained resource has no meta.security (dom-5)")
	}
}

// object checks the rules of data types, whatever resource they are in.
func (r *rules) object(place, name string, v *fastjson.Value) {
	r.dataType(place, name, v)
	v.GetObject().Visit(func(key []byte, m *fastjson.Value) {
		k := string(key)
		switch m.Type() {
		case fastjson.TypeObject:
			r.object(below(place, k), strings.TrimPrefix(k, "_"), m)
		case fastjson.TypeArray:
			for i, e := range m.GetArray() {
				if e.Type() == fastjson.TypeObject {
					r.object(below(place, k)+"["+itoa(i)+"]", strings.TrimPrefix(k, "_"), e)
				}
			}
		}
	})
}

func (r *rules) dataType(place, name string, v *fastjson.Value) {
	switch {
	case name == "modifierExtension":
		r.add(place, "is a modifier extension that this server does not understand")
		return
	case name == "extension":
		r.extension(place, v)
		return
	case name == "text" && v.Exists("div"):
		r.narrative(place, v.GetStringBytes("div"))
	case name == "telecom" && v.Exists("value") && !v.Exists("system"):
		r.add(place, "a contact point with a value needs a system (cpt-2)")
	case strings.HasPrefix(name, "referenceRange") && !v.Exists("low") && !v.Exists("high") && !v.Exists("text"):
		r.add(place, "a reference range needs low, high or text (obs-3)")
	}
	if ref := v.Get("reference"); ref != nil && ref.Type() == fastjson.TypeString {
		r.reference(place, string(ref.GetStringBytes()))
	}
	if v.Exists("start") && v.Exists("end") {
		lo, _, ok1 := search.DateInterval(string(v.GetStringBytes("start")))
		_, hi, ok2 := search.DateInterval(string(v.GetStringBytes("end")))
		if ok1 && ok2 && lo >= hi {
			r.add(place, "a period must not end before it starts (per-1)")
		}
	}
	if n := v.Get("value"); n != nil && n.Type() == fastjson.TypeNumber && v.Exists("code") && !v.Exists("system") {
		r.add(place, "a quantity with a code needs a system (qty-3)")
	}
}

func (r *rules) extension(place string, v *fastjson.Value) {
	values, nested := 0, v.Exists("extension")
	v.GetObject().Visit(func(key []byte, _ *fastjson.Value) {
		k := strings.TrimPrefix(string(key), "_")
		if strings.HasPrefix(k, "value") && !(key[0] == '_' && v.Exists(k)) {
			values++
		}
	})
	if values == 0 && !nested || values > 0 && nested {
		r.add(place, "an extension has either a value or extensions, not both and not neither (ext-1)")
	}
	if ref := v.Get("valueReference", "reference"); ref != nil {
		r.reference(place, string(ref.GetStringBytes()))
	}
}

// narrative checks the XHTML of a Narrative. All narratives of a resource
// share one bound.
func (r *rules) narrative(place string, div []byte) {
	if r.narrated += len(div); r.narrated > maxNarrative {
		r.add(place, "the narratives of a resource must not be longer than 1 MiB in total")
		return
	}
	if rule := checkNarrative(div); rule != "" {
		r.add(place, rule)
	}
}

func (r *rules) reference(place, ref string) {
	if id, ok := strings.CutPrefix(ref, "#"); ok {
		r.used[id] = true
		if id != "" && !r.contained[id] {
			r.add(place, "refers to a contained resource that is not there (ref-1)")
		}
		return
	}
	if strings.Contains(ref, ":") {
		return // absolute, urn
	}
	if t, _, ok := strings.Cut(ref, "/"); ok && names().resources[t] {
		if _, ok := fhir.ParseRef(ref); ok || strings.Contains(ref, "?") {
			return
		}
	}
	r.add(place, "is neither Type/id with a type of R4, nor an absolute URL, nor a fragment")
}
