package admin

import (
	"context"
	"net/http"

	"pulsegate/adapters/pushkey"
)

// PushKeyOperations are the operations on push keys.
type PushKeyOperations interface {
	CreatePushKey(ctx context.Context, op Operator, in NewPushKey) (CreatedPushKey, error)
	ListPushKeys(ctx context.Context, op Operator, patient, vendor string) (PushKeys, error)
	RevokePushKeys(ctx context.Context, op Operator, in RevokePushKeys) (RevokedPushKeys, error)
}

// NewPushKey is the input of `pulsegate push-key create`.
type NewPushKey struct {
	Patient string `json:"patient"`
	Vendor  string `json:"vendor"`
	Name    string `json:"name,omitempty"`
	Seconds int64  `json:"seconds,omitempty"` // lifetime; 0 for a key that does not expire
}

// CreatedPushKey is the answer of `push-key create`.
type CreatedPushKey struct {
	PushKey pushkey.Key `json:"pushKey"`
	// Key is the text of the key. It is shown only once.
	Key string `json:"key"`
	// Consented reports whether a consent of the patient covers the vendor. Without
	// one, deliveries are refused.
	Consented bool               `json:"consented"`
	Settings  []pushkey.Settings `json:"settings"` // contain the key
}

// PushKeys is the answer of `push-key list`.
type PushKeys struct {
	Keys []pushkey.Key `json:"keys"`
}

// RevokePushKeys is the input of `push-key revoke`: the id of one key, or a patient and
// perhaps a vendor.
type RevokePushKeys struct {
	ID      string `json:"id,omitempty"`
	Patient string `json:"patient,omitempty"`
	Vendor  string `json:"vendor,omitempty"`
}

// RevokedPushKeys is the answer of `push-key revoke`.
type RevokedPushKeys struct {
	Revoked []string `json:"revoked"` // ids
}

func pushKeys(m *mux, s *Server, o PushKeyOperations) {
	post(m, s, "push-key/create", o.CreatePushKey)
	get(m, s, "push-key", func(ctx context.Context, op Operator, r *http.Request) (PushKeys, error) {
		return o.ListPushKeys(ctx, op, r.FormValue("patient"), r.FormValue("vendor"))
	})
	post(m, s, "push-key/revoke", o.RevokePushKeys)
}
