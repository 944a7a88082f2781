package r4

import (
	"errors"
	"fmt"
	"unicode/utf8"

	"pulsegate/fhir"
)

// OutcomeJSON renders err as an OperationOutcome. For an Internal error, an error
// of another package and an error without issues it gives only the issue code:
// their texts are for the log.
func OutcomeJSON(err error) []byte {
	b := append(make([]byte, 0, 256), `{"resourceType":"OperationOutcome","issue":[`...)
	var e *fhir.Error
	if !errors.As(err, &e) || e.Kind == fhir.Internal || len(e.Issues) == 0 {
		b = append(b, `{"severity":"error","code":"`...)
		b = append(b, fhir.KindOf(err).IssueCode()...)
		return append(b, `"}]}`...)
	}
	for i, is := range e.Issues {
		if i > 0 {
			b = append(b, ',')
		}
		b = appendIssue(b, e.Kind, &is)
	}
	return append(b, `]}`...)
}

// positionURL is the base of HL7's extensions for the position of an issue.
const positionURL = "http://hl7.org/fhir/StructureDefinition/operationoutcome-issue"

func appendIssue(b []byte, k fhir.Kind, is *fhir.Issue) []byte {
	severity, code := is.Severity, is.Code
	if severity == "" {
		severity = "error"
	}
	if code == "" {
		code = k.IssueCode()
	}
	b = append(b, '{')
	if is.Line > 0 {
		b = fmt.Appendf(b, `"extension":[{"url":"%s-line","valueInteger":%d},{"url":"%s-col","valueInteger":%d}],`,
			positionURL, is.Line, positionURL, is.Column)
	}
	b = AppendString(append(b, `"severity":`...), severity)
	b = AppendString(append(b, `,"code":`...), code)
	if is.Diagnostics != "" {
		b = AppendString(append(b, `,"diagnostics":`...), is.Diagnostics)
	}
	if is.Line > 0 {
		b = fmt.Appendf(b, `,"location":["line %d, column %d"]`, is.Line, is.Column)
	}
	for i, x := range is.Expression {
		if i == 0 {
			b = append(b, `,"expression":[`...)
		} else {
			b = append(b, ',')
		}
		b = AppendString(b, x)
		if i == len(is.Expression)-1 {
			b = append(b, ']')
		}
	}
	return append(b, '}')
}

// AppendString appends s as a JSON string. Bytes that are not valid UTF-8 become
// U+FFFD.
func AppendString(b []byte, s string) []byte {
	const hex = "0123456789abcdef"
	b = append(b, '"')
	for i := 0; i < len(s); {
		c := s[i]
		switch {
		case c == '"' || c == '\\':
			b = append(b, '\\', c)
		case c == '\n':
			b = append(b, '\\', 'n')
		case c < 0x20 || c == 0x7f:
			b = append(b, '\\', 'u', '0', '0', hex[c>>4], hex[c&15])
		case c < utf8.RuneSelf:
			b = append(b, c)
		default:
			r, n := utf8.DecodeRuneInString(s[i:])
			b = utf8.AppendRune(b, r)
			i += n
			continue
		}
		i++
	}
	return append(b, '"')
}
