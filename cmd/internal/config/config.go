// Package config is the configuration of the pulsegate binary: one struct,
// filled from its defaults, a YAML file, PULSEGATE_… environment variables and
// flags, in this order, the later winning. Every field has a usable zero or
// default value; `pulsegate config` prints them all with their comments.
//
// Secrets are never fields: keys are files under the data directory, made on
// first start with mode 0600.
package config

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"net/url"
	"os"
	"reflect"
	"strconv"
	"strings"
	"time"

	"gopkg.in/yaml.v3"

	"pulsegate/fhir/budget"
	"pulsegate/fhir/clientaddr"
)

// Config is everything an operator may set.
type Config struct {
	Data          string `yaml:"data" default:"pulsegate-data" comment:"Directory of the store, the keys and the admin socket. Made with mode 0700."`
	Listen        string `yaml:"listen" default:"127.0.0.1:8080" comment:"Address to serve on. Port 0 takes a free one."`
	BaseURL       string `yaml:"base-url" default:"" comment:"How clients reach this server (no trailing slash). Empty: from listen."`
	MetricsListen string `yaml:"metrics-listen" default:"" comment:"Address to serve /metrics on, for Prometheus, without TLS or a login: keep it to the network of the monitoring. Empty: it is not served."`
	Demo          bool   `yaml:"demo" default:"false" comment:"Start with three invented wearers and a short-lived token on stdout. For trying out only."`

	TLSCert string `yaml:"tls-cert" default:"" comment:"PEM file of the certificate chain. With tls-key: serve HTTPS (TLS 1.2 and up)."`
	TLSKey  string `yaml:"tls-key" default:"" comment:"PEM file of the private key."`

	LogLevel  string `yaml:"log-level" default:"info" comment:"debug, info, warn or error. Logs go to stderr."`
	LogFormat string `yaml:"log-format" default:"text" comment:"text or json."`

	CacheMiB       int           `yaml:"cache-mib" default:"64" comment:"Block cache of the embedded store."`
	MaxBodyBytes   int64         `yaml:"max-body-bytes" default:"10485760" comment:"Largest FHIR request body, after decompression."`
	MemoryMiB      int           `yaml:"memory-mib" default:"512" comment:"Memory that the bodies of requests under way may take together. Beyond it a request is answered 503 with Retry-After."`
	MaxBundle      int           `yaml:"max-bundle-entries" default:"1000" comment:"Most entries of a batch or transaction."`
	MaxIngestBytes int64         `yaml:"max-ingest-bytes" default:"17179869184" comment:"Largest vendor payload, after decompression (16 GiB)."`
	SeriesFrom     int           `yaml:"series-from" default:"24" comment:"Metrics of at least so many samples a day (rate in the metric table) are stored as series; 0: 24, negative: none is. It changes nothing that a client sees, and can be changed at any time."`
	DrainTimeout   time.Duration `yaml:"drain-timeout" default:"20s" comment:"How long SIGTERM waits for requests under way."`

	UserTokenLife  time.Duration `yaml:"user-token-life" default:"15m" comment:"How long a person's access token lives, at most 1h. A backend's lives 5 minutes."`
	ConsentPage    string        `yaml:"consent-page" default:"/auth/consent" comment:"Path of the page where a person decides on an app's request."`
	ManagePage     string        `yaml:"manage-page" default:"/auth/apps" comment:"Path of the page where a person sees and ends what apps may do."`
	ClientCerts    bool          `yaml:"client-certs" default:"false" comment:"Ask TLS clients for a certificate, to bind their tokens to it (RFC 8705). Needs tls-cert."`
	DPoPNonce      bool          `yaml:"dpop-nonce" default:"false" comment:"Demand a nonce of this server, at most 5 minutes old, in every DPoP proof (RFC 9449, section 8)."`
	CertProxies    []string      `yaml:"client-cert-proxies" default:"" comment:"Addresses (CIDR, comma separated) of proxies that end TLS and hand on the client's certificate in the header Client-Cert (RFC 9440). From anybody else that header is dropped."`
	TrustedProxies []string      `yaml:"trusted-proxies" default:"" comment:"Addresses (CIDR, comma separated) of proxies that append the address of their peer to forwarded-header. Limits and the audit trail then see the client's address. From anybody else that header is not read."`
	Forwarded      string        `yaml:"forwarded-header" default:"X-Forwarded-For" comment:"X-Forwarded-For or Forwarded (RFC 7239): the one header that trusted-proxies append to."`
	OutsideIssuers string        `yaml:"outside-issuers" default:"" comment:"YAML file: issuers besides this server whose access tokens are accepted, with their JWKS, the clients each speaks for, the scopes these may ask, and claims."`
	Brand          string        `yaml:"brand" default:"" comment:"YAML file: the organisation behind this server, for lists of user-facing apps. Empty: named after the base URL."`

	OIDCIssuer            string   `yaml:"oidc-issuer" default:"" comment:"Issuer URL of the hospital's OpenID provider, for signing in with it. Its callback is BASE/auth/external/callback."`
	OIDCClientID          string   `yaml:"oidc-client-id" default:"" comment:"This server's client id there."`
	OIDCSecretFile        string   `yaml:"oidc-client-secret-file" default:"" comment:"File with the client secret. Empty: a public client."`
	OIDCName              string   `yaml:"oidc-name" default:"the hospital" comment:"What people read on the button."`
	OIDCMFA               []string `yaml:"oidc-mfa" default:"" comment:"acr or amr values of the provider that mean several factors (comma separated). Staff need one of these or of oidc-phishing-resistant."`
	OIDCPhishingResistant []string `yaml:"oidc-phishing-resistant" default:"" comment:"acr or amr values of the provider that mean a phishing-resistant factor (comma separated)."`
	BreachedPasswords     string   `yaml:"breached-passwords" default:"" comment:"File of SHA-1 hashes of stolen passwords, or of prefixes of at least 10 hex digits, one per line, beside the built-in list. Such a password cannot be set."`

	EgressAllow []string `yaml:"egress-allow" default:"" comment:"Private networks (CIDR, comma separated) that subscription endpoints and JWKS URLs may lie in. Everything private is refused otherwise; plain http is possible only here."`
}

// Load fills a Config from defaults, the YAML file (if path is not empty) and
// the environment, and then applies the overrides (flags) by field name.
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
		return errors.New("data: a directory is needed")
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
		return errors.New("tls-cert and tls-key go together")
	}
	if c.ClientCerts && c.TLSCert == "" {
		return errors.New("client-certs needs tls-cert")
	}
	if c.UserTokenLife < time.Minute || c.UserTokenLife > time.Hour {
		return errors.New("user-token-life: 1m to 1h")
	}
	for name, p := range map[string]string{"consent-page": c.ConsentPage, "manage-page": c.ManagePage} {
		if !strings.HasPrefix(p, "/") || strings.HasPrefix(p, "//") {
			return fmt.Errorf("%s: a path on this server is needed", name)
		}
	}
	if c.BaseURL != "" {
		u, err := url.Parse(c.BaseURL)
		if err != nil || u.Host == "" || (u.Scheme != "http" && u.Scheme != "https") ||
			strings.HasSuffix(c.BaseURL, "/") || u.RawQuery != "" {
			return errors.New("base-url: an absolute http or https URL without trailing slash or query is needed")
		}
	}
	if (c.OIDCIssuer == "") != (c.OIDCClientID == "") {
		return errors.New("oidc-issuer and oidc-client-id go together")
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
		return errors.New("forwarded-header: X-Forwarded-For or Forwarded")
	}
	if need := (c.MaxBodyBytes+budget.Small)*budget.Factor*2>>20 + 1; int64(c.MemoryMiB) < need {
		return fmt.Errorf("memory-mib: at least %d, so that one body of max-body-bytes fits", need)
	}
	for name, n := range map[string]int64{"cache-mib": int64(c.CacheMiB), "max-body-bytes": c.MaxBodyBytes,
		"max-bundle-entries": int64(c.MaxBundle), "max-ingest-bytes": c.MaxIngestBytes} {
		if n <= 0 {
			return fmt.Errorf("%s: must be above 0", name)
		}
	}
	return nil
}

// Egress parses EgressAllow.
func (c *Config) Egress() ([]netip.Prefix, error) { return prefixes("egress-allow", c.EgressAllow) }

// Proxies are the addresses whose Client-Cert header is believed.
func (c *Config) Proxies() (clientaddr.Proxies, error) {
	return proxies("client-cert-proxies", c.CertProxies)
}

// Forwarders are the addresses whose word on where a request came from is
// believed.
func (c *Config) Forwarders() (clientaddr.Proxies, error) {
	return proxies("trusted-proxies", c.TrustedProxies)
}

func proxies(name string, list []string) (clientaddr.Proxies, error) {
	out, err := prefixes(name, list)
	for _, p := range out {
		if p.Bits() == 0 {
			return nil, fmt.Errorf("%s: not everybody is a proxy", name)
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

// Print writes c as YAML, each field under its comment, default and variable.
func (c *Config) Print(w io.Writer) error {
	return each(c, func(f field) error {
		_, err := fmt.Fprintf(w, "# %s\n# default: %s   environment: %s\n%s: %s\n\n", f.comment, quoted(f.def),
			f.env(), f.name, f.show())
		return err
	})
}

type field struct {
	name, def, comment string
	v                  reflect.Value
}

func (f field) env() string {
	return "PULSEGATE_" + strings.ToUpper(strings.ReplaceAll(f.name, "-", "_"))
}

func each(c *Config, fn func(field) error) error {
	v := reflect.ValueOf(c).Elem()
	for i := range v.NumField() {
		t := v.Type().Field(i)
		f := field{name: t.Tag.Get("yaml"), def: t.Tag.Get("default"), comment: t.Tag.Get("comment"), v: v.Field(i)}
		if err := fn(f); err != nil {
			return err
		}
	}
	return nil
}

func (f field) set(s string) error {
	switch p := f.v.Addr().Interface().(type) {
	case *string:
		*p = s
	case *bool:
		b, err := strconv.ParseBool(s)
		if err != nil {
			return errors.New("true or false is needed")
		}
		*p = b
	case *int:
		n, err := strconv.Atoi(s)
		if err != nil {
			return errors.New("a whole number is needed")
		}
		*p = n
	case *int64:
		n, err := strconv.ParseInt(s, 10, 64)
		if err != nil {
			return errors.New("a whole number is needed")
		}
		*p = n
	case *time.Duration:
		d, err := time.ParseDuration(s)
		if err != nil {
			return errors.New("a duration such as 20s is needed")
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

// tidy makes an empty list the same however it was written.
func (f field) tidy() {
	if p, ok := f.v.Addr().Interface().(*[]string); ok && len(*p) == 0 {
		*p = nil
	}
}

func (f field) show() string {
	switch p := f.v.Addr().Interface().(type) {
	case *string:
		return quoted(*p)
	case *[]string:
		q := make([]string, len(*p))
		for i, s := range *p {
			q[i] = strconv.Quote(s)
		}
		return "[" + strings.Join(q, ", ") + "]"
	case *time.Duration:
		return p.String()
	}
	return fmt.Sprint(f.v.Interface())
}

func quoted(s string) string {
	if s == "" {
		return `""`
	}
	return s
}
