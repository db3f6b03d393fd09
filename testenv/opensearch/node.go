package opensearch

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/millrace-io/millrace/testenv/authority"
	"github.com/millrace-io/millrace/testenv/child"
)

// User and Password are known to a node with security; so is ReadOnlyUser, who may read everything and write nothing.
const (
	User, Password                 = "admin", "admin"
	ReadOnlyUser, ReadOnlyPassword = "readall", "readall"
)

// patience bounds the start of a node on a machine that is busy with other things.
const patience = 4 * time.Minute

// NodeOptions of a real node. Dir is wanted.
type NodeOptions struct {
	Dir      string   // keeps everything of the node, and outlives it
	Security bool     // TLS, users and roles: the security plugin, which OpenSearch for JDK 17 has not
	Settings []string // added to the node's own, name=value
}

// Node is a real OpenSearch, a process of its own.
type Node struct {
	URL string
	CA  string // PEM file of who signed its certificate; empty without security

	process *child.Process
	args    []string
	dir     string
	java    string
	client  *http.Client
}

// Start starts a node and returns when it answers. Stop or Kill ends it.
func Start(ctx context.Context, o NodeOptions) (*Node, error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return nil, fmt.Errorf("no folder for the jars of OpenSearch: %w", err)
	}
	prepared := filepath.Join(cache, "millrace", "opensearch")
	home, err := os.ReadFile(filepath.Join(prepared, "java"))
	if err != nil {
		return nil, fmt.Errorf("OpenSearch is not in %s; run testenv/install.sh: %w", prepared, err)
	}
	ports, err := child.Ports(1)
	if err != nil {
		return nil, err
	}
	n := &Node{dir: o.Dir, java: filepath.Join(strings.TrimSpace(string(home)), "bin", "java"), client: new(http.Client)}
	n.URL = fmt.Sprintf("http://127.0.0.1:%d", ports[0])
	jars := filepath.Join(prepared, "classes") + ":" + filepath.Join(prepared, "jars", "*")
	settings := append([]string{fmt.Sprintf("http.port=%d", ports[0])}, o.Settings...)
	if o.Security {
		plugin := filepath.Join(prepared, "security")
		if settings, err = n.secure(plugin, settings); err != nil {
			return nil, err
		}
		jars += ":" + filepath.Join(plugin, "*")
	}
	n.args = append([]string{
		"-Xms512m", "-Xmx512m", "-XX:TieredStopAtLevel=1", "--enable-native-access=ALL-UNNAMED", "-Dlog4j2.level=WARN", "-cp", jars, "Start", o.Dir,
	}, settings...)
	return n, n.Restart(ctx)
}

// secure makes the certificates and copies the plugin's first users and roles.
func (n *Node) secure(plugin string, settings []string) ([]string, error) {
	if _, err := os.Stat(plugin); err != nil {
		return nil, fmt.Errorf("the security plugin is not there: it wants a JDK of 21 or later: %w", err)
	}
	config := filepath.Join(n.dir, "config")
	if err := os.MkdirAll(config, 0o777); err != nil {
		return nil, err
	}
	if err := os.CopyFS(filepath.Join(config, "opensearch-security"), os.DirFS(filepath.Join(plugin, "config"))); err != nil {
		return nil, err
	}
	a, err := authority.New(config)
	if err != nil {
		return nil, err
	}
	if _, _, _, err := a.Issue("node-1"); err != nil {
		return nil, err
	}
	n.CA, n.URL = a.CA, strings.Replace(n.URL, "http:", "https:", 1)
	pem, err := os.ReadFile(a.CA)
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(pem)
	n.client = &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}, DisableKeepAlives: true}}
	for _, layer := range []string{"transport", "http"} {
		ssl := "plugins.security.ssl." + layer
		settings = append(settings, ssl+".pemcert_filepath=node-1.pem", ssl+".pemkey_filepath=node-1.key", ssl+".pemtrustedcas_filepath=ca.pem")
	}
	return append(settings,
		"plugin=org.opensearch.security.OpenSearchSecurityPlugin", "plugins.security.ssl.http.enabled=true", "plugins.security.nodes_dn=CN=node-1",
		"plugins.security.allow_default_init_securityindex=true", "plugins.security.audit.type=noop", "plugins.security.restapi.roles_enabled=all_access"), nil
}

// Restart starts a node that was stopped or killed, with the same data and address, and returns when it answers.
func (n *Node) Restart(ctx context.Context) error {
	p, err := child.Start(exec.CommandContext(context.WithoutCancel(ctx), n.java, n.args...), filepath.Join(n.dir, "log"))
	if err != nil {
		return err
	}
	n.process = p
	limited, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if err := p.Ready(limited, n.answers); err != nil {
		p.Kill()
		return err
	}
	return nil
}

// answers asks for the cluster's health.
func (n *Node) answers(ctx context.Context) error {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, n.URL+"/_cluster/health?wait_for_status=yellow&timeout=1s", nil)
	if err != nil {
		return err
	}
	r.SetBasicAuth(User, Password)
	answer, err := n.client.Do(r)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	defer n.client.CloseIdleConnections()
	if text, _ := io.ReadAll(answer.Body); answer.StatusCode != http.StatusOK {
		return errors.New(string(text))
	}
	return nil
}

// Stop ends the node as an operator does.
func (n *Node) Stop() { n.process.Stop() }

// Kill ends the node with KILL. What it acknowledged is on its disk.
func (n *Node) Kill() { n.process.Kill() }
