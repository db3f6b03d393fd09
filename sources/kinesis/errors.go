package kinesis

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strings"

	"github.com/aws/smithy-go"

	"github.com/millrace-io/millrace/stream"
)

// apiCode is the service's code of an error, empty for none.
func apiCode(err error) string {
	var api smithy.APIError
	if errors.As(err, &api) {
		return api.ErrorCode()
	}
	return ""
}

// explain says what an error of a call on a resource means. What no repetition mends is a FatalError that says what to do.
func explain(doing, resource string, err error) error {
	remedy := ""
	switch apiCode(err) {
	case "ResourceNotFoundException":
		remedy = "it does not exist or was deleted; check its name, and that AWS_REGION is its region"
	case "AccessDeniedException", "KMSAccessDeniedException":
		remedy = "allow " + action(err) + " on " + resource
	case "UnrecognizedClientException", "InvalidSignatureException", "SignatureDoesNotMatch", "IncompleteSignature",
		"InvalidClientTokenId", "MissingAuthenticationToken", "MissingAuthenticationTokenException":
		remedy = "check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or the profile or role in use, and the machine's clock"
	case "KMSDisabledException", "KMSInvalidStateException", "KMSNotFoundException", "KMSOptInRequired":
		remedy = "check the key that encrypts it"
	case "ValidationException", "SerializationException", "UnknownOperationException":
		remedy = "this server does not do what is needed of it"
	default:
		return fmt.Errorf("%s %s: %w", doing, resource, unanswered(err))
	}
	var api smithy.APIError
	errors.As(err, &api)
	cause := strings.TrimSuffix(fmt.Sprintf("%s: %s", api.ErrorCode(), strings.TrimSuffix(api.ErrorMessage(), ".")), ": ")
	return stream.Fatal(&explained{fmt.Sprintf("%s %s: %s; %s", doing, resource, cause, remedy), err})
}

// unanswered says of a call that has no answer why, and leaves other errors as they are.
func unanswered(err error) error {
	if unsent := (*url.Error)(nil); errors.Is(err, context.DeadlineExceeded) {
		return &explained{"no answer in time", err}
	} else if errors.As(err, &unsent) {
		return &explained{unsent.Err.Error(), err}
	}
	return err
}

// explained is an error in our words. The SDK's own repeat the operation, its attempts, the URL and empty request identifiers.
type explained struct {
	text string
	err  error
}

func (e *explained) Error() string { return e.text }
func (e *explained) Unwrap() error { return e.err }

// action is the permission that a call needs.
func action(err error) string {
	var op *smithy.OperationError
	if errors.As(err, &op) {
		return strings.ToLower(op.Service()) + ":" + op.Operation()
	}
	return "the call"
}
