package cli

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"pulsegate/cmd/internal/admin"
	"pulsegate/fhir/cluster/nodes"
	"pulsegate/fhir/cluster/role"
)

func TestPrintCluster(t *testing.T) {
	print := func(s *admin.Cluster) string {
		var b bytes.Buffer
		printCluster(&b, s)
		return b.String()
	}
	if got := print(&admin.Cluster{Alone: true}); !strings.Contains(got, "alone") {
		t.Errorf("alone: %q", got)
	}
	s := admin.Cluster{ID: "7d0f", Epoch: 2, Schema: admin.ClusterSchema{Written: 4, Read: 5}, Node: "one", Entry: 9,
		Commit: 8, FirstEntry: 1, LastEntry: 10, ClockOffset: -0.0123,
		Nodes:     []admin.ClusterNode{{Node: "one", Version: "v1", Entry: 9, Lag: 1, Schema: 5, Self: true}},
		Roles:     []role.Holder{{Role: "notary", Node: "one", Epoch: 3}},
		Snapshots: []admin.ClusterSnapshot{{Entry: 7, Node: "two", Files: 6, Bytes: 4234}},
		Mirror:    &admin.ClusterMirror{Database: "documents", Commit: 5, Behind: 3}}
	got := print(&s)
	for _, want := range []string{"cluster      7d0f\n", "epoch        2\n", "4; all servers read 5",
		"one, entry 9, commit 8",
		"entries 1 to 10", "-0.012 s", "none: there is no Redis", "documents, commit 5, 3 commits behind",
		"NODE  VERSION", "one   v1       -        -        9      1    5       yes", "notary  one",
		"7      -        two   6      4234"} {
		if !strings.Contains(got, want) {
			t.Errorf("no %q in\n%s", want, got)
		}
	}
	for _, want := range []string{"settings     the same on all servers\n", "problems     none\n"} {
		if !strings.Contains(got, want) {
			t.Errorf("no %q in\n%s", want, got)
		}
	}
	if err := problems(&s); err != nil {
		t.Errorf("problems of a good cluster: %v", err)
	}
	s.Differences = []nodes.Difference{{Setting: "mapping-packs", Nodes: map[string][]string{"b": {"two"}, "a": {"one",
		"three"}}}}
	s.Roll = &nodes.Roll{Settings: []string{"mapping-packs"}, Until: time.Date(2026, 11, 30, 12, 0, 0, 0, time.UTC)}
	s.Problems = []string{"x is down", "y is down"}
	for _, want := range []string{"differ in mapping-packs: a on one, three; b on two (may differ: mapping-packs until " +
		"2026-11-30T12:00:00Z)\n", "problems     x is down; y is down\n"} {
		if got := print(&s); !strings.Contains(got, want) {
			t.Errorf("no %q in\n%s", want, got)
		}
	}
	if err := problems(&s); err == nil || !strings.Contains(err.Error(), "2 problems; the first is: x is down") {
		t.Errorf("problems: %v", err)
	}
	s.Redis, s.Mirror = true, nil
	if got := print(&s); !strings.Contains(got, "sequencer    none\n") ||
		!strings.Contains(got, "mirror       none\n") {
		t.Errorf("got\n%s", got)
	}
	s.Sequencer = &admin.ClusterSequencer{Node: "two", Address: "two:7000"}
	if got := print(&s); !strings.Contains(got, "sequencer    two two:7000\n") {
		t.Errorf("got\n%s", got)
	}
}

// TestChangesNeedSettings checks that the commands for stopped servers refuse settings
// that name no cluster.
func TestChangesNeedSettings(t *testing.T) {
	dir := t.TempDir()
	for name, want := range map[string]string{"restore": "mongodb: ", "leave": "holds no store"} {
		if _, err := execute("cluster", name, "--data", dir); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
