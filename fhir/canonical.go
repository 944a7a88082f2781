package fhir

// Canonical is the root of the canonical URLs of what this project publishes:
// code systems, identifier systems and the subscription topic. It is the same
// on every installation, so that data keeps its meaning when a server's base
// URL changes.
const Canonical = "https://pulsegate.dev/fhir"
