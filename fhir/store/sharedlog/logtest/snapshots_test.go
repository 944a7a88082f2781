package logtest

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"slices"
	"sync"
	"time"

	"pulsegate/fhir/store/sharedlog"
)

// brokenSnapshots keeps snapshots in memory, with a fault.
type brokenSnapshots struct {
	fault fault

	// mu guards the fields below.
	mu        sync.Mutex
	now       time.Time
	manifests []*sharedlog.Manifest
	files     map[sharedlog.Hash][]byte
	put       map[sharedlog.Hash]time.Time
}

func newBrokenSnapshots(f fault) *brokenSnapshots {
	return &brokenSnapshots{fault: f, files: map[sharedlog.Hash][]byte{}, put: map[sharedlog.Hash]time.Time{}}
}

func (s *brokenSnapshots) is(f fault) bool { return s.fault == f }

func (s *brokenSnapshots) pass(d time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.now = s.now.Add(d)
}

func (s *brokenSnapshots) tamper(sum sharedlog.Hash) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.files[sum] = append(slices.Clone(s.files[sum][1:]), 0)
	return nil
}

func (s *brokenSnapshots) Put(ctx context.Context, m *sharedlog.Manifest,
	open func(f sharedlog.File) (io.ReadCloser, error)) error {

	if s.is("lists incomplete snapshots") {
		s.add(m)
	}
	for _, f := range m.Files {
		if s.has(f.Sum) && !s.is("reads each file") {
			continue
		}
		r, err := open(f)
		if err != nil {
			return err
		}
		content, err := io.ReadAll(r)
		if err := errors.Join(err, r.Close(), ctx.Err()); err != nil {
			return err
		}
		if s.is("limits files to a chunk") {
			content = content[:min(len(content), 255<<10)]
		} else if sha256.Sum256(content) != f.Sum && !s.is("stores what it gets") {
			return errors.New("the content does not have its hash")
		}
		s.mu.Lock()
		s.files[f.Sum], s.put[f.Sum] = content, s.now
		s.mu.Unlock()
	}
	s.add(m)
	return nil
}

func (s *brokenSnapshots) has(sum sharedlog.Hash) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, ok := s.files[sum]
	s.put[sum] = s.now
	return ok
}

func (s *brokenSnapshots) add(m *sharedlog.Manifest) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !slices.Contains(s.manifests, m) {
		s.manifests = append(s.manifests, m)
	}
}

func (s *brokenSnapshots) List(context.Context) ([]*sharedlog.Manifest, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := slices.Clone(s.manifests)
	slices.SortFunc(out, func(a, b *sharedlog.Manifest) int {
		if s.is("lists the oldest first") {
			a, b = b, a
		}
		return b.Created.Compare(a.Created)
	})
	return out, nil
}

func (s *brokenSnapshots) Open(_ context.Context, sum sharedlog.Hash) (io.ReadCloser, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	content, ok := s.files[sum]
	unverified := s.is("opens what was changed") || s.is("stores what it gets")
	if !ok || sha256.Sum256(content) != sum && !unverified {
		return nil, errors.New("no such file")
	}
	return io.NopCloser(bytes.NewReader(content)), nil
}

func (s *brokenSnapshots) Remove(_ context.Context, m *sharedlog.Manifest) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.manifests = slices.DeleteFunc(s.manifests, func(o *sharedlog.Manifest) bool { return o.Created.Equal(m.Created) })
	needed := map[sharedlog.Hash]bool{}
	for _, o := range s.manifests {
		for _, f := range o.Files {
			needed[f.Sum] = !s.is("removes shared files")
		}
	}
	if s.is("never removes files") {
		return nil
	}
	for sum := range s.files {
		recent := s.put[sum].Add(24 * time.Hour).After(s.now)
		if !needed[sum] && (!recent || s.is("removes files at once")) {
			delete(s.files, sum)
		}
	}
	return nil
}
