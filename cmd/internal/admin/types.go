package admin

import (
	"encoding/json"
	"time"

	"pulsegate/mapping/ingest"
)

// NewPatient is what `pulsegate patient add` sends.
type NewPatient struct {
	ID        string `json:"id,omitempty"`
	Given     string `json:"given"`
	Family    string `json:"family"`
	BirthDate string `json:"birthdate,omitempty"`
	Gender    string `json:"gender,omitempty"`
	TimeZone  string `json:"timezone,omitempty"` // IANA; used for payloads without offsets
}

// Patient is one line of `pulsegate patient list`.
type Patient struct {
	ID        string `json:"id"`
	Name      string `json:"name"`
	BirthDate string `json:"birthdate,omitempty"`
	Gender    string `json:"gender,omitempty"`
	TimeZone  string `json:"timezone,omitempty"`
}

// Patients is the answer of `patient list`.
type Patients struct {
	Patients []Patient `json:"patients"`
}

// PatientDetails is the answer of `patient show`.
type PatientDetails struct {
	Patient
	Consents []Consent `json:"consents"`
	Devices  []Device  `json:"devices"`
}

// Device is one line of `patient show`.
type Device struct {
	ID     string `json:"id"`
	Name   string `json:"name,omitempty"`
	Status string `json:"status,omitempty"`
}

// ID is the answer of an operation that makes one thing.
type ID struct {
	ID string `json:"id"`
}

// NewConsent is what `pulsegate consent grant` sends.
type NewConsent struct {
	Patient    string   `json:"patient"`
	Vendor     string   `json:"vendor"`
	Categories []string `json:"categories,omitempty"`
	Recipient  string   `json:"recipient"`
}

// WithdrawConsent takes back what a patient has agreed to.
type WithdrawConsent struct {
	Patient string `json:"patient"`
	Vendor  string `json:"vendor,omitempty"` // "" all
}

// Withdrawn lists the ids of the Consents under which data was visible.
type Withdrawn struct {
	Withdrawn []string `json:"withdrawn"`
	Narrowed  []string `json:"narrowed,omitempty"` // of these: those that go on for other vendors
	Denials   []string `json:"denials,omitempty"`  // made for what the others denied
	Record    string   `json:"record"`             // of the withdrawal itself
}

// Consent is one line of `pulsegate consent list`.
type Consent struct {
	ID         string   `json:"id"`
	Patient    string   `json:"patient"`
	Status     string   `json:"status"`
	Vendor     string   `json:"vendor,omitempty"`
	Categories []string `json:"categories,omitempty"`
	Recipient  string   `json:"recipient,omitempty"`
	Date       string   `json:"date,omitempty"`
}

// Consents is the answer of `consent list`.
type Consents struct {
	Consents []Consent `json:"consents"`
}

// NewClient registers a backend client, or with RedirectURIs an app.
type NewClient struct {
	Name         string          `json:"name"`
	JWKS         json.RawMessage `json:"jwks,omitempty"`
	JWKSURL      string          `json:"jwks_url,omitempty"`
	Scope        string          `json:"scope"`
	Method       string          `json:"auth,omitempty"` // token_endpoint_auth_method
	RedirectURIs []string        `json:"redirect_uris,omitempty"`
	LaunchURL    string          `json:"launch_url,omitempty"`
	Inspects     bool            `json:"inspects,omitempty"`
	// RecordsConsent lets it write Consents, as far as its scope covers that.
	RecordsConsent bool `json:"records_consent,omitempty"`
}

// ChangeClient changes a registered client. A nil field stays as it is.
type ChangeClient struct {
	ID             string `json:"client_id"`
	RecordsConsent *bool  `json:"records_consent,omitempty"`
}

// NewRegistrationToken asks for an initial access token.
type NewRegistrationToken struct {
	Scope   string `json:"scope"`
	Uses    int    `json:"uses"`
	Seconds int64  `json:"seconds"`
}

// RegistrationToken is shown once.
type RegistrationToken struct {
	Token string `json:"token"`
}

// Client is one registered client.
type ClientInfo struct {
	ID           string    `json:"client_id"`
	Name         string    `json:"name"`
	Scope        string    `json:"scope"`
	JWKSURL      string    `json:"jwks_url,omitempty"`
	Secret       string    `json:"client_secret,omitempty"` // once, when it is made
	RedirectURIs []string  `json:"redirect_uris,omitempty"`
	Created      time.Time `json:"created"`
	Disabled     bool      `json:"disabled"`
	// RecordsConsent reports whether it may write Consents.
	RecordsConsent bool `json:"records_consent"`
}

// Clients is the answer of `client list`.
type Clients struct {
	Clients []ClientInfo `json:"clients"`
}

// QuarantineItem is one thing that could not become a resource. Raw is only
// in `quarantine show`.
type QuarantineItem struct {
	ID        string    `json:"id"`
	Patient   string    `json:"patient"`
	Vendor    string    `json:"vendor"`
	Format    string    `json:"format"`
	Metric    string    `json:"metric,omitempty"`
	Component string    `json:"component,omitempty"` // the part that was left out, while the rest was taken
	Reason    string    `json:"reason"`
	Where     string    `json:"where,omitempty"`
	Detail    string    `json:"detail,omitempty"`
	Count     int       `json:"count"`
	FirstSeen time.Time `json:"firstSeen"`
	Raw       string    `json:"raw,omitempty"`
}

// Quarantine is the answer of `quarantine list`.
type Quarantine struct {
	Items []QuarantineItem `json:"items"`
}

// DemoToken is the answer of `demo token`.
type DemoToken struct {
	Token   string `json:"access_token"`
	Seconds int    `json:"expires_in"`
	Scope   string `json:"scope"`
}

// ServerInfo tells how clients reach the server.
type ServerInfo struct {
	BaseURL string `json:"baseUrl"`
	Version string `json:"version"`
}

// Retried is the answer of `quarantine retry`.
type Retried struct {
	ingest.Summary
	Items        int            `json:"items"`                  // in quarantine before
	Left         int            `json:"left"`                   // and after
	LeftByReason map[string]int `json:"leftByReason,omitempty"` // the latter by reason
}

// StoreStat is the answer of `store stat`.
type StoreStat struct {
	DiskBytes   uint64 `json:"diskBytes"`
	Resources   uint64 `json:"resources"`
	Commit      uint64 `json:"commit"`
	AuditLeaves uint64 `json:"auditLeaves"`
	// Of the file system that holds the store.
	Dir          string `json:"dir"`
	FreeBytes    uint64 `json:"freeBytes"`
	ReserveBytes uint64 `json:"reserveBytes"` // below it writes are refused
	// Of the sample tier.
	Series      []SeriesStat `json:"series"`
	Compactions uint64       `json:"compactions"` // since the start
	Rewritten   uint64       `json:"rewritten"`   // samples that they wrote again
	Waiting     int          `json:"waiting"`     // series that wait for one
}

// SeriesStat sums up the series of one code of a vendor.
type SeriesStat struct {
	Vendor         string  `json:"vendor"`
	Code           string  `json:"code"`
	Series         uint64  `json:"series"`
	Samples        uint64  `json:"samples"`
	Blocks         uint64  `json:"blocks"`
	Tails          uint64  `json:"tails"` // blocks that are still to be merged
	BytesPerSample float64 `json:"bytesPerSample"`
}

// StoreCheck is the answer of `store check`.
type StoreCheck struct {
	Problems []string `json:"problems"`
}
