package server

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// dataDirs are the directories that the server creates in its data directory.
var dataDirs = []string{"store", "keys", "audit", "recover"} // read only

// secureData creates the data directory and denies other users of the machine
// access to it, because it holds patient data and keys. If an existing directory
// is open to other users and is empty or holds the server's data, secureData
// closes it and logs a warning. If it holds other files, it may be shared, and
// secureData returns an error.
func secureData(dir string, log *slog.Logger) error {
	unix.Umask(0o077) // for every file that the process creates from now on
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	info, err := os.Stat(dir)
	if err != nil {
		return err
	}
	if info.Mode().Perm()&0o077 != 0 {
		owned, err := ownsData(dir)
		if err != nil {
			return err
		}
		if !owned || info.Mode()&os.ModeSticky != 0 {
			return fmt.Errorf("data: %s is open to other users (mode %#o) and holds other files; name a directory that only the server uses, or run `chmod 700 %s`", dir, info.Mode().Perm(), dir)
		}
	}
	for _, d := range append([]string{"."}, dataDirs...) {
		if err := closeDir(filepath.Join(dir, d), log); err != nil {
			return err
		}
	}
	return nil
}

// ownsData reports whether a directory is empty or a data directory of the server.
func ownsData(dir string) (bool, error) {
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) == 0 {
		return err == nil, err
	}
	_, storeErr := os.Stat(filepath.Join(dir, "store"))
	_, keysErr := os.Stat(filepath.Join(dir, "keys"))
	return storeErr == nil && keysErr == nil, nil
}

// closeDir removes the permissions of other users from a directory, if it exists.
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
