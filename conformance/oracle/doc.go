// Package oracle tests that clients cannot distinguish samples in series from documents.
//
// The test runs two servers in one process. One uses a store that writes each sample as
// a document (store.Documents), the other the sample tier. Both perform the same random
// run: payloads through mapping/ingest (late, overlapping, restated, retracted, with
// clock errors), writes over REST, changes of consents, restarts and kills. Only the
// second server compacts blocks. After every step both get the same requests of the same
// clients. The answers must be equal, byte for byte, in status, headers and body.
//
// The servers are deterministic. Time, ids and nonces come from clocks and generators
// with the same seed, requests are served one at a time, and background work advances
// only between requests, one commit and one Subscription at a time (see gate).
//
// The test does not check that the answers are correct: both servers could have the same
// fault.
//
// A failure prints the seed, and
//
//	go test ./conformance/oracle -oracle.seed N
//
// repeats the run. -oracle.time sets how long to start new runs.
//
// The test is repeated with a second server that consists of three processes over one
// log (TestOracleThroughThree), for the time in -oracle.three. Each call goes to the
// store of another process than the last.
package oracle
