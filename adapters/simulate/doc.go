// Package simulate holds what the simulated vendor clouds share: a clock that can be
// sped up, the invented wearers, and the faults to inject. The clouds themselves are the
// subpackages, one per vendor. They speak only the documented protocol over HTTP, so that
// a client cannot tell them from the vendor, and contain no data of real people.
//
// Everything is a function of a seed, the number of a wearer and a day or a request.
// Values are drawn with a Key, which is derived from these, so that they are independent
// of the order of requests and nothing has to be stored.
package simulate
