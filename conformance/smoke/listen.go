package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"

	"github.com/coder/websocket"
)

// listens binds a WebSocket to a subscription, ingests a payload, and waits for the
// notification.
func (w *world) listens() (err error) {
	sub := []byte(`{"resourceType":"Subscription","status":"requested","reason":"smoke","criteria":"https://pulsegate.dev/fhir/SubscriptionTopic/observation-recorded",
"_criteria":{"extension":[{"url":"http://hl7.org/fhir/uv/subscriptions-backport/StructureDefinition/backport-filter-criteria","valueString":"Observation?patient=Patient/` + w.patient + `"}]},
"channel":{"type":"websocket","payload":"application/fhir+json","_payload":{"extension":[{"url":"http://hl7.org/fhir/uv/subscriptions-backport/StructureDefinition/backport-payload-content","valueCode":"id-only"}]}}}`)
	status, out, err := w.ehr.JSON("POST", "Subscription", sub)
	if err != nil || status != 201 {
		return fmt.Errorf("create: %d %v %w", status, out, err)
	}
	id := out["id"].(string)
	status, out, err = w.ehr.JSON("POST", "Subscription/"+id+"/$get-ws-binding-token", nil)
	if err != nil || status != 200 {
		return fmt.Errorf("$get-ws-binding-token: %d %v %w", status, out, err)
	}
	token, url := "", ""
	for _, p := range out["parameter"].([]any) {
		switch p := p.(map[string]any); p["name"] {
		case "token":
			token = p["valueString"].(string)
		case "websocket-url":
			url = p["valueUrl"].(string)
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	conn, _, err := websocket.Dial(ctx, url, &websocket.DialOptions{HTTPClient: w.ehr.HTTP})
	if err != nil {
		return err
	}
	defer func() {
		if cerr := conn.CloseNow(); err == nil && !errors.Is(cerr, net.ErrClosed) {
			err = cerr
		}
	}()
	conn.SetReadLimit(1 << 20)
	if err := conn.Write(ctx, websocket.MessageText, []byte("bind-with-token "+token)); err != nil {
		return err
	}
	if err := await(ctx, conn, "handshake"); err != nil {
		return err
	}
	if err := w.ingestsHeartRates("2026-10-05"); err != nil {
		return err
	}
	if err := await(ctx, conn, "event-notification"); err != nil {
		return err
	}
	status, _, err = w.ehr.JSON("DELETE", "Subscription/"+id, nil)
	if err != nil || status != 200 && status != 204 {
		return fmt.Errorf("delete: %d %w", status, err)
	}
	for err == nil {
		_, _, err = conn.Read(ctx)
	}
	return expect(websocket.CloseStatus(err) == websocket.StatusNormalClosure, "after the end: %v", err)
}

// await reads messages until a notification of the given type.
func await(ctx context.Context, conn *websocket.Conn, typ string) error {
	for {
		_, b, err := conn.Read(ctx)
		if err != nil {
			return fmt.Errorf("waiting for %s: %w", typ, err)
		}
		if strings.Contains(string(b), `"valueCode":"`+typ+`"`) {
			return nil
		}
	}
}
