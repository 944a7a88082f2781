package withings

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"pulsegate/adapters/cloud"
)

var _ cloud.Revoker = (*vendor)(nil)

// Revoke implements cloud.Revoker. The API reference ("OAuth 2.0 - Revoke user access")
// states that the request ends all tokens of the user for the application and the
// subscriptions. Its FAQ says that partners cannot unlink a user, so that some
// applications may be refused; the subscriptions are therefore ended first.
//
// The request is signed ("Sign your requests", developer guide): a nonce from
// /v2/signature, which is valid once, and the HMAC-SHA256 of the values of action,
// client_id and nonce, in the order of their names, with the client secret as key.
func (v *vendor) Revoke(ctx context.Context, client *http.Client, g cloud.Grant) error {
	if len(g.Accounts) == 0 {
		return &cloud.Error{Problem: cloud.Rejected, Reason: "unknown-account"}
	}
	c := (&cloud.Client{HTTP: client, Token: g.Access, Clock: v.clock}).For(v.api, nil)
	if profiles, err := list(ctx, c); err == nil { // else the token has expired
		for _, p := range profiles {
			_ = notify(ctx, c, "revoke", p) // the revocation ends it, too
		}
	}
	for _, account := range g.Accounts {
		nonce, err := v.nonce(ctx, client)
		if err != nil {
			return err
		}
		if _, err := v.signed(ctx, client, v.oauth.TokenURL, "revoke", "nonce", nonce,
			url.Values{"userid": {account}}); err != nil {
			return err
		}
	}
	return nil
}

// nonce returns a value that makes one signed request unique.
func (v *vendor) nonce(ctx context.Context, client *http.Client) (string, error) {
	timestamp := strconv.FormatInt(v.clock().Unix(), 10)
	body, err := v.signed(ctx, client, v.api+"/v2/signature", "getnonce", "timestamp", timestamp, url.Values{})
	if err != nil {
		return "", err
	}
	var answer struct {
		Nonce string `json:"nonce"`
	}
	if json.Unmarshal(body, &answer) != nil || cloud.Reason(answer.Nonce) == "" {
		return "", cloud.Malformed()
	}
	return answer.Nonce, nil
}

// signed sends a signed request and returns the body of the answer. name and value are
// the third signed parameter; both names that are in use follow "client_id".
func (v *vendor) signed(ctx context.Context, client *http.Client, to, action, name, value string,
	form url.Values) ([]byte, error) {
	form.Set("action", action)
	form.Set("client_id", v.oauth.ClientID)
	form.Set(name, value)
	form.Set("signature", hex.EncodeToString(v.mac(action+","+v.oauth.ClientID+","+value)))
	rq, err := http.NewRequestWithContext(ctx, http.MethodPost, to, strings.NewReader(form.Encode()))
	if err != nil {
		return nil, &cloud.Error{Problem: cloud.Rejected, Err: err}
	}
	rq.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	b, _, err := cloud.Do(client, rq, v.clock(), nil)
	if err != nil {
		return nil, err
	}
	return opened(b)
}

// mac returns the HMAC-SHA256 of a text with the client secret as key.
func (v *vendor) mac(text string) []byte {
	h := hmac.New(sha256.New, []byte(v.oauth.ClientSecret))
	h.Write([]byte(text)) // never fails
	return h.Sum(nil)
}

// opened returns the body in an answer with status 0.
func opened(b []byte) (json.RawMessage, error) {
	var reply struct {
		Status *int            `json:"status"`
		Body   json.RawMessage `json:"body"`
	}
	if err := json.Unmarshal(b, &reply); reply.Status != nil && *reply.Status != 0 {
		return nil, failure(*reply.Status)
	} else if err != nil || reply.Status == nil {
		return nil, cloud.Malformed()
	}
	return reply.Body, nil
}
