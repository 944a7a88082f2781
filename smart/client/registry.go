package client

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"net/url"
	"strings"
	"sync"
	"time"
	"unicode"
	"unicode/utf8"

	"pulsegate/fhir"
	"pulsegate/fhir/store"
	"pulsegate/smart/scope"
)

// Client is one registered client.
type Client struct {
	ID       string          `json:"id"`
	Name     string          `json:"name"`
	JWKS     json.RawMessage `json:"jwks,omitempty"`
	JWKSURL  string          `json:"jwks_url,omitempty"`
	Scope    string          `json:"scope"`
	Created  time.Time       `json:"created"`
	Disabled bool            `json:"disabled,omitempty"`
}

// Store is the small state of a store.Store.
type Store interface {
	T() store.T
	Commit(ctx context.Context, b *store.Batch) (store.Result, error)
	Get(ctx context.Context, key string) ([]byte, error)
	List(ctx context.Context, prefix string, fn func(key string, value []byte) bool) error
}

// Registry is the list of clients.
type Registry struct {
	Store  Store
	Scopes scope.Parser
	Clock  func() time.Time
	// AllowHTTP admits http in jwks_url, for addresses that the egress policy
	// allows.
	AllowHTTP bool

	mu    sync.Mutex
	known map[string]known
}

// known is a client as it was at a commit. Until there is another commit it
// cannot have changed: every request asks for its client, and most find that
// nothing was written since the one before.
type known struct {
	at     store.T
	raw    []byte
	client Client
}

const maxKnown = 4096

const (
	room    = "client/"
	maxName = 200
)

// Add registers c and returns it as stored, with a new id when it has none.
// Created is set; "any" is no id, for a consent gives it a meaning.
func (r *Registry) Add(ctx context.Context, c Client) (Client, error) {
	const op = "client.Add"
	if c.ID == "" {
		c.ID = strings.ToLower(rand.Text())
	}
	if !fhir.ValidID(c.ID) || c.ID == "any" {
		return Client{}, fhir.Errorf(fhir.Invalid, op, "client_id: letters, digits, - and . only, at most 64, and not \"any\"")
	}
	if c.Name == "" || len(c.Name) > maxName || !utf8.ValidString(c.Name) || strings.ContainsFunc(c.Name, unicode.IsControl) {
		return Client{}, fhir.Errorf(fhir.Invalid, op, "name: 1 to %d bytes without control characters", maxName)
	}
	if (len(c.JWKS) == 0) == (c.JWKSURL == "") {
		return Client{}, fhir.Errorf(fhir.Invalid, op, "one of jwks and jwks_url is needed")
	}
	if len(c.JWKS) > 0 {
		if _, err := parseSet(c.JWKS); err != nil {
			return Client{}, err
		}
	} else if err := r.checkURL(c.JWKSURL); err != nil {
		return Client{}, err
	}
	set, err := r.Scopes.Parse(c.Scope)
	if err != nil {
		return Client{}, err
	}
	c.Scope = set.String()
	c.Created = r.Clock().UTC().Truncate(time.Second)
	return c, r.put(ctx, c, store.StateWrite{Expect: store.StateAbsent})
}

func (r *Registry) checkURL(s string) error {
	u, err := url.Parse(s)
	if err != nil || u.Host == "" || u.User != nil || u.Fragment != "" || len(s) > 2048 {
		return fhir.Errorf(fhir.Invalid, "client.Add", "jwks_url: an absolute URL without user and fragment")
	}
	if u.Scheme != "https" && (u.Scheme != "http" || !r.AllowHTTP) {
		return fhir.Errorf(fhir.Invalid, "client.Add", "jwks_url: https only")
	}
	return nil
}

func (r *Registry) put(ctx context.Context, c Client, w store.StateWrite) error {
	b, err := json.Marshal(c)
	if err != nil {
		return fhir.Wrap("client.put", err)
	}
	w.Key, w.Value = room+c.ID, b
	_, err = r.Store.Commit(ctx, &store.Batch{State: []store.StateWrite{w}})
	if err != nil && fhir.KindOf(err) == fhir.Conflict {
		return fhir.Errorf(fhir.Conflict, "client.put", "client_id: exists already, or was changed meanwhile")
	}
	return fhir.Wrap("client.put", err)
}

// Get returns a client, also a disabled one, as of the latest commit; NotFound
// when there is none. Its key set is shared and must not be changed.
func (r *Registry) Get(ctx context.Context, id string) (Client, error) {
	at := r.Store.T() // before the read: what it shows is at least that new
	r.mu.Lock()
	k, ok := r.known[id]
	r.mu.Unlock()
	if ok && k.at == at {
		return k.client, nil
	}
	b, err := r.raw(ctx, id)
	if err != nil {
		return Client{}, err
	}
	if !ok || !bytes.Equal(b, k.raw) {
		k = known{raw: b}
		if err := json.Unmarshal(b, &k.client); err != nil {
			return Client{}, fhir.Wrap("client.Get", err)
		}
	}
	k.at = at
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.known == nil || len(r.known) >= maxKnown {
		r.known = map[string]known{}
	}
	if old, ok := r.known[id]; !ok || old.at <= at {
		r.known[id] = k
	}
	return k.client, nil
}

// raw is the stored form of a client.
func (r *Registry) raw(ctx context.Context, id string) ([]byte, error) {
	if !fhir.ValidID(id) {
		return nil, fhir.Errorf(fhir.NotFound, "client.Get", "no such client")
	}
	b, err := r.Store.Get(ctx, room+id)
	if err != nil {
		return nil, fhir.Wrap("client.Get", err)
	}
	if b == nil {
		return nil, fhir.Errorf(fhir.NotFound, "client.Get", "no such client")
	}
	return b, nil
}

func (r *Registry) get(ctx context.Context, id string) (Client, []byte, error) {
	b, err := r.raw(ctx, id)
	if err != nil {
		return Client{}, nil, err
	}
	var c Client
	if err := json.Unmarshal(b, &c); err != nil {
		return Client{}, nil, fhir.Wrap("client.Get", err)
	}
	return c, b, nil
}

// List returns all clients in the order of their ids.
func (r *Registry) List(ctx context.Context) ([]Client, error) {
	var out []Client
	var bad error
	err := r.Store.List(ctx, room, func(_ string, v []byte) bool {
		var c Client
		if bad = json.Unmarshal(v, &c); bad == nil {
			out = append(out, c)
		}
		return bad == nil
	})
	if err == nil {
		err = bad
	}
	return out, fhir.Wrap("client.List", err)
}

// Disable ends a client: its next token request and its next use of a token
// are refused.
func (r *Registry) Disable(ctx context.Context, id string) error {
	c, old, err := r.get(ctx, id)
	if err != nil || c.Disabled {
		return err
	}
	c.Disabled = true
	return r.put(ctx, c, store.StateWrite{Expect: store.StateEquals, Old: old})
}
