package cli

import (
	"cmp"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"pulsegate/cmd/internal/admin"
)

func clusterCommand() *cobra.Command {
	status := &cobra.Command{Use: "status", Args: cobra.NoArgs,
		Short: "Show the servers, the log, the roles, the snapshots and the mirror of a cluster",
		Long: `Shows the cluster as the server sees it that is asked: the servers that were heard
in the last seconds, the roles of all, the log, and the snapshots from which servers
join. With --json, it prints the same for scripts.

It fails (exit status 1) if something needs a look, and says what: if this server is
not ready, a server is far behind, two have one name, the servers differ in a setting
that must be the same and no "pulsegate cluster roll" permits it, Redis is set but
there is no sequencer, or a role is held by a server that is not heard. The last two
can last some seconds after a server has died.`}
	r := operator(status)
	status.RunE = func(c *cobra.Command, _ []string) error {
		var out admin.Cluster
		if err := r.call(c.Context(), "cluster", nil, nil, &out); err != nil {
			return err
		}
		if err := r.print(out, func(w io.Writer) { printCluster(w, &out) }); err != nil {
			return err
		}
		return problems(&out)
	}

	snapshot := &cobra.Command{Use: "snapshot", Args: cobra.NoArgs,
		Short: "Make a snapshot of the store, from which servers join"}
	sr := operator(snapshot)
	snapshot.RunE = func(c *cobra.Command, _ []string) error {
		var out admin.ClusterSnapshot
		if err := sr.call(c.Context(), "cluster/snapshot", nil, struct{}{}, &out); err != nil {
			return err
		}
		return sr.list(out, snapshotHeader, func(t *table) { snapshotRow(t, &out) })
	}
	return group("cluster", "Servers that share one log", status, snapshot, clusterSchemaCommand(),
		clusterRollCommand(), clusterRestoreCommand(), clusterLeaveCommand())
}

func clusterSchemaCommand() *cobra.Command {
	c := &cobra.Command{Use: "schema", Args: cobra.NoArgs,
		Short: "Show or raise the encoding in which the servers write the log",
		Long: `Shows the encoding (schema) in which the servers write entries of the log, and the
newest that each live server reads. A new version of this program can bring a
newer schema. It writes the one of the cluster until the operator raises it, so
that servers of both versions can run side by side.

Raise the schema when all servers have the new version. All of them write the new
schema at once. Older versions cannot read the log from then on, and stop. A server
that is not running at the time is not asked: install the new version on it before
it starts.`}
	r := operator(c)
	raise := c.Flags().Bool("raise", false, "let the servers write the newest schema that all of them read")
	c.RunE = func(c *cobra.Command, _ []string) error {
		var out admin.ClusterSchemas
		op, in := "cluster/schema", any(nil)
		if *raise {
			op, in = "cluster/schema/raise", struct{}{}
		}
		if err := r.call(c.Context(), op, nil, in, &out); err != nil {
			return err
		}
		return r.print(out, func(w io.Writer) {
			if out.Raised {
				fmt.Fprintf(w, "The servers write schema %d from now on.\n\n", out.Written)
			} else {
				fmt.Fprintf(w, "The servers write schema %d, and all of them read %d.\n\n", out.Written, out.Read)
			}
			t := newTable(w, "NODE", "VERSION", "READS UP TO")
			for _, n := range out.Nodes {
				t.row(n.Node, n.Version, n.Schema)
			}
			_ = t.done() // the terminal has gone
		})
	}
	return c
}

var snapshotHeader = []string{"ENTRY", "CREATED", "NODE", "FILES", "BYTES"} // read only

func snapshotRow(t *table, s *admin.ClusterSnapshot) {
	t.row(s.Entry, s.Created, s.Node, s.Files, s.Bytes)
}

// printCluster prints the state of a cluster as tables.
func printCluster(w io.Writer, s *admin.Cluster) {
	if s.Alone {
		fmt.Fprintln(w, "This server is alone: it belongs to no cluster.")
		return
	}
	sequencer := "none: there is no Redis"
	switch {
	case s.Sequencer != nil:
		sequencer = strings.TrimSpace(s.Sequencer.Node + " " + s.Sequencer.Address)
	case s.Redis:
		sequencer = "none"
	}
	for _, row := range [][2]string{
		{"cluster", s.ID},
		{"epoch", fmt.Sprint(s.Epoch)},
		{"schema", fmt.Sprintf("%d; all servers read %d", s.Schema.Written, s.Schema.Read)},
		{"this server", fmt.Sprintf("%s, entry %d, commit %d", s.Node, s.Entry, s.Commit)},
		{"log", fmt.Sprintf("entries %d to %d", s.FirstEntry, s.LastEntry)},
		{"clock", fmt.Sprintf("%+.3f s from MongoDB's", s.ClockOffset)},
		{"sequencer", sequencer},
		{"mirror", mirrorText(s.Mirror)},
		{"settings", settingsText(s)},
		{"problems", cmp.Or(strings.Join(s.Problems, "; "), "none")},
	} {
		fmt.Fprintf(w, "%-12s %s\n", row[0], row[1])
	}
	tables := []struct {
		header []string
		rows   func(t *table)
	}{
		{[]string{"NODE", "VERSION", "ADDRESS", "STARTED", "ENTRY", "LAG", "SCHEMA", "SELF"}, func(t *table) {
			for _, n := range s.Nodes {
				t.row(n.Node, n.Version, n.Address, n.Started, n.Entry, n.Lag, n.Schema, yes(n.Self))
			}
		}},
		{[]string{"ROLE", "NODE", "EPOCH", "SINCE", "RENEWED"}, func(t *table) {
			for _, h := range s.Roles {
				t.row(h.Role, h.Node, h.Epoch, h.Since, h.Renewed)
			}
		}},
		{snapshotHeader, func(t *table) {
			for _, one := range s.Snapshots {
				snapshotRow(t, &one)
			}
		}},
	}
	for _, one := range tables {
		fmt.Fprintln(w)
		t := newTable(w, one.header...)
		one.rows(t)
		if t.done() != nil {
			return // the reader has closed the pipe
		}
	}
}

// settingsText describes the settings that must be the same on all servers.
func settingsText(s *admin.Cluster) string {
	text := "the same on all servers"
	if len(s.Differences) > 0 {
		var parts []string
		for _, d := range s.Differences {
			var groups []string
			for _, hash := range slices.Sorted(maps.Keys(d.Nodes)) {
				groups = append(groups, hash+" on "+strings.Join(d.Nodes[hash], ", "))
			}
			parts = append(parts, d.Setting+": "+strings.Join(groups, "; "))
		}
		text = "differ in " + strings.Join(parts, " | ")
	}
	if s.Roll != nil {
		text += " (may differ: " + s.Roll.String() + ")"
	}
	return text
}

// problems returns an error if something needs a look.
func problems(s *admin.Cluster) error {
	switch n := len(s.Problems); n {
	case 0:
		return nil
	case 1:
		return fmt.Errorf("the cluster has a problem: %s", s.Problems[0])
	default:
		return fmt.Errorf("the cluster has %d problems; the first is: %s", n, s.Problems[0])
	}
}

func mirrorText(m *admin.ClusterMirror) string {
	switch {
	case m == nil:
		return "none"
	case m.Behind == 0:
		return fmt.Sprintf("%s, commit %d, up to date", m.Database, m.Commit)
	}
	return fmt.Sprintf("%s, commit %d, %d commits behind", m.Database, m.Commit, m.Behind)
}
