// Package awserr says in our words what an error of the AWS SDK means. Its own repeat the operation, its attempts, the URL and empty
// request identifiers.
package awserr

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strings"

	"github.com/aws/smithy-go"
)

// Code is the service's code of an error, empty for none.
func Code(err error) string {
	var api smithy.APIError
	if errors.As(err, &api) {
		return api.ErrorCode()
	}
	return ""
}

// Cause is what the service said; the text of err if it said nothing.
func Cause(err error) string {
	var api smithy.APIError
	if !errors.As(err, &api) {
		return err.Error()
	}
	return strings.TrimSuffix(fmt.Sprintf("%s: %s", api.ErrorCode(), strings.TrimSuffix(api.ErrorMessage(), ".")), ": ")
}

// Unanswered says of a call that has no answer why, and leaves other errors as they are.
func Unanswered(err error) error {
	if unsent := (*url.Error)(nil); errors.Is(err, context.DeadlineExceeded) {
		return New("no answer in time", err)
	} else if errors.As(err, &unsent) {
		return New(unsent.Err.Error(), err)
	}
	return err
}

// New is err with another text.
func New(text string, err error) error { return &explained{text, err} }

type explained struct {
	text string
	err  error
}

func (e *explained) Error() string { return e.text }
func (e *explained) Unwrap() error { return e.err }
