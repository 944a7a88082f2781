// Package archive reads zip archives from untrusted senders. It limits the number of
// entries, the inflated bytes and the ratio of compression, refuses overlapping entries,
// and never uses a name of the archive as a path. It is independent of vendors.
package archive

import (
	"archive/zip"
	"cmp"
	"errors"
	"io"
	"path"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"

	"github.com/klauspost/compress/flate"

	"pulsegate/adapters"
)

// Limits bounds what an archive may hold. The zero value of a field means its default.
type Limits struct {
	Entries int   // files in an archive (default 200,000)
	Bytes   int64 // inflated bytes of all files read (default 64 GiB)
	Ratio   int64 // inflated to deflated bytes of a file over 64 MiB (default 300)
}

const (
	defaultEntries = 200_000
	defaultBytes   = 64 << 30
	defaultRatio   = 300
	freeInflation  = 64 << 20 // inflated bytes of an entry that are exempt from the ratio
)

var (
	errBomb = errors.New("an entry inflates to more than the limit")
	errSize = errors.New("the archive inflates to more than the limit")
)

// Archive is an open archive. Several entries may be read concurrently.
type Archive struct {
	format  string
	limits  Limits
	entries []*Entry
	left    atomic.Int64 // inflated bytes left under Limits.Bytes
}

// Entry is a file of an archive.
type Entry struct {
	*zip.File
	Number int // position in the directory, from 1
}

// Where returns the position of e for error texts.
func (e *Entry) Where() string { return "zip entry " + strconv.Itoa(e.Number) }

// IsData reports whether e is a regular file that a person or a service put into
// the archive, and not metadata of an operating system.
func (e *Entry) IsData() bool {
	base := path.Base(e.Name)
	return e.Mode().IsRegular() && !strings.HasPrefix(e.Name, "__MACOSX/") && !strings.HasPrefix(base, "._") &&
		base != ".DS_Store"
}

// Open reads the directory of the archive in.At. Errors are payload errors of
// format.
func Open(format string, in adapters.Input, l Limits) (*Archive, error) {
	a := &Archive{format: format, limits: l}
	a.left.Store(cmp.Or(l.Bytes, defaultBytes))
	if in.At == nil {
		return nil, a.fail("offset 0", "an archive needs random access; send it as a file", nil)
	}
	z, err := zip.NewReader(in.At, in.Size)
	if err != nil && !errors.Is(err, zip.ErrInsecurePath) {
		return nil, a.fail("end of archive", "no readable zip directory", err)
	}
	// klauspost's reader inflates 20 to 33 % faster than compress/flate.
	z.RegisterDecompressor(zip.Deflate, flate.NewReader)
	if len(z.File) > cmp.Or(l.Entries, defaultEntries) {
		return nil, a.fail("directory", "too many entries", nil)
	}
	for i, f := range z.File {
		a.entries = append(a.entries, &Entry{f, i + 1})
	}
	return a, nil
}

// Entries returns the entries in the order of the directory.
func (a *Archive) Entries() []*Entry { return a.entries }

// fail returns a payload error.
func (a *Archive) fail(where, rule string, err error) error {
	return &adapters.PayloadError{Format: a.format, Where: where, Rule: rule, Err: err}
}

// CheckOverlap refuses archives in which entries share compressed bytes, as
// overlapping zip bombs do.
func (a *Archive) CheckOverlap(entries []*Entry) error {
	type span struct{ from, to int64 }
	var spans []span
	for _, e := range entries {
		from, err := e.DataOffset()
		if err != nil {
			return a.fail(e.Where(), "no local header", err)
		}
		spans = append(spans, span{from, from + int64(e.CompressedSize64)})
	}
	slices.SortFunc(spans, func(a, b span) int { return cmp.Compare(a.from, b.from) })
	for i := 1; i < len(spans); i++ {
		if spans[i].from < spans[i-1].to {
			return a.fail("directory", "entries overlap", nil)
		}
	}
	return nil
}

// Read inflates e within the limits and passes the reader to use. Errors of use
// are returned unchanged; errors of the archive become payload errors that name
// the entry.
func (a *Archive) Read(e *Entry, use func(*Reader) error) error {
	rc, err := e.Open()
	if err != nil {
		return a.fail(e.Where(), "the entry cannot be opened", err)
	}
	ratio := cmp.Or(a.limits.Ratio, defaultRatio)
	r := &Reader{src: rc, archive: a, limit: freeInflation + int64(min(e.CompressedSize64, 1<<50))*ratio}
	err = use(r)
	if closeErr := rc.Close(); err == nil && closeErr != nil {
		err = closeErr
	}
	if r.Err != nil && r.Err != io.EOF {
		rule := "the entry cannot be inflated"
		if r.Err == errBomb || r.Err == errSize {
			rule = r.Err.Error()
		}
		return a.fail(e.Where(), rule, r.Err)
	}
	return err
}

// Reader inflates an entry, counts the bytes and stops at the limits.
type Reader struct {
	// Err is the result of the last Read. A caller that reads ahead sets it to the
	// error that its own reader met.
	Err error

	src     io.Reader
	archive *Archive
	read    int64
	limit   int64
}

// Read implements io.Reader.
func (r *Reader) Read(p []byte) (int, error) {
	n, err := r.src.Read(p)
	r.read += int64(n)
	left := r.archive.left.Add(-int64(n))
	switch {
	case r.read > r.limit:
		err = errBomb
	case left < 0:
		err = errSize
	}
	r.Err = err
	return n, err
}
