package server

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"pulsegate/adapters/cloud"
	"pulsegate/adapters/cloud/clouds"
	"pulsegate/cmd/internal/config"
)

// vendorSettings are the settings of one vendor in the file that the setting
// vendors names.
type vendorSettings struct {
	ClientID     string            `yaml:"client-id"`
	SecretFile   string            `yaml:"client-secret-file"`
	AuthorizeURL string            `yaml:"authorize-url"`
	TokenURL     string            `yaml:"token-url"`
	RevokeURL    string            `yaml:"revoke-url"`
	APIURL       string            `yaml:"api-url"`
	Options      map[string]string `yaml:"options"`
}

// newVendors returns the vendors that the setting vendors configures, in order of
// their codes.
func newVendors(env environment) ([]cloud.Vendor, error) {
	if env.config.Vendors == "" {
		return nil, nil
	}
	var file map[string]vendorSettings
	if _, err := readYAML(env.config.Vendors, &file); err != nil {
		return nil, fmt.Errorf("vendors: %w", err)
	}
	var out []cloud.Vendor
	for _, code := range slices.Sorted(maps.Keys(file)) {
		v, err := newVendor(env, code, file[code])
		if err != nil {
			return nil, fmt.Errorf("vendors: %s: %s: %w", env.config.Vendors, code, err)
		}
		out = append(out, v)
	}
	return out, nil
}

func newVendor(env environment, code string, s vendorSettings) (cloud.Vendor, error) {
	build := clouds.All()[code]
	if build == nil {
		return nil, fmt.Errorf("there is no such vendor; use %s", strings.Join(clouds.Codes(), ", "))
	}
	if s.ClientID == "" {
		return nil, errors.New("client-id is required")
	}
	c := cloud.Config{ClientID: s.ClientID, AuthURL: s.AuthorizeURL, TokenURL: s.TokenURL, RevokeURL: s.RevokeURL,
		APIURL: strings.TrimSuffix(s.APIURL, "/"), Options: map[string]string{}, Clock: env.now,
		HTTP: env.vendorClient(1 << 20)}
	var err error
	if c.ClientSecret, err = config.ReadSecret("client-secret-file", s.SecretFile); err != nil {
		return nil, err
	}
	for name, value := range s.Options {
		if strings.HasSuffix(name, "-file") {
			if value, err = config.ReadSecret("options: "+name, value); err != nil {
				return nil, err
			}
		}
		c.Options[name] = value
	}
	return build(c)
}
