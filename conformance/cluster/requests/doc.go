// Package requests checks that conditional requests are linearizable: concurrent clients
// create, update, patch, delete and find resources by criteria at two services over one
// store, which is killed and opened again from the files that a crash leaves. The history of
// what the clients saw must be one of a single server that does one request after the other
// (package history). Controls break the services, and must be found out.
//
// There are only tests in this package. conformance/cluster does the same over HTTP with
// several processes.
package requests
