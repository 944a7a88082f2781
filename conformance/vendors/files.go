package main

import (
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"
)

// notPayloads lists the files that are no payloads of a vendor, with the reason. A
// pattern that ends in a slash matches everything below a directory of that path. Other
// patterns match the last elements of a path, as in path.Match. The first match counts.
var notPayloads = []struct{ pattern, reason string }{
	{"SOURCES.md", "text for people"},
	{"README.md", "text for people"},
	{"r4/", "FHIR definitions and examples"},
	{"apple/mappings/", "mapping tables of other projects"},
	{"workout-routes/*.gpx", "a route, which is read only within its archive"},
	{"google-health/*.discovery.*.json", "description of an API"},
	{"legacy-webapi/openapi/", "description of an API"},
	{"oura/openapi/", "description of an API"},
	{"oura/derived/", "mapping tables and signature vectors"},
	{"oura/oura-toolkit/", "replies of a token endpoint"},
	{"google-health/synthetic/*_request.json", "body of a request"},
	{"google-health/synthetic/token_response.json", "reply of a token endpoint"},
	{"google-health/synthetic/errors/token_*.json", "reply of a token endpoint"},
	{"fitbit/webhook/", "bodies, keys and signatures of webhooks"},
	{"cloud/oura/testdata/", "signature vectors of webhooks"},
	{"cloud/googlehealth/testdata/", "keys and signature vectors of webhooks"},
	{"canaries.txt", "texts that must not leave a payload"},
	{"*.golden", "expected result of a test"},
	{"fuzz/", "seeds of fuzz tests"},
	{"*.go", "source code"},
	{"*.schema.json", "description of a format"},
}

// notPayload returns the index in notPayloads of the pattern that matches a path with
// slashes, or -1.
func notPayload(name string) int {
	for i, n := range notPayloads {
		if matches(n.pattern, name) {
			return i
		}
	}
	return -1
}

func matches(pattern, name string) bool {
	if strings.HasSuffix(pattern, "/") {
		return strings.Contains("/"+name, "/"+pattern)
	}
	elements := strings.Split(name, "/")
	n := strings.Count(pattern, "/") + 1
	if len(elements) < n {
		return false
	}
	ok, err := path.Match(pattern, strings.Join(elements[len(elements)-n:], "/"))
	return ok && err == nil
}

// list returns the paths of all files below dir, sorted, with slashes and relative to
// it. A directory that cannot be read is an error.
func list(dir string) (out []string, err error) {
	err = fs.WalkDir(os.DirFS(dir), ".", func(name string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			out = append(out, name)
		}
		return err
	})
	slices.Sort(out)
	return out, err
}
