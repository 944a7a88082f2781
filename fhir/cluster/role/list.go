package role

import (
	"context"
	"encoding/json"
	"strings"
	"time"

	"pulsegate/fhir"
	"pulsegate/fhir/store"
)

// Holder describes a role for operators.
type Holder struct {
	Role string `json:"role"`
	// Node is the name of the process that holds the role, and Instance the id that it
	// drew at its start. Both are empty if the role is free.
	Node     string `json:"node,omitempty"`
	Instance string `json:"instance,omitempty"`
	// Epoch is the number of times that the role was taken.
	Epoch uint64 `json:"epoch"`
	// Since is the time of the takeover, and Renewed that of the last renewal, by the
	// clock of the holder. A holder that has died is listed until its role is taken.
	Since   time.Time `json:"since,omitzero"`
	Renewed time.Time `json:"renewed,omitzero"`
}

// List describes the roles that were ever taken, ordered by name. There are none in
// the state of a server that is alone.
func List(ctx context.Context, st store.State) ([]Holder, error) {
	out := []Holder{}
	index := map[string]int{}
	var bad error
	err := st.List(ctx, keyPrefix, func(key string, value []byte) bool {
		name, part, _ := strings.Cut(strings.TrimPrefix(key, keyPrefix), "/")
		switch {
		case part == "":
			var l lease
			if bad = json.Unmarshal(value, &l); bad == nil {
				index[name] = len(out)
				out = append(out, Holder{Role: name, Node: l.Node, Instance: l.Instance, Epoch: l.Epoch,
					Since: l.Since})
			}
		case part == "renewed":
			var r renewal
			// The row of the role comes before, because its key is shorter.
			if i, ok := index[name]; ok && out[i].Instance != "" {
				bad = json.Unmarshal(value, &r)
				out[i].Renewed = r.At
			}
		}
		return bad == nil
	})
	if err == nil {
		err = bad
	}
	return out, fhir.Wrap("role.List", err)
}
