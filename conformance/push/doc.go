// Package push tests sending Observations to an EHR with two processes: one server
// sends, and the other is the EHR. It contains no other code.
package push
