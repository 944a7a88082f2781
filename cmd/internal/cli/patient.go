package cli

import (
	"errors"
	"fmt"
	"io"
	"net/url"

	"github.com/spf13/cobra"

	"pulsegate/cmd/internal/admin"
)

func patientCommand() *cobra.Command {
	add := &cobra.Command{Use: "add", Short: "Add a Patient and print its id", Args: cobra.NoArgs}
	r := operator(add)
	var p admin.NewPatient
	add.Flags().StringVar(&p.Given, "given", "", "given name")
	add.Flags().StringVar(&p.Family, "family", "", "family name")
	add.Flags().StringVar(&p.BirthDate, "birthdate", "", "birth date, as YYYY-MM-DD")
	add.Flags().StringVar(&p.Gender, "gender", "", "male, female, other or unknown")
	add.Flags().StringVar(&p.TimeZone, "timezone", "", "IANA time zone of the wearer, for payloads without UTC offsets")
	add.Flags().StringVar(&p.ID, "id", "", "id of the Patient (default: chosen by the server)")
	need(add, "given", "family")
	add.RunE = func(c *cobra.Command, _ []string) error {
		var out admin.ID
		if err := r.call(c.Context(), "patient", nil, p, &out); err != nil {
			return err
		}
		return r.print(out, func(w io.Writer) { fmt.Fprintln(w, out.ID) })
	}
	values(add, "gender", "male", "female", "other", "unknown")

	list := &cobra.Command{Use: "list", Short: "List patients", Args: cobra.NoArgs}
	lr := operator(list)
	list.RunE = func(c *cobra.Command, _ []string) error {
		var out admin.Patients
		if err := lr.call(c.Context(), "patient", nil, nil, &out); err != nil {
			return err
		}
		return lr.list(out, []string{"ID", "NAME", "BORN", "GENDER", "TIME ZONE"}, func(t *table) {
			for _, p := range out.Patients {
				t.row(p.ID, p.Name, p.BirthDate, p.Gender, p.TimeZone)
			}
		})
	}

	show := &cobra.Command{Use: "show ID", Short: "Show a patient with consents and devices", Args: cobra.ExactArgs(1)}
	sr := operator(show)
	completeArg(show, sr, patientIDs)
	show.RunE = func(c *cobra.Command, args []string) error {
		var out admin.PatientDetails
		if err := sr.call(c.Context(), "patient/show", url.Values{"id": {args[0]}}, nil, &out); err != nil {
			return err
		}
		return sr.print(out, func(w io.Writer) { showPatient(w, &out) })
	}
	return group("patient", "Patients", add, list, show)
}

// showPatient prints one table each for the patient, the consents and the devices.
func showPatient(w io.Writer, p *admin.PatientDetails) {
	person := newTable(w, "ID", "NAME", "BORN", "GENDER", "TIME ZONE")
	person.row(p.ID, p.Name, p.BirthDate, p.Gender, p.TimeZone)
	err := person.done()
	fmt.Fprintln(w)
	consents := newTable(w, consentHeader...)
	for _, one := range p.Consents {
		consentRow(consents, one)
	}
	err = errors.Join(err, consents.done())
	fmt.Fprintln(w)
	devices := newTable(w, "DEVICE", "STATUS", "NAME")
	for _, d := range p.Devices {
		devices.row(d.ID, d.Status, d.Name)
	}
	if errors.Join(err, devices.done()) != nil {
		return // the reader has closed the pipe
	}
}

// consentHeader names the columns of consentRow.
var consentHeader = []string{"CONSENT", "PATIENT", "STATUS", "VENDOR", "CATEGORIES", "RECIPIENT", "DATE"}

// consentRow adds a Consent to a table.
func consentRow(t *table, c admin.Consent) {
	vendor, categories := c.Vendor, any(c.Categories)
	if vendor == "" {
		vendor = "all"
	}
	if len(c.Categories) == 0 {
		categories = "all"
	}
	t.row(c.ID, c.Patient, c.Status, vendor, categories, c.Recipient, c.Date)
}
