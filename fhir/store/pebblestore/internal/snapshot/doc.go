// Package snapshot reads documents and samples as of one commit. It joins the rows of
// documents with the samples of package tier.
package snapshot
