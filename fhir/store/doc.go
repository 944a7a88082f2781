// Package store is the contract of Pulsegate's store. storetest is its suite;
// pebblestore (embedded, default) the first driver, mongostore follows.
//
// One engine, one commit: a Batch is an ordered set of writes (resources,
// small state, audit leaves) that becomes durable together and gets one
// sequence number T. Every read names the T it reads at; T() is the latest one
// that is durable and visible. What a T shows never changes: paging, export
// and subscriptions pin it.
//
// Durability: when Commit returns nil the batch is on stable storage. When it
// returns an error, nothing of the batch is visible, now or after a restart,
// except after a failed fsync: then the store stops (every later call fails
// with kind Unavailable) and only a restart tells.
//
// Two tiers, one contract: a dense stream may come as samples (Batch.Series)
// instead of documents. Every read, search, count, scan, history and change
// shows a sample as the Observation it is, in the order and at the positions
// it would have as a document. A Write on a sample's id takes that one sample
// out of its series: its version 1 becomes a document that ends where the new
// version begins.
//
// The contract asks of an engine nothing beyond atomic writes of one batch
// and ordered keys; a driver over MongoDB keeps versions, index and state in
// native documents.
package store
