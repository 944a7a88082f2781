// Package storetest is the suite that every driver of fhir/store passes. It
// owns the contract as tests: commits, preconditions, snapshots, searches
// against a naive model, the change log, small state and the Merkle log. It
// knows no driver; durability under crashes is tested beside each driver, for
// it needs the driver's file system.
package storetest
