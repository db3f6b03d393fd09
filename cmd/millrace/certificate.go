package main

import (
	"crypto/tls"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"
)

// certificate is a pair of PEM files.
type certificate struct {
	Cert string `yaml:"cert"`
	Key  string `yaml:"key"`
}

// config is nil without a certificate. The files are read again when they change, for certificates are renewed while the
// process runs.
func (c *certificate) config(log *slog.Logger) (*tls.Config, error) {
	if c == nil {
		return nil, nil
	}
	k := &keyPair{files: c, log: log}
	if err := k.load(); err != nil {
		return nil, fmt.Errorf("tls: %w", err)
	}
	return &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: k.get}, nil
}

// keyPair is a certificate as it was read last.
type keyPair struct {
	files *certificate
	log   *slog.Logger

	mu   sync.Mutex
	seen time.Time // when the newer file was last written, at the last attempt to read both
	pair *tls.Certificate
}

// get is called for every handshake. Files that do not fit together, as in the middle of a renewal, leave the old pair.
func (k *keyPair) get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if err := k.load(); err != nil {
		k.log.Warn("the renewed certificate cannot be read; the old one stays", "error", err)
	}
	return k.pair, nil
}

// load reads the files if they have changed since it last tried.
func (k *keyPair) load() error {
	newest := time.Time{}
	for _, name := range []string{k.files.Cert, k.files.Key} {
		info, err := os.Stat(name)
		if err != nil {
			return err
		}
		if info.ModTime().After(newest) {
			newest = info.ModTime()
		}
	}
	if newest.Equal(k.seen) {
		return nil
	}
	k.seen = newest
	pair, err := tls.LoadX509KeyPair(k.files.Cert, k.files.Key)
	if err == nil {
		k.pair = &pair
	}
	return err
}
