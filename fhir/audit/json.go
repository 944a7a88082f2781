package audit

import (
	"encoding/base64"
	"net/netip"

	"pulsegate/fhir/element"
)

// Code systems and URIs of the BALP patterns.
const (
	sysEventType   = element.Terminology + "audit-event-type"
	sysInteraction = element.HL7 + "restful-interaction"
	sysEntityType  = element.Terminology + "audit-entity-type"
	sysObjectRole  = element.Terminology + "object-role"
	sysSourceType  = element.Terminology + "security-source-type"
	sysSecurity    = element.Terminology + "extra-security-role-type"
	sysIHEEvent    = "urn:ihe:event-type-code"
	sysBALPEntity  = "https://profiles.ihe.net/ITI/BALP/CodeSystem/BasicAuditEntityType"
	sysBALPAgent   = "https://profiles.ihe.net/ITI/BALP/CodeSystem/UserAgentTypes"
	sysBALPAuthZ   = "https://profiles.ihe.net/ITI/BALP/CodeSystem/AuthZsubType"
	profileBase    = "https://profiles.ihe.net/ITI/BALP/StructureDefinition/"
	jtiPrefix      = "urn:ietf:params:oauth:jti:"
)

// coding returns a Coding. The display may be empty.
func coding(system, code, display string) element.Coding {
	return element.Coding{System: system, Code: code, Display: display}
}

// dicom returns a Coding of the DICOM code system.
func dicom(code, display string) element.Coding { return coding(element.DICOM, code, display) }

// appendCoding appends c as JSON.
func appendCoding(b []byte, c element.Coding) []byte { return c.Append(b, appendString) }

// clean replaces what FHIR does not allow in a string (control characters and
// bytes that are not UTF-8) by U+FFFD, so that an event about hostile input is
// valid.
func clean(s string) string { return element.Clean(s, '\uFFFD') }

// appendString appends s, cleaned, as a JSON string.
func appendString(b []byte, s string) []byte { return element.AppendHTMLSafe(b, clean(s)) }

// appendBase64 appends s as a FHIR base64Binary.
func appendBase64(b []byte, s string) []byte {
	b = append(b, '"')
	b = base64.StdEncoding.AppendEncode(b, []byte(s))
	return append(b, '"')
}

// appendNetwork appends agent.network for an IP address, a URL or a host name.
func appendNetwork(b []byte, address string) []byte {
	b = append(b, `"network":{"address":`...)
	b = appendString(b, address)
	typ := byte('1') // machine name
	if _, err := netip.ParseAddr(address); err == nil {
		typ = '2' // IP address
	} else if len(address) > 8 && (address[:8] == "https://" || address[:7] == "http://") {
		typ = '5' // URI
	}
	return append(b, `,"type":"`+string(typ)+`"}`...)
}
