package objects

import (
	"errors"
	"fmt"
	"net/http"
	"strings"

	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"

	"github.com/millrace-io/millrace/sources/awserr"
	"github.com/millrace-io/millrace/stream"
)

// isNotFound says that the object is not there. The answer to HEAD has no code but the status.
func isNotFound(err error) bool {
	code := awserr.Code(err)
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
	remedy := b.remedy(err)
	if remedy == "" {
		return fmt.Errorf("%s: %w", what, awserr.Unanswered(err))
	}
	return stream.Fatal(awserr.New(fmt.Sprintf("%s: %s; %s", what, awserr.Cause(err), remedy), err))
}

// remedy is what somebody has to do about an error that no retry mends; empty for all others.
func (b *bucket) remedy(err error) string {
	var answer *awshttp.ResponseError
	status, region := 0, ""
	if errors.As(err, &answer) && answer.Response != nil {
		status, region = answer.HTTPStatusCode(), answer.Response.Header.Get("x-amz-bucket-region")
	}
	switch code := awserr.Code(err); code {
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
