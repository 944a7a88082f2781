// Package googlehealth connects to the Google Health API v4, the cloud of Fitbit. The
// legacy Fitbit Web API answers 410 since November 2026; its data are only imported.
//
// # Options
//
//	scopes                        further groups of data to ask for, separated by commas:
//	                              nutrition, logged_symptoms, mindfulness,
//	                              reproductive_health, profile
//	unverified                    "true" if Google has not verified the application,
//	                              which halves its rate limit per user
//	webhook-secret-file           value of the header Authorization of notifications.
//	                              "Bearer " is put before a value without a scheme.
//	webhook-secret-previous-file  the value before, which is accepted, too, while the
//	                              secret is replaced
//	webhook-keys-url              URL of Google's public keys
//	project-number                number (not the id) of the Google Cloud project
//	subscriber-id                 id of this server's subscriber; "pulsegate" by default
//	service-account-file          key in JSON of a service account that manages the
//	                              subscriber
//	allow-http                    see cloud.Config.Address
//
// Without a webhook secret no notification is accepted. Without a service account,
// Subscribe does nothing: the operator creates the subscriber.
//
// # Reads
//
// A type is read with list, which states sources and devices. Types that cannot be
// listed are read with dailyRollUp. Filters differ by the kind of a type; see filter.
package googlehealth

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"pulsegate/adapters/cloud"
)

const (
	documentedAuth   = "https://accounts.google.com/o/oauth2/v2/auth"
	documentedToken  = "https://oauth2.googleapis.com/token"
	documentedRevoke = "https://oauth2.googleapis.com/revoke"
	documentedAPI    = "https://health.googleapis.com"
	documentedKeys   = "https://www.gstatic.com/googlehealthapi/webhooks/webhooks_public_keyset.json"

	scopePrefix = "https://www.googleapis.com/auth/googlehealth."
)

// vendor implements cloud.Notifier.
type vendor struct {
	oauth      cloud.OAuth
	types      []dataType
	streams    []cloud.Stream
	api        string
	unverified bool
	http       *http.Client
	clock      func() time.Time
	secrets    [][32]byte // hashes of the accepted values of Authorization
	keys       *keyset
	subscriber *subscriber // nil without a service account
}

var _ cloud.Notifier = (*vendor)(nil)

// New returns the cloud of Fitbit. It implements cloud.Notifier.
func New(c cloud.Config) (cloud.Vendor, error) {
	if c.ClientID == "" || c.ClientSecret == "" {
		return nil, errors.New("fitbit: the client id and the client secret are required")
	}
	v := &vendor{http: c.HTTP, clock: c.Clock, unverified: c.Options["unverified"] == "true"}
	if v.http == nil {
		v.http = &http.Client{Timeout: 30 * time.Second}
	}
	if v.clock == nil {
		v.clock = time.Now
	}
	groups, err := groupsOf(c.Options["scopes"])
	if err != nil {
		return nil, err
	}
	v.oauth = cloud.OAuth{
		ClientID: c.ClientID, ClientSecret: c.ClientSecret, FormSecret: true, Scopes: scopes(groups),
		Params: map[string]string{"access_type": "offline", "prompt": "consent"}, RefreshLife: refreshLife,
		// A revocation ends the access of the app to the account, whatever token names it
		// (developers.google.com, "Using OAuth 2.0 for Web Server Applications").
		RevokesAll: true,
	}
	v.keys = &keyset{http: v.http, clock: v.clock}
	for _, a := range []struct {
		setting, stated, documented string
		into                        *string
	}{
		{"the authorization URL", c.AuthURL, documentedAuth, &v.oauth.AuthURL},
		{"the token URL", c.TokenURL, documentedToken, &v.oauth.TokenURL},
		{"the revocation URL", c.RevokeURL, documentedRevoke, &v.oauth.RevokeURL},
		{"the URL of the API", c.APIURL, documentedAPI, &v.api},
		{"webhook-keys-url", c.Options["webhook-keys-url"], documentedKeys, &v.keys.url},
	} {
		u, err := c.Address(a.setting, a.stated, a.documented)
		if err != nil {
			return nil, fmt.Errorf("fitbit: %w", err)
		}
		*a.into = u
	}
	for _, t := range types {
		if slices.Contains(groups, t.scope) {
			v.types = append(v.types, t)
			v.streams = append(v.streams, t.stream())
		}
	}
	return v, v.configureWebhook(c)
}

// Code implements cloud.Vendor.
func (*vendor) Code() string { return "fitbit" }

// OAuth implements cloud.Vendor.
func (v *vendor) OAuth() cloud.OAuth { return v.oauth }

// Streams implements cloud.Vendor.
func (v *vendor) Streams() []cloud.Stream { return slices.Clone(v.streams) }

// Budget implements cloud.Vendor.
func (v *vendor) Budget() cloud.Budget {
	b := cloud.Budget{
		Application: cloud.Rate{Requests: 120_000, Per: time.Minute},
		Account:     cloud.Rate{Requests: 300, Per: time.Minute},
	}
	if v.unverified {
		b.Account.Requests /= 2
	}
	return b
}

// group is a scope, without prefix and suffix.
type group struct {
	name, words string
	optional    bool // for a link
	extra       bool // asked for only if the operator names it
}

var allGroups = []group{
	{name: "activity_and_fitness", words: "your steps, workouts and other activity", optional: true},
	{name: "health_metrics_and_measurements", optional: true,
		words: "your heart rate, blood oxygen, temperature, weight and other measurements"},
	{name: "sleep", words: "your sleep", optional: true},
	{name: "ecg", words: "your electrocardiograms", optional: true},
	{name: "irn", words: "your notifications of an irregular heart rhythm", optional: true},
	{name: "settings", words: "your time zone and your paired devices", optional: true},
	{name: "profile", words: "your age and stride length", optional: true, extra: true},
	// The discovery document of October 2026 has no read scope for nutrition.
	{name: "nutrition", words: "what you eat and drink", optional: true, extra: true},
	{name: "logged_symptoms", words: "the symptoms that you enter", optional: true, extra: true},
	{name: "mindfulness", words: "the moods that you enter", optional: true, extra: true},
	{name: "reproductive_health", words: "your cycle", optional: true, extra: true},
}

// groupsOf returns the names of the groups to ask for.
func groupsOf(extra string) ([]string, error) {
	var out []string
	for _, g := range allGroups {
		if !g.extra {
			out = append(out, g.name)
		}
	}
	for name := range strings.SplitSeq(extra, ",") {
		name = strings.TrimSpace(name)
		if name == "" {
			continue
		}
		i := slices.IndexFunc(allGroups, func(g group) bool { return g.name == name && g.extra })
		if i < 0 {
			return nil, errors.New("fitbit: scopes names an unknown group; known are nutrition, logged_symptoms, " +
				"mindfulness, reproductive_health and profile")
		}
		if !slices.Contains(out, name) {
			out = append(out, name)
		}
	}
	return out, nil
}

func scopes(names []string) []cloud.Scope {
	var out []cloud.Scope
	for _, g := range allGroups {
		if slices.Contains(names, g.name) {
			out = append(out, cloud.Scope{Name: scopeName(g.name), Words: g.words, Optional: g.optional})
		}
	}
	return out
}

func scopeName(group string) string { return scopePrefix + group + ".readonly" }

// refreshLife returns the lifetime of a refresh token. Google states it only while the
// application's consent screen is in testing: seven days.
func refreshLife(answer func(name string) any) time.Duration {
	n, ok := answer("refresh_token_expires_in").(float64)
	if !ok || !(n > 0) || n > 1e9 {
		return 0
	}
	return time.Duration(n) * time.Second
}
