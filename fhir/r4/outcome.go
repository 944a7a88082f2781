package r4

import (
	"errors"
	"fmt"

	"pulsegate/fhir"
	"pulsegate/fhir/element"
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
const positionURL = element.StructureDefinition + "operationoutcome-issue"

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
	b = element.AppendString(append(b, `"severity":`...), severity)
	b = element.AppendString(append(b, `,"code":`...), code)
	if is.Diagnostics != "" {
		b = element.AppendString(append(b, `,"diagnostics":`...), is.Diagnostics)
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
		b = element.AppendString(b, x)
		if i == len(is.Expression)-1 {
			b = append(b, ']')
		}
	}
	return append(b, '}')
}
