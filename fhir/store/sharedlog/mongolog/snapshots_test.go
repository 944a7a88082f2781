package mongolog

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"sync"
	"testing"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/mongo"

	"pulsegate/fhir/store/sharedlog"
)

// smallChunks is the size of chunks in tests.
const smallChunks = 1000

// manifest returns a manifest of files with these contents.
func manifest(n int, files ...[]byte) (*sharedlog.Manifest, contents) {
	m := &sharedlog.Manifest{Node: "a", Created: start.Add(time.Duration(n)*time.Hour + 123)}
	m.Epoch, m.At.Index = 1, uint64(n)
	c := contents{}
	for i, b := range files {
		f := sharedlog.File{Name: fmt.Sprintf("%06d.sst", i), Sum: sha256.Sum256(b), Size: int64(len(b))}
		m.Files = append(m.Files, f)
		c[f.Sum] = b
	}
	return m, c
}

// openSnapshots opens snapshots with small chunks. Time passes as shift says.
func openSnapshots(t testing.TB, o Options, shift *time.Duration) *Snapshots {
	t.Helper()
	if shift != nil {
		o.shift = func() time.Duration { return *shift }
	}
	s := openLog(t, o).Snapshots()
	s.chunkSize = smallChunks
	return s
}

// count returns the number of documents.
func count(t testing.TB, c *mongo.Collection) int {
	t.Helper()
	n, err := c.CountDocuments(t.Context(), bson.D{})
	if err != nil {
		t.Fatal(err)
	}
	return int(n)
}

// content reads a file.
func content(t testing.TB, s *Snapshots, sum sharedlog.Hash) ([]byte, error) {
	t.Helper()
	r, err := s.Open(t.Context(), sum)
	if err != nil {
		return nil, err
	}
	b, err := io.ReadAll(r)
	return b, errors.Join(err, r.Close())
}

// TestChunks stores files around the size of a chunk, and damages each chunk.
func TestChunks(t *testing.T) {
	s := openSnapshots(t, testOptions(t), nil)
	files := [][]byte{nil}
	for _, n := range []int{1, smallChunks - 1, smallChunks, smallChunks + 1, 3 * smallChunks} {
		files = append(files, random(n))
	}
	m, open := manifest(1, files...)
	if err := s.Put(t.Context(), m, open.open); err != nil {
		t.Fatal(err)
	}
	if n := count(t, s.chunks); n != 0+1+1+1+2+3 {
		t.Errorf("%d chunks", n)
	}
	for _, f := range m.Files {
		got, err := content(t, s, f.Sum)
		if err != nil || !bytes.Equal(got, open[f.Sum]) {
			t.Errorf("%d bytes, %v, want %d", len(got), err, f.Size)
		}
		r, err := s.Open(t.Context(), f.Sum)
		if err != nil {
			t.Fatal(err)
		}
		if err := r.Close(); err != nil {
			t.Error(err)
		}
		if n, err := r.Read(make([]byte, 1)); n != 0 || err == nil || errors.Is(err, io.EOF) {
			t.Errorf("after Close: %d bytes, %v", n, err)
		}
	}
	sum := m.Files[5].Sum
	var docs []chunkDoc
	have, err := s.uploads(t.Context(), sum)
	if err != nil || len(have) != 1 {
		t.Fatal(len(have), err)
	}
	if err := s.log.all(t.Context(), s.chunks, between(have[0].ID, have[0].ID+"."), nil, &docs); err != nil ||
		len(docs) != 3 {
		t.Fatal(len(docs), err)
	}
	for _, d := range docs {
		flipped := bytes.Clone(d.Data)
		flipped[0] ^= 1
		for _, data := range [][]byte{flipped, d.Data[1:], append(bytes.Clone(d.Data), 0), nil} {
			update(t, s.chunks, d.ID, bson.D{{Key: "b", Value: data}})
			if _, err := content(t, s, sum); err == nil {
				t.Errorf("a chunk of %d bytes in place of %d is accepted", len(data), len(d.Data))
			}
		}
		update(t, s.chunks, d.ID, bson.D{{Key: "b", Value: d.Data}})
		if _, err := s.chunks.DeleteOne(t.Context(), byID(d.ID)); err != nil {
			t.Fatal(err)
		}
		if _, err := content(t, s, sum); err == nil {
			t.Error("a file without one of its chunks is read")
		}
		if _, err := s.chunks.InsertOne(t.Context(), d); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := content(t, s, sum); err != nil || !bytes.Equal(got, files[5]) {
		t.Errorf("the file: %v", err)
	}
}

// TestDamagedManifest changes the fields of a manifest. List must fail.
func TestDamagedManifest(t *testing.T) {
	s := openSnapshots(t, testOptions(t), nil)
	m, open := manifest(1, random(10), random(20))
	if err := s.Put(t.Context(), m, open.open); err != nil {
		t.Fatal(err)
	}
	d, err := encodeManifest(m)
	if err != nil {
		t.Fatal(err)
	}
	for name, value := range map[string]any{
		"cluster": random(16), "epoch": int64(2), "schema": int64(2), "index": int64(9), "last": random(32),
		"valid": random(32), "created": int64(5), "node": "b", "files": d.Files[:1],
	} {
		var raw bson.M
		if err := s.manifests.FindOne(t.Context(), byID(d.ID)).Decode(&raw); err != nil {
			t.Fatal(err)
		}
		update(t, s.manifests, d.ID, bson.D{{Key: name, Value: value}})
		if _, err := s.List(t.Context()); err == nil {
			t.Errorf("another %s is accepted", name)
		}
		if _, err := s.manifests.ReplaceOne(t.Context(), byID(d.ID), raw); err != nil {
			t.Fatal(err)
		}
	}
	got, err := s.List(t.Context())
	if err != nil || len(got) != 1 || !got[0].Created.Equal(m.Created) {
		t.Errorf("%v, %v", got, err)
	}
}

// TestOversleptPut stops a Put for more than a day while it uploads a file. Remove
// collects the upload, and the Put fails.
func TestOversleptPut(t *testing.T) {
	o := testOptions(t)
	var shift time.Duration
	s := openSnapshots(t, o, &shift)
	old, oldFiles := manifest(1, random(100))
	if err := s.Put(t.Context(), old, oldFiles.open); err != nil {
		t.Fatal(err)
	}
	m, open := manifest(2, random(2*smallChunks))
	err := s.Put(t.Context(), m, func(f sharedlog.File) (io.ReadCloser, error) {
		shift += abandonedAfter + time.Second
		if err := s.Remove(t.Context(), old); err != nil {
			t.Error(err)
		}
		return open.open(f)
	})
	if !errors.Is(err, errCollected) {
		t.Errorf("Put: %v, want errCollected", err)
	}
	if got, err := s.List(t.Context()); err != nil || len(got) != 0 {
		t.Errorf("%d snapshots, %v", len(got), err)
	}
	shift += abandonedAfter + time.Second
	if err := s.Remove(t.Context(), old); err != nil {
		t.Fatal(err)
	}
	if n := count(t, s.files); n != 0 {
		t.Errorf("%d files remain", n)
	}
	if n := count(t, s.chunks); n != 0 {
		t.Errorf("%d chunks remain", n)
	}
	if err := s.Put(t.Context(), m, open.open); err != nil {
		t.Errorf("Put again: %v", err)
	}
}

// TestInterruptedRemoval continues a removal that marked an upload and stopped.
func TestInterruptedRemoval(t *testing.T) {
	s := openSnapshots(t, testOptions(t), nil)
	m, open := manifest(1, random(2*smallChunks))
	if err := s.Put(t.Context(), m, open.open); err != nil {
		t.Fatal(err)
	}
	have, err := s.uploads(t.Context(), m.Files[0].Sum)
	if err != nil || len(have) != 1 {
		t.Fatal(len(have), err)
	}
	update(t, s.files, have[0].ID, bson.D{{Key: "dead", Value: true}, {Key: "complete", Value: false}})
	if _, err := s.Open(t.Context(), m.Files[0].Sum); err == nil {
		t.Error("a file that is being removed is opened")
	}
	other, _ := manifest(2)
	if err := s.Remove(t.Context(), other); err != nil {
		t.Fatal(err)
	}
	if n, k := count(t, s.files), count(t, s.chunks); n != 0 || k != 0 {
		t.Errorf("%d files and %d chunks remain", n, k)
	}
}

// TestPutAtOnce lets processes store snapshots that share a file at the same time.
func TestPutAtOnce(t *testing.T) {
	o := testOptions(t)
	common := random(3*smallChunks + 1)
	var all sync.WaitGroup
	for i := range 4 {
		s := openSnapshots(t, o, nil)
		m, open := manifest(i, common, random(10))
		all.Go(func() {
			if err := s.Put(t.Context(), m, open.open); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	s := openSnapshots(t, o, nil)
	if got, err := s.List(t.Context()); err != nil || len(got) != 4 || got[0].At.Index != 3 {
		t.Errorf("%d snapshots, %v", len(got), err)
	}
	if got, err := content(t, s, sha256.Sum256(common)); err != nil || !bytes.Equal(got, common) {
		t.Errorf("the common file: %v", err)
	}
}

// TestManifestLimit refuses a manifest that does not fit into a document.
func TestManifestLimit(t *testing.T) {
	m := &sharedlog.Manifest{Files: make([]sharedlog.File, 250_000)}
	if _, err := encodeManifest(m); !errors.Is(err, sharedlog.ErrTooLarge) {
		t.Errorf("%v, want ErrTooLarge", err)
	}
	m.Files = m.Files[:100_000]
	if _, err := encodeManifest(m); err != nil {
		t.Error(err)
	}
	m.Files = []sharedlog.File{{Size: -1}}
	if _, err := encodeManifest(m); err == nil {
		t.Error("a negative size is accepted")
	}
}
