package server

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"pulsegate/cmd/internal/recovery"
	"pulsegate/fhir/access"
	"pulsegate/fhir/search"
	"pulsegate/fhir/store"
)

func mode(t *testing.T, path string) fs.FileMode {
	t.Helper()
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	return info.Mode().Perm()
}

// TestDataDirectoryIsClosed checks that a data directory open to other users is
// closed with a warning, and that one with other files is refused.
func TestDataDirectoryIsClosed(t *testing.T) {
	dir := t.TempDir()
	log := &lockedBuffer{}
	open := func() error {
		return secureData(dir, slog.New(slog.NewTextHandler(log, nil)))
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := open(); err != nil || mode(t, dir) != 0o700 || !strings.Contains(log.String(), "0755") {
		t.Errorf("an empty directory: %v %o %s", err, mode(t, dir), log.String())
	}
	for _, d := range []string{"store", "keys", "audit"} {
		if err := os.Mkdir(filepath.Join(dir, d), 0o777); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(filepath.Join(dir, d), 0o777); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	if err := open(); err != nil {
		t.Error(err)
	}
	for _, d := range []string{".", "store", "keys", "audit"} {
		if m := mode(t, filepath.Join(dir, d)); m != 0o700 {
			t.Errorf("%s: %o", d, m)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "store", "file"), nil, 0o666); err != nil {
		t.Fatal(err)
	}
	if m := mode(t, filepath.Join(dir, "store", "file")); m&0o077 != 0 {
		t.Errorf("a file of the store: %o", m)
	}
	shared := t.TempDir()
	if err := os.WriteFile(filepath.Join(shared, "notes.txt"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(shared, 0o755); err != nil {
		t.Fatal(err)
	}
	dir = shared
	if err := open(); err == nil || mode(t, dir) != 0o755 {
		t.Errorf("a directory with other files: %v, %o", err, mode(t, dir))
	}
}

// TestRecovery checks that after a loss the server starts only if an operator
// has decided so, and that it records the decision.
func TestRecovery(t *testing.T) {
	dir := t.TempDir()
	s := mustOpen(t, dir)
	if err := s.audit.recordRecovery(t.Context(), s.environment, "nothing", nil, ""); err != nil {
		t.Fatal(err)
	}
	if err := (operations{s}).Profile(t.Context(), operatorOfTest, "heap"); err != nil { // an AuditEvent
		t.Fatal(err)
	}
	if err := s.audit.notary.Sign(); err != nil {
		t.Fatal(err)
	}
	shut(t, s)
	for _, loss := range []struct{ what, file string }{{recovery.AuditLog, "audit/checkpoint"},
		{recovery.SealKey, "keys/seal.key"}} {
		if err := os.Remove(filepath.Join(dir, loss.file)); err != nil {
			t.Fatal(err)
		}
		_, err := open(t, dir, t.Output())
		if err == nil || !strings.Contains(err.Error(), "pulsegate recover "+loss.what) {
			t.Errorf("%s lost: %v", loss.file, err)
		}
		if err := recovery.Request(dir, loss.what, "uid:7", time.Now()); err != nil {
			t.Fatal(err)
		}
		s, err := open(t, dir, t.Output())
		if err != nil {
			t.Fatalf("%s lost, accepted: %v", loss.file, err)
		}
		if got := events(t, s, "recover-"+loss.what, "uid:7"); got != 1 {
			t.Errorf("%s: %d AuditEvents of the decision", loss.file, got)
		}
		if err := s.audit.notary.Sign(); err != nil {
			t.Fatal(err)
		}
		shut(t, s)
		if _, err := os.Stat(filepath.Join(dir, "recover", loss.what)); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: the decision was not removed: %v", loss.file, err)
		}
		if s, err = open(t, dir, t.Output()); err != nil {
			t.Fatalf("%s: the next start: %v", loss.file, err)
		}
		shut(t, s)
	}
}

// events counts the AuditEvents that contain all of texts.
func events(t *testing.T, s *services, texts ...string) (n int) {
	t.Helper()
	q, err := search.Parse("AuditEvent", nil, search.ParseOptions{})
	if err != nil {
		t.Fatal(err)
	}
	err = s.store.Find(context.Background(), store.Find{Query: q, Filter: access.All().Filter(access.Search)},
		func(f *store.Found) bool {
			for _, text := range texts {
				if !strings.Contains(string(f.Resource.JSON), text) {
					return true
				}
			}
			n++
			return true
		})
	if err != nil {
		t.Fatal(err)
	}
	return n
}
