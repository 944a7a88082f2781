// Package snapshot makes snapshots of the store of a cluster, and installs them in
// processes that join it.
//
// A snapshot is a checkpoint of the files of one process's store. Files are
// content-addressed, so that a snapshot uploads only what is new since the last
// one. It counts only when its files were opened and read back. Two are kept, and
// the log from the older one on, so that a process can join while the newer one is
// being replaced.
package snapshot

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"pulsegate/fhir"
	"pulsegate/fhir/store/sharedlog"
)

// Source is a running store. A *pebblestore.DB implements it.
type Source interface {
	// Checkpoint writes the files of the store to dir, which must not exist, and
	// returns their position in the log.
	Checkpoint(ctx context.Context, dir string) (sharedlog.Position, error)
}

// Taker makes snapshots of one process's store.
type Taker struct {
	Source    Source
	Snapshots sharedlog.Snapshots
	Log       sharedlog.Log
	Identity  sharedlog.Identity
	Node      string
	// Dir is a directory on the file system of the store, for checkpoints. It is
	// created, and emptied.
	Dir   string
	Clock func() time.Time
	// Check opens the checkpoint in dir without changing it, and returns its
	// position.
	Check func(ctx context.Context, dir string) (sharedlog.Position, error)

	// sums has the hashes of the sorted tables of the last checkpoint, which never
	// change.
	sums map[string]sharedlog.File
}

// Take makes a snapshot, and then removes older ones and the part of the log that
// no snapshot needs. If only the removal fails, Take returns the snapshot and the error.
// A Taker makes one snapshot at a time.
func (t *Taker) Take(ctx context.Context) (*sharedlog.Manifest, error) {
	const op = "snapshot.Take"
	if err := os.RemoveAll(t.Dir); err != nil {
		return nil, fhir.Wrap(op, err)
	}
	if err := os.MkdirAll(filepath.Dir(t.Dir), 0o700); err != nil {
		return nil, fhir.Wrap(op, err)
	}
	m, err := t.take(ctx)
	err = errors.Join(err, os.RemoveAll(t.Dir))
	if err != nil {
		return nil, fhir.Wrap(op, err)
	}
	return m, fhir.Wrap(op, t.prune(ctx))
}

func (t *Taker) take(ctx context.Context) (*sharedlog.Manifest, error) {
	at, err := t.Source.Checkpoint(ctx, t.Dir)
	if err != nil {
		return nil, err
	}
	found, err := t.Check(ctx, t.Dir)
	if err != nil {
		return nil, fmt.Errorf("the checkpoint cannot be opened: %w", err)
	}
	if found != at {
		return nil, fmt.Errorf("the checkpoint is at entry %d of the log, not %d", found.Index, at.Index)
	}
	m := &sharedlog.Manifest{Identity: t.Identity, At: at, Created: t.Clock().UTC(), Node: t.Node}
	if m.Files, err = t.files(ctx); err != nil {
		return nil, err
	}
	return m, t.Snapshots.Put(ctx, m, func(f sharedlog.File) (io.ReadCloser, error) {
		return os.Open(filepath.Join(t.Dir, filepath.FromSlash(f.Name)))
	})
}

// files returns the files of the checkpoint with their hashes.
func (t *Taker) files(ctx context.Context) (out []sharedlog.File, err error) {
	sums := map[string]sharedlog.File{}
	err = filepath.WalkDir(t.Dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		name, err := filepath.Rel(t.Dir, path)
		if err != nil {
			return err
		}
		if name = filepath.ToSlash(name); name == "LOCK" {
			return nil
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		f, known := t.sums[name]
		if !known || f.Size != info.Size() {
			if f, err = describe(path, name); err != nil {
				return err
			}
		}
		if strings.HasSuffix(name, ".sst") {
			sums[name] = f
		}
		out = append(out, f)
		return nil
	})
	t.sums = sums
	return out, err
}

func describe(path, name string) (sharedlog.File, error) {
	f, err := os.Open(path)
	if err != nil {
		return sharedlog.File{}, err
	}
	h := sha256.New()
	n, err := io.Copy(h, f)
	return sharedlog.File{Name: name, Sum: sharedlog.Hash(h.Sum(nil)), Size: n}, errors.Join(err, f.Close())
}

// kept is the number of snapshots that are kept.
const kept = 2

// prune removes the snapshots of the cluster that are no longer needed, and truncates
// the log. The snapshot of another cluster may be one that is being founded.
func (t *Taker) prune(ctx context.Context) error {
	all, err := t.Snapshots.List(ctx)
	if err != nil {
		return err
	}
	own := slices.DeleteFunc(slices.Clone(all), func(m *sharedlog.Manifest) bool { return !m.Of(t.Identity) })
	keep := own[:min(kept, len(own))]
	for _, m := range own[len(keep):] {
		if err := t.Snapshots.Remove(ctx, m); err != nil {
			return err
		}
	}
	if len(keep) < kept {
		return nil
	}
	oldest := keep[0].At.Index
	for _, m := range keep {
		oldest = min(oldest, m.At.Index)
	}
	// The entry at the position stays: a reader checks that it is there.
	return t.Log.Truncate(ctx, oldest)
}

// Newest returns the newest snapshot from which a process can follow the log, or nil
// if there is none. A snapshot that is not in the log, because the log was restored
// to an earlier state, is passed over.
func Newest(ctx context.Context, s sharedlog.Snapshots, log sharedlog.Log,
	id sharedlog.Identity) (*sharedlog.Manifest, error) {
	const op = "snapshot.Newest"
	all, err := s.List(ctx)
	if err != nil {
		return nil, fhir.Wrap(op, err)
	}
	for _, m := range all {
		if !m.Of(id) {
			continue
		}
		err := log.Read(ctx, m.At, func(*sharedlog.Entry, sharedlog.Hash) bool { return false })
		switch {
		case err == nil:
			return m, nil
		case !errors.Is(err, sharedlog.ErrDiverged) && !errors.Is(err, sharedlog.ErrTruncated):
			return nil, fhir.Wrap(op, err)
		}
	}
	return nil, nil
}

// Install writes the files of a snapshot to dir, which must not exist. If it fails,
// dir does not exist.
func Install(ctx context.Context, s sharedlog.Snapshots, m *sharedlog.Manifest, dir string) (err error) {
	const op = "snapshot.Install"
	partial := dir + ".partial"
	if err := os.RemoveAll(partial); err != nil {
		return fhir.Wrap(op, err)
	}
	defer func() {
		if err != nil {
			err = fhir.Wrap(op, errors.Join(err, os.RemoveAll(partial)))
		}
	}()
	if _, err := os.Lstat(dir); !errors.Is(err, fs.ErrNotExist) {
		return errors.Join(err, fmt.Errorf("the directory of the store exists"))
	}
	dirs := map[string]bool{partial: true}
	for i := range m.Files {
		f := &m.Files[i]
		name := filepath.FromSlash(f.Name)
		if !filepath.IsLocal(name) {
			return fmt.Errorf("file %d of the snapshot has a name outside of its directory", i)
		}
		path := filepath.Join(partial, name)
		dirs[filepath.Dir(path)] = true
		if err := fetch(ctx, s, f, path); err != nil {
			return fmt.Errorf("file %d of the snapshot: %w", i, err)
		}
	}
	for d := range dirs {
		if err := syncDir(d); err != nil {
			return err
		}
	}
	if err := os.Rename(partial, dir); err != nil {
		return err
	}
	return syncDir(filepath.Dir(dir))
}

// fetch writes one file. The reader verifies its hash.
func fetch(ctx context.Context, s sharedlog.Snapshots, f *sharedlog.File, path string) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	r, err := s.Open(ctx, f.Sum)
	if err != nil {
		return err
	}
	w, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return errors.Join(err, r.Close())
	}
	n, err := io.Copy(w, io.LimitReader(r, f.Size+1))
	if err == nil && n != f.Size {
		err = fmt.Errorf("it has %d bytes, not %d", n, f.Size)
	}
	if err == nil {
		_, err = io.Copy(io.Discard, r) // reaches the end, where the hash is verified
	}
	return errors.Join(err, w.Sync(), w.Close(), r.Close())
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
