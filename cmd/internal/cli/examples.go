package cli

import (
	"strings"

	"github.com/spf13/cobra"
)

// examples holds one or more invocations of each command, by command path without
// the name of the binary. A test requires an example for every command and parses
// each of them.
var examples = map[string]string{
	"adapter new": `pulsegate adapter new acme`,
	"serve": `pulsegate serve --data pulsegate-data --listen 127.0.0.1:8080
pulsegate serve --config /etc/pulsegate/pulsegate.yaml
pulsegate serve --demo --data demo-data`,
	"config": `pulsegate config > pulsegate.yaml
pulsegate config --config pulsegate.yaml`,
	"version":                   `pulsegate version --json`,
	"patient add":               `pulsegate patient add --given Ada --family Muster --timezone Europe/Berlin`,
	"patient list":              `pulsegate patient list`,
	"patient show":              `pulsegate patient show 4hx7kq2m`,
	"consent grant":             `pulsegate consent grant --patient 4hx7kq2m --vendor apple --categories vital-signs,activity`,
	"consent withdraw":          `pulsegate consent withdraw --patient 4hx7kq2m --vendor apple`,
	"consent list":              `pulsegate consent list --patient 4hx7kq2m`,
	"client add":                `pulsegate client add --name "My EHR" --jwks ehr-jwks.json --scope "system/Observation.rs system/Patient.rs"`,
	"client list":               `pulsegate client list`,
	"client disable":            `pulsegate client disable k3v9w2`,
	"client enable":             `pulsegate client enable k3v9w2`,
	"client registration-token": `pulsegate client registration-token --scope "launch/patient patient/*.rs openid fhirUser" --uses 5 --life 48h`,
	"client keygen":             `pulsegate client keygen --key ehr.jwk > ehr-jwks.json`,
	"client token":              `pulsegate client token --client k3v9w2 --key ehr.jwk --scope "system/Observation.rs"`,
	"link list":                 `pulsegate link list --patient 4hx7kq2m`,
	"link pull":                 `pulsegate link pull tg3bvjxupybbbn2ekzisoi5l64`,
	"link show":                 `pulsegate link show tg3bvjxupybbbn2ekzisoi5l64`,
	"link unlink":               `pulsegate link unlink tg3bvjxupybbbn2ekzisoi5l64 --erase`,
	"pack check":                `pulsegate pack check /etc/pulsegate/packs`,
	"pack list":                 `pulsegate pack list`,
	"pack loinc":                `pulsegate pack loinc Loinc.csv --packs /etc/pulsegate/packs`,
	"pack show": `pulsegate pack show apple HKQuantityTypeIdentifierHeartRate
pulsegate pack show "apple|1.0.0#tg3bvjxupybbbn2ekzisoi5l64"`,
	"target add": `pulsegate target add mercy --url https://fhir.mercy.example/r4 --client-id pulsegate --form us-core --patient-system urn:oid:1.2.3
pulsegate target add lab --url https://lab.example/fhir --client-id 7f3k --category vital-signs --every 0 --since 2026-01-01`,
	"target list":   `pulsegate target list`,
	"target show":   `pulsegate target show mercy`,
	"target pause":  `pulsegate target pause mercy`,
	"target resume": `pulsegate target resume mercy --since 2026-01-01`,
	"target retry":  `pulsegate target retry mercy`,
	"target remove": `pulsegate target remove mercy`,
	"explain": `pulsegate explain Observation/4hx7kq2m
pulsegate explain 4hx7kq2m --json`,
	"cluster status":   `pulsegate cluster status`,
	"cluster snapshot": `pulsegate cluster snapshot`,
	"cluster restore":  `pulsegate cluster restore --config /etc/pulsegate/pulsegate.yaml --cluster 7d0f5b1c2a9e4863b1c7f0a2d9e84635`,
	"cluster leave":    `pulsegate cluster leave --config /etc/pulsegate/pulsegate.yaml --cluster 7d0f5b1c2a9e4863b1c7f0a2d9e84635`,
	"cluster schema": `pulsegate cluster schema
pulsegate cluster schema --raise`,
	"cluster roll": `pulsegate cluster roll mapping-packs vendors --for 2h
pulsegate cluster roll --end`,
	"push-key create": `pulsegate push-key create --patient 4hx7kq2m --vendor apple --name "Ada's phone"`,
	"push-key list":   `pulsegate push-key list --patient 4hx7kq2m`,
	"push-key revoke": `pulsegate push-key revoke 5c9w2kq0
pulsegate push-key revoke --patient 4hx7kq2m --vendor apple`,
	"openapi": `pulsegate openapi --out openapi.json
pulsegate openapi --types Patient,Observation`,
	"collection":        `pulsegate collection --out pulsegate.postman_collection.json`,
	"guide":             `pulsegate guide --out dev.pulsegate.fhir.tgz`,
	"recover audit-log": `pulsegate recover audit-log --data /var/lib/pulsegate`,
	"recover seal-key":  `pulsegate recover seal-key --data /var/lib/pulsegate`,
	"ingest":            `pulsegate ingest --patient 4hx7kq2m --vendor apple export.zip`,
	"quarantine list": `pulsegate quarantine list
pulsegate quarantine list --items --patient 4hx7kq2m`,
	"quarantine show":  `pulsegate quarantine show q7d1s5`,
	"quarantine retry": `pulsegate quarantine retry`,
	"audit verify": `pulsegate audit verify
pulsegate audit verify --checkpoint checkpoint-of-last-month`,
	"demo token": `export TOKEN=$(pulsegate demo token)`,
	"health":     `pulsegate health --config /etc/pulsegate/pulsegate.yaml`,
	"simulate": `pulsegate simulate
pulsegate simulate --wearers 1000 --speed 120 --faults all=0.01
pulsegate simulate --push http://127.0.0.1:8080/ingest/apple/health-auto-export --push-key-file key`,
	"remap": `pulsegate remap --vendor oura --dry-run
pulsegate remap --vendor apple --metric HKQuantityTypeIdentifierHeartRate --since 2026-01-01 --limit 1000`,
	"remap status":            `pulsegate remap status`,
	"remap cancel":            `pulsegate remap cancel --vendor oura`,
	"store search-parameters": `pulsegate store search-parameters`,
	"store stat":              `pulsegate store stat`,
	"store check":             `pulsegate store check`,
	"user bootstrap":          `pulsegate user bootstrap --login root --name "Rita Root"`,
	"user invite":             `pulsegate user invite --login dora --name "Dr. Dora Doc" --role practitioner --practitioner p7q2`,
	"user reinvite":           `pulsegate user reinvite --login dora`,
	"user disable":            `pulsegate user disable --login dora`,
	"user enable":             `pulsegate user enable --login dora`,
	"user list":               `pulsegate user list`,
}

// addExamples sets the examples of a command and its subcommands.
func addExamples(c *cobra.Command) {
	if path := pathOf(c); examples[path] != "" {
		c.Example = "  " + strings.ReplaceAll(examples[path], "\n", "\n  ")
	}
	for _, s := range c.Commands() {
		addExamples(s)
	}
}

// pathOf returns the command path without the name of the binary.
func pathOf(c *cobra.Command) string {
	_, path, _ := strings.Cut(c.CommandPath(), " ")
	return path
}
