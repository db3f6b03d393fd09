package parquet_test

import (
	"testing"

	"github.com/millrace-io/millrace/sinks/sinktest"
	"github.com/millrace-io/millrace/testenv/network"
)

func TestALakeLosesNothingOnABadNetwork(t *testing.T) { losesNothing(t, sinktest.Quick()...) }

func losesNothing(t *testing.T, faults ...network.Fault) {
	t.Helper()
	srv := server(t)
	far := sinktest.NewFar(t, srv.URL())
	b := backend(t, "s3://lake/far")
	for k, v := range srv.Env("http://" + far.Addr) {
		t.Setenv(k, v)
	}
	sinktest.RunStagedNetwork(t, b, far, faults...)
}
