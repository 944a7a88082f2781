package cli

import (
	"fmt"
	"io"
	"net/url"
	"time"

	"github.com/spf13/cobra"

	"pulsegate/cmd/internal/admin"
	"pulsegate/fhir/push"
)

func targetCommand() *cobra.Command {
	list := &cobra.Command{Use: "list", Short: "List the EHRs that Observations are sent to", Args: cobra.NoArgs}
	lr := operator(list)
	list.RunE = func(c *cobra.Command, _ []string) error {
		var out admin.Targets
		if err := lr.call(c.Context(), "target", nil, nil, &out); err != nil {
			return err
		}
		return lr.list(out, []string{"TARGET", "STATUS", "FORM", "RECIPIENT", "SENT", "WAITING", "LAG", "SET ASIDE",
			"LAST ERROR", "AT", "URL"}, func(t *table) {
			for _, s := range out.Targets {
				t.row(s.Name, targetStatus(&s), s.Form, s.Recipient, s.Sent, s.Waiting, s.Lag.Round(time.Second),
					s.SetAside, s.LastError, s.LastErrorAt, s.Base)
			}
		})
	}
	pause := targetNameCommand("pause", "Stop sending to a target; changes are still queued", "paused")
	remove := targetNameCommand("remove", "Remove a target and its queue; the EHR keeps what was sent", "removed")
	return group("target", "EHRs that Observations are sent to", targetAddCommand(), list, targetShowCommand(), pause,
		targetResumeCommand(), targetRetryCommand(), remove)
}

// targetStatus returns the status of a target as a word.
func targetStatus(s *push.Summary) string {
	switch {
	case s.Status == push.Failed:
		return "error:" + s.Reason
	case s.Status == push.Active && s.Repeating:
		return "retrying"
	}
	return string(s.Status)
}

func targetAddCommand() *cobra.Command {
	c := &cobra.Command{Use: "add NAME", Short: "Send Observations to the FHIR endpoint of an EHR",
		Args: cobra.ExactArgs(1),
		Long: "Send Observations to the FHIR endpoint of an EHR, with SMART Backend Services. Register this server there\n" +
			"first, with the URL of its keys: [base URL]/.well-known/client-jwks.json.\n\n" +
			"What a patient's consents permit is sent: to every recipient, or to the client with the name of the target."}
	r := operator(c)
	var n admin.NewTarget
	f := c.Flags()
	f.StringVar(&n.URL, "url", "", "FHIR base URL of the EHR")
	f.StringVar(&n.ClientID, "client-id", "", "id of this server as a client of the EHR")
	f.StringVar(&n.Scope, "scope", "",
		`scopes to request there (default: "system/Observation.crus", with --patient-system also "system/Patient.rs")`)
	f.StringVar(&n.TokenURL, "token-url", "",
		"token endpoint, needed only if it is not on the host of --url (default: from .well-known/smart-configuration)")
	f.StringVar(&n.Form, "form", push.FormStored, "form of the Observations: stored, or us-core (Writing Vital Signs)")
	f.StringSliceVar(&n.Categories, "category", nil, "send only these categories, such as vital-signs")
	f.StringSliceVar(&n.Codes, "code", nil, "send only these codes, such as http://loinc.org|8867-4")
	every := f.Duration("every", time.Hour,
		"least time between two values of one patient and code at an instant; 0 sends all")
	f.StringVar(&n.PatientSystem, "patient-system", "",
		"system of the identifier by which patients are matched (default: patients have the same ids there)")
	f.IntVar(&n.Batch, "batch", 0, "Observations per request, for an EHR that supports batch Bundles (at most 100)")
	f.StringVar(&n.Recipient, "recipient", "",
		"client that consents name as recipient (default: a new one with the name of the target)")
	f.StringVar(&n.Since, "since", "", "send also what is stored, from this date on")
	need(c, "url", "client-id")
	values(c, "form", push.FormStored, "us-core")
	complete(c, "recipient", clientIDs, r)
	c.RunE = func(c *cobra.Command, args []string) error {
		n.Name, n.Every = args[0], int64(*every/time.Second)
		var out admin.AddedTarget
		if err := r.call(c.Context(), "target/add", nil, n, &out); err != nil {
			return err
		}
		return r.print(out, func(w io.Writer) {
			fmt.Fprintln(w, out.Name)
			fmt.Fprintf(w, "\nnext: register this server at the EHR with the keys at %s\n", out.JWKSURL)
			fmt.Fprintf(w, "consents permit sending if they name any recipient or %s\n", out.Recipient)
		})
	}
	return c
}

func targetShowCommand() *cobra.Command {
	c := &cobra.Command{Use: "show NAME", Short: "Show a target, and the patients and Observations that do not get on",
		Args: cobra.ExactArgs(1)}
	r := operator(c)
	completeArg(c, r, targetNames)
	c.RunE = func(c *cobra.Command, args []string) error {
		var out push.Details
		if err := r.call(c.Context(), "target/show", url.Values{"name": {args[0]}}, nil, &out); err != nil {
			return err
		}
		return r.print(out, func(w io.Writer) { printTarget(w, &out) })
	}
	return c
}

func printTarget(w io.Writer, d *push.Details) {
	t := newTable(w, "TARGET", d.Name)
	t.row("status", targetStatus(&d.Summary))
	t.row("url", d.Base)
	t.row("client id there", d.ClientID)
	t.row("scope there", d.Scope)
	t.row("recipient", d.Recipient)
	t.row("form", d.Form)
	t.row("categories", d.Categories)
	t.row("codes", d.Codes)
	t.row("every", d.Every)
	t.row("patients by", d.PatientSystem)
	t.row("sent", d.Sent)
	t.row("last sent", d.LastSent)
	t.row("waiting", fmt.Sprintf("%d of %d patients", d.Waiting, d.Patients))
	t.row("lag", d.Lag.Round(time.Second))
	t.row("set aside", d.SetAside)
	t.row("withheld", d.Withheld)
	t.row("thinned", d.Thinned)
	t.row("not in this form", d.Unsuited)
	t.row("last error", d.LastError)
	t.row("last error at", d.LastErrorAt)
	if d.Backfill != nil {
		t.row("queueing since", d.Backfill.Since)
	}
	_ = t.done() // an error of the writer shows at the next write
	if len(d.Unmatched) > 0 {
		fmt.Fprintln(w)
		t := newTable(w, "WAITING PATIENT", "REASON", "LOOKED UP")
		for _, u := range d.Unmatched {
			t.row(u.Patient, u.Reason, u.At)
		}
		_ = t.done()
	}
	if len(d.Asides) > 0 {
		fmt.Fprintln(w)
		t := newTable(w, "OBSERVATION", "PATIENT", "STATUS", "CODES", "SET ASIDE")
		for _, a := range d.Asides {
			t.row(a.ID, a.Patient, a.Status, a.Codes, a.At)
		}
		_ = t.done()
	}
}

// targetNameCommand returns a command that needs only the name of a target.
func targetNameCommand(verb, short, done string) *cobra.Command {
	c := &cobra.Command{Use: verb + " NAME", Short: short, Args: cobra.ExactArgs(1)}
	r := operator(c)
	completeArg(c, r, targetNames)
	c.RunE = func(c *cobra.Command, args []string) error {
		var out admin.TargetName
		if err := r.call(c.Context(), "target/"+verb, nil, admin.TargetName{Name: args[0]}, &out); err != nil {
			return err
		}
		return r.print(out, func(w io.Writer) { fmt.Fprintln(w, out.Name, done) })
	}
	return c
}

func targetResumeCommand() *cobra.Command {
	c := &cobra.Command{Use: "resume NAME", Short: "Send to a target again that was paused or is in error",
		Args: cobra.ExactArgs(1)}
	r := operator(c)
	completeArg(c, r, targetNames)
	since := c.Flags().String("since", "", "send also what is stored and was not sent, from this date on")
	c.RunE = func(c *cobra.Command, args []string) error {
		var out admin.TargetName
		if err := r.call(c.Context(), "target/resume", nil, admin.ResumeTarget{Name: args[0], Since: *since},
			&out); err != nil {
			return err
		}
		return r.print(out, func(w io.Writer) { fmt.Fprintln(w, out.Name, "resumed") })
	}
	return c
}

func targetRetryCommand() *cobra.Command {
	c := &cobra.Command{Use: "retry NAME", Short: "Send again what a target refused", Args: cobra.ExactArgs(1)}
	r := operator(c)
	completeArg(c, r, targetNames)
	c.RunE = func(c *cobra.Command, args []string) error {
		var out admin.RetriedTarget
		if err := r.call(c.Context(), "target/retry", nil, admin.TargetName{Name: args[0]}, &out); err != nil {
			return err
		}
		return r.print(out, func(w io.Writer) { fmt.Fprintln(w, out.Queued, "queued") })
	}
	return c
}
