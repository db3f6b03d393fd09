//go:build real

package dynamodb

import (
	"fmt"
	"net/http"
	"os"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/millrace-io/millrace/sinks/sinktest"
	server "github.com/millrace-io/millrace/testenv/dynamodb"
)

// against runs the suite on another's server, a table for each rule.
func against(t *testing.T, address string) {
	tables := new(atomic.Int64)
	for name, s := range shapes() {
		t.Run(name, func(t *testing.T) {
			sinktest.RunUpsert(t, func(t *testing.T) sinktest.UpsertBackend {
				p := sinktest.NewProxy(t, address)
				p.Writes = func(r *http.Request) bool {
					operation := r.Header.Get("X-Amz-Target")
					return strings.HasSuffix(operation, ".PutItem") || strings.HasSuffix(operation, ".BatchWriteItem")
				}
				p.Busy = func(w http.ResponseWriter, _ *http.Request, _ bool, _ http.Handler) {
					w.WriteHeader(http.StatusBadRequest)
					fmt.Fprint(w, `{"__type":"com.amazonaws.dynamodb.v20120810#ProvisionedThroughputExceededException","message":"too busy"}`)
				}
				environment(t, map[string]string{
					"AWS_ENDPOINT_URL_DYNAMODB": p.URL, "AWS_REGION": "us-east-1", "AWS_ACCESS_KEY_ID": "local", "AWS_SECRET_ACCESS_KEY": "localsecret",
				})
				return backend(t, fmt.Sprintf("profiles-%d", tables.Add(1)), s.key, s.shape, p.Set)
			})
		})
	}
}

func TestRealDynaliteKeepsTheRulesOfAnUpsertSink(t *testing.T) {
	s, err := server.Dynalite()
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	against(t, s.URL())
}

func moto(t *testing.T) string {
	m, err := server.StartMoto(t.Context(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(m.Close)
	return m.URL()
}

func TestRealMotoKeepsTheRulesOfAnUpsertSink(t *testing.T) { against(t, moto(t)) }

func TestRealMotoKnowsTheTimeToLive(t *testing.T) {
	environment(t, map[string]string{
		"AWS_ENDPOINT_URL_DYNAMODB": moto(t), "AWS_REGION": "us-east-1", "AWS_ACCESS_KEY_ID": "local", "AWS_SECRET_ACCESS_KEY": "localsecret",
	})
	timeToLive(t)
}

// TestRealDynamoDBLocalKeepsTheRulesOfAnUpsertSink runs only where somebody who has accepted Amazon's licence started DynamoDB Local
// and set MILLRACE_DYNAMODB_LOCAL to its URL; it is never fetched or started here.
func TestRealDynamoDBLocalKeepsTheRulesOfAnUpsertSink(t *testing.T) {
	if address := os.Getenv("MILLRACE_DYNAMODB_LOCAL"); address != "" {
		against(t, address)
	}
}
