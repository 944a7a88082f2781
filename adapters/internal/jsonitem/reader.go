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
	maxDepth = 32       // of one item; the vendors' deepest has 7
	maxItem  = 16 << 20 // bytes of one item, estimated; an ECG has 100 KiB
	maxToken = 16 << 20 // bytes of one string or number
)

// Errors of one item; the reader stands behind the item and can go on.
var (
	ErrTooLarge = errors.New("item is larger than 16 MiB")
	ErrTooDeep  = errors.New("item is nested deeper than 32 levels")
)

var errToken = errors.New("a single value is larger than 16 MiB")

// Broken says that the body as a whole cannot be read further.
type Broken struct {
	Offset int64
	Rule   string
	Err    error // cause in the stream below, nil for bad JSON
}

func (e *Broken) Error() string { return e.Rule }
func (e *Broken) Unwrap() error { return e.Err }

// Payload makes a *Broken a PayloadError of format; other errors (of a sink,
// of a context) stay what they are.
func Payload(format string, err error) error {
	var b *Broken
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

	texts   [1024]string // the last texts, by hash
	members []Member     // of the objects being built, the innermost last
	slab    []Member     // where the next object's members go
}

// source counts, obeys the context and bounds what the decoder must buffer.
type source struct {
	ctx      context.Context
	r        io.Reader
	n        int64
	consumed func() int64
	progress func(int64)
}

func (s *source) Read(p []byte) (int, error) {
	if err := s.ctx.Err(); err != nil {
		return 0, err
	}
	if s.n-s.consumed() > maxToken {
		return 0, errToken
	}
	n, err := s.r.Read(p)
	s.n += int64(n)
	s.progress(s.n)
	return n, err
}

// NewReader reads body; progress is told the bytes read.
func NewReader(ctx context.Context, body io.Reader, progress func(int64)) *Reader {
	br := bufio.NewReaderSize(body, 64<<10)
	s := &source{ctx: ctx, r: &withoutBOM{r: br}, progress: progress}
	// Names are not checked for being unique: the check would hold every
	// name of an endless object.
	r := &Reader{src: s, dec: jsontext.NewDecoder(s, jsontext.AllowDuplicateNames(true))}
	s.consumed = r.dec.InputOffset
	return r
}

// withoutBOM drops a UTF-8 byte order mark.
type withoutBOM struct {
	r     *bufio.Reader
	begun bool
}

func (b *withoutBOM) Read(p []byte) (int, error) {
	if !b.begun {
		b.begun = true
		if head, err := b.r.Peek(3); err == nil && bytes.Equal(head, []byte("\xef\xbb\xbf")) {
			if _, err := b.r.Discard(3); err != nil {
				return 0, err
			}
		}
	}
	return b.r.Read(p)
}

func (r *Reader) broken(err error) error {
	b := &Broken{Offset: r.dec.InputOffset()}
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
	// PeekKind hides the reason; reading tells it.
	if _, err := r.dec.ReadToken(); !errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return false, r.broken(err)
	}
	return false, nil
}

// Kind is the kind of the next value: '{', '[', '"', '0', 't', 'f' or 'n';
// 0 if it cannot be read (the next call tells why).
func (r *Reader) Kind() byte { return byte(r.dec.PeekKind()) }

// Object reads an object and calls member before each value, which it must
// read.
func (r *Reader) Object(member func(name string) error) error {
	if err := r.open('{'); err != nil {
		return err
	}
	return r.Rest(member)
}

// Rest reads the rest of an object that Open has begun.
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
	return r.open('}')
}

// Open reads the brace of an object and its first name ("" if it is empty,
// then it is read wholly).
func (r *Reader) Open() (first string, empty bool, err error) {
	if err := r.open('{'); err != nil {
		return "", false, err
	}
	if r.dec.PeekKind() == '}' {
		return "", true, r.open('}')
	}
	name, err := r.dec.ReadToken()
	if err != nil {
		return "", false, r.broken(err)
	}
	return name.String(), false, nil
}

// Array reads an array and calls item before each value, which it must read.
func (r *Reader) Array(item func(i int) error) error {
	if err := r.open('['); err != nil {
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
	return r.open(']')
}

func (r *Reader) open(want jsontext.Kind) error {
	t, err := r.dec.ReadToken()
	if err != nil {
		return r.broken(err)
	}
	if t.Kind() != want {
		return &Broken{Offset: r.dec.InputOffset(), Rule: "an object or array is expected here"}
	}
	return nil
}

// Skip reads over the next value in constant memory.
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

// Item reads the next value as a tree. ErrTooLarge and ErrTooDeep are of this
// item only.
func (r *Reader) Item() (*Node, error) {
	b := builder{r: r, left: maxItem}
	n, err := b.value(0)
	if cap(r.members) > 4096 {
		r.members = nil // one large item does not cost for the rest of the body
	}
	if err != nil {
		return nil, err
	}
	if b.refused != nil {
		return nil, b.refused
	}
	return &n, nil
}

type builder struct {
	r       *Reader
	left    int
	refused error
}

func (b *builder) value(depth int) (Node, error) {
	if b.refused != nil {
		return Node{}, b.r.Skip()
	}
	if depth > maxDepth {
		b.refused = ErrTooDeep
		return Node{}, b.r.Skip()
	}
	n := Node{Kind: b.r.Kind()}
	b.left -= 64 // what a node costs
	var err error
	switch n.Kind {
	case '"', '0':
		n.Text, err = b.r.text()
		b.left -= len(n.Text)
	case '{':
		if err = b.r.open('{'); err == nil {
			err = b.object(&n, depth)
		}
	case '[':
		if err = b.r.open('['); err == nil {
			err = b.array(&n, depth)
		}
	default:
		if _, err = b.r.dec.ReadToken(); err != nil {
			err = b.r.broken(err)
		}
	}
	if err != nil {
		return Node{}, err
	}
	if b.left < 0 && b.refused == nil {
		b.refused = ErrTooLarge
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
	return r.shared(v), nil
}

// shared gives equal short texts that come soon after another one string:
// an item repeats the names and most texts of the item before.
func (r *Reader) shared(b []byte) string {
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

func (b *builder) object(n *Node, depth int) error {
	r := b.r
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
		b.left -= len(name)
		v, err := b.value(depth + 1)
		if err != nil {
			return err
		}
		if b.refused == nil {
			r.members = append(r.members, Member{name, v})
		}
	}
	if own := r.members[from:]; len(own) > 0 {
		n.Members = append(r.room(len(own)), own...)
	}
	return r.open('}')
}

// name reads the name of a member.
func (r *Reader) name() (string, error) {
	if r.dec.PeekKind() == '"' {
		return r.text()
	}
	t, err := r.dec.ReadToken() // it fails: names are strings
	if err != nil {
		return "", r.broken(err)
	}
	return t.String(), nil
}

// room is an empty slice for n members.
func (r *Reader) room(n int) []Member {
	if n > 64 {
		return make([]Member, 0, n)
	}
	if len(r.slab) < n {
		r.slab = make([]Member, 256)
	}
	out := r.slab[:0:n]
	r.slab = r.slab[n:]
	return out
}

func (b *builder) array(n *Node, depth int) error {
	for b.r.dec.PeekKind() != ']' {
		if b.r.dec.PeekKind() == 0 {
			_, err := b.r.dec.ReadToken()
			return b.r.broken(err)
		}
		v, err := b.value(depth + 1)
		if err != nil {
			return err
		}
		if b.refused == nil {
			n.Items = append(n.Items, v)
		}
	}
	return b.r.open(']')
}

// Fail says at the present place that the body breaks rule.
func (r *Reader) Fail(rule string) error {
	return &Broken{Offset: r.dec.InputOffset(), Rule: rule}
}
