package mirror

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/mongo"
	"go.mongodb.org/mongo-driver/v2/mongo/options"

	"pulsegate/fhir"
	"pulsegate/fhir/cluster/follow"
	"pulsegate/fhir/series"
	"pulsegate/fhir/store"
)

// Options configures a Mirror.
type Options struct {
	Store store.Store
	// DB is the database of the mirror. It should be used for nothing else.
	DB *mongo.Database
	// Source names the store. A mirror of another source is emptied first.
	Source string
	Clock  func() time.Time
	Logger *slog.Logger
	// Delay is the time that the mirror waits after a change, so that a burst of
	// changes is copied together. The default is 1 second.
	Delay time.Duration
	// Step bounds the changes that are copied at once. The default is 1,000.
	Step int
}

// Mirror copies a store.
type Mirror struct {
	opts    Options
	indexed map[string]bool // collections that have their indexes
	purged  time.Time       // when old tombstones were removed last
	lag     follow.Lag
}

const (
	cursorCollection = "mirror"
	cursorID         = "cursor"
	// keepTombstones is the time for which a late write could bring a deleted
	// resource back. Calls end after callTimeout, so that it is long enough.
	keepTombstones = 24 * time.Hour
	callTimeout    = 30 * time.Second
	maxBackoff     = time.Minute
)

// Status tells how far a mirror is.
type Status struct {
	Source  string    `bson:"source" json:"source"`
	Commit  int64     `bson:"commit" json:"commit"`
	Updated time.Time `bson:"updated" json:"updated"`
}

// New returns a Mirror, which copies nothing until Run.
func New(o Options) (*Mirror, error) {
	if o.Store == nil || o.DB == nil || o.Source == "" || o.Clock == nil {
		return nil, fhir.Errorf(fhir.Internal, "mirror.New", "Store, DB, Source and Clock are required")
	}
	o.Delay = cmp.Or(o.Delay, time.Second)
	o.Step = cmp.Or(o.Step, 1000)
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return &Mirror{opts: o, indexed: map[string]bool{}}, nil
}

// Run follows the store until ctx ends. Only one process should run it at a time.
func (m *Mirror) Run(ctx context.Context) {
	defer m.measure()()
	wake := make(chan struct{}, 1)
	changed := func() {
		m.lag.Changed(m.opts.Clock())
		follow.Signal(wake)
	}
	stop := m.opts.Store.Watch(func(c store.Commit) {
		if len(c.Changes) > 0 || c.Samples > 0 {
			changed()
		}
	})
	defer stop()
	changed()
	loop := follow.Loop{Wake: wake, Delay: m.opts.Delay, MinBackoff: m.opts.Delay, MaxBackoff: maxBackoff,
		Failed: func(err error) {
			m.opts.Logger.Error("the mirror cannot follow the change log", "error", describe(err))
		}}
	loop.Run(ctx, func(ctx context.Context) (next time.Duration, err error) {
		m.lag.Begin()
		if err = m.Follow(ctx); err == nil {
			m.lag.Done()
		}
		return 0, err
	})
}

// Follow copies the changes up to the latest commit.
func (m *Mirror) Follow(ctx context.Context) error {
	const op = "mirror.Follow"
	at, err := m.cursor(ctx)
	if err != nil {
		return fhir.Wrap(op, err)
	}
	for {
		last := m.opts.Store.LastSeq()
		if at >= last {
			return fhir.Wrap(op, m.purge(ctx))
		}
		s, err := m.collect(ctx, at)
		if err != nil {
			return fhir.Wrap(op, err)
		}
		if s.empty() {
			s.upTo = last // only AuditEvents since
		}
		if err := m.copy(ctx, s); err != nil {
			return fhir.Wrap(op, err)
		}
		if err := m.advance(ctx, s.upTo); err != nil {
			return fhir.Wrap(op, err)
		}
		at = s.upTo
	}
}

// step holds what some commits changed.
type step struct {
	upTo    store.Seq
	refs    map[fhir.Ref]bool
	samples map[cluster]map[int64]bool // days since 1970
	// moved holds the streams and days of Observations that may have been samples.
	moved map[movedKey]bool
}

type movedKey struct {
	stream string
	day    int64
}

func (s *step) empty() bool { return len(s.refs)+len(s.samples) == 0 }

// collect reads changes after a commit, and ends between two commits.
func (m *Mirror) collect(ctx context.Context, after store.Seq) (*step, error) {
	s := &step{refs: map[fhir.Ref]bool{}, samples: map[cluster]map[int64]bool{}, moved: map[movedKey]bool{}}
	n := 0
	var failure error
	each := func(c *store.Change) bool {
		if c.Seq != s.upTo && n >= m.opts.Step {
			return false
		}
		s.upTo = c.Seq
		n++
		if c.Samples != nil {
			failure = s.addSamples(c.Samples)
			return failure == nil
		}
		s.refs[c.Ref] = true
		if k, ok := series.ParseID(c.Ref.ID); ok && c.Ref.Type == "Observation" {
			s.moved[movedKey{stream(k.Identity), dayOf(k.Start)}] = true
		}
		return true
	}
	changes := m.opts.Store.Changes
	if columnar, ok := m.opts.Store.(store.Columnar); ok {
		changes = columnar.ChangesBrief
	}
	if err := changes(ctx, after, each); err != nil {
		return nil, err
	}
	return s, failure
}

// dayOf returns the day of an instant in Unix microseconds.
func dayOf(us int64) int64 {
	const length = 24 * 3600 * 1e6
	d := us / length
	if us%length < 0 {
		d--
	}
	return d
}

func (s *step) addSamples(c *store.SampleChange) error {
	t, err := c.Template()
	if err != nil {
		return err
	}
	k, err := clusterOf(t)
	if err != nil {
		return err
	}
	days := s.samples[k]
	if days == nil {
		days = map[int64]bool{}
		s.samples[k] = days
	}
	for d := dayOf(c.First); d <= dayOf(c.Last); d++ {
		days[d] = true
	}
	return nil
}

// copy brings the documents of a step up to the latest commit.
func (m *Mirror) copy(ctx context.Context, s *step) error {
	at := m.opts.Store.LastSeq()
	byType := map[string][]mongo.WriteModel{}
	for _, ref := range slices.SortedFunc(maps.Keys(s.refs), func(a, b fhir.Ref) int {
		return cmp.Or(strings.Compare(a.Type, b.Type), strings.Compare(a.ID, b.ID))
	}) {
		d, err := m.current(ctx, ref, at)
		if err != nil {
			return err
		}
		byType[ref.Type] = append(byType[ref.Type], replace(ref.ID, at, d))
	}
	for typ, writes := range byType {
		if err := m.write(ctx, typ, writes); err != nil {
			return err
		}
	}
	if err := m.findMoved(ctx, s); err != nil {
		return err
	}
	for c, days := range s.samples {
		if err := m.copySamples(ctx, c, days, at); err != nil {
			return err
		}
	}
	return nil
}

// current returns the document of a resource as of a commit, or its tombstone.
func (m *Mirror) current(ctx context.Context, ref fhir.Ref, at store.Seq) (bson.D, error) {
	r, _, err := m.opts.Store.Read(ctx, ref, at)
	if err != nil && fhir.KindOf(err) != fhir.NotFound {
		return nil, err
	}
	if err != nil || r.Deleted {
		return tombstone(ref.ID, at, m.opts.Clock().UTC()), nil
	}
	return document(&r, at)
}

// replace writes a document unless it is of a later commit already.
func replace(id string, at store.Seq, d bson.D) mongo.WriteModel {
	return mongo.NewReplaceOneModel().SetUpsert(true).SetReplacement(d).
		SetFilter(bson.D{{Key: "_id", Value: id}, {Key: memberCommit, Value: bson.D{{Key: "$lte", Value: int64(at)}}}})
}

// findMoved adds the buckets from which samples may have moved into documents.
func (m *Mirror) findMoved(ctx context.Context, s *step) error {
	for k := range s.moved {
		call, cancel := context.WithTimeout(ctx, callTimeout)
		found, err := m.opts.DB.Collection(samplesCollection).Find(call, bson.D{{Key: "stream", Value: k.stream},
			{Key: "day", Value: time.Unix(k.day*86400, 0).UTC()}},
			options.Find().SetProjection(bson.D{{Key: "observation", Value: 1}}))
		var docs []struct {
			Observation bson.D `bson:"observation"`
		}
		if err == nil {
			err = found.All(call, &docs)
		}
		cancel()
		if err != nil {
			return err
		}
		for _, d := range docs {
			c := clusterIn(d.Observation)
			if s.samples[c] == nil {
				s.samples[c] = map[int64]bool{}
			}
			s.samples[c][k.day] = true
		}
	}
	return nil
}

// copySamples copies the buckets of a cluster on some days.
func (m *Mirror) copySamples(ctx context.Context, c cluster, days map[int64]bool, at store.Seq) error {
	sorted := slices.Sorted(maps.Keys(days))
	for len(sorted) > 0 {
		n := 1
		for n < len(sorted) && n < maxDays && sorted[n] == sorted[0]+int64(n) {
			n++
		}
		first := time.Unix(sorted[0]*86400, 0).UTC()
		docs, err := bucketsOf(ctx, m.opts.Store, c, first, n, at)
		if err != nil {
			return err
		}
		if err := m.writeBuckets(ctx, c, first, n, docs, at); err != nil {
			return err
		}
		sorted = sorted[n:]
	}
	return nil
}

// writeBuckets replaces the buckets of a cluster on some days.
func (m *Mirror) writeBuckets(ctx context.Context, c cluster, first time.Time, n int, docs []bson.D,
	at store.Seq) error {
	var writes []mongo.WriteModel
	have := map[string]bool{}
	for _, d := range docs {
		id := d[0].Value.(string)
		have[id] = true
		writes = append(writes, replace(id, at, d))
	}
	call, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	found, err := m.opts.DB.Collection(samplesCollection).Find(call, bson.D{
		{Key: "observation.subject.reference", Value: "Patient/" + c.patient},
		{Key: "observation.code.coding.code", Value: c.code},
		{Key: "day", Value: bson.D{{Key: "$gte", Value: first}, {Key: "$lt", Value: first.Add(time.Duration(n) * day)}}},
	}, options.Find().SetProjection(bson.D{{Key: "_id", Value: 1}}))
	if err != nil {
		return err
	}
	var ids []struct {
		ID string `bson:"_id"`
	}
	if err := found.All(call, &ids); err != nil {
		return err
	}
	for _, x := range ids {
		if !have[x.ID] { // all of its samples have moved
			writes = append(writes, replace(x.ID, at, tombstone(x.ID, at, m.opts.Clock().UTC())))
		}
	}
	return m.write(ctx, samplesCollection, writes)
}

// maxWrites bounds the documents of one call.
const maxWrites = 100

// write writes documents to a collection. A document that is of a later commit
// already is left alone.
func (m *Mirror) write(ctx context.Context, collection string, writes []mongo.WriteModel) error {
	if err := m.index(ctx, collection); err != nil {
		return err
	}
	for part := range slices.Chunk(writes, maxWrites) {
		call, cancel := context.WithTimeout(ctx, callTimeout)
		_, err := m.opts.DB.Collection(collection).BulkWrite(call, part, options.BulkWrite().SetOrdered(false))
		cancel()
		var failed mongo.BulkWriteException
		if errors.As(err, &failed) && failed.WriteConcernError == nil &&
			!slices.ContainsFunc(failed.WriteErrors,
				func(e mongo.BulkWriteError) bool { return e.Code != duplicateKey }) {
			err = nil
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// duplicateKey is MongoDB's code for an insert of a key that exists: the filter of a
// replacement did not match because the document is of a later commit.
const duplicateKey = 11000

// index creates the indexes of a collection.
func (m *Mirror) index(ctx context.Context, collection string) error {
	if m.indexed[collection] {
		return nil
	}
	call, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	var models []mongo.IndexModel
	for _, keys := range indexesOf(collection) {
		d := bson.D{}
		for _, k := range keys {
			d = append(d, bson.E{Key: k, Value: 1})
		}
		models = append(models, mongo.IndexModel{Keys: d})
	}
	if _, err := m.opts.DB.Collection(collection).Indexes().CreateMany(call, models); err != nil {
		return err
	}
	m.indexed[collection] = true
	return nil
}

// indexesOf returns the members of the indexes of a collection.
func indexesOf(collection string) [][]string {
	switch collection {
	case samplesCollection:
		return [][]string{{"observation.subject.reference", "observation.code.coding.code", "_time.start"},
			{"stream", "day"}, {memberDeleted}}
	case "Observation":
		return [][]string{{"subject.reference", "code.coding.code", "_time.start"}, {"code.coding.code", "_time.start"},
			{memberDeleted}}
	case "Consent", "Device":
		return [][]string{{"patient.reference"}, {memberDeleted}}
	case "Provenance":
		return [][]string{{"target.reference"}, {memberDeleted}}
	case "Patient":
		return [][]string{{"identifier.value"}, {memberDeleted}}
	}
	return [][]string{{"subject.reference"}, {memberDeleted}}
}

// cursor returns the commit up to which the mirror is filled. A mirror of another
// source is emptied.
func (m *Mirror) cursor(ctx context.Context) (store.Seq, error) {
	s, err := StatusOf(ctx, m.opts.DB)
	if err != nil {
		return 0, err
	}
	if s != nil && s.Source == m.opts.Source {
		return store.Seq(s.Commit), nil
	}
	return 0, m.Clear(ctx)
}

// StatusOf returns the status of the mirror in a database, or nil if there is none.
func StatusOf(ctx context.Context, db *mongo.Database) (*Status, error) {
	call, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	s := &Status{}
	err := db.Collection(cursorCollection).FindOne(call, bson.D{{Key: "_id", Value: cursorID}}).Decode(s)
	if errors.Is(err, mongo.ErrNoDocuments) {
		return nil, nil
	}
	return s, err
}

// Status returns the status of the mirror, or nil if it was not filled yet.
func (m *Mirror) Status(ctx context.Context) (*Status, error) { return StatusOf(ctx, m.opts.DB) }

// Behind returns the number of commits that a mirror up to a commit does not show. It
// is 0 if they change nothing in the mirror.
func (m *Mirror) Behind(ctx context.Context, commit store.Seq) (uint64, error) {
	last, behind := m.opts.Store.LastSeq(), false
	err := m.opts.Store.Changes(ctx, commit, func(*store.Change) bool { behind = true; return false })
	if err != nil || !behind {
		return 0, fhir.Wrap("mirror.Behind", err)
	}
	return uint64(last - min(last, commit)), nil
}

// Clear empties the mirror. The next Follow fills it again.
func (m *Mirror) Clear(ctx context.Context) error {
	names, err := m.collections(ctx)
	if err != nil {
		return err
	}
	for _, name := range append(names, cursorCollection) {
		call, cancel := context.WithTimeout(ctx, callTimeout)
		err := m.opts.DB.Collection(name).Drop(call)
		cancel()
		if err != nil {
			return err
		}
	}
	clear(m.indexed)
	return nil
}

// collections returns the names of the collections with copies.
func (m *Mirror) collections(ctx context.Context) ([]string, error) {
	call, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	names, err := m.opts.DB.ListCollectionNames(call, bson.D{})
	return slices.DeleteFunc(names, func(name string) bool {
		return !fhir.KnownType(name) && name != samplesCollection
	}), err
}

// advance moves the cursor. It never moves back.
func (m *Mirror) advance(ctx context.Context, to store.Seq) error {
	call, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	s := Status{Source: m.opts.Source, Commit: int64(to), Updated: m.opts.Clock().UTC()}
	_, err := m.opts.DB.Collection(cursorCollection).ReplaceOne(call,
		bson.D{{Key: "_id", Value: cursorID}, {Key: "commit", Value: bson.D{{Key: "$lte", Value: int64(to)}}}}, s,
		options.Replace().SetUpsert(true))
	if mongo.IsDuplicateKeyError(err) {
		return nil
	}
	return err
}

// purge removes old tombstones, once an hour, also those that another process has written.
func (m *Mirror) purge(ctx context.Context) error {
	now := m.opts.Clock()
	if now.Sub(m.purged) < time.Hour {
		return nil
	}
	names, err := m.collections(ctx)
	if err != nil {
		return err
	}
	for _, name := range names {
		call, cancel := context.WithTimeout(ctx, callTimeout)
		_, err := m.opts.DB.Collection(name).DeleteMany(call,
			bson.D{{Key: memberDeleted, Value: bson.D{{Key: "$lt", Value: now.Add(-keepTombstones).UTC()}}}})
		cancel()
		if err != nil {
			return err
		}
	}
	m.purged = now
	return nil
}

// describe returns an error without what a document or a connection string could
// have put into its text.
func describe(err error) string {
	var command mongo.CommandError
	var bulk mongo.BulkWriteException
	var e *fhir.Error
	switch {
	case errors.As(err, &command):
		return "MongoDB refuses the command: " + command.Name
	case errors.As(err, &bulk):
		return "MongoDB refuses documents"
	case mongo.IsTimeout(err):
		return "MongoDB does not answer in time"
	case mongo.IsNetworkError(err):
		return "MongoDB cannot be reached"
	case errors.As(err, &e):
		return e.Error()
	}
	return "MongoDB: unexpected error"
}
