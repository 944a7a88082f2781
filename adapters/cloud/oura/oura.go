// Package oura connects to the cloud of Oura: its two identity providers, the routes
// of API v2, and the webhooks.
//
// # Options
//
//	identity-provider   "moi" (default): apps registered at developer.ouraring.com;
//	                    "legacy": older apps. Each provider rejects the apps of the other.
//	previous-callback   an earlier URL of the webhook; Subscribe moves the subscriptions
//	                    below it to the present one
//	allow-http          see cloud.Config.Address
//
// # Windows
//
// Oura's types disagree about whether the first and the last date of a window are
// included, and none has a parameter for instants except heartrate and
// ring_battery_level. Therefore each read of a date window asks for two more days on
// both sides. The answer then holds all documents of the window, whether their time is
// compared as a date or as an instant in any time zone.
//
// # Webhooks
//
// The URL of a subscription is CALLBACK/EVENT/TYPE. Its verification token is the hex
// form of HMAC-SHA-256 of this URL under the client secret, so that nothing needs to
// be stored. A notification is accepted if its signature is valid, its timestamp is at
// most two hours old, and its body states the event and the type of the path.
package oura

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"pulsegate/adapters/cloud"
)

// provider holds the endpoints and the scope prefix of an identity provider.
type provider struct {
	authorize, token, revoke string
	prefix                   string // of scope names
}

var providers = map[string]provider{
	"moi": {
		authorize: "https://moi.ouraring.com/oauth/v2/ext/oauth-authorize",
		token:     "https://moi.ouraring.com/oauth/v2/ext/oauth-token",
		revoke:    "https://moi.ouraring.com/oauth/v2/ext/oauth-revoke",
		prefix:    "extapi:",
	},
	"legacy": {
		authorize: "https://cloud.ouraring.com/oauth/authorize",
		token:     "https://api.ouraring.com/oauth/token",
		revoke:    "https://api.ouraring.com/oauth/revoke",
	},
}

const documentedAPI = "https://api.ouraring.com"

// vendor implements cloud.Notifier.
type vendor struct {
	oauth    cloud.OAuth
	streams  []cloud.Stream
	api      string
	previous string // earlier callback, or ""
	// assumed lists the streams for which the provider documents no scope.
	assumed []string
	http    *http.Client
	clock   func() time.Time
}

var _ cloud.Notifier = (*vendor)(nil)

// New returns the cloud of Oura. It implements cloud.Notifier.
func New(c cloud.Config) (cloud.Vendor, error) {
	name := c.Options["identity-provider"]
	if name == "" {
		name = "moi"
	}
	p, ok := providers[name]
	if !ok {
		return nil, errors.New(`oura: identity-provider must be "moi" or "legacy"`)
	}
	if c.ClientID == "" || c.ClientSecret == "" {
		return nil, errors.New("oura: the client id and the client secret are required")
	}
	v := &vendor{http: c.HTTP, clock: c.Clock, previous: strings.TrimSuffix(c.Options["previous-callback"], "/")}
	if v.http == nil {
		v.http = &http.Client{Timeout: 30 * time.Second}
	}
	if v.clock == nil {
		v.clock = time.Now
	}
	v.oauth = cloud.OAuth{
		ClientID: c.ClientID, ClientSecret: c.ClientSecret, FormSecret: true,
		Scopes: scopes(name), Granted: granted(scopes(name)), Rotates: true,
	}
	for _, a := range []struct {
		setting, stated, documented string
		into                        *string
	}{
		{"the authorization URL", c.AuthURL, p.authorize, &v.oauth.AuthURL},
		{"the token URL", c.TokenURL, p.token, &v.oauth.TokenURL},
		{"the revocation URL", c.RevokeURL, p.revoke, &v.oauth.RevokeURL},
		{"the URL of the API", c.APIURL, documentedAPI, &v.api},
	} {
		u, err := c.Address(a.setting, a.stated, a.documented)
		if err != nil {
			return nil, fmt.Errorf("oura: %w", err)
		}
		*a.into = u
	}
	if name == "legacy" {
		v.oauth.Revoke = v.revoke
	}
	v.streams = streams(name)
	for _, s := range streams("moi") {
		own := providers[name].prefix + strings.TrimPrefix(s.Scope, providers["moi"].prefix)
		if covering := cloud.Find(v.streams, s.Name).Scope; covering != own {
			v.assumed = append(v.assumed, s.Name)
		}
	}
	return v, nil
}

// Code implements cloud.Vendor.
func (*vendor) Code() string { return "oura" }

// OAuth implements cloud.Vendor.
func (v *vendor) OAuth() cloud.OAuth { return v.oauth }

// Streams implements cloud.Vendor.
func (v *vendor) Streams() []cloud.Stream { return slices.Clone(v.streams) }

// revoke returns the request of the legacy provider, which takes the access token as a
// query parameter. The answer 401 means that the grant is already revoked.
func (v *vendor) revoke(ctx context.Context, access, refresh string) (*http.Request, error) {
	if access == "" {
		access = refresh
	}
	to := v.oauth.RevokeURL + "?" + url.Values{"access_token": {access}}.Encode()
	return http.NewRequestWithContext(ctx, http.MethodPost, to, nil)
}

// consent lists the scopes that we ask for, without prefix. The e-mail address is not
// among them. Scopes that the legacy provider does not document have modern set; their
// data belong to the scope "daily" there.
var consent = []struct {
	name, words string
	required    bool
	modern      bool
}{
	{name: "daily", words: "your sleep, activity, readiness and stress of each day", required: true},
	{name: "heartrate", words: "your heart rate"},
	{name: "spo2", words: "your blood oxygen during sleep"},
	{name: "workout", words: "your workouts"},
	{name: "session", words: "your guided and unguided sessions"},
	{name: "tag", words: "the tags that you enter"},
	{name: "heart_health", words: "your cardiovascular age and VO2 max", modern: true},
	{name: "stress", words: "your resilience", modern: true},
	{name: "ring_configuration", words: "the model, firmware and battery of your ring", modern: true},
	{name: "personal", words: "your age, sex, height and weight"},
}

// scopes returns the scopes of an identity provider.
func scopes(name string) []cloud.Scope {
	var out []cloud.Scope
	for _, c := range consent {
		if !c.modern || name != "legacy" {
			out = append(out, cloud.Scope{Name: providers[name].prefix + c.name, Words: c.words, Optional: !c.required})
		}
	}
	return out
}

// scopeFor returns the name of the scope of a provider, or the scope that covers it.
func scopeFor(name, scope string) string {
	for _, c := range consent {
		if c.name == scope && c.modern && name == "legacy" {
			scope = "daily"
		}
	}
	if scope == "" {
		return ""
	}
	return providers[name].prefix + scope
}

// granted returns cloud.OAuth.Granted. Oura spells scopes with and without "extapi:",
// and spo2 also as "spo2Daily".
func granted(asked []cloud.Scope) func([]string) []string {
	plain := func(s string) string {
		s = strings.TrimPrefix(s, "extapi:")
		if s == "spo2Daily" {
			return "spo2"
		}
		return s
	}
	return func(got []string) []string {
		var out []string
		for _, a := range asked {
			if slices.ContainsFunc(got, func(g string) bool { return plain(g) == plain(a.Name) }) {
				out = append(out, a.Name)
			}
		}
		return out
	}
}
