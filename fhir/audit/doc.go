// Package audit builds AuditEvents according to the IHE BALP patterns and the
// leaves of the tamper-evident log, and verifies that log.
//
// It owns: the contents of every AuditEvent, the leaf format, checkpoints, and
// Verify.
//
// It does not own: storage. For writes, the event and its leaf are part of the
// writer's batch. For reads, they are committed before the first byte of the
// response.
//
// # Events
//
// An Event becomes an AuditEvent according to the IHE Basic Audit Log Patterns
// (BALP, https://profiles.ihe.net/ITI/BALP). meta.profile is set only if the event
// conforms to every rule of that profile. A failed or denied event has the same
// structure with outcome 4, 8 or 12, a fixed reason and no profile.
//
//	EventType     type            subtype                     profile on success
//	Rest          rest            restful-interaction code    Create, Read, Update, Delete, Query, each also for a Patient
//	Export        rest            operation                   Query, PatientQuery
//	TokenIssue    DCM 110114      ITI-71                      IHE.IUA.71
//	Disclosure    DCM 110106      iso-21089 disclose          PrivacyDisclosure.Source
//	Ingest        DCM 110107      iso-21089 disclose, receive PrivacyDisclosure.Recipient
//	IngestRefuse  DCM 110107      iso-21089 receive           none
//	ConsentDeny   DCM 110113      AuthZ-Consent               none: AuthZconsent requires a user and an organization, which a backend client does not have
//	AuditRead     DCM 110101      restful-interaction code    none
//	Operator      DCM 110100      operator-command code   none
//	Lifecycle     DCM 110100      DCM 110120, 110121          none
//	SignIn, SignOut DCM 110114      DCM 110122, 110123          none
//	Security        DCM 110113      DCM 110127, 110138 emergency override; 110136 roles; 110137 user attributes; 110129   none
//	Decision        DCM 110113      AuthZ-Consent               none: AuthZconsent requires an organization
//
// Tokens are recorded according to the Minimal pattern: an agent with the jti as
// its policy and no part of the token itself.
//
// # Leaf
//
// There is one leaf per AuditEvent. It has 104 bytes and no PHI:
//
//	offset  size  content
//	0       5     tag "pgal1"
//	5       8     recorded, Unix nanoseconds, big endian
//	13      1     EventType
//	14      26    id of the AuditEvent
//	40      32    nonce
//	72      32    C = SHA-256(nonce | canonical bytes)
//
// The canonical bytes are the AuditEvent without meta.versionId and
// meta.lastUpdated, which the store inserts. They are known before the commit, so
// that the leaf can be part of the same batch. Verify removes the two elements and
// requires version 1. C does not cover meta.lastUpdated, but it covers
// AuditEvent.recorded.
//
// Limitation: the leaf contains the nonce, so a person with the leaf can check a
// guess of an event's entire content against C. Leaves must not be published
// unless the nonce is moved to the event.
//
// # Verify
//
// Verify reads each AuditEvent twice: by the id in its leaf, and through
// store.Inspect, which visits every row that a search or a history may read,
// current or not. Both must match the commitment of the leaf, and no row may be
// without a leaf.
//
// # Checkpoints
//
// A Notary signs (size, root) as a C2SP checkpoint (signed note, Ed25519) and
// writes it outside the store. The private key is on the same machine, so an
// attacker with access to both can rewrite them. Verify detects that with earlier
// checkpoints that an auditor has kept, and accepts any number of them.
//
// In a cluster, the key is in the secrets of the cluster (package
// fhir/cluster/sealed), and the latest checkpoint is the value of "audit/checkpoint" in
// small state. The process with the role "notary" signs. The commit of a checkpoint
// depends on the role, on the key, and on the checkpoint before, and a checkpoint is
// published once it is committed. Two processes can therefore not publish different
// trees of one size. Every other process checks that its log continues the checkpoint,
// and writes it to its own file.
package audit
