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

// scan is the first look at bytes from outside, before anything builds a tree
// of them: size, encoding, syntax, depth, duplicate names, names in a case
// that a lenient reader would take for another, empty and null values.
type scan struct {
	dec      *jsontext.Decoder
	op       string
	maxDepth int
	root     string
	path     places
	issues   []fhir.Issue
	// repair is set when the bytes hold something right that google/fhir
	// refuses: a null in an array, a leap second, white space in base64.
	repair bool
}

// compact checks size, encoding and syntax, and returns body without white
// space between tokens and without a byte order mark, which RFC 8259 lets a
// reader ignore. Numbers and strings keep their bytes.
func compact(op string, body []byte, limit int) (jsontext.Value, error) {
	if len(body) > limit {
		return nil, fhir.Errorf(fhir.TooLarge, op, "body is larger than %d bytes", limit)
	}
	if !utf8.Valid(body) {
		return nil, fhir.Errorf(fhir.Invalid, op, "body is not UTF-8")
	}
	body = bytes.TrimPrefix(body, byteOrderMark)
	v := jsontext.Value(bytes.Clone(body))
	err := v.Compact()
	if err == nil && v.Kind() == '{' {
		return v, nil
	}
	// The parser's text may quote the input.
	e := fhir.Errorf(fhir.Invalid, op, "body is not one well-formed JSON object")
	var syntax *jsontext.SyntacticError
	if errors.As(err, &syntax) {
		e.Issues[0].Line, e.Issues[0].Column = position(body, int(syntax.ByteOffset))
	}
	return nil, e
}

// values counts the JSON values in v, which compact has returned, from below:
// each but the first of an object or array comes after a comma, each first one
// after a brace or bracket, and each of an object after a colon, too.
func values(v []byte) (n int) {
	for i := 0; i < len(v); i++ {
		switch v[i] {
		case ',', '{', '[':
			n++
		case '"':
			for i++; i < len(v) && v[i] != '"'; i++ {
				if v[i] == '\\' {
					i++
				}
			}
		}
	}
	return n
}

var byteOrderMark = []byte("\xef\xbb\xbf") // read only

// run reads v to its end. It adds broken values to issues, and returns an error
// if the rest of v cannot be read.
func (s *scan) run(v []byte) error {
	s.dec = jsontext.NewDecoder(bytes.NewReader(v))
	return s.value()
}

// fail is an error that ends the reading.
func (s *scan) fail(code, rule string) error {
	e := fhir.Errorf(fhir.Invalid, s.op, "%s", rule)
	e.Issues[0].Code = code
	e.Issues[0].Expression = []string{s.path.expression(s.root)}
	return e
}

// wrong notes what is wrong in a value, and lets the reading go on.
func (s *scan) wrong(code, rule string) {
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
			s.wrong("value", "number is out of the range of a decimal")
		}
	case 'n':
		if n := len(s.path); n == 0 || s.path[n-1].index < 0 {
			s.wrong("structure", "null is allowed only in an array beside its extensions")
			return nil
		}
		s.repair = true
	}
	return nil
}

func (s *scan) str(v string) {
	if v == "" {
		s.wrong("structure", "a value must not be empty")
	}
	if strings.HasPrefix(v, "0000") && (len(v) == 4 || v[4] == '-') && len(s.path) > 0 && dateMember(s.member()) {
		s.wrong("value", "a year is 0001 to 9999")
	}
	if leapSecond(v) || len(s.path) > 0 && binaryMember(s.path[len(s.path)-1].name) &&
		strings.ContainsAny(v, " \t\r\n") {
		s.repair = true
	}
}

func (s *scan) object() error {
	if s.dec.PeekKind() == '}' {
		if len(s.path) > 0 {
			s.wrong("structure", "an object must not be empty")
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
			s.wrong("structure", "names of members begin with a lower-case letter")
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
		s.wrong("structure", "an array must not be empty")
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

// member is the name of the element that the scan stands in.
func (s *scan) member() string {
	for i := len(s.path) - 1; i >= 0; i-- {
		if s.path[i].index < 0 {
			return s.path[i].name
		}
	}
	return ""
}

// dateMember reports whether R4 has dates, dateTimes or instants only in
// elements of that name, among the types of this server.
func dateMember(name string) bool {
	switch name {
	case "date", "start", "end", "issued", "recorded", "expiry", "event":
		return true
	}
	return strings.HasSuffix(name, "Date") || strings.HasSuffix(name, "DateTime") || strings.HasSuffix(name, "Instant")
}

// members calls fn for each member of a JSON object without white space
// between its tokens: what compact has returned, or the server has stored.
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

// skip returns where the value that begins at i ends, an index within v; -1
// when it does not end.
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

// leapSecond reports whether v is a dateTime or instant at second 60.
func leapSecond(v string) bool {
	return len(v) >= 19 && len(v) <= 40 && v[10] == 'T' && v[4] == '-' && v[7] == '-' && v[13] == ':' &&
		v[16:19] == ":60"
}

// binaryMember reports whether an element of that name is base64.
func binaryMember(name string) bool {
	switch name {
	case "data", "hash", "valueBase64Binary", "carrierAIDC":
		return true
	}
	return false
}
