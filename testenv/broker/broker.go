// Package broker is a Kafka broker for tests, demonstrations and the benchmark: franz-go's kfake, in this process or, through
// testenv/cmd/broker, in one of its own.
//
// It keeps groups, sessions, static members, transactions, retention, SASL and TLS as Apache Kafka does, and with Dir its
// state outlives the process. It is one machine: no replication, so no unclean election.
//
// Where kfake leaves out a session time-out of Kafka's, sessions.go adds it. One thing stays different: a member whose
// JoinGroup waits longer than its session is expelled without an answer. So tests in which members are killed set a
// rebalance time-out below the session time-out.
package broker

import (
	"fmt"
	"io"
	"net"
	"strconv"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
)

// Options of a broker. The zero value is an empty broker in memory on a free port.
type Options struct {
	Addr       string        // host:port to listen on; default 127.0.0.1:0
	Topics     []string      // created if they are not there; default none
	Partitions int           // of each topic; default 4
	Dir        string        // where the state is kept; default: nowhere
	MinSession time.Duration // shortest session time-out of a group member; default 1 s
	Extra      []kfake.Opt   // faults, users, TLS
}

// Broker is a running broker. Its faults are kfake's: Fault, ControlKey, CreateTopic, DeleteRecords, GroupInfo.
type Broker struct {
	*kfake.Cluster
	Addr string // host:port

	sessions *sessions
}

// Start starts a broker. Close stops it.
func Start(o Options) (*Broker, error) {
	if o.Partitions == 0 {
		o.Partitions = 4
	}
	if o.MinSession == 0 {
		o.MinSession = time.Second
	}
	if o.Addr == "" {
		o.Addr = "127.0.0.1:0"
	}
	_, text, err := net.SplitHostPort(o.Addr)
	if err != nil {
		return nil, fmt.Errorf("broker address %q: %w", o.Addr, err)
	}
	port, err := strconv.Atoi(text)
	if err != nil {
		return nil, fmt.Errorf("broker address %q: %w", o.Addr, err)
	}
	opts := []kfake.Opt{
		kfake.Ports(port), kfake.GroupMinSessionTimeout(o.MinSession), kfake.DefaultNumPartitions(o.Partitions),
		kfake.BrokerConfigs(map[string]string{
			"message.max.bytes":                    strconv.Itoa(4 << 20),
			"group.consumer.session.timeout.ms":    "3000", // of the protocol of KIP-848; as short as a loaded machine keeps
			"group.consumer.heartbeat.interval.ms": "250",
		}),
		kfake.ListenFn(func(network, _ string) (net.Listener, error) { return net.Listen(network, o.Addr) }),
	}
	if o.Dir != "" {
		opts = append(opts, kfake.DataDir(o.Dir))
	}
	if len(o.Topics) > 0 {
		opts = append(opts, kfake.SeedTopics(int32(o.Partitions), o.Topics...))
	}
	c, err := kfake.NewCluster(append(opts, o.Extra...)...)
	if err != nil {
		return nil, fmt.Errorf("start broker on %s: %w", o.Addr, err)
	}
	b := &Broker{Cluster: c, Addr: c.ListenAddrs()[0]}
	if b.sessions, err = watchSessions(c, b.Addr); err != nil {
		c.Close()
		return nil, fmt.Errorf("start broker on %s: %w", o.Addr, err)
	}
	return b, nil
}

// Close stops the broker and waits until it has.
func (b *Broker) Close() {
	b.sessions.close()
	b.Cluster.Close()
}

// Announce writes the line that a parent process waits for.
func (b *Broker) Announce(w io.Writer) error {
	_, err := fmt.Fprintln(w, "ready", b.Addr)
	return err
}
