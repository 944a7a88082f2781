package admin

import (
	"context"
	"net/http"
	"time"
)

// Link is the connection of a patient to an account at a vendor: one line of
// `pulsegate link list`.
type Link struct {
	ID      string `json:"id"`
	Patient string `json:"patient"`
	Vendor  string `json:"vendor"`
	// Status is working, reconnect, membership, permission or gone. Reason is a code
	// that explains it.
	Status   string    `json:"status"`
	Reason   string    `json:"reason,omitempty"`
	Since    time.Time `json:"since"` // of the status
	LastData time.Time `json:"lastData,omitzero"`
	Late     bool      `json:"late"`
	// Consented reports whether a consent of the patient covers the collection.
	Consented bool      `json:"consented"`
	Created   time.Time `json:"created"`
	Connected time.Time `json:"connected"` // latest completed linking flow
	Scopes    []string  `json:"scopes"`    // granted
	Missing   []string  `json:"missing,omitempty"`
	Issuer    string    `json:"issuer"`
	// Flow is set in the answer of `link show`.
	Flow *Flow `json:"flow,omitempty"`
}

// Flow is the state of reading a link.
type Flow struct {
	Paused  bool      `json:"paused"`        // there is no consent
	Next    time.Time `json:"next,omitzero"` // of the next turn
	Events  int       `json:"events"`        // announced and not yet read
	Past    float64   `json:"past"`          // part of the past that was read, 0 to 1
	Streams []Stream  `json:"streams"`
}

// Stream is the state of one stream of a link.
type Stream struct {
	Name    string    `json:"name"`
	Polled  time.Time `json:"polled,omitzero"`  // time of the latest poll
	Due     time.Time `json:"due,omitzero"`     // of the next poll
	Through time.Time `json:"through,omitzero"` // polled up to
	Back    time.Time `json:"back,omitzero"`    // the past was read down to
	Items   uint64    `json:"items"`
	// Problem is the code of what prevents reading, "not-granted" if the patient
	// left out the scope, or "".
	Problem string `json:"problem,omitempty"`
}

// Links is the answer of `link list`.
type Links struct {
	Links []Link `json:"links"`
}

// Unlink is the input of `pulsegate link unlink`.
type Unlink struct {
	ID    string `json:"id"`
	Erase bool   `json:"erase,omitempty"` // delete the vendor's data about the patient
}

// LinkOperations are the operations on links.
type LinkOperations interface {
	ListLinks(ctx context.Context, op Operator, patient string) (Links, error)
	ShowLink(ctx context.Context, op Operator, id string) (Link, error)
	Unlink(ctx context.Context, op Operator, in Unlink) (ID, error)
	PullLink(ctx context.Context, op Operator, in ID) (ID, error)
}

func links(m *mux, s *Server, o LinkOperations) {
	get(m, s, "link", func(ctx context.Context, op Operator, r *http.Request) (Links, error) {
		return o.ListLinks(ctx, op, r.FormValue("patient"))
	})
	get(m, s, "link/show", func(ctx context.Context, op Operator, r *http.Request) (Link, error) {
		return o.ShowLink(ctx, op, r.FormValue("id"))
	})
	post(m, s, "link/unlink", o.Unlink)
	post(m, s, "link/pull", o.PullLink)
}
