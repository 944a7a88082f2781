package cli

import (
	"fmt"
	"io"
	"net/url"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"pulsegate/adapters/pushkey"
	"pulsegate/adapters/vendors"
	"pulsegate/cmd/internal/admin"
)

func pushKeyCommand() *cobra.Command {
	list := &cobra.Command{Use: "list", Short: "List push keys and when they were last used", Args: cobra.NoArgs}
	lr := operator(list)
	patient := list.Flags().String("patient", "", "only for this patient")
	vendor := list.Flags().String("vendor", "", "only for this vendor")
	complete(list, "patient", patientIDs, lr)
	values(list, "vendor", vendorCodes()...)
	list.RunE = func(c *cobra.Command, _ []string) error {
		var out admin.PushKeys
		q := url.Values{"patient": {*patient}, "vendor": {*vendor}}
		if err := lr.call(c.Context(), "push-key", q, nil, &out); err != nil {
			return err
		}
		return lr.list(out, []string{"KEY", "PATIENT", "VENDOR", "NAME", "CREATED", "BY", "EXPIRES", "LAST USED",
			"AUTOMATION"}, func(t *table) {
			for _, k := range out.Keys {
				by := "patient"
				if k.Operator {
					by = "operator"
				}
				t.row(k.ID, k.Patient, k.Vendor, k.Name, k.Created, by, k.Expires, k.Use.At,
					k.Use.Automation)
			}
		})
	}

	revoke := &cobra.Command{Use: "revoke [ID]", Args: cobra.MaximumNArgs(1),
		Short: "Refuse a push key from now on, or all keys of a patient or of one vendor for the patient"}
	rr := operator(revoke)
	var in admin.RevokePushKeys
	revoke.Flags().StringVar(&in.Patient, "patient", "", "revoke all keys of this patient")
	revoke.Flags().StringVar(&in.Vendor, "vendor", "", "with --patient: only the keys for this vendor")
	complete(revoke, "patient", patientIDs, rr)
	values(revoke, "vendor", vendorCodes()...)
	completeArg(revoke, rr, pushKeyIDs)
	revoke.RunE = func(c *cobra.Command, args []string) error {
		if len(args) > 0 {
			in.ID = args[0]
		}
		var out admin.RevokedPushKeys
		if err := rr.call(c.Context(), "push-key/revoke", nil, in, &out); err != nil {
			return err
		}
		return rr.print(out, func(w io.Writer) { fmt.Fprintln(w, strings.Join(out.Revoked, "\n")) })
	}
	return group("push-key", "Keys for apps that can only send a fixed header", pushKeyCreateCommand(), list, revoke)
}

func pushKeyCreateCommand() *cobra.Command {
	c := &cobra.Command{Use: "create",
		Short: "Create a push key and print it once, with the settings for the app",
		Args:  cobra.NoArgs,
		Long: "Create a key with which an app delivers one vendor's data for one patient, such as Health Auto Export for\n" +
			"Apple Health. The key permits nothing else, and each delivery needs the patient's consent. It is accepted\n" +
			"over https only, and by a demo on its own machine."}
	r := operator(c)
	var n admin.NewPushKey
	c.Flags().StringVar(&n.Patient, "patient", "", "patient id")
	c.Flags().StringVar(&n.Vendor, "vendor", "", vendors.Codes())
	c.Flags().StringVar(&n.Name, "name", "", "name by which the patient recognizes the key")
	life := c.Flags().Duration("life", 0, "lifetime of the key (default: until it is revoked)")
	need(c, "patient", "vendor")
	complete(c, "patient", patientIDs, r)
	values(c, "vendor", vendorCodes()...)
	c.RunE = func(c *cobra.Command, _ []string) error {
		n.Seconds = int64(*life / time.Second)
		var out admin.CreatedPushKey
		if err := r.call(c.Context(), "push-key/create", nil, n, &out); err != nil {
			return err
		}
		return r.print(out, func(w io.Writer) { printPushKey(w, &out) })
	}
	return c
}

// printPushKey prints a new key and the settings for each format.
func printPushKey(w io.Writer, out *admin.CreatedPushKey) {
	fmt.Fprintln(w, out.Key)
	fmt.Fprintf(w, "\nThis is the only time that the key is shown. Its id is %s.\n", out.PushKey.ID)
	for _, s := range out.Settings {
		fmt.Fprintln(w)
		printPushSettings(w, &s)
	}
	if !out.Consented {
		fmt.Fprintf(w, "\nnext: deliveries are refused until the patient consents; record the consent with\n"+
			"`pulsegate consent grant --patient %s --vendor %s`\n", out.PushKey.Patient, out.PushKey.Vendor)
	}
}

func printPushSettings(w io.Writer, s *pushkey.Settings) {
	title := s.Summary
	if s.App != "" {
		title = "App: " + s.App + " (" + s.Summary + ")"
	}
	fmt.Fprintln(w, title)
	rows := append([][2]string{{"URL", s.URL}, {"Method", s.Method}, {"Header name", s.Header},
		{"Header value", s.Value}}, s.Choices...)
	width := 0
	for _, row := range rows {
		width = max(width, len(row[0]))
	}
	for _, row := range rows {
		fmt.Fprintf(w, "  %-*s  %s\n", width, row[0], row[1])
	}
}
