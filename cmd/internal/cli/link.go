package cli

import (
	"fmt"
	"io"
	"net/url"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"pulsegate/cmd/internal/admin"
)

func linksCommand() *cobra.Command {
	list := &cobra.Command{Use: "list", Short: "List the vendor accounts that patients have connected",
		Args: cobra.NoArgs}
	lr := operator(list)
	patient := list.Flags().String("patient", "", "only for this patient")
	complete(list, "patient", patientIDs, lr)
	list.RunE = func(c *cobra.Command, _ []string) error {
		var out admin.Links
		if err := lr.call(c.Context(), "link", url.Values{"patient": {*patient}}, nil, &out); err != nil {
			return err
		}
		return lr.list(out, []string{"LINK", "PATIENT", "VENDOR", "STATUS", "REASON", "SINCE", "LAST DATA", "LATE",
			"CONSENT", "MISSING"}, func(t *table) {
			for _, l := range out.Links {
				t.row(l.ID, l.Patient, l.Vendor, l.Status, l.Reason, l.Since, l.LastData, yes(l.Late),
					yes(l.Consented), l.Missing)
			}
		})
	}

	show := &cobra.Command{Use: "show ID", Short: "Show one connection with its scopes", Args: cobra.ExactArgs(1)}
	sr := operator(show)
	completeArg(show, sr, linkIDs)
	show.RunE = func(c *cobra.Command, args []string) error {
		var out admin.Link
		if err := sr.call(c.Context(), "link/show", url.Values{"id": {args[0]}}, nil, &out); err != nil {
			return err
		}
		return sr.print(out, func(w io.Writer) { printLink(w, &out) })
	}

	unlink := &cobra.Command{Use: "unlink ID", Args: cobra.ExactArgs(1),
		Short: "End a connection and revoke the access at the vendor",
		Long: "End a connection and revoke the access at the vendor. If the vendor cannot be reached, the server repeats the\n" +
			"revocation for a week. The data stay unless --erase is given."}
	ur := operator(unlink)
	var in admin.Unlink
	unlink.Flags().BoolVar(&in.Erase, "erase", false, "also delete the data of this vendor about the patient")
	completeArg(unlink, ur, linkIDs)
	unlink.RunE = func(c *cobra.Command, args []string) error {
		in.ID = args[0]
		var out admin.ID
		if err := ur.call(c.Context(), "link/unlink", nil, in, &out); err != nil {
			return err
		}
		return ur.print(out, func(w io.Writer) { fmt.Fprintln(w, out.ID) })
	}

	pull := &cobra.Command{Use: "pull ID", Args: cobra.ExactArgs(1),
		Short: "Read all data of a connection again that may have changed"}
	pr := operator(pull)
	completeArg(pull, pr, linkIDs)
	pull.RunE = func(c *cobra.Command, args []string) error {
		var out admin.ID
		if err := pr.call(c.Context(), "link/pull", nil, admin.ID{ID: args[0]}, &out); err != nil {
			return err
		}
		return pr.print(out, func(w io.Writer) { fmt.Fprintln(w, out.ID) })
	}
	return group("link", "Connections to accounts at vendors", list, show, pull, unlink)
}

// yes returns "yes" or nothing, for cells of tables.
func yes(b bool) string {
	if b {
		return "yes"
	}
	return ""
}

func printLink(w io.Writer, l *admin.Link) {
	at := func(t time.Time) string { return cell(t) }
	late := ""
	if l.Late {
		late = " (late)"
	}
	for _, row := range [][2]string{{"link", l.ID}, {"patient", l.Patient}, {"vendor", l.Vendor},
		{"status", strings.TrimSpace(l.Status + " " + l.Reason)}, {"since", at(l.Since)},
		{"last data", at(l.LastData) + late}, {"consent", cell(yes(l.Consented))},
		{"connected", at(l.Connected)}, {"first connected", at(l.Created)}, {"scopes", cell(l.Scopes)},
		{"missing scopes", cell(l.Missing)}, {"issuer", l.Issuer}} {
		fmt.Fprintf(w, "%-16s %s\n", row[0], row[1])
	}
	if l.Flow == nil {
		return
	}
	fmt.Fprintf(w, "%-16s %d\n%-16s %.0f %%\n%-16s %s\n\n", "events waiting", l.Flow.Events, "past read",
		100*l.Flow.Past, "next turn", at(l.Flow.Next))
	t := newTable(w, "STREAM", "ITEMS", "POLLED", "NEXT POLL", "PAST READ TO", "PROBLEM")
	for _, s := range l.Flow.Streams {
		t.row(s.Name, s.Items, s.Polled, s.Due, s.Back, s.Problem)
	}
	_ = t.done() // the terminal has gone
}
