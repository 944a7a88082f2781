package mongolog

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"strings"

	"go.mongodb.org/mongo-driver/v2/mongo"
)

// opError is a failed operation. Its text names the operation and the cause in
// words that hold neither credentials nor parts of documents; Unwrap gives the
// error of the driver to errors.Is.
type opError struct {
	text string
	err  error
}

func (e *opError) Error() string { return e.text }
func (e *opError) Unwrap() error { return e.err }

// failure returns err with the operation in which it occurred, or nil.
func failure(op string, err error) error {
	if err == nil {
		return nil
	}
	return &opError{fmt.Sprintf("mongolog: %s: %s", op, cause(err)), err}
}

// cause describes an error of the driver. The messages of the server are left
// out, because they may quote documents; their codes are not.
func cause(err error) string {
	var command mongo.CommandError
	var write mongo.WriteException
	switch {
	case errors.As(err, &write):
		var codes []string
		for _, e := range write.WriteErrors {
			codes = append(codes, fmt.Sprintf("write error %d", e.Code))
		}
		if e := write.WriteConcernError; e != nil {
			codes = append(codes, fmt.Sprintf("write concern error %d %.40q", e.Code, e.Name))
		}
		return strings.Join(codes, ", ")
	case errors.As(err, &command) && command.Code != 0:
		return fmt.Sprintf("server error %d %.40q", command.Code, command.Name)
	case errors.Is(err, context.Canceled):
		return "canceled"
	case mongo.IsTimeout(err):
		return "timeout: " + withoutCredentials(err.Error())
	case mongo.IsNetworkError(err):
		return "network error: " + withoutCredentials(err.Error())
	}
	return withoutCredentials(err.Error())
}

// userInfo matches the user and the password of a connection string.
var userInfo = regexp.MustCompile(`//[^/\s]*@`)

// withoutCredentials removes users and passwords from addresses in text, and
// shortens it.
func withoutCredentials(text string) string {
	text = userInfo.ReplaceAllString(text, "//")
	return fmt.Sprintf("%.600s", text)
}
