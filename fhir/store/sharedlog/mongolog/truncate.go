package mongolog

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/mongo"
	"go.mongodb.org/mongo-driver/v2/mongo/options"

	"pulsegate/fhir/store/sharedlog"
)

// keptFor bounds how long a process relies on what it read about truncation. It
// is much shorter than Options.Grace.
const keptFor = time.Minute

// kept is the latest record of a truncation that this process has read.
type kept struct {
	first uint64    // the first place that is kept; 0 if there was no truncation
	asked time.Time // when the query was sent
}

// firstDoc records a truncation. Its _id is the first place that is kept.
type firstDoc struct {
	ID string    `bson:"_id"`
	At time.Time `bson:"at"` // by the clock of the primary
}

// lastKept returns the latest record that was read.
func (l *Log) lastKept() kept {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.kept
}

// checkKept returns ErrTruncated if a place is not kept. It is called after an
// operation on the place, and before it reports a result. A record that was read a
// short time ago proves that the segment had not been removed when the operation took
// place, because removal waits for Options.Grace.
func (l *Log) checkKept(ctx context.Context, place uint64) error {
	k := l.lastKept()
	if place >= k.first && !recent(k.asked, l.opt.Clock()) {
		if err := l.refreshKept(ctx); err != nil {
			return err
		}
		k = l.lastKept()
	}
	if place < k.first {
		return sharedlog.ErrTruncated
	}
	return nil
}

// recent reports whether less than keptFor has passed. It asks the wall clock, too,
// because the monotonic clock may stand still while a machine is suspended.
func recent(from, to time.Time) bool {
	wall := to.Round(0).Sub(from.Round(0))
	return to.Sub(from) < keptFor && wall < keptFor && wall > -keptFor
}

// refreshKept reads the latest record.
func (l *Log) refreshKept(ctx context.Context) error {
	asked := l.opt.Clock()
	ctx, cancel := l.bounded(ctx)
	defer cancel()
	var d firstDoc
	err := l.strongly("log_first").FindOne(ctx, bson.D{}, latest()).Decode(&d)
	if errors.Is(err, mongo.ErrNoDocuments) {
		l.learn(kept{asked: asked})
		return nil
	}
	if err != nil {
		return failure("reading the first place that is kept", err)
	}
	k := kept{asked: asked}
	if k.first, err = index(d.ID); err != nil {
		return err
	}
	l.learn(k)
	return nil
}

// learn replaces the latest record, unless it comes from an earlier query.
func (l *Log) learn(k kept) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !k.asked.Before(l.kept.asked) {
		l.kept = k
	}
}

// segmentPrefix begins the names of segments.
const segmentPrefix = "log_"

// segmentInfo is a segment: a collection, and the places that it may hold.
type segmentInfo struct {
	name       string
	start, end uint64 // end is exclusive
}

// segments returns the segments in order.
func (l *Log) segments(ctx context.Context) (out []segmentInfo, err error) {
	ctx, cancel := l.bounded(ctx)
	defer cancel()
	names, err := l.db.ListCollectionNames(ctx, bson.D{}, options.ListCollections().SetNameOnly(true))
	if err != nil {
		return nil, failure("listing the segments", err)
	}
	for _, name := range names {
		digits, ok := strings.CutPrefix(name, segmentPrefix)
		n, err := strconv.ParseUint(digits, 16, 64)
		if ok && err == nil && len(digits) == 12 {
			out = append(out, segmentInfo{name, n * l.segment, (n + 1) * l.segment})
		}
	}
	slices.SortFunc(out, func(a, b segmentInfo) int { return strings.Compare(a.name, b.name) })
	return out, nil
}

// Truncate implements sharedlog.Log. It keeps the segment of index and the one of
// the last entry. Readers of the segments before fail at once, but the segments
// are removed by a later call, when Options.Grace has passed.
func (l *Log) Truncate(ctx context.Context, index uint64) error {
	_, last, err := l.Bounds(ctx)
	if err != nil {
		return err
	}
	first := l.segmentStart(min(index, last))
	if first > l.lastKept().first {
		if err := l.recordFirst(ctx, first); err != nil {
			return err
		}
	}
	return l.removeSegments(ctx)
}

// recordFirst records the first place to keep.
func (l *Log) recordFirst(ctx context.Context, first uint64) error {
	at, _, err := l.ServerTime(ctx)
	if err != nil {
		return err
	}
	bound, cancel := l.bounded(ctx)
	defer cancel()
	_, err = l.db.Collection("log_first").InsertOne(bound, firstDoc{place(first), at})
	if err != nil && !mongo.IsDuplicateKeyError(err) {
		return failure("recording the first place that is kept", err)
	}
	return l.refreshKept(ctx)
}

// removeSegments removes the segments and parts before the latest record that is
// older than the grace period, oldest first, and the records before it. Segments
// that a late insert created again are removed by the next call.
func (l *Log) removeSegments(ctx context.Context) error {
	now, _, err := l.ServerTime(ctx)
	if err != nil {
		return err
	}
	var records []firstDoc
	if err := l.all(ctx, l.strongly("log_first"), bson.D{}, nil, &records); err != nil {
		return err
	}
	done := ""
	for _, r := range records {
		if l.opt.Grace < 0 || now.Sub(r.At) >= l.opt.Grace {
			done = max(done, r.ID)
		}
	}
	if done == "" {
		return nil
	}
	first, err := index(done)
	if err != nil {
		return err
	}
	segments, err := l.segments(ctx)
	if err != nil {
		return err
	}
	for _, s := range segments {
		if s.end > first {
			break
		}
		bound, cancel := l.bounded(ctx)
		err := l.db.Collection(s.name).Drop(bound)
		cancel()
		if err != nil {
			return failure("removing a segment", err)
		}
	}
	for _, name := range []string{"log_parts", "log_first"} {
		bound, cancel := l.bounded(ctx)
		_, err := l.db.Collection(name).DeleteMany(bound, between("", done))
		cancel()
		if err != nil {
			return failure("removing what belongs to removed segments", err)
		}
	}
	return nil
}

// all reads the documents of a small query in the order of their _id.
func (l *Log) all(ctx context.Context, c *mongo.Collection, filter, fields bson.D, into any) error {
	ctx, cancel := l.bounded(ctx)
	defer cancel()
	o := options.Find().SetSort(bson.D{{Key: "_id", Value: 1}})
	if fields != nil {
		o.SetProjection(fields)
	}
	cursor, err := c.Find(ctx, filter, o)
	if err == nil {
		err = cursor.All(ctx, into)
	}
	return failure("reading "+c.Name(), err)
}
