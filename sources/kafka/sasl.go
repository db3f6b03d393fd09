package kafka

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awsconfig "github.com/aws/aws-sdk-go-v2/config"
	"github.com/twmb/franz-go/pkg/sasl"
	iam "github.com/twmb/franz-go/pkg/sasl/aws"
	"github.com/twmb/franz-go/pkg/sasl/oauth"
	"github.com/twmb/franz-go/pkg/sasl/plain"
	"github.com/twmb/franz-go/pkg/sasl/scram"

	"github.com/millrace-io/millrace/sources/trust"
)

// SASL is who we are. Which keys it has depends on the mechanism.
//
//	plain, scram-sha-256, scram-sha-512   username, password
//	oauthbearer                           token_file; or token_url, client_id and client_secret
//	aws_msk_iam                           none: credentials come from the AWS SDK's own chain (environment, profile, web
//	                                      identity, container, instance), the region from the brokers' names, else AWS_REGION
//
// The last two need tls. A token file is read again for each connection, and again before the brokers' connections.max.reauth.ms
// ends one, so whoever writes it may rotate it. From a token_url the token comes by the OAuth 2.0 client credentials grant,
// and is used until most of its life is over.
type SASL struct {
	Mechanism string `yaml:"mechanism"` // default scram-sha-512

	Username string `yaml:"username"`
	Password string `yaml:"password"`

	TokenFile    string            `yaml:"token_file"`    // holds the token and nothing else but white space around it
	TokenURL     string            `yaml:"token_url"`     // https, of the identity provider
	TokenTLS     *trust.TLS        `yaml:"token_tls"`     // for TokenURL; default: what the system trusts
	ClientID     string            `yaml:"client_id"`     // sent to TokenURL
	ClientSecret string            `yaml:"client_secret"` // sent to TokenURL
	Scope        string            `yaml:"scope"`         // asked for at TokenURL, separated by spaces; default: none
	Extensions   map[string]string `yaml:"extensions"`    // of OAUTHBEARER, as some vendors want; default: none
}

// Mechanisms, as the pipeline file writes them.
const (
	plainText   = "plain"
	scram256    = "scram-sha-256"
	scram512    = "scram-sha-512"
	oauthBearer = "oauthbearer"
	awsMSKIAM   = "aws_msk_iam"
)

const (
	// tokenTimeout bounds one request to TokenURL.
	tokenTimeout = 10 * time.Second

	// tokenLimit is the most bytes of an answer of TokenURL, and of a token file.
	tokenLimit = 1 << 20
)

// validate returns all problems. A nil SASL has none.
func (s *SASL) validate(encrypted bool) error {
	if s == nil {
		return nil
	}
	var problems []error
	check := func(ok bool, format string, args ...any) {
		if !ok {
			problems = append(problems, fmt.Errorf(format, args...))
		}
	}
	user := s.Username+s.Password != ""
	token := s.TokenFile != "" || s.TokenURL != ""
	client := s.ClientID+s.ClientSecret+s.Scope != "" || s.TokenTLS != nil
	switch strings.ToLower(s.Mechanism) {
	case plainText, scram256, scram512:
		check(s.Username != "", "sasl.username is empty")
		check(s.Password != "", "sasl.password is empty")
		check(!token && !client && s.Extensions == nil, "sasl has keys of oauthbearer beside mechanism %s; remove them", s.Mechanism)
	case oauthBearer:
		check(encrypted, "sasl.mechanism is oauthbearer without tls, so anybody on the way could use the token; add tls")
		check(!user, "sasl.username and sasl.password are not for oauthbearer; remove them")
		check((s.TokenFile != "") != (s.TokenURL != ""), "sasl.token_file and sasl.token_url: want one of them")
		if s.TokenURL == "" {
			check(!client, "sasl.client_id, client_secret, scope and token_tls are for token_url only; remove them")
			break
		}
		u, err := url.Parse(s.TokenURL)
		check(err == nil && u.Scheme == "https" && u.Host != "", "sasl.token_url is %q; want https://host/path", s.TokenURL)
		check(s.ClientID != "" && s.ClientSecret != "", "sasl.client_id and client_secret: want both beside token_url")
		if err := s.TokenTLS.Validate(); err != nil {
			problems = append(problems, fmt.Errorf("sasl.token_tls: %w", err))
		}
	case awsMSKIAM:
		check(encrypted, "sasl.mechanism is aws_msk_iam without tls, which MSK wants; add tls")
		check(!user && !token && !client && s.Extensions == nil, "sasl has other keys beside mechanism aws_msk_iam, whose credentials come from the AWS SDK's own chain; remove them")
	default:
		check(false, "sasl.mechanism is %q; want %s, %s, %s, %s or %s", s.Mechanism, plainText, scram256, scram512, oauthBearer, awsMSKIAM)
	}
	return errors.Join(problems...)
}

// client is the mechanism for one client. Those that fetch something do so when a connection needs it.
func (s *SASL) client() (sasl.Mechanism, error) {
	switch strings.ToLower(s.Mechanism) {
	case plainText:
		return plain.Auth{User: s.Username, Pass: s.Password}.AsMechanism(), nil
	case scram256:
		return scram.Auth{User: s.Username, Pass: s.Password}.AsSha256Mechanism(), nil
	case scram512:
		return scram.Auth{User: s.Username, Pass: s.Password}.AsSha512Mechanism(), nil
	case oauthBearer:
		token, err := s.token()
		if err != nil {
			return nil, err
		}
		return oauth.Oauth(func(ctx context.Context) (oauth.Auth, error) {
			text, err := token(ctx)
			return oauth.Auth{Token: text, Extensions: s.Extensions}, err
		}), nil
	case awsMSKIAM:
		return iam.ManagedStreamingIAM(awsCredentials()), nil
	}
	return nil, fmt.Errorf("sasl.mechanism is %q", s.Mechanism)
}

// token is where tokens come from.
func (s *SASL) token() (func(context.Context) (string, error), error) {
	if s.TokenFile != "" {
		return func(context.Context) (string, error) { return readToken(s.TokenFile) }, nil
	}
	config, err := cmp.Or(s.TokenTLS, &trust.TLS{}).Load()
	if err != nil {
		return nil, fmt.Errorf("sasl.token_tls: %w", err)
	}
	// One request an hour needs no connection kept.
	transport := &http.Transport{Proxy: http.ProxyFromEnvironment, TLSClientConfig: config, DisableKeepAlives: true, ForceAttemptHTTP2: true}
	g := &grant{sasl: s, http: &http.Client{Transport: transport, Timeout: tokenTimeout}, now: time.Now}
	return g.token, nil
}

func readToken(file string) (string, error) {
	f, err := os.Open(file)
	if err != nil {
		return "", fmt.Errorf("sasl.token_file: %w", err)
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, tokenLimit))
	if err != nil {
		return "", fmt.Errorf("sasl.token_file: %w", err)
	}
	token := strings.TrimSpace(string(text))
	if token == "" {
		return "", fmt.Errorf("sasl.token_file: %s is empty", file)
	}
	return token, nil
}

// grant fetches tokens by client credentials (RFC 6749, 4.4) and keeps the last one.
type grant struct {
	sasl *SASL
	http *http.Client
	now  func() time.Time

	mu    sync.Mutex
	last  string
	until time.Time // when to fetch another one
}

// answer of a token endpoint, also to a refused request (RFC 6749, 5.1 and 5.2).
type answer struct {
	Token       string `json:"access_token"`
	Expires     int64  `json:"expires_in"` // seconds; 0: not said
	Error       string `json:"error"`
	Description string `json:"error_description"`
}

// token returns the last token while a fifth of its life is left, else a new one.
func (g *grant) token(ctx context.Context) (string, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.now().Before(g.until) {
		return g.last, nil
	}
	a, err := g.fetch(ctx)
	if err != nil {
		return "", fmt.Errorf("sasl.token_url: %w", err)
	}
	g.last, g.until = a.Token, g.now().Add(time.Duration(a.Expires)*time.Second*4/5)
	return a.Token, nil
}

func (g *grant) fetch(ctx context.Context) (answer, error) {
	form := url.Values{"grant_type": {"client_credentials"}}
	if g.sasl.Scope != "" {
		form.Set("scope", g.sasl.Scope)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, g.sasl.TokenURL, strings.NewReader(form.Encode()))
	if err != nil {
		return answer{}, err
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	req.Header.Set("Accept", "application/json")
	req.SetBasicAuth(url.QueryEscape(g.sasl.ClientID), url.QueryEscape(g.sasl.ClientSecret)) // RFC 6749, 2.3.1
	resp, err := g.http.Do(req)
	if err != nil {
		return answer{}, err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, tokenLimit))
	if err != nil {
		return answer{}, err
	}
	var a answer
	err = json.Unmarshal(text, &a)
	switch {
	case resp.StatusCode != http.StatusOK:
		return answer{}, fmt.Errorf("%s %s %s", resp.Status, a.Error, a.Description)
	case err != nil:
		return answer{}, fmt.Errorf("the answer is no JSON: %w", err)
	case a.Token == "":
		return answer{}, errors.New("the answer has no access_token")
	}
	return a, nil
}

// awsCredentials come from the SDK's chain, which renews what expires.
func awsCredentials() func(context.Context) (iam.Auth, error) {
	load := sync.OnceValues(func() (aws.Config, error) { return awsconfig.LoadDefaultConfig(context.Background()) }) // reads files and the environment
	return func(ctx context.Context) (iam.Auth, error) {
		config, err := load()
		if err != nil {
			return iam.Auth{}, fmt.Errorf("AWS configuration: %w", err)
		}
		c, err := config.Credentials.Retrieve(ctx)
		if err != nil {
			return iam.Auth{}, fmt.Errorf("AWS credentials: %w", err)
		}
		return iam.Auth{AccessKey: c.AccessKeyID, SecretKey: c.SecretAccessKey, SessionToken: c.SessionToken, UserAgent: "millrace"}, nil
	}
}
