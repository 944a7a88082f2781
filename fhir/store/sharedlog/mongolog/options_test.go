package mongolog

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/mongo"
	"go.mongodb.org/mongo-driver/v2/mongo/readconcern"
)

// TestConnectionString accepts and refuses connection strings. Errors name the
// rule, and never contain the password.
func TestConnectionString(t *testing.T) {
	const secret = "hunter2secret"
	tests := []struct {
		uri, password, want string // want is part of the error; none if empty
	}{
		{"mongodb://db/pulsegate", "", ""},
		{"mongodb://a:1,b:2,c:3/pulsegate?replicaSet=rs0&tls=true", "", ""},
		{"mongodb://user@db/pulsegate?authSource=admin", secret, ""},
		{"mongodb://db/pulsegate?w=majority&retryWrites=false&readPreference=primary&readConcernLevel=majority&journal=true", "", ""},
		{"mongodb://user:" + secret + "@db/pulsegate", "", "contains a password"},
		{"mongodb://db/pulsegate", secret, "names no user"},
		{"postgres://user:" + secret + "@db/pulsegate", "", "does not begin with mongodb://"},
		{"mongodb://db", "", "no valid database"},
		{"mongodb://db/", "", "no valid database"},
		{"mongodb://db/?replicaSet=rs0", "", "no valid database"},
		{"mongodb://db/a.b", "", "no valid database"},
		{"mongodb://db/a%2Fb", "", "no valid database"},
		{"mongodb://db/pulsegate?w=1", "", "option w of the connection string must be majority"},
		{"mongodb://db/pulsegate?W=2", "", "option w of the connection string must be majority"},
		{"mongodb://db/pulsegate?journal=false", "", "option journal"},
		{"mongodb://db/pulsegate?retryWrites=true&w=majority", "",
			"option retrywrites of the connection string must be false"},
		{"mongodb://db/pulsegate?readConcernLevel=local", "", "option readconcernlevel"},
		{"mongodb://db/pulsegate?readPreference=nearest", "", "option readpreference"},
		{"mongodb://db/pulsegate?maxStalenessSeconds=100", "",
			"maxstalenessseconds of the connection string is not supported"},
		{"mongodb://db/pulsegate?timeoutMS=100", "", "timeoutms"},
		{"mongodb://db/pulsegate?wTimeoutMS=100", "", "wtimeoutms"},
		{"mongodb://db/pulsegate?directConnection=true", "", "directconnection of the connection string must be false"},
		{"mongodb://db:port/pulsegate", "", "not valid"},
		{"mongodb://user%zz" + secret + "@db/pulsegate", "", "not valid"},
		{"mongodb://db/pulsegate?authMechanism=" + secret, "", "not valid"},
	}
	for _, test := range tests {
		c, database, err := Options{URI: test.uri, Password: test.password}.client()
		switch {
		case err == nil && test.want == "":
			if database != "pulsegate" || *c.RetryWrites || c.WriteConcern.W != "majority" ||
				!*c.WriteConcern.Journal ||
				c.ReadConcern.Level != "majority" || c.ReadPreference.Mode().String() != "primary" ||
				c.Auth != nil && c.Auth.Password != test.password {
				t.Errorf("%s: wrong settings", test.uri)
			}
		case err == nil:
			t.Errorf("%s is accepted", test.uri)
		case test.want == "" || !strings.Contains(err.Error(), test.want):
			t.Errorf("%s: error %q, want %q", test.uri, err, test.want)
		case strings.Contains(err.Error(), secret):
			t.Errorf("%s: the error contains the password: %v", test.uri, err)
		}
	}
	if _, _, err := (Options{URI: "mongodb://db/pulsegate?directConnection=true",
		Standalone: true}).client(); err != nil {
		t.Errorf("a direct connection to a standalone server: %v", err)
	}
	if _, err := (Options{Segment: 33}).withDefaults(); err == nil {
		t.Error("segments of 33 entries are accepted")
	}
}

// TestServers decides on the answers of servers.
func TestServers(t *testing.T) {
	for _, test := range []struct {
		h          hello
		standalone bool
		want       *readconcern.ReadConcern
	}{
		{hello{Set: "rs0"}, false, readconcern.Linearizable()},
		{hello{Set: "rs0"}, true, readconcern.Linearizable()},
		{hello{}, true, readconcern.Majority()},
		{hello{}, false, nil},
		{hello{Kind: "isdbgrid"}, false, nil},
		{hello{Kind: "isdbgrid"}, true, nil},
	} {
		got, err := test.h.strong(test.standalone)
		if (err == nil) != (test.want != nil) || err == nil && *got != *test.want {
			t.Errorf("%+v, %v: %v, %v", test.h, test.standalone, got, err)
		}
	}
	for version, want := range map[string]bool{"5.0.9": false, "4.4.0": false, "6.0.0": true, "7.0.42": true,
		"10.1": true, "": false} {
		var parts []int32
		for _, s := range strings.Split(version, ".") {
			var n int32
			if _, err := fmt.Sscan(s, &n); err == nil {
				parts = append(parts, n)
			}
		}
		if err := checkVersion(version, parts); (err == nil) != want {
			t.Errorf("version %q: %v", version, err)
		}
	}
}

// TestOpenRefuses opens the stand-in without permission, and databases that this
// program cannot read.
func TestOpenRefuses(t *testing.T) {
	o := testOptions(t)
	if o.Standalone {
		strict := o
		strict.Standalone = false
		if l, err := Open(t.Context(), strict); err == nil || !strings.Contains(err.Error(), "replica set") {
			t.Errorf("a server without replica set: %v, %v", l, err)
		}
	}
	l := openLog(t, o)
	for _, fields := range []bson.D{
		{{Key: "format", Value: format + 1}},
		{{Key: "format", Value: format}, {Key: "segment", Value: int64(33)}},
		{{Key: "segment", Value: int64(-1)}},
	} {
		update(t, l.db.Collection("log_layout"), "layout", fields)
		if _, err := Open(t.Context(), o); err == nil {
			t.Errorf("a layout with %v is accepted", fields)
		}
	}
}

// TestUnreachable names the address of a server that does not answer, and no
// password.
func TestUnreachable(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := listener.Addr().String()
	if err := listener.Close(); err != nil {
		t.Fatal(err)
	}
	o := Options{URI: "mongodb://user@" + addr + "/pulsegate?serverSelectionTimeoutMS=100", Password: "hunter2secret"}
	_, err = Open(t.Context(), o)
	if err == nil || !strings.Contains(err.Error(), addr) || strings.Contains(err.Error(), "hunter2") {
		t.Errorf("an unreachable server: %v", err)
	}
}

// TestErrors requires that errors hold neither documents nor credentials, and that
// their causes can be told.
func TestErrors(t *testing.T) {
	const secret = "hunter2secret"
	for _, err := range []error{
		mongo.CommandError{Code: 121, Name: "DocumentValidationFailure", Message: "document " + secret},
		mongo.WriteException{WriteErrors: mongo.WriteErrors{{Code: 11000,
			Message: "dup key: { _id: " + secret + " }"}}},
		mongo.WriteException{WriteConcernError: &mongo.WriteConcernError{Code: 64, Name: "WriteConcernFailed",
			Message: secret}},
		errors.New("dial mongodb://user:" + secret + "@db:27017: refused"),
	} {
		got := failure("reading", err)
		if text := got.Error(); strings.Contains(text, secret) || !strings.HasPrefix(text, "mongolog: reading: ") {
			t.Errorf("error %q", text)
		}
		if got.(*opError).Unwrap() == nil {
			t.Errorf("%v does not wrap its cause", got)
		}
	}
	if failure("reading", nil) != nil {
		t.Error("no failure is an error")
	}
	l := openLog(t, testOptions(t))
	ended, cancel := context.WithDeadline(t.Context(), time.Unix(0, 0))
	defer cancel()
	if err := l.Append(ended, (&chain{}).entry(nil)); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("after the deadline: %v", err)
	}
}
