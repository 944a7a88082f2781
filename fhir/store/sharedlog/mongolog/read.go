package mongolog

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/mongo"
	"go.mongodb.org/mongo-driver/v2/mongo/options"

	"pulsegate/fhir/store/sharedlog"
)

// window bounds the entries that one look returns. With maxSmall bytes of each,
// its answer fits into one batch of MongoDB.
const window = 256

// Read implements sharedlog.Log. If nothing is new it makes one query, but two
// if the position is the last of a segment.
func (l *Log) Read(ctx context.Context, p sharedlog.Position, fn func(*sharedlog.Entry, sharedlog.Hash) bool) error {
	for {
		docs, full, err := l.look(ctx, p)
		if err != nil {
			return err
		}
		for i := range docs {
			e, sum, err := l.complete(ctx, &docs[i])
			if err != nil {
				return err
			}
			l.meters.read(ctx, len(e.Rows))
			docs[i] = entryDoc{} // fn may retain the rows or not
			if !fn(e, sum) {
				return nil
			}
			p, _ = p.Next(e, sum)
		}
		if !full {
			return nil
		}
	}
}

// look verifies that the entry at p is in the log, and returns the entries after
// it up to the first gap. Large entries lack their guards and rows. If full is
// true, there may be more.
func (l *Log) look(ctx context.Context, p sharedlog.Position) (docs []entryDoc, full bool, err error) {
	start := l.opt.Clock()
	next := p.Index + 1
	end := min(next+window, l.segmentStart(next)+l.segment) // exclusive
	from := next
	if l.segmentStart(p.Index) == l.segmentStart(next) && p.Index > 0 {
		from = p.Index
	}
	docs, err = l.find(ctx, from, end)
	if err != nil {
		return nil, false, err
	}
	l.meters.reads.Record(ctx, l.opt.Clock().Sub(start).Seconds())
	var at []entryDoc
	if from == p.Index {
		if len(docs) > 0 && docs[0].ID == place(p.Index) {
			at, docs = docs[:1], docs[1:]
		}
	} else if p.Index > 0 {
		if at, err = l.find(ctx, p.Index, next); err != nil {
			return nil, false, err
		}
	}
	if err := l.checkPosition(ctx, p, at, len(docs) == 0); err != nil {
		return nil, false, err
	}
	n := 0
	for n < len(docs) && docs[n].ID == place(next+uint64(n)) {
		n++
	}
	return docs[:n], n > 0 && next+uint64(n) == end, nil
}

// find returns the entries from one place to before another in the same segment,
// without the large parts.
func (l *Log) find(ctx context.Context, from, to uint64) (docs []entryDoc, err error) {
	ctx, cancel := l.bounded(ctx)
	defer cancel()
	n := int64(to - from)
	// The batch is larger than the limit, so that the first answer ends the query.
	c, err := l.strongly(l.segmentName(from)).Find(ctx, between(place(from), place(to)), options.Find().
		SetProjection(without("l")).SetSort(bson.D{{Key: "_id", Value: 1}}).SetLimit(n).SetBatchSize(int32(n)+1))
	if err == nil {
		err = c.All(ctx, &docs)
	}
	return docs, failure(fmt.Sprintf("looking for entry %d and those after it", from), err)
}

// checkPosition returns the error of a reader at p. The slice at holds the entry
// that is stored there, if any. If alone is true, no entry after p was found.
func (l *Log) checkPosition(ctx context.Context, p sharedlog.Position, at []entryDoc, alone bool) error {
	if len(at) == 0 && (p.Index > 0 || alone) {
		// The beginning of an empty log, or what was truncated, or another log. These
		// are rare, and must be told apart.
		if err := l.refreshKept(ctx); err != nil {
			return err
		}
	}
	if err := l.checkKept(ctx, p.Index); err != nil {
		return err
	}
	var sum sharedlog.Hash // before the first entry
	if p.Index > 0 {
		if len(at) == 0 {
			return sharedlog.ErrDiverged
		}
		sum, _ = toHash(at[0].Hash)
	}
	if sum != p.Last {
		return sharedlog.ErrDiverged
	}
	return nil
}

// complete returns the entry of a document from a look, and verifies its hash.
func (l *Log) complete(ctx context.Context, d *entryDoc) (*sharedlog.Entry, sharedlog.Hash, error) {
	if d.IsLarge {
		if err := l.bringLarge(ctx, d); err != nil {
			return nil, sharedlog.Hash{}, err
		}
	}
	return d.decode()
}

// bringLarge reads the guards and the rows of a large entry.
func (l *Log) bringLarge(ctx context.Context, d *entryDoc) error {
	bound, cancel := l.bounded(ctx)
	defer cancel()
	n, err := index(d.ID)
	if err != nil {
		return err
	}
	var full entryDoc
	err = l.db.Collection(l.segmentName(n)).FindOne(bound, byID(d.ID)).Decode(&full)
	if errors.Is(err, mongo.ErrNoDocuments) {
		return l.vanished(ctx, n, "the entry")
	}
	if err != nil {
		return failure(fmt.Sprintf("reading entry %d", n), err)
	}
	if full.Large == nil {
		return fmt.Errorf("mongolog: entry %d is damaged: its rows are missing", n)
	}
	d.Touched, d.Rows = full.Large.Touched, full.Large.Rows
	if len(full.Large.Parts) > 0 {
		d.Rows, err = l.join(ctx, n, full.Large)
	}
	return err
}

// vanished returns the error for a document of the entry at n that was expected.
func (l *Log) vanished(ctx context.Context, n uint64, what string) error {
	if err := l.refreshKept(ctx); err != nil {
		return err
	}
	if err := l.checkKept(ctx, n); err != nil {
		return err
	}
	return fmt.Errorf("mongolog: entry %d is damaged: %s is missing", n, what)
}

// edge returns the entry of a segment with the smallest (order 1) or the greatest
// place (order -1), without guards and rows. It returns nil if there is none.
func (l *Log) edge(ctx context.Context, segment string, order int) (*entryDoc, error) {
	ctx, cancel := l.bounded(ctx)
	defer cancel()
	var d entryDoc
	err := l.strongly(segment).FindOne(ctx, bson.D{}, options.FindOne().
		SetSort(bson.D{{Key: "_id", Value: order}}).SetProjection(only("h"))).Decode(&d)
	if errors.Is(err, mongo.ErrNoDocuments) {
		return nil, nil
	}
	return &d, failure("reading the bounds of the log", err)
}

// Bounds implements sharedlog.Log.
func (l *Log) Bounds(ctx context.Context) (first, last uint64, err error) {
	if err := l.refreshKept(ctx); err != nil {
		return 0, 0, err
	}
	segments, err := l.segments(ctx)
	if err != nil {
		return 0, 0, err
	}
	kept := l.lastKept().first
	segments = slices.DeleteFunc(segments, func(s segmentInfo) bool { return s.end <= kept })
	if first, err = l.firstEdge(ctx, segments, 1); err != nil {
		return 0, 0, err
	}
	slices.Reverse(segments)
	last, err = l.firstEdge(ctx, segments, -1)
	return first, last, err
}

// firstEdge returns the edge of the first segment that has entries, or 0.
func (l *Log) firstEdge(ctx context.Context, segments []segmentInfo, order int) (uint64, error) {
	for _, s := range segments {
		d, err := l.edge(ctx, s.name, order)
		if err != nil {
			return 0, err
		}
		if d != nil {
			return index(d.ID)
		}
	}
	return 0, nil
}
