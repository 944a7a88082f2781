// Package cloud is the contract between the clouds of vendors and Pulsegate. A
// Vendor states the facts of one vendor's OAuth server, API and webhooks, reads
// one page of a stream, and authenticates and parses notifications.
//
// It does not own tokens (package link), the decision when to read what (package
// sync), or the decoding of what was read (package adapters).
//
// # Writing a Vendor
//
// A Vendor has no state other than caches of public keys and of its own service
// tokens, and it sends no request other than through the Client or the HTTP
// client of its Config. It returns every failure as an *Error, whose Problem
// decides what happens next. Package cloudtest tests it against a simulated
// vendor.
package cloud

import (
	"context"
	"net/http"
	"net/url"
	"time"

	"pulsegate/adapters"
)

// Vendor is the cloud of one vendor. It is safe for concurrent use.
type Vendor interface {
	// Code returns the code of the vendor's adapter: "oura".
	Code() string
	// OAuth returns the facts of the vendor's authorization server.
	OAuth() OAuth
	// Streams lists the data that can be read, most valuable first.
	Streams() []Stream
	// Budget returns the limits of the vendor on requests.
	Budget() Budget
	// Account returns the ids under which the vendor knows the account of the
	// client's token. Notifications name one of them.
	Account(ctx context.Context, c *Client) (ids []string, err error)
	// Page reads one page of a stream.
	Page(ctx context.Context, c *Client, q Query) (Page, error)
}

// Config holds an operator's settings for a vendor. Empty URLs mean those that the
// vendor documents.
type Config struct {
	ClientID, ClientSecret       string
	AuthURL, TokenURL, RevokeURL string
	APIURL                       string // without a trailing slash
	// Options are settings of this vendor alone, by name. Vendor packages document
	// them. Values of options whose name ends in "-file" are the content of the
	// file.
	Options map[string]string
	// HTTP sends requests that carry no token of a patient: for public keys, and
	// for the subscriptions of this server.
	HTTP  *http.Client
	Clock func() time.Time
}

// OAuth holds the facts of a vendor's authorization server.
type OAuth struct {
	AuthURL, TokenURL string
	// RevokeURL is empty if the vendor has no revocation endpoint.
	RevokeURL string
	// RevokesAll is set if the revocation of one token ends every grant of the account
	// to this client.
	RevokesAll bool
	// Revoke returns the request that revokes a grant. If it is nil, the request is
	// that of RFC 7009.
	Revoke                 func(ctx context.Context, access, refresh string) (*http.Request, error)
	ClientID, ClientSecret string
	// FormSecret is set if the client authenticates in the form instead of by HTTP
	// Basic.
	FormSecret bool
	Scopes     []Scope
	// Granted returns the names in Scopes of the granted scopes, which the vendor may
	// spell in other ways. If it is nil, the names are equal.
	Granted func(stated []string) []string
	// Params are further parameters of the authorization request.
	Params map[string]string
	// Rotates is set if a refresh token can be used once and is replaced by each
	// use. A use whose answer was lost then ends the grant.
	Rotates bool
	// RefreshLife returns the lifetime of the refresh token that the members of an
	// answer of the token endpoint state, or 0. It may be nil.
	RefreshLife func(answer func(name string) any) time.Duration
	// TokenParams are further parameters of requests to the token endpoint.
	TokenParams map[string]string
	// Unwrap returns the status and the body that RFC 6749 (5.1 and 5.2) prescribes for
	// an answer of the token endpoint that has another form. It may be nil.
	Unwrap func(status int, body []byte) (int, []byte)
	// Account returns the id of the account that the members of an answer of the token
	// endpoint state, or "". It becomes Client.Account while an account is linked. It
	// may be nil.
	Account func(answer func(name string) any) string
}

// Scope is one permission that the vendor's consent page lists.
type Scope struct {
	Name string
	// Words says what the scope lets us read, as the end of the sentence "Pulsegate
	// reads …": "your sleep".
	Words string
	// Optional is set if a link without the scope is useful.
	Optional bool
}

// Span tells how a stream is windowed.
type Span uint8

const (
	Instants Span = iota // by the start of each item
	Ends                 // by the end of each item
	Days                 // by the wearer's calendar day of each item
	// Snapshot marks streams without a window, such as the state of a device.
	Snapshot
)

// Stream is one kind of data of a vendor's API.
type Stream struct {
	Name   string // the vendor's name: "daily_sleep"
	Format string // format of the adapter, with the type if the body lacks it: "google-health:steps"
	Scope  string // name of the scope that is needed, or "" if none is
	Span   Span
	// Chunk is the longest window of one read. A read may take several pages.
	Chunk time.Duration
	// Every is the time between two polls if the stream has no notifications or the
	// vendor sends none. Streams with notifications are polled daily.
	Every time.Duration
	// Trailing is the time before the latest poll that a poll reads again, because
	// the vendor may have restated or deleted items.
	Trailing time.Duration
	// Late is the time after which an item can still appear, because the wearable was
	// out of reach of its phone. It is 0 if Trailing covers it. Once a day, a poll
	// reads this time again.
	Late time.Duration
	// Types are the types of the metric table that reading a window states
	// completely: an item that the store holds and that the answer lacks was deleted.
	// If Types is empty, an answer says nothing about items that it lacks.
	Types []string
	// Coarse is set if the answers come from a coarse channel (sample.Sample.Coarse), such
	// as a merged stream: a window then says nothing about the items of other channels.
	Coarse bool
	// Notified is set if the vendor announces changes.
	Notified bool
}

// Query names what to read: an object if Object is set, else the window [From, To)
// of the stream. Windows of Days begin and end at midnight UTC of their dates.
type Query struct {
	Stream   *Stream
	From, To time.Time
	Object   string
	// Cursor continues after a page. It is empty for the first page.
	Cursor string
}

// Page is one answer.
type Page struct {
	Body []byte // as received, for the adapter
	Next string // cursor of the next page, or "" if there is none
	// Items is the number of items on the page. Package sync distrusts windows that
	// have become empty.
	Items int
}

// Budget holds limits on requests.
type Budget struct {
	Application, Account Rate
	// Remaining reads the state of a limit from the header of an answer: how many
	// requests are left until reset. It may be nil.
	Remaining func(h http.Header, now time.Time) (left int, reset time.Time, ok bool)
}

// Rate is a number of requests in a time. The zero Rate is no limit.
type Rate struct {
	Requests int
	Per      time.Duration
}

// Notifier is implemented by vendors that announce changes.
type Notifier interface {
	Vendor
	// Receive authenticates a request to the webhook. Status of the Receipt is the
	// answer even if there is an error, which says why the request is refused.
	Receive(ctx context.Context, n *Notification) (Receipt, error)
	// Events parses a body that Receive has accepted.
	Events(body []byte) ([]Event, error)
	// Subscribe makes the vendor's subscriptions what they should be: it creates
	// missing ones, renews those about to expire, and deletes those of this server
	// that are no longer needed. It returns when to call it again, also with an error.
	// callback is the URL of the webhook, which must be reachable already: vendors
	// verify it before they answer.
	Subscribe(ctx context.Context, callback string) (next time.Time, err error)
}

// AccountNotifier is implemented by Notifiers whose subscriptions belong to accounts.
type AccountNotifier interface {
	Notifier
	// SubscribeAccount makes the subscriptions of the client's account what they should
	// be for the granted scopes. callback is the URL of the webhook. It returns when to
	// call it again.
	SubscribeAccount(ctx context.Context, c *Client, callback string, granted []string) (next time.Time, err error)
}

// Grant names a grant that is to be revoked.
type Grant struct {
	Access, Refresh string   // tokens
	Accounts        []string // ids that Vendor.Account returned
}

// Revoker is implemented by vendors whose grants are revoked with more than one
// request, or with the id of the account.
type Revoker interface {
	Vendor
	// Revoke ends a grant and the subscriptions of the account. It returns nil if they
	// had ended before.
	Revoke(ctx context.Context, client *http.Client, g Grant) error
}

// Notification is a request to a vendor's webhook.
type Notification struct {
	Method string
	Path   string // below the webhook's URL, without a leading slash
	Query  url.Values
	Header http.Header
	Body   []byte
	Now    time.Time
	// Callback is the URL of the webhook.
	Callback string
}

// Receipt is the answer to a Notification.
type Receipt struct {
	Status int
	Body   []byte // JSON, or nil
	// Store is set if Body of the Notification holds events. They are durable
	// before the answer is sent.
	Store bool
	// Key is the same for repetitions of one notification, which are stored once
	// until Keep has passed.
	Key  [32]byte
	Keep time.Duration
}

// Event is a change that a vendor announces.
type Event struct {
	Account string
	Stream  string // name of a Stream
	Object  string // id of the object, or "" if the window is known
	// From and To are a window of the stream that can be read. If Deleted is set, all
	// items whose time (see Span) is in the window are deleted; it then need not
	// consist of whole days.
	From    time.Time
	To      time.Time
	Deleted bool
}

// Dates returns the window of whole days, for a stream of Days, that covers
// [from, to] in every time zone.
func Dates(from, to time.Time) (time.Time, time.Time) {
	const ahead, behind = 14 * time.Hour, 12 * time.Hour // the extreme offsets from UTC
	day := func(t time.Time) time.Time { return t.UTC().Truncate(24 * time.Hour) }
	return day(from.Add(-behind)), day(to.Add(ahead)).AddDate(0, 0, 1)
}

// New returns the Vendor of a configuration. Vendor packages export it as New.
type New func(Config) (Vendor, error)

// Adapter returns the adapter of v among all, or nil.
func Adapter(v Vendor, all []adapters.Adapter) adapters.Adapter {
	for _, a := range all {
		if a.Vendor() == v.Code() {
			return a
		}
	}
	return nil
}

// Find returns the stream with a name, or nil.
func Find(streams []Stream, name string) *Stream {
	for i := range streams {
		if streams[i].Name == name {
			return &streams[i]
		}
	}
	return nil
}
