package admin

import (
	"strings"

	"pulsegate/fhir"
)

// Advice is an error that says what to do next.
type Advice struct {
	Err  error
	Next string // an imperative sentence, with the command in backquotes where one helps
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

// nextStep returns what an operator does about an error of an operation that
// names no step itself.
func nextStep(operation string, err error) string {
	words := strings.ReplaceAll(operation, "/", " ")
	noun, _, _ := strings.Cut(operation, "/")
	switch fhir.KindOf(err) {
	case fhir.NotFound, fhir.Gone:
		switch noun {
		case "client", "user", "quarantine", "patient":
			return "see what there is with `pulsegate " + noun + " list`"
		}
	case fhir.Internal:
		return "look for the error in the server's log"
	case fhir.Unavailable:
		return "wait a moment and repeat the command; if it goes on, look into the server's log"
	case fhir.NoSpace:
		return "make room in the file system of the data directory, then repeat the command"
	case fhir.Conflict:
		return "look at the present state with `pulsegate " + noun + " list`, then repeat the command"
	}
	if noun == operation && noun != "ingest" { // POST client is `client add`
		return "see `pulsegate " + noun + " --help`"
	}
	return "see `pulsegate " + words + " --help`"
}
