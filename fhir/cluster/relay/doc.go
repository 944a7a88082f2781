// Package relay sends the commits of a cluster's processes to one of them, the
// sequencer, which appends them to the shared log in groups.
//
// Every process may append to the log itself: the process whose entry is first wins,
// and the others build theirs again. With N busy processes, N-1 of N attempts are
// lost, so each commit takes N round trips to the log, and a distant process rarely
// wins. With a sequencer, a commit takes one round trip to it and one to the log.
//
// Which process is the sequencer is a hint (package hints), and not necessary for a
// right answer. If there is no hint, no connection, or no answer, a process commits
// the batch itself. Every batch that is sent has an ID, and a store knows the results of
// recent batches with an ID, so that a batch whose answer was lost is written once,
// however often it is sent and to whomever (store.Batch.ID).
//
// The sequencer also sends each of its entries to all processes, before the answers of the
// batches in it. A process that has applied the entry shows the commit without a look at
// the log. Entries that are lost or late are read from the log, like those of others.
//
// # Protocol
//
// A process that may be the sequencer listens for its peers (Server). All processes
// connect to the sequencer by TLS 1.3, in which both sides present a certificate of the
// cluster (Trust). ALPN selects the version of the protocol. A process that does not
// find a version in common commits itself.
//
// Both sides send frames:
//
//	length of the payload (4 bytes) | type (1) | number of the call (8) | payload
//
//	0 hello    server: instance of the process
//	1 commit   client: Unix milliseconds at which the batch was sent first | batch
//	2 result   server: Seq that the sequencer shows | result
//	3 refusal  server: Seq that the sequencer shows | error
//	4 busy     server: the batch was not committed, for a reason of this process
//	5 ping     client
//	6 pong     server
//	7 entry    server: an entry of the log; the number of the call is 0
//
// Calls are answered in any order. Package wire encodes the payloads.
package relay
