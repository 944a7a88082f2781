// Package config defines the settings of the pulsegate binary. They come from
// defaults, a YAML file, PULSEGATE_… environment variables and flags; later sources
// override earlier ones. Every setting has a usable default. `pulsegate config`
// prints all of them with their comments.
//
// Secrets are not settings: keys are files with mode 0600 in the data directory,
// created at the first start.
package config

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/netip"
	"net/url"
	"os"
	"reflect"
	"strconv"
	"strings"
	"time"
	"unicode"

	"gopkg.in/yaml.v3"

	"pulsegate/fhir/budget"
	"pulsegate/fhir/clientaddr"
	"pulsegate/fhir/cluster/hints"
)

// Config holds the settings.
type Config struct {
	Data          string `yaml:"data" default:"pulsegate-data" comment:"Directory of the store, the keys and the admin socket. It is created with mode 0700."`
	Listen        string `yaml:"listen" default:"127.0.0.1:8080" comment:"Address to listen on. Port 0 selects a free port."`
	BaseURL       string `yaml:"base-url" default:"" comment:"Public base URL of this server, without a trailing slash. If empty, it follows from listen. Required with mongodb, and then the same on every server."`
	MetricsListen string `yaml:"metrics-listen" default:"" comment:"Address to serve /metrics on, for Prometheus, without TLS or authentication; restrict it to the monitoring network. If empty, metrics are not served."`
	Demo          bool   `yaml:"demo" default:"false" comment:"Start with three invented wearers and print a short-lived token. Only for trying the server out, and not with mongodb."`

	TLSCert string `yaml:"tls-cert" default:"" comment:"PEM file of the certificate chain. Together with tls-key, it makes the server use HTTPS (TLS 1.2 or later)."`
	TLSKey  string `yaml:"tls-key" default:"" comment:"PEM file of the private key."`

	LogLevel  string `yaml:"log-level" default:"info" comment:"debug, info, warn or error. Logs go to stderr."`
	LogFormat string `yaml:"log-format" default:"text" comment:"text or json."`

	CacheMiB       int           `yaml:"cache-mib" default:"64" comment:"Block cache of the embedded store, in MiB."`
	MaxBodyBytes   int64         `yaml:"max-body-bytes" default:"10485760" comment:"Maximum size of a FHIR request body in bytes, after decompression."`
	MemoryMiB      int           `yaml:"memory-mib" default:"512" comment:"Memory in MiB for the bodies of all requests in progress. When it is used up, requests are answered with 503 and Retry-After."`
	MaxBundle      int           `yaml:"max-bundle-entries" default:"1000" comment:"Maximum number of entries of a batch or transaction."`
	MaxIngestBytes int64         `yaml:"max-ingest-bytes" default:"17179869184" comment:"Maximum size of a vendor payload in bytes, after decompression. The default is 16 GiB."`
	SeriesFrom     int           `yaml:"series-from" default:"24" comment:"Metrics with at least this many samples per day (rate in the metric table) are stored as series. 0 means 24; a negative value disables series. Clients see no difference, and the setting may change at any time."`
	Preferred      bool          `yaml:"preferred" default:"true" comment:"Derive a preferred value per day or night of what several sources measure, such as the steps of a phone and a watch, and answer $stats over the preferred sources."`
	PreferredRules string        `yaml:"preferred-policy" default:"" comment:"YAML file of the policy that says which source is preferred. If it changes, all preferred values are derived again. If empty, the built-in policy applies."`
	DrainTimeout   time.Duration `yaml:"drain-timeout" default:"20s" comment:"Time that the server waits for requests in progress after SIGTERM."`

	UserTokenLife   time.Duration `yaml:"user-token-life" default:"15m" comment:"Lifetime of an access token for a person, at most 1h. Access tokens for backends live 5 minutes."`
	ConsentPage     string        `yaml:"consent-page" default:"/auth/consent" comment:"Path of the page where a person decides about the request of an app."`
	ManagePage      string        `yaml:"manage-page" default:"/auth/apps" comment:"Path of the page where a person sees and ends the access of apps."`
	ClientCerts     bool          `yaml:"client-certs" default:"false" comment:"Request a certificate from TLS clients, to bind their tokens to it (RFC 8705). Requires tls-cert."`
	DPoPNonce       bool          `yaml:"dpop-nonce" default:"false" comment:"Require a nonce of this server, at most 5 minutes old, in every DPoP proof (RFC 9449 8)."`
	CertProxies     []string      `yaml:"client-cert-proxies" default:"" comment:"Addresses (CIDR, comma separated) of proxies that terminate TLS and pass on the certificate of the client in the header Client-Cert (RFC 9440). From other addresses, the header is ignored."`
	TrustedProxies  []string      `yaml:"trusted-proxies" default:"" comment:"Addresses (CIDR, comma separated) of proxies that append the address of their peer to forwarded-header, so that limits and the audit trail use the address of the client. Their X-Forwarded-Proto (or proto in Forwarded) tells whether the client used https, which push keys require. From other addresses, the headers are ignored."`
	Forwarded       string        `yaml:"forwarded-header" default:"X-Forwarded-For" comment:"The header that trusted-proxies append to: X-Forwarded-For or Forwarded (RFC 7239)."`
	ExternalIssuers string        `yaml:"outside-issuers" default:"" comment:"YAML file of external issuers. Their access tokens are accepted. For each issuer, the file names its JWKS, its clients, the scopes that these may request, and claims."`
	Brand           string        `yaml:"brand" default:"" comment:"YAML file that describes the organization behind this server (User-access Brands). If empty, the name follows from the base URL."`

	OIDCIssuer            string   `yaml:"oidc-issuer" default:"" comment:"Issuer URL of the OpenID provider of the hospital, for sign-in. Register the callback BASE/auth/external/callback there."`
	OIDCClientID          string   `yaml:"oidc-client-id" default:"" comment:"Client id of this server at the OpenID provider."`
	OIDCSecretFile        string   `yaml:"oidc-client-secret-file" default:"" comment:"File with the client secret. If empty, this server is a public client."`
	OIDCName              string   `yaml:"oidc-name" default:"the hospital" comment:"Name of the provider on the sign-in button."`
	OIDCMFA               []string `yaml:"oidc-mfa" default:"" comment:"acr or amr values (comma separated) with which the provider reports multi-factor authentication. Staff need one of these or one of oidc-phishing-resistant."`
	OIDCPhishingResistant []string `yaml:"oidc-phishing-resistant" default:"" comment:"acr or amr values (comma separated) with which the provider reports phishing-resistant authentication."`
	BreachedPasswords     string   `yaml:"breached-passwords" default:"" comment:"File of SHA-1 hashes of stolen passwords, or of prefixes of at least 10 hex digits, one per line. These passwords are refused, in addition to the built-in list."`

	Vendors string `yaml:"vendors" default:"" comment:"YAML file with the vendors to which patients can connect accounts. For each vendor code, the file states client-id, client-secret-file and options, and may state authorize-url, token-url, revoke-url and api-url. Files with secrets must not be readable by all users. Register the callback BASE/auth/devices/callback at the vendor. If empty, patients can connect no account."`

	MappingPacks string `yaml:"mapping-packs" default:"" comment:"Directory with mapping packs: YAML files that add, override or remove rows of the metric table, such as codes, units, ranges and profiles. They are read at the start; check them with pulsegate pack check. If empty, only the built-in packs are used."`

	VendorHooks    string        `yaml:"vendor-webhooks" default:"auto" comment:"URL below which vendors reach the webhooks of this server, without a trailing slash. auto is BASE/hooks if base-url is set. off means that vendors cannot reach this server, which then polls them."`
	VendorBackfill time.Duration `yaml:"vendor-backfill" default:"2160h" comment:"Time before the connection of an account for which its data are read. The default is 90 days."`

	MongoDB             string `yaml:"mongodb" default:"" comment:"Connection string (mongodb:// or mongodb+srv://, with a database and without a password) of the replica set that holds the log of a cluster. If empty, this server is alone. Servers with the same database form a cluster."`
	MongoDBPasswordFile string `yaml:"mongodb-password-file" default:"" comment:"File with the password of the user in mongodb."`
	MongoDBStandalone   bool   `yaml:"mongodb-standalone" default:"false" comment:"Accept a MongoDB server that is not a member of a replica set. What is acknowledged can then be lost. Only for trying a cluster out."`
	MongoDBMirror       string `yaml:"mongodb-mirror" default:"" comment:"Name of a database, on the same MongoDB, in which a server of the cluster keeps copies of the current resources as documents, for other programs. It must be used for nothing else. If empty, there is no mirror."`
	Redis               string `yaml:"redis" default:"" comment:"URL (redis:// or rediss://, without a password) of the Redis server through which the servers of a cluster wake each other and share rate limits. Without it, a cluster is slower."`
	RedisPasswordFile   string `yaml:"redis-password-file" default:"" comment:"File with the password of the user in redis."`
	ClusterKeyFile      string `yaml:"cluster-key-file" default:"" comment:"File with the key (32 bytes in base64) under which the servers of a cluster seal their shared keys, and by which they know each other. Required with mongodb. Make one with: openssl rand -base64 32."`
	Node                string `yaml:"node" default:"" comment:"Name of this server in its cluster. If empty, it is the host name."`
	PeerListen          string `yaml:"peer-listen" default:"" comment:"Address to listen on for the other servers of the cluster, with TLS under the cluster key. If empty, the others send this server no commits."`
	PeerAddress         string `yaml:"peer-address" default:"" comment:"Host and port at which the other servers reach peer-listen. If empty, it is the host name and the port of peer-listen."`

	Subscriptions string `yaml:"subscriptions" default:"" comment:"YAML file for Subscriptions: topics (files with a SubscriptionTopic or a Basic), mail (SMTP server of the channel email), oauth (tokens for endpoints, by client) and nats (server of the channel nats). If empty, there are the built-in topics and the channels rest-hook, websocket and message."`

	ExportBucket        string   `yaml:"export-bucket" default:"" comment:"Bucket of an S3 object store that gets copies of the files of complete bulk exports, as URL in path style with an optional prefix (https://host/bucket/prefix). What is there is outside of the consents: it stays when a consent is withdrawn later. If empty, files can only be downloaded from this server."`
	ExportBucketRegion  string   `yaml:"export-bucket-region" default:"us-east-1" comment:"Region of the object store, for signatures."`
	ExportBucketKeyFile string   `yaml:"export-bucket-key-file" default:"" comment:"File with the access key id and the secret access key, separated by white space. The key needs s3:PutObject and s3:AbortMultipartUpload only, and s3:DeleteObject for export-bucket-delete."`
	ExportBucketClients []string `yaml:"export-bucket-clients" default:"" comment:"Ids of the clients (comma separated) whose exports are copied to export-bucket."`
	ExportBucketDelete  bool     `yaml:"export-bucket-delete" default:"false" comment:"Delete the copies of an export in export-bucket when its client deletes the export."`

	EgressAllow []string `yaml:"egress-allow" default:"" comment:"Private networks (CIDR, comma separated) where subscription endpoints, JWKS URLs and the clouds of vendors may be. Other private addresses are refused, and plain http is allowed only if this is set."`
}

// Values of VendorHooks other than a URL.
const (
	HooksAuto = "auto"
	HooksOff  = "off"
)

// Load returns the settings from the defaults, the YAML file unless path is empty,
// the environment, and the overrides (flags), which are keyed by setting.
func Load(path string, env func(string) (string, bool), overrides map[string]string) (*Config, error) {
	c := &Config{}
	if err := each(c, func(f field) error { return f.set(f.def) }); err != nil {
		return nil, err
	}
	if path != "" {
		if err := c.readFile(path); err != nil {
			return nil, err
		}
	}
	err := each(c, func(f field) error {
		if v, ok := env(f.env()); ok {
			if err := f.set(v); err != nil {
				return fmt.Errorf("%s: %w", f.env(), err)
			}
		}
		if v, ok := overrides[f.name]; ok {
			if err := f.set(v); err != nil {
				return fmt.Errorf("--%s: %w", f.name, err)
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	if err := each(c, func(f field) error { f.tidy(); return nil }); err != nil {
		return nil, err
	}
	return c, c.check()
}

func (c *Config) readFile(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	dec := yaml.NewDecoder(io.LimitReader(f, 1<<20))
	dec.KnownFields(true)
	if err := dec.Decode(c); err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("%s: %w", path, err)
	}
	return nil
}

func (c *Config) check() error {
	if c.Data == "" {
		return errors.New("data: must name a directory")
	}
	if _, _, err := net.SplitHostPort(c.Listen); err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	if c.MetricsListen != "" {
		if _, _, err := net.SplitHostPort(c.MetricsListen); err != nil {
			return fmt.Errorf("metrics-listen: %w", err)
		}
	}
	if (c.TLSCert == "") != (c.TLSKey == "") {
		return errors.New("tls-cert and tls-key must be set together")
	}
	if err := c.checkPairs(); err != nil {
		return err
	}
	if c.UserTokenLife < time.Minute || c.UserTokenLife > time.Hour {
		return errors.New("user-token-life: must be between 1m and 1h")
	}
	for name, p := range map[string]string{"consent-page": c.ConsentPage, "manage-page": c.ManagePage} {
		if !strings.HasPrefix(p, "/") || strings.HasPrefix(p, "//") {
			return fmt.Errorf("%s: must be a path on this server, beginning with /", name)
		}
	}
	if c.BaseURL != "" {
		u, err := url.Parse(c.BaseURL)
		if err != nil || u.Host == "" || (u.Scheme != "http" && u.Scheme != "https") ||
			strings.HasSuffix(c.BaseURL, "/") || u.RawQuery != "" {
			return errors.New("base-url: must be an absolute http or https URL without a trailing slash or query")
		}
	}
	if h := c.VendorHooks; h != HooksAuto && h != HooksOff &&
		(!strings.HasPrefix(h, "https://") || strings.HasSuffix(h, "/")) {
		return errors.New("vendor-webhooks: must be auto, off, or an https URL without a trailing slash")
	}
	if c.VendorBackfill <= 0 {
		return errors.New("vendor-backfill: must be greater than 0")
	}
	if (c.OIDCIssuer == "") != (c.OIDCClientID == "") {
		return errors.New("oidc-issuer and oidc-client-id must be set together")
	}
	if _, err := c.Egress(); err != nil {
		return err
	}
	if _, err := c.Proxies(); err != nil {
		return err
	}
	if _, err := c.Forwarders(); err != nil {
		return err
	}
	if c.Forwarded != clientaddr.XForwardedFor && c.Forwarded != clientaddr.Forwarded {
		return errors.New("forwarded-header: must be X-Forwarded-For or Forwarded")
	}
	if err := c.checkCluster(); err != nil {
		return err
	}
	if need := (c.MaxBodyBytes+budget.Small)*budget.Factor*2>>20 + 1; int64(c.MemoryMiB) < need {
		return fmt.Errorf("memory-mib: must be at least %d, so that one body of max-body-bytes fits", need)
	}
	for name, n := range map[string]int64{"cache-mib": int64(c.CacheMiB), "max-body-bytes": c.MaxBodyBytes,
		"max-bundle-entries": int64(c.MaxBundle), "max-ingest-bytes": c.MaxIngestBytes} {
		if n <= 0 {
			return fmt.Errorf("%s: must be greater than 0", name)
		}
	}
	return nil
}

// checkCluster checks the settings of a server of a cluster.
func (c *Config) checkCluster() error {
	if c.MongoDB != "" && c.ClusterKeyFile == "" {
		return errors.New("cluster-key-file: required with mongodb; make a key with: openssl rand -base64 32")
	}
	if err := needs([]need{
		{"mongodb-password-file", c.MongoDBPasswordFile != "", "mongodb", c.MongoDB != ""},
		{"mongodb-standalone", c.MongoDBStandalone, "mongodb", c.MongoDB != ""},
		{"mongodb-mirror", c.MongoDBMirror != "", "mongodb", c.MongoDB != ""},
		{"redis", c.Redis != "", "mongodb", c.MongoDB != ""},
		{"redis-password-file", c.RedisPasswordFile != "", "redis", c.Redis != ""},
		{"peer-address", c.PeerAddress != "", "peer-listen", c.PeerListen != ""},
		{"peer-listen", c.PeerListen != "", "redis", c.Redis != ""},
	}); err != nil {
		return err
	}
	if c.MongoDB != "" && c.Demo {
		return errors.New("demo: cannot be used with mongodb, because it would write invented wearers and a token " +
			"into the store of the cluster; try a cluster out with deploy/cluster/compose.yaml")
	}
	if c.MongoDB != "" && c.BaseURL == "" {
		return errors.New("base-url: required with mongodb, because it must be the same on every server of the cluster; " +
			"set it to the address of the load balancer")
	}
	if len(c.Node) > maxNodeName || strings.ContainsFunc(c.Node, func(r rune) bool { return !unicode.IsGraphic(r) }) {
		return fmt.Errorf("node: must be a name of at most %d bytes, without control characters", maxNodeName)
	}
	if c.Redis != "" {
		if _, err := hints.ParseURL(c.Redis); err != nil {
			return err
		}
	}
	for name, addr := range map[string]string{"peer-listen": c.PeerListen, "peer-address": c.PeerAddress} {
		if _, _, err := net.SplitHostPort(addr); addr != "" && err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	if len(c.MongoDBMirror) > maxDatabaseName || strings.ContainsAny(c.MongoDBMirror, "/\\. \"$\x00") {
		return fmt.Errorf("mongodb-mirror: must be the name of a database, of at most %d bytes and without "+
			"/ \\ . \" $ and spaces", maxDatabaseName)
	}
	return nil
}

const (
	maxDatabaseName = 63  // MongoDB's limit
	maxNodeName     = 253 // of a host name
)

// need states that a setting has no effect without another one.
type need struct {
	name  string
	set   bool
	needs string
	has   bool
}

// needs refuses a setting without the one that it belongs to.
func needs(list []need) error {
	for _, n := range list {
		if n.set && !n.has {
			return fmt.Errorf("%s: requires %s", n.name, n.needs)
		}
	}
	return nil
}

// checkPairs refuses settings that make no sense together.
func (c *Config) checkPairs() error {
	oidc := c.OIDCIssuer != ""
	if err := needs([]need{
		{"client-certs", c.ClientCerts, "tls-cert", c.TLSCert != ""},
		{"oidc-client-secret-file", c.OIDCSecretFile != "", "oidc-issuer", oidc},
		{"oidc-mfa", len(c.OIDCMFA) > 0, "oidc-issuer", oidc},
		{"oidc-phishing-resistant", len(c.OIDCPhishingResistant) > 0, "oidc-issuer", oidc},
		{"preferred-policy", c.PreferredRules != "", "preferred", c.Preferred},
		{"export-bucket", c.ExportBucket != "", "export-bucket-key-file", c.ExportBucketKeyFile != ""},
		{"export-bucket", c.ExportBucket != "", "export-bucket-clients", len(c.ExportBucketClients) > 0},
		{"export-bucket-key-file", c.ExportBucketKeyFile != "", "export-bucket", c.ExportBucket != ""},
		{"export-bucket-clients", len(c.ExportBucketClients) > 0, "export-bucket", c.ExportBucket != ""},
		{"export-bucket-delete", c.ExportBucketDelete, "export-bucket", c.ExportBucket != ""},
	}); err != nil {
		return err
	}
	seen := map[string]string{} // listeners by address
	for _, l := range [][2]string{{"listen", c.Listen}, {"metrics-listen", c.MetricsListen},
		{"peer-listen", c.PeerListen}} {
		if l[1] == "" || strings.HasSuffix(l[1], ":0") {
			continue
		}
		if other := seen[l[1]]; other != "" {
			return fmt.Errorf("%s: has the same address as %s", l[0], other)
		}
		seen[l[1]] = l[0]
	}
	return nil
}

// Packs returns the directory of MappingPacks, or nil.
func (c *Config) Packs() (fs.FS, error) {
	if c.MappingPacks == "" {
		return nil, nil
	}
	info, err := os.Stat(c.MappingPacks)
	if err != nil {
		return nil, fmt.Errorf("mapping-packs: %w", err)
	}
	if !info.IsDir() {
		return nil, errors.New("mapping-packs: must be a directory")
	}
	return os.DirFS(c.MappingPacks), nil
}

// Egress returns the networks of EgressAllow.
func (c *Config) Egress() ([]netip.Prefix, error) { return prefixes("egress-allow", c.EgressAllow) }

// Proxies returns the addresses from which the Client-Cert header is trusted.
func (c *Config) Proxies() (clientaddr.Proxies, error) {
	return proxies("client-cert-proxies", c.CertProxies)
}

// Forwarders returns the addresses from which the forwarded header is trusted.
func (c *Config) Forwarders() (clientaddr.Proxies, error) {
	return proxies("trusted-proxies", c.TrustedProxies)
}

func proxies(name string, list []string) (clientaddr.Proxies, error) {
	out, err := prefixes(name, list)
	for _, p := range out {
		if p.Bits() == 0 {
			return nil, fmt.Errorf("%s: must not cover all addresses", name)
		}
	}
	return out, err
}

func prefixes(name string, list []string) ([]netip.Prefix, error) {
	var out []netip.Prefix
	for _, s := range list {
		p, err := netip.ParsePrefix(strings.TrimSpace(s))
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		out = append(out, p)
	}
	return out, nil
}

// Print writes the settings as YAML, each with its comment, default and environment
// variable.
func (c *Config) Print(w io.Writer) error {
	return each(c, func(f field) error {
		_, err := fmt.Fprintf(w, "# %s\n# default: %s   environment: %s\n%s: %s\n\n", f.comment, quoted(f.def),
			f.env(), f.name, f.show())
		return err
	})
}

// field is one setting of a Config.
type field struct {
	name, def, comment string
	value              reflect.Value
}

// env returns the name of the environment variable.
func (f field) env() string {
	return "PULSEGATE_" + strings.ToUpper(strings.ReplaceAll(f.name, "-", "_"))
}

// each calls fn for every setting of c.
func each(c *Config, fn func(field) error) error {
	v := reflect.ValueOf(c).Elem()
	for i := range v.NumField() {
		t := v.Type().Field(i)
		f := field{name: t.Tag.Get("yaml"), def: t.Tag.Get("default"), comment: t.Tag.Get("comment"), value: v.Field(i)}
		if err := fn(f); err != nil {
			return err
		}
	}
	return nil
}

// set parses s into the setting.
func (f field) set(s string) error {
	switch p := f.value.Addr().Interface().(type) {
	case *string:
		*p = s
	case *bool:
		b, err := strconv.ParseBool(s)
		if err != nil {
			return errors.New("must be true or false")
		}
		*p = b
	case *int:
		n, err := strconv.Atoi(s)
		if err != nil {
			return errors.New("must be a whole number")
		}
		*p = n
	case *int64:
		n, err := strconv.ParseInt(s, 10, 64)
		if err != nil {
			return errors.New("must be a whole number")
		}
		*p = n
	case *time.Duration:
		d, err := time.ParseDuration(s)
		if err != nil {
			return errors.New("must be a duration such as 20s")
		}
		*p = d
	case *[]string:
		*p = nil
		if s != "" {
			*p = strings.Split(s, ",")
		}
	default:
		return fmt.Errorf("field %s has a type that cannot be set", f.name)
	}
	return nil
}

// tidy sets empty lists to nil, however they were written.
func (f field) tidy() {
	if p, ok := f.value.Addr().Interface().(*[]string); ok && len(*p) == 0 {
		*p = nil
	}
}

// show returns the value as YAML.
func (f field) show() string {
	switch p := f.value.Addr().Interface().(type) {
	case *string:
		return quoted(*p)
	case *[]string:
		quoted := make([]string, len(*p))
		for i, s := range *p {
			quoted[i] = strconv.Quote(s)
		}
		return "[" + strings.Join(quoted, ", ") + "]"
	case *time.Duration:
		return p.String()
	}
	return fmt.Sprint(f.value.Interface())
}

func quoted(s string) string {
	if s == "" {
		return `""`
	}
	return s
}
