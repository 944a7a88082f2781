package server

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"pulsegate/cmd/internal/recovery"
	"pulsegate/fhir"
	"pulsegate/fhir/access"
	"pulsegate/fhir/audit"
)

// dataDirs are the directories that the server makes in its data directory.
var dataDirs = []string{"store", "keys", "audit", "recover"} // read only

// secureData makes the data directory, and closes it and what is in it to other
// users of the machine: it holds patient data and keys. A directory that was
// open is closed with a warning, if it is empty or the server's own; a directory
// that holds anything else may be shared, and is refused.
func secureData(dir string, log *slog.Logger) error {
	unix.Umask(0o077) // of every file that the process makes from now on
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	info, err := os.Stat(dir)
	if err != nil {
		return err
	}
	if info.Mode().Perm()&0o077 != 0 {
		own, err := ownData(dir)
		if err != nil {
			return err
		}
		if !own || info.Mode()&os.ModeSticky != 0 {
			return fmt.Errorf("data: %s is open to other users (mode %#o) and holds other files; name a directory of its own, or run `chmod 700 %s`", dir, info.Mode().Perm(), dir)
		}
	}
	for _, d := range append([]string{"."}, dataDirs...) {
		if err := closeDir(filepath.Join(dir, d), log); err != nil {
			return err
		}
	}
	return nil
}

// ownData reports whether a directory is empty or a data directory.
func ownData(dir string) (bool, error) {
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) == 0 {
		return err == nil, err
	}
	_, store := os.Stat(filepath.Join(dir, "store"))
	_, keys := os.Stat(filepath.Join(dir, "keys"))
	return store == nil && keys == nil, nil
}

// closeDir takes the permissions of others from a directory, if it is there.
func closeDir(dir string, log *slog.Logger) error {
	info, err := os.Lstat(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if info.Mode()&os.ModeSymlink != 0 {
		if info, err = os.Stat(dir); err != nil {
			return err
		}
	}
	mode := info.Mode().Perm()
	if mode&0o077 == 0 {
		return nil
	}
	if err := os.Chmod(dir, mode&0o700); err != nil {
		return fmt.Errorf("data: %s is open to other users (mode %#o) and could not be closed: %w", dir, mode, err)
	}
	log.Warn("a directory with patient data or keys was open to other users and has been closed", "dir", dir, "was",
		fmt.Sprintf("%#o", mode))
	return nil
}

// recovered records that the server goes on after a loss because an operator
// decided so, and takes the decision back. A decision that was not needed is
// recorded as well.
func (m *Main) recovered(ctx context.Context, what string, d *recovery.Decision, problem string) error {
	if d == nil {
		return nil
	}
	if problem == "" {
		problem = "nothing was lost"
	}
	err := m.recorder.Record(ctx, audit.Event{Type: audit.Operator, Interaction: "recover-" + what,
		Caller: audit.Caller{Principal: &access.Principal{Operator: d.By}, RequestID: fhir.RandomID()},
		Extra: [][2]string{{"problem", problem},
			{"decided", d.At.Format("2006-01-02T15:04:05Z07:00")}}})
	if err != nil {
		return err
	}
	m.Log.Warn("the server goes on after a loss because an operator decided so", "what", what, "problem", problem,
		"operator", d.By)
	return d.Done()
}
