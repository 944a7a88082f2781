package fault

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"path"
	"strings"
	"syscall"

	"github.com/cockroachdb/pebble/v2"

	"pulsegate/fhir"
)

// The texts of Pebble's errors and events quote keys, and keys hold names,
// identifiers and telephone numbers. Callers and the log get the type of the
// failure and the file instead.

// Refusal is an error whose text was written for the operator.
type Refusal string

func (r Refusal) Error() string { return string(r) }

// Describe returns the type of failure of an error of the engine or the file
// system, without the text of the error.
func Describe(err error) string {
	var no syscall.Errno
	var own Refusal
	switch {
	case err == nil:
		return "none"
	case Damaged(err):
		if info := pebble.ExtractDataCorruptionInfo(err); info != nil {
			return "damaged block in " + path.Base(info.Path)
		}
		return "damaged block"
	case errors.As(err, &own):
		return own.Error()
	case errors.As(err, &no) && no == syscall.EAGAIN, err != nil && strings.Contains(err.Error(), "lock held"):
		return "another process uses it"
	case errors.As(err, &no):
		return no.Error()
	case errors.Is(err, fs.ErrNotExist):
		return "file does not exist"
	case errors.Is(err, fs.ErrPermission):
		return "permission denied"
	case errors.Is(err, ErrRow):
		return ErrRow.Error()
	}
	return "input or output failed"
}

// Damaged reports whether err means that the bytes on disk are not those that were
// written.
func Damaged(err error) bool {
	return pebble.IsCorruptionError(err) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)
}

// Wrap is fhir.Wrap for errors of the engine. A read of a damaged block, or from a
// disk that does not answer, fails with Unavailable; the store continues.
func Wrap(op string, err error) error {
	var e *fhir.Error
	var no syscall.Errno
	switch {
	case err == nil:
		return nil
	case Damaged(err):
		return unreadable(op, err, "a part of the store on the server's disk is damaged and cannot be read; the server's log names the file. Other data is not affected")
	case errors.As(err, &e):
		return e
	case errors.As(err, &no):
		return unreadable(op, err, "the server's disk could not be read; its log says why")
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return Canceled(op, err)
	}
	return &fhir.Error{Kind: fhir.Internal, Op: op, Err: Refusal(Describe(err))}
}

func unreadable(op string, err error, text string) error {
	return &fhir.Error{Kind: fhir.Unavailable, Op: op, Err: Refusal(Describe(err)),
		Issues: []fhir.Issue{{Severity: "error", Code: "exception", Diagnostics: text}}}
}

// Canceled returns the error of an operation whose context has ended.
func Canceled(op string, err error) error {
	return &fhir.Error{Kind: fhir.Unavailable, Op: op, Err: err}
}

var ErrRow = errors.New("malformed row")

// Close closes c. Its error becomes *err unless that is set.
func Close(c io.Closer, err *error) {
	if e := c.Close(); e != nil && *err == nil {
		*err = e
	}
}

// CloseFunc is an io.Closer that calls itself.
type CloseFunc func() error

func (c CloseFunc) Close() error { return c() }
