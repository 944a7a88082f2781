// Package adaptertest tests adapters. It is also the guide for authors of an
// adapter: an adapter that passes Run fulfills the contract of package adapters.
//
// # Writing an adapter
//
// An adapter turns the bytes of one vendor into Samples. It converts nothing: names,
// units, scales and precision stay as the vendor writes them, and mapping/table
// translates them later.
//
//  1. Create adapters/VENDOR with a type that implements adapters.Adapter and a
//     function New that returns it. VENDOR is the code that the method Vendor returns.
//  2. In doc.go, list the formats, every Metric with its unit and components, where
//     time zones come from, and the identity of a sample (VendorID or natural key).
//     Add one example, input and Sample, that runs as ExampleNew in example_test.go.
//  3. Read JSON with adapters/internal/jsonitem, which builds one item at a time and
//     limits its size and depth. Memory must not grow with the payload.
//  4. Report an item that cannot be read with Sink.Reject and continue. Report a
//     component that cannot be read with a Reject that names the Component, and emit the
//     rest of the item. jsonitem.Watch does so for values that were read as another type
//     than they have. Count items that are left out on purpose with Sink.Drop. Return
//     a *adapters.PayloadError only if the payload as a whole is malformed.
//  5. Return the errors of the sink and of the context unchanged and without delay.
//  6. Never put bytes of the payload into an error, a Where, a Detail or a drop.
//
// # Writing the test
//
// Invent payloads and put them into testdata:
//
//	testdata/canaries.txt                 one text per line, see below
//	testdata/FORMAT/month.json            a payload of the format FORMAT
//	testdata/FORMAT/month.json.golden     its decoded samples, rejects and drops
//
// Each format that the adapter lists has a directory of its name with at least one
// payload. Each payload must decode without an error, although items may be rejected.
// The names, birth dates, e-mail addresses and other private texts that occur in the
// payloads are the canaries; the test fails if one of them reaches an error, a Reject
// (except for Raw) or a drop. A directory named fuzz is ignored.
//
// The test of the adapter calls Run:
//
//	func TestAdapter(t *testing.T) {
//		adaptertest.Run(t, acme.New(), "testdata",
//			adaptertest.Singles("acme-json"),
//			adaptertest.Large("acme-json", 64<<20, 0, writeLarge))
//	}
//
// Run "go test ./adapters/acme -update" to write the golden files, and read them: they
// hold one JSON object per sample, reject and drop, and are the only check that the
// values are right.
//
// # What Run checks
//
//   - Detect recognizes the format of each payload from its first 64 KiB and its name,
//     and does not claim noise, HTML or FHIR.
//   - Every sample obeys the contract of mapping/sample (Check).
//   - Decoding a payload twice, with the format detected, and byte by byte gives the
//     same samples in the same order.
//   - A payload cut at any of many offsets gives an *adapters.PayloadError or fewer
//     samples, and the samples before the cut are the same (Unterminated relaxes this
//     for formats without an end mark).
//   - Decode returns the error of a failing sink and of a canceled context.
//   - No canary reaches an error, a Reject or a drop, and each occurs in a payload.
//   - A payload with one value of a wrong type gives no panic, a sample, Reject or error
//     that obeys its contract, and all other items unchanged. A sample does not lose a
//     value without a Reject. JSON values become objects, arrays, texts, numbers, true
//     and null; XML attributes and CSV cells become another text.
//   - With Singles, Detect recognizes each element of a list without the list.
//   - With Large, the heap stays below a limit for a long payload.
//
// # Afterwards
//
// Write the metric table mapping/table/VENDOR.yaml and add the adapter to
// adapters/vendors. CONTRIBUTING.md describes both under "Adding a vendor".
package adaptertest
