package rest

import (
	"encoding/json"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/gin-gonic/gin"

	"pulsegate/fhir"
	"pulsegate/fhir/interaction"
	"pulsegate/fhir/subscription"
)

// Subscriptions serves the operations of the Subscriptions Backport guide:
//
//	GET, POST /Subscription/$status        id and status as lists
//	GET, POST /Subscription/:id/$status
//	GET, POST /Subscription/:id/$events    eventsSinceNumber, eventsUntilNumber, content
//	GET, POST /Subscription/$get-ws-binding-token      id as list
//	GET, POST /Subscription/:id/$get-ws-binding-token
//	POST      /Subscription/:id/$resend    eventsSinceNumber, eventsUntilNumber, eventsSinceInstant, eventsUntilInstant
type Subscriptions struct {
	Engine *subscription.Engine
	// Service records failed requests. If it is nil, none are recorded.
	Service *interaction.Service
}

// Mount adds the routes below the FHIR base.
func (h Subscriptions) Mount(r gin.IRouter) {
	for _, m := range []string{http.MethodGet, http.MethodPost} {
		r.Handle(m, "/Subscription/$status", negotiate, h.status)
		// The route cannot begin with /Subscription/ (see Bulk.Mount).
		r.Handle(m, "/:type/:id/$status", negotiate, h.instance(h.status))
		r.Handle(m, "/:type/:id/$events", negotiate, h.instance(h.events))
		r.Handle(m, "/Subscription/$get-ws-binding-token", negotiate, h.token)
		r.Handle(m, "/:type/:id/$get-ws-binding-token", negotiate, h.instance(h.token))
	}
	r.POST("/:type/:id/$resend", negotiate, h.instance(h.resend)) // it sends something, so GET is not offered
}

// instance restricts a route to the type Subscription.
func (h Subscriptions) instance(next gin.HandlerFunc) gin.HandlerFunc {
	return func(c *gin.Context) {
		if c.Param("type") != "Subscription" {
			refuse(c, h.Service, fhir.Ref{},
				fhir.Errorf(fhir.NotFound, "rest.Subscriptions", "the operation is offered for Subscription"))
			return
		}
		next(c)
	}
}

func subscriptionRequest(c *gin.Context) subscription.Request {
	return subscription.Request{Caller: callerOf(c),
		Query: c.Request.Method + " " + c.Request.URL.RequestURI()}
}

// operationParams parses the query and, for a POST, a Parameters resource. It splits
// values at commas and collects them by name.
func operationParams(c *gin.Context) (map[string][]string, error) {
	values, err := url.ParseQuery(c.Request.URL.RawQuery)
	if err != nil {
		return nil, fhir.Errorf(fhir.Invalid, "rest.Subscriptions", "the query cannot be read")
	}
	out := map[string][]string{}
	for name, list := range values {
		for _, v := range list {
			if strings.Trim(v, ", ") != "" { // R4 search.html: empty parameters are ignored
				out[name] = append(out[name], strings.Split(v, ",")...)
			}
		}
	}
	if c.Request.Method != http.MethodPost {
		return out, nil
	}
	body, err := optionalParameters(c, "rest.Subscriptions")
	if len(body) == 0 || err != nil {
		return out, err
	}
	var p struct {
		ResourceType string
		Parameter    []struct {
			Name                            string
			ValueString, ValueID, ValueCode *string
			ValueInteger                    *json.Number
			ValueInstant                    *string
		}
	}
	if err := json.Unmarshal(body, &p); err != nil || p.ResourceType != "Parameters" {
		return nil, fhir.Errorf(fhir.Invalid, "rest.Subscriptions", "the body must be a Parameters resource")
	}
	for _, x := range p.Parameter {
		switch {
		case x.ValueString != nil:
			out[x.Name] = append(out[x.Name], *x.ValueString)
		case x.ValueID != nil:
			out[x.Name] = append(out[x.Name], *x.ValueID)
		case x.ValueCode != nil:
			out[x.Name] = append(out[x.Name], *x.ValueCode)
		case x.ValueInstant != nil:
			out[x.Name] = append(out[x.Name], *x.ValueInstant)
		case x.ValueInteger != nil:
			out[x.Name] = append(out[x.Name], x.ValueInteger.String())
		}
	}
	return out, nil
}

// onlyParams returns an error for parameters that an operation does not support.
func onlyParams(params map[string][]string, names ...string) error {
	for name := range params {
		ok := name == "_format" || name == "_pretty"
		for _, n := range names {
			ok = ok || n == name
		}
		if !ok {
			return fhir.Errorf(fhir.Invalid, "rest.Subscriptions", "the operation has the parameters %s only",
				strings.Join(names, ", "))
		}
	}
	return nil
}

func (h Subscriptions) status(c *gin.Context) {
	params, err := operationParams(c)
	if err == nil {
		err = onlyParams(params, "id", "status")
	}
	if err != nil {
		refuse(c, h.Service, fhir.Ref{}, err)
		return
	}
	ids, statuses := params["id"], params["status"]
	instance := c.Param("id") != ""
	if instance { // both parameters are ignored, as the guide requires
		ids, statuses = []string{c.Param("id")}, nil
	}
	b, err := h.Engine.Status(c.Request.Context(), subscriptionRequest(c), ids, statuses, instance)
	if err != nil {
		refuse(c, h.Service, fhir.Ref{}, err)
		return
	}
	send(c, http.StatusOK, b)
}

func (h Subscriptions) events(c *gin.Context) {
	params, err := operationParams(c)
	if err == nil {
		err = onlyParams(params, "eventsSinceNumber", "eventsUntilNumber", "content")
	}
	if err != nil {
		refuse(c, h.Service, fhir.Ref{}, err)
		return
	}
	since, err := wholeNumber(params, "eventsSinceNumber", err)
	until, err := wholeNumber(params, "eventsUntilNumber", err)
	if err != nil {
		refuse(c, h.Service, fhir.Ref{}, err)
		return
	}
	content := ""
	if v := params["content"]; len(v) > 0 {
		content = v[0]
	}
	b, err := h.Engine.Events(collecting(c, c.Request.Context()), subscriptionRequest(c), c.Param("id"), since,
		until, subscription.Content(content))
	if err != nil {
		refuse(c, h.Service, fhir.Ref{}, err)
		return
	}
	send(c, http.StatusOK, b)
}

// wholeNumber returns the value of a parameter, or 0 if it is absent or err is not nil.
func wholeNumber(params map[string][]string, name string, err error) (uint64, error) {
	v := params[name]
	if len(v) == 0 || err != nil {
		return 0, err
	}
	n, perr := strconv.ParseUint(v[0], 10, 64)
	if perr != nil || len(v) > 1 {
		return 0, fhir.Errorf(fhir.Invalid, "rest.Subscriptions", "%s must be one whole number", name)
	}
	return n, nil
}

// instant is like wholeNumber, for an instant.
func instant(params map[string][]string, name string, err error) (time.Time, error) {
	v := params[name]
	if len(v) == 0 || err != nil {
		return time.Time{}, err
	}
	t, perr := time.Parse(time.RFC3339Nano, v[0])
	if perr != nil || len(v) > 1 {
		return time.Time{}, fhir.Errorf(fhir.Invalid, "rest.Subscriptions", "%s must be one instant", name)
	}
	return t, nil
}

func (h Subscriptions) token(c *gin.Context) {
	params, err := operationParams(c)
	if err == nil {
		err = onlyParams(params, "id")
	}
	if err != nil {
		refuse(c, h.Service, fhir.Ref{}, err)
		return
	}
	ids := params["id"]
	if id := c.Param("id"); id != "" { // the parameter is ignored, as the guide requires
		ids = []string{id}
	}
	b, err := h.Engine.BindingToken(c.Request.Context(), subscriptionRequest(c), ids)
	if err != nil {
		refuse(c, h.Service, fhir.Ref{}, err)
		return
	}
	c.Header("Cache-Control", "no-store")
	send(c, http.StatusOK, b)
}

func (h Subscriptions) resend(c *gin.Context) {
	params, err := operationParams(c)
	if err == nil {
		err = onlyParams(params, "eventsSinceNumber", "eventsUntilNumber", "eventsSinceInstant", "eventsUntilInstant")
	}
	var r subscription.Range
	r.Since, err = wholeNumber(params, "eventsSinceNumber", err)
	r.Until, err = wholeNumber(params, "eventsUntilNumber", err)
	r.From, err = instant(params, "eventsSinceInstant", err)
	r.To, err = instant(params, "eventsUntilInstant", err)
	if err != nil {
		refuse(c, h.Service, fhir.Ref{}, err)
		return
	}
	b, err := h.Engine.Resend(c.Request.Context(), subscriptionRequest(c), c.Param("id"), r)
	if err != nil {
		refuse(c, h.Service, fhir.Ref{}, err)
		return
	}
	send(c, http.StatusOK, b)
}
