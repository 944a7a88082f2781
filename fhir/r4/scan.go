package r4

import (
	"bytes"
	"errors"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/go-json-experiment/json/jsontext"

	"pulsegate/fhir"
)

// scan reads untrusted JSON token by token, before anything builds a tree from
// it. It checks the depth, duplicate member names, names that a case-insensitive
// parser would mistake for others, and empty and null values.
type scan struct {
	dec      *jsontext.Decoder
	op       string
	maxDepth int
	root     string
	path     elementPath
	issues   []fhir.Issue
}

// compact checks the size, encoding and syntax of body. It returns body without
// white space between tokens and without a byte order mark, which RFC 8259
// section 8.1 allows parsers to ignore. Numbers and strings keep their bytes.
func compact(op string, body []byte, limit int) (jsontext.Value, error) {
	if len(body) > limit {
		return nil, fhir.Errorf(fhir.TooLarge, op, "the body is larger than %d bytes", limit)
	}
	if !utf8.Valid(body) {
		return nil, fhir.Errorf(fhir.Invalid, op, "the body is not valid UTF-8")
	}
	body = bytes.TrimPrefix(body, byteOrderMark)
	v := jsontext.Value(bytes.Clone(body))
	err := v.Compact()
	if err == nil && v.Kind() == '{' {
		return v, nil
	}
	// The parser's error is dropped, because it may quote the input.
	e := fhir.Errorf(fhir.Invalid, op, "the body is not a single well-formed JSON object")
	var syntax *jsontext.SyntacticError
	if errors.As(err, &syntax) {
		e.Issues[0].Line, e.Issues[0].Column = position(body, int(syntax.ByteOffset))
	}
	return nil, e
}

var byteOrderMark = []byte("\xef\xbb\xbf") // read only

// run reads v to its end and collects issues. It returns an error if it cannot
// read the rest of v.
func (s *scan) run(v []byte) error {
	s.dec = jsontext.NewDecoder(bytes.NewReader(v))
	return s.value()
}

// fail returns an error that ends the scan.
func (s *scan) fail(code, rule string) error {
	e := fhir.Errorf(fhir.Invalid, s.op, "%s", rule)
	e.Issues[0].Code = code
	e.Issues[0].Expression = []string{s.path.expression(s.root)}
	return e
}

// report adds an issue about the current value; the scan goes on.
func (s *scan) report(code, rule string) {
	if len(s.issues) < maxIssues {
		s.issues = append(s.issues, fhir.Issue{Severity: "error", Code: code, Diagnostics: rule,
			Expression: []string{s.path.expression(s.root)}})
	}
}

func (s *scan) value() error {
	if s.dec.StackDepth() >= s.maxDepth {
		if k := s.dec.PeekKind(); k == '{' || k == '[' {
			return s.fail("structure", "JSON is nested too deeply")
		}
	}
	tok, err := s.dec.ReadToken()
	if err != nil {
		return s.fail("structure", "JSON is not well-formed")
	}
	switch tok.Kind() {
	case '{':
		return s.object()
	case '[':
		return s.array()
	case '"':
		s.str(tok.String())
	case '0':
		if _, err := strconv.ParseFloat(tok.String(), 64); err != nil {
			s.report("value", "the number is out of the range of a decimal")
		}
	case 'n':
		if n := len(s.path); n == 0 || s.path[n-1].index < 0 {
			s.report("structure", "null is allowed only in an array that has a parallel array of extensions")
		}
	}
	return nil
}

func (s *scan) str(v string) {
	if v == "" {
		s.report("structure", "a value must not be empty")
	}
	if strings.HasPrefix(v, "0000") && (len(v) == 4 || v[4] == '-') && len(s.path) > 0 && dateMember(s.member()) {
		s.report("value", "a year must be from 0001 to 9999")
	}
}

func (s *scan) object() error {
	if s.dec.PeekKind() == '}' {
		if len(s.path) > 0 {
			s.report("structure", "an object must not be empty")
		}
	}
	for s.dec.PeekKind() != '}' {
		tok, err := s.dec.ReadToken()
		if err != nil {
			return s.fail("structure", "an object has two members of the same name")
		}
		name := tok.String()
		s.path = append(s.path, step{name, -1})
		bare := strings.TrimPrefix(name, "_")
		if bare == "" || bare[0] < 'a' || bare[0] > 'z' {
			s.report("structure", "member names must begin with a lower-case letter")
		}
		if err := s.value(); err != nil {
			return err
		}
		s.path = s.path[:len(s.path)-1]
	}
	_, err := s.dec.ReadToken()
	return err
}

func (s *scan) array() error {
	if s.dec.PeekKind() == ']' {
		s.report("structure", "an array must not be empty")
	}
	for i := 0; s.dec.PeekKind() != ']'; i++ {
		s.path = append(s.path, step{"", i})
		if err := s.value(); err != nil {
			return err
		}
		s.path = s.path[:len(s.path)-1]
	}
	_, err := s.dec.ReadToken()
	return err
}

// member returns the name of the current element.
func (s *scan) member() string {
	for i := len(s.path) - 1; i >= 0; i-- {
		if s.path[i].index < 0 {
			return s.path[i].name
		}
	}
	return ""
}

// dateMember reports whether all elements of this name, in the types that the
// server stores, are dates, dateTimes or instants.
func dateMember(name string) bool {
	switch name {
	case "date", "start", "end", "issued", "recorded", "expiry", "event":
		return true
	}
	return strings.HasSuffix(name, "Date") || strings.HasSuffix(name, "DateTime") || strings.HasSuffix(name, "Instant")
}

// members calls fn for each member of a JSON object that has no white space
// between tokens: a result of compact, or stored JSON.
func members(v jsontext.Value, fn func(name string, raw jsontext.Value) error) error {
	if len(v) < 2 || v[0] != '{' {
		return errNotCompact
	}
	for i := 1; v[i] != '}'; {
		colon := skip(v, i)
		end := skip(v, colon+1)
		if v[i] != '"' || colon < 0 || v[colon] != ':' || end < 0 {
			return errNotCompact
		}
		name := string(v[i+1 : colon-1])
		if strings.IndexByte(name, '\\') >= 0 {
			b, err := jsontext.AppendUnquote(nil, v[i:colon])
			if err != nil {
				return errNotCompact
			}
			name = string(b)
		}
		if err := fn(name, v[colon+1:end]); err != nil {
			return err
		}
		if i = end; v[i] == ',' {
			i++
		} else if v[i] != '}' {
			return errNotCompact
		}
	}
	return nil
}

var errNotCompact = errors.New("r4: not one compact JSON object")

// skip returns the end of the value that begins at i. It returns -1 if the value
// does not end before the last byte of v.
func skip(v []byte, i int) int {
	for depth := 0; i > 0 && i < len(v); {
		switch v[i] {
		case '"':
			for i++; i < len(v) && v[i] != '"'; i++ {
				if v[i] == '\\' {
					i++
				}
			}
			i++
		case '{', '[':
			depth++
			i++
			continue
		case '}', ']':
			depth--
			i++
		case ',', ':':
			i++
			continue
		default:
			for i++; i < len(v) && strings.IndexByte(",]}", v[i]) < 0; i++ {
			}
		}
		if depth <= 0 && i < len(v) {
			return i
		}
	}
	return -1
}
