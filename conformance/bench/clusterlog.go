package main

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/mongo"
	mongoptions "go.mongodb.org/mongo-driver/v2/mongo/options"
	"go.mongodb.org/mongo-driver/v2/mongo/writeconcern"

	"pulsegate/fhir/store/sharedlog/mongolog"
)

// logDB reads the documents of a cluster's log, by the driver and not through the
// delaying network. See package mongolog for the collections.
type logDB struct {
	client  *mongo.Client
	db      *mongo.Database
	segment uint64 // entries per collection
}

// smallSegments is the size of the segments with the stand-in, which reads a whole
// collection when it looks for new entries. It does not use an index for a range.
const smallSegments = 16

// prepareLog lays out the log of a new cluster.
func prepareLog(ctx context.Context, uri, password string, standIn bool) error {
	o := mongolog.Options{URI: uri, Password: password, Standalone: standIn}
	if standIn {
		o.Segment = smallSegments
	}
	l, err := mongolog.Open(ctx, o)
	if err != nil {
		return err
	}
	return l.Close(ctx)
}

// connect connects to the server of a connection string, as servers of a cluster do.
func connect(uri, password string) (*mongo.Client, string, error) {
	u, err := url.Parse(uri)
	if err != nil {
		return nil, "", errors.New("the connection string is not valid")
	}
	journal := true
	o := mongoptions.Client().ApplyURI(uri).SetRetryWrites(false).
		SetWriteConcern(&writeconcern.WriteConcern{W: "majority", Journal: &journal})
	if o.Auth != nil && password != "" {
		o.Auth.Password, o.Auth.PasswordSet = password, true
	}
	c, err := mongo.Connect(o)
	if err != nil {
		return nil, "", errors.New("the connection string is not valid")
	}
	return c, strings.TrimPrefix(u.Path, "/"), nil
}

// openLog opens the log of a cluster for reading.
func openLog(ctx context.Context, uri, password string) (*logDB, error) {
	c, name, err := connect(uri, password)
	if err != nil {
		return nil, err
	}
	l := &logDB{client: c, db: c.Database(name)}
	var layout struct{ Segment int64 }
	if err := l.db.Collection("log_layout").FindOne(ctx, bson.D{}).Decode(&layout); err != nil {
		return nil, errors.Join(err, c.Disconnect(ctx))
	}
	l.segment = uint64(layout.Segment)
	return l, nil
}

func (l *logDB) close(ctx context.Context) error { return l.client.Disconnect(ctx) }

// segments returns the names of the collections with entries from a place on, in order.
func (l *logDB) segments(ctx context.Context, from uint64) ([]string, error) {
	names, err := l.db.ListCollectionNames(ctx, bson.D{})
	if err != nil {
		return nil, err
	}
	return segmentsFrom(names, from/l.segment), nil
}

// segmentsFrom returns those of the collections that are segments from a number on, in
// order.
func segmentsFrom(names []string, from uint64) (out []string) {
	for _, name := range names {
		hexes, ok := strings.CutPrefix(name, "log_")
		if n, err := strconv.ParseUint(hexes, 16, 64); ok && len(hexes) == 12 && err == nil && n >= from {
			out = append(out, name)
		}
	}
	slices.Sort(out)
	return out
}

// head returns the place of the last entry, or 0.
func (l *logDB) head(ctx context.Context) (uint64, error) {
	names, err := l.segments(ctx, 0)
	if err != nil {
		return 0, err
	}
	for _, name := range slices.Backward(names) {
		var last struct {
			ID string `bson:"_id"`
		}
		err := l.db.Collection(name).FindOne(ctx, bson.D{}, mongoptions.FindOne().
			SetSort(bson.D{{Key: "_id", Value: -1}}).SetProjection(bson.D{{Key: "_id", Value: 1}})).Decode(&last)
		if errors.Is(err, mongo.ErrNoDocuments) {
			continue // it was just created
		}
		if err != nil {
			return 0, err
		}
		return strconv.ParseUint(last.ID, 16, 64)
	}
	return 0, nil
}

// logged is a part of a log.
type logged struct {
	entries, commits int
	bytes            int64 // of the documents: BSON, parts of large entries included
}

// add adds the document of an entry.
func (l *logged) add(doc bson.Raw) error {
	n, ok := doc.Lookup("c").AsInt64OK()
	if !ok {
		return errors.New("an entry of the log has no number of commits")
	}
	l.entries, l.commits, l.bytes = l.entries+1, l.commits+int(n), l.bytes+int64(len(doc))
	return nil
}

// per returns the bytes for each of n things.
func (l *logged) per(n int) float64 { return float64(l.bytes) / float64(max(1, n)) }

// after returns the sums over the entries after a place.
func (l *logDB) after(ctx context.Context, place uint64) (sum logged, err error) {
	names, err := l.segments(ctx, place+1)
	if err != nil {
		return sum, err
	}
	later := bson.D{{Key: "_id", Value: bson.D{{Key: "$gt", Value: fmt.Sprintf("%016x", place)}}}}
	for _, name := range names {
		err := l.each(ctx, name, later, sum.add)
		if err != nil {
			return sum, err
		}
	}
	// The name of a part begins with the place of its entry.
	next := bson.D{{Key: "_id", Value: bson.D{{Key: "$gte", Value: fmt.Sprintf("%016x", place+1)}}}}
	return sum, l.each(ctx, "log_parts", next, func(doc bson.Raw) error {
		sum.bytes += int64(len(doc))
		return nil
	})
}

func (l *logDB) each(ctx context.Context, name string, filter bson.D, f func(bson.Raw) error) error {
	c, err := l.db.Collection(name).Find(ctx, filter)
	if err != nil {
		return err
	}
	for c.Next(ctx) {
		if err := f(c.Current); err != nil {
			return errors.Join(err, c.Close(ctx))
		}
	}
	return errors.Join(c.Err(), c.Close(ctx))
}

// insertBytes is the size of a document of the floor.
const insertBytes = 300

// insertFloor measures how many documents of 300 bytes a number of writers insert for a
// time, each waiting for a majority before the next one.
func insertFloor(ctx context.Context, c *mongo.Collection, workers int, length time.Duration) (tally, error) {
	empty, err := bson.Marshal(insertDoc(0, 0))
	if err != nil {
		return tally{}, err
	}
	var next atomic.Int64
	first := time.Now().UnixNano()
	return during(workers, length, func(int) (func(i int) error, func() error, error) {
		return func(int) error {
			_, err := c.InsertOne(ctx, insertDoc(first+next.Add(1), insertBytes-len(empty)))
			return err
		}, func() error { return nil }, nil
	})
}

func insertDoc(id int64, size int) bson.D {
	return bson.D{{Key: "_id", Value: id}, {Key: "b", Value: make([]byte, size)}}
}

// errDone ends a worker without an error.
var errDone = errors.New("done")

// tally is the outcome of a load.
type tally struct {
	done int // calls
	took time.Duration
	lat  []time.Duration // sorted
}

func (t tally) rate() float64 { return float64(t.done) / max(t.took, 1).Seconds() }

// times returns a note of the latencies.
func (t tally) times() string {
	if t.done == 0 {
		return "none done"
	}
	return fmt.Sprintf("p50 %.2f ms, p99 %.2f ms", ms(t.lat, .5), ms(t.lat, .99))
}

// during lets workers call a function, one call after another, until a time has passed.
// Calls have consecutive numbers. A worker ends early when its call returns errDone. It
// gets its function, and another for its end, from open.
func during(workers int, length time.Duration,
	open func(worker int) (call func(i int) error, end func() error, err error),
) (tally, error) {
	var next atomic.Int64
	var wg sync.WaitGroup
	lats, errs := make([][]time.Duration, workers), make([]error, workers)
	begin := time.Now()
	for w := range workers {
		wg.Go(func() {
			call, end, err := open(w)
			if err != nil {
				errs[w] = err
				return
			}
			for err == nil && time.Since(begin) < length {
				at := time.Now()
				if err = call(int(next.Add(1)) - 1); err == nil {
					lats[w] = append(lats[w], time.Since(at))
				}
			}
			if errors.Is(err, errDone) {
				err = nil
			}
			errs[w] = errors.Join(err, end())
		})
	}
	wg.Wait()
	t := tally{took: time.Since(begin), lat: slices.Concat(lats...)}
	t.done = len(t.lat)
	slices.Sort(t.lat)
	return t, errors.Join(errs...)
}

// newDatabase replaces the database of a connection string by a new one, with the old
// name at the beginning of the new name.
func newDatabase(uri string, suffix []byte, what string) (string, error) {
	head, query, _ := strings.Cut(uri, "?")
	scheme, rest, ok := strings.Cut(head, "://")
	hosts, name, named := strings.Cut(rest, "/")
	if !ok || !named || name == "" {
		return "", errors.New("-mongodb must be a connection string with a database, " +
			"such as mongodb://host/bench?replicaSet=rs0")
	}
	if query != "" {
		query = "?" + query
	}
	return fmt.Sprintf("%s://%s/%s_%s_%s%s", scheme, hosts, name, hex.EncodeToString(suffix), what, query), nil
}
