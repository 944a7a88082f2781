package audit

import (
	"strconv"
	"strings"
	"time"
	"unicode"

	"pulsegate/fhir"
	"pulsegate/fhir/access"
	"pulsegate/fhir/element"
	"pulsegate/fhir/search"
	"pulsegate/fhir/store"
)

// pattern holds the codes of an AuditEvent, which depend on the type of the event.
type pattern struct {
	typ      element.Coding
	subtypes []element.Coding
	action   byte
	profile  string // name below profileBase; "" for none
	client   element.Coding
	server   element.Coding
	source   element.Coding
	// query selects one entity with the request instead of data entities.
	query bool
	// closed is set if the profile allows no further entities (IUA).
	closed bool
}

var ( // read only
	dcmSource      = dicom("110153", "Source Role ID")
	dcmDestination = dicom("110152", "Destination Role ID")
	dcmApplication = dicom("110150", "Application")
	restType       = coding(sysEventType, "rest", "Restful Operation")
	appServer      = coding(sysSourceType, "4", "Application Server")
	secServer      = coding(sysSourceType, "6", "Security Server")

	entityPerson  = newEntityCode(sysEntityType, "1", "Person")
	entityObject  = newEntityCode(sysEntityType, "2", "System Object")
	entityOther   = newEntityCode(sysEntityType, "4", "Other")
	entityRequest = newEntityCode(sysBALPEntity, "XrequestId", "")
	rolePatient   = newEntityCode(sysObjectRole, "1", "Patient")
	roleResource  = newEntityCode(sysObjectRole, "4", "Domain Resource")
	roleJob       = newEntityCode(sysObjectRole, "20", "Job")
	roleQuery     = newEntityCode(sysObjectRole, "24", "Query")
)

// entityCode is the type or role of an entity with its JSON, which is the same
// in every event.
type entityCode struct {
	coding element.Coding
	json   []byte
}

func newEntityCode(system, code, display string) entityCode {
	c := coding(system, code, display)
	return entityCode{c, appendCoding(nil, c)}
}

// interaction returns the Coding of a RESTful interaction or operation.
func interaction(code string) element.Coding {
	switch code {
	case "read", "vread", "update", "patch", "delete", "history", "history-instance", "history-type",
		"history-system", "create", "search", "search-type", "search-system", "capabilities",
		"transaction", "batch", "operation":
		return coding(sysInteraction, code, "")
	}
	return coding(sysInteraction, "operation", "")
}

// patternOf returns the pattern of an event. claim decides afterwards whether the
// event conforms to the profile.
func patternOf(ev *Event) pattern {
	s := pattern{source: appServer, client: dcmSource, server: dcmDestination, action: 'E'}
	switch ev.Type {
	case TokenIssue:
		s.typ = dicom("110114", "User Authentication")
		s.subtypes = []element.Coding{coding(sysIHEEvent, "ITI-71", "Get Access Token")}
		s.client = dcmApplication
		s.server = coding(sysBALPAgent, "AuthzOauthService", "")
		s.source, s.query, s.closed = secServer, true, true
		s.profile = "IHE.IUA.71"
	case Disclosure:
		s.typ = dicom("110106", "Export")
		s.subtypes = []element.Coding{coding(element.ISO21089Lifecycle, "disclose", "")}
		s.action, s.client, s.server = 'R', dcmDestination, dcmSource
		s.profile = "IHE.BasicAudit.PrivacyDisclosure.Source"
	case Ingest:
		s.typ = dicom("110107", "Import")
		s.subtypes = []element.Coding{coding(element.ISO21089Lifecycle, "disclose", ""),
			coding(element.ISO21089Lifecycle, "receive", "")}
		s.action = 'C'
		s.profile = "IHE.BasicAudit.PrivacyDisclosure.Recipient"
	case IngestRefuse:
		s.typ = dicom("110107", "Import")
		s.subtypes = []element.Coding{coding(element.ISO21089Lifecycle, "receive", "")}
		s.action = 'C'
	case ConsentDeny:
		s.typ = dicom("110113", "Security Alert")
		s.subtypes = []element.Coding{coding(sysBALPAuthZ, "AuthZ-Consent", "")}
		s.client = dcmApplication
		s.server = coding(sysSecurity, "authserver", "")
	case AuditRead:
		s.typ = dicom("110101", "Audit Log Used")
		s.subtypes = []element.Coding{interaction(ev.Interaction)}
		s.action, s.client, s.server = 'R', dcmDestination, dcmSource
		s.query = ev.Query != ""
	case Operator:
		s.typ = dicom("110100", "Application Activity")
		s.subtypes = []element.Coding{coding(fhir.Canonical+"/CodeSystem/operator-command",
			safeCode(ev.Interaction), "")}
		s.client, s.server = dcmApplication, dcmDestination
	case Lifecycle:
		s.typ = dicom("110100", "Application Activity")
		s.subtypes = []element.Coding{dicom("110120", "Application Start")}
		if ev.Interaction == "stop" {
			s.subtypes = []element.Coding{dicom("110121", "Application Stop")}
		}
		s.client, s.server = dicom("110151", "Application Launcher"), dcmApplication
	case SignIn, SignOut, Security, Decision:
		personPattern(ev, &s)
	case Export:
		s.typ, s.subtypes, s.query = restType, []element.Coding{interaction("operation")}, true
		s.profile = "IHE.BasicAudit.Query"
	default:
		restPattern(ev, &s)
	}
	return s
}

// personPattern sets the pattern of an event on the server's pages: DICOM PS3.16
// CID 401 and 403, and AuthZ-Consent of BALP for a decision.
func personPattern(ev *Event, s *pattern) {
	s.client, s.server, s.source = coding(element.ParticipationType, "IRCP", "information recipient"),
		coding(sysSecurity, "authserver", ""), secServer
	switch ev.Type {
	case SignIn:
		s.typ = dicom("110114", "User Authentication")
		s.subtypes = []element.Coding{dicom("110122", "Login")}
	case SignOut:
		s.typ = dicom("110114", "User Authentication")
		s.subtypes = []element.Coding{dicom("110123", "Logout")}
	case Decision:
		s.typ = dicom("110113", "Security Alert")
		s.subtypes = []element.Coding{coding(sysBALPAuthZ, "AuthZ-Consent", "")}
	default:
		s.typ = dicom("110113", "Security Alert")
		s.subtypes = []element.Coding{securitySubtype(ev.Interaction)}
	}
}

// securitySubtype returns the DICOM code for the Interaction of a Security event.
func securitySubtype(interaction string) element.Coding {
	switch interaction {
	case "emergency-start":
		return dicom("110127", "Emergency Override Started")
	case "emergency-stop":
		return dicom("110138", "Emergency Override Stopped")
	case "roles":
		return dicom("110136", "Security Roles Changed")
	case "attributes":
		return dicom("110137", "User security Attributes Changed")
	}
	return dicom("110129", "Security Configuration")
}

// queryRole returns the role of the entity that holds the request.
func (p *pattern) queryRole() entityCode {
	if p.query {
		return roleQuery
	}
	return roleJob
}

// restPattern sets the pattern of a RESTful interaction.
func restPattern(ev *Event, s *pattern) {
	s.typ = restType
	s.subtypes = []element.Coding{interaction(ev.Interaction)}
	switch ev.Interaction {
	case "create":
		s.action, s.profile = 'C', "IHE.BasicAudit.Create"
	case "read", "vread":
		s.action, s.profile = 'R', "IHE.BasicAudit.Read"
		s.client, s.server = dcmDestination, dcmSource
	case "update", "patch":
		s.action, s.profile = 'U', "IHE.BasicAudit.Update"
	case "delete":
		s.action, s.profile = 'D', "IHE.BasicAudit.Delete"
		s.client, s.server = dcmApplication, coding(element.ProvenanceParticipantType, "custodian", "Custodian")
	case "search", "search-type", "search-system":
		s.profile, s.query = "IHE.BasicAudit.Query", true
	case "history", "history-instance", "history-type", "history-system", "capabilities":
		s.action, s.client, s.server = 'R', dcmDestination, dcmSource
		s.query = len(ev.Data) == 0 && ev.Query != ""
	default:
		s.query = ev.Query != ""
	}
}

// claim clears the profile if the event does not conform to it, and selects its
// variant for a patient.
func (p *pattern) claim(ev *Event, patient string, outcome string) {
	if p.profile == "" {
		return
	}
	ok := outcome == Success && ev.Principal != nil && clientAddress(ev) != ""
	switch ev.Type {
	case TokenIssue:
		ok = ok && ev.Query != ""
	case Disclosure:
		ok = ok && patient != "" && (len(ev.Data) > 0 || ev.Query != "")
	case Ingest:
		ok = ok && patient != "" && len(ev.Data) > 0
	default:
		if p.query {
			ok = ok && ev.Query != ""
		} else {
			ok = ok && len(ev.Data) == 1
		}
		if patient != "" {
			p.profile = strings.Replace(p.profile, "BasicAudit.", "BasicAudit.Patient", 1)
		}
	}
	if !ok {
		p.profile = ""
	}
}

func clientAddress(ev *Event) string {
	switch {
	case ev.Type == Disclosure && ev.Recipient != "":
		return ev.Recipient
	case ev.RemoteIP != "":
		return ev.RemoteIP
	case ev.Principal != nil && ev.Principal.Operator != "":
		return "localhost"
	}
	return ""
}

// built is an AuditEvent: its canonical bytes, its template and slots, and its index
// values.
type built struct {
	body     []byte
	template *store.Template
	cuts     cuts
	values   *search.Values
}

// cuts holds the offsets at which the slots of an event begin and end, in turn.
type cuts []int

// build builds an AuditEvent.
func (r *Recorder) build(ev *Event, id string, at time.Time) built {
	patient := ev.Patient
	if patient == "" && len(ev.Data) == 1 && ev.Data[0].Ref.Type == "Patient" {
		patient = ev.Data[0].Ref.ID
	}
	if !fhir.ValidID(patient) {
		patient = ""
	}
	outcome := ev.Outcome
	if outcome == "" {
		outcome = Success
		if ev.Type == ConsentDeny || ev.Type == IngestRefuse {
			outcome = Serious
		}
	}
	t := r.template(ev, patient, outcome)
	b := make([]byte, 0, len(t.head)+len(t.tail)+eventSize+len(ev.Query)*4/3+len(ev.Data)*dataSize)
	b = append(b, `{"resourceType":"AuditEvent","id":"`...)
	b = append(b, id...)
	b = append(b, `","meta":{`...)
	b = append(b, t.head...)
	slots := make(cuts, 0, 10)
	slots = append(slots, len(b))
	b = at.UTC().AppendFormat(b, fhir.InstantLayout)
	slots = append(slots, len(b))
	b = append(b, t.tail...)
	b = appendEntities(b, ev, &t.pattern, patient, &slots)
	b = append(b, '}')
	out := built{body: b, cuts: slots, values: eventValues(ev, t, id, at, patient)}
	if len(ev.Data) <= 1 && len(ev.Extra) == 0 {
		out.template = t.storeTemplate(b, id, slots)
	}
	return out
}

// Capacity in bytes for the parts of an event that are not in its template: for
// the whole event, and for each data entity.
const (
	eventSize = 1024
	dataSize  = 288
)

// namesPerson reports whether an event has an agent for a person in addition to the
// client, because the person authorizes the client and there is no token yet.
func namesPerson(ev *Event) bool {
	p := ev.Principal
	return p != nil && (p.TokenID == "" || ev.Type == TokenIssue) && p.ClientID != "" &&
		strings.TrimSpace(clean(p.Subject)) != "" && p.Subject != p.ClientID
}

// patientAgent returns the patient whose push key made the request, who is an agent
// in addition to the client. For other requests it returns "".
func patientAgent(ev *Event) string {
	p := ev.Principal
	if p == nil || ev.Type == TokenIssue || p.TokenID != "" || p.Subject != "" || p.ClientID == "" ||
		!fhir.ValidID(p.Patient) {
		return ""
	}
	return p.Patient
}

func (r *Recorder) appendAgents(b []byte, ev *Event, s *pattern) []byte {
	p := ev.Principal
	token := p != nil && p.TokenID != "" && ev.Type != TokenIssue
	person := namesPerson(ev)
	patient := patientAgent(ev)

	b = append(b, `{"type":{"coding":[`...)
	b = appendCoding(b, s.client)
	b = append(b, `]},"who":`...)
	b = appendWho(b, p)
	if token || person || patient != "" {
		b = append(b, `,"requestor":false`...)
	} else {
		b = append(b, `,"requestor":true`...)
	}
	if ev.Type == TokenIssue && p != nil && p.TokenID != "" {
		b = append(b, `,"policy":[`...)
		b = appendString(b, jtiPrefix+uriSafe(p.TokenID))
		b = append(b, ']')
	}
	if a := clientAddress(ev); a != "" {
		b = append(b, ',')
		b = appendNetwork(b, a)
	}
	b = append(b, `},{"type":{"coding":[`...)
	b = appendCoding(b, s.server)
	b = append(b, `]},"who":`...)
	b = append(b, r.observer...)
	b = append(b, `,"requestor":false,`...)
	b = append(b, r.network...)
	b = append(b, '}')
	if token {
		b = appendAgent(b, coding(sysBALPAgent, "UserOauthAgent", ""), p.Issuer, nonBlank(p.Subject, p.ClientID))
		b = append(b, `,"policy":[`...)
		b = appendString(b, jtiPrefix+uriSafe(p.TokenID))
		b = append(b, `]}`...)
	}
	if person {
		b = append(appendAgent(b, coding(element.ParticipationType, "IRCP", "information recipient"), p.Issuer,
			p.Subject), '}')
	}
	if patient != "" {
		b = append(b, `,{"type":{"coding":[`...)
		b = appendCoding(b, coding(element.ParticipationType, "AUT", "author (originator)"))
		b = append(b, `]},"who":{"reference":"Patient/`...)
		b = append(b, patient...)
		b = append(b, `"},"requestor":true}`...)
	}
	return b
}

// appendAgent appends the agent that made the request, without its closing brace.
func appendAgent(b []byte, role element.Coding, issuer, subject string) []byte {
	b = append(b, `,{"type":{"coding":[`...)
	b = appendCoding(b, role)
	b = append(b, `]},"who":{"identifier":{`...)
	if issuer != "" {
		b = append(b, `"system":`...)
		b = appendString(b, uriSafe(issuer))
		b = append(b, ',')
	}
	b = append(b, `"value":`...)
	b = appendString(b, subject)
	return append(b, `}},"requestor":true`...)
}

func appendWho(b []byte, p *access.Principal) []byte {
	switch {
	case p == nil:
		return append(b, `{"display":"unauthenticated"}`...)
	case p.ClientID == "" && p.Operator == "" && p.Subject != "":
		b = append(b, `{"identifier":{`...)
		if iss := uriSafe(p.Issuer); iss != "" {
			b = append(b, `"system":`...)
			b = appendString(b, iss)
			b = append(b, ',')
		}
		b = append(b, `"value":`...)
		b = appendString(b, nonBlank(p.Subject, "unknown"))
		return append(b, `}}`...)
	case p.ClientID != "":
		b = append(b, `{"identifier":{"value":`...)
		b = appendString(b, nonBlank(p.ClientID, "unknown"))
		b = append(b, '}')
		if strings.TrimSpace(p.ClientName) != "" {
			b = append(b, `,"display":`...)
			b = appendString(b, p.ClientName)
		}
		return append(b, '}')
	}
	b = append(b, `{"identifier":{"value":`...)
	b = appendString(b, nonBlank(p.Operator, "unknown"))
	return append(b, `},"display":"operator"}`...)
}

func appendEntities(b []byte, ev *Event, s *pattern, patient string, slots *cuts) []byte {
	start := len(b)
	beginSlot := func() { *slots = append(*slots, len(b)) }
	endSlot := beginSlot
	open := func() {
		if len(b) == start {
			b = append(b, `,"entity":[{`...)
		} else {
			b = append(b, `,{`...)
		}
	}
	if patient != "" && !s.closed {
		open()
		b = append(b, `"what":{"reference":`...)
		beginSlot()
		b = appendString(b, "Patient/"+patient)
		endSlot()
		b = append(b, `},"type":`...)
		b = append(b, entityPerson.json...)
		b = append(b, `,"role":`...)
		b = append(b, rolePatient.json...)
		b = append(b, '}')
	}
	// A query entity replaces the data entities: the results of a search are not
	// recorded, and the disclosure of a file names its job.
	asQuery := s.query || len(ev.Data) == 0 && ev.Query != ""
	if asQuery && ev.Query != "" {
		open()
		b = append(b, `"type":`...)
		b = append(b, entityObject.json...)
		b = append(b, `,"role":`...)
		b = append(b, s.queryRole().json...)
		b = append(b, `,"query":`...)
		beginSlot()
		b = appendBase64(b, ev.Query)
		endSlot()
		if s.closed {
			b = appendDetails(b, ev, true)
		}
		b = append(b, '}')
	}
	if !asQuery {
		for i := range ev.Data {
			open()
			b = appendData(b, &ev.Data[i], slots)
			b = append(b, '}')
		}
	}
	if s.closed {
		return closeEntities(b, start)
	}
	if ev.RequestID != "" && strings.TrimSpace(ev.RequestID) != "" {
		open()
		b = append(b, `"what":{"identifier":{"value":`...)
		beginSlot()
		b = appendString(b, ev.RequestID)
		endSlot()
		b = append(b, `}},"type":`...)
		b = append(b, entityRequest.json...)
		b = append(b, '}')
	}
	if len(ev.Extra) > 0 {
		open()
		b = append(b, `"type":`...)
		b = append(b, entityOther.json...)
		b = appendDetails(b, ev, false)
		b = append(b, '}')
	}
	return closeEntities(b, start)
}

func closeEntities(b []byte, start int) []byte {
	if len(b) > start {
		b = append(b, ']')
	}
	return b
}

func appendData(b []byte, d *DataRef, slots *cuts) []byte {
	if local(d.Ref) {
		b = append(b, `"what":{"reference":"`...)
		*slots = append(*slots, len(b))
		b = append(b, d.Ref.Type...)
		b = append(b, '/')
		b = append(b, d.Ref.ID...)
		if d.Version > 0 {
			b = append(b, "/_history/"...)
			b = strconv.AppendUint(b, d.Version, 10)
		}
		*slots = append(*slots, len(b))
		b = append(b, `"},"type":`...)
	} else {
		// The request named a resource that cannot exist.
		b = append(b, `"what":{"display":"not a resource of this server"},"type":`...)
	}
	b = append(b, entityObject.json...)
	b = append(b, `,"role":`...)
	return append(b, roleResource.json...)
}

// letters reports whether s consists of ASCII letters.
func letters(s string) bool {
	for i := 0; i < len(s); i++ {
		if c := s[i] | 0x20; c < 'a' || c > 'z' {
			return false
		}
	}
	return s != ""
}

// appendDetails appends entity.detail with Extra and, if withRequest is set, the
// request id.
func appendDetails(b []byte, ev *Event, withRequest bool) []byte {
	n := 0
	appendDetail := func(k, v string) {
		if strings.TrimSpace(k) == "" || strings.TrimSpace(v) == "" {
			return
		}
		if n == 0 {
			b = append(b, `,"detail":[`...)
		} else {
			b = append(b, ',')
		}
		n++
		b = append(b, `{"type":`...)
		b = appendString(b, k)
		b = append(b, `,"valueString":`...)
		b = appendString(b, v)
		b = append(b, '}')
	}
	if withRequest {
		appendDetail("X-Request-Id", ev.RequestID)
	}
	for _, kv := range ev.Extra {
		appendDetail(kv[0], kv[1])
	}
	if n > 0 {
		b = append(b, ']')
	}
	return b
}

// nonBlank returns the first of s and other that is not blank, or "unknown".
func nonBlank(s, other string) string {
	if strings.TrimSpace(s) != "" {
		return s
	}
	if strings.TrimSpace(other) != "" {
		return other
	}
	return "unknown"
}

// uriSafe removes the characters that a FHIR uri must not contain: white space and
// control characters.
func uriSafe(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsSpace(r) || r < 0x20 || r == 0x7f || r == unicode.ReplacementChar {
			return -1
		}
		return r
	}, s)
}

// safeCode converts the name of an operator command into a FHIR code.
func safeCode(s string) string {
	s = strings.Join(strings.Fields(printable(s)), "-")
	if s == "" {
		return "command"
	}
	return s
}

// printable replaces control characters by spaces.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r < 0x20 || r == 0x7f || r == unicode.ReplacementChar {
			return ' '
		}
		return r
	}, s)
}
