package subscription

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"io"
	"slices"
	"time"

	"pulsegate/fhir"
	"pulsegate/fhir/access"
	"pulsegate/fhir/audit"
	"pulsegate/fhir/element"
	"pulsegate/fhir/store"
)

// SocketPath is the path of the WebSocket below the FHIR base URL.
const SocketPath = "/$subscription-ws"

// binding is the small state of a binding token: its client and Subscriptions. The key
// holds the SHA-256 of the token.
type binding struct {
	Client  string    `json:"client"`
	IDs     []string  `json:"ids"`
	Expires time.Time `json:"expires"`
}

// tokenKey returns the key of a binding token. It has one slash, and the keys of a
// Subscription have two.
func tokenKey(token string) string {
	sum := sha256.Sum256([]byte(token))
	return keyPrefix + "ws:" + hex.EncodeToString(sum[:])
}

// BindingToken answers $get-ws-binding-token: it returns a Parameters resource with a token
// by which a socket can be bound to Subscriptions of the caller with the channel
// websocket. Without ids, these are all of them.
func (e *Engine) BindingToken(ctx context.Context, c Request, ids []string) ([]byte, error) {
	const op = "subscription.BindingToken"
	if err := e.may(c); err != nil {
		return nil, err
	}
	if c.Principal.ClientID == "" {
		return nil, fhir.Errorf(fhir.Forbidden, op, "a Subscription belongs to a client")
	}
	rows, err := e.statuses(ctx, c.Principal.ClientID, ids)
	if err != nil {
		return nil, err
	}
	found := map[string]bool{}
	for _, h := range rows {
		found[h.id] = h.spec != nil && h.spec.Channel == websocket && h.status != "off"
	}
	b := binding{Client: c.Principal.ClientID, Expires: e.opts.Clock().Add(e.opts.TokenTTL).UTC()}
	for _, id := range ids {
		if _, ok := found[id]; !ok {
			return nil, fhir.Errorf(fhir.NotFound, op, "there is no such Subscription")
		} else if !found[id] {
			return nil, fhir.Errorf(fhir.Unprocessable, op,
				"the Subscription is off or has another channel than websocket")
		}
	}
	for id, ok := range found {
		if ok {
			b.IDs = append(b.IDs, id)
		}
	}
	slices.Sort(b.IDs)
	if len(b.IDs) == 0 {
		return nil, fhir.Errorf(fhir.NotFound, op, "there is no Subscription with the channel websocket")
	}
	var raw [32]byte
	if _, err := io.ReadFull(e.opts.Rand, raw[:]); err != nil {
		return nil, fhir.Wrap(op, err)
	}
	token := base64.RawURLEncoding.EncodeToString(raw[:])
	value, err := json.Marshal(b)
	if err != nil {
		return nil, fhir.Wrap(op, err)
	}
	_, err = audit.Commit(ctx, e.opts.Store, e.opts.Audit, &store.Batch{State: []store.StateWrite{{
		Key: tokenKey(token), Value: value, Expires: b.Expires}}}, c.event(audit.Rest))
	if err != nil {
		return nil, err
	}
	out := []byte(`{"resourceType":"Parameters","parameter":[{"name":"token","valueString":"` + token +
		`"},{"name":"expiration","valueDateTime":"`)
	out = b.Expires.AppendFormat(out, fhir.InstantLayout)
	out = append(out, `"}`...)
	for _, id := range b.IDs {
		out = append(out, `,{"name":"subscription","valueString":`...)
		out = append(element.AppendHTMLSafe(out, id), '}')
	}
	out = append(out, `,{"name":"websocket-url","valueUrl":`...)
	out = element.AppendHTMLSafe(out, e.opts.SocketURL)
	return append(out, `}]}`...), nil
}

// bound returns what a token permits, or nil if it is unknown or has expired.
func (e *Engine) bound(ctx context.Context, token string) (*binding, error) {
	if len(token) > 64 {
		return nil, nil
	}
	v, err := e.opts.Store.Get(ctx, tokenKey(token))
	if err != nil || v == nil {
		return nil, err
	}
	b := &binding{}
	if err := json.Unmarshal(v, b); err != nil {
		return nil, fhir.Wrap("subscription.bound", err)
	}
	if !e.opts.Clock().Before(b.Expires) {
		return nil, nil
	}
	return b, nil
}

// ownBinding returns what a caller who has an access token may bind: one Subscription. It
// serves R4's message "bind".
func (e *Engine) ownBinding(ctx context.Context, p *access.Principal, id string) (*binding, error) {
	if err := e.may(Request{Caller: audit.Caller{Principal: p}}); err != nil || p.ClientID == "" {
		return nil, nil
	}
	if err := p.Grant.Live(ctx); err != nil {
		return nil, nil
	}
	h, err := e.headerOf(ctx, p.ClientID, id)
	if fhir.KindOf(err) == fhir.NotFound {
		return nil, nil
	}
	if err != nil || h.spec == nil || h.spec.Channel != websocket {
		return nil, err
	}
	expires := e.opts.Clock().Add(e.opts.TokenTTL)
	if !p.Expires.IsZero() && p.Expires.Before(expires) {
		expires = p.Expires
	}
	return &binding{Client: p.ClientID, IDs: []string{id}, Expires: expires}, nil
}
