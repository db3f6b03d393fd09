package parquet_test

import (
	"testing"
	"time"

	"github.com/millrace-io/millrace/sinks/objects"
	"github.com/millrace-io/millrace/sinks/sinktest"
	"github.com/millrace-io/millrace/stream"
)

func TestALakeLosesNothingOnABadNetwork(t *testing.T) {
	srv := server(t)
	far := sinktest.NewFar(t, srv.URL())
	b := backend(t, "s3://lake/far")
	for k, v := range srv.Env("http://" + far.Addr) {
		t.Setenv(k, v)
	}
	sinktest.RunStagedNetwork(t, sinktest.StagedNetworkBackend[*stream.Event]{
		Backend: b, Far: far,
		Open: func(t *testing.T) objects.Store {
			s, err := objects.Open(t.Context(), "s3://lake/far", objects.Options{PartTimeout: time.Second})
			if err != nil {
				t.Fatal(err)
			}
			return s
		},
	})
}
