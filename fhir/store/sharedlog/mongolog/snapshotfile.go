package mongolog

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"

	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/mongo"

	"pulsegate/fhir/store/sharedlog"
)

// fileReader reads an upload, chunk by chunk. It reports the end only if the
// content has the size and the hash. It is not safe for concurrent use.
type fileReader struct {
	ctx       context.Context // of Open: it ends the reader
	snapshots *Snapshots
	upload    uploadDoc
	sum       sharedlog.Hash

	number int    // of the next chunk
	chunk  []byte // the rest of the current one
	left   int64  // bytes in the chunks that were not read yet
	digest hash.Hash
	err    error
}

// Read implements io.Reader.
func (r *fileReader) Read(b []byte) (int, error) {
	for len(r.chunk) == 0 && r.err == nil {
		r.chunk, r.err = r.next()
	}
	if len(r.chunk) == 0 {
		return 0, r.err
	}
	n := copy(b, r.chunk)
	r.chunk = r.chunk[n:]
	return n, nil
}

// next reads a chunk. At the end of the file it checks the hash and returns io.EOF.
func (r *fileReader) next() ([]byte, error) {
	damaged := fmt.Errorf("mongolog: the file %x of a snapshot is damaged", r.sum)
	if r.left == 0 {
		if sharedlog.Hash(r.digest.Sum(nil)) != r.sum {
			return nil, damaged
		}
		return nil, io.EOF
	}
	ctx, cancel := r.snapshots.log.bounded(r.ctx)
	defer cancel()
	var d chunkDoc
	err := r.snapshots.chunks.FindOne(ctx, byID(chunkID(r.upload.ID, r.number))).Decode(&d)
	if errors.Is(err, mongo.ErrNoDocuments) {
		return nil, fmt.Errorf("mongolog: chunk %d of the file %x of a snapshot is missing", r.number, r.sum)
	}
	if err != nil {
		return nil, failure("reading a chunk of a file", err)
	}
	if len(d.Data) == 0 || int64(len(d.Data)) > r.left {
		return nil, damaged
	}
	r.digest.Write(d.Data)
	r.left -= int64(len(d.Data))
	r.number++
	return d.Data, nil
}

// Close implements io.Closer.
func (r *fileReader) Close() error {
	r.chunk, r.err = nil, errors.New("mongolog: the file is closed")
	return nil
}

// Remove implements sharedlog.Snapshots. It also removes what calls of Put left
// behind that did not complete within a day.
func (s *Snapshots) Remove(ctx context.Context, m *sharedlog.Manifest) error {
	d, err := encodeManifest(m)
	if err != nil {
		return err
	}
	now, _, err := s.log.ServerTime(ctx) // before the manifests are read: see collect
	if err != nil {
		return err
	}
	old := bson.E{Key: "seen", Value: bson.D{{Key: "$lt", Value: now.Add(-abandonedAfter)}}}
	err = s.delete(ctx, s.manifests, byID(d.ID))
	if err == nil {
		err = s.delete(ctx, s.manifests, bson.D{{Key: "complete", Value: false}, old})
	}
	if err != nil {
		return err
	}
	return s.collect(ctx, old)
}

// collect removes old files that no manifest names. A Put that counts on a file
// has stored its manifest, and then updated the time at which the file was seen.
// If that came after the list of manifests was read here, the file is not old.
func (s *Snapshots) collect(ctx context.Context, old bson.E) error {
	var manifests []manifestDoc
	if err := s.log.all(ctx, s.strongManifests, bson.D{}, nil, &manifests); err != nil {
		return err
	}
	named := map[string]bool{}
	for _, m := range manifests {
		for _, f := range m.Files {
			named[hex.EncodeToString(f.Sum)] = true
		}
	}
	var uploads []uploadDoc
	dead := bson.D{{Key: "dead", Value: true}}
	for _, filter := range []bson.D{{old}, dead} {
		var some []uploadDoc
		if err := s.log.all(ctx, s.strongFile, filter, nil, &some); err != nil {
			return err
		}
		uploads = append(uploads, some...)
	}
	for _, u := range uploads {
		if u.Complete && len(u.ID) > 2*len(sharedlog.Hash{}) && named[u.ID[:2*len(sharedlog.Hash{})]] {
			continue
		}
		filter := append(byID(u.ID), bson.E{Key: "complete", Value: u.Complete}, old)
		if u.Dead {
			filter = byID(u.ID)
		}
		if err := s.discard(ctx, filter); err != nil {
			return err
		}
	}
	return nil
}

// discard removes the upload that matches a filter, if any. It is marked first, so
// that a Put that stopped for long cannot complete it, and so that the next Remove
// goes on if this one is interrupted.
func (s *Snapshots) discard(ctx context.Context, filter bson.D) error {
	id, _ := filter[0].Value.(string)
	bound, cancel := s.log.bounded(ctx)
	defer cancel()
	res, err := s.files.UpdateOne(bound, filter, bson.D{{Key: "$set",
		Value: bson.D{{Key: "dead", Value: true}, {Key: "complete", Value: false}}}})
	if err != nil {
		return failure("removing a file", err)
	}
	if res.MatchedCount == 0 {
		return nil
	}
	if err := s.deleteChunks(ctx, id); err != nil {
		return err
	}
	return s.delete(ctx, s.files, byID(id))
}

// deleteChunks removes the chunks of an upload that is marked as dead.
func (s *Snapshots) deleteChunks(ctx context.Context, id string) error {
	return s.delete(ctx, s.chunks, between(id+"-", id+"."))
}

// delete removes the documents that match a filter.
func (s *Snapshots) delete(ctx context.Context, c *mongo.Collection, filter bson.D) error {
	ctx, cancel := s.log.bounded(ctx)
	defer cancel()
	_, err := c.DeleteMany(ctx, filter)
	return failure("removing from "+c.Name(), err)
}
