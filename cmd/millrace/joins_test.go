package main

import (
	"os"
	"testing"
	"time"

	"github.com/millrace-io/millrace/cmd/millrace/pipelinefile"
)

// Mutations seen red (line broken -> test): commitAge: no second of its own; a sink's age does not count -> CommitsThatShowMessagesAreFrequent

func TestCommitsThatShowMessagesAreFrequent(t *testing.T) {
	const source = "name: clicks\nsource: { kafka: { brokers: [\"k:9092\"], topics: [clicks] } }\ndecode: { format: json }\ndead_letters: { url: /dead }\nsinks:\n"
	for _, c := range []struct {
		sinks string
		want  time.Duration
	}{
		{`  a: { kafka: { brokers: ["k:9092"], topic: a } }`, time.Minute},
		{`  a: { kafka: { brokers: ["k:9092"], topic: a, transactions: true } }`, time.Second},
		{`  a: { kafka: { brokers: ["k:9092"], topic: a, transactions: true, commit_age: 200ms } }`, 200 * time.Millisecond},
		{"  lake: { parquet: { url: /lake, roll: { age: 30s } } }\n" + `  a: { kafka: { brokers: ["k:9092"], topic: a, transactions: true } }`, 30 * time.Second},
		{"  lake: { parquet: { url: /lake, roll: { age: 30s } } }\n" + `  a: { kafka: { brokers: ["k:9092"], topic: a, transactions: true, commit_age: 5s } }`, 5 * time.Second},
	} {
		file := pipelinefile.Parse("clicks.yaml", []byte(source+c.sinks+"\n"), os.LookupEnv)
		p := newPlan(file)
		if got := p.commitAge(); got != c.want || len(file.Problems()) > 0 {
			t.Errorf("%s: commits after %s, %v; want %s", c.sinks, got, file.Problems(), c.want)
		}
	}
}
