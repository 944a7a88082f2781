package mongolog

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/mongo"
	"go.mongodb.org/mongo-driver/v2/mongo/options"
	"go.mongodb.org/mongo-driver/v2/mongo/readconcern"

	"pulsegate/fhir/store/sharedlog"
)

// format is the version of the documents. It is raised when an older program
// would misread them.
const format = 1

// oldestServer is the oldest version of MongoDB that is supported.
var oldestServer = [2]int32{6, 0}

// Log is a log in MongoDB. It implements sharedlog.Log.
type Log struct {
	client  *mongo.Client
	db      *mongo.Database
	opt     Options
	segment uint64 // entries per segment
	inline  int    // size of the rows above which they are in parts
	strong  *readconcern.ReadConcern
	meters  *meters

	// mu guards kept, the latest known record of a truncation.
	mu   sync.Mutex
	kept kept
}

var _ sharedlog.Log = (*Log)(nil)

// Open connects to MongoDB and checks that it can keep a log: that the server is
// the member of a replica set, is recent enough, and commits to a majority.
func Open(ctx context.Context, o Options) (*Log, error) {
	o, err := o.withDefaults()
	if err != nil {
		return nil, err
	}
	c, name, err := o.client()
	if err != nil {
		return nil, err
	}
	m, err := newMeters()
	if err != nil {
		return nil, err
	}
	client, err := mongo.Connect(c)
	if err != nil {
		return nil, failure("connecting", err)
	}
	l := &Log{client: client, db: client.Database(name), opt: o, meters: m, inline: maxInline}
	if err := l.start(ctx); err != nil {
		_ = client.Disconnect(context.WithoutCancel(ctx))
		return nil, err
	}
	return l, nil
}

// start checks the server and reads the layout of the log.
func (l *Log) start(ctx context.Context) error {
	if err := l.checkServer(ctx); err != nil {
		return err
	}
	if err := l.readLayout(ctx); err != nil {
		return err
	}
	return l.refreshKept(ctx)
}

// hello holds the fields of the command of that name that are used here.
type hello struct {
	Set       string    `bson:"setName"`
	Kind      string    `bson:"msg"`
	LocalTime time.Time `bson:"localTime"`
}

func (l *Log) hello(ctx context.Context) (h hello, err error) {
	ctx, cancel := l.bounded(ctx)
	defer cancel()
	err = l.client.Database("admin").RunCommand(ctx, bson.D{{Key: "hello", Value: 1}}).Decode(&h)
	return h, failure("asking the server for its state", err)
}

// strong returns the read concern under which the server shows everything that was
// durable before the read, and nothing that is not.
func (h hello) strong(standalone bool) (*readconcern.ReadConcern, error) {
	switch {
	case h.Kind == "isdbgrid":
		return nil, errors.New("mongolog: the server is the router of a sharded cluster: name a replica set")
	case h.Set != "":
		return readconcern.Linearizable(), nil
	case standalone:
		return readconcern.Majority(), nil
	}
	return nil, errors.New("mongolog: the server is not a member of a replica set: initiate one, even of one member")
}

// checkServer refuses servers that cannot make entries durable on a majority.
func (l *Log) checkServer(ctx context.Context) error {
	h, err := l.hello(ctx)
	if err != nil {
		return err
	}
	if l.strong, err = h.strong(l.opt.Standalone); err != nil {
		return err
	}
	var build struct {
		Version string  `bson:"version"`
		Parts   []int32 `bson:"versionArray"`
	}
	ctx, cancel := l.bounded(ctx)
	defer cancel()
	err = l.client.Database("admin").RunCommand(ctx, bson.D{{Key: "buildInfo", Value: 1}}).Decode(&build)
	if err != nil {
		return failure("asking the server for its version", err)
	}
	return checkVersion(build.Version, build.Parts)
}

func checkVersion(version string, parts []int32) error {
	if len(parts) < 2 || parts[0] < oldestServer[0] || parts[0] == oldestServer[0] && parts[1] < oldestServer[1] {
		return fmt.Errorf("mongolog: the server has version %.20q, and at least %d.%d is needed",
			version, oldestServer[0], oldestServer[1])
	}
	return nil
}

// layout describes the collections of a log.
type layout struct {
	ID      string `bson:"_id"`
	Format  int32  `bson:"format"`
	Segment int64  `bson:"segment"`
}

// readLayout reads the layout, or writes it into an empty database. It then
// updates it without a change, which succeeds when a majority has everything
// before it.
func (l *Log) readLayout(ctx context.Context) error {
	ctx, cancel := l.bounded(ctx)
	defer cancel()
	c := l.db.Collection("log_layout")
	id := bson.D{{Key: "_id", Value: "layout"}}
	now := layout{ID: "layout", Format: format, Segment: int64(l.opt.Segment)}
	err := c.FindOne(ctx, id).Decode(&now)
	if errors.Is(err, mongo.ErrNoDocuments) {
		_, err = c.InsertOne(ctx, now)
		if mongo.IsDuplicateKeyError(err) {
			err = nil
		}
	}
	if err != nil {
		return failure("reading the layout of the log", err)
	}
	_, err = c.UpdateOne(ctx, id, bson.D{{Key: "$set", Value: bson.D{{Key: "format", Value: now.Format}}}})
	if err != nil {
		return failure("writing to a majority of the servers", err)
	}
	if err := l.strongly("log_layout").FindOne(ctx, id).Decode(&now); err != nil {
		return failure("reading the layout of the log", err)
	}
	if now.Format != format {
		return fmt.Errorf("mongolog: the log has format %d, and this program knows %d", now.Format, format)
	}
	if now.Segment < 1 || now.Segment&(now.Segment-1) != 0 {
		return fmt.Errorf("mongolog: the log has segments of %d entries: not a power of two", now.Segment)
	}
	l.segment = uint64(now.Segment)
	return nil
}

// strongly returns a collection whose reads see everything that was durable before
// them, and nothing that is not.
func (l *Log) strongly(name string) *mongo.Collection {
	return l.db.Collection(name, options.Collection().SetReadConcern(l.strong))
}

// ServerTime returns the time of the primary, as of some time within the round
// trip of the call.
func (l *Log) ServerTime(ctx context.Context) (at time.Time, roundTrip time.Duration, err error) {
	sent := l.opt.Clock()
	h, err := l.hello(ctx)
	if err != nil {
		return time.Time{}, 0, err
	}
	if h.LocalTime.IsZero() {
		return time.Time{}, 0, errors.New("mongolog: the server does not tell its time")
	}
	if l.opt.shift != nil {
		h.LocalTime = h.LocalTime.Add(l.opt.shift())
	}
	return h.LocalTime.UTC(), l.opt.Clock().Sub(sent), nil
}

// Database returns another database of the same servers, with the connections and the
// concerns of l. It refuses the database of the log.
func (l *Log) Database(name string) (*mongo.Database, error) {
	if strings.EqualFold(name, l.db.Name()) {
		return nil, errors.New("mongolog: this is the database of the log, which it has to itself: name another one")
	}
	return l.client.Database(name), nil
}

// Close implements sharedlog.Log.
func (l *Log) Close(ctx context.Context) error {
	return failure("disconnecting", l.client.Disconnect(ctx))
}
