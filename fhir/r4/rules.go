package r4

import (
	"slices"
	"strings"
	"unicode"

	"github.com/valyala/fastjson"

	"pulsegate/fhir"
)

// rules checks what google/fhir does not: R4's invariants as far as they are
// sure. The key of each (obs-6, ext-1) is in its text. All issues of a body
// are gathered, up to maxIssues.
type rules struct {
	typ       string
	all       *shapes
	root      *fastjson.Value
	path      places            // where the walk stands
	contained map[string]string // ids of contained resources, with their types
	holder    string            // id of the contained resource that the walk is in
	used      map[string]bool   // contained resources that are referred to, or that refer to their container
	ids       map[elementID]bool
	narrated  int // bytes of narrative seen
	issues    []fhir.Issue
	malformed bool // an issue is about the form, not about an invariant
	uneven    bool // a repeated primitive has more or fewer values than extensions
}

// elementID is the id of an element, which is unique within one resource.
type elementID struct{ holder, id string }

// prepare reads what later checks ask of the contained resources.
func (r *rules) prepare() {
	for i, c := range r.root.GetArray("contained") {
		if r.contained == nil {
			r.contained = map[string]string{}
		}
		r.containedRules(i, c)
	}
}

// check walks the whole resource for the rules that both plain and other
// resources are held against here.
func (r *rules) check() {
	r.object("", r.root)
	for i, c := range r.root.GetArray("contained") {
		if id := string(c.GetStringBytes("id")); id != "" && !r.used[id] {
			r.broken("contained["+itoa(i)+"]", "a contained resource must be referred to from the resource (dom-3)")
		}
	}
}

// broken reports an invariant that the object at the present place breaks.
func (r *rules) broken(member, rule string) { r.add("invariant", member, rule) }

// structure reports a form that is wrong at the present place. It says more
// than google/fhir has said of that place, and takes the place of that.
func (r *rules) structure(code, rule string) {
	r.malformed = true
	place := r.path.expression(r.typ)
	for i := range r.issues {
		if is := &r.issues[i]; is.Diagnostics == wrongForm && slices.Contains(is.Expression, place) {
			is.Code, is.Diagnostics = code, rule
			return
		}
	}
	r.add(code, "", rule)
}

func (r *rules) add(code, member, rule string) {
	place := r.path.expression(r.typ)
	if member != "" {
		place += "." + member
	}
	r.issue(fhir.Issue{Severity: "error", Code: code, Diagnostics: rule, Expression: []string{place}})
}

// issue adds an issue unless the same is known, up to maxIssues.
func (r *rules) issue(is fhir.Issue) {
	if len(r.issues) >= maxIssues {
		return
	}
	for i := range r.issues {
		if r.issues[i].Diagnostics == is.Diagnostics && slices.Equal(r.issues[i].Expression, is.Expression) {
			return
		}
	}
	r.issues = append(r.issues, is)
}

// err returns the issues found, with their positions in body.
func (r *rules) err(body []byte) error {
	if len(r.issues) == 0 {
		return nil
	}
	locate(body, r.issues)
	kind := fhir.Unprocessable
	if r.malformed {
		kind = fhir.Invalid
	}
	return &fhir.Error{Kind: kind, Op: op, Issues: r.issues}
}

// use notes that a contained resource is referred to.
func (r *rules) use(id string) {
	if r.used == nil {
		r.used = map[string]bool{}
	}
	r.used[id] = true
}

// nulls checks that nulls in arrays of primitives stand where the parallel
// array has the extensions. google/fhir does not see them.
func (r *rules) nulls(v *fastjson.Value) {
	v.GetObject().Visit(func(key []byte, m *fastjson.Value) {
		name := string(key)
		switch m.Type() {
		case fastjson.TypeObject:
			r.each(name, m, r.nulls)
		case fastjson.TypeArray:
			r.aligned(name, m, v)
			r.each(name, m, func(e *fastjson.Value) {
				if e.Type() == fastjson.TypeObject {
					r.nulls(e)
				}
			})
		}
	})
}

// aligned checks one array that may hold nulls against its parallel array.
// Either may be the shorter one: what it lacks at its end is not there.
func (r *rules) aligned(name string, m, parent *fastjson.Value) {
	list := m.GetArray()
	other, extension := strings.CutPrefix(name, "_")
	if !extension {
		other = "_" + name
	}
	uneven := extension && len(parent.GetArray(other)) != len(list)
	r.uneven = r.uneven || uneven
	if !uneven && !slices.ContainsFunc(list, func(e *fastjson.Value) bool { return e.Type() == fastjson.TypeNull }) {
		return
	}
	r.path = append(r.path, step{name, -1})
	defer func() { r.path = r.path[:len(r.path)-1] }()
	if !extension && !parent.Exists(other) {
		r.structure("structure", "null is allowed only in an array beside its extensions")
		return
	}
	others := parent.GetArray(other)
	for i, e := range list {
		switch e.Type() {
		case fastjson.TypeNull:
			if i >= len(others) || others[i].Type() == fastjson.TypeNull {
				r.structure("structure", "an element has neither value nor extension")
				return
			}
		case fastjson.TypeObject:
			if !extension {
				r.structure("structure", "an element has the wrong JSON type")
				return
			}
		case fastjson.TypeString:
			if extension {
				r.structure("structure", "an element has the wrong JSON type")
				return
			}
		default:
			r.structure("structure", "an element has the wrong JSON type")
			return
		}
	}
}

func (r *rules) containedRules(i int, c *fastjson.Value) {
	place := "contained[" + itoa(i) + "]"
	if id := string(c.GetStringBytes("id")); id != "" {
		if _, twice := r.contained[id]; twice {
			r.broken(place, "two contained resources have the same id")
		}
		r.contained[id] = string(c.GetStringBytes("resourceType"))
	} else {
		r.broken(place, "a contained resource needs an id")
	}
	if c.Exists("contained") {
		r.broken(place, "a contained resource must not contain others (dom-2)")
	}
	if c.Exists("meta", "versionId") || c.Exists("meta", "lastUpdated") {
		r.broken(place, "a contained resource has no meta.versionId and no meta.lastUpdated (dom-4)")
	}
	if c.Exists("meta", "security") {
		r.broken(place, "a contained resource has no meta.security (dom-5)")
	}
	if c.Exists("implicitRules") {
		r.broken(place+".implicitRules", implicitRule)
	}
}

// implicitRule refuses Resource.implicitRules, a modifier element: rules that
// a server does not know may change the meaning of the whole resource.
const implicitRule = "names rules that this server does not know"

// object checks the rules of one object that depend on its name or its
// resource; name is that of its member.
func (r *rules) object(name string, v *fastjson.Value) {
	r.named(name, v)
	top := len(r.path) == 0
	inner := len(r.path) == 2 && r.path[0].name == "contained"
	if inner {
		r.holder = string(v.GetStringBytes("id"))
	}
	v.GetObject().Visit(func(key []byte, m *fastjson.Value) {
		switch m.Type() {
		case fastjson.TypeObject:
			k := string(key)
			r.path = append(r.path, step{k, -1})
			r.object(strings.TrimPrefix(k, "_"), m)
			r.path = r.path[:len(r.path)-1]
		case fastjson.TypeArray:
			k := string(key)
			r.path = append(r.path, step{k, -1})
			for i, e := range m.GetArray() {
				if e.Type() == fastjson.TypeObject {
					r.path = append(r.path, step{"", i})
					r.object(strings.TrimPrefix(k, "_"), e)
					r.path = r.path[:len(r.path)-1]
				}
			}
			r.path = r.path[:len(r.path)-1]
		case fastjson.TypeString:
			switch {
			case !top && !inner && string(key) == "id":
				r.elementID(string(m.GetStringBytes()))
			case top && string(key) == "implicitRules":
				r.broken("implicitRules", implicitRule)
			}
		}
	})
	if inner {
		r.holder = ""
	}
}

// elementID checks the id of an element (R4 element.html#id).
func (r *rules) elementID(id string) {
	if strings.IndexFunc(id, unicode.IsSpace) >= 0 {
		r.broken("id", "the id of an element has no white space")
	}
	if r.ids == nil {
		r.ids = map[elementID]bool{}
	}
	k := elementID{r.holder, id}
	if r.ids[k] {
		r.broken("id", "two elements of a resource must not have the same id")
	}
	r.ids[k] = true
}

// named checks the rules of an object by the name of its member.
func (r *rules) named(name string, v *fastjson.Value) {
	switch name {
	case "modifierExtension":
		r.broken("", "is a modifier extension that this server does not understand")
		return
	case "extension":
		r.extension(v)
		return
	case "text":
		if div := v.Get("div"); div != nil {
			r.narrative(div.GetStringBytes())
		}
	}
	if ref := v.Get("reference"); ref != nil && ref.Type() == fastjson.TypeString {
		r.reference(string(ref.GetStringBytes()))
		if v.Exists("type") {
			r.sameType(v)
		}
	}
}

// sameType checks that Reference.type does not contradict the type that the
// reference itself shows (R4 references.html).
func (r *rules) sameType(v *fastjson.Value) {
	typ, ref := referenceType(v), string(v.GetStringBytes("reference"))
	if !fhir.IsR4Type(typ) {
		return
	}
	shown := ""
	if id, local := strings.CutPrefix(ref, "#"); local {
		shown = r.contained[id]
		if id == "" {
			shown = r.typ
		}
	} else {
		ref, _, _ = strings.Cut(ref, "/_history/")
		parts := strings.Split(ref, "/")
		if n := len(parts); n >= 2 && fhir.IsR4Type(parts[n-2]) {
			shown = parts[n-2]
		}
	}
	if shown != "" && shown != typ {
		r.broken("type", "must be the type of what the reference names")
	}
}

func (r *rules) extension(v *fastjson.Value) {
	values, nested := 0, v.Exists("extension")
	v.GetObject().Visit(func(key []byte, _ *fastjson.Value) {
		k := strings.TrimPrefix(string(key), "_")
		if strings.HasPrefix(k, "value") && !(key[0] == '_' && v.Exists(k)) {
			values++
		}
	})
	if values == 0 && !nested || values > 0 && nested {
		r.broken("", "an extension has either a value or extensions, not both and not neither (ext-1)")
	}
	if ref := v.Get("valueReference", "reference"); ref != nil {
		r.reference(string(ref.GetStringBytes()))
	}
}

// narrative checks the XHTML of a Narrative. All narratives of a resource
// share one bound.
func (r *rules) narrative(div []byte) {
	if r.narrated += len(div); r.narrated > maxNarrative {
		r.broken("", "the narratives of a resource must not be longer than 1 MiB in total")
		return
	}
	if rule := checkNarrative(div); rule != "" {
		r.broken("", rule)
	}
}

func (r *rules) reference(ref string) {
	if id, ok := strings.CutPrefix(ref, "#"); ok {
		if id == "" {
			id = r.holder
		}
		r.use(id)
		if _, there := r.contained[id]; id != "" && !there {
			r.broken("", "refers to a contained resource that is not there (ref-1)")
		}
		return
	}
	if t, _, ok := strings.Cut(ref, "?"); ok && fhir.IsR4Type(t) {
		r.broken("", "is a conditional reference, which is resolved in a transaction only")
		return
	}
	if scheme, rest, ok := strings.Cut(ref, ":"); ok {
		if !absolute(scheme, rest) {
			r.broken("", "is not an absolute URL of a known scheme: http, https or urn")
		}
		return
	}
	if t, _, ok := strings.Cut(ref, "/"); ok && fhir.IsR4Type(t) {
		if _, ok := fhir.ParseRef(ref); ok {
			return
		}
	}
	r.broken("", "is neither Type/id with a type of R4, nor an absolute URL, nor a fragment")
}

// absolute reports whether a reference is an http URL with a host, or a URN
// with a namespace. Other schemes are no address of a resource: what stands
// behind them ("javascript:") is run by those who follow it.
func absolute(scheme, rest string) bool {
	switch strings.ToLower(scheme) {
	case "http", "https":
		host, ok := strings.CutPrefix(rest, "//")
		return ok && host != "" && !strings.HasPrefix(host, "/")
	case "urn":
		namespace, name, ok := strings.Cut(rest, ":")
		return ok && len(namespace) > 1 && name != ""
	}
	return false
}
