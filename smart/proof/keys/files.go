package keys

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"

	"pulsegate/fhir"
	"pulsegate/fhir/store"
)

func keysDir(dir string) string { return filepath.Join(dir, "keys") }

// fileStorage keeps each key of a single server in dir/<kid>.jwk.
type fileStorage struct {
	dir string
	mu  sync.Mutex // serializes changes
	set atomic.Pointer[keySet]
}

func openFiles(dir string, now int64) (*fileStorage, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fhir.Wrap("keys.Open", err)
	}
	set, err := readFiles(dir, now, true)
	if err != nil {
		return nil, err
	}
	s := &fileStorage{dir: dir}
	s.set.Store(&set)
	return s, nil
}

// readFiles returns the keys that have not retired. If remove is set, it removes the
// files of the others.
func readFiles(dir string, now int64, remove bool) (keySet, error) {
	names, err := filepath.Glob(filepath.Join(dir, "*.jwk"))
	if err != nil {
		return nil, fhir.Wrap("keys.Open", err)
	}
	var all []signing
	for _, name := range names {
		k, err := read(name)
		if err != nil {
			return nil, err
		}
		if !k.retired(now) {
			all = append(all, k)
		} else if remove {
			if err := os.Remove(name); err != nil {
				return nil, fhir.Wrap("keys.Open", err)
			}
		}
	}
	return newKeySet(all), nil
}

func read(name string) (signing, error) {
	refuse := func(rule string) (signing, error) {
		return signing{}, fhir.Errorf(fhir.Internal, "keys.Open", "key file %s: %s", filepath.Base(name), rule)
	}
	info, err := os.Lstat(name)
	if err != nil {
		return signing{}, fhir.Wrap("keys.Open", err)
	}
	if !info.Mode().IsRegular() || info.Mode().Perm()&0o077 != 0 || info.Size() > maxFile {
		return refuse("must be a regular file that only its owner may read (mode 0600)")
	}
	b, err := os.ReadFile(name)
	if err != nil {
		return signing{}, fhir.Wrap("keys.Open", err)
	}
	key, rule, err := decode(b)
	if err != nil {
		return signing{}, err
	}
	if rule != "" {
		return refuse(rule)
	}
	if filepath.Base(name) != key.Kid+".jwk" {
		return refuse("the name is not the key's thumbprint")
	}
	return key, nil
}

func (s *fileStorage) keys(context.Context) (keySet, error) { return *s.set.Load(), nil }

func (s *fileStorage) change(_ context.Context, _ func(*store.Batch), fn func(keySet) (keySet, error)) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	old := *s.set.Load()
	next, err := fn(old)
	if err != nil || next == nil {
		return err
	}
	before := map[string]facts{}
	for _, k := range old.all() {
		before[k.Kid] = k.facts
	}
	// New keys are written before the facts of previous keys change. A crash in between
	// leaves two keys that verify.
	var changed []signing
	after := map[string]bool{}
	for _, k := range next.all() {
		after[k.Kid] = true
		if was, ok := before[k.Kid]; !ok {
			if err := s.write(k); err != nil {
				return err
			}
		} else if was != k.facts {
			changed = append(changed, k)
		}
	}
	for _, k := range changed {
		if err := s.write(k); err != nil {
			return err
		}
	}
	for kid := range before {
		if after[kid] {
			continue
		}
		if err := os.Remove(s.path(kid)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fhir.Wrap("keys.change", err)
		}
	}
	s.set.Store(&next)
	return nil
}

func (s *fileStorage) path(kid string) string { return filepath.Join(s.dir, kid+".jwk") }

// write replaces the key file atomically and durably.
func (s *fileStorage) write(key signing) error {
	b, err := key.encode()
	if err != nil {
		return err
	}
	tmp, err := os.CreateTemp(s.dir, "new-*") // mode 0600
	if err != nil {
		return fhir.Wrap("keys.write", err)
	}
	_, err = tmp.Write(b)
	if err == nil {
		err = tmp.Sync()
	}
	if cerr := tmp.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = os.Rename(tmp.Name(), s.path(key.Kid))
	}
	if err != nil {
		return fhir.Wrap("keys.write", err)
	}
	d, err := os.Open(s.dir)
	if err != nil {
		return fhir.Wrap("keys.write", err)
	}
	err = d.Sync()
	if cerr := d.Close(); err == nil {
		err = cerr
	}
	return fhir.Wrap("keys.write", err)
}
