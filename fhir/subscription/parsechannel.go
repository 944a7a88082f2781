package subscription

import (
	"encoding/base64"
	"fmt"
	"mime"
	"strings"
	"time"

	"golang.org/x/net/http/httpguts"
)

// payload parses the media type and the content. A Subscription to a topic states its
// content. For one with criteria of R4, a payload stands for the full resource and no
// payload for a notification without content.
func (s *Spec) payload(payload string, exts []extension) error {
	const path = "Subscription.channel.payload"
	s.Payload = payload
	if s.Topic == nil {
		return s.plainPayload(payload, exts)
	}
	want := "application/fhir+json"
	if s.Channel == email {
		want = "text/plain"
	}
	if !mediaType(payload, want) {
		return refuse(path, "not-supported",
			"must be %s for this channel, without parameters other than charset=utf-8; notifications are FHIR 4.0",
			want)
	}
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
	if s.Channel == email && s.Content != empty {
		return refuse(path+".extension", "not-supported",
			"the content must be empty, because e-mail is not a secure channel")
	}
	return nil
}

func (s *Spec) plainPayload(payload string, exts []extension) error {
	const path = "Subscription.channel.payload"
	if len(exts) > 0 {
		return refuse(path+".extension", "not-supported", "backport-payload-content needs a topic")
	}
	s.Content = empty
	switch {
	case payload == "":
		if s.Channel == message {
			return refuse(path, "required", "a message has a payload")
		}
	case s.Channel == restHook && mediaType(payload, "application/fhir+json"),
		s.Channel == message && mediaType(payload, "application/fhir+json"):
		s.Content = fullResource
	case s.Channel == restHook || s.Channel == message:
		return refuse(path, "not-supported", "must be application/fhir+json")
	default:
		return refuse(path, "not-supported", "must be absent: this channel only says that there is something new")
	}
	return nil
}

// mediaType reports whether payload is a media type without parameters that the server
// does not support.
func mediaType(payload, want string) bool {
	media, params, err := mime.ParseMediaType(payload)
	if err != nil || media != want || strings.ContainsAny(payload, "\r\n") {
		return false
	}
	for name, v := range params {
		if name != "charset" || !strings.EqualFold(v, "utf-8") {
			return false
		}
	}
	return true
}

// headers parses channel.header.
func (s *Spec) headers(list []string) error {
	if len(list) == 0 {
		return nil
	}
	if s.Endpoint == nil {
		return refuse("Subscription.channel.header", "not-supported", "this channel has no headers")
	}
	if len(list) > maxHeaders {
		return refuse("Subscription.channel.header", "too-long", "has more than %d headers", maxHeaders)
	}
	for i, h := range list {
		at := fmt.Sprintf("Subscription.channel.header[%d]", i)
		name, value, ok := strings.Cut(h, ":")
		name, value = strings.TrimSpace(name), strings.TrimSpace(value)
		if !ok || !httpguts.ValidHeaderFieldName(name) || !httpguts.ValidHeaderFieldValue(value) {
			return refuse(at, "value", "must have the form Name: value")
		}
		switch strings.ToLower(name) {
		case "host", "content-length", "content-type", "content-encoding", "transfer-encoding", "connection", "upgrade",
			"keep-alive", "te", "trailer", "proxy-authorization", "proxy-connection", "expect",
			"webhook-id", "webhook-timestamp", "webhook-signature":
			return refuse(at, "not-supported", "the server sets this header itself")
		}
		s.Headers = append(s.Headers, [2]string{name, value})
	}
	return nil
}

func (s *Spec) extensions(exts []extension) error {
	seen := map[string]bool{}
	for i, ext := range exts {
		at := fmt.Sprintf("Subscription.channel.extension[%d]", i)
		if seen[ext.URL] {
			return refuse(at, "structure", "this extension occurs twice")
		}
		seen[ext.URL] = true
		if err := s.extension(at, &ext); err != nil {
			return err
		}
	}
	return nil
}

func (s *Spec) extension(at string, ext *extension) error {
	switch ext.URL {
	case extBase + "backport-heartbeat-period":
		if s.Topic == nil {
			return refuse(at, "not-supported", "heartbeats need a topic")
		}
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
	case SigningSecret:
		if s.Endpoint == nil {
			return refuse(at, "not-supported", "this channel has no signature")
		}
		if ext.ValueString == nil {
			return refuse(at, "structure", "valueString is required")
		}
		text, _ := strings.CutPrefix(*ext.ValueString, "whsec_")
		secret, err := base64.StdEncoding.DecodeString(text)
		if err != nil || len(secret) < minSecret || len(secret) > maxSecret {
			return refuse(at, "value", "must be %d to %d bytes in base64, with or without whsec_ before it",
				minSecret, maxSecret)
		}
		s.Secret = secret
	default:
		return refuse(at, "not-supported",
			"only backport-heartbeat-period, backport-timeout, backport-max-count and subscription-signing-secret are supported here")
	}
	return nil
}
