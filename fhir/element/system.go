package element

// Bases of the URLs that HL7 publishes under.
const (
	// HL7 is the base of the URLs that the FHIR specification itself defines.
	HL7 = "http://hl7.org/fhir/"
	// StructureDefinition is the base of the canonical URLs of R4's types,
	// profiles and extensions.
	StructureDefinition = HL7 + "StructureDefinition/"
	// Terminology is the base of the URLs of HL7's code systems.
	Terminology = "http://terminology.hl7.org/CodeSystem/"
	// SubscriptionsBackport is the base of the canonical URLs of the
	// Subscriptions R5 Backport guide.
	SubscriptionsBackport = HL7 + "uv/subscriptions-backport/"
)

// Code systems.
const (
	LOINC  = "http://loinc.org"
	UCUM   = "http://unitsofmeasure.org"
	SNOMED = "http://snomed.info/sct"
	DICOM  = "http://dicom.nema.org/resources/ontology/DCM"
	// URI is the system of an Identifier that has a URI as its value.
	URI = "urn:ietf:rfc:3986"

	ConsentScope              = Terminology + "consentscope"
	DataAbsentReason          = Terminology + "data-absent-reason"
	ISO21089Lifecycle         = Terminology + "iso-21089-lifecycle"
	ObservationCategory       = Terminology + "observation-category"
	ParticipationType         = Terminology + "v3-ParticipationType"
	ProvenanceParticipantType = Terminology + "provenance-participant-type"
)
