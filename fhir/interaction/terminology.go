package interaction

import (
	"context"
	"slices"
	"strings"

	"pulsegate/fhir"
	"pulsegate/fhir/access"
	"pulsegate/fhir/element"
	"pulsegate/fhir/terminology"
)

// terminologyCall is one call of an operation on terminology.
type terminologyCall struct {
	service  *Service
	ctx      context.Context
	rq       *Request
	op       string
	ref      fhir.Ref // without an id at the level of the type
	in       *codeInputs
	held     *terminology.Service
	instance any // the resource of ref: a *terminology.CodeSystem, ...
}

// terminologyOperation is an operation on terminology.
type terminologyOperation struct {
	signature codeSignature
	run       func(*terminologyCall) ([]byte, error)
}

// laterChoices lists parameters of a date or language, which would change the answer.
var laterChoices = []string{"date", "displayLanguage"}

// terminologyOperations holds the operations by type and name.
var terminologyOperations = map[string]terminologyOperation{ // read only
	"ValueSet/expand": {codeSignature{
		single: []string{"url", "valueSetVersion", "filter", "offset", "count", "includeDesignations", "includeDefinition",
			"activeOnly", "excludeNested"},
		resource: "valueSet",
		unsupported: append([]string{"context", "contextDirection", "designation", "excludeNotForUI", "excludePostCoordinated",
			"exclude-system", "system-version", "check-system-version", "force-system-version"}, laterChoices...),
	}, (*terminologyCall).expand},
	"ValueSet/validate-code": {codeSignature{
		single:  []string{"url", "valueSetVersion", "code", "system", "display", "abstract"},
		codings: []string{"coding"}, concept: true, resource: "valueSet",
		unsupported: append([]string{"context", "systemVersion"}, laterChoices...),
	}, (*terminologyCall).validateInSet},
	"CodeSystem/lookup": {codeSignature{
		single: []string{"code", "system", "version", "displayLanguage"}, several: []string{"property"},
		codings: []string{"coding"}, unsupported: []string{"date"},
	}, (*terminologyCall).lookup},
	"CodeSystem/validate-code": {codeSignature{
		single: []string{"url", "code", "version", "display", "abstract"}, codings: []string{"coding"}, concept: true,
		resource: "codeSystem", unsupported: laterChoices,
	}, (*terminologyCall).validateInSystem},
	"CodeSystem/subsumes": {codeSignature{
		single: []string{"codeA", "codeB", "system", "version"}, codings: []string{"codingA", "codingB"},
	}, (*terminologyCall).subsumes},
	"ConceptMap/translate": {codeSignature{
		single:  []string{"url", "conceptMapVersion", "code", "system", "source", "target", "targetsystem", "reverse"},
		codings: []string{"coding"}, concept: true, resource: "conceptMap", unsupported: []string{"version", "dependency"},
	}, (*terminologyCall).translate},
}

// TerminologyOperation implements the operations ValueSet/$expand and $validate-code,
// CodeSystem/$lookup, $validate-code and $subsumes, and ConceptMap/$translate for the
// resources that the server holds (package terminology). ref has the type, and the id if the
// operation is called for an instance. The caller needs a scope for the type, and must be
// allowed to see the resource that is named; those that it refers to are used regardless.
func (s *Service) TerminologyOperation(ctx context.Context, rq *Request, name string, ref fhir.Ref,
	ps []Parameter) ([]byte, error) {
	c := &terminologyCall{service: s, ctx: ctx, rq: rq, op: "interaction." + name, ref: ref, held: s.Terminology}
	out, err := c.call(terminologyOperations[ref.Type+"/"+name], ps)
	if err != nil {
		return nil, s.refuse(ctx, rq, "operation", ref, err)
	}
	ev := rq.event("operation", ref.Type)
	ev.Query = rq.Line
	if err := s.disclose(ctx, rq, ev); err != nil {
		return nil, err
	}
	return out, nil
}

func (c *terminologyCall) call(o terminologyOperation, ps []Parameter) (_ []byte, err error) {
	if err := c.rq.may(c.op, access.Read|access.Search, c.ref.Type); err != nil {
		return nil, err
	}
	if c.held == nil || o.run == nil {
		return nil, fhir.Errorf(fhir.Unsupported, c.op, "this server does not offer the operation")
	}
	if c.in, err = o.signature.read(c.op, ps); err != nil {
		return nil, err
	}
	if c.ref.ID != "" {
		if err := c.visible(c.ref); err != nil {
			return nil, err
		}
		if c.instance, err = c.held.Held(c.ctx, c.ref); err != nil {
			return nil, err
		}
		if c.instance == nil {
			return nil, fhir.Errorf(fhir.TooCostly, c.op, "the resource is too large for this server's index of terminology")
		}
	}
	return o.run(c)
}

// visible returns an error unless the caller may see a resource.
func (c *terminologyCall) visible(ref fhir.Ref) error {
	if ref.ID == "" {
		return nil // R4's
	}
	if !fhir.ValidID(ref.ID) {
		return errHidden(c.op)
	}
	r, facts, err := c.service.Store.Read(c.ctx, ref, 0)
	switch {
	case err != nil && fhir.KindOf(err) != fhir.NotFound:
		return err
	case err != nil || r.Deleted:
		return errHidden(c.op)
	case !c.rq.filter(access.Read).Allow(facts) && !c.rq.filter(access.Search).Allow(facts):
		return concealing(errHidden(c.op), disclosed{ref: ref, patients: facts.Patients()})
	}
	return nil
}

// unknown returns the error for a canonical URL that names nothing that the server holds, or
// something that is hidden from the caller.
func (c *terminologyCall) unknown(typ string) error {
	return fhir.Errorf(fhir.NotFound, c.op, "the server holds no %s with this URL", typ)
}

// seen returns an error like that of an absent resource unless the caller may see ref.
func (c *terminologyCall) seen(ref fhir.Ref) error {
	err := c.visible(ref)
	if err != nil && fhir.KindOf(err) == fhir.NotFound {
		return c.unknown(ref.Type)
	}
	return err
}

// valueSet returns the value set in question.
func (c *terminologyCall) valueSet() (*terminology.ValueSet, error) {
	url := c.in.text("url")
	if err := c.oneOf(url != "", "valueSet"); err != nil {
		return nil, err
	}
	if c.in.resource != nil {
		return terminology.ParseValueSet(c.in.resource)
	}
	if v, ok := c.instance.(*terminology.ValueSet); ok {
		return v, nil
	}
	v, err := c.held.ValueSet(c.ctx, url, c.in.text("valueSetVersion"))
	if err == nil && v == nil {
		err = c.unknown("ValueSet")
	}
	if err != nil {
		return nil, err
	}
	return v, c.seen(v.Ref)
}

// oneOf returns an error unless the resource in question is named in exactly one way.
func (c *terminologyCall) oneOf(byURL bool, resource string) error {
	ways := 0
	for _, given := range []bool{byURL, c.in.resource != nil, c.ref.ID != ""} {
		if given {
			ways++
		}
	}
	if ways == 1 {
		return nil
	}
	return &fhir.Error{Kind: fhir.Invalid, Op: c.op, Issues: []fhir.Issue{{Code: "required",
		Diagnostics: "name the resource once: by url, by the parameter " + resource + ", or by the id in the URL"}}}
}

// expand implements $expand.
func (c *terminologyCall) expand() ([]byte, error) {
	v, err := c.valueSet()
	if err != nil {
		return nil, err
	}
	x := expansionAnswer{set: v, filter: strings.ToLower(c.in.text("filter"))}
	if x.offset, err = c.in.number(c.op, "offset", 0); err != nil {
		return nil, err
	}
	if x.count, err = c.in.number(c.op, "count", -1); err != nil {
		return nil, err
	}
	for name, into := range map[string]*bool{"includeDesignations": &x.designations, "includeDefinition": &x.definition,
		"activeOnly": &x.activeOnly, "excludeNested": new(bool)} {
		if *into, err = c.in.flag(c.op, name); err != nil {
			return nil, err
		}
	}
	codes, err := c.held.Codes(c.ctx, v)
	if err != nil {
		return nil, err
	}
	if x.definition && v.Ref.ID != "" {
		r, _, err := c.service.Store.Read(c.ctx, v.Ref, 0)
		if err != nil {
			return nil, err
		}
		x.stored = r.JSON
	}
	return x.write(codes, c.service.Clock())
}

// validateInSet implements ValueSet/$validate-code.
func (c *terminologyCall) validateInSet() ([]byte, error) {
	v, err := c.valueSet()
	if err != nil {
		return nil, err
	}
	asked, err := c.in.asked(c.op, "system")
	if err != nil {
		return nil, err
	}
	abstract, err := c.abstract()
	if err != nil {
		return nil, err
	}
	for _, a := range asked {
		if a.System == "" {
			continue
		}
		code, in, err := c.held.Has(c.ctx, v, a.System, a.Code)
		if err != nil {
			return nil, err
		}
		if in && code.Abstract && !abstract {
			return verdict(false, "The code only groups others and cannot be chosen.", code.Display), nil
		}
		if in {
			return displayVerdict(a.Display, code.Display, code.Designation), nil
		}
	}
	return verdict(false, "The code is not in the value set.", ""), nil
}

// abstract returns the parameter, which is true by default.
func (c *terminologyCall) abstract() (bool, error) {
	if c.in.text("abstract") == "" {
		return true, nil
	}
	return c.in.flag(c.op, "abstract")
}

func verdict(ok bool, message, display string) []byte {
	out := newParameters()
	out.flag("result", ok)
	out.text("message", "valueString", message)
	out.text("display", "valueString", display)
	return out.bytes()
}

// displayVerdict returns the verdict on a code that is valid, with a display to be checked
// unless it is empty.
func displayVerdict(given, display string, others []terminology.Designation) []byte {
	if given == "" || display == "" || strings.EqualFold(given, display) {
		return verdict(true, "", display)
	}
	for _, d := range others {
		if strings.EqualFold(given, d.Value) {
			return verdict(true, "", display)
		}
	}
	return verdict(false, "The code is valid, but its display is another one.", display)
}

// codeSystem returns the code system with a URL.
func (c *terminologyCall) codeSystem(url, version string) (*terminology.CodeSystem, error) {
	s, err := c.held.CodeSystem(c.ctx, url, version)
	if err == nil && s == nil {
		err = c.unknown("CodeSystem")
	}
	if err != nil {
		return nil, err
	}
	return s, c.seen(s.Ref)
}

// lookup implements $lookup.
func (c *terminologyCall) lookup() ([]byte, error) {
	asked, err := c.in.asked(c.op, "system")
	if err != nil {
		return nil, err
	}
	s, err := c.codeSystem(asked[0].System, c.in.text("version"))
	if err != nil {
		return nil, err
	}
	concept := s.Concept(asked[0].Code)
	if concept == nil {
		return nil, fhir.Errorf(fhir.NotFound, c.op, "the code system does not have this code, as far as the server holds it")
	}
	if concept.Display == "" {
		return nil, &fhir.Error{Kind: fhir.Unprocessable, Op: c.op, Issues: []fhir.Issue{{Code: "not-supported",
			Diagnostics: "the code is valid, but the server holds no display of it, which the answer must have"}}}
	}
	out := newParameters()
	name := s.Name
	if name == "" {
		name = s.URL
	}
	out.text("name", "valueString", name)
	out.text("version", "valueString", s.Version)
	out.text("display", "valueString", displayIn(concept, c.in.text("displayLanguage")))
	for _, d := range concept.Designation {
		if asked := c.in.values["property"]; len(asked) > 0 && !slices.Contains(asked, "designation") &&
			!slices.Contains(asked, "lang."+d.Language) {
			continue
		}
		out.begin("designation")
		out.text("language", "valueCode", d.Language)
		if d.Use != nil {
			out.add("use", "valueCoding", codingJSON(*d.Use))
		}
		out.text("value", "valueString", d.Value)
		out.end()
	}
	c.properties(out, s, concept)
	return out.bytes(), nil
}

// displayIn returns the display of a concept in a language, as far as a designation has it
// (RFC 4647 section 3.4): de-CH finds de, and de finds de-CH if there is no de.
func displayIn(concept *terminology.Concept, language string) string {
	if language == "" {
		return concept.Display
	}
	for want := language; ; {
		for _, d := range concept.Designation {
			if strings.EqualFold(d.Language, want) {
				return d.Value
			}
		}
		cut := strings.LastIndexByte(want, '-')
		if cut < 0 {
			break
		}
		want = want[:cut]
	}
	for _, d := range concept.Designation {
		if n := len(language); len(d.Language) > n && strings.EqualFold(d.Language[:n+1], language+"-") {
			return d.Value
		}
	}
	return concept.Display
}

// properties adds the properties of a concept that are asked for; all by default.
func (c *terminologyCall) properties(out *parametersWriter, s *terminology.CodeSystem, concept *terminology.Concept) {
	asked := map[string]bool{}
	for _, p := range c.in.values["property"] {
		asked[p] = true
	}
	wanted := func(code string) bool { return len(asked) == 0 || asked[code] }
	one := func(code, typ string, value []byte) {
		out.begin("property")
		out.text("code", "valueCode", code)
		out.add("value", typ, value)
		out.end()
	}
	if concept.Definition != "" && wanted("definition") {
		one("definition", "valueString", element.AppendString(nil, concept.Definition))
	}
	for i := range concept.Property {
		if p := &concept.Property[i]; wanted(p.Code) && p.Code != "parent" && p.Code != "child" {
			one(p.Code, p.Type, p.Raw)
		}
	}
	if wanted("parent") {
		for _, code := range s.Parents(concept) {
			one("parent", "valueCode", element.AppendString(nil, code))
		}
	}
	if wanted("child") {
		for _, code := range s.Children(concept) {
			one("child", "valueCode", element.AppendString(nil, code))
		}
	}
}

// validateInSystem implements CodeSystem/$validate-code.
func (c *terminologyCall) validateInSystem() ([]byte, error) {
	url := c.in.text("url")
	if coding, given := c.in.codings["coding"]; given && url == "" && c.in.resource == nil && c.ref.ID == "" {
		url = coding.System
	}
	if err := c.oneOf(url != "", "codeSystem"); err != nil {
		return nil, err
	}
	s, ok := c.instance.(*terminology.CodeSystem)
	var err error
	switch {
	case ok:
	case c.in.resource != nil:
		s, err = terminology.ParseCodeSystem(c.in.resource)
	default:
		s, err = c.codeSystem(url, c.in.text("version"))
	}
	if err != nil {
		return nil, err
	}
	if c.in.text("code") != "" { // R4 has no parameter system here
		c.in.values["url"] = []string{s.URL}
	}
	if s.URL == "" {
		c.in.values["url"] = []string{"(the given code system)"}
	}
	asked, err := c.in.asked(c.op, "url")
	if err != nil {
		return nil, err
	}
	abstract, err := c.abstract()
	if err != nil {
		return nil, err
	}
	for _, a := range asked {
		if a.System != s.URL && c.in.text("code") == "" {
			continue
		}
		concept := s.Concept(a.Code)
		switch {
		case concept == nil && s.Content != "complete":
			return nil, &fhir.Error{Kind: fhir.Unprocessable, Op: c.op, Issues: []fhir.Issue{{Code: "not-supported",
				Diagnostics: "the server holds only a part of the code system, and the code is not in that part"}}}
		case concept == nil:
		case concept.IsAbstract() && !abstract:
			return verdict(false, "The code only groups others and cannot be chosen.", concept.Display), nil
		default:
			return displayVerdict(a.Display, concept.Display, concept.Designation), nil
		}
	}
	return verdict(false, "The code system does not have the code.", ""), nil
}

// subsumes implements $subsumes.
func (c *terminologyCall) subsumes() ([]byte, error) {
	system := c.in.text("system")
	var codes [2]string
	for i, name := range []string{"A", "B"} {
		coding, given := c.in.codings["coding"+name]
		code := c.in.text("code" + name)
		if given == (code != "") {
			return nil, &fhir.Error{Kind: fhir.Invalid, Op: c.op, Issues: []fhir.Issue{{Code: "required",
				Diagnostics: "$subsumes needs either code" + name + " or coding" + name}}}
		}
		if codes[i] = code; given {
			if system != "" && coding.System != system {
				return nil, fhir.Errorf(fhir.Invalid, c.op, "the codes are of different code systems")
			}
			codes[i], system = coding.Code, coding.System
		}
	}
	s, ok := c.instance.(*terminology.CodeSystem)
	if ok && system != "" && system != s.URL {
		return nil, fhir.Errorf(fhir.Invalid, c.op, "system is another one than that of the instance; leave it out")
	}
	if !ok {
		if system == "" {
			return nil, fhir.Errorf(fhir.Invalid, c.op, "codeA and codeB need system")
		}
		var err error
		if s, err = c.codeSystem(system, c.in.text("version")); err != nil {
			return nil, err
		}
	}
	relation, err := s.Relation(codes[0], codes[1])
	if err != nil {
		return nil, err
	}
	out := newParameters()
	out.text("outcome", "valueCode", string(relation))
	return out.bytes(), nil
}

// maps returns the concept maps in question: one, or all that the caller may see.
func (c *terminologyCall) maps() ([]*terminology.ConceptMap, error) {
	url := c.in.text("url")
	if m, ok := c.instance.(*terminology.ConceptMap); ok {
		return []*terminology.ConceptMap{m}, c.oneOf(url != "", "conceptMap")
	}
	if url != "" || c.in.resource != nil {
		if err := c.oneOf(url != "", "conceptMap"); err != nil {
			return nil, err
		}
		if c.in.resource != nil {
			m, err := terminology.ParseConceptMap(c.in.resource)
			return []*terminology.ConceptMap{m}, err
		}
		m, err := c.held.ConceptMap(c.ctx, url, c.in.text("conceptMapVersion"))
		if err == nil && m == nil {
			err = c.unknown("ConceptMap")
		}
		if err != nil {
			return nil, err
		}
		return []*terminology.ConceptMap{m}, c.seen(m.Ref)
	}
	all, err := c.held.ConceptMaps(c.ctx)
	if err != nil {
		return nil, err
	}
	var out []*terminology.ConceptMap
	for _, m := range all {
		switch err := c.visible(m.Ref); {
		case err == nil:
			out = append(out, m)
		case fhir.KindOf(err) != fhir.NotFound:
			return nil, err
		}
	}
	return out, nil
}

// maxMatches bounds the answer of $translate.
const maxMatches = 1000

// translate implements $translate.
func (c *terminologyCall) translate() ([]byte, error) {
	asked, err := c.in.asked(c.op, "system")
	if err != nil {
		return nil, err
	}
	t := terminology.Translation{Source: c.in.text("source"), Target: c.in.text("target"),
		TargetSystem: c.in.text("targetsystem")}
	if t.Reverse, err = c.in.flag(c.op, "reverse"); err != nil {
		return nil, err
	}
	maps, err := c.maps()
	if err != nil {
		return nil, err
	}
	var found []terminology.Match
	result := false
	for _, m := range maps {
		for _, a := range asked {
			list, err := m.Translate(a, t)
			if err != nil {
				return nil, err
			}
			found = append(found, list...)
		}
	}
	if len(found) > maxMatches {
		return nil, fhir.Errorf(fhir.TooCostly, c.op, "there are more than %d translations; name a concept map", maxMatches)
	}
	out := newParameters()
	for i := range found {
		result = result || found[i].Means()
	}
	out.flag("result", result)
	if !result {
		out.text("message", "valueString", "No concept map that the server holds translates the code.")
	}
	for i := range found {
		m := &found[i]
		out.begin("match")
		out.text("equivalence", "valueCode", m.Equivalence)
		if m.Coding.Code != "" {
			out.add("concept", "valueCoding", codingJSON(m.Coding))
		}
		out.text("source", "valueUri", m.Source)
		out.end()
	}
	return out.bytes(), nil
}
