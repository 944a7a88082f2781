package server

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"pulsegate/cmd/internal/admin"
	"pulsegate/fhir"
	"pulsegate/fhir/cluster/nodes"
)

// maxLag is the number of entries by which a server may be behind the newest.
const maxLag = 10_000

// differences returns the settings in which the live servers differ, and the permission
// to do so, nil if there is none.
func (m *member) differences(ctx context.Context) ([]nodes.Difference, *nodes.Roll, error) {
	list, err := m.nodes.Nodes(ctx)
	if err != nil {
		return nil, nil, err
	}
	out := append([]nodes.Difference{}, nodes.Differences(list)...)
	roll, err := m.nodes.Rolling(ctx)
	if err != nil || !m.env.now().Before(roll.Until) {
		return out, nil, err
	}
	return out, &roll, nil
}

// problems returns what an operator has to look after.
func (m *member) problems(s *admin.Cluster) []string {
	out := []string{}
	add := func(format string, args ...any) { out = append(out, fmt.Sprintf(format, args...)) }
	if err := m.ready(); err != nil {
		add("this server is not ready: %v", err)
	}
	seen, peers := map[string]int{}, 0
	for _, n := range s.Nodes {
		if seen[n.Node]++; seen[n.Node] == 2 {
			add("two servers have the name %s, or it was restarted some seconds ago with another data directory",
				n.Node)
		}
		if n.Address != "" {
			peers++
		}
		if n.Lag > maxLag {
			add("server %s is %d entries behind", n.Node, n.Lag)
		}
		if n.Schema < s.Schema.Written {
			add("server %s reads schema %d at most, and the cluster writes %d", n.Node, n.Schema, s.Schema.Written)
		}
	}
	if s.Redis && s.Sequencer == nil && peers > 0 {
		add("there is no sequencer, so that commits of several servers get in each other's way: look at Redis")
	}
	for _, h := range s.Roles {
		if h.Node != "" && seen[h.Node] == 0 {
			add("role %s is held by server %s, which is not heard", h.Role, h.Node)
		}
	}
	for _, d := range s.Differences {
		if s.Roll == nil || !slices.Contains(s.Roll.Settings, d.Setting) {
			add("the servers differ in %s", d.Setting)
		}
	}
	return out
}

// maxRoll is the longest permission to change settings from server to server.
const maxRoll = 24 * time.Hour

// RollClusterSettings permits servers to start with another content of settings.
func (ops operations) RollClusterSettings(ctx context.Context, op admin.Operator,
	in admin.ClusterRoll) (nodes.Roll, error) {
	const name = "server.RollClusterSettings"
	m, err := ops.inCluster(name)
	if err != nil {
		return nodes.Roll{}, err
	}
	var roll nodes.Roll
	if !in.End {
		if roll, err = m.roll(in); err != nil {
			return roll, err
		}
	}
	if err := ops.commit(ctx, op, "cluster roll", [][2]string{
		{"settings", strings.Join(roll.Settings, ",")}, {"until", roll.Until.UTC().Format(time.RFC3339)},
	}); err != nil {
		return roll, err
	}
	return roll, m.nodes.Roll(ctx, roll)
}

// roll checks an order to permit another content of settings.
func (m *member) roll(in admin.ClusterRoll) (r nodes.Roll, err error) {
	const name = "server.RollClusterSettings"
	if in.Seconds <= 0 || in.Seconds > int64(maxRoll/time.Second) {
		return r, fhir.Errorf(fhir.Invalid, name, "--for: must be between 1s and %s", maxRoll)
	}
	if len(in.Settings) == 0 {
		return r, fhir.Errorf(fhir.Invalid, name, "name the settings that change")
	}
	for _, s := range in.Settings {
		if s == baseURLSetting {
			return r, fhir.Errorf(fhir.Conflict, name,
				"base-url cannot differ, because clients and tokens belong to one "+
					"address; stop all servers, and start them with the new one")
		}
		if m.settings[s] == "" {
			return r, fhir.Errorf(fhir.Invalid, name, "%.40q is not a setting that all servers must have alike", s)
		}
	}
	return nodes.Roll{Settings: in.Settings, Until: m.env.now().Add(time.Duration(in.Seconds) * time.Second)}, nil
}

// onePacks refuses work that maps stored samples again while servers map new ones
// differently.
func (ops operations) onePacks(ctx context.Context) error {
	if ops.member == nil {
		return nil
	}
	list, _, err := ops.member.differences(ctx)
	if err == nil && slices.ContainsFunc(list, func(d nodes.Difference) bool { return d.Setting == packsSetting }) {
		err = admin.Advise(fhir.Errorf(fhir.Conflict, "server.Remap",
			"the servers of the cluster have different mapping packs"),
			"restart the servers with the old ones first; `pulsegate cluster status` names them")
	}
	return err
}
