package kafka

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/millrace-io/millrace/sources/trust"
	"github.com/millrace-io/millrace/testenv/authority"
	"github.com/millrace-io/millrace/testenv/broker"
)

func TestSASLNamesEveryProblem(t *testing.T) {
	for _, c := range []struct {
		sasl *SASL
		tls  bool
		want []string // none: it is right
	}{
		{nil, false, nil},
		{&SASL{Mechanism: "scram-sha-512", Username: "u", Password: "p"}, false, nil},
		{&SASL{Mechanism: "plain"}, false, []string{"sasl.username is empty", "sasl.password is empty"}},
		{&SASL{Mechanism: "SCRAM-SHA-256", Username: "u", Password: "p", TokenFile: "f"}, false, []string{"keys of oauthbearer"}},
		{&SASL{Mechanism: "OAUTHBEARER", TokenFile: "f", Extensions: map[string]string{"logicalCluster": "l"}}, true, nil},
		{&SASL{Mechanism: "oauthbearer", TokenFile: "f", Username: "u", ClientID: "i"}, false, []string{"without tls", "sasl.username", "sasl.client_id"}},
		{&SASL{Mechanism: "oauthbearer"}, true, []string{"sasl.token_file and sasl.token_url: want one of them"}},
		{&SASL{Mechanism: "oauthbearer", TokenFile: "f", TokenURL: "https://h/"}, true, []string{"want one of them", "sasl.client_id and client_secret"}},
		{&SASL{Mechanism: "oauthbearer", TokenURL: "http://h/", TokenTLS: &trust.TLS{Cert: "c"}}, true, []string{"sasl.token_url is", "sasl.token_tls: tls.cert", "client_secret"}},
		{&SASL{Mechanism: "oauthbearer", TokenURL: "https://h/t", ClientID: "i", ClientSecret: "s"}, true, nil},
		{&SASL{Mechanism: "AWS_MSK_IAM"}, true, nil},
		{&SASL{Mechanism: "aws_msk_iam", Username: "u"}, false, []string{"without tls", "other keys"}},
		{&SASL{Mechanism: "kerberos"}, true, []string{"want plain, scram-sha-256, scram-sha-512, oauthbearer or aws_msk_iam"}},
	} {
		err := c.sasl.validate(c.tls)
		if (err == nil) != (c.want == nil) {
			t.Errorf("%+v: %v; want %q", c.sasl, err, c.want)
		}
		for _, want := range c.want {
			if err != nil && !strings.Contains(err.Error(), want) {
				t.Errorf("%+v: no %q in: %v", c.sasl, want, err)
			}
		}
	}
}

// conversation is what a broker hears of one mechanism.
type conversation struct {
	mu    sync.Mutex
	first []string // bytes of each client's first message
}

// listen makes a broker believe everything that is said by the mechanism.
func listen(t *testing.T, b *broker.Broker, mechanism string) *conversation {
	t.Helper()
	c := &conversation{}
	b.ControlKey(int16(kmsg.SASLHandshake), func(req kmsg.Request) (kmsg.Response, error, bool) {
		b.KeepControl()
		asked := req.(*kmsg.SASLHandshakeRequest)
		if asked.Mechanism != mechanism {
			t.Errorf("mechanism %s; want %s", asked.Mechanism, mechanism)
		}
		return asked.ResponseKind(), nil, true
	})
	b.ControlKey(int16(kmsg.SASLAuthenticate), func(req kmsg.Request) (kmsg.Response, error, bool) {
		b.KeepControl()
		asked := req.(*kmsg.SASLAuthenticateRequest)
		c.mu.Lock()
		c.first = append(c.first, string(asked.SASLAuthBytes))
		c.mu.Unlock()
		resp := asked.ResponseKind().(*kmsg.SASLAuthenticateResponse)
		if mechanism == "AWS_MSK_IAM" {
			resp.SASLAuthBytes = []byte(`{"version":"2020_10_22"}`)
		}
		return resp, nil, true
	})
	return c
}

func (c *conversation) heard() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append([]string(nil), c.first...)
}

// reach makes the first contact, without TLS whatever the configuration wants: kfake's controls are the point here.
func reach(t *testing.T, b *broker.Broker, s *SASL) error {
	t.Helper()
	source, err := New(Config{Brokers: []string{b.Addr}, Topics: []string{"clicks"}, TLS: &trust.TLS{}, SASL: s}, Options{Pipeline: "p"})
	if err != nil {
		t.Fatal(err)
	}
	source.cfg.TLS, source.contact = nil, 5*time.Second
	_, err = source.Checkpoints(t.Context())
	return err
}

func TestMSKIAMSendsWhatTheAWSChainSigns(t *testing.T) {
	t.Setenv("AWS_ACCESS_KEY_ID", "AKIAEXAMPLE")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "examplesecret")
	t.Setenv("AWS_SESSION_TOKEN", "examplesession")
	t.Setenv("AWS_REGION", "eu-central-1")
	b := start(t, broker.Options{Topics: []string{"clicks"}})
	c := listen(t, b, "AWS_MSK_IAM")
	if err := reach(t, b, &SASL{Mechanism: "aws_msk_iam"}); err != nil {
		t.Fatal(err)
	}
	first := c.heard()[0]
	var said map[string]string
	if err := json.Unmarshal([]byte(first), &said); err != nil {
		t.Fatalf("%q: %v", first, err)
	}
	for key, want := range map[string]string{
		"version": "2020_10_22", "host": "127.0.0.1", "user-agent": "millrace", "action": "kafka-cluster:Connect", "x-amz-algorithm": "AWS4-HMAC-SHA256",
		"x-amz-security-token": "examplesession", "x-amz-signedheaders": "host", "x-amz-expires": "300",
	} {
		if said[key] != want {
			t.Errorf("%s is %q; want %q", key, said[key], want)
		}
	}
	if !strings.HasPrefix(said["x-amz-credential"], "AKIAEXAMPLE/") || !strings.HasSuffix(said["x-amz-credential"], "/eu-central-1/kafka-cluster/aws4_request") || len(said["x-amz-signature"]) != 64 {
		t.Errorf("credential %q, signature %q", said["x-amz-credential"], said["x-amz-signature"])
	}
	if strings.Contains(first, "examplesecret") {
		t.Error("the secret key is sent")
	}
}

func TestMSKIAMWithoutCredentialsSaysSo(t *testing.T) {
	for _, name := range []string{"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"} {
		t.Setenv(name, "")
	}
	t.Setenv("AWS_EC2_METADATA_DISABLED", "true")
	t.Setenv("AWS_CONFIG_FILE", filepath.Join(t.TempDir(), "none"))
	t.Setenv("AWS_SHARED_CREDENTIALS_FILE", filepath.Join(t.TempDir(), "none"))
	b := start(t, broker.Options{Topics: []string{"clicks"}})
	listen(t, b, "AWS_MSK_IAM")
	if err := reach(t, b, &SASL{Mechanism: "aws_msk_iam"}); err == nil || !strings.Contains(err.Error(), "AWS credentials") {
		t.Errorf("%v; want a word on the credentials", err)
	}
}

func TestTokenFileIsReadAtEachAuthentication(t *testing.T) {
	t.Parallel()
	b := start(t, broker.Options{Topics: []string{"clicks"}})
	c := listen(t, b, "OAUTHBEARER")
	file := filepath.Join(t.TempDir(), "token")
	s := &SASL{Mechanism: "oauthbearer", TokenFile: file, Extensions: map[string]string{"logicalCluster": "lkc-1"}}
	m, err := s.client()
	if err != nil {
		t.Fatal(err)
	}
	for _, token := range []string{"first", "second"} {
		if err := os.WriteFile(file, []byte("\n "+token+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, said, err := m.Authenticate(t.Context(), b.Addr); err != nil || string(said) != "n,,\x01auth=Bearer "+token+"\x01logicalCluster=lkc-1\x01\x01" {
			t.Errorf("said %q, %v", said, err)
		}
	}
	if err := reach(t, b, s); err != nil || !strings.Contains(c.heard()[0], "auth=Bearer second\x01") {
		t.Errorf("the broker heard %q, %v", c.heard(), err)
	}
	for want, text := range map[string]string{"is empty": " \n", "": ""} {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, _, err := m.Authenticate(t.Context(), b.Addr); err == nil || !strings.Contains(err.Error(), "sasl.token_file: ") || !strings.Contains(err.Error(), want) {
			t.Errorf("file %q: %v", text, err)
		}
	}
}

// provider is an identity provider that answers what it is told.
type provider struct {
	mu     sync.Mutex
	status int
	body   string
	forms  []string
	users  []string
}

func (p *provider) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	p.mu.Lock()
	defer p.mu.Unlock()
	id, secret, _ := r.BasicAuth()
	p.users = append(p.users, id+":"+secret)
	_ = r.ParseForm()
	p.forms = append(p.forms, r.PostForm.Encode())
	w.WriteHeader(p.status)
	fmt.Fprint(w, p.body)
}

func newProvider(t *testing.T) (p *provider, url, ca string) {
	t.Helper()
	a, err := authority.New(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	cert, key, _, err := a.Issue("provider")
	if err != nil {
		t.Fatal(err)
	}
	p = &provider{status: http.StatusOK}
	server := httptest.NewUnstartedServer(p)
	if server.TLS, err = (&trust.TLS{Cert: cert, Key: key}).Load(); err != nil {
		t.Fatal(err)
	}
	server.StartTLS()
	t.Cleanup(server.Close)
	return p, server.URL + "/token", a.CA
}

func TestTokenIsUsedForMostOfItsLife(t *testing.T) {
	t.Parallel()
	p, url, ca := newProvider(t)
	config, err := (&trust.TLS{CA: ca}).Load()
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	g := &grant{
		sasl: &SASL{TokenURL: url, ClientID: "id:1", ClientSecret: "s&c", Scope: "a b"},
		http: &http.Client{Transport: &http.Transport{TLSClientConfig: config, DisableKeepAlives: true}}, now: func() time.Time { return now },
	}
	for n, c := range []struct {
		after time.Duration
		body  string
		want  string
		asked int
	}{
		{0, `{"access_token":"one","expires_in":100}`, "one", 1},
		{79 * time.Second, `{"access_token":"two","expires_in":100}`, "one", 1},
		{2 * time.Second, `{"access_token":"two"}`, "two", 2},
		{0, `{"access_token":"three","expires_in":100}`, "three", 3}, // two did not say how long it lives
	} {
		now = now.Add(c.after)
		p.body = c.body
		if got, err := g.token(t.Context()); got != c.want || err != nil || len(p.forms) != c.asked {
			t.Errorf("step %d: token %q, %v, after %d requests; want %q after %d", n, got, err, len(p.forms), c.want, c.asked)
		}
	}
	if p.forms[0] != "grant_type=client_credentials&scope=a+b" || p.users[0] != "id%3A1:s%26c" {
		t.Errorf("form %q of %q", p.forms[0], p.users[0])
	}
}

func TestTokenEndpointThatRefusesIsNamed(t *testing.T) {
	t.Parallel()
	p, url, ca := newProvider(t)
	for _, c := range []struct {
		status int
		body   string
		ca     string
		want   string
	}{
		{http.StatusUnauthorized, `{"error":"invalid_client","error_description":"no such client"}`, ca, "401 Unauthorized invalid_client no such client"},
		{http.StatusBadGateway, `<html>`, ca, "502 Bad Gateway"},
		{http.StatusOK, `<html>`, ca, "the answer is no JSON"},
		{http.StatusOK, `{}`, ca, "no access_token"},
		{http.StatusOK, `{"access_token":"a"}`, "", "unknown authority"},
	} {
		p.status, p.body = c.status, c.body
		m, err := (&SASL{Mechanism: "oauthbearer", TokenURL: url, TokenTLS: &trust.TLS{CA: c.ca}, ClientID: "i", ClientSecret: "secret"}).client()
		if err != nil {
			t.Fatal(err)
		}
		_, _, err = m.Authenticate(t.Context(), "127.0.0.1:1")
		if err == nil || !strings.Contains(err.Error(), "sasl.token_url: ") || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "secret") {
			t.Errorf("%v; want %q", err, c.want)
		}
	}
}
