package client

import (
	"bytes"
	"context"
	"encoding/json"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"

	"pulsegate/fhir"
	"pulsegate/fhir/store"
	"pulsegate/smart/scope"
)

// Client is one registered client.
type Client struct {
	ID      string          `json:"id"`
	Name    string          `json:"name"`
	JWKS    json.RawMessage `json:"jwks,omitempty"`
	JWKSURL string          `json:"jwks_url,omitempty"`
	Scope   string          `json:"scope"`
	// Method is how the client shows who it is; "" means PrivateKeyJWT.
	Method Method `json:"method,omitempty"`
	// GrantTypes are the grant types it may use; none means those that go with
	// its redirect URIs: without any it is a backend.
	GrantTypes   []GrantType `json:"grants,omitempty"`
	RedirectURIs []string    `json:"redirect_uris,omitempty"`
	LaunchURL    string      `json:"launch_url,omitempty"` // of the app, for a launch from an EHR
	// What a person is shown.
	LogoURI   string `json:"logo_uri,omitempty"`
	ClientURI string `json:"client_uri,omitempty"`
	PolicyURI string `json:"policy_uri,omitempty"`
	TOSURI    string `json:"tos_uri,omitempty"`
	// Its tokens are bound to a key of its own, always (RFC 9449 5.2, RFC 8705
	// 3.4). Without either it may still bind each token.
	DPoPBound bool `json:"dpop_bound,omitempty"`
	CertBound bool `json:"cert_bound,omitempty"`
	// Inspects lets it introspect tokens of other clients: it is a resource
	// server.
	Inspects bool `json:"inspects,omitempty"`
	// RecordsConsent lets it write Consents, as far as its scope covers that.
	// The operator alone sets it; no registration over the network does.
	RecordsConsent bool      `json:"records_consent,omitempty"`
	Created        time.Time `json:"created"`
	Disabled       bool      `json:"disabled,omitempty"`
	// SHA-256 of the client secret and of the registration access token.
	SecretHash       []byte `json:"secret_hash,omitempty"`
	RegistrationHash []byte `json:"registration_hash,omitempty"`
	// SecretOld is the secret before the current one; it is good until
	// SecretOldEnds, so that a secret can be changed without an outage.
	SecretOld     []byte    `json:"secret_old,omitempty"`
	SecretOldEnds time.Time `json:"secret_old_ends,omitzero"`
}

// Method is a token_endpoint_auth_method (RFC 7591 2).
type Method string

// The methods that are offered. A client with a secret may send it either way.
const (
	None          Method = "none"
	SecretBasic   Method = "client_secret_basic"
	SecretPost    Method = "client_secret_post"
	PrivateKeyJWT Method = "private_key_jwt"
)

// GrantType is an OAuth grant type.
type GrantType string

// The grant types that are offered.
const (
	Code        GrantType = "authorization_code"
	Refresh     GrantType = "refresh_token"
	Credentials GrantType = "client_credentials"
)

// May reports whether the client may use a grant type.
func (c *Client) May(g GrantType) bool {
	if len(c.GrantTypes) == 0 {
		return (g == Credentials) == (len(c.RedirectURIs) == 0)
	}
	return slices.Contains(c.GrantTypes, g)
}

// Auth is the client's method.
func (c *Client) Auth() Method {
	if c.Method == "" {
		return PrivateKeyJWT
	}
	return c.Method
}

// Symmetric reports whether the client has a secret.
func (c *Client) Symmetric() bool { return c.Method == SecretBasic || c.Method == SecretPost }

// Store is the part of a store.Store that a Registry needs.
type Store interface {
	store.State
	LastSeq() store.Seq
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
	known *simplelru.LRU[string, known] // by client id; guarded by mu
}

// known is a client as it was at a commit. Until there is another commit it
// cannot have changed: every request asks for its client, and most find that
// nothing was written since the one before.
type known struct {
	at     store.Seq
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
	c, w, err := r.Prepare(c)
	if err != nil {
		return Client{}, err
	}
	return c, r.commit(ctx, w)
}

// Prepare checks c and returns it as Add would store it, with the write, for
// a commit together with others.
func (r *Registry) Prepare(c Client) (Client, store.StateWrite, error) {
	if c.ID == "" {
		c.ID = fhir.RandomID()
	}
	if !fhir.ValidID(c.ID) || c.ID == "any" {
		return Client{}, store.StateWrite{},
			fhir.Errorf(fhir.Invalid, "client.Add",
				"client_id: letters, digits, - and . only, at most 64, and not \"any\"")
	}
	if err := r.check(&c); err != nil {
		return Client{}, store.StateWrite{}, err
	}
	c.Created = r.Clock().UTC().Truncate(time.Second)
	w, err := encode(c, store.StateWrite{Expect: store.StateAbsent})
	return c, w, err
}

// Change replaces a client's registration: edit gets the stored one and
// changes it. Id and Created stay. It returns the client as stored.
func (r *Registry) Change(ctx context.Context, id string, edit func(*Client) error) (Client, error) {
	c, w, err := r.PrepareChange(ctx, id, edit)
	if err != nil {
		return Client{}, err
	}
	return c, r.commit(ctx, w)
}

// PrepareChange is Change up to the write, for a commit together with others.
func (r *Registry) PrepareChange(ctx context.Context, id string,
	edit func(*Client) error) (Client, store.StateWrite, error) {
	old, raw, err := r.get(ctx, id)
	if err != nil {
		return Client{}, store.StateWrite{}, err
	}
	c := old
	if err := edit(&c); err != nil {
		return Client{}, store.StateWrite{}, err
	}
	c.ID, c.Created = old.ID, old.Created
	if err := r.check(&c); err != nil {
		return Client{}, store.StateWrite{}, err
	}
	w, err := encode(c, store.StateWrite{Expect: store.StateEquals, Old: raw})
	return c, w, err
}

func encode(c Client, w store.StateWrite) (store.StateWrite, error) {
	b, err := json.Marshal(c)
	w.Key, w.Value = room+c.ID, b
	return w, fhir.Wrap("client.encode", err)
}

func (r *Registry) commit(ctx context.Context, w store.StateWrite) error {
	_, err := r.Store.Commit(ctx, &store.Batch{State: []store.StateWrite{w}})
	if err != nil && fhir.KindOf(err) == fhir.Conflict {
		return fhir.Errorf(fhir.Conflict, "client.put", "client_id: exists already, or was changed meanwhile")
	}
	return fhir.Wrap("client.put", err)
}

// Get returns a client, also a disabled one, as of the latest commit; NotFound
// when there is none. Its key set is shared and must not be changed.
func (r *Registry) Get(ctx context.Context, id string) (Client, error) {
	at := r.Store.LastSeq() // before the read: what it shows is at least that new
	k, ok := r.lookup(id)
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
	if r.known == nil {
		r.known, _ = simplelru.NewLRU[string, known](maxKnown, nil) // fails only for a size below one
	}
	if old, ok := r.known.Peek(id); !ok || old.at <= at {
		r.known.Add(id, k)
	}
	return k.client, nil
}

func (r *Registry) lookup(id string) (k known, ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.known == nil {
		return known{}, false
	}
	return r.known.Get(id)
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
	w, err := r.PrepareDisable(ctx, id)
	if err != nil {
		return err
	}
	return r.commit(ctx, w)
}

// PrepareDisable is Disable up to the write, for a commit together with
// others.
func (r *Registry) PrepareDisable(ctx context.Context, id string) (store.StateWrite, error) {
	c, old, err := r.get(ctx, id)
	if err != nil {
		return store.StateWrite{}, err
	}
	c.Disabled = true
	return encode(c, store.StateWrite{Expect: store.StateEquals, Old: old})
}
