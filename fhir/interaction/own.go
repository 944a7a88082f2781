package interaction

import (
	"encoding/json"
	"strings"

	"pulsegate/fhir"
	"pulsegate/fhir/access"
)

// keepOwn returns an error if a client would change a resource that the server publishes
// itself, such as a CodeSystem or a topic, or would publish one under a canonical URL of
// the server. next is the new body, nil for a deletion; old is nil for a create. Only the
// server and its operator may write these.
func keepOwn(rq *Request, op, typ string, next []byte, old *stored) error {
	if p := rq.Principal; p != nil && p.Grant != nil && p.Grant.AllPatients {
		return nil
	}
	if old.live() && published(old.facts, old.res.JSON) {
		return disclosing(errOwn(op, "", "the server itself publishes this "+typ+
			"; only its operator may change or delete it"), disclosedOf(old))
	}
	if next != nil && ownURL(typ, next) {
		return errOwn(op, typ, "URLs under "+fhir.Canonical+
			"/ are reserved for what the server itself publishes; use a URL of your own")
	}
	return nil
}

// published reports whether the server or its operator has published a resource: it has
// no author, no vendor and no patient, and it has a URL of the server or is a topic.
func published(facts *access.Facts, body []byte) bool {
	return facts != nil && facts.Author == "" && facts.Vendor == "" && facts.Patient == "" &&
		(facts.Type == "Basic" || ownURL(facts.Type, body))
}

// ownURL reports whether the canonical URL of a resource belongs to this server. A Basic
// holds it in an extension for SubscriptionTopic.url.
func ownURL(typ string, body []byte) bool {
	var r struct {
		URL       string `json:"url"`
		Extension []struct {
			URL   string `json:"url"`
			Value string `json:"valueUri"`
		} `json:"extension"`
	}
	// A url of another kind than a string is none of this server.
	if json.Unmarshal(body, &r) != nil {
		return false
	}
	if reserved(r.URL) {
		return true
	}
	for _, e := range r.Extension {
		if typ == "Basic" && strings.HasSuffix(e.URL, "SubscriptionTopic.url") && reserved(e.Value) {
			return true
		}
	}
	return false
}

func reserved(url string) bool {
	rest, ok := strings.CutPrefix(url, fhir.Canonical)
	return ok && (rest == "" || strings.ContainsAny(rest[:1], "/|#?"))
}

func errOwn(op, typ, text string) error {
	i := fhir.Issue{Severity: "error", Code: "forbidden", Diagnostics: text}
	if typ != "" {
		i.Expression = []string{typ + ".url"}
	}
	return &fhir.Error{Kind: fhir.Forbidden, Op: op, Issues: []fhir.Issue{i}}
}
