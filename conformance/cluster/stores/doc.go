// Package stores tests the stores of several processes over one log, all within one
// test process. Clients of different stores update, create, revoke, withdraw and
// disclose at the same time, while the log loses requests and answers, delays them,
// loses its majority, and rolls back, and while processes are killed and cut off. The
// history that the clients saw must be linearizable, every acknowledged batch must be
// in the stores once, and all stores must be equal.
package stores
