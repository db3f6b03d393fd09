package kinesis

import (
	"errors"
	"fmt"
	"strings"

	"github.com/aws/smithy-go"

	"github.com/millrace-io/millrace/sources/awserr"
	"github.com/millrace-io/millrace/stream"
)

// explain says what an error of a call on a resource means. What no repetition mends is a FatalError that says what to do.
func explain(doing, resource string, err error) error {
	remedy := ""
	switch awserr.Code(err) {
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
		return fmt.Errorf("%s %s: %w", doing, resource, awserr.Unanswered(err))
	}
	return stream.Fatal(awserr.New(fmt.Sprintf("%s %s: %s; %s", doing, resource, awserr.Cause(err), remedy), err))
}

// action is the permission that a call needs.
func action(err error) string {
	var op *smithy.OperationError
	if errors.As(err, &op) {
		return strings.ToLower(op.Service()) + ":" + op.Operation()
	}
	return "the call"
}
