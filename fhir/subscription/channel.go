package subscription

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"pulsegate/fhir"
	"pulsegate/fhir/element"
)

// Mailer sends an e-mail of plain text. The subject and the text contain no health data
// and no input other than the id of the Subscription.
type Mailer interface {
	// Allowed reports whether mail may be sent to an address.
	Allowed(to string) bool
	Mail(ctx context.Context, to, subject, text string) error
}

// Publisher hands a notification to a message broker. It returns nil once the broker has
// accepted the message; a message may be published again after an error or a crash.
// Subject is the place that the server chooses for the Subscription: the client id and the
// id of the Subscription, both without the characters that brokers treat specially,
// joined by a dot. A Publisher maps it to a subject (NATS), a topic and a key (Kafka), or
// a routing key (AMQP), and authenticates itself to the broker by its own configuration.
// The client names no address of its own. ID identifies the message; a repetition of the
// same events has another ID and equal event numbers.
type Publisher interface {
	Publish(ctx context.Context, m Publication) error
}

// Publication is a notification Bundle for a Publisher.
type Publication struct {
	Subject, ID, ContentType string
	Body                     []byte
}

// notice is a notification before it is rendered.
type notice struct {
	typ    string // of the notification
	header *header
	items  []item
	// id and uuid identify the Bundle and its SubscriptionStatus.
	id, uuid string
	at       time.Time
}

func (e *Engine) newNotice(h *header, items []item) (*notice, error) {
	n := &notice{typ: h.notificationType, header: h, items: items, at: e.opts.Clock()}
	var err error
	if n.uuid, err = newUUID(e.opts.Rand); err == nil {
		n.id, err = newUUID(e.opts.Rand)
	}
	return n, err
}

// bundle appends the notification Bundle.
func (n *notice) bundle(b []byte, base string) []byte {
	return appendNotification(b, base, n.id, n.uuid, n.at, n.header, n.items)
}

var errNoChannel = errors.New("the channel does not send")

// send sends a notification through the channel of a Subscription.
func (e *Engine) send(ctx context.Context, owner string, spec *Spec, n *notice) error {
	switch {
	case spec.Publisher:
		p := e.opts.Publishers[spec.Channel]
		if p == nil {
			return errNoChannel
		}
		return p.Publish(ctx, Publication{Subject: subjectOf(owner) + "." + subjectOf(n.header.id), ID: n.id,
			ContentType: "application/fhir+json", Body: n.bundle(nil, e.opts.Base)})
	case spec.Channel == email:
		if e.opts.Mail == nil {
			return errNoChannel
		}
		return e.opts.Mail.Mail(ctx, spec.Mail, "Notification of subscription "+n.header.id, n.text(e.opts.Base))
	case spec.Channel == message:
		return e.request(ctx, owner, spec, n.id, http.MethodPost, spec.Endpoint.JoinPath("$process-message"),
			"application/fhir+json", n.message(e.opts.Base, spec))
	case spec.Channel != restHook:
		return errNoChannel
	case spec.Topic != nil:
		return e.request(ctx, owner, spec, n.id, http.MethodPost, spec.Endpoint, spec.Payload,
			n.bundle(make([]byte, 0, 4096), e.opts.Base))
	case spec.Content == empty:
		return e.request(ctx, owner, spec, n.id, http.MethodPost, spec.Endpoint, "", nil)
	}
	// R4: "If a payload is included, the URL is interpreted as the service base, and an
	// update (PUT) is made."
	for i := range n.items {
		it := &n.items[i]
		if !it.visible || it.json == nil {
			continue
		}
		ref := it.ref()
		if err := e.request(ctx, owner, spec, n.id, http.MethodPut, spec.Endpoint.JoinPath(ref.Type, ref.ID),
			spec.Payload, it.json); err != nil {
			return err
		}
	}
	return nil
}

// subjectOf replaces the characters that brokers treat specially.
func subjectOf(id string) string {
	out := []byte(id)
	for i, c := range out {
		if !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-') {
			out[i] = '_'
		}
	}
	return string(out)
}

// text is the text of an e-mail. It says that there is something new and where to ask.
func (n *notice) text(base string) string {
	what := "There are new events."
	switch n.typ {
	case "handshake":
		what = "This address was given for the notifications of a subscription. If you do not expect them, ask the sender to delete the subscription."
	case "heartbeat":
		what = "The subscription is active. There are no new events."
	}
	text := what + "\n\nSubscription: " + base + "/Subscription/" + n.header.id + "\nEvents so far: " +
		strconv.FormatUint(n.header.total, 10) + "\n"
	if len(n.items) > 0 {
		text += "Read the new ones: " + base + "/Subscription/" + n.header.id + "/$events?eventsSinceNumber=" +
			strconv.FormatUint(n.items[0].Number, 10) + "\n"
	}
	return text
}

// message renders a notification as a FHIR message, whose focus is the notification
// Bundle or, for criteria of R4, the resources.
func (n *notice) message(base string, spec *Spec) []byte {
	b := append([]byte(nil), `{"resourceType":"Bundle","id":"`+n.id+`","type":"message","timestamp":"`...)
	b = n.at.UTC().AppendFormat(b, fhir.InstantLayout)
	b = append(b, `","entry":[{"fullUrl":"urn:uuid:`+n.uuid+`","resource":{"resourceType":"MessageHeader","id":"`+
		n.uuid+`","eventUri":`...)
	event := spec.Criteria
	if spec.Topic == nil {
		event = fhir.Canonical + "/Message/subscription-match"
	}
	b = element.AppendHTMLSafe(b, event)
	b = append(b, `,"destination":[{"endpoint":`...)
	b = element.AppendHTMLSafe(b, spec.Endpoint.String())
	b = append(b, `}],"source":{"name":"Pulsegate","endpoint":`...)
	b = element.AppendHTMLSafe(b, base)
	b = append(b, `},"focus":[`...)
	if spec.Topic != nil {
		b = append(b, `{"reference":"urn:uuid:`+n.id+`"}]}},{"fullUrl":"urn:uuid:`+n.id+`","resource":`...)
		b = n.bundle(b, base)
		return append(b, `}]}`...)
	}
	var entries []byte
	for i := range n.items {
		it := &n.items[i]
		if !it.visible || it.json == nil {
			continue
		}
		if len(entries) > 0 {
			b = append(b, ',')
		}
		b = append(b, `{"reference":`...)
		b = append(element.AppendHTMLSafe(b, base+"/"+it.ref().String()), '}')
		entries = append(entries, `,{"fullUrl":`...)
		entries = element.AppendHTMLSafe(entries, base+"/"+it.ref().String())
		entries = append(append(append(entries, `,"resource":`...), it.json...), '}')
	}
	b = append(b, `]}}`...)
	return append(append(b, entries...), `]}`...)
}

// request makes one HTTP request. A nil body sends none.
func (e *Engine) request(ctx context.Context, owner string, spec *Spec, id, method string, u *url.URL,
	contentType string, body []byte) error {
	req, err := http.NewRequestWithContext(ctx, method, u.String(), bytes.NewReader(body))
	if err != nil {
		return err
	}
	if e.opts.Authorize != nil {
		authorization, err := e.opts.Authorize(ctx, owner, spec.Endpoint)
		if err != nil {
			return err
		}
		if authorization != "" {
			req.Header.Set("Authorization", authorization)
		}
	}
	for _, h := range spec.Headers {
		if http.CanonicalHeaderKey(h[0]) == "Authorization" && req.Header.Get("Authorization") != "" {
			continue // the operator's configuration takes the place of the client's header
		}
		req.Header.Add(h[0], h[1])
	}
	if contentType != "" {
		req.Header.Set("Content-Type", contentType)
	}
	if spec.Secret != nil {
		sign(req.Header, spec.Secret, id, e.opts.Clock(), body)
	}
	resp, err := e.client.Do(req)
	if err != nil {
		return err
	}
	// Read the body up to a limit, so that the connection can be reused.
	_, derr := io.Copy(io.Discard, io.LimitReader(resp.Body, 64<<10))
	if err := resp.Body.Close(); err != nil {
		return err
	}
	if resp.StatusCode < 200 || resp.StatusCode > 299 {
		return errors.New("status " + strconv.Itoa(resp.StatusCode))
	}
	return derr
}

// sign adds a signature according to Standard Webhooks 1.0: HMAC-SHA-256 over the id, the
// time in Unix seconds and the body, joined by dots.
func sign(h http.Header, secret []byte, id string, at time.Time, body []byte) {
	stamp := strconv.FormatInt(at.Unix(), 10)
	mac := hmac.New(sha256.New, secret)
	mac.Write([]byte(id + "." + stamp + "."))
	mac.Write(body)
	h.Set("webhook-id", id)
	h.Set("webhook-timestamp", stamp)
	h.Set("webhook-signature", "v1,"+base64.StdEncoding.EncodeToString(mac.Sum(nil)))
}
