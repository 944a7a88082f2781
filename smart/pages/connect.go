package pages

import (
	"context"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"pulsegate/fhir"
	"pulsegate/fhir/audit"
)

// ConnectCallback is the path to which vendors send the browser back.
const ConnectCallback = "/auth/devices/callback"

// Connections connects patients to their accounts at vendors.
type Connections interface {
	// Vendors lists the vendors that a patient can connect to.
	Vendors(ctx context.Context, patient string) ([]DeviceVendor, error)
	// List lists the connections of a patient.
	List(ctx context.Context, patient string) ([]Connection, error)
	// Agree records the patient's consent to collect data of a vendor. If shared is
	// set, the consent also allows every registered recipient to see them.
	Agree(ctx context.Context, by audit.Caller, patient, vendor string, shared bool) error
	// Begin returns the URL of the vendor to which the browser must go. session
	// identifies the browser's session.
	Begin(ctx context.Context, patient, vendor, session string) (string, error)
	// Complete makes the connection with the vendor's answer and returns the name of
	// the vendor.
	Complete(ctx context.Context, by audit.Caller, session string, a VendorAnswer) (string, error)
	// Disconnect ends a connection of the patient. If erase is set, it also deletes
	// the vendor's data about the patient and withdraws the consent to collect them.
	Disconnect(ctx context.Context, by audit.Caller, patient, id string, erase bool) error
}

// DeviceVendor describes a vendor for display.
type DeviceVendor struct {
	Code, Name string
	Reads      []string      // data that the server reads: "your sleep"
	Optional   []string      // data that the patient can leave out at the vendor
	Past       time.Duration // time before the connection for which data are read
	Consented  bool          // whether a consent of the patient covers the collection
}

// VendorAnswer holds the parameters that the browser brought back from the vendor.
type VendorAnswer struct{ State, Code, Error, Scope string }

// ConnectionState is the state of a connection.
type ConnectionState string

// The states of a connection.
const (
	Working    ConnectionState = "working"
	Late       ConnectionState = "late"       // no data although there should be some
	Reconnect  ConnectionState = "reconnect"  // the vendor no longer accepts the access
	Membership ConnectionState = "membership" // the patient's membership at the vendor has lapsed
	Permission ConnectionState = "permission" // the vendor refuses data that the patient has allowed
	Gone       ConnectionState = "gone"       // the vendor has ended its service
	Withdrawn  ConnectionState = "withdrawn"  // no consent covers the collection
)

// Connection describes a connection for display.
type Connection struct {
	ID, Vendor, Name string // Vendor is the code
	State            ConnectionState
	Connected        time.Time
	LastData         time.Time // zero if there are none yet
	Missing          []string  // data that the patient has not allowed at the vendor
}

// stateWords describe the states of a connection. NAME stands for the vendor.
var stateWords = map[ConnectionState]struct{ tag, class, text string }{
	Working: {"working", "good", ""},
	Late: {"late", "warn", "No new data has arrived for some time. Open the app of NAME on your phone, so that your " +
		"device can pass on its data."},
	Reconnect: {"connect again", "bad", "NAME no longer lets this server read your data. Connect again to continue. " +
		"The data that was collected before is kept."},
	Membership: {"membership lapsed", "warn",
		"NAME passes on no data, because your membership there has lapsed. When it " +
			"is active again, your data arrives here without further steps."},
	Permission: {"permission missing", "warn",
		"NAME refuses a part of your data. Connect again, and leave everything " +
			"ticked that you want to share."},
	Gone: {"ended by the vendor", "bad", "NAME has ended this service. Nothing more can be collected from it."},
	Withdrawn: {"consent withdrawn", "bad",
		"You have withdrawn your consent, so nothing is collected. Connect again if " +
			"you want to agree anew."},
} // read only

type connectionRow struct {
	Connection
	Tag, Class, Text string
	Again            bool // connecting again can help
}

// connectionRows returns the connections of the person in words.
func (req *request) connectionRows() ([]connectionRow, error) {
	all, err := req.pages.Connections.List(req.http.Context(), req.user.Patient)
	if err != nil {
		return nil, err
	}
	var out []connectionRow
	for _, c := range all {
		w := stateWords[c.State]
		row := connectionRow{Connection: c, Tag: w.tag, Class: w.class,
			Text:  strings.ReplaceAll(w.text, "NAME", c.Name),
			Again: c.State == Reconnect || c.State == Permission || c.State == Withdrawn}
		if len(c.Missing) > 0 && c.State == Working {
			row.Tag, row.Class, row.Again = stateWords[Permission].tag, stateWords[Permission].class, true
		}
		out = append(out, row)
	}
	return out, nil
}

// newVendors returns the vendors without a connection.
func (req *request) newVendors(have []connectionRow) ([]DeviceVendor, error) {
	all, err := req.pages.Connections.Vendors(req.http.Context(), req.user.Patient)
	return slices.DeleteFunc(all, func(v DeviceVendor) bool {
		return slices.ContainsFunc(have, func(c connectionRow) bool { return c.Vendor == v.Code })
	}), err
}

// deviceVendor returns the vendor that the request names.
func (req *request) deviceVendor() (DeviceVendor, error) {
	if err := req.patientOnly(); err != nil {
		return DeviceVendor{}, err
	}
	all, err := req.pages.Connections.Vendors(req.http.Context(), req.user.Patient)
	if err != nil {
		return DeviceVendor{}, err
	}
	i := slices.IndexFunc(all, func(v DeviceVendor) bool { return v.Code == req.value("vendor") })
	if i < 0 {
		return DeviceVendor{}, fhir.Errorf(fhir.NotFound, "pages.deviceVendor",
			"This server has no connection to that vendor.")
	}
	return all[i], nil
}

type connectData struct {
	DeviceVendor
	Days int // of Past
}

// connectPage states what the person agrees to.
func connectPage(req *request) error { return req.connect(http.StatusOK, nil) }

func (req *request) connect(status int, wrong map[string]string) error {
	v, err := req.deviceVendor()
	if err != nil {
		return err
	}
	return req.render(status, "connect", view{Title: "Connect " + v.Name, Narrow: true, Wrong: wrong,
		Data: connectData{v, int(v.Past / (24 * time.Hour))}})
}

type connectGoData struct{ Name, Host, To string }

// connectGo records the consent and sends the browser to the vendor.
func connectGo(req *request) error {
	v, err := req.deviceVendor()
	if err != nil {
		return err
	}
	ctx := req.http.Context()
	if !v.Consented {
		sees := req.value("sees")
		if sees != "apps" && sees != "all" {
			return req.connect(http.StatusUnprocessableEntity,
				map[string]string{"sees": "Choose who may see the data."})
		}
		if err := req.pages.Connections.Agree(ctx, req.by(), req.user.Patient, v.Code, sees == "all"); err != nil {
			return err
		}
	}
	to, err := req.pages.Connections.Begin(ctx, req.user.Patient, v.Code, req.session.SID)
	if err != nil {
		return err
	}
	u, err := url.Parse(to)
	if err != nil {
		return fhir.Wrap("pages.connectGo", err)
	}
	// Not a redirect of the form: the vendor may redirect further, and browsers
	// compare every step with the form-action of the Content-Security-Policy.
	req.writer.Header().Set("Refresh", "0; url="+to)
	return req.render(http.StatusOK, "connectgo", view{Title: "Continue to " + v.Name, Narrow: true,
		Data: connectGoData{v.Name, u.Host, to}})
}

// connectFinish makes the connection after the vendor has sent the browser back.
func connectFinish(req *request) error {
	if err := req.patientOnly(); err != nil {
		return err
	}
	q := req.http.URL.Query()
	_, err := req.pages.Connections.Complete(req.http.Context(), req.by(), req.session.SID,
		VendorAnswer{State: q.Get("state"), Code: q.Get("code"), Error: q.Get("error"), Scope: q.Get("scope")})
	if err != nil {
		return err
	}
	return req.redirect("/auth/devices?done=connected")
}

// connection returns the person's connection that the request names.
func (req *request) connection() (connectionRow, error) {
	if err := req.patientOnly(); err != nil {
		return connectionRow{}, err
	}
	all, err := req.connectionRows()
	if err != nil {
		return connectionRow{}, err
	}
	i := slices.IndexFunc(all, func(c connectionRow) bool { return c.ID == req.value("id") })
	if i < 0 {
		return connectionRow{}, fhir.Errorf(fhir.NotFound, "pages.connection",
			"There is no such connection. It may have ended.")
	}
	return all[i], nil
}

// disconnectPage asks whether to keep the data.
func disconnectPage(req *request) error { return req.disconnect(http.StatusOK, nil) }

func (req *request) disconnect(status int, wrong map[string]string) error {
	c, err := req.connection()
	if err != nil {
		return err
	}
	return req.render(status, "disconnect", view{Title: "Disconnect " + c.Name, Narrow: true, Wrong: wrong, Data: c})
}

// disconnectGo ends a connection.
func disconnectGo(req *request) error {
	c, err := req.connection()
	if err != nil {
		return err
	}
	data := req.value("data")
	if data != "keep" && data != "delete" {
		return req.disconnect(http.StatusUnprocessableEntity,
			map[string]string{"data": "Choose whether to keep or delete the data."})
	}
	if err := req.pages.Connections.Disconnect(req.http.Context(), req.by(), req.user.Patient, c.ID,
		data == "delete"); err != nil {
		return err
	}
	return req.redirect("/auth/devices?done=" + data)
}

// devicesDone describes a completed action on the page of devices.
func devicesDone(done string) string {
	switch done {
	case "":
		return ""
	case "connected":
		return "The account is connected. The first data arrives within a few minutes."
	case "keep":
		return "The account is disconnected. The data that was collected is kept."
	case "delete":
		return "The account is disconnected, and the data is being deleted."
	case "agree":
		return "Your consent is recorded. Data is accepted from now on."
	case "locate":
		return "From now on, this server also keeps where you were during workouts."
	case "unlocate":
		return "This server no longer keeps where you were during workouts."
	case "withdraw-keep":
		return "Your consent has ended. Nothing more is collected, and the data that was collected is kept."
	case "withdraw-delete":
		return "Your consent has ended. Nothing more is collected, and the data is being deleted."
	}
	return "The key no longer works. Remove it from the app as well."
}
