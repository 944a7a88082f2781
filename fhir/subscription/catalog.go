package subscription

import (
	"bytes"
	"context"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"pulsegate/fhir"
	"pulsegate/fhir/access"
	"pulsegate/fhir/search"
	"pulsegate/fhir/store"
	"pulsegate/fhir/subscription/topic"
)

// catalog is an immutable set of topics. A nil catalog has none.
type catalog struct {
	byCanonical map[string]*topic.Topic
	list        []*topic.Topic // by URL
}

func newCatalog(lists ...[]*topic.Topic) *catalog {
	c := &catalog{byCanonical: map[string]*topic.Topic{}}
	for _, list := range lists {
		for _, t := range list {
			if c.byCanonical[t.URL] == nil { // the topics of the server itself come first
				c.byCanonical[t.URL] = t
				c.list = append(c.list, t)
			}
		}
	}
	slices.SortFunc(c.list, func(a, b *topic.Topic) int { return strings.Compare(a.URL, b.URL) })
	return c
}

// byURL returns the topic with a canonical URL, or nil. A topic of this project may also
// be named by a URL below the FHIR base URL. A version after "|" must be that of the topic.
func (c *catalog) byURL(url, base string) *topic.Topic {
	if c == nil {
		return nil
	}
	url, version, versioned := strings.Cut(url, "|")
	t := c.byCanonical[url]
	if t == nil {
		if id, ok := strings.CutPrefix(url, base+"/SubscriptionTopic/"); ok {
			t = c.byCanonical[topic.Base+id]
		}
	}
	if t == nil || t.Status == "retired" || versioned && version != t.Version {
		return nil
	}
	return t
}

// topics holds the catalog of a process. The topics of the server are fixed; those that
// an operator has added are Basics in the store, and are read again when one of them has
// changed.
type topics struct {
	base    string
	builtin []*topic.Topic
	store   store.Store
	// changed counts the commits that changed a Basic.
	changed atomic.Uint64

	mu   sync.Mutex
	read uint64 // value of changed, plus one, of which current was read; guarded by mu
	// current is guarded by mu.
	current *catalog
}

// note is called for every commit.
func (x *topics) note(c store.Commit) {
	for i := range c.Changes {
		if c.Changes[i].Ref.Type == "Basic" {
			x.changed.Add(1)
			return
		}
	}
}

// catalog returns the topics of this moment.
func (x *topics) catalog(ctx context.Context) (*catalog, error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	now := x.changed.Load() + 1
	if x.read == now {
		return x.current, nil
	}
	added, err := x.stored(ctx)
	if err != nil {
		return nil, err
	}
	x.current, x.read = newCatalog(x.builtin, added), now
	return x.current, nil
}

// stored reads the topics that an operator has added. One that this version of the server
// does not support any more is left out.
func (x *topics) stored(ctx context.Context) ([]*topic.Topic, error) {
	if !fhir.KnownType("Basic") {
		return nil, nil
	}
	q, err := search.Parse("Basic", [][2]string{{"code", topic.CodeSystem + "|" + topic.Code}},
		search.ParseOptions{Base: x.base})
	if err != nil {
		return nil, fhir.Wrap("subscription.topics", err)
	}
	var out []*topic.Topic
	err = x.store.Find(ctx, store.Find{Query: q, Filter: access.All().Filter(access.Search)},
		func(f *store.Found) bool {
			// Only an operator and the server write these, without an author. See CheckBasic.
			if f.Facts.Author == "" && f.Facts.Vendor == "" {
				if t, err := topic.Parse(bytes.Clone(f.Resource.JSON), x.base); err == nil &&
					!strings.HasPrefix(t.URL, topic.Base) {
					out = append(out, t)
				}
			}
			return len(out) < maxTopics
		})
	slices.SortFunc(out, func(a, b *topic.Topic) int { return strings.Compare(a.ID, b.ID) })
	return out, fhir.Wrap("subscription.topics", err)
}

// maxTopics bounds the topics that an operator can add.
const maxTopics = 1000

// TopicsVersion returns a number that grows when the topics may have changed.
func (e *Engine) TopicsVersion() uint64 { return e.topics.changed.Load() }

// Topics returns the topics that Subscriptions can name, by URL.
func (e *Engine) Topics(ctx context.Context) ([]*topic.Topic, error) {
	c, err := e.topics.catalog(ctx)
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(slices.Clone(c.list), func(t *topic.Topic) bool { return t.Status == "retired" }), nil
}

// CheckBasic validates a write of a Basic. It implements interaction.Check. Only an
// operator writes a Basic that is a topic, because a topic decides what all subscribers
// are notified of; it must be one that this server can evaluate, with a URL that no other
// topic has. Other Basics are not restricted.
func (e *Engine) CheckBasic(ctx context.Context, p *access.Principal, next,
	prev *fhir.Resource) (*fhir.Resource, error) {
	const op = "subscription.CheckBasic"
	was := prev != nil && !prev.Deleted && topic.IsTopic(prev.JSON)
	is := next != nil && topic.IsTopic(next.JSON)
	if !was && !is {
		return next, nil
	}
	if p == nil || p.Operator == "" {
		return nil, fhir.Errorf(fhir.Forbidden, op, "only the operator of this server writes topics of subscriptions")
	}
	if !is {
		return next, nil
	}
	t, err := topic.Parse(next.JSON, e.opts.Base)
	if err != nil {
		return nil, err
	}
	c, err := e.topics.catalog(ctx)
	if err != nil {
		return nil, err
	}
	other := c.byCanonical[t.URL]
	if other != nil && other.ID != next.ID || other == nil && strings.HasPrefix(t.URL, topic.Base) {
		return nil, fhir.Errorf(fhir.Conflict, op, "another topic has this URL")
	}
	if len(c.list)-len(e.topics.builtin) >= maxTopics && other == nil {
		return nil, fhir.Errorf(fhir.TooMany, op, "there are %d topics already; delete one first", maxTopics)
	}
	return next, nil
}
