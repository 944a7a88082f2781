package subscription

import (
	"encoding/json"
	"fmt"
	"mime"
	"net/url"
	"strings"
	"time"

	"golang.org/x/net/http/httpguts"

	"pulsegate/fhir"
	"pulsegate/fhir/access"
	"pulsegate/fhir/egress"
	"pulsegate/fhir/element"
)

// Topic is the canonical URL of the only topic.
const Topic = fhir.Canonical + "/SubscriptionTopic/observation-recorded"

// topicPath is the path of the topic below the FHIR base URL.
const topicPath = "/SubscriptionTopic/observation-recorded"

// extBase is the base URL of the guide's extensions and profiles.
const extBase = element.SubscriptionsBackport + "StructureDefinition/"

// Content selects the payload of notifications.
type Content string

// Values of backport-payload-content.
const (
	empty        Content = "empty"
	iDOnly       Content = "id-only"
	fullResource Content = "full-resource"
)

// Spec is a parsed Subscription.
type Spec struct {
	Status    string
	Criteria  string
	Filters   []Filter
	Endpoint  *url.URL
	Headers   [][2]string
	Payload   string // media type as written
	Content   Content
	Heartbeat time.Duration // zero for none
	Timeout   time.Duration
	MaxCount  int
	End       time.Time // zero for none
}

// Filter is one filter criterion. A nonempty list matches if one of its elements
// does; all lists must match.
type Filter struct {
	Patients   []string
	Categories []access.Token
	Codes      []access.Token
}

const (
	defaultTimeout  = 10 * time.Second
	maxTimeout      = 30 * time.Second
	defaultMaxCount = 20
	maxMaxCount     = 100
	maxFilters      = 20
	maxFilterValues = 100
	maxHeaders      = 20
)

type extension struct {
	URL              string  `json:"url"`
	ValueString      *string `json:"valueString"`
	ValueCode        *string `json:"valueCode"`
	ValueUnsignedInt *int    `json:"valueUnsignedInt"`
	ValuePositiveInt *int    `json:"valuePositiveInt"`
}

// extended is a primitive element's counterpart with an underscore.
type extended struct {
	Extension []extension `json:"extension"`
}

type wire struct {
	Status            string          `json:"status"`
	End               string          `json:"end"`
	Criteria          string          `json:"criteria"`
	CriteriaExt       extended        `json:"_criteria"`
	Extension         []extension     `json:"extension"`
	ModifierExtension json.RawMessage `json:"modifierExtension"`
	Channel           struct {
		Type       string      `json:"type"`
		TypeExt    extended    `json:"_type"`
		Endpoint   string      `json:"endpoint"`
		Payload    string      `json:"payload"`
		PayloadExt extended    `json:"_payload"`
		Header     []string    `json:"header"`
		Extension  []extension `json:"extension"`
	} `json:"channel"`
}

// refuse returns an Unprocessable error about the element at a FHIRPath.
func refuse(path, code, format string, args ...any) error {
	return &fhir.Error{Kind: fhir.Unprocessable, Op: "subscription.Parse", Issues: []fhir.Issue{{
		Severity: "error", Code: code, Diagnostics: path + ": " + fmt.Sprintf(format, args...),
		Expression: []string{path}}}}
}

// parse parses a Subscription and checks that this server supports it. base is
// the FHIR base URL. Errors are of kind Unprocessable and name the element.
func parse(body []byte, base string, policy egress.Policy) (*Spec, error) {
	var w wire
	if err := json.Unmarshal(body, &w); err != nil {
		return nil, refuse("Subscription", "structure", "an element has the wrong JSON type")
	}
	s := &Spec{Status: w.Status, Criteria: w.Criteria, Timeout: defaultTimeout, MaxCount: defaultMaxCount}
	switch s.Status {
	case "requested", "active", "error", "off":
	default:
		return nil, refuse("Subscription.status", "required", "must be requested or off")
	}
	if len(w.ModifierExtension) > 0 {
		return nil, refuse("Subscription.modifierExtension", "not-supported", "modifier extensions are not supported")
	}
	if w.End != "" {
		t, err := time.Parse(time.RFC3339Nano, w.End)
		if err != nil {
			return nil, refuse("Subscription.end", "value", "must be an instant")
		}
		s.End = t
	}
	if w.Criteria != Topic && w.Criteria != base+topicPath {
		return nil, refuse("Subscription.criteria", "not-supported",
			"must be the canonical URL of a topic of this server: %s", Topic)
	}
	if err := s.filters(w.CriteriaExt.Extension, base); err != nil {
		return nil, err
	}
	if err := s.channel(&w, policy); err != nil {
		return nil, err
	}
	return s, nil
}

func (s *Spec) filters(exts []extension, base string) error {
	const path = "Subscription.criteria.extension"
	if len(exts) > maxFilters {
		return refuse(path, "too-long", "has more than %d filters", maxFilters)
	}
	for i, ext := range exts {
		at := fmt.Sprintf("%s[%d]", path, i)
		if ext.URL != extBase+"backport-filter-criteria" {
			return refuse(at, "not-supported", "only backport-filter-criteria is supported here")
		}
		if ext.ValueString == nil {
			return refuse(at, "structure", "valueString is required")
		}
		f, err := parseFilter(at, *ext.ValueString, base)
		if err != nil {
			return err
		}
		s.Filters = append(s.Filters, f)
	}
	return nil
}

func parseFilter(at, text, base string) (Filter, error) {
	var f Filter
	query, ok := strings.CutPrefix(text, "Observation?")
	if !ok || query == "" {
		return f, refuse(at, "value", "must have the form Observation?patient=&category=&code=")
	}
	values, err := url.ParseQuery(query)
	if err != nil {
		return f, refuse(at, "value", "is not a well-formed query")
	}
	for name, list := range values {
		if len(list) != 1 || list[0] == "" {
			return f, refuse(at, "value",
				"each parameter must be given once, with a value; use a second filter for a further condition")
		}
		parts := strings.Split(list[0], ",")
		if len(parts) > maxFilterValues {
			return f, refuse(at, "too-long", "has more than %d values for one parameter", maxFilterValues)
		}
		for _, p := range parts {
			switch name {
			case "patient":
				id := strings.TrimPrefix(strings.TrimPrefix(p, base+"/"), "Patient/")
				if !fhir.ValidID(id) {
					return f, refuse(at, "value", "patient must be an id or Patient/id of this server")
				}
				f.Patients = append(f.Patients, id)
			case "category", "code":
				t, ok := parseToken(p)
				if !ok {
					return f, refuse(at, "value", "%s must be code, system|code, |code or system|", name)
				}
				if name == "category" {
					f.Categories = append(f.Categories, t)
				} else {
					f.Codes = append(f.Codes, t)
				}
			default:
				return f, refuse(at, "not-supported",
					"the topic has the filters patient, category and code only, without modifiers")
			}
		}
	}
	return f, nil
}

// absent is the system of an access.Token that matches only codes without a
// system.
const absent = "\x00"

func parseToken(s string) (access.Token, bool) {
	system, code, bar := strings.Cut(s, "|")
	if !bar {
		return access.Token{Code: s}, s != ""
	}
	if system == "" {
		return access.Token{System: absent, Code: code}, code != ""
	}
	return access.Token{System: system, Code: code}, !strings.Contains(code, "|")
}

func (s *Spec) channel(w *wire, policy egress.Policy) error {
	c := &w.Channel
	if c.Type != "rest-hook" || len(c.TypeExt.Extension) > 0 {
		return refuse("Subscription.channel.type", "not-supported", "only rest-hook is supported")
	}
	u, err := url.Parse(c.Endpoint)
	if err != nil || c.Endpoint == "" {
		return refuse("Subscription.channel.endpoint", "value", "must be a URL")
	}
	if err := policy.Check(u); err != nil {
		// Report the diagnostics of the policy for the element with the URL.
		var rule = "is refused"
		if e, ok := err.(*fhir.Error); ok && len(e.Issues) > 0 {
			rule = e.Issues[0].Diagnostics
		}
		return refuse("Subscription.channel.endpoint", "security", "%s", rule)
	}
	s.Endpoint = u
	if err := s.payload(c.Payload, c.PayloadExt.Extension); err != nil {
		return err
	}
	if len(c.Header) > maxHeaders {
		return refuse("Subscription.channel.header", "too-long", "has more than %d headers", maxHeaders)
	}
	for i, h := range c.Header {
		at := fmt.Sprintf("Subscription.channel.header[%d]", i)
		name, value, ok := strings.Cut(h, ":")
		name, value = strings.TrimSpace(name), strings.TrimSpace(value)
		if !ok || !httpguts.ValidHeaderFieldName(name) || !httpguts.ValidHeaderFieldValue(value) {
			return refuse(at, "value", "must have the form Name: value")
		}
		switch strings.ToLower(name) {
		case "host", "content-length", "content-type", "content-encoding", "transfer-encoding", "connection", "upgrade",
			"keep-alive", "te", "trailer", "proxy-authorization", "proxy-connection", "expect":
			return refuse(at, "not-supported", "the server sets this header itself")
		}
		s.Headers = append(s.Headers, [2]string{name, value})
	}
	return s.channelExtensions(c.Extension)
}

func (s *Spec) payload(payload string, exts []extension) error {
	const path = "Subscription.channel.payload"
	media, params, err := mime.ParseMediaType(payload)
	if err != nil || media != "application/fhir+json" {
		return refuse(path, "not-supported", "must be application/fhir+json")
	}
	for name, v := range params {
		if name != "charset" || !strings.EqualFold(v, "utf-8") {
			return refuse(path, "not-supported",
				"the only supported parameter is charset=utf-8; notifications are FHIR 4.0")
		}
	}
	s.Payload = payload
	for i, ext := range exts {
		at := fmt.Sprintf("%s.extension[%d]", path, i)
		if ext.URL != extBase+"backport-payload-content" || ext.ValueCode == nil || s.Content != "" {
			return refuse(at, "not-supported",
				"exactly one backport-payload-content with a valueCode is supported here")
		}
		switch c := Content(*ext.ValueCode); c {
		case empty, iDOnly, fullResource:
			s.Content = c
		default:
			return refuse(at, "code-invalid", "must be empty, id-only or full-resource")
		}
	}
	if s.Content == "" {
		return refuse(path+".extension", "required", "backport-payload-content is required")
	}
	return nil
}

func (s *Spec) channelExtensions(exts []extension) error {
	seen := map[string]bool{}
	for i, ext := range exts {
		at := fmt.Sprintf("Subscription.channel.extension[%d]", i)
		if seen[ext.URL] {
			return refuse(at, "structure", "this extension occurs twice")
		}
		seen[ext.URL] = true
		switch ext.URL {
		case extBase + "backport-heartbeat-period":
			if ext.ValueUnsignedInt == nil || *ext.ValueUnsignedInt < 1 || *ext.ValueUnsignedInt > 86400 {
				return refuse(at, "value", "valueUnsignedInt must be from 1 to 86400 seconds")
			}
			s.Heartbeat = time.Duration(*ext.ValueUnsignedInt) * time.Second
		case extBase + "backport-timeout":
			if ext.ValueUnsignedInt == nil || *ext.ValueUnsignedInt < 1 ||
				time.Duration(*ext.ValueUnsignedInt)*time.Second > maxTimeout {
				return refuse(at, "value", "valueUnsignedInt must be from 1 to %d seconds", int(maxTimeout/time.Second))
			}
			s.Timeout = time.Duration(*ext.ValueUnsignedInt) * time.Second
		case extBase + "backport-max-count":
			if ext.ValuePositiveInt == nil || *ext.ValuePositiveInt < 1 {
				return refuse(at, "value", "valuePositiveInt must be at least 1")
			}
			s.MaxCount = min(*ext.ValuePositiveInt, maxMaxCount)
		default:
			return refuse(at, "not-supported",
				"only backport-heartbeat-period, backport-timeout and backport-max-count are supported here")
		}
	}
	return nil
}

// match reports whether an Observation with these facts matches all filters.
func (s *Spec) match(f *access.Facts) bool {
	for i := range s.Filters {
		if !s.Filters[i].match(f) {
			return false
		}
	}
	return true
}

func (f *Filter) match(facts *access.Facts) bool {
	if len(f.Patients) > 0 {
		ok := false
		for _, p := range f.Patients {
			ok = ok || p == facts.Patient
		}
		if !ok {
			return false
		}
	}
	return matchTokens(f.Categories, facts, "category") && matchTokens(f.Codes, facts, "code")
}

func matchTokens(want []access.Token, facts *access.Facts, param string) bool {
	if len(want) == 0 {
		return true
	}
	for _, h := range facts.Tokens(param) {
		for _, w := range want {
			system := w.System
			if system == absent {
				system = ""
			}
			if (w.Code == "" || w.Code == h.Code) && (w.System == "" || system == h.System) {
				return true
			}
		}
	}
	return false
}
