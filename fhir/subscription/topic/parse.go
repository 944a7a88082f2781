package topic

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"pulsegate/fhir/element"
)

// MaxSize bounds a definition in bytes.
const MaxSize = 256 << 10

// Code is the code of a Basic that holds a topic.
const (
	CodeSystem = "http://hl7.org/fhir/fhir-types"
	Code       = "SubscriptionTopic"
)

const (
	r5    = "http://hl7.org/fhir/5.0/StructureDefinition/extension-SubscriptionTopic."
	r4b   = "http://hl7.org/fhir/4.3/StructureDefinition/extension-SubscriptionTopic."
	types = "http://hl7.org/fhir/StructureDefinition/"
)

// extension is an extension of a Basic.
type extension struct {
	URL            string      `json:"url"`
	Extension      []extension `json:"extension,omitempty"`
	ValueURI       string      `json:"valueUri,omitempty"`
	ValueCanonical string      `json:"valueCanonical,omitempty"`
	ValueString    string      `json:"valueString,omitempty"`
	ValueMarkdown  string      `json:"valueMarkdown,omitempty"`
	ValueCode      string      `json:"valueCode,omitempty"`
	ValueDateTime  string      `json:"valueDateTime,omitempty"`
	ValueBoolean   *bool       `json:"valueBoolean,omitempty"`
}

// text returns the value, which is of one of several string types.
func (e *extension) text() string {
	for _, s := range []string{e.ValueURI, e.ValueCanonical, e.ValueString, e.ValueMarkdown, e.ValueCode,
		e.ValueDateTime} {
		if s != "" {
			return s
		}
	}
	return ""
}

// queryCriteria, resourceTrigger, canFilterBy, shape and subscriptionTopic are the
// elements of R5.
type queryCriteria struct {
	Previous, Current                string
	ResultForCreate, ResultForDelete string
	RequireBoth                      bool
}

type resourceTrigger struct {
	Description, Resource string
	SupportedInteraction  []string
	QueryCriteria         *queryCriteria
	FHIRPathCriteria      string
}

type canFilterBy struct {
	Description, Resource, FilterParameter, FilterDefinition string
	Comparator, Modifier                                     []string
}

type notificationShape struct {
	Resource            string
	Include, RevInclude []string
}

type subscriptionTopic struct {
	ResourceType, ID                  string
	URL, Version, Name, Title, Status string
	Date, Description                 string
	ResourceTrigger                   []resourceTrigger
	EventTrigger                      []json.RawMessage
	CanFilterBy                       []canFilterBy
	NotificationShape                 []notificationShape
	ModifierExtension                 []extension
	Extension                         []extension
	Code                              element.CodeableConcept
}

// IsTopic reports whether a Basic holds a topic.
func IsTopic(body []byte) bool {
	var b struct{ Code element.CodeableConcept }
	return json.Unmarshal(body, &b) == nil && isTopic(b.Code)
}

func isTopic(c element.CodeableConcept) bool {
	return slices.ContainsFunc(c.Coding,
		func(c element.Coding) bool { return c.Code == Code && c.System == CodeSystem })
}

// Parse reads a topic from a SubscriptionTopic of R5 or a Basic of R4, in JSON. base is
// the FHIR base URL. Errors are of kind Unprocessable and name the element.
func Parse(body []byte, base string) (*Topic, error) {
	if len(body) > MaxSize {
		return nil, refuse("SubscriptionTopic", "too-long", "has more than %d bytes", MaxSize)
	}
	var w subscriptionTopic
	d := json.NewDecoder(bytes.NewReader(body))
	if err := d.Decode(&w); err != nil {
		return nil, refuse("SubscriptionTopic", "structure", "is not JSON, or an element has the wrong JSON type")
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, refuse("SubscriptionTopic", "structure", "has text after its end")
	}
	switch w.ResourceType {
	case "SubscriptionTopic":
		if len(w.ModifierExtension) > 0 {
			return nil, refuse("SubscriptionTopic.modifierExtension", "not-supported",
				"modifier extensions are not supported")
		}
	case "Basic":
		if !isTopic(w.Code) {
			return nil, refuse("Basic.code", "value", "must be %s|%s", CodeSystem, Code)
		}
		if err := w.unfold(); err != nil {
			return nil, err
		}
	default:
		return nil, refuse("SubscriptionTopic", "invalid", "must be a SubscriptionTopic or a Basic")
	}
	if len(w.EventTrigger) > 0 {
		return nil, refuse("SubscriptionTopic.eventTrigger", "not-supported", "only resourceTrigger is supported")
	}
	t, err := w.topic()
	if err != nil {
		return nil, err
	}
	if err := t.compile(base); err != nil {
		return nil, err
	}
	return t, nil
}

// form says how a Basic holds an element of SubscriptionTopic in an extension.
type form struct {
	list, object bool
}

// forms holds the elements of SubscriptionTopic by name.
var forms = map[string]form{ // read only
	"url": {}, "version": {}, "name": {}, "title": {}, "status": {}, "date": {}, "description": {}, "resource": {},
	"resourceTrigger": {list: true, object: true}, "canFilterBy": {list: true, object: true},
	"notificationShape": {list: true, object: true}, "queryCriteria": {object: true},
	"supportedInteraction": {list: true}, "fhirPathCriteria": {}, "previous": {}, "current": {}, "resultForCreate": {},
	"resultForDelete": {}, "requireBoth": {}, "filterParameter": {}, "filterDefinition": {}, "comparator": {list: true},
	"modifier": {list: true}, "include": {list: true}, "revInclude": {list: true},
}

// unfold sets the elements that a Basic holds in extensions.
func (w *subscriptionTopic) unfold() error {
	var elements []extension
	for i, e := range w.ModifierExtension {
		if e.URL != r5+"status" && e.URL != r4b+"status" {
			return refuse(fmt.Sprintf("Basic.modifierExtension[%d]", i), "not-supported",
				"is not an element of SubscriptionTopic")
		}
		e.URL = "status"
		elements = append(elements, e)
	}
	for i, e := range w.Extension {
		name, ok := strings.CutPrefix(e.URL, r5)
		if !ok {
			if name, ok = strings.CutPrefix(e.URL, r4b); !ok {
				continue // an extension of another guide does not change the meaning
			}
		}
		if name == "eventTrigger" {
			return refuse(fmt.Sprintf("Basic.extension[%d]", i), "not-supported", "only resourceTrigger is supported")
		}
		e.URL = name
		elements = append(elements, e)
	}
	body, err := json.Marshal(objectOf(elements))
	if err != nil {
		return err
	}
	read := subscriptionTopic{ID: w.ID}
	if json.Unmarshal(body, &read) != nil {
		return refuse("Basic.extension", "structure", "an element of SubscriptionTopic has the wrong type")
	}
	*w = read
	return nil
}

// objectOf returns the element of R5 whose members the extensions hold.
func objectOf(list []extension) map[string]any {
	out := map[string]any{}
	for i := range list {
		e := &list[i]
		f, known := forms[e.URL]
		if !known {
			continue
		}
		var v any
		switch {
		case f.object:
			v = objectOf(e.Extension)
		case e.ValueBoolean != nil:
			v = *e.ValueBoolean
		default:
			if v = e.text(); e.URL == "requireBoth" {
				v = false
			}
		}
		if f.list {
			several, _ := out[e.URL].([]any)
			v = append(several, v)
		}
		out[e.URL] = v
	}
	return out
}

// topic returns the uncompiled topic.
func (w *subscriptionTopic) topic() (*Topic, error) {
	t := &Topic{ID: w.ID, URL: w.URL, Version: w.Version, Name: w.Name, Title: w.Title, Status: w.Status, Date: w.Date,
		Description: w.Description, Feed: w.URL == FeedURL}
	for i, x := range w.ResourceTrigger {
		path := fmt.Sprintf("SubscriptionTopic.resourceTrigger[%d]", i)
		r := Trigger{Description: x.Description, Resource: strings.TrimPrefix(x.Resource, types),
			FHIRPath: x.FHIRPathCriteria}
		for j, code := range x.SupportedInteraction {
			bit := slices.Index(interactions, code)
			if bit < 0 {
				return nil, refuse(fmt.Sprintf("%s.supportedInteraction[%d]", path, j), "code-invalid",
					"must be create, update or delete")
			}
			r.Interactions |= 1 << bit
		}
		if q := x.QueryCriteria; q != nil {
			r.Previous, r.Current, r.RequireBoth = q.Previous, q.Current, q.RequireBoth
			for name, v := range map[string]struct {
				code string
				into *bool
			}{"resultForCreate": {q.ResultForCreate, &r.CreatePasses},
				"resultForDelete": {q.ResultForDelete, &r.DeletePasses}} {
				switch v.code {
				case "test-passes":
					*v.into = true
				case "", "test-fails":
				default:
					return nil, refuse(path+".queryCriteria."+name, "code-invalid", "must be test-passes or test-fails")
				}
			}
		}
		t.Triggers = append(t.Triggers, r)
	}
	for _, x := range w.CanFilterBy {
		t.Filters = append(t.Filters, FilterBy{Description: x.Description,
			Resource: strings.TrimPrefix(x.Resource, types), Parameter: x.FilterParameter, Modifiers: x.Modifier})
	}
	for _, x := range w.NotificationShape {
		t.Shapes = append(t.Shapes, Shape{Resource: strings.TrimPrefix(x.Resource, types), Include: x.Include,
			RevInclude: x.RevInclude})
	}
	return t, nil
}
