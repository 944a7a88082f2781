// Package datadir identifies the data directory of a process of a cluster, so that a
// restarted process knows its former self.
//
// A process that was killed leaves leases behind. Others wait for their end, because they
// cannot know whether the holder is gone. A process that holds the lock of the same
// directory knows it: the lock of a process ends with the process.
//
// The id of a directory must not be that of another one that a living process uses, such
// as a copy of the directory. It therefore covers a random number in a file, the device
// and the inode of that file, and the boot of the machine. A copy has another inode, and a
// directory that two machines share has another boot on each. If anything differs, the id
// is another one, and the process waits as any other one does.
package datadir

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"syscall"
)

// fileName is the name of the file with the random number, in the data directory.
const fileName = "directory-id"

// bootFile holds the id of the boot of the machine on Linux.
const bootFile = "/proc/sys/kernel/random/boot_id"

// Lock is a locked data directory.
type Lock struct {
	file *os.File
	id   string
}

// Acquire locks a data directory, which must exist. It fails if a process has it locked,
// this one included.
func Acquire(dir string) (*Lock, error) { return acquire(dir, bootFile) }

func acquire(dir, boot string) (_ *Lock, err error) {
	path := filepath.Join(dir, fileName)
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, f.Close())
		}
	}()
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, fmt.Errorf("%s: another process uses this data directory", dir)
		}
		return nil, fmt.Errorf("%s cannot be locked: %w", path, err)
	}
	number, err := readNumber(f)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	id, err := identify(f, number, boot)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return &Lock{file: f, id: id}, nil
}

// readNumber returns the random number in a file, and writes it if the file is new.
func readNumber(f *os.File) (n [16]byte, err error) {
	if _, err = io.ReadFull(f, n[:]); err == nil {
		return n, nil
	}
	rand.Read(n[:]) // never fails (crypto/rand since Go 1.24)
	if err := f.Truncate(0); err != nil {
		return n, err
	}
	if _, err := f.WriteAt(n[:], 0); err != nil {
		return n, err
	}
	return n, f.Sync()
}

// identify returns the id, or "" if the boot of the machine is not known.
func identify(f *os.File, number [16]byte, boot string) (string, error) {
	booted, _ := os.ReadFile(boot)
	if len(booted) == 0 {
		return "", nil
	}
	info, err := f.Stat()
	if err != nil {
		return "", err
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return "", nil
	}
	b := append([]byte("pulsegate data directory\x00"), number[:]...)
	b = binary.BigEndian.AppendUint64(b, uint64(st.Dev)) // its type depends on the system
	b = binary.BigEndian.AppendUint64(b, st.Ino)
	sum := sha256.Sum256(append(b, booted...))
	return hex.EncodeToString(sum[:16]), nil
}

// ID returns the id of the directory. It is "" if the id could be that of another
// directory.
func (l *Lock) ID() string { return l.id }

// Close unlocks the directory. What this process did under the id must have ended.
func (l *Lock) Close() error { return l.file.Close() }
