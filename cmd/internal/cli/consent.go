package cli

import (
	"fmt"
	"io"
	"net/url"
	"strings"

	"github.com/spf13/cobra"

	"pulsegate/adapters/vendors"
	"pulsegate/cmd/internal/admin"
)

func consentCommand() *cobra.Command {
	grant := &cobra.Command{Use: "grant", Short: "Record a patient's consent and print its id", Args: cobra.NoArgs}
	gr := operator(grant)
	var n admin.NewConsent
	grant.Flags().StringVar(&n.Patient, "patient", "", "patient id")
	grant.Flags().StringVar(&n.Vendor, "vendor", "", vendors.Codes())
	grant.Flags().StringSliceVar(&n.Categories, "categories", nil,
		"only these categories: vital-signs, activity, exam, laboratory, procedure, survey, sleep, … (default: all except location, which must be named)")
	grant.Flags().StringVar(&n.Recipient, "recipient", "any", "id of the client that may see the data, or any")
	need(grant, "patient", "vendor")
	complete(grant, "patient", patientIDs, gr)
	values(grant, "vendor", vendorCodes()...)
	complete(grant, "recipient", func(r *remote, c *cobra.Command) []string {
		return append(clientIDs(r, c), "any")
	}, gr)
	grant.RunE = func(c *cobra.Command, _ []string) error {
		var out admin.ID
		if err := gr.call(c.Context(), "consent/grant", nil, n, &out); err != nil {
			return err
		}
		return gr.print(out, func(w io.Writer) { fmt.Fprintln(w, out.ID) })
	}

	withdraw := &cobra.Command{Use: "withdraw",
		Short: "Withdraw a patient's consent and print the ids of the withdrawn Consents",
		Args:  cobra.NoArgs,
		Long: "Withdraw a patient's consent for all vendors or for one, with immediate effect. Afterwards no Consent makes\n" +
			"that data visible to a client or allows the server to collect it.\n" +
			"A Consent that also covers other vendors remains valid for them. What the patient denied remains denied."}
	wr := operator(withdraw)
	var wd admin.WithdrawConsent
	withdraw.Flags().StringVar(&wd.Patient, "patient", "", "patient id")
	complete(withdraw, "patient", patientIDs, wr)
	withdraw.Flags().StringVar(&wd.Vendor, "vendor", "", "only for this vendor (default: all vendors)")
	need(withdraw, "patient")
	withdraw.RunE = func(c *cobra.Command, _ []string) error {
		var out admin.Withdrawn
		if err := wr.call(c.Context(), "consent/withdraw", nil, wd, &out); err != nil {
			return err
		}
		return wr.print(out, func(w io.Writer) { fmt.Fprintln(w, strings.Join(out.Withdrawn, "\n")) })
	}

	list := &cobra.Command{Use: "list", Short: "List consents", Args: cobra.NoArgs}
	lr := operator(list)
	patient := list.Flags().String("patient", "", "only for this patient")
	list.RunE = func(c *cobra.Command, _ []string) error {
		var out admin.Consents
		q := url.Values{}
		if *patient != "" {
			q.Set("patient", *patient)
		}
		if err := lr.call(c.Context(), "consent", q, nil, &out); err != nil {
			return err
		}
		return lr.list(out, consentHeader, func(t *table) {
			for _, one := range out.Consents {
				consentRow(t, one)
			}
		})
	}
	return group("consent", "Consents", grant, withdraw, list)
}
