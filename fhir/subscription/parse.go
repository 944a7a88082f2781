package subscription

import (
	"encoding/json"
	"fmt"
	"net/mail"
	"net/url"
	"regexp"
	"strings"
	"time"

	"pulsegate/fhir"
	"pulsegate/fhir/egress"
	"pulsegate/fhir/element"
	"pulsegate/fhir/subscription/topic"
)

// Topic is the canonical URL of the topic observation-recorded.
const Topic = topic.Base + "observation-recorded"

// extBase is the base URL of the guide's extensions and profiles.
const extBase = element.SubscriptionsBackport + "StructureDefinition/"

// SigningSecret is the URL of the extension of Subscription.channel that holds the
// secret under which the server signs notifications.
const SigningSecret = fhir.Canonical + "/StructureDefinition/subscription-signing-secret"

// ChannelSystem is the code system of channels that R4 does not define. The codes are
// the names of Options.Publishers.
const ChannelSystem = fhir.Canonical + "/CodeSystem/subscription-channel-type"

// Content selects the payload of notifications.
type Content string

// Values of backport-payload-content.
const (
	empty        Content = "empty"
	iDOnly       Content = "id-only"
	fullResource Content = "full-resource"
)

// Channel types.
const (
	restHook  = "rest-hook"
	websocket = "websocket"
	email     = "email"
	message   = "message"
)

// Spec is a parsed Subscription.
type Spec struct {
	Status   string
	Error    string // Subscription.error
	Criteria string
	// Topic is nil for a Subscription with criteria of R4.
	Topic   *topic.Topic
	Filters []Filter
	// Dropped lists the indexes of the filters that the server does not support. It is
	// set only for the Patient Data Feed.
	Dropped []int
	// Channel is a channel type of R4, or the name of a Publisher.
	Channel   string
	Publisher bool
	Endpoint  *url.URL // of rest-hook and message
	Mail      string   // address of email
	Headers   [][2]string
	Secret    []byte // of signatures, or nil
	Payload   string // media type as written
	Content   Content
	Heartbeat time.Duration // zero for none
	Timeout   time.Duration
	MaxCount  int
	End       time.Time // zero for none
}

const (
	defaultTimeout  = 10 * time.Second
	maxTimeout      = 30 * time.Second
	defaultMaxCount = 20
	maxMaxCount     = 100
	maxHeaders      = 20
	minSecret       = 24 // bytes
	maxSecret       = 128
)

type extension struct {
	URL              string          `json:"url"`
	ValueString      *string         `json:"valueString"`
	ValueCode        *string         `json:"valueCode"`
	ValueCoding      *element.Coding `json:"valueCoding"`
	ValueUnsignedInt *int            `json:"valueUnsignedInt"`
	ValuePositiveInt *int            `json:"valuePositiveInt"`
}

// extended is a primitive element's counterpart with an underscore.
type extended struct {
	Extension []extension `json:"extension"`
}

type wireChannel struct {
	Type       string      `json:"type"`
	TypeExt    extended    `json:"_type"`
	Endpoint   string      `json:"endpoint"`
	Payload    string      `json:"payload"`
	PayloadExt extended    `json:"_payload"`
	Header     []string    `json:"header"`
	Extension  []extension `json:"extension"`
}

type wire struct {
	Status            string          `json:"status"`
	Error             string          `json:"error"`
	End               string          `json:"end"`
	Criteria          string          `json:"criteria"`
	CriteriaExt       extended        `json:"_criteria"`
	Extension         []extension     `json:"extension"`
	ModifierExtension json.RawMessage `json:"modifierExtension"`
	Channel           wireChannel     `json:"channel"`
}

// refuse returns an Unprocessable error about the element at a FHIRPath.
func refuse(path, code, format string, args ...any) error {
	return &fhir.Error{Kind: fhir.Unprocessable, Op: "subscription.Parse", Issues: []fhir.Issue{{
		Severity: "error", Code: code, Diagnostics: path + ": " + fmt.Sprintf(format, args...),
		Expression: []string{path}}}}
}

// parser holds what a server supports.
type parser struct {
	base   string // FHIR base URL
	policy egress.Policy
	topics *catalog
	mail   Mailer // nil if there is none
	// publishers holds the names of the publishers.
	publishers map[string]Publisher
}

// parse parses a Subscription and checks that this server supports it. Errors are of
// kind Unprocessable and name the element.
func (p *parser) parse(body []byte) (*Spec, error) {
	var w wire
	if err := json.Unmarshal(body, &w); err != nil {
		return nil, refuse("Subscription", "structure", "an element has the wrong JSON type")
	}
	s := &Spec{Status: w.Status, Error: w.Error, Criteria: w.Criteria, Timeout: defaultTimeout,
		MaxCount: defaultMaxCount}
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
	if err := p.criteria(s, &w); err != nil {
		return nil, err
	}
	if err := p.channel(s, &w.Channel); err != nil {
		return nil, err
	}
	return s, nil
}

// plainCriteria matches the criteria of an R4 Subscription without a topic.
var plainCriteria = regexp.MustCompile(`^[A-Z][A-Za-z]*(\?|$)`)

// criteria parses what the Subscription notifies of.
func (p *parser) criteria(s *Spec, w *wire) error {
	const path = "Subscription.criteria"
	if plainCriteria.MatchString(s.Criteria) {
		return p.plain(s, w)
	}
	s.Topic = p.topics.byURL(s.Criteria, p.base)
	if s.Topic == nil {
		return refuse(path, "not-supported",
			"must be the canonical URL of a topic of this server, such as %s, or a search, such as Observation?code=x", Topic)
	}
	exts := w.CriteriaExt.Extension
	if len(exts) > maxFilters {
		return refuse(path+".extension", "too-long", "has more than %d filters", maxFilters)
	}
	patients := map[string]bool{}
	for i, ext := range exts {
		at := fmt.Sprintf("%s.extension[%d]", path, i)
		if ext.URL != extBase+"backport-filter-criteria" {
			return refuse(at, "not-supported", "only backport-filter-criteria is supported here")
		}
		if ext.ValueString == nil {
			return refuse(at, "structure", "valueString is required")
		}
		f, err := parseFilter(at, *ext.ValueString, p.base, s.Topic)
		if err != nil && s.Topic.Feed {
			// US Core: the server removes what it does not support. The whole filter is
			// removed, because a part of it would select more than the client asked for.
			s.Dropped = append(s.Dropped, i)
			continue
		}
		if err != nil {
			return err
		}
		for _, id := range f.Patients {
			patients[id] = true
		}
		s.Filters = append(s.Filters, f)
	}
	if s.Topic.Feed && len(patients) > 1 {
		return refuse(path+".extension", "business-rule",
			"the filters name different patients; US Core allows one patient per Subscription")
	}
	if len(exts) > 0 && len(s.Filters) == 0 {
		// Without filters, the Subscription would be about everything.
		return refuse(path+".extension", "not-supported",
			"no filter is supported: the topic has the types and filters of its definition")
	}
	return nil
}

// plain parses the criteria of R4, a search on one type.
func (p *parser) plain(s *Spec, w *wire) error {
	const path = "Subscription.criteria"
	if len(w.CriteriaExt.Extension) > 0 {
		return refuse(path+".extension", "not-supported", "a search takes no extensions")
	}
	typ, query, _ := strings.Cut(s.Criteria, "?")
	if !fhir.KnownType(typ) || typ == "AuditEvent" || typ == "Subscription" {
		return refuse(path, "not-supported", "must be a search on a resource type that this server stores")
	}
	clauses, err := topic.Criteria(path, typ, query, p.base)
	if err != nil {
		return err
	}
	s.Filters = []Filter{newFilter(typ, clauses)}
	return nil
}

func (p *parser) channel(s *Spec, c *wireChannel) error {
	if err := p.channelType(s, c); err != nil {
		return err
	}
	if err := p.endpoint(s, c); err != nil {
		return err
	}
	if err := s.payload(c.Payload, c.PayloadExt.Extension); err != nil {
		return err
	}
	if err := s.headers(c.Header); err != nil {
		return err
	}
	if err := s.extensions(c.Extension); err != nil {
		return err
	}
	if s.Topic == nil && s.Content == fullResource && s.Channel != websocket {
		s.MaxCount = 1 // each request carries one resource
	}
	return nil
}

func (p *parser) channelType(s *Spec, c *wireChannel) error {
	const path = "Subscription.channel.type"
	s.Channel = c.Type
	if len(c.TypeExt.Extension) > 0 {
		x := c.TypeExt.Extension[0]
		if len(c.TypeExt.Extension) > 1 || x.URL != extBase+"backport-channel-type" || x.ValueCoding == nil ||
			x.ValueCoding.System != ChannelSystem || p.publishers[x.ValueCoding.Code] == nil {
			return refuse(path, "not-supported",
				"the extension must be a backport-channel-type with a channel of this server")
		}
		if s.Topic == nil {
			return refuse(path, "not-supported", "this channel needs a topic")
		}
		s.Channel, s.Publisher = x.ValueCoding.Code, true
		return nil
	}
	switch c.Type {
	case restHook, websocket, message:
		return nil
	case email:
		if p.mail != nil {
			return nil
		}
	}
	offered := "rest-hook, websocket or message"
	if p.mail != nil {
		offered = "rest-hook, websocket, message or email"
	}
	return refuse(path, "not-supported", "must be %s", offered)
}

func (p *parser) endpoint(s *Spec, c *wireChannel) error {
	const path = "Subscription.channel.endpoint"
	switch {
	case s.Publisher || s.Channel == websocket:
		if c.Endpoint != "" {
			return refuse(path, "value", "must be absent: the server determines it for this channel")
		}
		return nil
	case s.Channel == email:
		address, ok := strings.CutPrefix(c.Endpoint, "mailto:")
		a, err := mail.ParseAddress(address)
		if !ok || err != nil || a.Name != "" || a.Address != address || len(address) > 254 ||
			strings.ContainsAny(address, "\r\n<>\"%?&, ") {
			return refuse(path, "value", "must be mailto: and one address")
		}
		if !p.mail.Allowed(address) {
			return refuse(path, "security", "the operator does not allow mail to this domain")
		}
		s.Mail = address
		return nil
	}
	u, err := url.Parse(c.Endpoint)
	if err != nil || c.Endpoint == "" {
		return refuse(path, "value", "must be a URL")
	}
	if err := p.policy.Check(u); err != nil {
		// Report the diagnostics of the policy for the element with the URL.
		rule := "is refused"
		if e, ok := err.(*fhir.Error); ok && len(e.Issues) > 0 {
			rule = e.Issues[0].Diagnostics
		}
		return refuse(path, "security", "%s", rule)
	}
	s.Endpoint = u
	return nil
}
