// Package audit makes AuditEvents by the IHE BALP patterns and the leaves of
// the tamper-evident log, and verifies that log.
//
// It owns: the shape of every AuditEvent, the leaf format, checkpoints, and
// Verify. It does not own storage: for writes the event and its leaf are put
// into the writer's own batch; for reads they are committed before the first
// byte of the answer.
//
// # Events
//
// An Event becomes an AuditEvent by the IHE Basic Audit Log Patterns (BALP,
// https://profiles.ihe.net/ITI/BALP). meta.profile is set only when the
// instance keeps every rule of that profile; a failed or denied event has the
// same shape, outcome 4, 8 or 12, a fixed reason, and claims nothing.
//
//	Kind          type            subtype                     profile when it succeeded
//	Rest          rest            restful-interaction code    Create, Read, Update, Delete, Query and Patient forms
//	Export        rest            operation                   Query, PatientQuery
//	TokenIssue    DCM 110114      ITI-71                      IHE.IUA.71
//	Disclosure    DCM 110106      iso-21089 disclose          PrivacyDisclosure.Source
//	Ingest        DCM 110107      iso-21089 disclose, receive PrivacyDisclosure.Recipient
//	IngestRefuse  DCM 110107      iso-21089 receive           none
//	ConsentDeny   DCM 110113      AuthZ-Consent               none: AuthZconsent wants a user and an organisation, which a backend client does not have
//	AuditRead     DCM 110101      restful-interaction code    none
//	Operator      DCM 110100      own operator-command code   none
//	Lifecycle     DCM 110100      DCM 110120, 110121          none
//	SignIn, SignOut DCM 110114      DCM 110122, 110123          none
//	Security        DCM 110113      DCM 110127, 110138 emergency override; 110136 roles; 110137 user attributes; 110129   none
//	Decision        DCM 110113      AuthZ-Consent               none: AuthZconsent wants an organisation
//
// Tokens are recorded by the Minimal pattern: an agent with the jti as its
// policy, never any part of the token.
//
// # Leaf
//
// One leaf a AuditEvent, 104 bytes, no PHI:
//
//	offset  size  what
//	0       5     tag "pgal1"
//	5       8     recorded, Unix nanoseconds, big endian
//	13      1     Kind
//	14      26    id of the AuditEvent
//	40      32    nonce
//	72      32    C = SHA-256(nonce | canonical bytes)
//
// The canonical bytes are those of the AuditEvent before the store stamped
// meta.versionId and meta.lastUpdated: they are known before the commit, so
// the leaf goes into the same batch. Verify takes the stamp out again, and
// insists on version 1. meta.lastUpdated itself is not covered by C;
// AuditEvent.recorded, which is, tells the time.
//
// Limit: the nonce stands in the leaf, so whoever holds the leaf can test a
// guess of an event's whole content against C. Leaves are not given out until
// the nonce lives with the event.
//
// # Verify
//
// Verify reads each AuditEvent twice: by the id in its leaf, and through
// store.Inspect, which walks every row that a search or a history may answer
// from, current or not. Both must be what the leaf committed to, and no row may
// be left over.
//
// # Checkpoints
//
// A Notary signs (size, root) as a C2SP checkpoint (signed note, Ed25519) and
// writes it outside the store. The private key lies on the same machine:
// whoever holds it and the store can rewrite both. A checkpoint that an
// auditor took away earlier finds that, and Verify accepts any number of them.
package audit
