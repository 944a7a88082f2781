// Package pushkey authenticates apps that can only send a fixed header, such as the
// REST automation of Health Auto Export.
//
// It owns push keys: their text, their records, and the authentication of requests
// with them. It does not own the deliveries (mapping/ingest), the consents that
// decide about each of them (fhir/consent), or access tokens (smart/policy).
//
// A push key belongs to one patient and one vendor. It permits delivering that
// vendor's data for that patient through POST /ingest/{vendor}/{format}, and
// nothing else: its grant has one rule, access.DeliveryRule, and no other endpoint
// accepts the key. A key is valid until it expires, if it does, or is revoked, which
// takes effect at the next request and the next commit of a delivery.
//
// # Text
//
//	pgpush_ID_SECRETCHECK
//
// ID names the key in lists and in the audit trail (40 bits, 8 characters). SECRET
// has 256 bits (52 characters). CHECK is the CRC-32 (IEEE) of everything before it (7
// characters), so that a typing error is recognized without a lookup, and secret
// scanners have few false positives. They can use the pattern
//
//	pgpush_[0-9a-hjkmnp-tv-z]{8}_[0-9a-hjkmnp-tv-z]{59}
//
// ID, SECRET and CHECK are in lower-case base32 with Crockford's alphabet. When a
// key is read, upper case is accepted, and O, I and L stand for 0, 1 and 1, because
// people type keys on phones. The text is shown once. The record has the SHA-256 of
// the secret, which suffices because the secret is random.
//
// # Requests
//
// A key is sent as Authorization: Bearer KEY or X-API-Key: KEY, over TLS only
// (Options.Secure). Guessing is limited per client address and claimed ID, before
// the secret is compared in constant time; unknown IDs of one address share a limit.
// Deliveries are limited per key. Limits answer with 429 and Retry-After.
//
// # State
//
//	push/key/ID              record of a key as JSON
//	push/patient/PATIENT/ID  marks a key of a patient
//	push/use/ID              Use of a key as JSON, written at most once an hour
//	push/latest/PATIENT      id of the key that was made last
package pushkey
