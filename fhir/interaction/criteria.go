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
	if err != nil {
		return nil, err
	}
	if len(q.Clauses) == 0 {
		return nil, fhir.Errorf(fhir.PreconditionFailed, op,
			"%s has no search parameter and would match every resource; add one", what)
	}
	a.line = line + " " + what + ": " + typ + "?" + raw
	return &criteria{what: what, query: q, recorded: *a}, nil
}

// key returns a key that equivalent criteria share regardless of their spelling.
func (c *criteria) key() string {
	parts := make([]string, len(c.query.Clauses))
	for i := range c.query.Clauses {
		k := &c.query.Clauses[i]
		values := make([]string, len(k.Values))
		for j, v := range k.Values {
			if k.Param.Type == search.TypeString && k.Modifier != search.ModExact {
				v.Code = "" // only Text is compared
			}
			values[j] = fmt.Sprintf("%#v", v)
		}
		slices.Sort(values)
		code, mod := k.Param.Code, k.Modifier
		if mod == search.ModType { // the values contain the type
			mod = search.NoModifier
		}
		if code == "subject" && len(k.Values) > 0 &&
			!slices.ContainsFunc(k.Values, func(v search.Value) bool { return v.RefType != "Patient" }) {
			code = "patient"
		}
		parts[i] = fmt.Sprint(code, ":", mod, k.Missing, slices.Compact(values))
	}
	slices.Sort(parts)
	return c.query.Type + "?" + strings.Join(slices.Compact(parts), "&")
}

// locks returns the keys by which criteria are serialized. Criteria with the same
// identifier share a lock regardless of their other parameters and of the system,
// because they may match the same resource.
func (c *criteria) locks() []string {
	for i := range c.query.Clauses {
		k := &c.query.Clauses[i]
		if k.Param.Code != "identifier" || k.Modifier != search.NoModifier {
			continue
		}
		out := make([]string, len(k.Values))
		for j := range k.Values {
			out[j] = c.query.Type + "#" + strings.ToLower(k.Values[j].Code)
		}
		return out
	}
	return []string{c.key()}
}

// guards returns the guards by which conditional creates with the same criteria, in any
// process, notice each other. They are hashes, because criteria may identify people.
func (c *criteria) guards() []string {
	out := c.locks()
	for i, key := range out {
		sum := sha256.Sum256([]byte(key))
		out[i] = "criteria/" + base64.RawURLEncoding.EncodeToString(sum[:16])
	}
	return out
}

// find searches for the match among the resources that the caller may see. It
// returns PreconditionFailed if there is more than one.
func (s *Service) find(ctx context.Context, rq *Request, op string, c *criteria) error {
	c.match, c.seen, c.found = nil, nil, found{c.recorded, map[string]bool{}}
	if c.query.Patient != "" {
		c.found.patients[c.query.Patient] = false
	}
	// Two matches are enough to fail.
	err := s.Store.Find(ctx, store.Find{Query: c.query, Filter: rq.filter(access.Search), Limit: 2},
		func(f *store.Found) bool {
			if c.match == nil {
				r := f.Resource
				r.JSON = append([]byte(nil), r.JSON...)
				c.match = &r
			}
			c.seen = append(c.seen, disclosedOf(&stored{f.Resource, f.Facts}))
			for _, p := range f.Facts.Patients() {
				c.found.patients[p] = true
			}
			return true
		})
	if err != nil {
		return err
	}
	if len(c.seen) > 1 {
		c.match = nil
		return &errDisclosing{cause: fhir.Errorf(fhir.PreconditionFailed, op, "%s matches more than one %s", c.what,
			c.query.Type),
			seen: c.seen, queries: []found{c.found}}
	}
	return nil
}

// add adds criteria and their matches.
func (t *disclosures) add(c *criteria) {
	t.seen = append(t.seen, c.seen...)
	t.queries = append(t.queries, c.found)
}
