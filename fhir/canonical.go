package fhir

// Canonical is the base of the canonical URLs that this project defines: code
// systems, identifier systems and the subscription topic. It is the same for every
// installation, so that data keeps its meaning when a server's base URL changes.
const Canonical = "https://pulsegate.dev/fhir"
