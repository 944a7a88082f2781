// Package adaptertest is the suite that every adapter passes. An adapter's
// own test calls
//
//	func TestAdapter(t *testing.T) {
//		adaptertest.Run(t, apple.New(), "testdata",
//			adaptertest.Large("export.xml", 64<<20, 0, writeLarge))
//	}
//
// Layout of the folder: one sub-folder per format, named as the format
// (testdata/export.xml/week.xml); every file in it is a payload that must
// decode without an error. Beside it lies FILE.golden, the decoded samples,
// rejects and drops as JSON lines; `go test -update` rewrites it. A file
// canaries.txt in the folder lists, one a line, names, birth dates and the
// like that occur in the payloads; the suite proves that they never reach an
// error text, a place or a detail. The sub-folder fuzz is Go's.
//
// What is proved for every payload:
//
//   - Detect names the folder's format from the first 64 KiB and the name;
//   - every sample obeys the contract of mapping/sample (Check);
//   - decoding twice, and byte by byte, gives the same samples in the same order;
//   - cut at any of many offsets it gives an *adapters.PayloadError or fewer
//     samples, never a panic, and what came before the cut is a prefix;
//   - an error of the sink and a cancelled context stop it and are returned;
//   - canaries stay inside;
//   - with Singles: an element of a list is detected by itself;
//   - with Large: the heap stays bounded however long the stream is.
//
// All payloads in testdata are written by us; the people in them are invented.
package adaptertest
