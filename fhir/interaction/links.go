package interaction

import (
	"bytes"
	"html"
	"regexp"
	"slices"
	"strings"

	"github.com/go-json-experiment/json/jsontext"

	"pulsegate/fhir"
	"pulsegate/fhir/element"
)

// links maps the references and links in one entry of a transaction to their
// replacements.
type links struct {
	// ids maps the fullUrl of an entry to its local reference ("Patient/1").
	ids map[string]string
	// root is the part of the entry's own RESTful fullUrl before Type/id, with
	// the slash ("" for other fullUrls): a relative reference is resolved
	// against it (R4 bundle.html#references).
	root string
	// conditional maps conditional references ("Patient?identifier=1") to local
	// references.
	conditional map[string]string
	// guards belong to the conditional references.
	guards []string
	// deferred replaces members of that kind, and no others.
	deferred bool
}

func (l *links) empty() bool { return l == nil || len(l.ids) == 0 && len(l.conditional) == 0 }

// restful matches a RESTful fullUrl.
var restful = regexp.MustCompile(`^(https?://.+/)[A-Z][A-Za-z]{1,63}/[A-Za-z0-9.-]{1,64}$`)

// rootOf returns the root of a RESTful fullUrl.
func rootOf(fullURL string) string {
	if m := restful.FindStringSubmatch(fullURL); m != nil {
		return m[1]
	}
	return ""
}

// isConditional reports whether a reference is conditional, and returns its type
// and query.
func isConditional(ref string) (typ, query string, ok bool) {
	typ, query, ok = strings.Cut(ref, "?")
	if !ok || typ == "" || typ[0] < 'A' || typ[0] > 'Z' || strings.ContainsAny(typ, "/:#") {
		return "", "", false
	}
	return typ, query, true
}

// member classifies the values of a JSON member by its name.
type member uint8

const (
	other     member = iota
	reference        // Reference.reference
	narrative        // Narrative.div
	uri              // of type uri or url
	deferred         // of type oid or uuid, see linkedLate
)

// memberOf classifies the elements of the resources that this server stores.
// Canonical elements are not replaced (R4 http.html#trules).
func memberOf(name string) member {
	switch name {
	case "reference":
		return reference
	case "div":
		return narrative
	case "authority", "endpoint", "implicitRules", "instantiatesUri", "issuer", "jurisdiction", "policy", "source",
		"system", "type",
		"uri", "url", "valueUri", "valueUrl":
		return uri
	case "valueOid", "valueUuid":
		return deferred
	}
	return other
}

// wants reports whether values of a member may need to be replaced.
func (l *links) wants(m member) bool {
	if l == nil {
		return m == reference
	}
	return m != other && l.deferred == (m == deferred)
}

// linkDeferred replaces elements of type oid and uuid. R4 requires them to be
// replaced like those of type uri, although a reference is not valid for these
// types; so it is done after validation.
func (s *Service) linkDeferred(r *fhir.Resource, l links) (err error) {
	if !bytes.Contains(r.JSON, []byte(`"valueUuid"`)) && !bytes.Contains(r.JSON, []byte(`"valueOid"`)) {
		return nil
	}
	l.deferred = true
	r.JSON, err = rewriteLinks(r.JSON, &l, s.Base)
	return err
}

// linked replaces the references and links in body. Outside of a transaction (l is
// nil), these are the references below the server's base URL.
func (s *Service) linked(body []byte, l *links) ([]byte, error) {
	if l.empty() && !bytes.Contains(body, []byte(s.Base+"/")) && bytes.IndexByte(body, '\\') < 0 &&
		(l == nil || !bytes.Contains(body, []byte("urn:"))) {
		return body, nil
	}
	return rewriteLinks(body, l, s.Base)
}

// rewriteLinks replaces values of Reference.reference by local references: the
// fullUrl of another entry of the transaction, a conditional reference, and a URL
// below base. In a transaction it also replaces elements of type uri and related
// types, and links in the narrative. All other bytes stay unchanged. In a
// transaction, a urn:uuid or urn:oid that is not the fullUrl of an entry is an
// error.
func rewriteLinks(body []byte, l *links, base string) ([]byte, error) {
	const op = "interaction.rewriteLinks"
	start := 0
	if bytes.HasPrefix(body, []byte("\ufeff")) {
		start = len("\ufeff")
	}
	dec := jsontext.NewDecoder(bytes.NewReader(body[start:]))
	out := make([]byte, 0, len(body)+64)
	copied := 0
	var members []member // the current member at each depth
	for {
		tok, err := dec.ReadToken()
		if err != nil {
			break // the end, or malformed JSON, which the validator refuses
		}
		depth := dec.StackDepth()
		kind, n := dec.StackIndex(depth)
		if tok.Kind() != '"' {
			continue
		}
		for len(members) <= depth {
			members = append(members, other)
		}
		if kind == '{' && n%2 == 1 {
			members[depth] = memberOf(tok.String())
			continue
		}
		m := members[depth]
		if kind == '[' && depth > 0 {
			m = members[depth-1]
		}
		if !l.wants(m) {
			continue
		}
		to, err := l.replace(op, m, tok, base)
		if err != nil {
			return nil, err
		}
		if to == "" {
			continue
		}
		end := start + int(dec.InputOffset())
		out = element.AppendString(append(out, body[copied:openQuote(body, end)]...), to)
		copied = end
	}
	return append(out, body[copied:]...), nil
}

// openQuote returns where the JSON string that ends before end begins.
func openQuote(body []byte, end int) int {
	for i := end - 2; i >= 0; i-- {
		if body[i] != '"' {
			continue
		}
		slashes := 0
		for j := i - 1; j >= 0 && body[j] == '\\'; j-- {
			slashes++
		}
		if slashes%2 == 0 {
			return i
		}
	}
	return 0
}

// replace returns the replacement of a member's value, or "" to keep it.
func (l *links) replace(op string, m member, tok jsontext.Token, base string) (string, error) {
	switch m {
	case reference:
		return l.reference(op, tok.String(), base)
	case narrative:
		v := tok.String()
		if to := l.narrative(v); to != v {
			return to, nil
		}
		return "", nil
	}
	return l.ids[tok.String()], nil
}

func (l *links) reference(op, v, base string) (string, error) {
	if l != nil {
		if to := l.entry(v); to != "" {
			return to, nil
		}
		if to := l.conditional[v]; to != "" {
			return to, nil
		}
		if strings.HasPrefix(v, "urn:uuid:") || strings.HasPrefix(v, "urn:oid:") {
			return "", fhir.Errorf(fhir.Invalid, op, "a reference names a urn that is not the fullUrl of an entry")
		}
	}
	if local, below := strings.CutPrefix(v, base+"/"); below {
		if _, isRef := fhir.ParseRef(local); isRef {
			return local, nil
		}
		if _, _, ok := isConditional(local); ok {
			return "", &fhir.Error{Kind: fhir.Unprocessable, Op: op, Issues: []fhir.Issue{{
				Severity: "error", Code: "invariant",
				Diagnostics: "a conditional reference is resolved in a transaction only"}}}
		}
	}
	return "", nil
}

// entry returns the local reference of the entry that v names. v is its fullUrl,
// possibly with a version, or relative to the root of the entry that contains v.
func (l *links) entry(v string) string {
	if to := l.ids[v]; to != "" {
		return to
	}
	v, _, _ = strings.Cut(v, "/_history/")
	if to := l.ids[v]; to != "" {
		return to
	}
	if _, isRef := fhir.ParseRef(v); isRef && l.root != "" {
		return l.ids[l.root+v]
	}
	return ""
}

// linkOf matches the link in a tag.
var linkOf = regexp.MustCompile(`(?i)(\s(?:href|src)\s*=\s*)("[^"]*"|'[^']*')`)

// narrative replaces the links in <a href> and <img src> of a div.
func (l *links) narrative(div string) string {
	var out strings.Builder
	for {
		i := strings.IndexByte(div, '<')
		if i < 0 {
			break
		}
		end := i + tagLen(div[i:])
		tag := div[i:end]
		out.WriteString(div[:i])
		div = div[end:]
		if name := strings.ToLower(tag); !(strings.HasPrefix(name, "<a") || strings.HasPrefix(name, "<img")) {
			out.WriteString(tag)
			continue
		}
		out.WriteString(linkOf.ReplaceAllStringFunc(tag, func(attr string) string {
			m := linkOf.FindStringSubmatch(attr)
			if to := l.ids[html.UnescapeString(m[2][1:len(m[2])-1])]; to != "" {
				return m[1] + `"` + to + `"`
			}
			return attr
		}))
	}
	out.WriteString(div)
	return out.String()
}

// tagLen returns the length of the tag at the beginning of s. Quoted values may
// contain ">".
func tagLen(s string) int {
	quote := byte(0)
	for i := 1; i < len(s); i++ {
		switch c := s[i]; {
		case quote != 0:
			if c == quote {
				quote = 0
			}
		case c == '"' || c == '\'':
			quote = c
		case c == '>':
			return i + 1
		}
	}
	return len(s)
}

// conditionals calls fn for each Reference.reference in body, with the path of the
// Reference below place, until fn returns false.
func conditionals(place string, body []byte, fn func(path, ref string) bool) {
	if bytes.IndexByte(body, '?') < 0 && bytes.IndexByte(body, '\\') < 0 {
		return
	}
	dec := jsontext.NewDecoder(bytes.NewReader(body))
	reference := false // the last token was the name "reference"
	var names []string // the current member at each depth
	for {
		tok, err := dec.ReadToken()
		if err != nil {
			return
		}
		depth := dec.StackDepth()
		kind, n := dec.StackIndex(depth)
		if tok.Kind() == '"' && kind == '{' && n%2 == 1 {
			names = append(names[:min(len(names), depth-1)], make([]string, max(0, depth-1-len(names)))...)
			names = append(names, tok.String())
			reference = names[depth-1] == "reference"
			continue
		}
		if reference && tok.Kind() == '"' &&
			!fn(elementPath(place, slices.DeleteFunc(slices.Clone(names[:depth-1]),
				func(n string) bool { return n == "" })), tok.String()) {
			return
		}
		reference = false
	}
}
