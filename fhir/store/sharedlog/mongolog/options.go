package mongolog

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"time"

	"go.mongodb.org/mongo-driver/v2/event"
	"go.mongodb.org/mongo-driver/v2/mongo/options"
	"go.mongodb.org/mongo-driver/v2/mongo/readconcern"
	"go.mongodb.org/mongo-driver/v2/mongo/readpref"
	"go.mongodb.org/mongo-driver/v2/mongo/writeconcern"
)

// Options configures Open. Zero values select the defaults.
type Options struct {
	// URI is a connection string with a database and without a password. The log has
	// the database to itself, apart from collections whose names begin with neither
	// "log_" nor "snapshot_".
	URI      string
	Password string // of the user in URI

	// Timeout bounds each operation. The default is 10 seconds.
	Timeout time.Duration
	// Segment is the number of entries per segment, a power of two. It counts when
	// the database is empty, and is kept there. The default is 65,536.
	Segment uint64
	// Grace is the time between the decision to remove a segment and its removal. The
	// default is an hour. If it is negative, segments are removed at once, which is
	// safe only in tests.
	Grace time.Duration
	// Standalone permits a server that is not a member of a replica set, where
	// nothing is durable on a majority. It is for tests.
	Standalone bool
	// Clock measures elapsed time. The default is time.Now.
	Clock func() time.Time

	monitor *event.CommandMonitor // observes commands in tests
	shift   func() time.Duration  // moves the time of the server in tests
}

const (
	defaultTimeout = 10 * time.Second
	defaultSegment = 1 << 16
	defaultGrace   = time.Hour

	// selectionTimeout bounds the wait for a primary, unless the connection string
	// says otherwise.
	selectionTimeout = 5 * time.Second
)

// withDefaults returns o with the defaults filled in.
func (o Options) withDefaults() (Options, error) {
	if o.Timeout <= 0 {
		o.Timeout = defaultTimeout
	}
	if o.Segment == 0 {
		o.Segment = defaultSegment
	}
	if o.Segment&(o.Segment-1) != 0 {
		return o, fmt.Errorf("mongolog: segments of %d entries: not a power of two", o.Segment)
	}
	if o.Grace == 0 {
		o.Grace = defaultGrace
	}
	if o.Clock == nil {
		o.Clock = time.Now
	}
	return o, nil
}

// requiredOptions lists the options of a connection string that this package
// decides on, in lower case, each with the only value that it may have. An empty
// value permits none.
var requiredOptions = map[string]string{
	"w":                   "majority",
	"wtimeoutms":          "",
	"journal":             "true",
	"readconcernlevel":    "majority",
	"readpreference":      "primary",
	"readpreferencetags":  "",
	"maxstalenessseconds": "",
	"retrywrites":         "false",
	"timeoutms":           "",
	"loadbalanced":        "false",
}

// client returns the options of the driver and the name of the database. Its
// errors do not contain the connection string, which may hold a password.
func (o Options) client() (*options.ClientOptions, string, error) {
	rest, ok := strings.CutPrefix(o.URI, "mongodb://")
	if !ok {
		rest, ok = strings.CutPrefix(o.URI, "mongodb+srv://")
	}
	if !ok {
		return nil, "", errors.New("mongolog: the connection string does not begin with mongodb:// or mongodb+srv://")
	}
	rest, query, _ := strings.Cut(rest, "?")
	hosts, database, _ := strings.Cut(rest, "/")
	user := ""
	if i := strings.LastIndexByte(hosts, '@'); i >= 0 {
		user = hosts[:i]
	}
	if strings.Contains(user, ":") {
		return nil, "", errors.New("mongolog: the connection string contains a password, which belongs into a file of its own")
	}
	database, err := url.PathUnescape(database)
	if err != nil || database == "" || strings.ContainsAny(database, `/\. "$`) {
		return nil, "", errors.New("mongolog: the connection string has no valid database: " +
			"expected mongodb://host/database or mongodb+srv://host/database")
	}
	given, err := o.checkQuery(query)
	if err != nil {
		return nil, "", err
	}
	c := options.Client().ApplyURI(o.URI)
	if err := c.Validate(); err != nil {
		return nil, "", errors.New("mongolog: the connection string is not valid: check the hosts, the user, and the options behind ?")
	}
	if c.Auth != nil && o.Password != "" {
		c.Auth.Password, c.Auth.PasswordSet = o.Password, true
	} else if o.Password != "" {
		return nil, "", errors.New("mongolog: there is a password, but the connection string names no user")
	}
	if !given["serverselectiontimeoutms"] {
		c.SetServerSelectionTimeout(selectionTimeout)
	}
	if !given["appname"] {
		c.SetAppName("pulsegate")
	}
	if o.monitor != nil {
		c.SetMonitor(o.monitor)
	}
	return c.SetRetryWrites(false).SetRetryReads(true).SetReadPreference(readpref.Primary()).
		SetReadConcern(readconcern.Majority()).SetWriteConcern(majority()), database, nil
}

// majority returns the write concern of everything that is written.
func majority() *writeconcern.WriteConcern {
	journal := true
	return &writeconcern.WriteConcern{W: "majority", Journal: &journal}
}

// checkQuery refuses options that contradict requiredOptions. It returns the
// names of all options in lower case.
func (o Options) checkQuery(query string) (map[string]bool, error) {
	given := map[string]bool{}
	for _, pair := range strings.FieldsFunc(query, func(r rune) bool { return r == '&' || r == ';' }) {
		name, value, _ := strings.Cut(pair, "=")
		lower := strings.ToLower(name)
		given[lower] = true
		want, ok := requiredOptions[lower]
		if lower == "directconnection" && !o.Standalone {
			want, ok = "false", true // it would stay with this server when another becomes primary
		}
		switch {
		case !ok || strings.EqualFold(value, want) && want != "":
		case want == "":
			return nil, fmt.Errorf("mongolog: the option %s of the connection string is not supported: remove it",
				lower)
		default:
			return nil, fmt.Errorf("mongolog: the option %s of the connection string must be %s: change or remove it", lower, want)
		}
	}
	return given, nil
}

// bounded returns ctx with the timeout of an operation. If the operation returns
// one document, the driver also tells the server. Otherwise the server gives up
// when the driver closes the connection.
func (l *Log) bounded(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(ctx, l.opt.Timeout)
}
