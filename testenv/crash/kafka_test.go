//go:build real

package crash

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/millrace-io/millrace/testenv/clicks"
	"github.com/millrace-io/millrace/testenv/kafka"
)

const kafkaPipeline = `name: crash
source:
  kafka: { brokers: ["%[1]s"], topics: [clicks], %[2]s, rebalance_timeout: 5s }
decode: { format: json }
sinks:
  lake:
    parquet: { url: "%[3]s/lake", partition_by: [date, hour], roll: { size: 256KiB, age: 300ms, idle: 100ms } }
  onward:
    kafka: { brokers: ["%[1]s"], topic: onward, value: record, transactions: true }
dead_letters: { url: "%[3]s/dead" }
admin: "${ADMIN}"
`

// TestRealCrashKafka has processes come and leave, and kills the broker in the middle; of three brokers each in turn. Plain and transactional producers write all the time; some
// transactions are aborted. The events go on to another topic, in the transactions of the pipeline's own commits: its readers find each
// once, without a look at headers.
func TestRealCrashKafka(t *testing.T) {
	bin := program(t, "cmd/millrace")
	classic, consumer := "protocol: classic, session_timeout: 3s", "protocol: consumer"
	t.Run("classic", func(t *testing.T) { crashKafka(t, bin, 1, classic) })
	t.Run("consumer", func(t *testing.T) { crashKafka(t, bin, 1, consumer) })
	t.Run("three brokers", func(t *testing.T) { crashKafka(t, bin, 3, classic, consumer) })
}

// crashKafka takes one of protocols, by the seed.
func crashKafka(t *testing.T, bin string, brokers int, protocols ...string) {
	dir := t.TempDir()
	random := seed(t)
	keys := protocols[random.IntN(len(protocols))]
	cluster := startKafka(t, filepath.Join(dir, "brokers"), brokers)
	file := filepath.Join(dir, "pipeline.yaml")
	if err := os.WriteFile(file, fmt.Appendf(nil, kafkaPipeline, strings.Join(cluster.seeds, `", "`), keys, dir), 0o666); err != nil {
		t.Fatal(err)
	}
	producing, done := context.WithCancel(t.Context())
	defer done()
	var feeding sync.WaitGroup
	plain, transactional := filepath.Join(dir, "plain.jsonl"), filepath.Join(dir, "transactional.jsonl")
	feeding.Go(func() { produce(t, producing, plain, cluster.seeds...) })
	forTransactions, forProcesses := fork(random), fork(random)
	feeding.Go(func() { transact(t, producing, transactional, forTransactions, cluster.seeds...) })

	c, stopped := begin(millrace{t: t, bin: bin, file: file}, forProcesses)
	for _, i := range random.Perm(brokers) {
		c.leave(events / (brokers + 1))
		if brokers > 1 {
			cluster.crash(i)
		} else {
			c.outage(func() { cluster.crash(i) })
		}
	}
	stopped()
	done()
	feeding.Wait()

	c.prove(settled, dir, plain, transactional)
	onward := filepath.Join(dir, "onward.jsonl")
	read(t, "onward", onward, cluster.seeds...)
	compare(t, "log", onward, filepath.Join(dir, "dead"), []string{plain, transactional})
}

// read writes the values of a topic's committed messages to a file, a line each.
func read(t *testing.T, topic, file string, seeds ...string) {
	t.Helper()
	client, err := kgo.NewClient(kgo.SeedBrokers(seeds...), kgo.ConsumeTopics(topic), kgo.FetchIsolationLevel(kgo.ReadCommitted()), kgo.KeepControlRecords())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	ends, err := kadm.NewClient(client).ListEndOffsets(t.Context(), topic)
	if err != nil || ends.Error() != nil {
		t.Fatal(err, ends.Error())
	}
	left := map[int32]int64{}
	ends.Each(func(o kadm.ListedOffset) {
		if o.Offset > 0 {
			left[o.Partition] = o.Offset
		}
	})
	var lines bytes.Buffer
	limited, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for len(left) > 0 {
		fetches := client.PollFetches(limited)
		if err := fetches.Err(); err != nil {
			t.Fatalf("%v; the ends %v are not reached", err, left)
		}
		fetches.EachRecord(func(r *kgo.Record) {
			if !r.Attrs.IsControl() {
				fmt.Fprintf(&lines, "%s\n", r.Value)
			}
			if r.Offset+1 >= left[r.Partition] {
				delete(left, r.Partition)
			}
		})
	}
	if err := os.WriteFile(file, lines.Bytes(), 0o666); err != nil {
		t.Fatal(err)
	}
}

// cluster is an Apache Kafka.
type cluster struct {
	t       *testing.T
	brokers []*kafka.Broker
	seeds   []string // host:port of each
	admin   *kadm.Client
}

func startKafka(t *testing.T, dir string, brokers int) *cluster {
	t.Helper()
	if err := os.Mkdir(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	all, err := kafka.StartCluster(t.Context(), kafka.Options{Dir: dir}, brokers)
	if err != nil {
		t.Fatal(err)
	}
	c := &cluster{t: t, brokers: all}
	t.Cleanup(func() {
		for _, b := range all {
			b.Kill() // one that is the last waits for the others when it is to stop
		}
	})
	for _, b := range all {
		c.seeds = append(c.seeds, b.Plain)
	}
	client, err := kgo.NewClient(kgo.SeedBrokers(c.seeds...))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	c.admin = kadm.NewClient(client)
	for _, topic := range []string{"clicks", "onward"} {
		if _, err := c.admin.CreateTopic(t.Context(), 4, int16(brokers), nil, topic); err != nil {
			t.Fatal(err)
		}
	}
	return c
}

// crash kills a broker and starts it again, until it has all that the others have.
func (c *cluster) crash(i int) {
	c.t.Helper()
	b := c.brokers[i]
	b.Kill()
	if err := b.Restart(c.t.Context()); err != nil {
		c.t.Error(err)
	}
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(2 * time.Minute); !c.whole(); <-tick.C {
		if time.Now().After(end) {
			c.t.Error("not all copies are in sync, 2 minutes after the kill")
			return
		}
	}
}

// whole says that all copies are in sync.
func (c *cluster) whole() bool {
	topics, err := c.admin.ListTopicsWithInternal(kadm.WithAuthorizedOps(c.t.Context())) // or the client would answer from memory
	if err != nil || topics.Error() != nil {
		return false
	}
	for _, topic := range topics {
		for _, p := range topic.Partitions {
			if len(p.ISR) < len(c.brokers) {
				return false
			}
		}
	}
	return true
}

// patient waits for a broker that is started again: the client does not dial twice to end a transaction.
func patient(ctx context.Context, network, host string) (net.Conn, error) {
	limited, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	for {
		conn, err := new(net.Dialer).DialContext(limited, network, host)
		if err == nil || limited.Err() != nil {
			return conn, err
		}
		select {
		case <-time.After(100 * time.Millisecond):
		case <-limited.Done():
		}
	}
}

// transact sends events in transactions until ctx ends, aborts one in four, and writes what was committed to a file.
func transact(t *testing.T, ctx context.Context, file string, random *rand.Rand, seeds ...string) {
	client, err := kgo.NewClient(
		kgo.SeedBrokers(seeds...), kgo.DefaultProduceTopic("clicks"), kgo.TransactionalID("crash"), kgo.TransactionTimeout(10*time.Minute),
		kgo.RequestRetries(1000), kgo.RetryTimeout(5*time.Minute), kgo.Dialer(patient), // the broker is killed
	)
	if err != nil {
		t.Error(err)
		return
	}
	defer client.Close()
	out, err := os.Create(file)
	if err != nil {
		t.Error(err)
		return
	}
	defer out.Close()
	lines := bufio.NewWriter(out)
	g := clicks.New(clicks.Config{Seed: 2, Step: time.Second, Broken: 2000})
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for n := uint64(0); ctx.Err() == nil; {
		var batch []*kgo.Record
		for range 1 + random.IntN(40) {
			batch = append(batch, &kgo.Record{Key: g.Key(nil, n), Value: g.Append(nil, n)})
			n++
		}
		commit := random.IntN(4) > 0
		// Without the test's context: every transaction has an end.
		if err := transaction(context.WithoutCancel(ctx), client, batch, kgo.TransactionEndTry(commit)); err != nil {
			t.Error(err)
			return
		}
		for _, r := range batch {
			if commit {
				fmt.Fprintf(lines, "%s\n", r.Value)
			}
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
		}
	}
	if err := lines.Flush(); err != nil {
		t.Error(err)
	}
}

func transaction(ctx context.Context, client *kgo.Client, batch []*kgo.Record, end kgo.TransactionEndTry) error {
	if err := client.BeginTransaction(); err != nil {
		return fmt.Errorf("begin: %w", err)
	}
	if err := client.ProduceSync(ctx, batch...).FirstErr(); err != nil {
		return fmt.Errorf("produce in a transaction: %w", err)
	}
	if err := client.EndTransaction(ctx, end); err != nil {
		return fmt.Errorf("end a transaction: %w", err)
	}
	return nil
}
