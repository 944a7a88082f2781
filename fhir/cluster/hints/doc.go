// Package hints lets the processes of a cluster wake each other, agree on a
// sequencer, count each other and share rate limits, through a Redis server.
//
// Nothing in Redis decides whether an answer is right. If Redis is missing, slow,
// emptied or answers nonsense, a process is slower: it finds entries of the log when
// it looks for them instead of when they are written, commits them itself instead
// of sending them to the sequencer, and limits requests by its own share of each
// limit. A server without Redis has no Redis value of this package, and its
// callers then do the same.
//
// # Keys
//
// All keys begin with pulsegate:{cluster}: where cluster is the id of the cluster in
// hex. The braces keep the keys of a cluster on one server of a Redis Cluster. Every
// key expires.
//
//	sequencer  the lease of the sequencer: JSON of node, instance, address, data directory and a
//	           random number, so that no two terms have the same value
//	nodes      a hash of live processes: the expiry in Unix milliseconds of Redis's
//	           clock, a space, and a value that package nodes encodes
//	bucket:ID  a token bucket: its tokens, and the time in Unix microseconds at which
//	           it had them. ID is an HMAC of the names of the limit and of the limited
//	           party, so that no address and no client id is in Redis.
//
// The channel pulsegate:{cluster}:bell carries "instance index" after an entry was
// appended to the log, and "instance sequencer" after the lease changed hands.
package hints
