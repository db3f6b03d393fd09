//go:build real

package deadletter_test

import (
	"testing"

	"github.com/millrace-io/millrace/sinks/sinktest"
)

func TestRealBucketLosesNoDeadLettersOnABadNetwork(t *testing.T) {
	srv := server(t)
	far := sinktest.NewFar(t, srv.URL())
	b := backend(t, "s3://lake/far")
	for k, v := range srv.Env("http://" + far.Addr) {
		t.Setenv(k, v)
	}
	sinktest.RunStagedNetwork(t, b, far)
}
