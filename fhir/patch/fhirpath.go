package patch

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"mime"
	"time"

	"pulsegate/fhir"
	"pulsegate/fhir/fhirpath"
)

// FHIRPath applies a FHIRPath Patch, a Parameters resource in JSON, to a resource in JSON.
// now is the time of now() in its paths, and t answers their questions about terminology. It
// may be nil.
func FHIRPath(ctx context.Context, resource, parameters []byte, now time.Time, t fhirpath.Terminology) ([]byte, error) {
	env := fhirpath.Env{Now: now}
	env.Use(t)
	return fhirpath.Patch(ctx, resource, parameters, env)
}

// FromBinary returns the JSON Patch in a Binary, the form that it has in a Bundle (R4
// http.html#patch).
func FromBinary(resource []byte) ([]byte, error) {
	const op = "patch.FromBinary"
	var b struct {
		ResourceType string `json:"resourceType"`
		ContentType  string `json:"contentType"`
		Data         string `json:"data"`
	}
	if json.Unmarshal(resource, &b) != nil || b.ResourceType != "Binary" {
		return nil, fhir.Errorf(fhir.Invalid, op, "the patch in a Bundle is a Binary with a JSON Patch, "+
			"or a Parameters resource with a FHIRPath Patch")
	}
	if t, _, err := mime.ParseMediaType(b.ContentType); err != nil || t != TypeJSONPatch {
		return nil, fhir.Errorf(fhir.Unsupported, op, "Binary.contentType must be %s", TypeJSONPatch)
	}
	data, err := base64.StdEncoding.DecodeString(b.Data)
	if err != nil {
		return nil, fhir.Errorf(fhir.Invalid, op, "Binary.data is not base64")
	}
	return data, nil
}
