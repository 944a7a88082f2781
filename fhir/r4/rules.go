package r4

import (
	"slices"
	"strings"
	"unicode"

	"github.com/valyala/fastjson"

	"pulsegate/fhir"
)

// rules checks the invariants of R4 that google/fhir does not. Their texts name
// their keys (obs-6, ext-1). It collects all issues of a body, up to maxIssues.
type rules struct {
	typ       string
	all       *structures
	root      *fastjson.Value
	path      elementPath       // current element
	contained map[string]string // types of the contained resources by id
	holder    string            // id of the contained resource around the current element
	used      map[string]bool   // ids of contained resources with a reference to or from the container
	ids       map[elementID]bool
	issues    []fhir.Issue
	malformed bool // an issue concerns the structure, not an invariant
	// misaligned is set if a repeated primitive has more or fewer values than
	// extensions.
	misaligned     bool
	narrativeBytes int // size of the narratives checked so far
}

// elementID identifies an element. Element ids are unique within a resource.
type elementID struct{ holder, id string }

// prepare checks the contained resources and collects their ids and types.
func (r *rules) prepare() {
	for i, c := range r.root.GetArray("contained") {
		if r.contained == nil {
			r.contained = map[string]string{}
		}
		r.checkContained(i, c)
	}
}

// check walks the whole resource and checks the rules that neither the precheck
// nor google/fhir covers.
func (r *rules) check() {
	r.object("", r.root)
	for i, c := range r.root.GetArray("contained") {
		if id := string(c.GetStringBytes("id")); id != "" && !r.used[id] {
			r.broken("contained["+itoa(i)+"]", "a contained resource must be referred to from the resource (dom-3)")
		}
	}
}

// broken reports that the current object breaks an invariant.
func (r *rules) broken(member, rule string) { r.add("invariant", member, rule) }

// structure reports that the current element is malformed. It replaces
// google/fhir's issue about the same element, which is less specific.
func (r *rules) structure(code, rule string) {
	r.malformed = true
	path := r.path.expression(r.typ)
	for i := range r.issues {
		if is := &r.issues[i]; is.Diagnostics == wrongDataType && slices.Contains(is.Expression, path) {
			is.Code, is.Diagnostics = code, rule
			return
		}
	}
	r.add(code, "", rule)
}

func (r *rules) add(code, member, rule string) {
	path := r.path.expression(r.typ)
	if member != "" {
		path += "." + member
	}
	r.issue(fhir.Issue{Severity: "error", Code: code, Diagnostics: rule, Expression: []string{path}})
}

// issue adds an issue unless it is a duplicate or there are maxIssues already.
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

// use records a reference to a contained resource.
func (r *rules) use(id string) {
	if r.used == nil {
		r.used = map[string]bool{}
	}
	r.used[id] = true
}

// checkNulls checks that every null in an array of primitives has an extension
// in the parallel array. google/fhir ignores nulls.
func (r *rules) checkNulls(v *fastjson.Value) {
	v.GetObject().Visit(func(key []byte, m *fastjson.Value) {
		name := string(key)
		switch m.Type() {
		case fastjson.TypeObject:
			r.each(name, m, r.checkNulls)
		case fastjson.TypeArray:
			r.checkAlignment(name, m, v)
			r.each(name, m, func(e *fastjson.Value) {
				if e.Type() == fastjson.TypeObject {
					r.checkNulls(e)
				}
			})
		}
	})
}

// checkAlignment checks an array that may contain nulls against its parallel
// array. Elements missing at the end of the shorter array count as nulls.
func (r *rules) checkAlignment(name string, m, parent *fastjson.Value) {
	list := m.GetArray()
	other, extension := strings.CutPrefix(name, "_")
	if !extension {
		other = "_" + name
	}
	misaligned := extension && len(parent.GetArray(other)) != len(list)
	r.misaligned = r.misaligned || misaligned
	if !misaligned && !slices.ContainsFunc(list,
		func(e *fastjson.Value) bool { return e.Type() == fastjson.TypeNull }) {
		return
	}
	r.path = append(r.path, step{name, -1})
	defer func() { r.path = r.path[:len(r.path)-1] }()
	if !extension && !parent.Exists(other) {
		r.structure("structure", "null is allowed only in an array that has a parallel array of extensions")
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

func (r *rules) checkContained(i int, c *fastjson.Value) {
	path := "contained[" + itoa(i) + "]"
	if id := string(c.GetStringBytes("id")); id != "" {
		if _, duplicate := r.contained[id]; duplicate {
			r.broken(path, "two contained resources have the same id")
		}
		r.contained[id] = string(c.GetStringBytes("resourceType"))
	} else {
		r.broken(path, "a contained resource needs an id")
	}
	if c.Exists("contained") {
		r.broken(path, "a contained resource must not contain others (dom-2)")
	}
	if c.Exists("meta", "versionId") || c.Exists("meta", "lastUpdated") {
		r.broken(path, "a contained resource must not have meta.versionId or meta.lastUpdated (dom-4)")
	}
	if c.Exists("meta", "security") {
		r.broken(path, "a contained resource must not have meta.security (dom-5)")
	}
	if c.Exists("implicitRules") {
		r.broken(path+".implicitRules", implicitRule)
	}
}

// implicitRule is the issue about Resource.implicitRules. It is a modifier
// element: unknown rules may change the meaning of the whole resource.
const implicitRule = "names rules that this server does not know"

// object checks the rules for an object that depend on its member name or on the
// whole resource.
func (r *rules) object(name string, v *fastjson.Value) {
	r.checkMemberName(name, v)
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
		r.broken("id", "the id of an element must not have white space")
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

// checkMemberName checks the rules for an object by its member name.
func (r *rules) checkMemberName(name string, v *fastjson.Value) {
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
			r.checkReferenceType(v)
		}
	}
}

// checkReferenceType checks that Reference.type does not contradict the type in
// the reference itself (R4 references.html).
func (r *rules) checkReferenceType(v *fastjson.Value) {
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
		r.broken("type", "must be the type that the reference names")
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
		r.broken("", "an extension must have either a value or extensions (ext-1)")
	}
	if ref := v.Get("valueReference", "reference"); ref != nil {
		r.reference(string(ref.GetStringBytes()))
	}
}

// narrative checks the XHTML of a Narrative. The size limit applies to all
// narratives of a resource together.
func (r *rules) narrative(div []byte) {
	if r.narrativeBytes += len(div); r.narrativeBytes > maxNarrative {
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
		if _, found := r.contained[id]; id != "" && !found {
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

// absolute reports whether a reference is an http URL with a host, or a URN with
// a namespace. Other schemes do not identify resources, and some ("javascript:")
// are executed by clients that follow them.
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
