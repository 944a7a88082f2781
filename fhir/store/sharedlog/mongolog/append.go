package mongolog

import (
	"context"
	"errors"
	"fmt"

	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/mongo"
	"go.mongodb.org/mongo-driver/v2/mongo/options"

	"pulsegate/fhir/store/sharedlog"
)

// segmentName returns the name of the collection that holds the place index.
func (l *Log) segmentName(index uint64) string {
	return fmt.Sprintf("%s%012x", segmentPrefix, index/l.segment)
}

// segmentStart returns the first place of the segment of index.
func (l *Log) segmentStart(index uint64) uint64 { return index &^ (l.segment - 1) }

// Append implements sharedlog.Log. It returns ErrTruncated if the place is no
// longer kept: an entry was there, and may have been this one.
func (l *Log) Append(ctx context.Context, e *sharedlog.Entry) error {
	start := l.opt.Clock()
	err := l.append(ctx, e)
	l.meters.appended(ctx, len(e.Rows), l.opt.Clock().Sub(start), err)
	return err
}

func (l *Log) append(ctx context.Context, e *sharedlog.Entry) error {
	sum := e.Sum()
	doc, parts, err := encode(e, sum, l.inline)
	if err != nil {
		return err
	}
	if err := l.checkKept(ctx, e.Index); err != nil {
		return err
	}
	for i, p := range parts {
		if err := l.putPart(ctx, partID(doc.ID, doc.Large.Parts[i]), p); err != nil {
			return err
		}
	}
	bound, cancel := l.bounded(ctx)
	defer cancel()
	_, err = l.db.Collection(l.segmentName(e.Index)).InsertOne(bound, doc)
	if mongo.IsDuplicateKeyError(err) {
		if err := l.compare(ctx, e, sum); err != nil {
			return err
		}
	} else if err != nil {
		return failure(fmt.Sprintf("appending entry %d, which may or may not be stored", e.Index), err)
	}
	return l.checkKept(ctx, e.Index)
}

// compare returns nil if e is at its place and durable, and ErrTaken if another
// entry is there.
func (l *Log) compare(ctx context.Context, e *sharedlog.Entry, sum sharedlog.Hash) error {
	ctx, cancel := l.bounded(ctx)
	defer cancel()
	var there struct {
		Nonce []byte `bson:"n"`
		Hash  []byte `bson:"h"`
	}
	err := l.strongly(l.segmentName(e.Index)).FindOne(ctx, byID(place(e.Index)),
		options.FindOne().SetProjection(only("n", "h"))).Decode(&there)
	if err != nil {
		return failure(fmt.Sprintf("reading the entry at the place %d, which is taken", e.Index), err)
	}
	if string(there.Nonce) != string(e.Nonce[:]) {
		return sharedlog.ErrTaken
	}
	if stored, ok := toHash(there.Hash); !ok || stored != sum {
		return fmt.Errorf("mongolog: another entry with the same nonce is at the place %d", e.Index)
	}
	return nil
}

// identityDoc is an identity of the cluster. Its _id is a number as 16 hex
// digits, and the identity with the greatest counts.
type identityDoc struct {
	ID      string `bson:"_id"`
	Cluster []byte `bson:"cluster"`
	Epoch   int64  `bson:"epoch"`
	Schema  int64  `bson:"schema"`
}

// latest returns the options of a query for the document with the greatest _id.
func latest() *options.FindOneOptionsBuilder {
	return options.FindOne().SetSort(bson.D{{Key: "_id", Value: -1}})
}

// identity returns the identity and its number.
func (l *Log) identity(ctx context.Context) (id sharedlog.Identity, number uint64, err error) {
	ctx, cancel := l.bounded(ctx)
	defer cancel()
	var d identityDoc
	err = l.strongly("log_identity").FindOne(ctx, bson.D{}, latest()).Decode(&d)
	if errors.Is(err, mongo.ErrNoDocuments) {
		return id, 0, nil
	}
	if err != nil {
		return id, 0, failure("reading the identity of the cluster", err)
	}
	if number, err = index(d.ID); err != nil {
		return id, 0, err
	}
	if len(d.Cluster) != len(id.Cluster) {
		return id, 0, errors.New("mongolog: the identity of the cluster is damaged")
	}
	id = sharedlog.Identity{Epoch: uint64(d.Epoch), Schema: uint32(d.Schema)}
	copy(id.Cluster[:], d.Cluster)
	return id, number, nil
}

// Identity implements sharedlog.Log.
func (l *Log) Identity(ctx context.Context) (sharedlog.Identity, error) {
	id, _, err := l.identity(ctx)
	return id, err
}

// SetIdentity implements sharedlog.Log.
func (l *Log) SetIdentity(ctx context.Context, old, now sharedlog.Identity) (bool, error) {
	id, number, err := l.identity(ctx)
	if err != nil || id != old {
		return false, err
	}
	ctx, cancel := l.bounded(ctx)
	defer cancel()
	_, err = l.db.Collection("log_identity").InsertOne(ctx, identityDoc{
		ID: place(number + 1), Cluster: now.Cluster[:], Epoch: int64(now.Epoch), Schema: int64(now.Schema),
	})
	if mongo.IsDuplicateKeyError(err) {
		return false, nil
	}
	return err == nil, failure("replacing the identity of the cluster", err)
}
