package link

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"strings"
	"time"

	"golang.org/x/oauth2"

	"pulsegate/adapters/cloud"
	"pulsegate/fhir"
	"pulsegate/fhir/store"
)

// tokens are the tokens of a link, sealed in the store.
type tokens struct {
	Access  string    `json:"access"`
	Refresh string    `json:"refresh,omitempty"`
	Expires time.Time `json:"expires"`
	// RefreshEnds is the end of the refresh token if the vendor states it.
	RefreshEnds time.Time `json:"refreshEnds,omitzero"`
	// Refreshing is set while a refresh request may be under way. Began is its time.
	Refreshing bool      `json:"refreshing,omitempty"`
	Began      time.Time `json:"began,omitzero"`

	scope   string
	account string // id that OAuth.Account returned, or ""
}

func (ls *Links) seal(id string, t tokens) []byte {
	b, err := json.Marshal(t)
	if err != nil {
		panic("link: tokens cannot be encoded: " + err.Error()) // strings and times can
	}
	return ls.Vault.Seal("link/token/"+id, b)
}

// stored returns the tokens of a link and their sealed bytes.
func (ls *Links) stored(ctx context.Context, id string) (t tokens, sealed []byte, err error) {
	sealed, err = ls.Store.Get(ctx, tokenPrefix+id)
	if err != nil || sealed == nil {
		return t, nil, err
	}
	b, err := ls.Vault.Open("link/token/"+id, sealed)
	if err != nil {
		return t, nil, err
	}
	return t, sealed, json.Unmarshal(b, &t)
}

// margin is the remaining life at which an access token is refreshed.
const margin = time.Minute

// maxTokenLife bounds the lifetime of an access token that we believe.
const maxTokenLife = 400 * 24 * time.Hour

// Token returns an access token of a link, refreshed if necessary. If refused is
// not empty, it is an access token that the vendor did not accept, and the answer
// is another one.
//
// The error is a *cloud.Error. If its Problem is Unauthorized, the grant has ended
// and the link has the status Reconnect.
func (ls *Links) Token(ctx context.Context, id, refused string) (string, error) {
	t, _, err := ls.stored(ctx, id)
	if err != nil {
		return "", &cloud.Error{Problem: cloud.Unavailable, Err: err}
	}
	if t.Access == "" {
		return "", &cloud.Error{Problem: cloud.Unauthorized, Reason: "no-token"}
	}
	if t.Access != refused && !t.Refreshing && ls.Clock().Add(margin).Before(t.Expires) {
		return t.Access, nil
	}
	return ls.refreshOnce(ctx, id, refused)
}

// refresh is a refresh in progress.
type refresh struct {
	done   chan struct{}
	access string
	err    error
}

// refreshOnce refreshes the tokens of a link, or waits for a refresh in progress.
// The refresh does not end with ctx, so that its answer is not lost.
func (ls *Links) refreshOnce(ctx context.Context, id, refused string) (string, error) {
	for {
		ls.mu.Lock()
		r := ls.refreshes[id]
		if r == nil {
			r = &refresh{done: make(chan struct{})}
			ls.refreshes[id] = r
			go func() {
				r.access, r.err = ls.refresh(context.WithoutCancel(ctx), id, refused)
				ls.mu.Lock()
				delete(ls.refreshes, id)
				ls.mu.Unlock()
				close(r.done)
			}()
		}
		ls.mu.Unlock()
		select {
		case <-r.done:
			if r.err == nil && r.access == refused {
				continue // the refresh was that of a caller with an older token
			}
			return r.access, r.err
		case <-ctx.Done():
			return "", &cloud.Error{Problem: cloud.Unavailable, Err: ctx.Err()}
		}
	}
}

// Wait returns when no refresh is in progress.
func (ls *Links) Wait() {
	for {
		ls.mu.Lock()
		var any *refresh
		for _, r := range ls.refreshes {
			any = r
		}
		ls.mu.Unlock()
		if any == nil {
			return
		}
		<-any.done
	}
}

const (
	// refreshWithin is the time within which the refresh of another process ends, unless
	// the process has died. It is longer than a request may take.
	refreshWithin = 2 * time.Minute
	// refreshRetry is the time after which the tokens are looked at again meanwhile.
	refreshRetry = 5 * time.Second
)

func (ls *Links) refresh(ctx context.Context, id, refused string) (string, error) {
	unavailable := func(err error) error { return &cloud.Error{Problem: cloud.Unavailable, Err: err} }
	l, err := ls.Get(ctx, id)
	if err != nil {
		return "", unavailable(err)
	}
	v := ls.Vendor(l.Vendor)
	if v == nil {
		return "", &cloud.Error{Problem: cloud.Rejected, Reason: "vendor-not-configured"}
	}
	o := v.OAuth()
	t, sealed, err := ls.stored(ctx, id)
	switch {
	case err != nil:
		return "", unavailable(err)
	case t.Access == "":
		return "", &cloud.Error{Problem: cloud.Unauthorized, Reason: "no-token"}
	case t.Access != refused && !t.Refreshing && ls.Clock().Add(margin).Before(t.Expires):
		return t.Access, nil // another call was faster
	case t.Refreshing && ls.Clustered && ls.Clock().Sub(t.Began) < refreshWithin:
		return "", &cloud.Error{Problem: cloud.Unavailable, Reason: "refresh-in-progress", RetryAfter: refreshRetry}
	case t.Refreshing && o.Rotates:
		return "", ls.end(ctx, id, sealed, "refresh-interrupted")
	case t.Refresh == "" || !t.RefreshEnds.IsZero() && !ls.Clock().Before(t.RefreshEnds):
		return "", ls.end(ctx, id, sealed, "grant-expired")
	case l.Issuer != o.TokenURL:
		return "", ls.end(ctx, id, sealed, "issuer-changed")
	}
	t.Refreshing, t.Began = true, ls.Clock()
	marked, err := ls.replace(ctx, id, sealed, t)
	if err != nil {
		return "", unavailable(err)
	}
	next, err := ls.exchange(ctx, o, func(ctx context.Context, c *oauth2.Config) (*oauth2.Token, error) {
		return c.TokenSource(ctx, &oauth2.Token{RefreshToken: t.Refresh}).Token()
	})
	if err == nil {
		// Package oauth2 returns the old refresh token if the answer has none.
		if next.Refresh == t.Refresh && next.RefreshEnds.IsZero() {
			next.RefreshEnds = t.RefreshEnds
		}
		_, err := ls.replace(ctx, id, marked, next)
		if store.Lost(err) {
			// The link was removed or connected again in the meantime.
			ls.abandon(ctx, v, l.Patient, l.Accounts, next)
		}
		if err != nil {
			return "", unavailable(err)
		}
		return next.Access, nil
	}
	ls.Logger.Warn("link: refresh failed", "link", id, "vendor", l.Vendor, "error", err.Error())
	e, _ := errors.AsType[*cloud.Error](err)
	switch {
	case e.Problem == cloud.Unauthorized:
		return "", ls.end(ctx, id, marked, e.Reason)
	case o.Rotates && e.Sent:
		return "", ls.end(ctx, id, marked, "answer-lost")
	}
	t.Refreshing, t.Began = false, time.Time{}
	if _, err := ls.replace(ctx, id, marked, t); err != nil {
		return "", unavailable(err)
	}
	return "", e
}

// replace stores tokens in place of those with the bytes old, and returns the new
// bytes.
func (ls *Links) replace(ctx context.Context, id string, old []byte, t tokens) ([]byte, error) {
	sealed := ls.seal(id, t)
	_, err := ls.Store.Commit(ctx, &store.Batch{State: []store.StateWrite{{Key: tokenPrefix + id, Value: sealed,
		Expect: store.StateEquals, Old: old}}})
	return sealed, err
}

// Refused marks a link whose access token the vendor refuses although it was just
// refreshed. A link that has other tokens by now stays as it is.
func (ls *Links) Refused(ctx context.Context, id, token string) error {
	t, sealed, err := ls.stored(ctx, id)
	if err != nil {
		return &cloud.Error{Problem: cloud.Unavailable, Err: err}
	}
	if t.Access != token {
		return &cloud.Error{Problem: cloud.Unavailable, Reason: "connected-again"}
	}
	return ls.end(ctx, id, sealed, "token-refused")
}

// end marks a link whose grant has ended. If sealed is not nil, the grant is that of
// the tokens with these bytes, and a link that was connected again in the meantime
// stays as it is.
func (ls *Links) end(ctx context.Context, id string, sealed []byte, reason string) error {
	var same []store.StateWrite
	if sealed != nil {
		same = []store.StateWrite{{Key: tokenPrefix + id, Value: sealed, Expect: store.StateEquals, Old: sealed}}
	}
	_, err := ls.setStatus(ctx, id, Reconnect, reason, same)
	if errors.Is(err, errReplaced) {
		return &cloud.Error{Problem: cloud.Unavailable, Reason: "connected-again"}
	}
	if err != nil && fhir.KindOf(err) != fhir.NotFound {
		return &cloud.Error{Problem: cloud.Unavailable, Err: err}
	}
	return &cloud.Error{Problem: cloud.Unauthorized, Reason: reason}
}

// exchange sends one request to a token endpoint and checks the answer. Its error is
// a *cloud.Error: Unauthorized if the grant is refused, otherwise Unavailable or
// Throttled, with Sent set if the vendor may have used the code or token.
func (ls *Links) exchange(ctx context.Context, o cloud.OAuth,
	send func(context.Context, *oauth2.Config) (*oauth2.Token, error)) (tokens, error) {
	client := ls.tokenClient()
	client.Transport = &dialect{client.Transport, o}
	ctx = context.WithValue(ctx, oauth2.HTTPClient, client)
	sent := false
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{GotConn: func(httptrace.GotConnInfo) { sent = true }})
	began := ls.Clock()
	t, err := send(ctx, ls.config(o))
	if err != nil {
		return tokens{}, refusal(err, began, sent)
	}
	life := time.Duration(min(t.ExpiresIn, int64(maxTokenLife/time.Second))) * time.Second
	if life <= 0 || !header(t.AccessToken) || len(t.RefreshToken) > maxToken || t.Type() != "Bearer" {
		return tokens{}, &cloud.Error{Problem: cloud.Unavailable, Reason: "malformed-answer", Sent: true}
	}
	out := tokens{Access: t.AccessToken, Refresh: t.RefreshToken, Expires: began.Add(life)}
	out.scope, _ = t.Extra("scope").(string)
	if o.RefreshLife != nil {
		if life := o.RefreshLife(t.Extra); life > 0 {
			out.RefreshEnds = began.Add(life)
		}
	}
	if o.Account != nil {
		out.account = o.Account(t.Extra)
	}
	return out, nil
}

// tokenClient returns the client for requests that carry a code or refresh token. It
// does not reuse connections: a request on a connection that the vendor is closing
// has no answer, and it would be unknown whether the token was used. It follows no
// redirects, because they would repeat the request.
func (ls *Links) tokenClient() *http.Client {
	c := *ls.HTTP
	c.Transport = closing{c.Transport}
	c.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return &c
}

// closing sends requests whose connections are closed after the answer.
type closing struct{ base http.RoundTripper }

// RoundTrip implements http.RoundTripper.
func (c closing) RoundTrip(rq *http.Request) (*http.Response, error) {
	rq = rq.Clone(rq.Context())
	rq.Close = true
	if c.base == nil {
		return http.DefaultTransport.RoundTrip(rq)
	}
	return c.base.RoundTrip(rq)
}

// maxToken bounds the length of a token in bytes.
const maxToken = 16 << 10

// header reports whether a token can be sent in a header (RFC 6750 2.1, VSCHAR).
func header(token string) bool {
	return token != "" && len(token) <= maxToken &&
		!strings.ContainsFunc(token, func(r rune) bool { return r <= ' ' || r > '~' })
}

// refusal classifies the failure of a token request. It drops the text of the error,
// which may quote the answer. sent reports whether there was a connection.
func refusal(err error, now time.Time, sent bool) *cloud.Error {
	answer, ok := errors.AsType[*oauth2.RetrieveError](err)
	if !ok {
		e := &cloud.Error{Problem: cloud.Unavailable, Reason: "malformed-answer", Sent: sent}
		if u, ok := errors.AsType[*url.Error](err); ok {
			e.Reason, e.Err = "", u
		}
		return e
	}
	e := &cloud.Error{Problem: cloud.Unavailable, Reason: cloud.Reason(answer.ErrorCode)}
	if answer.Response == nil {
		e.Sent = true
		return e
	}
	e.Status = answer.Response.StatusCode
	e.RetryAfter = cloud.RetryAfter(answer.Response.Header, now)
	switch {
	case e.Status == http.StatusTooManyRequests:
		e.Problem = cloud.Throttled
	case e.Reason == "invalid_grant":
		e.Problem = cloud.Unauthorized
	case e.Status == http.StatusInternalServerError || e.Status == http.StatusServiceUnavailable:
	case e.Status >= 500 || e.Status < 400:
		e.Sent = true // a gateway answers, and the server may have acted
	default:
		// for example invalid_client: our configuration is wrong. The grant remains.
		e.Problem = cloud.Rejected
	}
	return e
}
