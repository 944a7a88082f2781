package pebblestore

import (
	"errors"
	"io/fs"
	"syscall"

	"github.com/cockroachdb/pebble/v2"
)

// faultOf says what kind of failure an error of the engine or the file system
// is. Their own texts name keys, which hold names and identifiers.
func faultOf(err error) string {
	var no syscall.Errno
	switch {
	case err == nil:
		return "none"
	case pebble.IsCorruptionError(err):
		return "damaged block"
	case errors.As(err, &no):
		return no.Error()
	case errors.Is(err, fs.ErrNotExist):
		return "file does not exist"
	case errors.Is(err, fs.ErrPermission):
		return "permission denied"
	case errors.Is(err, errRow):
		return errRow.Error()
	}
	return "input or output failed"
}
