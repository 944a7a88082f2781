// Package storetest tests drivers of fhir/store against the contract: commits,
// preconditions, snapshots, searches against a naive model, the change log, small
// state and the Merkle log. It knows no driver. Each driver tests its durability
// under crashes itself, because such tests need the driver's file system.
package storetest
