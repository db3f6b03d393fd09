// Package trust is the tls entry of a source: whom to trust, and who we are.
package trust

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
)

// TLS of connections. All files are PEM. The zero value trusts what the system trusts.
type TLS struct {
	CA       string `yaml:"ca"`       // certificates that sign the servers'; default: the system's
	Cert     string `yaml:"cert"`     // our certificate; default: none
	Key      string `yaml:"key"`      // its key; wanted with Cert
	Insecure bool   `yaml:"insecure"` // believe any server; for tests only
}

// Validate returns all problems. A nil TLS has none.
func (t *TLS) Validate() error {
	if t == nil {
		return nil
	}
	var problems []error
	if (t.Cert == "") != (t.Key == "") {
		problems = append(problems, errors.New("tls.cert and tls.key: one is empty; want both or none"))
	}
	if t.Insecure && t.CA != "" {
		problems = append(problems, errors.New("tls.insecure is true beside tls.ca; want one of them"))
	}
	return errors.Join(problems...)
}

// Load reads the files.
func (t *TLS) Load() (*tls.Config, error) {
	c := &tls.Config{MinVersion: tls.VersionTLS12, InsecureSkipVerify: t.Insecure}
	if t.CA != "" {
		pem, err := os.ReadFile(t.CA)
		if err != nil {
			return nil, fmt.Errorf("tls.ca: %w", err)
		}
		c.RootCAs = x509.NewCertPool()
		if !c.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("tls.ca: %s has no PEM certificate", t.CA)
		}
	}
	if t.Cert != "" {
		pair, err := tls.LoadX509KeyPair(t.Cert, t.Key)
		if err != nil {
			return nil, fmt.Errorf("tls.cert: %w", err)
		}
		c.Certificates = []tls.Certificate{pair}
	}
	return c, nil
}
