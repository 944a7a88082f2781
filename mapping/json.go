package mapping

import "pulsegate/fhir/element"

// appendCoding appends a Coding. An empty display is omitted.
func appendCoding(b []byte, system, code, display string) []byte {
	b = append(b, `{"system":`...)
	b = appendString(b, system)
	b = append(b, `,"code":`...)
	b = appendString(b, code)
	if display != "" {
		b = append(b, `,"display":`...)
		b = appendString(b, display)
	}
	return append(b, '}')
}

// appendConcept appends a CodeableConcept with one coding. If code is not a
// valid FHIR code, the concept has only a text.
func appendConcept(b []byte, system, code, display string) []byte {
	if !isCode(code) {
		b = append(b, `{"text":`...)
		b = appendString(b, code)
		return append(b, '}')
	}
	b = append(b, `{"coding":[`...)
	b = appendCoding(b, system, code, display)
	b = append(b, `],"text":`...)
	if display == "" {
		display = code
	}
	b = appendString(b, display)
	return append(b, '}')
}

// isCode reports whether s is a FHIR code: no control characters and no
// leading, trailing or repeated spaces.
func isCode(s string) bool {
	space := true
	for i := 0; i < len(s); i++ {
		isSpace := s[i] == ' '
		if s[i] < ' ' || isSpace && space {
			return false
		}
		space = isSpace
	}
	return !space && len(s) <= 128
}

// appendMember appends a string member with a leading comma. An empty value is
// omitted.
func appendMember(b []byte, name, value string) []byte {
	if value == "" {
		return b
	}
	b = append(b, `,"`...)
	b = append(b, name...)
	b = append(b, `":`...)
	return appendString(b, value)
}

// appendString appends a JSON string. The only control characters that a FHIR
// string may contain are tab, CR and LF; others are replaced by a space.
func appendString(b []byte, s string) []byte { return element.AppendHTMLSafe(b, element.Clean(s, ' ')) }
