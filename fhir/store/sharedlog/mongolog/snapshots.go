package mongolog

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/mongo"

	"pulsegate/fhir/store/sharedlog"
)

const (
	// chunkSize is the size of a chunk of a file in bytes.
	chunkSize = 4 << 20
	// abandonedAfter is the age at which an upload that was not completed is removed,
	// and at which a complete file without a manifest is.
	abandonedAfter = 24 * time.Hour
	// maxManifest bounds a manifest in bytes.
	maxManifest = 12 << 20
)

// Snapshots keeps snapshots in the database of a log. It implements
// sharedlog.Snapshots.
type Snapshots struct {
	log                         *Log
	manifests, files, chunks    *mongo.Collection
	strongManifests, strongFile *mongo.Collection
	chunkSize                   int
}

var _ sharedlog.Snapshots = (*Snapshots)(nil)

// Snapshots returns the snapshots in the database of l. They need l to stay open.
func (l *Log) Snapshots() *Snapshots {
	return &Snapshots{
		log:             l,
		manifests:       l.db.Collection("snapshot_manifests"),
		files:           l.db.Collection("snapshot_files"),
		chunks:          l.db.Collection("snapshot_chunks"),
		strongManifests: l.strongly("snapshot_manifests"),
		strongFile:      l.strongly("snapshot_files"),
		chunkSize:       chunkSize,
	}
}

// manifestDoc is a manifest. Its _id is the SHA-256 of its encoding without the
// last two fields.
type manifestDoc struct {
	ID       string    `bson:"_id"`
	Cluster  []byte    `bson:"cluster"`
	Epoch    int64     `bson:"epoch"`
	Schema   int64     `bson:"schema"`
	Index    int64     `bson:"index"`
	Last     []byte    `bson:"last"`
	Valid    []byte    `bson:"valid"`
	Created  int64     `bson:"created"` // Unix time in nanoseconds, or 0
	Node     string    `bson:"node"`
	Files    []fileRef `bson:"files"`
	Complete bool      `bson:"complete"`
	Seen     time.Time `bson:"seen"` // by the clock of the primary
}

// fileRef is a file in a manifest.
type fileRef struct {
	Name string `bson:"n"`
	Sum  []byte `bson:"h"`
	Size int64  `bson:"z"`
}

// uploadDoc is an upload of a file. Its _id is the hash of the file and a random
// number, so that two processes can upload the same file at the same time. The
// _id of each chunk is that of the upload and a number.
type uploadDoc struct {
	ID       string    `bson:"_id"`
	Size     int64     `bson:"size"`
	Complete bool      `bson:"complete"`
	Dead     bool      `bson:"dead"` // being removed: its chunks may be missing
	Seen     time.Time `bson:"seen"` // by the clock of the primary
}

// chunkDoc is a piece of a file.
type chunkDoc struct {
	ID   string `bson:"_id"`
	Data []byte `bson:"b"`
}

func chunkID(upload string, n int) string { return fmt.Sprintf("%s-%08x", upload, n) }

// encodeManifest returns the document of m.
func encodeManifest(m *sharedlog.Manifest) (*manifestDoc, error) {
	d := &manifestDoc{
		Cluster: m.Cluster[:], Epoch: int64(m.Epoch), Schema: int64(m.Schema),
		Index: int64(m.At.Index), Last: m.At.Last[:], Valid: m.At.Valid[:],
		Node: m.Node, Files: []fileRef{},
	}
	if !m.Created.IsZero() {
		d.Created = m.Created.UnixNano()
	}
	for _, f := range m.Files {
		if f.Size < 0 {
			return nil, fmt.Errorf("mongolog: the file %.80q of a snapshot has a negative size", f.Name)
		}
		d.Files = append(d.Files, fileRef{f.Name, f.Sum[:], f.Size})
	}
	b, err := bson.Marshal(d)
	if err != nil {
		return nil, fmt.Errorf("mongolog: encoding a manifest: %w", err)
	}
	if len(b) > maxManifest {
		return nil, fmt.Errorf("mongolog: a manifest of %d bytes, at most %d: %w", len(b), maxManifest,
			sharedlog.ErrTooLarge)
	}
	sum := sha256.Sum256(b)
	d.ID = hex.EncodeToString(sum[:])
	return d, nil
}

// decode returns the manifest of d, after checking that d has its hash.
func (d *manifestDoc) decode() (*sharedlog.Manifest, error) {
	m := &sharedlog.Manifest{Node: d.Node}
	if d.Created != 0 {
		m.Created = time.Unix(0, d.Created).UTC()
	}
	m.Epoch, m.Schema, m.At.Index = uint64(d.Epoch), uint32(d.Schema), uint64(d.Index)
	copy(m.Cluster[:], d.Cluster)
	copy(m.At.Last[:], d.Last)
	copy(m.At.Valid[:], d.Valid)
	for _, f := range d.Files {
		r := sharedlog.File{Name: f.Name, Size: f.Size}
		copy(r.Sum[:], f.Sum)
		m.Files = append(m.Files, r)
	}
	again, err := encodeManifest(m)
	if err != nil || again.ID != d.ID {
		return nil, fmt.Errorf("mongolog: the manifest %.64s is damaged: it does not have its hash", d.ID)
	}
	return m, nil
}

// Put implements sharedlog.Snapshots. The manifest is stored first, marked as
// incomplete: from then on, Remove keeps its files.
func (s *Snapshots) Put(ctx context.Context, m *sharedlog.Manifest,
	open func(f sharedlog.File) (io.ReadCloser, error)) error {
	d, err := encodeManifest(m)
	if err != nil {
		return err
	}
	if d.Seen, _, err = s.log.ServerTime(ctx); err != nil {
		return err
	}
	bound, cancel := s.log.bounded(ctx)
	_, err = s.manifests.InsertOne(bound, d)
	cancel()
	if err != nil && !mongo.IsDuplicateKeyError(err) {
		return failure("storing a manifest", err)
	}
	for _, f := range m.Files {
		if err := s.putFile(ctx, f, open); err != nil {
			return err
		}
		if err := s.mark(ctx, s.manifests, d.ID, bson.D{}); err != nil {
			return err
		}
	}
	return s.mark(ctx, s.manifests, d.ID, bson.D{{Key: "complete", Value: true}})
}

// errCollected reports that Remove collected what seemed abandoned.
var errCollected = errors.New("mongolog: it took too long to store a snapshot, and it was removed")

// mark updates the time at which a manifest or an upload was last seen, and fields.
// It fails if the document was removed.
func (s *Snapshots) mark(ctx context.Context, c *mongo.Collection, id string, fields bson.D) error {
	now, _, err := s.log.ServerTime(ctx)
	if err != nil {
		return err
	}
	ctx, cancel := s.log.bounded(ctx)
	defer cancel()
	alive := bson.E{Key: "dead", Value: bson.D{{Key: "$ne", Value: true}}}
	res, err := c.UpdateOne(ctx, append(byID(id), alive),
		bson.D{{Key: "$set", Value: append(bson.D{{Key: "seen", Value: now}}, fields...)}})
	if err != nil {
		return failure("updating "+c.Name(), err)
	}
	if res.MatchedCount == 0 {
		return errCollected
	}
	return nil
}

// uploads returns the uploads of a file.
func (s *Snapshots) uploads(ctx context.Context, sum sharedlog.Hash) (out []uploadDoc, err error) {
	prefix := hex.EncodeToString(sum[:])
	err = s.log.all(ctx, s.strongFile, between(prefix+"-", prefix+"."), nil, &out)
	return out, err
}

// putFile stores a file that is not stored yet.
func (s *Snapshots) putFile(ctx context.Context, f sharedlog.File,
	open func(f sharedlog.File) (io.ReadCloser, error)) error {
	have, err := s.uploads(ctx, f.Sum)
	if err != nil {
		return err
	}
	for _, u := range have {
		if !u.Complete {
			continue
		}
		if u.Size != f.Size {
			return fmt.Errorf("mongolog: the file %.80q has %d bytes, and is stored with %d", f.Name, f.Size, u.Size)
		}
		err := s.mark(ctx, s.files, u.ID, bson.D{})
		if !errors.Is(err, errCollected) {
			return err
		}
	}
	u := uploadDoc{ID: hex.EncodeToString(f.Sum[:]) + "-" + rand.Text(), Size: f.Size}
	if u.Seen, _, err = s.log.ServerTime(ctx); err != nil {
		return err
	}
	bound, cancel := s.log.bounded(ctx)
	_, err = s.files.InsertOne(bound, u)
	cancel()
	if err != nil {
		return failure("storing a file of a snapshot", err)
	}
	err = s.upload(ctx, u.ID, f, open)
	if err == nil {
		err = s.verify(ctx, u.ID, f)
	}
	if err == nil {
		err = s.mark(ctx, s.files, u.ID, bson.D{{Key: "complete", Value: true}})
	}
	if err != nil {
		// If this fails, Remove removes the rest after a day. If Remove has already
		// collected the upload, only this call knows of chunks that came later.
		ctx := context.WithoutCancel(ctx)
		_ = s.discard(ctx, byID(u.ID))
		_ = s.deleteChunks(ctx, u.ID)
	}
	return err
}

// upload stores the chunks of a file, and checks its size and its hash.
func (s *Snapshots) upload(ctx context.Context, id string, f sharedlog.File,
	open func(f sharedlog.File) (io.ReadCloser, error)) error {
	r, err := open(f)
	if err != nil {
		return fmt.Errorf("mongolog: opening the file %.80q of a snapshot: %w", f.Name, err)
	}
	defer func() { _ = r.Close() }()
	h := sha256.New()
	buf := make([]byte, s.chunkSize)
	size := int64(0)
	for n := 0; ; n++ {
		got, err := io.ReadFull(r, buf)
		if got > 0 {
			size += int64(got)
			if size > f.Size {
				return fmt.Errorf("mongolog: the file %.80q has more than %d bytes", f.Name, f.Size)
			}
			h.Write(buf[:got])
			bound, cancel := s.log.bounded(ctx)
			_, err := s.chunks.InsertOne(bound, chunkDoc{chunkID(id, n), buf[:got]})
			cancel()
			if err != nil {
				return failure("storing a chunk of a file", err)
			}
		}
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			break
		}
		if err != nil {
			return fmt.Errorf("mongolog: reading the file %.80q of a snapshot: %w", f.Name, err)
		}
	}
	if size != f.Size || sharedlog.Hash(h.Sum(nil)) != f.Sum {
		return fmt.Errorf("mongolog: the file %.80q does not have the size and the hash of the manifest", f.Name)
	}
	return nil
}

// verify reads back an upload.
func (s *Snapshots) verify(ctx context.Context, id string, f sharedlog.File) error {
	r := s.reader(ctx, uploadDoc{ID: id, Size: f.Size}, f.Sum)
	if _, err := io.Copy(io.Discard, r); err != nil {
		return fmt.Errorf("mongolog: reading back the file %.80q: %w", f.Name, err)
	}
	return nil
}

// List implements sharedlog.Snapshots. A snapshot of a later epoch is newer, then
// one of a later position, then one of a later time.
func (s *Snapshots) List(ctx context.Context) ([]*sharedlog.Manifest, error) {
	var docs []manifestDoc
	err := s.log.all(ctx, s.strongManifests, bson.D{{Key: "complete", Value: true}}, nil, &docs)
	if err != nil {
		return nil, err
	}
	var out []*sharedlog.Manifest
	for i := range docs {
		m, err := docs[i].decode()
		if err != nil {
			return nil, err
		}
		out = append(out, m)
	}
	slices.SortFunc(out, func(a, b *sharedlog.Manifest) int {
		return cmp.Or(cmp.Compare(b.Epoch, a.Epoch), cmp.Compare(b.At.Index, a.At.Index), b.Created.Compare(a.Created))
	})
	return out, nil
}

// Open implements sharedlog.Snapshots. It keeps one chunk in memory.
func (s *Snapshots) Open(ctx context.Context, sum sharedlog.Hash) (io.ReadCloser, error) {
	have, err := s.uploads(ctx, sum)
	if err != nil {
		return nil, err
	}
	for _, u := range have {
		if u.Complete {
			return s.reader(ctx, u, sum), nil
		}
	}
	return nil, fmt.Errorf("mongolog: the file %x of a snapshot is not stored", sum)
}

// reader returns the content of an upload.
func (s *Snapshots) reader(ctx context.Context, u uploadDoc, sum sharedlog.Hash) io.ReadCloser {
	return &fileReader{ctx: ctx, snapshots: s, upload: u, sum: sum, left: u.Size, digest: sha256.New()}
}
