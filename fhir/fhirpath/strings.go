package fhirpath

import (
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"html"
	"regexp"
	"regexp/syntax"
	"strings"
	"unicode/utf8"
)

// Bounds of a regular expression. Its size counts the states of the automaton, so that
// repetitions such as a{1000} count with what they repeat.
const (
	maxRegexp     = 4 << 10 // bytes
	maxRegexpSize = 10_000
)

// pattern is a compiled regular expression. Matching a string of n bytes takes up to
// n * size operations.
type pattern struct {
	re   *regexp.Regexp
	size int
}

// compilePattern compiles a regular expression of FHIRPath as one of RE2, which runs in
// linear time. "." also matches a line feed.
func compilePattern(pos int, text string, full bool) (pattern, error) {
	if len(text) > maxRegexp {
		return pattern{}, failAt(pos, "the regular expression is longer than %d bytes", maxRegexp)
	}
	// The errors of the library quote the pattern, which may come from a resource.
	tree, err := syntax.Parse(text, syntax.Perl)
	if err != nil {
		return pattern{}, failAt(pos, "not a regular expression of RE2")
	}
	size := regexpSize(tree)
	if size > maxRegexpSize {
		return pattern{}, failAt(pos, "the regular expression repeats too much")
	}
	if text = "(?s)" + text; full {
		text = `(?s)\A(?:` + text + `)\z`
	}
	re, err := regexp.Compile(text)
	if err != nil {
		return pattern{}, failAt(pos, "not a regular expression of RE2")
	}
	return pattern{re, size}, nil
}

// regexpSize estimates the number of states.
func regexpSize(re *syntax.Regexp) int {
	size := 0
	for _, sub := range re.Sub {
		size += regexpSize(sub)
	}
	switch re.Op {
	case syntax.OpLiteral:
		return min(len(re.Rune), maxRegexpSize+1)
	case syntax.OpRepeat:
		size *= max(re.Min, re.Max, 1)
	}
	size++
	return min(size, maxRegexpSize+1)
}

// stringFunction returns a function on a String, with String arguments. The result is
// empty if the input or an argument is empty.
func stringFunction(arguments int, f func(s string, args []string) Value) function {
	return function{arguments, arguments, func(c *call, ev *evaluation, sc *scope, in, dst []Value) ([]Value, error) {
		s, args, ok, err := c.strings(ev, sc, in)
		if err != nil || !ok {
			return dst, err
		}
		if err := ev.step(len(s) / 64); err != nil {
			return nil, err
		}
		v := f(s, args)
		if v.kind == KindString {
			return ev.appendString(dst, v.text)
		}
		if v.IsZero() {
			return dst, nil
		}
		return append(dst, v), nil
	}}
}

// strings returns the input and the arguments as Strings.
func (c *call) strings(ev *evaluation, sc *scope, in []Value) (s string, args []string, ok bool, err error) {
	v, ok, err := c.one(in)
	if err != nil {
		return "", nil, false, err
	}
	if ok && v.kind != KindString {
		return "", nil, false, failAt(c.pos, "%s needs a String, not %s", c.name, v.kind)
	}
	for i := range c.args {
		a, given, err := c.str(ev, sc, i)
		if err != nil {
			return "", nil, false, err
		}
		ok = ok && given
		args = append(args, a)
	}
	return v.text, args, ok, nil
}

func runeIndex(s string, i int) Value {
	if i < 0 {
		return integer(-1)
	}
	return integer(int64(utf8.RuneCountInString(s[:i])))
}

func stringFunctions() map[string]function {
	return map[string]function{
		"indexOf": stringFunction(1, func(s string, a []string) Value { return runeIndex(s, strings.Index(s, a[0])) }),
		"lastIndexOf": stringFunction(1, func(s string, a []string) Value {
			return runeIndex(s, strings.LastIndex(s, a[0]))
		}),
		"startsWith": stringFunction(1, func(s string,
			a []string) Value {
			return boolean(strings.HasPrefix(s, a[0]))
		}),
		"endsWith": stringFunction(1, func(s string,
			a []string) Value {
			return boolean(strings.HasSuffix(s, a[0]))
		}),
		"contains": stringFunction(1, func(s string, a []string) Value { return boolean(strings.Contains(s, a[0])) }),
		"upper":    stringFunction(0, func(s string, _ []string) Value { return stringValue(strings.ToUpper(s)) }),
		"lower":    stringFunction(0, func(s string, _ []string) Value { return stringValue(strings.ToLower(s)) }),
		"trim":     stringFunction(0, func(s string, _ []string) Value { return stringValue(strings.TrimSpace(s)) }),
		"length": stringFunction(0, func(s string, _ []string) Value {
			return integer(int64(utf8.RuneCountInString(s)))
		}),
		"encode":   stringFunction(1, func(s string, a []string) Value { return encode(s, a[0]) }),
		"decode":   stringFunction(1, func(s string, a []string) Value { return decode(s, a[0]) }),
		"escape":   stringFunction(1, func(s string, a []string) Value { return escapeText(s, a[0]) }),
		"unescape": stringFunction(1, func(s string, a []string) Value { return unescapeText(s, a[0]) }),

		"substring":      {1, 2, substring},
		"replace":        {2, 2, replace},
		"matches":        {1, 1, matches},
		"matchesFull":    {1, 1, matches},
		"replaceMatches": {2, 2, replaceMatches},
		"toChars":        {0, 0, toChars},
		"split":          {1, 1, split},
		"join":           {0, 1, join},
	}
}

func substring(c *call, ev *evaluation, sc *scope, in, dst []Value) ([]Value, error) {
	v, ok, err := c.one(in)
	if err != nil {
		return nil, err
	}
	if ok && v.kind != KindString {
		return nil, failAt(c.pos, "substring needs a String, not %s", v.kind)
	}
	start, given, err := c.integer(ev, sc, 0)
	if err != nil || !ok || !given {
		return dst, err
	}
	length := int64(len(v.text))
	if len(c.args) == 2 {
		n, given, err := c.integer(ev, sc, 1)
		if err != nil {
			return nil, err
		}
		if given {
			length = max(0, min(n, length))
		}
	}
	s := v.text
	if start < 0 || start >= int64(utf8.RuneCountInString(s)) {
		return dst, nil
	}
	for range start {
		_, n := utf8.DecodeRuneInString(s)
		s = s[n:]
	}
	end := 0
	for ; length > 0 && end < len(s); length-- {
		_, n := utf8.DecodeRuneInString(s[end:])
		end += n
	}
	return append(dst, stringValue(s[:end])), ev.step(len(v.text) / 64)
}

func replace(c *call, ev *evaluation, sc *scope, in, dst []Value) ([]Value, error) {
	s, a, ok, err := c.strings(ev, sc, in)
	if err != nil || !ok {
		return dst, err
	}
	count := strings.Count(s, a[0])
	if len(s)+count*max(0, len(a[1])-len(a[0])) > ev.bytes {
		return nil, costly("bytes of a string")
	}
	return ev.appendString(dst, strings.ReplaceAll(s, a[0], a[1]))
}

// pattern returns the regular expression of the first argument, and counts the work of
// matching s.
func (c *call) pattern(ev *evaluation, text, s string) (*regexp.Regexp, error) {
	p, ok := c.data.(pattern)
	if !ok {
		var err error
		if p, err = compilePattern(c.pos, text, c.name == "matchesFull"); err != nil {
			return nil, err
		}
		if err := ev.step(len(text) + p.size); err != nil {
			return nil, err
		}
	}
	return p.re, ev.step((len(s) + 1) * (p.size + 15) / 16)
}

func matches(c *call, ev *evaluation, sc *scope, in, dst []Value) ([]Value, error) {
	s, a, ok, err := c.strings(ev, sc, in)
	if err != nil || !ok {
		return dst, err
	}
	re, err := c.pattern(ev, a[0], s)
	if err != nil {
		return nil, err
	}
	return append(dst, boolean(re.MatchString(s))), nil
}

func replaceMatches(c *call, ev *evaluation, sc *scope, in, dst []Value) ([]Value, error) {
	s, a, ok, err := c.strings(ev, sc, in)
	if err != nil || !ok {
		return dst, err
	}
	if a[0] == "" {
		return append(dst, stringValue(s)), nil
	}
	re, err := c.pattern(ev, a[0], s)
	if err != nil {
		return nil, err
	}
	var out []byte
	at := 0
	for _, m := range re.FindAllStringSubmatchIndex(s, ev.bytes) {
		out = append(out, s[at:m[0]]...)
		if out = re.ExpandString(out, a[1], s, m); len(out) > ev.bytes {
			return nil, costly("bytes of a string")
		}
		at = m[1]
	}
	return ev.appendString(dst, string(append(out, s[at:]...)))
}

func toChars(c *call, ev *evaluation, sc *scope, in, dst []Value) ([]Value, error) {
	s, _, ok, err := c.strings(ev, sc, in)
	if err != nil || !ok {
		return dst, err
	}
	if len(s) > ev.items {
		return nil, costly("items of a collection")
	}
	for len(s) > 0 {
		_, n := utf8.DecodeRuneInString(s)
		dst = append(dst, stringValue(s[:n]))
		s = s[n:]
	}
	return dst, nil
}

func split(c *call, ev *evaluation, sc *scope, in, dst []Value) ([]Value, error) {
	s, a, ok, err := c.strings(ev, sc, in)
	if err != nil || !ok {
		return dst, err
	}
	if strings.Count(s, a[0]) > ev.items {
		return nil, costly("items of a collection")
	}
	for part := range strings.SplitSeq(s, a[0]) {
		dst = append(dst, stringValue(part))
	}
	return dst, ev.step(len(s) / 64)
}

func join(c *call, ev *evaluation, sc *scope, in, dst []Value) ([]Value, error) {
	separator := ""
	if len(c.args) == 1 {
		var err error
		if separator, _, err = c.str(ev, sc, 0); err != nil {
			return nil, err
		}
	}
	var b strings.Builder
	for i := range in {
		v := in[i].system()
		if v.kind != KindString {
			if in[i].kind == KindElement && !in[i].hasValue() {
				continue
			}
			return nil, failAt(c.pos, "join needs Strings")
		}
		if b.Len()+len(v.text)+len(separator) > ev.bytes {
			return nil, costly("bytes of a string")
		}
		if i > 0 {
			b.WriteString(separator)
		}
		b.WriteString(v.text)
	}
	if len(in) == 0 {
		return dst, nil
	}
	return ev.appendString(dst, b.String())
}

func encode(s, format string) Value {
	switch format {
	case "hex":
		return stringValue(hex.EncodeToString([]byte(s)))
	case "base64":
		return stringValue(base64.StdEncoding.EncodeToString([]byte(s)))
	case "urlbase64":
		return stringValue(base64.URLEncoding.EncodeToString([]byte(s)))
	}
	return Value{}
}

// decode returns the zero Value for a text that is not in the format.
func decode(s, format string) Value {
	var out []byte
	var err error
	switch format {
	case "hex":
		out, err = hex.DecodeString(s)
	case "base64":
		out, err = base64.StdEncoding.DecodeString(s)
	case "urlbase64":
		out, err = base64.URLEncoding.DecodeString(s)
	default:
		return Value{}
	}
	if err != nil || !utf8.Valid(out) {
		return Value{}
	}
	return stringValue(string(out))
}

func escapeText(s, target string) Value {
	switch target {
	case "html":
		return stringValue(strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;", `"`, "&quot;").Replace(s))
	case "json":
		var b strings.Builder
		e := json.NewEncoder(&b)
		e.SetEscapeHTML(false)
		if err := e.Encode(s); err != nil {
			return Value{}
		}
		return stringValue(strings.TrimSuffix(b.String(), "\n")[1 : b.Len()-2])
	}
	return Value{}
}

func unescapeText(s, target string) Value {
	switch target {
	case "html":
		return stringValue(html.UnescapeString(s))
	case "json":
		for i := 0; i < len(s); i++ {
			if s[i] == '\\' {
				n := escapeLen(s[i:])
				if n == 0 {
					return Value{}
				}
				i += n - 1
			}
		}
		return stringValue(string(appendUnescaped(nil, s)))
	}
	return Value{}
}
