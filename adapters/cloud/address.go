package cloud

import (
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
