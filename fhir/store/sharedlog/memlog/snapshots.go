package memlog

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"maps"
	"slices"
	"time"

	"pulsegate/fhir/store/sharedlog"
)

// retention is the time for which a Put may count on a file that no snapshot needs.
const retention = 24 * time.Hour

// archive holds the snapshots. Its files are immutable.
type archive struct {
	manifests []*sharedlog.Manifest // the last one that was put is first
	files     map[sharedlog.Hash]file
}

type file struct {
	content []byte
	put     time.Time // the last time that a Put stored it or found it
}

func newArchive() archive { return archive{files: map[sharedlog.Hash]file{}} }

func (a *archive) clone() archive { return archive{slices.Clone(a.manifests), maps.Clone(a.files)} }

// Snapshots are the snapshots as one process reaches them.
type Snapshots struct{ client *Client }

var _ sharedlog.Snapshots = Snapshots{}

// Snapshots returns the snapshots, over the connection of the client.
func (c *Client) Snapshots() Snapshots { return Snapshots{c} }

// TamperFile changes a byte of a file. It reports whether there is such a file, and it
// is not empty.
func (c *Cluster) TamperFile(sum sharedlog.Hash) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	f := c.archive.files[sum]
	if len(f.content) == 0 {
		return false
	}
	f.content = tampered(f.content)
	c.archive.files[sum] = f
	return true
}

// Files returns the number of files that are stored.
func (c *Cluster) Files() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.archive.files)
}

// Put implements sharedlog.Snapshots.
func (s Snapshots) Put(ctx context.Context, m *sharedlog.Manifest,
	open func(f sharedlog.File) (io.ReadCloser, error)) error {

	c := s.client.cluster
	for _, f := range m.Files {
		err := s.client.call(ctx, OpPutFile, nil, func() error {
			if c.touch(f.Sum) {
				return nil
			}
			content, err := load(f, open)
			if err != nil {
				return err
			}
			c.mu.Lock()
			defer c.mu.Unlock()
			c.archive.files[f.Sum] = file{content, c.options.Now()}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return s.client.call(ctx, OpPutManifest, nil, func() error {
		stored := *m
		stored.Files = slices.Clone(m.Files)
		c.mu.Lock()
		defer c.mu.Unlock()
		for _, f := range m.Files {
			if _, ok := c.archive.files[f.Sum]; !ok {
				return fmt.Errorf("memlog: file %q was removed", f.Name)
			}
		}
		if !slices.ContainsFunc(c.archive.manifests, func(o *sharedlog.Manifest) bool { return same(o, m) }) {
			c.archive.manifests = slices.Insert(c.archive.manifests, 0, &stored)
		}
		return nil
	})
}

// touch reports whether a file is stored, and keeps it for the retention.
func (c *Cluster) touch(sum sharedlog.Hash) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	f, ok := c.archive.files[sum]
	if ok {
		f.put = c.options.Now()
		c.archive.files[sum] = f
	}
	return ok
}

// load reads and verifies a file.
func load(f sharedlog.File, open func(f sharedlog.File) (io.ReadCloser, error)) ([]byte, error) {
	r, err := open(f)
	if err != nil {
		return nil, err
	}
	content, err := io.ReadAll(io.LimitReader(r, f.Size+1))
	if closed := r.Close(); err == nil {
		err = closed
	}
	if err != nil {
		return nil, err
	}
	if int64(len(content)) != f.Size || sha256.Sum256(content) != f.Sum {
		return nil, fmt.Errorf("file %q: %w", f.Name, ErrDamaged)
	}
	return content, nil
}

// same reports whether two manifests describe one snapshot.
func same(a, b *sharedlog.Manifest) bool {
	return a.Identity == b.Identity && a.At == b.At && a.Created.Equal(b.Created) && a.Node == b.Node
}

// List implements sharedlog.Snapshots.
func (s Snapshots) List(ctx context.Context) ([]*sharedlog.Manifest, error) {
	c := s.client.cluster
	var out []*sharedlog.Manifest
	err := s.client.call(ctx, OpList, nil, func() error {
		c.mu.Lock()
		defer c.mu.Unlock()
		for _, m := range c.archive.manifests {
			listed := *m
			listed.Files = slices.Clone(m.Files)
			out = append(out, &listed)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	slices.SortStableFunc(out, func(a, b *sharedlog.Manifest) int { return b.Created.Compare(a.Created) })
	return out, nil
}

// Open implements sharedlog.Snapshots.
func (s Snapshots) Open(ctx context.Context, sum sharedlog.Hash) (io.ReadCloser, error) {
	c := s.client.cluster
	var content []byte
	err := s.client.call(ctx, OpOpen, nil, func() error {
		c.mu.Lock()
		defer c.mu.Unlock()
		f, ok := c.archive.files[sum]
		if !ok {
			return fmt.Errorf("memlog: no file with the hash %x", sum)
		}
		content = f.content
		return nil
	})
	if err != nil {
		return nil, err
	}
	var end error = io.EOF
	if sha256.Sum256(content) != sum {
		end = ErrDamaged
	}
	return &reader{bytes.NewReader(content), end}, nil
}

// reader reads a file and ends with an error.
type reader struct {
	content *bytes.Reader
	end     error
}

func (r *reader) Read(b []byte) (int, error) {
	n, err := r.content.Read(b)
	if err == io.EOF {
		err = r.end
	}
	return n, err
}

func (r *reader) Close() error { return nil }

// Remove implements sharedlog.Snapshots.
func (s Snapshots) Remove(ctx context.Context, m *sharedlog.Manifest) error {
	c := s.client.cluster
	return s.client.call(ctx, OpRemove, nil, func() error {
		c.mu.Lock()
		defer c.mu.Unlock()
		a := &c.archive
		a.manifests = slices.DeleteFunc(a.manifests, func(o *sharedlog.Manifest) bool { return same(o, m) })
		needed := map[sharedlog.Hash]bool{}
		for _, o := range a.manifests {
			for _, f := range o.Files {
				needed[f.Sum] = true
			}
		}
		oldest := c.options.Now().Add(-retention)
		maps.DeleteFunc(a.files, func(sum sharedlog.Hash, f file) bool { return !needed[sum] && f.put.Before(oldest) })
		return nil
	})
}
