// Package sealed keeps the secrets that the servers of a cluster share: the keys
// with which they sign tokens and checkpoints, and the key that seals stored
// passwords of other systems. A single server keeps these in files of its data
// directory.
//
// It owns the cluster key file, and the small state under "sealed/": one value per
// secret, sealed with AES-256-GCM. The key of the cipher is derived from the cluster
// key (HKDF-SHA-256), and the associated data contain the name of the secret, so that
// a value cannot take the place of another one. Without the
// cluster key file, the keys in snapshots, backups and the log are therefore useless.
//
//	sealed/NAME   version (1 byte) | key ID (4) | nonce (12) | ciphertext | tag (16)
//	NAME          signing-keys     package smart/proof/keys
//	              audit-note-key   package fhir/audit
//	              seal-key         package smart/people/authn
//	              cluster-key      this package: a constant, with which Open checks
//	                               that this server has the cluster's key
//
// # The cluster key
//
// The file holds 32 random bytes in base64, and a second line while the key is being
// replaced. Values are sealed under the first key, and opened under either. To replace
// the key without an outage, restart the servers one after another, each time with the
// file of the next step:
//
//  1. the old key, then the new key
//  2. the new key, then the old key; when all servers have it, call Reseal
//  3. the new key
//
// Step 1 is necessary because a server must not meet a key that it does not have. The
// same order works for everything else that is derived from the cluster key (Derive).
package sealed
