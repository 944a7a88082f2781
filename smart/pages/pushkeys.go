package pages

import (
	"context"
	"net/http"
	"slices"
	"time"

	"pulsegate/fhir"
	"pulsegate/fhir/audit"
)

// PushKeys manages the push keys of patients, which let an app send data without
// signing in.
type PushKeys interface {
	// Vendors lists the vendors that keys can be for.
	Vendors(ctx context.Context, patient string) ([]PushVendor, error)
	List(ctx context.Context, patient string) ([]PushKey, error)
	// Create creates a key in one commit with ev, to which it adds the key. A life
	// of zero means that the key does not expire.
	Create(ctx context.Context, patient, vendor, name string, life time.Duration, ev audit.Event) (NewPushKey, error)
	// Revoke ends a key of the patient in one commit with ev, to which it adds the
	// key.
	Revoke(ctx context.Context, patient, id string, ev audit.Event) error
}

// PushVendor describes a vendor for display.
type PushVendor struct {
	Code, Name string
	Apps       []string // apps that can use a key
	Consented  bool     // whether a consent of the patient covers the vendor
}

// PushKey describes a push key for display.
type PushKey struct {
	ID, Vendor, Name string
	Created          time.Time
	Operator         bool      // made by the operator
	Expires          time.Time // zero if the key does not expire
	Expired          bool
	Used             time.Time // zero if the key has not been used
	Automation       string    // name that the app sends
}

// NewPushKey is a key with its text and what to enter in the app.
type NewPushKey struct {
	PushKey
	Key       string
	Settings  []PushSettings
	Consented bool
}

// PushSettings holds what to enter in an app for one format. The fields are those of
// pushkey.Settings.
type PushSettings struct {
	Format  string      `json:"format"`
	Summary string      `json:"summary"`
	App     string      `json:"app,omitempty"`
	Method  string      `json:"method"`
	URL     string      `json:"url"`
	Header  string      `json:"header"`
	Value   string      `json:"value"`
	Choices [][2]string `json:"choices,omitempty"`
}

// pushLife is a lifetime of a key.
type pushLife struct {
	value, text string // in the form
	life        time.Duration
}

// pushLives lists the lifetimes that the form offers. The first one is the default.
var pushLives = []pushLife{
	{"", "When I revoke it", 0},
	{"90", "After 90 days", 90 * 24 * time.Hour},
	{"365", "After one year", 365 * 24 * time.Hour},
} // read only

var pushKeyFields = []field{{"name", "key-name", "name"}, {"vendor", "vendor", "source of the data"},
	{"life", "life", "end"}}

type devicesData struct {
	Connections []connectionRow
	// New lists the vendors without a connection.
	New     []DeviceVendor
	Latest  []LatestData
	Keys    []PushKey
	Vendors []PushVendor
	Lives   []choice
	// The following fields hold what the person has entered.
	Name, Vendor, Life string
}

// patientOnly refuses people who are not patients.
func (req *request) patientOnly() error {
	if req.user.Patient == "" {
		return fhir.Errorf(fhir.Forbidden, "pages.devices", "This page is for patients.")
	}
	return nil
}

// devicesPage shows what sends data of the person.
func devicesPage(req *request) error {
	return req.renderDevices(http.StatusOK, view{Good: devicesDone(req.value("done"))}, devicesData{})
}

func (req *request) renderDevices(status int, v view, data devicesData) error {
	if err := req.patientOnly(); err != nil {
		return err
	}
	ctx := req.http.Context()
	var err error
	if data.Connections, err = req.connectionRows(); err != nil {
		return err
	}
	if data.New, err = req.newVendors(data.Connections); err != nil {
		return err
	}
	if data.Latest, err = req.pages.Explanations.Latest(ctx, req.by(), req.user.Patient); err != nil {
		return err
	}
	if data.Keys, err = req.pages.PushKeys.List(ctx, req.user.Patient); err != nil {
		return err
	}
	if data.Vendors, err = req.pages.PushKeys.Vendors(ctx, req.user.Patient); err != nil {
		return err
	}
	for _, l := range pushLives {
		data.Lives = append(data.Lives, choice{Value: l.value, Text: l.text})
	}
	if data.Vendor == "" && len(data.Vendors) > 0 {
		data.Vendor = data.Vendors[0].Code
	}
	v.Title, v.Data = "Devices", data
	return req.render(status, "pushkeys", v)
}

// pushKeysCreate makes a key and shows it once.
func pushKeysCreate(req *request) error {
	if err := req.patientOnly(); err != nil {
		return err
	}
	form := devicesData{Name: short(req.value("name")), Vendor: req.value("vendor"), Life: req.value("life")}
	i := slices.IndexFunc(pushLives, func(l pushLife) bool { return l.value == form.Life })
	var k NewPushKey
	err := error(fhir.Errorf(fhir.Invalid, "pages.pushKeysCreate", "life: Choose one of the list."))
	if i >= 0 {
		k, err = req.pages.PushKeys.Create(req.http.Context(), req.user.Patient, form.Vendor, form.Name,
			pushLives[i].life, req.pushKeyEvent("push-key-create"))
	}
	switch kind := fhir.KindOf(err); {
	case err == nil:
		return req.render(http.StatusOK, "pushkey", view{Title: "Your new key", Data: k})
	case kind == fhir.Invalid || kind == fhir.Conflict:
		return req.renderDevices(http.StatusUnprocessableEntity, view{Wrong: wrong(err, pushKeyFields)}, form)
	}
	return err
}

// pushKeysRevoke ends a key.
func pushKeysRevoke(req *request) error {
	if err := req.patientOnly(); err != nil {
		return err
	}
	err := req.pages.PushKeys.Revoke(req.http.Context(), req.user.Patient, req.value("id"),
		req.pushKeyEvent("push-key-revoke"))
	if err != nil && fhir.KindOf(err) == fhir.NotFound {
		return req.redirect("/auth/devices") // the key has already ended
	}
	if err != nil {
		return err
	}
	return req.redirect("/auth/devices?done=revoked")
}

func (req *request) pushKeyEvent(change string) audit.Event {
	return audit.Event{Type: audit.Security, Interaction: "configuration", Caller: req.by(),
		Extra: [][2]string{{"change", change}}}
}
