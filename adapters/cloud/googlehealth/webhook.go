package googlehealth

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"net/http"
	"strings"
	"time"

	"pulsegate/adapters/cloud"
	"pulsegate/adapters/cloud/internal/answer"
)

const (
	maxNotification = 1 << 20
	minSecret       = 16          // bytes
	keepKeys        = 8 * day     // Google retries for seven days
	anInstant       = time.Second // makes a window of a closed interval or an instant
)

// authorization returns the value of the header Authorization for the content of a
// secret file.
func authorization(content string) (string, error) {
	s := strings.TrimSpace(content)
	if s == "" {
		return "", nil
	}
	if len(s) < minSecret {
		return "", errors.New("fitbit: the webhook secret must have at least 16 characters")
	}
	if !strings.Contains(s, " ") {
		s = "Bearer " + s
	}
	return s, nil
}

// configureWebhook reads the options of notifications.
func (v *vendor) configureWebhook(c cloud.Config) error {
	var present string
	for _, option := range []string{"webhook-secret-file", "webhook-secret-previous-file"} {
		s, err := authorization(c.Options[option])
		if err != nil {
			return err
		}
		if s == "" {
			continue
		}
		v.secrets = append(v.secrets, sha256.Sum256([]byte(s)))
		if present == "" {
			present = s
		}
	}
	if c.Options["webhook-secret-file"] == "" && len(v.secrets) > 0 {
		return errors.New("fitbit: webhook-secret-previous-file needs webhook-secret-file")
	}
	if c.Options["service-account-file"] == "" {
		return nil
	}
	var err error
	v.subscriber, err = v.newSubscriber(c, present)
	return err
}

// authorized checks the value of Authorization in constant time.
func (v *vendor) authorized(value string) bool {
	sum, ok := sha256.Sum256([]byte(value)), 0
	for _, s := range v.secrets {
		ok |= subtle.ConstantTimeCompare(sum[:], s[:])
	}
	return ok == 1
}

func refuse(status int, problem cloud.Problem, reason string) (cloud.Receipt, error) {
	return cloud.Receipt{Status: status}, &cloud.Error{Problem: problem, Reason: reason}
}

// Receive implements cloud.Notifier. Google verifies an endpoint by two requests: it
// answers 201 to the one with the secret and 401 to the one without.
func (v *vendor) Receive(ctx context.Context, n *cloud.Notification) (cloud.Receipt, error) {
	if n.Method != http.MethodPost {
		return refuse(http.StatusMethodNotAllowed, cloud.Rejected, "method")
	}
	if n.Path != "" {
		return refuse(http.StatusNotFound, cloud.NotFound, "unknown-path")
	}
	// A signature is valid for every endpoint in the world; the secret is not.
	if !v.authorized(n.Header.Get("Authorization")) {
		return refuse(http.StatusUnauthorized, cloud.Unauthorized, "authorization")
	}
	if len(n.Body) > maxNotification {
		return refuse(http.StatusRequestEntityTooLarge, cloud.Rejected, "body-too-large")
	}
	if isVerification(n.Body) {
		return cloud.Receipt{Status: http.StatusCreated}, nil
	}
	signature := n.Header.Get("GOOGLE-HEALTH-API-SIGNATURE")
	if signature == "" {
		signature = n.Header.Get("X-HEALTHAPI-SIGNATURE")
	}
	r, err := v.keys.verify(ctx, signature, n.Body)
	if err != nil {
		status := http.StatusUnauthorized
		if cloud.ProblemOf(err) != cloud.Unauthorized {
			status = http.StatusServiceUnavailable // Google tries again
		}
		return cloud.Receipt{Status: status}, err
	}
	events, err := v.Events(n.Body)
	if err != nil {
		return refuse(http.StatusBadRequest, cloud.Rejected, "malformed-body")
	}
	// Two changes of one interval have equal bodies. Signatures differ each time, so that
	// only a copy of a notification has its key.
	h := sha256.New()
	h.Write(r)
	h.Write(n.Body)
	return cloud.Receipt{Status: http.StatusNoContent, Store: len(events) > 0, Key: [32]byte(h.Sum(nil)),
		Keep: keepKeys}, nil
}

func isVerification(body []byte) bool {
	if len(body) > 1024 {
		return false
	}
	var b struct{ Type string }
	return json.Unmarshal(body, &b) == nil && b.Type == "verification"
}

// notification is one announcement.
type notification struct {
	HealthUserID string `json:"healthUserId"`
	Operation    string `json:"operation"`
	DataType     string `json:"dataType"`
	Intervals    []struct {
		Physical struct {
			Start time.Time `json:"startTime"`
			End   time.Time `json:"endTime"`
		} `json:"physicalTimeInterval"`
		Civil struct {
			Start string `json:"startTime"`
			End   string `json:"endTime"`
		} `json:"civilIso8601TimeInterval"`
	} `json:"intervals"`
}

// Events implements cloud.Notifier. The documents show one object, real bodies are
// arrays. Malformed elements of an array are left out as long as one is well-formed: the
// daily poll makes up for them.
func (v *vendor) Events(body []byte) ([]cloud.Event, error) {
	if len(body) > maxNotification {
		return nil, cloud.Malformed()
	}
	var list []json.RawMessage
	if b := bytes.TrimLeft(body, " \t\r\n"); !bytes.HasPrefix(b, []byte("[")) {
		list = []json.RawMessage{body}
	} else if json.Unmarshal(body, &list) != nil {
		return nil, cloud.Malformed()
	}
	var out []cloud.Event
	good := false
	for _, raw := range list {
		var e struct{ Data *notification }
		if json.Unmarshal(raw, &e) != nil || e.Data == nil || !answer.IsID(e.Data.HealthUserID) ||
			e.Data.Operation != "UPSERT" && e.Data.Operation != "DELETE" {
			continue
		}
		good = true
		out = append(out, v.events(e.Data)...)
	}
	if !good {
		return nil, cloud.Malformed()
	}
	return out, nil
}

// events returns the events of one announcement, none for types that are not read.
func (v *vendor) events(n *notification) []cloud.Event {
	t := v.find(n.DataType)
	if t == nil || !t.notified {
		return nil
	}
	var out []cloud.Event
	for _, i := range n.Intervals {
		from, to := i.Physical.Start, i.Physical.End
		if !valid(from) || !valid(to) || to.Before(from) {
			continue
		}
		e := cloud.Event{Account: n.HealthUserID, Stream: t.name, Deleted: n.Operation == "DELETE"}
		switch {
		case t.kind == rollup:
			// A deletion within a day changes the sum of the day.
			e.Deleted = false
			e.From, e.To = dates(i.Civil.Start, i.Civil.End, from, to)
		case t.kind == daily:
			e.From, e.To = dates(i.Civil.Start, i.Civil.End, from, to)
		case t.kind == night, from.Equal(to), !e.Deleted:
			e.From, e.To = from, to.Add(anInstant) // the end counts, too
		default:
			e.From, e.To = from, to
		}
		out = append(out, e)
	}
	return out
}

func valid(t time.Time) bool { return t.Year() >= 1970 && t.Year() < 9000 }

// dates returns the dates that a civil interval touches, or else all that the physical
// one may touch.
func dates(start, end string, from, to time.Time) (time.Time, time.Time) {
	first, err1 := time.Parse("2006-01-02T15:04:05.999999999", start)
	last, err2 := time.Parse("2006-01-02T15:04:05.999999999", end)
	if err1 != nil || err2 != nil || !valid(first) || !valid(last) || last.Before(first) {
		return cloud.Dates(from, to)
	}
	day1, dayN := first.Truncate(day), last.Truncate(day)
	if dayN.Before(last) || dayN.Equal(day1) {
		dayN = dayN.Add(day)
	}
	return day1, dayN
}
