//go:build real

package kafka

import (
	"fmt"
	"testing"

	"github.com/twmb/franz-go/pkg/kadm"

	"github.com/millrace-io/millrace/sinks/sinktest"
	"github.com/millrace-io/millrace/testenv/kafka"
)

func TestRealKafkaKeepsTheRulesOfAnUpsertSink(t *testing.T) {
	b, err := kafka.Start(t.Context(), kafka.Options{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Stop()
	admin := connect(t, b.Plain)
	defer admin.Close()
	topics := 0
	sinktest.RunUpsert(t, func(t *testing.T) sinktest.UpsertBackend {
		topics++
		topic := fmt.Sprintf("out-%d", topics)
		forever := "-1" // the events are of 2010: the broker would remove them at its first look
		if _, err := kadm.NewClient(admin).CreateTopic(t.Context(), 3, 1, map[string]*string{"retention.ms": &forever}, topic); err != nil {
			t.Fatal(err)
		}
		return backend(t, b.Plain, topic)
	})
}

func TestRealKafkaMessagesInTransactions(t *testing.T) {
	b, err := kafka.Start(t.Context(), kafka.Options{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Stop)
	inTransactions(t, b.Plain)
}
