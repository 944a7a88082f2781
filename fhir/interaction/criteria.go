package interaction

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"slices"
	"strings"

	"pulsegate/fhir"
	"pulsegate/fhir/access"
	"pulsegate/fhir/search"
	"pulsegate/fhir/store"
)

// criteria holds the search criteria of a conditional create or of a conditional
// reference.
type criteria struct {
	what     string // name for errors, for example "If-None-Exist"
	query    *search.Query
	recorded recorded
	// joined lists the types of the chained parameters, of _has and of _list.
	joined []string
	// resolved is the query with its joins evaluated, as of the last find.
	resolved resolved
	// match is the only matching resource, or nil.
	match *fhir.Resource
	found found
	seen  []disclosed
}

// criteriaOf parses criteria, which may begin with "?" or "Type?".
func (s *Service) criteriaOf(rq *Request, op, what, line, typ, raw string) (*criteria, error) {
	if err := rq.may(op, access.Search, typ); err != nil {
		return nil, err
	}
	if err := supported(op, typ); err != nil {
		return nil, err
	}
	raw = strings.TrimPrefix(strings.TrimPrefix(raw, typ+"?"), "?")
	q, a, err := s.parse(typ, raw, false)
	switch {
	case err != nil:
		return nil, err
	case len(q.RevIncludes) > 0:
		return nil, fhir.Errorf(fhir.Invalid, op, "%s cannot have _revinclude; leave it out", what)
	case readsAudit(q.Clauses):
		// Every request adds AuditEvents, so that what they decide has changed at each commit.
		return nil, fhir.Errorf(fhir.Invalid, op, "%s cannot depend on AuditEvents; search for them first", what)
	}
	if len(q.Clauses) == 0 {
		return nil, fhir.Errorf(fhir.PreconditionFailed, op,
			"%s has no search parameter and would match every resource; add one", what)
	}
	a.line = line + " " + what + ": " + typ + "?" + raw
	joined := joinedTypes(q.Clauses)
	slices.Sort(joined)
	return &criteria{what: what, query: q, recorded: *a, joined: slices.Compact(joined)}, nil
}

// joinedTypes returns the types of the joins of clauses.
func joinedTypes(clauses []search.Clause) (out []string) {
	for i := range clauses {
		for _, j := range clauses[i].Joins {
			out = append(append(out, j.Query.Type), joinedTypes(j.Query.Clauses)...)
		}
		for _, list := range clauses[i].Any {
			out = append(out, joinedTypes(list)...)
		}
	}
	return out
}

// key returns a key that equivalent criteria share regardless of their spelling.
func (c *criteria) key() string { return queryKey(c.query) }

func queryKey(q *search.Query) string { return q.Type + "?" + clausesKey(q.Clauses) }

func clausesKey(clauses []search.Clause) string {
	parts := make([]string, len(clauses))
	for i := range clauses {
		parts[i] = clauseKey(&clauses[i])
	}
	slices.Sort(parts)
	return strings.Join(slices.Compact(parts), "&")
}

func clauseKey(k *search.Clause) string {
	values := make([]string, len(k.Values))
	for j, v := range k.Values {
		if k.Param != nil && k.Param.Type == search.TypeString && k.Modifier != search.ModExact {
			v.Code = "" // only Text is compared
		}
		values[j] = fmt.Sprintf("%#v", v)
	}
	slices.Sort(values)
	code, mod := "", k.Modifier
	if k.Param != nil {
		code = k.Param.Code
	}
	if mod == search.ModType { // the values contain the type
		mod = search.NoModifier
	}
	if code == "subject" && len(k.Values) > 0 &&
		!slices.ContainsFunc(k.Values, func(v search.Value) bool { return v.RefType != "Patient" }) {
		code = "patient"
	}
	key := fmt.Sprint(code, ":", mod, k.Missing, k.Not, slices.Compact(values))
	for i := range k.Joins {
		reverse := ""
		if p := k.Joins[i].Reverse; p != nil {
			reverse = p.Code
		}
		key += "(" + reverse + ":" + queryKey(k.Joins[i].Query) + ")"
	}
	for _, list := range k.Any {
		key += "[" + clausesKey(list) + "]"
	}
	return key
}

// locks returns the keys by which criteria are serialized. Criteria with the same
// identifier share a lock regardless of their other parameters and of the system,
// because they may match the same resource.
func (c *criteria) locks() []string {
	for i := range c.query.Clauses {
		k := &c.query.Clauses[i]
		if !identifies(k) {
			continue
		}
		out := make([]string, len(k.Values))
		for j := range k.Values {
			out[j] = identifierKey(c.query.Type, k.Values[j].Code)
		}
		return out
	}
	return []string{c.key()}
}

// identifierKey returns the key of an identifier, whatever its system.
func identifierKey(typ, value string) string { return typ + "#" + strings.ToLower(value) }

// guards returns the guards of the commit that depends on the criteria: those of touches,
// and those of the types to which chained parameters, _has and _list lead. Every write of
// such a type touches them, because any of it may change what the criteria match.
func (c *criteria) guards() []string {
	out := c.touches()
	for _, typ := range c.joined {
		out = append(out, store.TypeGuard(typ))
	}
	return out
}

// touches returns the guards that every write touches, in any process, whose resource may
// match the criteria (draft.touches): those of the identifiers, or else that of the type
// within the patient, or else that of the type. Writes past the interactions, such as
// ingestion, touch none of these.
func (c *criteria) touches() []string {
	for i := range c.query.Clauses {
		if k := &c.query.Clauses[i]; identifies(k) {
			out := make([]string, len(k.Values))
			for j := range k.Values {
				out[j] = criteriaGuard(identifierKey(c.query.Type, k.Values[j].Code))
			}
			return out
		}
	}
	return []string{typeGuard(c.query.Type, c.query.Patient)}
}

// identifies reports whether a clause names identifiers of the resource by their values.
func identifies(k *search.Clause) bool {
	return k.Param != nil && k.Param.Code == "identifier" && k.Param.Type == search.TypeToken &&
		k.Modifier == search.NoModifier && len(k.Joins) == 0 && len(k.Any) == 0 && !k.Not && len(k.Values) > 0 &&
		!slices.ContainsFunc(k.Values, func(v search.Value) bool { return v.Code == "" })
}

// typeGuard returns the guard of the resources of a type, or of those of a patient.
func typeGuard(typ, patient string) string { return criteriaGuard(typ + "@" + patient) }

// criteriaGuard returns a guard. It is a hash, because criteria may identify people.
func criteriaGuard(key string) string {
	sum := sha256.Sum256([]byte(key))
	return "criteria/" + base64.RawURLEncoding.EncodeToString(sum[:16])
}

// find searches for the match among the resources that the caller may see. It
// returns PreconditionFailed if there is more than one.
func (s *Service) find(ctx context.Context, rq *Request, op string, c *criteria) error {
	return s.findBeside(ctx, rq, op, c, nil, func() int { return 0 })
}

// findBeside is like find in a transaction: the resources that are gone do not count, and
// made returns the number of those that match and that the transaction itself makes. It is
// called once the joins of the criteria are evaluated.
func (s *Service) findBeside(ctx context.Context, rq *Request, op string, c *criteria, gone map[fhir.Ref]bool,
	made func() int) error {
	c.match, c.seen, c.found = nil, nil, found{c.recorded, map[string]bool{}}
	if c.query.Patient != "" {
		c.found.patients[c.query.Patient] = false
	}
	at := store.Seq(0)
	if len(c.joined) > 0 { // all of its searches are of one snapshot
		at = s.Store.LastSeq()
	}
	var err, failed error
	if c.resolved, err = s.joins(ctx, rq, c.query, at, false); err != nil {
		return err
	}
	others := made()
	// Two matches are enough to fail.
	err = s.Store.Find(ctx, store.Find{Query: c.resolved.query, Filter: rq.filter(access.Search), At: at,
		Limit: 2 + len(gone)},
		func(f *store.Found) bool {
			if gone[f.Resource.Ref()] {
				return true
			}
			var decided []string
			if decided, failed = c.resolved.decided(f); failed != nil {
				return false
			}
			for _, p := range decided {
				c.found.name(p)
			}
			if c.match == nil {
				r := f.Resource
				r.JSON = append([]byte(nil), r.JSON...)
				c.match = &r
			}
			c.seen = append(c.seen, disclosedOf(&stored{res: f.Resource, facts: f.Facts}))
			for _, p := range f.Facts.Patients() {
				c.found.patients[p] = true
			}
			return len(c.seen) < 2
		})
	if failed != nil {
		err = failed
	}
	if err != nil {
		return err
	}
	if len(c.seen)+others > 1 && len(c.seen) > 0 {
		c.match = nil
		return severalMatches(op, c)
	}
	return nil
}

// severalMatches returns the error for criteria that match more than one resource.
func severalMatches(op string, c *criteria) error {
	return &errDisclosing{cause: fhir.Errorf(fhir.PreconditionFailed, op, "%s matches more than one %s", c.what,
		c.query.Type),
		seen: c.seen, queries: []found{c.found}}
}

// add adds criteria and their matches.
func (t *disclosures) add(c *criteria) {
	t.seen = append(t.seen, c.seen...)
	t.queries = append(t.queries, c.found)
}
