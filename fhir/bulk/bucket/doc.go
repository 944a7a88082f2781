// Package bucket puts the files of exports into a bucket of an object store with the API of
// Amazon S3.
//
// It owns: requests (PutObject, multipart uploads, DeleteObject), their signatures (AWS
// Signature Version 4) and the names of objects.
//
// It does not own: which files are put there, for whom, and when (fhir/bulk), or the addresses
// that may be reached (fhir/egress).
//
// # Permissions
//
// The key needs s3:PutObject and s3:AbortMultipartUpload on the prefix, and s3:DeleteObject if
// objects are to be deleted. It needs no permission to read: nothing is read back, so that a
// server that is taken over cannot read earlier exports.
//
// # Objects are complete
//
// An object appears with its last byte: a file of at most one part is one request, and a larger
// one a multipart upload, which is completed at the end and aborted after an error. An upload
// of a process that was killed stays incomplete and is never an object. A lifecycle rule of the
// bucket (AbortIncompleteMultipartUpload) removes its parts.
//
// Each request has the SHA-256 of its body in its signature, so that the store refuses a body
// that was changed on the way.
package bucket
