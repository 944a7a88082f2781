package rest

import "testing"

// TestDefinitionRoutes uses every route below /OperationDefinition, of which one is public for
// the definitions of the server.
func TestDefinitionRoutes(t *testing.T) {
	w := newWorld(t, drivers["pebble"](t))
	const own = `{"resourceType":"OperationDefinition","id":"other","name":"Other","status":"draft",` +
		`"kind":"operation","code":"x","system":true,"type":false,"instance":false}`
	w.want(201, "all", "PUT", "/OperationDefinition/other", own)
	for _, path := range []string{"/other", "/other?_summary=true", "/other/_history", "/other/_history/1", "/_history",
		"/_history?_count=1", "/other/$meta", "", "?name=Other"} {
		for _, method := range []string{"GET", "HEAD"} {
			w.want(200, "all", method, "/OperationDefinition"+path, "")
			w.want(401, "", method, "/OperationDefinition"+path, "")
		}
	}
	w.want(400, "all", "GET", "/OperationDefinition/$validate", "") // it has no resource
	w.want(404, "all", "GET", "/OperationDefinition/$export", "")
	w.want(404, "all", "GET", "/OperationDefinition/other/Observation", "")
	w.want(200, "all", "POST", "/OperationDefinition/$validate", own)
}
