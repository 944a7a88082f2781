package oura

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"pulsegate/adapters/cloud"
	"pulsegate/adapters/cloud/internal/answer"
)

const (
	maxNotification = 64 << 10
	maxChallenge    = 1 << 10
	maxAge          = 2 * time.Hour   // Oura retries for about one hour
	maxAhead        = 5 * time.Minute // of the sender's clock
)

// refuse returns the receipt for a request that is not accepted. The status is never
// 410, with which Oura would cancel the subscription.
func refuse(status int, problem cloud.Problem, reason string) (cloud.Receipt, error) {
	return cloud.Receipt{Status: status}, &cloud.Error{Problem: problem, Reason: reason}
}

// Receive implements cloud.Notifier.
func (v *vendor) Receive(_ context.Context, n *cloud.Notification) (cloud.Receipt, error) {
	operation, dataType, _ := strings.Cut(n.Path, "/")
	if _, ok := streamOf(dataType); !ok || !slices.Contains(operations, operation) {
		return refuse(http.StatusNotFound, cloud.NotFound, "unknown-path")
	}
	switch n.Method {
	case http.MethodGet:
		return v.challenge(n)
	case http.MethodPost:
		return v.notification(n, operation, dataType)
	}
	return refuse(http.StatusMethodNotAllowed, cloud.Rejected, "method")
}

// challenge answers the request by which Oura verifies a new subscription.
func (v *vendor) challenge(n *cloud.Notification) (cloud.Receipt, error) {
	want := v.verification(n.Callback + "/" + n.Path)
	if !hmac.Equal([]byte(n.Query.Get("verification_token")), []byte(want)) {
		return refuse(http.StatusUnauthorized, cloud.Unauthorized, "verification-token")
	}
	challenge := n.Query.Get("challenge")
	if challenge == "" || len(challenge) > maxChallenge {
		return refuse(http.StatusBadRequest, cloud.Rejected, "challenge")
	}
	body, err := json.Marshal(map[string]string{"challenge": challenge})
	if err != nil {
		return refuse(http.StatusBadRequest, cloud.Rejected, "challenge")
	}
	return cloud.Receipt{Status: http.StatusOK, Body: body}, nil
}

// verification returns the verification token of the subscription with a URL.
func (v *vendor) verification(callback string) string {
	return hex.EncodeToString(v.mac([]byte(callback)))
}

func (v *vendor) mac(parts ...[]byte) []byte {
	h := hmac.New(sha256.New, []byte(v.oauth.ClientSecret))
	for _, p := range parts {
		h.Write(p)
	}
	return h.Sum(nil)
}

func (v *vendor) notification(n *cloud.Notification, operation, dataType string) (cloud.Receipt, error) {
	if len(n.Body) > maxNotification {
		return refuse(http.StatusRequestEntityTooLarge, cloud.Rejected, "body-too-large")
	}
	stamp := n.Header.Get("x-oura-timestamp")
	signature, err := hex.DecodeString(n.Header.Get("x-oura-signature"))
	if err != nil || !hmac.Equal(signature, v.mac([]byte(stamp), n.Body)) {
		return refuse(http.StatusUnauthorized, cloud.Unauthorized, "signature")
	}
	secs, err := strconv.ParseInt(stamp, 10, 64)
	if err != nil || len(stamp) > 12 {
		return refuse(http.StatusUnauthorized, cloud.Unauthorized, "timestamp")
	}
	if age := n.Now.Sub(time.Unix(secs, 0)); age > maxAge || age < -maxAhead {
		return refuse(http.StatusUnauthorized, cloud.Unauthorized, "timestamp")
	}
	m, err := parse(n.Body)
	if err != nil {
		return refuse(http.StatusBadRequest, cloud.Rejected, "malformed-body")
	}
	if m.EventType != operation || m.DataType != dataType {
		return refuse(http.StatusBadRequest, cloud.Rejected, "path-and-body-differ")
	}
	stream, _ := streamOf(dataType)
	return cloud.Receipt{
		Status: http.StatusOK, Store: stream != "",
		// A retry can have a new timestamp, but not another event_time. After Keep,
		// repetitions are older than maxAge.
		Key: sha256.Sum256(n.Body), Keep: 2 * maxAge,
	}, nil
}

// message is the body of a notification.
type message struct {
	EventType string `json:"event_type"`
	DataType  string `json:"data_type"`
	ObjectID  string `json:"object_id"`
	UserID    string `json:"user_id"`
}

func parse(body []byte) (message, error) {
	var m message
	if len(body) > maxNotification || json.Unmarshal(body, &m) != nil {
		return message{}, cloud.Malformed()
	}
	if !slices.Contains(operations, m.EventType) || !answer.IsID(m.ObjectID) || !answer.IsID(m.UserID) {
		return message{}, cloud.Malformed()
	}
	return m, nil
}

// Events implements cloud.Notifier. Types without a stream have no events.
func (*vendor) Events(body []byte) ([]cloud.Event, error) {
	m, err := parse(body)
	if err != nil {
		return nil, err
	}
	stream, _ := streamOf(m.DataType)
	if stream == "" {
		return nil, nil
	}
	return []cloud.Event{{Account: m.UserID, Stream: stream, Object: m.ObjectID,
		Deleted: m.EventType == "delete"}}, nil
}
