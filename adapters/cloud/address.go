package cloud

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"strings"
)

// Address returns the URL that an operator states, or else the one that the vendor
// documents. It is an error if the URL is not absolute, has a query or a fragment,
// or is not HTTPS, because requests to it carry secrets. The option "allow-http"
// with the value "true" admits plain HTTP, which loopback addresses never need it
// for.
func (c *Config) Address(setting, stated, documented string) (string, error) {
	if stated == "" {
		return documented, nil
	}
	u, err := url.Parse(stated)
	switch {
	case err != nil || u.Host == "" || u.Opaque != "":
		return "", fmt.Errorf("%s is not an absolute URL", setting)
	case u.User != nil || u.RawQuery != "" || u.ForceQuery || u.Fragment != "":
		return "", fmt.Errorf("%s must have no user, query or fragment", setting)
	case u.Scheme == "https":
	case u.Scheme != "http":
		return "", fmt.Errorf("%s must begin with https://", setting)
	case !loopback(u.Hostname()) && c.Options["allow-http"] != "true":
		return "", fmt.Errorf("%s must begin with https://, because requests carry secrets; "+
			"the option allow-http admits plain HTTP for tests", setting)
	}
	return strings.TrimSuffix(stated, "/"), nil
}

func loopback(host string) bool {
	if host == "localhost" || strings.HasSuffix(host, ".localhost") {
		return true
	}
	ip := net.ParseIP(host)
	return ip != nil && ip.IsLoopback()
}

// Apply completes the facts of a vendor's OAuth server: it sets the client, and replaces
// the documented URLs in o and api by those that the operator states.
func (c *Config) Apply(o *OAuth, api *string) error {
	if c.ClientID == "" || c.ClientSecret == "" {
		return errors.New("the client id and the client secret are required")
	}
	o.ClientID, o.ClientSecret = c.ClientID, c.ClientSecret
	for _, a := range []struct {
		setting, stated string
		into            *string
	}{
		{"the authorization URL", c.AuthURL, &o.AuthURL}, {"the token URL", c.TokenURL, &o.TokenURL},
		{"the revocation URL", c.RevokeURL, &o.RevokeURL}, {"the URL of the API", c.APIURL, api},
	} {
		if a.into == &o.RevokeURL && a.stated == "" && o.RevokeURL == "" {
			continue // the vendor has no revocation endpoint
		}
		u, err := c.Address(a.setting, a.stated, *a.into)
		if err != nil {
			return err
		}
		*a.into = u
	}
	return nil
}
