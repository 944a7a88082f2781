// Package patch changes resources as PATCH requests say (R4 http.html#patch): JSON applies
// a JSON Patch (RFC 6902), and FHIRPath a FHIRPath Patch (R4 fhirpatch.html). Both are
// functions of bytes: they read no store and validate no result. What a patch does not
// change keeps its text, so that numbers keep the precision with which they were written.
//
// A patch that cannot be read is Invalid (400). One that cannot be applied to this
// resource, because a place does not exist or a test fails, is Unprocessable (422). Errors
// name the operation and the rule, and contain nothing of the input.
//
// # Bounds
//
// A patch has at most 500 operations. A pointer has at most 64 tokens and 4,096 bytes. The
// result of each operation has at most 16 MiB, and all operations together copy, insert and
// compare at most 64 MiB, so that neither repeated copies nor repeated tests grow without
// limit.
//
// The package does not own the validation of the result (fhir/r4), or who may patch what
// (fhir/interaction).
package patch
