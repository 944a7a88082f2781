package clouds_test

import (
	"testing"

	"pulsegate/adapters/cloud"
	"pulsegate/adapters/cloud/clouds"
	"pulsegate/adapters/vendors"
)

// TestEveryCloudHasAnAdapter checks that the code of each cloud is that of an adapter,
// which decodes what is read.
func TestEveryCloudHasAnAdapter(t *testing.T) {
	for code, build := range clouds.All() {
		v, err := build(cloud.Config{ClientID: "id", ClientSecret: "secret"})
		if err != nil {
			t.Errorf("%s: %v", code, err)
			continue
		}
		if v.Code() != code || cloud.Adapter(v, vendors.All()) == nil {
			t.Errorf("%s: code %s, adapter %v", code, v.Code(), cloud.Adapter(v, vendors.All()))
		}
	}
}
