package admin

import (
	"encoding/json"
	"time"

	"pulsegate/mapping/ingest"
)

// NewPatient is the input of `pulsegate patient add`.
type NewPatient struct {
	ID        string `json:"id,omitempty"`
	Given     string `json:"given"`
	Family    string `json:"family"`
	BirthDate string `json:"birthdate,omitempty"`
	Gender    string `json:"gender,omitempty"`
	TimeZone  string `json:"timezone,omitempty"` // IANA name, used for payloads without UTC offsets
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

// ID is the answer of an operation that creates one resource.
type ID struct {
	ID string `json:"id"`
}

// NewConsent is the input of `pulsegate consent grant`.
type NewConsent struct {
	Patient    string   `json:"patient"`
	Vendor     string   `json:"vendor"`
	Categories []string `json:"categories,omitempty"`
	Recipient  string   `json:"recipient"`
}

// WithdrawConsent is the input of `pulsegate consent withdraw`.
type WithdrawConsent struct {
	Patient string `json:"patient"`
	Vendor  string `json:"vendor,omitempty"` // all vendors if empty
}

// Withdrawn is the answer of `consent withdraw`. It lists the ids of the Consents
// that made data visible.
type Withdrawn struct {
	Withdrawn []string `json:"withdrawn"`
	Narrowed  []string `json:"narrowed,omitempty"` // those of them that still apply to other vendors
	Denials   []string `json:"denials,omitempty"`  // Consents created to keep what the withdrawn ones denied
	Record    string   `json:"record"`             // the Consent that records the withdrawal
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

// NewClient is the input of `pulsegate client add`. With RedirectURIs the client is
// an app, otherwise a backend.
type NewClient struct {
	Name         string          `json:"name"`
	JWKS         json.RawMessage `json:"jwks,omitempty"`
	JWKSURL      string          `json:"jwks_url,omitempty"`
	Scope        string          `json:"scope"`
	Method       string          `json:"auth,omitempty"` // token_endpoint_auth_method
	RedirectURIs []string        `json:"redirect_uris,omitempty"`
	LaunchURL    string          `json:"launch_url,omitempty"`
	Inspects     bool            `json:"inspects,omitempty"`
	// RecordsConsent allows the client to write Consents within its scope.
	RecordsConsent bool `json:"records_consent,omitempty"`
	// PhoneMade says that the client's Observations were made on a phone from samples of
	// HealthKit and are to be repaired.
	PhoneMade bool `json:"phone_made,omitempty"`
}

// ChangeClient is the input of `pulsegate client change`. Nil fields change nothing.
type ChangeClient struct {
	ID             string `json:"client_id"`
	RecordsConsent *bool  `json:"records_consent,omitempty"`
	PhoneMade      *bool  `json:"phone_made,omitempty"`
}

// NewRegistrationToken is the input of `pulsegate client registration-token`.
type NewRegistrationToken struct {
	Scope   string `json:"scope"`
	Uses    int    `json:"uses"`
	Seconds int64  `json:"seconds"`
}

// RegistrationToken is an initial access token. It is shown only once.
type RegistrationToken struct {
	Token string `json:"token"`
}

// ClientInfo describes a registered client.
type ClientInfo struct {
	ID           string    `json:"client_id"`
	Name         string    `json:"name"`
	Scope        string    `json:"scope"`
	JWKSURL      string    `json:"jwks_url,omitempty"`
	Secret       string    `json:"client_secret,omitempty"` // set only when the client is created
	RedirectURIs []string  `json:"redirect_uris,omitempty"`
	Created      time.Time `json:"created"`
	Disabled     bool      `json:"disabled"`
	// RecordsConsent reports whether the client may write Consents.
	RecordsConsent bool `json:"records_consent"`
	// PhoneMade reports whether the client's Observations are repaired.
	PhoneMade bool `json:"phone_made"`
}

// Clients is the answer of `client list`.
type Clients struct {
	Clients []ClientInfo `json:"clients"`
}

// QuarantineItem is a part of a payload that could not become a resource. Raw is
// set only by `quarantine show`.
type QuarantineItem struct {
	ID        string    `json:"id"`
	Patient   string    `json:"patient"`
	Vendor    string    `json:"vendor"`
	Format    string    `json:"format"`
	Metric    string    `json:"metric,omitempty"`
	Component string    `json:"component,omitempty"` // the component that was left out of a stored sample
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

// ServerInfo is the answer of `server/info`.
type ServerInfo struct {
	BaseURL string `json:"baseUrl"`
	Version string `json:"version"`
}

// Retried is the answer of `quarantine retry`.
type Retried struct {
	ingest.Summary
	Items        int            `json:"items"`                  // in quarantine before the retry
	Left         int            `json:"left"`                   // in quarantine after it
	LeftByReason map[string]int `json:"leftByReason,omitempty"` // Left by reason
}

// SearchParameters is the answer of `store search-parameters`.
type SearchParameters struct {
	Parameters []SearchParameter `json:"parameters"`
}

// SearchParameter is an active SearchParameter for one base type. Indexed counts the
// versions in its index, of about Total.
type SearchParameter struct {
	ID      string `json:"id"`
	URL     string `json:"url,omitempty"`
	Code    string `json:"code,omitempty"`
	Base    string `json:"base,omitempty"`
	State   string `json:"state"` // indexed, indexing or no effect
	Indexed uint64 `json:"indexed"`
	Total   uint64 `json:"total"`
	Problem string `json:"problem,omitempty"`
}

// StoreStat is the answer of `store stat`.
type StoreStat struct {
	DiskBytes   uint64 `json:"diskBytes"`
	Resources   uint64 `json:"resources"`
	Commit      uint64 `json:"commit"`
	AuditLeaves uint64 `json:"auditLeaves"`
	// The file system that holds the store.
	Dir          string `json:"dir"`
	FreeBytes    uint64 `json:"freeBytes"`
	ReserveBytes uint64 `json:"reserveBytes"` // writes are refused below it
	// The sample tier.
	Series      []SeriesStat `json:"series"`
	Compactions uint64       `json:"compactions"` // since the server started
	Rewritten   uint64       `json:"rewritten"`   // samples rewritten by compactions
	Waiting     int          `json:"waiting"`     // series that wait for a compaction
}

// SeriesStat summarizes the series of one code of a vendor.
type SeriesStat struct {
	Vendor         string  `json:"vendor"`
	Code           string  `json:"code"`
	Series         uint64  `json:"series"`
	Samples        uint64  `json:"samples"`
	Blocks         uint64  `json:"blocks"`
	Tails          uint64  `json:"tails"` // blocks that are not merged yet
	BytesPerSample float64 `json:"bytesPerSample"`
}

// StoreCheck is the answer of `store check`.
type StoreCheck struct {
	Problems []string `json:"problems"`
}
