// Package netns lets a test run processes in network namespaces of their own (Linux),
// between which the test forwards each IP packet itself. So it can cut the network
// between any two of them, in one direction or in both, delay packets and lose some,
// while their kernels see what they would see of such a network: packets that do not
// arrive, and retransmissions. The kernel needs neither a bridge nor a queueing
// discipline for that, only TUN devices.
//
// No rights are needed beyond a user namespace. Where the system allows none, as in
// most containers, Probe says why.
package netns
