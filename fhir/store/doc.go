// Package store defines the contract of Pulsegate's store. Package storetest tests
// a driver against it; package pebblestore is the embedded driver.
//
// # Commits
//
// A Batch is an ordered set of writes (resources, small state, audit leaves) that
// become durable together and get one sequence number, a Seq. Every read names the
// Seq it reads at; LastSeq returns the latest one that is durable and visible. The
// state as of a Seq never changes, so that paging, export and subscriptions can pin
// it.
//
// When Commit returns nil, the batch is on stable storage. When it returns an
// error, nothing of the batch is visible, now or after a restart. The exception is
// a failed fsync: the store then stops, every later call fails with kind
// Unavailable, and only a restart shows whether the batch was written.
//
// # Samples
//
// A dense stream can be written as samples (Batch.Series) instead of documents.
// Every read, search, count, scan, history and change shows a sample as the
// Observation it stands for, in the order and at the position it would have as a
// document. A Write with the id of a sample takes that sample out of its series:
// its version 1 becomes a document, which the new version supersedes.
//
// # Several processes
//
// A store can be shared by several processes, through a log of the commits in one
// order (package sharedlog). Every process shows a state that was current at some
// time, and Sync brings it up to what was acknowledged anywhere before the call. A
// request calls Sync once, before it looks at its token; what it reads then is as
// if there were one process. Whatever a request decides on and then writes must be
// protected by a precondition (Write.Expect, StateWrite.Expect, Batch.Guards),
// because a lock in memory does not stop another process. A refusal by Commit, such
// as Conflict, is as current as an acknowledgment.
//
// Work that only one process may do at a time, such as sending notifications, runs
// under a role (package fhir/cluster/role), whose epoch is a precondition of every
// commit of that work.
//
// # Drivers
//
// The contract requires ordered keys and atomic writes of one batch, and nothing
// else of an engine.
package store
