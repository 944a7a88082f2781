package mongolog

import (
	"context"
	"encoding/hex"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/mongo"

	"pulsegate/fhir/store/sharedlog"
	"pulsegate/fhir/store/sharedlog/logtest"
)

// TestSuite runs the suite of sharedlog.
func TestSuite(t *testing.T) {
	logtest.Run(t, func(t *testing.T) *logtest.Server {
		o := testOptions(t)
		var passed atomic.Int64
		o.shift = func() time.Duration { return time.Duration(passed.Load()) }
		admin := openLog(t, o)
		return &logtest.Server{
			Client:    func() (sharedlog.Log, error) { return Open(t.Context(), o) },
			Snapshots: func() (sharedlog.Snapshots, error) { return openLog(t, o).Snapshots(), nil },
			Backup:    func(ctx context.Context) (func() error, error) { return backup(ctx, admin.db) },
			TamperEntry: func(index uint64) error {
				return set(t.Context(), admin.db.Collection(admin.segmentName(index)), place(index),
					bson.D{{Key: "b", Value: random(100)}})
			},
			TamperFile: func(sum sharedlog.Hash) error { return tamperFile(t.Context(), admin.db, sum) },
			Pass:       func(d time.Duration) { passed.Add(int64(d)) },
		}
	})
}

// set changes fields of one document.
func set(ctx context.Context, c *mongo.Collection, id string, fields bson.D) error {
	res, err := c.UpdateOne(ctx, byID(id), bson.D{{Key: "$set", Value: fields}})
	if err == nil && res.MatchedCount != 1 {
		err = errors.New("no such document")
	}
	return err
}

// tamperFile flips a bit of the first chunk of a file.
func tamperFile(ctx context.Context, db *mongo.Database, sum sharedlog.Hash) error {
	chunks := db.Collection("snapshot_chunks")
	prefix := hex.EncodeToString(sum[:])
	var d chunkDoc
	if err := chunks.FindOne(ctx, between(prefix+"-", prefix+".")).Decode(&d); err != nil {
		return err
	}
	d.Data[len(d.Data)/2] ^= 1
	return set(ctx, chunks, d.ID, bson.D{{Key: "b", Value: d.Data}})
}

// backup copies the documents of a database. The function that it returns puts
// them back, and removes all others.
func backup(ctx context.Context, db *mongo.Database) (func() error, error) {
	names, err := db.ListCollectionNames(ctx, bson.D{})
	if err != nil {
		return nil, err
	}
	saved := map[string][]bson.Raw{}
	for _, name := range names {
		c, err := db.Collection(name).Find(ctx, bson.D{})
		if err != nil {
			return nil, err
		}
		var docs []bson.Raw
		if err := c.All(ctx, &docs); err != nil {
			return nil, err
		}
		saved[name] = docs
	}
	return func() error {
		names, err := db.ListCollectionNames(ctx, bson.D{})
		if err != nil {
			return err
		}
		for _, name := range names {
			if err := db.Collection(name).Drop(ctx); err != nil {
				return err
			}
		}
		for name, docs := range saved {
			if len(docs) == 0 {
				continue
			}
			if _, err := db.Collection(name).InsertMany(ctx, docs); err != nil {
				return err
			}
		}
		return nil
	}, nil
}
