package mongolog

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"

	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/mongo"
	"go.mongodb.org/mongo-driver/v2/mongo/options"

	"pulsegate/fhir/store/sharedlog"
)

// partDoc is a piece of the rows of an entry.
type partDoc struct {
	ID   string `bson:"_id"` // see partID
	Data []byte `bson:"b"`
}

// partID returns the _id of a part: the place of its entry and its hash.
func partID(place string, sum []byte) string { return place + "-" + hex.EncodeToString(sum) }

// parsePartID returns the place and the hash of a part.
func parsePartID(id string) (n uint64, sum []byte, err error) {
	if len(id) == 16+1+2*sha256.Size && id[16] == '-' {
		if n, err = index(id[:16]); err == nil {
			sum, err = hex.DecodeString(id[17:])
		}
		if err == nil {
			return n, sum, nil
		}
	}
	return 0, nil, fmt.Errorf("mongolog: a part has the invalid _id %.100q", id)
}

// putPart stores a part durably. Its _id covers its content, so a part that is
// there already is the same one. It may still be on its way to a majority.
func (l *Log) putPart(ctx context.Context, id string, data []byte) error {
	const tries = 3
	for range tries {
		stored, err := l.tryPart(ctx, id, data)
		if err != nil {
			return failure("storing a part of an entry, which is not stored yet", err)
		}
		if stored {
			return nil
		}
	}
	return errors.New("mongolog: a part of an entry is removed again and again")
}

// tryPart stores a part, and reports false if it was there and was removed again.
func (l *Log) tryPart(ctx context.Context, id string, data []byte) (bool, error) {
	ctx, cancel := l.bounded(ctx)
	defer cancel()
	_, err := l.db.Collection("log_parts").InsertOne(ctx, partDoc{id, data})
	if !mongo.IsDuplicateKeyError(err) {
		return err == nil, err
	}
	err = l.strongly("log_parts").FindOne(ctx, byID(id), options.FindOne().SetProjection(only("_id"))).Err()
	if errors.Is(err, mongo.ErrNoDocuments) {
		return false, nil
	}
	return err == nil, err
}

// join reads the parts of the entry at n and returns its rows.
func (l *Log) join(ctx context.Context, n uint64, large *largeDoc) ([]byte, error) {
	damaged := fmt.Errorf("mongolog: entry %d is damaged: %w", n, errDamagedParts)
	if large.Size < 0 || large.Size > sharedlog.MaxRows {
		return nil, damaged
	}
	rows := make([]byte, 0, large.Size)
	for _, sum := range large.Parts {
		data, err := l.part(ctx, partID(place(n), sum))
		if errors.Is(err, mongo.ErrNoDocuments) {
			return nil, l.vanished(ctx, n, "a part")
		}
		if err != nil {
			return nil, failure(fmt.Sprintf("reading a part of entry %d", n), err)
		}
		if got := sha256.Sum256(data); string(got[:]) != string(sum) || len(rows)+len(data) > int(large.Size) {
			return nil, damaged
		}
		rows = append(rows, data...)
	}
	if len(rows) != int(large.Size) {
		return nil, damaged
	}
	return rows, nil
}

// part reads one part.
func (l *Log) part(ctx context.Context, id string) ([]byte, error) {
	ctx, cancel := l.bounded(ctx)
	defer cancel()
	var d partDoc
	err := l.db.Collection("log_parts").FindOne(ctx, byID(id)).Decode(&d)
	return d.Data, err
}

// Sweep removes the parts that no entry can name any more, because another entry
// is at their place, and returns their number. The snapshot role calls it.
func (l *Log) Sweep(ctx context.Context) (removed int, err error) {
	var parts []partDoc
	if err := l.all(ctx, l.db.Collection("log_parts"), bson.D{}, only("_id"), &parts); err != nil {
		return 0, err
	}
	var named [][]byte // of the entry at the place at
	var at uint64
	filled := false
	for _, p := range parts {
		n, sum, err := parsePartID(p.ID)
		if err != nil {
			return removed, err
		}
		if n != at {
			at = n
			if named, filled, err = l.namedParts(ctx, n); err != nil {
				return removed, err
			}
		}
		if !filled || slices.ContainsFunc(named, func(b []byte) bool { return string(b) == string(sum) }) {
			continue
		}
		bound, cancel := l.bounded(ctx)
		_, err = l.db.Collection("log_parts").DeleteOne(bound, byID(p.ID))
		cancel()
		if err != nil {
			return removed, failure("removing a part", err)
		}
		removed++
	}
	return removed, nil
}

// namedParts returns the hashes of the parts of the durable entry at n, and
// whether there is one.
func (l *Log) namedParts(ctx context.Context, n uint64) (named [][]byte, filled bool, err error) {
	ctx, cancel := l.bounded(ctx)
	defer cancel()
	var d entryDoc
	err = l.strongly(l.segmentName(n)).FindOne(ctx, byID(place(n)),
		options.FindOne().SetProjection(only("l.q"))).Decode(&d)
	if errors.Is(err, mongo.ErrNoDocuments) {
		return nil, false, nil
	}
	if err != nil {
		return nil, false, failure(fmt.Sprintf("reading the parts of entry %d", n), err)
	}
	if d.Large != nil {
		named = d.Large.Parts
	}
	return named, true, nil
}
