package googlehealth

import (
	"cmp"
	"net/http"
	"slices"
	"strings"
)

func (s *Server) subscriptionJSON(sub *subscriber, p *subscription) object {
	types := []any{}
	for _, name := range p.types {
		types = append(types, "users/"+p.account+"/dataTypes/"+name)
	}
	out := object{"name": s.subscriberName(sub) + "/subscriptions/" + p.id, "user": "users/" + p.account}
	if len(types) > 0 {
		out["dataTypes"] = types
	}
	return out
}

// subscriptionTypes checks the data types of a subscription. The guide names them like
// "steps", the discovery document like "users/1/dataTypes/steps"; both are accepted.
func subscriptionTypes(sub *subscriber, account string, names []string) ([]string, *apiError) {
	var out []string
	for _, name := range names {
		name = strings.TrimPrefix(name, "users/"+account+"/dataTypes/")
		t := dataTypes[name]
		if t == nil || sub.policy(t) != manual {
			return nil, invalid("dataTypes", "The subscriber has no data type of this name with the policy MANUAL.")
		}
		if !slices.Contains(out, name) {
			out = append(out, name)
		}
	}
	return out, nil
}

func (s *Server) createSubscription(r *http.Request) (any, *apiError) {
	if bad := checkQuery(r, "subscriptionId"); bad != nil {
		return nil, bad
	}
	var body struct {
		User      string   `json:"user"`
		DataTypes []string `json:"dataTypes"`
	}
	if bad := readJSON(r.Body, &body); bad != nil {
		return nil, bad
	}
	now := s.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	sub, bad := s.subscriber(r)
	if bad != nil {
		return nil, bad
	}
	account, ok := strings.CutPrefix(body.User, "users/")
	if w := s.accounts[account]; !ok || w == nil || !w.linked || !s.consented(account) {
		return nil, invalid("user", "The user is not known or has not given consent.")
	}
	types, bad := subscriptionTypes(sub, account, body.DataTypes)
	if bad != nil {
		return nil, bad
	}
	id, bad := s.chooseID(r.URL.Query().Get("subscriptionId"), "subscriptionId")
	if bad != nil {
		return nil, bad
	}
	for _, p := range sub.subscriptions {
		if p.id == id || p.account == account {
			return nil, errExists
		}
	}
	s.collect(account, now)
	p := &subscription{id: id, account: account, types: types, created: now}
	sub.subscriptions[id] = p
	return s.subscriptionJSON(sub, p), nil
}

// consented reports whether the account has given consent to a client. The caller holds
// mu.
func (s *Server) consented(account string) bool {
	for _, c := range s.opts.Clients {
		if s.consents[account+" "+c.ID] != nil {
			return true
		}
	}
	return false
}

func (s *Server) listSubscriptions(r *http.Request) (any, *apiError) {
	if bad := checkQuery(r, "filter", "pageSize", "pageToken"); bad != nil {
		return nil, bad
	}
	match, bad := parseSubscriptionFilter(r.URL.Query().Get("filter"))
	if bad != nil {
		return nil, bad
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	sub, bad := s.subscriber(r)
	if bad != nil {
		return nil, bad
	}
	var all []*subscription
	for _, p := range sub.subscriptions {
		if match(p) {
			all = append(all, p)
		}
	}
	slices.SortFunc(all, func(a, b *subscription) int { return cmp.Compare(a.id, b.id) })
	from, to, next, bad := s.pageOf(r, len(all), 50, 1000)
	if bad != nil {
		return nil, bad
	}
	out := object{}
	var list []any
	for _, p := range all[from:to] {
		list = append(list, s.subscriptionJSON(sub, p))
	}
	if list != nil {
		out["subscriptions"] = list
	}
	if next != "" {
		out["nextPageToken"] = next
	}
	return out, nil
}

// parseSubscriptionFilter parses a filter by user and data_type with = and AND or OR, of
// which OR binds more tightly. Parentheses around disjunctions are accepted.
func parseSubscriptionFilter(text string) (func(*subscription) bool, *apiError) {
	type term struct{ name, value string }
	var groups [][]term
	lex := filterLexer{rest: strings.NewReplacer("(", " ", ")", " ").Replace(text)}
	or := false
	for lex.skip(); lex.rest != ""; lex.skip() {
		name := lex.word()
		op := lex.operator()
		value, ok := lex.literal()
		if (name != "user" && name != "data_type") || op != "=" || !ok || len(text) > maxFilter {
			return nil, invalid("filter", "The filter must compare user or data_type with =.")
		}
		if or {
			groups[len(groups)-1] = append(groups[len(groups)-1], term{name, value})
		} else {
			groups = append(groups, []term{{name, value}})
		}
		word := lex.word()
		if word != "" && word != "AND" && word != "OR" || word == "" && lex.rest != "" {
			return nil, invalid("filter", "The conditions must be joined with AND or OR.")
		}
		or = word == "OR"
	}
	return func(p *subscription) bool {
		for _, group := range groups {
			if !slices.ContainsFunc(group, func(t term) bool {
				if t.name == "user" {
					return t.value == "users/"+p.account
				}
				return slices.Contains(p.types, t.value)
			}) {
				return false
			}
		}
		return true
	}, nil
}

func (s *Server) patchSubscription(r *http.Request) (any, *apiError) {
	if bad := checkQuery(r, "updateMask"); bad != nil {
		return nil, bad
	}
	var body struct {
		Name      string   `json:"name"`
		User      string   `json:"user"`
		DataTypes []string `json:"dataTypes"`
	}
	if bad := readJSON(r.Body, &body); bad != nil {
		return nil, bad
	}
	now := s.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	sub, bad := s.subscriber(r)
	if bad != nil {
		return nil, bad
	}
	p := sub.subscriptions[r.PathValue("sub")]
	if p == nil {
		return nil, errNotFound
	}
	if body.User != "" && body.User != "users/"+p.account {
		return nil, invalid("user", "The user cannot be changed.")
	}
	types, bad := subscriptionTypes(sub, p.account, body.DataTypes)
	if bad != nil {
		return nil, bad
	}
	s.collect(p.account, now)
	if masked(r)("dataTypes", "data_types", body.DataTypes != nil) {
		p.types = types
	}
	return s.subscriptionJSON(sub, p), nil
}

func (s *Server) deleteSubscription(r *http.Request) (any, *apiError) {
	if bad := checkQuery(r); bad != nil {
		return nil, bad
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	sub, bad := s.subscriber(r)
	if bad != nil {
		return nil, bad
	}
	if sub.subscriptions[r.PathValue("sub")] == nil {
		return nil, errNotFound
	}
	delete(sub.subscriptions, r.PathValue("sub"))
	return object{}, nil
}
