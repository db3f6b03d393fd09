package dynamodb

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"hash"
	"strconv"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
)

const (
	contentType = "application/x-amz-json-1.0"
	target      = "DynamoDB_20120810."
)

// signer signs requests of one moment, which a server accepts for minutes: Signature Version 4, as the SDK's signer does it,
// with the key derived once for all requests of a Send.
// https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html
type signer struct {
	host, path string // path as the canonical request has it
	date       string // 20260302T100000Z
	scope      string // 20260302/us-east-1/dynamodb/aws4_request
	accessKey  string
	token      string // of a session; empty: none
	key        []byte
}

func newSigner(e endpoint, c aws.Credentials, region string, now time.Time) *signer {
	date := now.UTC().Format("20060102T150405Z")
	day := date[:8]
	key := []byte("AWS4" + c.SecretAccessKey)
	for _, part := range []string{day, region, "dynamodb", "aws4_request"} {
		mac := hmac.New(sha256.New, key)
		mac.Write([]byte(part))
		key = mac.Sum(nil)
	}
	return &signer{
		host: e.host, path: e.canonicalPath, date: date, scope: day + "/" + region + "/dynamodb/aws4_request",
		accessKey: c.AccessKeyID, token: c.SessionToken, key: key,
	}
}

// signed are the names of the headers that are signed.
func (s *signer) signed() string {
	if s.token != "" {
		return "content-length;content-type;host;x-amz-date;x-amz-security-token;x-amz-target"
	}
	return "content-length;content-type;host;x-amz-date;x-amz-target"
}

// signing is the memory that signatures are made in: one at a time.
type signing struct {
	text []byte
	mac  hash.Hash
	key  []byte // of mac
}

// signature of a call, in hexadecimal digits. They are valid until the next one.
func (m *signing) signature(s *signer, operation string, body []byte) []byte {
	sum := sha256.Sum256(body)
	b := append(append(append(m.text[:0], "POST\n"...), s.path...), "\n\ncontent-length:"...)
	b = strconv.AppendInt(b, int64(len(body)), 10)
	b = append(append(b, "\ncontent-type:"+contentType+"\nhost:"...), s.host...)
	b = append(append(b, "\nx-amz-date:"...), s.date...)
	if s.token != "" {
		b = append(append(b, "\nx-amz-security-token:"...), s.token...)
	}
	b = append(append(b, "\nx-amz-target:"+target...), operation...)
	b = append(append(append(b, "\n\n"...), s.signed()...), '\n')
	canonical := sha256.Sum256(hex.AppendEncode(b, sum[:]))

	b = append(append(b[:0], "AWS4-HMAC-SHA256\n"...), s.date...)
	b = append(append(append(b, '\n'), s.scope...), '\n')
	b = hex.AppendEncode(b, canonical[:])
	if m.mac == nil || string(m.key) != string(s.key) {
		m.mac, m.key = hmac.New(sha256.New, s.key), s.key
	}
	m.mac.Reset()
	m.mac.Write(b)
	at := len(b)
	b = m.mac.Sum(b)
	m.text = hex.AppendEncode(b, b[at:])
	return m.text[len(b):]
}

// appendHead appends a request's head.
func (m *signing) appendHead(b []byte, s *signer, e endpoint, operation string, body []byte) []byte {
	signature := m.signature(s, operation, body)
	b = append(append(append(b, "POST "...), e.path...), " HTTP/1.1\r\nHost: "...)
	b = append(append(b, s.host...), "\r\nUser-Agent: millrace\r\nContent-Type: "+contentType+"\r\nContent-Length: "...)
	b = strconv.AppendInt(b, int64(len(body)), 10)
	b = append(append(b, "\r\nX-Amz-Date: "...), s.date...)
	if s.token != "" {
		b = append(append(b, "\r\nX-Amz-Security-Token: "...), s.token...)
	}
	b = append(append(b, "\r\nX-Amz-Target: "+target...), operation...)
	b = append(append(b, "\r\nAuthorization: AWS4-HMAC-SHA256 Credential="...), s.accessKey...)
	b = append(append(append(b, '/'), s.scope...), ", SignedHeaders="...)
	b = append(append(b, s.signed()...), ", Signature="...)
	return append(append(b, signature...), "\r\n\r\n"...)
}

// headerSafe says that a text can stand in a header; one with a line end is not what its owner meant.
func headerSafe(text string) bool {
	return !strings.ContainsFunc(text, func(r rune) bool { return r < ' ' || r == 0x7f })
}
