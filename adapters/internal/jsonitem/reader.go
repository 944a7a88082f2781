package jsonitem

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"strconv"

	"github.com/go-json-experiment/json/jsontext"

	"pulsegate/adapters"
)

const (
	maxDepth = 32       // levels of one item; the deepest vendor item has 7
	maxItem  = 16 << 20 // bytes of one item, estimated; an ECG has 100 KiB
	maxToken = 16 << 20 // bytes of one string or number
)

// Errors of one item. The reader has skipped the item and can continue.
var (
	ErrTooLarge = errors.New("item is larger than 16 MiB")
	ErrTooDeep  = errors.New("item is nested deeper than 32 levels")
)

var errToken = errors.New("a single value is larger than 16 MiB")

// bodyError is the reason why the rest of a body cannot be read.
type bodyError struct {
	Offset int64
	Rule   string
	Err    error // error of the stream, nil for malformed JSON
}

func (e *bodyError) Error() string { return e.Rule }
func (e *bodyError) Unwrap() error { return e.Err }

// Payload turns an error of a Reader into a PayloadError of format. It returns
// errors of the sink and of the context unchanged.
func Payload(format string, err error) error {
	var b *bodyError
	if err == nil || !errors.As(err, &b) {
		return err
	}
	if errors.Is(b.Err, context.Canceled) || errors.Is(b.Err, context.DeadlineExceeded) {
		return b.Err
	}
	return &adapters.PayloadError{Format: format, Where: "offset " + strconv.FormatInt(b.Offset, 10), Rule: b.Rule,
		Err: b.Err}
}

// Reader streams one body.
type Reader struct {
	src *source
	dec *jsontext.Decoder

	texts   [1024]string // recent short texts, by hash
	members []Member     // members of the objects being built, the innermost object last
	slab    []Member     // memory for the members of the next objects
	slabs   int          // number of slabs so far
	// taken counts the members of the current item, and of the last one between items.
	taken int
}

// source counts the bytes read, ends with the context and limits the bytes that
// the decoder buffers.
type source struct {
	ctx      context.Context
	src      io.Reader
	read     int64        // bytes read from src
	consumed func() int64 // offset of the decoder
	progress func(int64)
}

func (s *source) Read(p []byte) (int, error) {
	if err := s.ctx.Err(); err != nil {
		return 0, err
	}
	if s.read-s.consumed() > maxToken {
		return 0, errToken
	}
	n, err := s.src.Read(p)
	s.read += int64(n)
	s.progress(s.read)
	return n, err
}

// maxBuffer is the size in bytes of the buffer between body and decoder.
const maxBuffer = 64 << 10

// NewReader returns a Reader of body. It calls progress with the number of
// bytes read so far.
func NewReader(ctx context.Context, body io.Reader, progress func(int64)) *Reader {
	size := maxBuffer
	if known, ok := body.(interface{ Len() int }); ok { // a short body is wholly in memory
		size = min(size, max(known.Len(), 16))
	}
	br := bufio.NewReaderSize(body, size)
	s := &source{ctx: ctx, src: &bomSkipper{src: br}, progress: progress}
	// Allow duplicate names: checking them would keep every name of an endless
	// object in memory.
	r := &Reader{src: s, dec: jsontext.NewDecoder(s, jsontext.AllowDuplicateNames(true))}
	s.consumed = r.dec.InputOffset
	return r
}

// bomSkipper skips a UTF-8 byte order mark.
type bomSkipper struct {
	src     *bufio.Reader
	started bool
}

func (b *bomSkipper) Read(p []byte) (int, error) {
	if !b.started {
		b.started = true
		if head, err := b.src.Peek(3); err == nil && bytes.Equal(head, []byte("\xef\xbb\xbf")) {
			if _, err := b.src.Discard(3); err != nil {
				return 0, err
			}
		}
	}
	return b.src.Read(p)
}

// broken returns a bodyError for an error of the decoder.
func (r *Reader) broken(err error) error {
	b := &bodyError{Offset: r.dec.InputOffset()}
	var syntax *jsontext.SyntacticError
	switch {
	case errors.Is(err, errToken):
		b.Rule = errToken.Error()
	case errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, io.EOF):
		b.Rule = "the body ends in the middle of a value"
	case errors.As(err, &syntax):
		b.Rule, b.Offset = "not well-formed JSON", syntax.ByteOffset
	default:
		b.Rule, b.Err = "the body cannot be read", err
	}
	return b
}

// Next reports whether another top-level value follows.
func (r *Reader) Next() (bool, error) {
	if err := r.src.ctx.Err(); err != nil {
		return false, err
	}
	if r.dec.PeekKind() != 0 {
		return true, nil
	}
	// PeekKind does not return the error; ReadToken does.
	if _, err := r.dec.ReadToken(); !errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return false, r.broken(err)
	}
	return false, nil
}

// Kind returns the JSON kind of the next value: '{', '[', '"', '0', 't', 'f' or
// 'n'. It returns 0 if the value cannot be read; reading it returns the error.
func (r *Reader) Kind() byte { return byte(r.dec.PeekKind()) }

// Object reads an object and calls member for each name. member must read the
// value.
func (r *Reader) Object(member func(name string) error) error {
	if err := r.expect('{'); err != nil {
		return err
	}
	return r.Rest(member)
}

// Rest reads the rest of an object after Open, like Object.
func (r *Reader) Rest(member func(name string) error) error {
	for r.dec.PeekKind() != '}' {
		name, err := r.dec.ReadToken()
		if err != nil {
			return r.broken(err)
		}
		if err := member(name.String()); err != nil {
			return err
		}
	}
	return r.expect('}')
}

// Open reads the start of an object and its first name. If empty is true, the
// object has no members and has been read completely.
func (r *Reader) Open() (first string, empty bool, err error) {
	if err := r.expect('{'); err != nil {
		return "", false, err
	}
	if r.dec.PeekKind() == '}' {
		return "", true, r.expect('}')
	}
	name, err := r.dec.ReadToken()
	if err != nil {
		return "", false, r.broken(err)
	}
	return name.String(), false, nil
}

// Array reads an array and calls item with the index of each value. item must
// read the value.
func (r *Reader) Array(item func(i int) error) error {
	if err := r.expect('['); err != nil {
		return err
	}
	for i := 0; r.dec.PeekKind() != ']'; i++ {
		if r.dec.PeekKind() == 0 {
			_, err := r.dec.ReadToken()
			return r.broken(err)
		}
		if err := r.src.ctx.Err(); err != nil {
			return err
		}
		if err := item(i); err != nil {
			return err
		}
	}
	return r.expect(']')
}

// expect reads a token of the kind want.
func (r *Reader) expect(want jsontext.Kind) error {
	t, err := r.dec.ReadToken()
	if err != nil {
		return r.broken(err)
	}
	if t.Kind() != want {
		return &bodyError{Offset: r.dec.InputOffset(), Rule: "an object or array is expected here"}
	}
	return nil
}

// Skip skips the next value in constant memory.
func (r *Reader) Skip() error {
	depth := 0
	for {
		t, err := r.dec.ReadToken()
		if err != nil {
			return r.broken(err)
		}
		switch t.Kind() {
		case '{', '[':
			depth++
		case '}', ']':
			depth--
		}
		if depth == 0 {
			return nil
		}
	}
}

// Item reads the next value as a tree. After ErrTooLarge or ErrTooDeep, the
// reader can continue with the next value.
func (r *Reader) Item() (*Node, error) {
	// An object in a new slab may hold objects in the old one, and the slabs of all
	// items would form a chain that is never freed. Therefore an item starts a new
	// slab if it may not fit into the old one.
	if len(r.slab) < min(r.taken, maxSlab) {
		r.slab = nil
	}
	r.taken = 0
	b := builder{reader: r, budget: maxItem}
	n, err := b.value(0)
	if cap(r.members) > 4096 {
		r.members = nil // do not keep the memory of one large item for the rest of the body
	}
	if err != nil {
		return nil, err
	}
	if b.err != nil {
		return nil, b.err
	}
	return &n, nil
}

// builder builds the tree of one item.
type builder struct {
	reader *Reader
	budget int   // bytes that the item may still take
	err    error // ErrTooLarge or ErrTooDeep; the rest of the item is skipped
}

// value reads the next value at the given depth of the item.
func (b *builder) value(depth int) (Node, error) {
	if b.err != nil {
		return Node{}, b.reader.Skip()
	}
	if depth > maxDepth {
		b.err = ErrTooDeep
		return Node{}, b.reader.Skip()
	}
	n := Node{Kind: b.reader.Kind()}
	b.budget -= 64 // size of a Node
	var err error
	switch n.Kind {
	case '"', '0':
		n.Text, err = b.reader.text()
		b.budget -= len(n.Text)
	case '{':
		if err = b.reader.expect('{'); err == nil {
			err = b.object(&n, depth)
		}
	case '[':
		if err = b.reader.expect('['); err == nil {
			err = b.array(&n, depth)
		}
	default:
		if _, err = b.reader.dec.ReadToken(); err != nil {
			err = b.reader.broken(err)
		}
	}
	if err != nil {
		return Node{}, err
	}
	if b.budget < 0 && b.err == nil {
		b.err = ErrTooLarge
	}
	return n, nil
}

// text reads a string or a number.
func (r *Reader) text() (string, error) {
	v, err := r.dec.ReadValue()
	if err != nil {
		return "", r.broken(err)
	}
	if v[0] == '"' {
		if bytes.IndexByte(v, '\\') >= 0 {
			out, err := jsontext.AppendUnquote(nil, v)
			if err != nil {
				return "", r.broken(err)
			}
			return string(out), nil
		}
		v = v[1 : len(v)-1]
	}
	return r.intern(v), nil
}

// intern returns a string that recent equal texts of up to 64 bytes share:
// items repeat the names and most texts of the preceding item.
func (r *Reader) intern(b []byte) string {
	if len(b) > 64 {
		return string(b)
	}
	h := uint64(len(b))
	for i := 0; i < len(b); i += 8 {
		var w [8]byte
		copy(w[:], b[i:])
		h = (h ^ binary.LittleEndian.Uint64(w[:])) * 0x9E3779B97F4A7C15
		h ^= h >> 29
	}
	t := &r.texts[h%uint64(len(r.texts))]
	if *t != string(b) {
		*t = string(b)
	}
	return *t
}

// object reads the members of an object into n.
func (b *builder) object(n *Node, depth int) error {
	r := b.reader
	from := len(r.members)
	defer func() {
		clear(r.members[from:])
		r.members = r.members[:from]
	}()
	for r.dec.PeekKind() != '}' {
		name, err := r.name()
		if err != nil {
			return err
		}
		b.budget -= len(name)
		v, err := b.value(depth + 1)
		if err != nil {
			return err
		}
		if b.err == nil {
			r.members = append(r.members, Member{name, v})
		}
	}
	if members := r.members[from:]; len(members) > 0 {
		n.Members = append(r.newMembers(len(members)), members...)
	}
	return r.expect('}')
}

// name reads the name of a member.
func (r *Reader) name() (string, error) {
	if r.dec.PeekKind() == '"' {
		return r.text()
	}
	t, err := r.dec.ReadToken() // fails, because names are strings
	if err != nil {
		return "", r.broken(err)
	}
	return t.String(), nil
}

// maxSlab is the number of members in an allocation of newMembers, after two smaller
// ones.
const maxSlab = 256

// newMembers returns an empty slice with capacity for n members.
func (r *Reader) newMembers(n int) []Member {
	r.taken += n
	if n > 64 {
		return make([]Member, 0, n)
	}
	if len(r.slab) < n {
		r.slab = make([]Member, maxSlab>>(2-min(r.slabs, 2)))
		r.slabs++
	}
	out := r.slab[:0:n]
	r.slab = r.slab[n:]
	return out
}

// array reads the values of an array into n.
func (b *builder) array(n *Node, depth int) error {
	for b.reader.dec.PeekKind() != ']' {
		if b.reader.dec.PeekKind() == 0 {
			_, err := b.reader.dec.ReadToken()
			return b.reader.broken(err)
		}
		v, err := b.value(depth + 1)
		if err != nil {
			return err
		}
		if b.err == nil {
			n.Items = append(n.Items, v)
		}
	}
	return b.reader.expect(']')
}

// Fail returns an error at the current offset: the body breaks rule.
func (r *Reader) Fail(rule string) error {
	return &bodyError{Offset: r.dec.InputOffset(), Rule: rule}
}
