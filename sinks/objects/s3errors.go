package objects

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"

	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/smithy-go"

	"github.com/millrace-io/millrace/stream"
)

// apiCode is S3's code of an error, empty for none.
func apiCode(err error) string {
	var api smithy.APIError
	if errors.As(err, &api) {
		return api.ErrorCode()
	}
	return ""
}

// isNotFound says that the object is not there. The answer to HEAD has no code but the status.
func isNotFound(err error) bool {
	code := apiCode(err)
	return code == "NoSuchKey" || code == "NotFound"
}

// explain says what an error of S3 means: the place, the cause, and for what no retry mends, what to do.
func (b *bucket) explain(doing, key string, err error) error {
	if err == nil {
		return nil
	}
	what := fmt.Sprintf("%s %s/%s", doing, b, key)
	if isNotFound(err) {
		return fmt.Errorf("%s: %w", what, ErrNotFound)
	}
	if unsent := (*url.Error)(nil); errors.Is(err, context.DeadlineExceeded) {
		return &explained{what + ": no answer in time", err}
	} else if errors.As(err, &unsent) {
		return &explained{fmt.Sprintf("%s: %v", what, unsent.Err), err}
	}
	remedy := b.remedy(err)
	if remedy == "" {
		return fmt.Errorf("%s: %w", what, err)
	}
	cause := err.Error()
	var api smithy.APIError
	if errors.As(err, &api) {
		cause = strings.TrimSuffix(fmt.Sprintf("%s: %s", api.ErrorCode(), strings.TrimSuffix(api.ErrorMessage(), ".")), ": ")
	}
	return stream.Fatal(&explained{fmt.Sprintf("%s: %s; %s", what, cause, remedy), err})
}

// explained is an error in our words. The SDK's own repeat the operation, its attempts, the URL and empty request identifiers.
type explained struct {
	text string
	err  error
}

func (e *explained) Error() string { return e.text }
func (e *explained) Unwrap() error { return e.err }

// remedy is what somebody has to do about an error that no retry mends; empty for all others.
func (b *bucket) remedy(err error) string {
	var answer *awshttp.ResponseError
	status, region := 0, ""
	if errors.As(err, &answer) && answer.Response != nil {
		status, region = answer.HTTPStatusCode(), answer.Response.Header.Get("x-amz-bucket-region")
	}
	switch code := apiCode(err); code {
	case "NoSuchBucket":
		return "create the bucket " + b.bucket + " or correct the url"
	case "InvalidBucketName":
		return "correct the url"
	case "AccessDenied", "AllAccessDisabled", "AccountProblem", "NotSignedUp", "InvalidObjectState":
		return "allow s3:PutObject, s3:GetObject, s3:DeleteObject, s3:AbortMultipartUpload on " + b.String() + "/* and s3:ListBucket on the bucket"
	case "InvalidAccessKeyId", "SignatureDoesNotMatch", "InvalidSecurity", "XAdminUserNotFound": // the last one is versitygw's
		return "check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or the profile or role in use"
	case "ExpiredToken", "ExpiredTokenException", "InvalidToken", "TokenRefreshRequired":
		return "get a new session token, or use credentials that renew themselves"
	case "PermanentRedirect", "MovedPermanently", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException", "IncorrectEndpoint":
		return b.otherRegion(region)
	case "EntityTooLarge", "EntityTooSmall", "MetadataTooLarge", "KeyTooLongError", "MethodNotAllowed", "InvalidRequest", "InvalidArgument", "MalformedXML", "NotImplemented":
		return "this server does not do what is needed of S3"
	default:
		if strings.HasPrefix(code, "KMS.") {
			return "check the key that encrypts the bucket"
		}
	}
	switch status {
	case http.StatusMovedPermanently:
		return b.otherRegion(region)
	case http.StatusForbidden:
		return "check the credentials and what they may do on " + b.String()
	}
	return ""
}

func (b *bucket) otherRegion(region string) string {
	if region == "" {
		return "set AWS_REGION to the bucket's region; it is " + b.client.Options().Region
	}
	return "the bucket is in " + region + ": set AWS_REGION to it"
}
