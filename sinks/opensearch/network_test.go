//go:build real

package opensearch

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/millrace-io/millrace/sinks/sinktest"
	"github.com/millrace-io/millrace/stream"
	"github.com/millrace-io/millrace/testenv/network"
	standin "github.com/millrace-io/millrace/testenv/opensearch"
)

func TestRealOpenSearchLosesNothingOnABadNetwork(t *testing.T) {
	node := start(t, standin.NodeOptions{})
	proxy := network.New(t, strings.TrimPrefix(node.URL, "http://"))
	for name, shape := range shapes() {
		t.Run(name, func(t *testing.T) {
			over := func(url, prefix string) sinktest.UpsertBackend {
				cfg := shape.cfg
				cfg.Index, cfg.Timeout = prefix+name+cfg.Index, 2*time.Second
				cfg.Index = strings.ToLower(cfg.Index)
				if cfg.Alias != "" {
					cfg.Alias = prefix + cfg.Alias
				}
				direct := cfg
				direct.URL, cfg.URL = node.URL, url
				b := backend(t, direct, shape.short, shape.shape, nil)
				b.New = func(t *testing.T, o stream.Ordering) stream.Upsert {
					return open(t, cfg, Options{Schema: b.Schema, Ordering: o, Short: shape.short})
				}
				return b
			}
			sinktest.RunNetwork(t, sinktest.NetworkBackend{
				UpsertBackend: over(fmt.Sprint("http://", proxy.Addr), "faulty-"), Calm: over(node.URL, "calm-"), Network: proxy,
			})
		})
	}
}
