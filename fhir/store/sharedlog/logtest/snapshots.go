package logtest

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"pulsegate/fhir/store/sharedlog"
)

func hasSnapshots(s *Server) bool { return s.Snapshots != nil }

var snapshotChecks = []check{
	{name: "snapshots", run: snapshots, needs: hasSnapshots},
	{name: "snapshot files", run: snapshotFiles, needs: hasSnapshots},
	{name: "snapshot shared files", run: sharedFiles, needs: hasSnapshots},
	{name: "snapshot wrong files", run: wrongFiles, needs: hasSnapshots},
	{name: "snapshot incomplete", run: incomplete, needs: hasSnapshots},
	{name: "snapshot removed during Put", run: removedDuringPut, needs: hasSnapshots},
	{name: "snapshot removal", run: removal, needs: func(s *Server) bool { return s.Snapshots != nil && s.Pass != nil }},
	{name: "snapshot tampered", run: tamperedFile, needs: func(s *Server) bool {
		return s.Snapshots != nil && s.TamperFile != nil
	}},
}

// snapshot is a snapshot in the memory of a test.
type snapshot struct {
	manifest *sharedlog.Manifest
	content  map[sharedlog.Hash][]byte
	opened   []string
}

// created is the time of the first snapshot of a test. It has no fraction of a
// millisecond, because stores of documents cannot represent one.
var created = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// build returns a snapshot number n of files with these contents.
func build(n int, contents ...[]byte) *snapshot {
	m := &sharedlog.Manifest{
		Identity: sharedlog.Identity{Cluster: [16]byte{1}, Epoch: 2, Schema: 3},
		Created:  created.Add(time.Duration(n) * time.Hour), Node: "node-1",
		At: sharedlog.Position{Index: uint64(n) + 1, Last: sha256.Sum256([]byte{byte(n)}), Valid: sharedlog.Hash{1}},
	}
	s := &snapshot{m, map[sharedlog.Hash][]byte{}, nil}
	for i, b := range contents {
		sum := sharedlog.Hash(sha256.Sum256(b))
		m.Files = append(m.Files, sharedlog.File{Name: fmt.Sprintf("dir/%06d.sst", i), Sum: sum, Size: int64(len(b))})
		s.content[sum] = b
	}
	return s
}

func random(n int) []byte {
	b := make([]byte, n)
	rand.Read(b)
	return b
}

func (s *snapshot) open(f sharedlog.File) (io.ReadCloser, error) {
	s.opened = append(s.opened, f.Name)
	return io.NopCloser(bytes.NewReader(s.content[f.Sum])), nil
}

func (s *snapshot) put(ctx context.Context, to sharedlog.Snapshots) error {
	if err := to.Put(ctx, s.manifest, s.open); err != nil {
		return fmt.Errorf("put: %w", err)
	}
	return nil
}

// has fails unless List returns want.
func has(ctx context.Context, in sharedlog.Snapshots, want ...*snapshot) error {
	got, err := in.List(ctx)
	if err != nil {
		return fmt.Errorf("list: %w", err)
	}
	if len(got) != len(want) {
		return fmt.Errorf("list: got %d snapshots, want %d", len(got), len(want))
	}
	for i, m := range got {
		w := want[i].manifest
		if m.Identity != w.Identity || m.At != w.At || !m.Created.Equal(w.Created) || m.Node != w.Node ||
			!slices.Equal(m.Files, w.Files) {
			return fmt.Errorf("list: snapshot %d is not the one that was put", i)
		}
	}
	return nil
}

// opens fails unless every file of s opens with its content.
func (s *snapshot) opens(ctx context.Context, in sharedlog.Snapshots) error {
	for _, f := range s.manifest.Files {
		if err := opens(ctx, in, f.Sum, s.content[f.Sum]); err != nil {
			return fmt.Errorf("file %q of %d bytes: %w", f.Name, f.Size, err)
		}
	}
	return nil
}

func opens(ctx context.Context, in sharedlog.Snapshots, sum sharedlog.Hash, want []byte) error {
	r, err := in.Open(ctx, sum)
	if err != nil {
		return fmt.Errorf("open: %w", err)
	}
	got, err := io.ReadAll(r)
	if err := errors.Join(err, r.Close()); err != nil {
		return fmt.Errorf("reading: %w", err)
	}
	if !bytes.Equal(got, want) {
		return errors.New("the content is another one")
	}
	return nil
}

// missing fails unless a file cannot be opened and read.
func missing(ctx context.Context, in sharedlog.Snapshots, sum sharedlog.Hash) error {
	r, err := in.Open(ctx, sum)
	if err != nil {
		return nil
	}
	defer func() { _ = r.Close() }()
	if _, err := io.ReadAll(r); err == nil {
		return errors.New("a file was read that is not stored, or was changed")
	}
	return nil
}

// with turns a function of the snapshots as two processes reach them into a check.
func with(ctx context.Context, s *Server, fn func(a, b sharedlog.Snapshots) error) error {
	a, err := s.Snapshots()
	if err != nil {
		return err
	}
	b, err := s.Snapshots()
	if err != nil {
		return err
	}
	return fn(a, b)
}

// snapshots lists snapshots, the newest first.
func snapshots(ctx context.Context, s *Server) error {
	return with(ctx, s, func(a, b sharedlog.Snapshots) error {
		first, second, third := build(1, random(10)), build(2, random(10)), build(3)
		return step(
			func() error { return has(ctx, b) },
			func() error { return second.put(ctx, a) },
			func() error { return has(ctx, b, second) },
			func() error { return first.put(ctx, b) },
			func() error { return has(ctx, a, second, first) },
			func() error { return third.put(ctx, a) },
			func() error { return has(ctx, b, third, second, first) },
			// Its process got no answer.
			func() error { return third.put(ctx, a) },
			func() error { return has(ctx, b, third, second, first) },
			func() error { return a.Remove(ctx, second.manifest) },
			func() error { return has(ctx, b, third, first) },
			func() error { return b.Remove(ctx, second.manifest) },
			func() error { return has(ctx, a, third, first) },
			func() error { return first.opens(ctx, b) },
		)
	})
}

// snapshotFiles puts files of different sizes.
func snapshotFiles(ctx context.Context, s *Server) error {
	return with(ctx, s, func(a, b sharedlog.Snapshots) error {
		// The chunks of GridFS have 255 kB.
		one := build(1, nil, random(1), random(255<<10), random(255<<10+1), random(3<<20))
		return step(
			func() error { return one.put(ctx, a) },
			func() error { return one.opens(ctx, b) },
			func() error { return missing(ctx, b, sha256.Sum256([]byte("no such file"))) },
		)
	})
}

// sharedFiles puts snapshots that share a file, which is read once.
func sharedFiles(ctx context.Context, s *Server) error {
	return with(ctx, s, func(a, b sharedlog.Snapshots) error {
		common, own, other := random(1000), random(1000), random(1000)
		first, second := build(1, common, own), build(2, common, other, other)
		err := step(
			func() error { return first.put(ctx, a) },
			func() error { return second.put(ctx, b) },
			func() error { return first.opens(ctx, b) },
			func() error { return second.opens(ctx, a) },
		)
		if err != nil {
			return err
		}
		if want := []string{"dir/000001.sst"}; !slices.Equal(second.opened, want) {
			return fmt.Errorf("put read the files %q, want %q: the others were stored", second.opened, want)
		}
		if s.Pass != nil {
			s.Pass(48 * time.Hour)
		}
		return step(
			func() error { return a.Remove(ctx, first.manifest) },
			func() error { return second.opens(ctx, b) },
			func() error { return has(ctx, b, second) },
		)
	})
}

// wrongFiles puts files that are not those of the manifest.
func wrongFiles(ctx context.Context, s *Server) error {
	return with(ctx, s, func(a, b sharedlog.Snapshots) error {
		content := random(1000)
		for _, wrong := range [][]byte{random(1000), content[:999], append(slices.Clone(content), 1), nil} {
			one := build(1, random(10), content)
			sum := one.manifest.Files[1].Sum
			one.content[sum] = wrong
			if err := a.Put(ctx, one.manifest, one.open); err == nil {
				return fmt.Errorf("put accepted %d bytes that do not have the hash or the size", len(wrong))
			}
			err := step(
				func() error { return has(ctx, b) },
				func() error { return missing(ctx, b, sum) },
			)
			if err != nil {
				return err
			}
		}
		// The right content replaces what a failed Put left.
		one := build(1, content)
		return step(
			func() error { return one.put(ctx, b) },
			func() error { return one.opens(ctx, a) },
		)
	})
}

// incomplete puts a snapshot of which a file cannot be read.
func incomplete(ctx context.Context, s *Server) error {
	return with(ctx, s, func(a, b sharedlog.Snapshots) error {
		one := build(1, random(1000), random(1000))
		broken := errors.New("the disk is broken")
		err := a.Put(ctx, one.manifest, func(f sharedlog.File) (io.ReadCloser, error) {
			if f == one.manifest.Files[1] {
				return nil, broken
			}
			return one.open(f)
		})
		if !errors.Is(err, broken) {
			return fmt.Errorf("put of a file that cannot be read: got error %v", err)
		}
		ended, cancel := context.WithCancel(ctx)
		err = a.Put(ended, one.manifest, func(f sharedlog.File) (io.ReadCloser, error) {
			cancel()
			return one.open(f)
		})
		cancel()
		if err == nil {
			return errors.New("put succeeded although its context had ended")
		}
		return step(
			func() error { return has(ctx, b) },
			func() error { return one.put(ctx, b) },
			func() error { return has(ctx, a, one) },
			func() error { return one.opens(ctx, a) },
		)
	})
}

// removedDuringPut removes a snapshot while another one is put that counts on its file.
func removedDuringPut(ctx context.Context, s *Server) error {
	return with(ctx, s, func(a, b sharedlog.Snapshots) error {
		common := random(1000)
		first, second := build(1, common), build(2, common, random(1000))
		if err := first.put(ctx, a); err != nil {
			return err
		}
		if s.Pass != nil {
			s.Pass(48 * time.Hour)
		}
		var removed error
		err := b.Put(ctx, second.manifest, func(f sharedlog.File) (io.ReadCloser, error) {
			removed = a.Remove(ctx, first.manifest)
			return second.open(f)
		})
		return step(
			func() error { return errors.Join(err, removed) },
			func() error { return has(ctx, a, second) },
			func() error { return second.opens(ctx, a) },
		)
	})
}

// removal removes files that nothing needs, after a day.
func removal(ctx context.Context, s *Server) error {
	return with(ctx, s, func(a, b sharedlog.Snapshots) error {
		common := random(1000)
		first, second := build(1, common, random(1000)), build(2, common, random(1000))
		own := first.manifest.Files[1].Sum
		err := step(
			func() error { return first.put(ctx, a) },
			func() error { return second.put(ctx, a) },
			// A Put of the last day may count on the file.
			func() error { return b.Remove(ctx, first.manifest) },
			func() error { return opens(ctx, a, own, first.content[own]) },
		)
		if err != nil {
			return err
		}
		s.Pass(25 * time.Hour)
		third := build(3, random(10))
		return step(
			func() error { return third.put(ctx, b) },
			func() error { return b.Remove(ctx, third.manifest) },
			func() error { return missing(ctx, a, own) },
			func() error { return second.opens(ctx, a) },
			func() error { return third.opens(ctx, a) },
			// Removed files can be put again.
			func() error { return first.put(ctx, a) },
			func() error { return first.opens(ctx, b) },
		)
	})
}

// tamperedFile opens a file that was changed on the servers.
func tamperedFile(ctx context.Context, s *Server) error {
	return with(ctx, s, func(a, b sharedlog.Snapshots) error {
		one := build(1, random(300<<10), random(1000))
		if err := one.put(ctx, a); err != nil {
			return err
		}
		if err := s.TamperFile(one.manifest.Files[0].Sum); err != nil {
			return err
		}
		return step(
			func() error { return missing(ctx, b, one.manifest.Files[0].Sum) },
			func() error { return opens(ctx, b, one.manifest.Files[1].Sum, one.content[one.manifest.Files[1].Sum]) },
		)
	})
}
