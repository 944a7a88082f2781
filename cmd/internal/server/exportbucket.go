package server

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"pulsegate/cmd/internal/config"
	"pulsegate/fhir/bulk"
	"pulsegate/fhir/bulk/bucket"
)

// bucketTimeout bounds one request to the object store. A request has at most 8 MiB.
const bucketTimeout = 2 * time.Minute

// exportDelivery returns where copies of the files of exports are put, or nil.
func exportDelivery(env environment) (*bulk.Delivery, error) {
	c := env.config
	if c.ExportBucket == "" {
		return nil, nil
	}
	key, err := config.ReadSecret("export-bucket-key-file", c.ExportBucketKeyFile)
	if err != nil {
		return nil, err
	}
	words := strings.Fields(key)
	if len(words) != 2 {
		return nil, errors.New("export-bucket-key-file: must have an access key id and a secret access key")
	}
	policy := env.egress
	policy.Timeout = bucketTimeout
	target, err := bucket.New(bucket.Options{URL: c.ExportBucket, Region: c.ExportBucketRegion, ID: words[0],
		Secret: words[1], Policy: policy, Clock: env.now})
	if err != nil {
		return nil, fmt.Errorf("export-bucket: %w", err)
	}
	return &bulk.Delivery{Target: target, Clients: c.ExportBucketClients, Remove: c.ExportBucketDelete}, nil
}
