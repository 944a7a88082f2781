package audit

import (
	"encoding/base64"
	"net/netip"
	"unicode/utf8"
)

// Code systems of the patterns.
const (
	sysEventType     = "http://terminology.hl7.org/CodeSystem/audit-event-type"
	sysDCM           = "http://dicom.nema.org/resources/ontology/DCM"
	sysInteraction   = "http://hl7.org/fhir/restful-interaction"
	sysEntityType    = "http://terminology.hl7.org/CodeSystem/audit-entity-type"
	sysObjectRole    = "http://terminology.hl7.org/CodeSystem/object-role"
	sysLifecycle     = "http://terminology.hl7.org/CodeSystem/iso-21089-lifecycle"
	sysSourceType    = "http://terminology.hl7.org/CodeSystem/security-source-type"
	sysParticipant   = "http://terminology.hl7.org/CodeSystem/provenance-participant-type"
	sysSecurity      = "http://terminology.hl7.org/CodeSystem/extra-security-role-type"
	sysIHEEvent      = "urn:ihe:event-type-code"
	sysBALPEntity    = "https://profiles.ihe.net/ITI/BALP/CodeSystem/BasicAuditEntityType"
	sysBALPAgent     = "https://profiles.ihe.net/ITI/BALP/CodeSystem/UserAgentTypes"
	sysBALPAuthZ     = "https://profiles.ihe.net/ITI/BALP/CodeSystem/AuthZsubType"
	profileBase      = "https://profiles.ihe.net/ITI/BALP/StructureDefinition/"
	sysURI           = "urn:ietf:rfc:3986"
	jtiPrefix        = "urn:ietf:params:oauth:jti:"
	sysParticipation = "http://terminology.hl7.org/CodeSystem/v3-ParticipationType"
)

type coding struct{ system, code, display string }

// appendCoding writes one Coding; the constants need no escaping, a code may.
func appendCoding(b []byte, c coding) []byte {
	b = append(b, `{"system":"`...)
	b = append(b, c.system...)
	b = append(b, `","code":`...)
	b = appendString(b, c.code)
	if c.display != "" {
		b = append(b, `,"display":"`...)
		b = append(b, c.display...)
		b = append(b, '"')
	}
	return append(b, '}')
}

const hexDigits = "0123456789abcdef"

// appendString writes s as a JSON string. What FHIR does not allow in a
// string (control characters, broken UTF-8) becomes U+FFFD, so that an event
// about hostile input is itself valid.
func appendString(b []byte, s string) []byte {
	b = append(b, '"')
	for i := 0; i < len(s); {
		c := s[i]
		switch {
		case c == '"' || c == '\\':
			b = append(b, '\\', c)
			i++
		case c == '\n':
			b = append(b, '\\', 'n')
			i++
		case c == '\r':
			b = append(b, '\\', 'r')
			i++
		case c == '\t':
			b = append(b, '\\', 't')
			i++
		case c < 0x20 || c == 0x7f:
			b = append(b, "\uFFFD"...)
			i++
		case c == '<' || c == '>' || c == '&':
			b = append(b, '\\', 'u', '0', '0', hexDigits[c>>4], hexDigits[c&15])
			i++
		case c < utf8.RuneSelf:
			b = append(b, c)
			i++
		default:
			r, n := utf8.DecodeRuneInString(s[i:])
			if r == utf8.RuneError && n == 1 {
				b = append(b, "\uFFFD"...)
			} else {
				b = append(b, s[i:i+n]...)
			}
			i += n
		}
	}
	return append(b, '"')
}

func appendBase64(b []byte, s string) []byte {
	b = append(b, '"')
	b = base64.StdEncoding.AppendEncode(b, []byte(s))
	return append(b, '"')
}

// appendNetwork writes agent.network for an IP address or another name.
func appendNetwork(b []byte, address string) []byte {
	b = append(b, `"network":{"address":`...)
	b = appendString(b, address)
	kind := byte('1') // machine name
	if _, err := netip.ParseAddr(address); err == nil {
		kind = '2'
	} else if len(address) > 8 && (address[:8] == "https://" || address[:7] == "http://") {
		kind = '5'
	}
	return append(b, `,"type":"`+string(kind)+`"}`...)
}
