package admin

import (
	"strings"

	"pulsegate/fhir"
)

// Advice is an error with a next step.
type Advice struct {
	Err  error
	Next string // an imperative sentence, with commands in backquotes
}

// Advise adds the next step to an error. It returns nil for a nil error.
func Advise(err error, next string) error {
	if err == nil {
		return nil
	}
	return &Advice{Err: err, Next: next}
}

func (a *Advice) Error() string { return a.Err.Error() }
func (a *Advice) Unwrap() error { return a.Err }

// nextStep returns the next step after an error that names none.
func nextStep(operation string, err error) string {
	words := strings.ReplaceAll(operation, "/", " ")
	noun, _, _ := strings.Cut(operation, "/")
	switch fhir.KindOf(err) {
	case fhir.NotFound, fhir.Gone:
		switch noun {
		case "client", "user", "quarantine", "patient", "link", "push-key", "pack", "target":
			return "list what exists with `pulsegate " + noun + " list`"
		}
	case fhir.Internal:
		return "see the error in the server's log"
	case fhir.Unavailable:
		return "wait a moment and repeat the command; if the error persists, see the server's log"
	case fhir.NoSpace:
		return "free disk space in the file system of the data directory, then repeat the command"
	case fhir.Conflict:
		if noun == "cluster" {
			return "see the cluster with `pulsegate cluster status`, then repeat the command"
		}
		return "see the current state with `pulsegate " + noun + " list`, then repeat the command"
	}
	if noun == operation && noun != "ingest" { // POST client is `client add`
		return "see `pulsegate " + noun + " --help`"
	}
	return "see `pulsegate " + words + " --help`"
}
