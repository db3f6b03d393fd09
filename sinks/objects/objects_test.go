package objects_test

import (
	"fmt"
	"path/filepath"
	"sync/atomic"
	"testing"

	"go.uber.org/goleak"

	"github.com/millrace-io/millrace/sinks/objects"
	"github.com/millrace-io/millrace/sinks/sinktest"
	"github.com/millrace-io/millrace/testenv/s3"
)

func TestMain(m *testing.M) {
	var ignored []goleak.Option
	for _, name := range s3.Leftovers() {
		ignored = append(ignored, goleak.IgnoreAnyFunction(name))
	}
	goleak.VerifyTestMain(m, ignored...)
}

// open returns the store at a location.
func open(t *testing.T, location string) objects.Store {
	t.Helper()
	s, err := objects.Open(t.Context(), location, objects.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestFolderKeepsTheRulesOfAStore(t *testing.T) {
	sinktest.RunStore(t, func(t *testing.T) sinktest.Place {
		dir := filepath.Join(t.TempDir(), "not", "there yet")
		return sinktest.Place{Open: func(t *testing.T) objects.Store { return open(t, dir) }}
	})
}

// server starts an S3 server and points the AWS SDK to it.
func server(t *testing.T) *s3.Server {
	t.Helper()
	srv, err := s3.Start(t.Context(), t.TempDir(), s3.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := srv.Close(); err != nil {
			t.Error(err)
		}
	})
	setenv(t, srv.Env(srv.URL()))
	return srv
}

func setenv(t *testing.T, env map[string]string) {
	for k, v := range env {
		t.Setenv(k, v)
	}
}

func TestBucketKeepsTheRulesOfAStore(t *testing.T) {
	server(t)
	n := new(atomic.Int64)
	sinktest.RunStore(t, func(t *testing.T) sinktest.Place {
		url := fmt.Sprintf("s3://lake/place %d/x", n.Add(1))
		return sinktest.Place{Open: func(t *testing.T) objects.Store { return open(t, url) }, Metadata: true}
	})
}
