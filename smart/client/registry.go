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

// Client is a registered client.
type Client struct {
	ID      string          `json:"id"`
	Name    string          `json:"name"`
	JWKS    json.RawMessage `json:"jwks,omitempty"`
	JWKSURL string          `json:"jwks_url,omitempty"`
	Scope   string          `json:"scope"`
	// Method is the client's authentication method. An empty value means
	// PrivateKeyJWT.
	Method Method `json:"method,omitempty"`
	// GrantTypes lists the grant types that the client may use. If it is empty,
	// they follow from the redirect URIs: a client without any is a backend
	// service.
	GrantTypes   []GrantType `json:"grants,omitempty"`
	RedirectURIs []string    `json:"redirect_uris,omitempty"`
	LaunchURL    string      `json:"launch_url,omitempty"` // URL of the app for an EHR launch
	// Shown to people on the consent screen.
	LogoURI   string `json:"logo_uri,omitempty"`
	ClientURI string `json:"client_uri,omitempty"`
	PolicyURI string `json:"policy_uri,omitempty"`
	TOSURI    string `json:"tos_uri,omitempty"`
	// DPoPBound and CertBound require that every token is bound to a key of the
	// client (RFC 9449 5.2, RFC 8705 3.4). Without either, the client may still
	// bind individual tokens.
	DPoPBound bool `json:"dpop_bound,omitempty"`
	CertBound bool `json:"cert_bound,omitempty"`
	// Inspects allows the client, as a resource server, to introspect the
	// tokens of other clients.
	Inspects bool `json:"inspects,omitempty"`
	// RecordsConsent allows the client to write Consents within its scope. Only
	// the operator can set it; dynamic registration cannot.
	RecordsConsent bool `json:"records_consent,omitempty"`
	// PhoneMade says that all Observations that the client creates were made on a phone
	// from samples of HealthKit, so that the server repairs them. Only the operator can
	// set it.
	PhoneMade bool      `json:"phone_made,omitempty"`
	Created   time.Time `json:"created"`
	Disabled  bool      `json:"disabled,omitempty"`
	// SHA-256 hashes of the client secret and of the registration access token.
	SecretHash       []byte `json:"secret_hash,omitempty"`
	RegistrationHash []byte `json:"registration_hash,omitempty"`
	// SecretOld is the hash of the previous secret, which remains valid until
	// SecretOldEnds, so that a secret can be replaced without an outage.
	SecretOld     []byte    `json:"secret_old,omitempty"`
	SecretOldEnds time.Time `json:"secret_old_ends,omitzero"`
}

// Method is a token_endpoint_auth_method (RFC 7591 2).
type Method string

// The supported methods. A client with a secret may use either of the two
// methods for secrets.
const (
	None          Method = "none"
	SecretBasic   Method = "client_secret_basic"
	SecretPost    Method = "client_secret_post"
	PrivateKeyJWT Method = "private_key_jwt"
	// Receiver is the method of a client that cannot authenticate: a system to which
	// this server sends data by itself. Consents name it as their recipient, and its
	// scope limits what it is sent. Only the operator can register one.
	Receiver Method = "receiver"
)

// GrantType is an OAuth grant type.
type GrantType string

// The supported grant types.
const (
	Code        GrantType = "authorization_code"
	Refresh     GrantType = "refresh_token"
	Credentials GrantType = "client_credentials"
)

// May reports whether the client may use a grant type.
func (c *Client) May(g GrantType) bool {
	if c.Method == Receiver {
		return false
	}
	if len(c.GrantTypes) == 0 {
		return (g == Credentials) == (len(c.RedirectURIs) == 0)
	}
	return slices.Contains(c.GrantTypes, g)
}

// Auth returns the client's authentication method.
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

// Registry stores the clients. It is safe for concurrent use.
type Registry struct {
	Store  Store
	Scopes scope.Parser
	Clock  func() time.Time
	// AllowHTTP permits http in jwks_url, for addresses that the egress policy
	// allows.
	AllowHTTP bool

	mu    sync.Mutex
	cache *simplelru.LRU[string, cached] // by client id; guarded by mu
}

// cached is a client as of a sequence number. It is valid until the next
// commit. Every request reads its client, and most find no commit since the
// previous one.
type cached struct {
	seq    store.Seq
	raw    []byte
	client Client
}

const maxCachedClients = 4096

const (
	keyPrefix = "client/"
	maxName   = 200
)

// Add registers c and returns it as stored, with a new id if it has none, and
// with Created set. The id "any" is refused, because it has a meaning in
// Consents.
func (r *Registry) Add(ctx context.Context, c Client) (Client, error) {
	c, w, err := r.Prepare(c)
	if err != nil {
		return Client{}, err
	}
	return c, r.commit(ctx, w)
}

// Prepare is like Add but returns the write, so that the caller can commit it
// with others.
func (r *Registry) Prepare(c Client) (Client, store.StateWrite, error) {
	if c.ID == "" {
		c.ID = fhir.RandomID()
	}
	if !fhir.ValidID(c.ID) || c.ID == "any" {
		return Client{}, store.StateWrite{},
			fhir.Errorf(fhir.Invalid, "client.Add",
				"client_id: it must have 1 to 64 letters, digits, - and ., and must not be \"any\"")
	}
	if err := r.check(&c); err != nil {
		return Client{}, store.StateWrite{}, err
	}
	c.Created = r.Clock().UTC().Truncate(time.Second)
	w, err := encode(c, store.StateWrite{Expect: store.StateAbsent})
	return c, w, err
}

// Change applies edit to the stored registration of a client. ID and Created
// cannot be changed. It returns the client as stored.
func (r *Registry) Change(ctx context.Context, id string, edit func(*Client) error) (Client, error) {
	c, w, err := r.PrepareChange(ctx, id, edit)
	if err != nil {
		return Client{}, err
	}
	return c, r.commit(ctx, w)
}

// PrepareChange is like Change but returns the write, so that the caller can
// commit it with others.
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
	w.Key, w.Value = keyPrefix+c.ID, b
	return w, fhir.Wrap("client.encode", err)
}

func (r *Registry) commit(ctx context.Context, w store.StateWrite) error {
	_, err := r.Store.Commit(ctx, &store.Batch{State: []store.StateWrite{w}})
	if err != nil && fhir.KindOf(err) == fhir.Conflict {
		return fhir.Errorf(fhir.Conflict, "client.put", "client_id: it already exists or was changed in the meantime")
	}
	return fhir.Wrap("client.put", err)
}

// Get returns a client as of the latest commit, which may be disabled. It
// returns NotFound if there is none. The key set of the result is shared and
// must not be modified.
func (r *Registry) Get(ctx context.Context, id string) (Client, error) {
	seq := r.Store.LastSeq() // before the read, so that the result is at least this recent
	entry, ok := r.lookup(id)
	if ok && entry.seq == seq {
		return entry.client, nil
	}
	b, err := r.raw(ctx, id)
	if err != nil {
		return Client{}, err
	}
	if !ok || !bytes.Equal(b, entry.raw) {
		entry = cached{raw: b}
		if err := json.Unmarshal(b, &entry.client); err != nil {
			return Client{}, fhir.Wrap("client.Get", err)
		}
	}
	entry.seq = seq
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.cache == nil {
		r.cache, _ = simplelru.NewLRU[string, cached](maxCachedClients, nil) // fails only for a size below one
	}
	if old, ok := r.cache.Peek(id); !ok || old.seq <= seq {
		r.cache.Add(id, entry)
	}
	return entry.client, nil
}

func (r *Registry) lookup(id string) (entry cached, ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.cache == nil {
		return cached{}, false
	}
	return r.cache.Get(id)
}

// raw returns the stored bytes of a client.
func (r *Registry) raw(ctx context.Context, id string) ([]byte, error) {
	if !fhir.ValidID(id) {
		return nil, fhir.Errorf(fhir.NotFound, "client.Get", "no such client")
	}
	b, err := r.Store.Get(ctx, keyPrefix+id)
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

// List returns all clients, ordered by id.
func (r *Registry) List(ctx context.Context) ([]Client, error) {
	var out []Client
	var bad error
	err := r.Store.List(ctx, keyPrefix, func(_ string, v []byte) bool {
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

// Disable disables a client. Its next token request and its next use of a token
// are refused.
func (r *Registry) Disable(ctx context.Context, id string) error {
	w, err := r.PrepareDisable(ctx, id)
	if err != nil {
		return err
	}
	return r.commit(ctx, w)
}

// PrepareDisable is like Disable but returns the write, so that the caller can
// commit it with others.
func (r *Registry) PrepareDisable(ctx context.Context, id string) (store.StateWrite, error) {
	c, old, err := r.get(ctx, id)
	if err != nil {
		return store.StateWrite{}, err
	}
	c.Disabled = true
	return encode(c, store.StateWrite{Expect: store.StateEquals, Old: old})
}
