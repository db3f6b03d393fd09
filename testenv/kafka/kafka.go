// Package kafka starts an Apache Kafka for the tests of the real tier: processes that are brokers and controllers, on
// 127.0.0.1 and free ports. testenv/install.sh prepares what it needs.
//
// It listens in plain, with TLS, and with TLS and SASL: SCRAM-SHA-512, and OAUTHBEARER with tokens that nobody signed. Its
// time-outs are the shortest that a loaded machine keeps, so that groups and the broker itself recover quickly from a kill.
package kafka

import (
	"context"
	_ "embed"
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/millrace-io/millrace/testenv/authority"
	"github.com/millrace-io/millrace/testenv/child"
)

// User and Password are known to the SCRAM listener.
const User, Password = "millrace", "right"

// patience bounds the start of a broker on a machine that is busy with other things.
const patience = 3 * time.Minute

//go:embed pom.xml
var wanted []byte

//go:embed log4j2.properties
var logging []byte

// Options of brokers. Dir is wanted.
type Options struct {
	// Dir keeps everything of the brokers. It outlives the processes, however they end.
	Dir string

	// Settings are added to the brokers' own, name=value, and win over them.
	Settings []string
}

// Broker is a running broker.
type Broker struct {
	Plain string // host:port without TLS
	TLS   string // host:port with TLS
	SASL  string // host:port with TLS, for users only
	CA    string // PEM file of who signed the broker's certificate
	Data  string // folder of the partitions

	dir     string
	process *child.Process
}

// Start formats o.Dir and returns a broker that answers. Stop or Kill ends it.
func Start(ctx context.Context, o Options) (*Broker, error) {
	all, err := StartCluster(ctx, o, 1)
	if err != nil {
		return nil, err
	}
	return all[0], nil
}

// StartCluster is Start for n brokers that are one cluster. Topics of the cluster itself have a copy on each, and go on without one of
// three.
func StartCluster(ctx context.Context, o Options, n int) ([]*Broker, error) {
	if err := prepared(); err != nil {
		return nil, err
	}
	ports, err := child.Ports(4 * n)
	if err != nil {
		return nil, err
	}
	a, err := authority.New(o.Dir)
	if err != nil {
		return nil, err
	}
	_, _, pair, err := a.Issue("broker")
	if err != nil {
		return nil, err
	}
	var all []*Broker
	var controllers, voters []string
	for i := range n {
		address := func(j int) string { return fmt.Sprintf("127.0.0.1:%d", ports[4*i+j]) }
		dir := filepath.Join(o.Dir, fmt.Sprint(i+1))
		all = append(all, &Broker{Plain: address(0), TLS: address(1), SASL: address(2), CA: a.CA, Data: filepath.Join(dir, "data"), dir: dir})
		controllers = append(controllers, address(3))
		voters = append(voters, fmt.Sprintf("%d@%s", i+1, address(3)))
	}
	for i, b := range all {
		if err := b.format(ctx, append(b.settings(i+1, controllers[i], voters, pair), o.Settings...)); err != nil {
			return nil, err
		}
	}
	if err := together(ctx, all); err != nil {
		for _, b := range all {
			if b.process != nil {
				b.Kill()
			}
		}
		return nil, err
	}
	return all, nil
}

// together starts brokers that need each other, and waits for them.
func together(ctx context.Context, all []*Broker) error {
	for _, b := range all {
		if err := b.launch(ctx); err != nil {
			return err
		}
	}
	for _, b := range all {
		if err := b.ready(ctx); err != nil {
			return err
		}
	}
	return nil
}

func (b *Broker) format(ctx context.Context, settings []string) error {
	if err := errors.Join(
		os.Mkdir(b.dir, 0o777),
		os.WriteFile(b.path("server.properties"), []byte(strings.Join(settings, "\n")+"\n"), 0o666),
		os.WriteFile(b.path("log4j2.properties"), logging, 0o666),
	); err != nil {
		return err
	}
	id := base64.RawURLEncoding.EncodeToString([]byte("millrace's tests"))
	format := b.java(ctx, "kafka.tools.StorageTool", "format", "-t", id, "-c", b.path("server.properties"), "--add-scram", fmt.Sprintf("SCRAM-SHA-512=[name=%s,password=%s]", User, Password))
	if text, err := format.CombinedOutput(); err != nil {
		return fmt.Errorf("format the broker's folder: %w\n%s", err, text)
	}
	return nil
}

// Restart starts a broker that was stopped or killed, with the same data and addresses, and returns when it answers.
func (b *Broker) Restart(ctx context.Context) error {
	if err := b.launch(ctx); err != nil {
		return err
	}
	return b.ready(ctx)
}

func (b *Broker) launch(ctx context.Context) (err error) {
	b.process, err = child.Start(b.java(context.WithoutCancel(ctx), "kafka.Kafka", b.path("server.properties")), b.path("log"))
	return err
}

func (b *Broker) ready(ctx context.Context) error {
	limited, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	err := b.process.Ready(limited, b.answers)
	if err != nil {
		b.Kill()
	}
	return err
}

// Stop ends the broker as an operator does.
func (b *Broker) Stop() { b.process.Stop() }

// Kill ends the broker with KILL.
func (b *Broker) Kill() { b.process.Kill() }

func (b *Broker) path(name string) string { return filepath.Join(b.dir, name) }

// answers asks for metadata.
func (b *Broker) answers(ctx context.Context) error {
	client, err := kgo.NewClient(kgo.SeedBrokers(b.Plain), kgo.DisableClientMetrics())
	if err != nil {
		return err
	}
	defer client.Close()
	return client.Ping(ctx)
}

// settings of the broker; the last line of a name wins.
func (b *Broker) settings(id int, controller string, voters []string, pair string) []string {
	copies, inSync := len(voters), (len(voters)+1)/2
	listeners := fmt.Sprintf("PLAINTEXT://%s,SSL://%s,SASL_SSL://%s", b.Plain, b.TLS, b.SASL)
	return []string{
		"process.roles=broker,controller",
		fmt.Sprintf("node.id=%d", id),
		"controller.quorum.voters=" + strings.Join(voters, ","),
		"controller.listener.names=CONTROLLER",
		"listeners=" + listeners + ",CONTROLLER://" + controller,
		"advertised.listeners=" + listeners,
		"listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,SSL:SSL,SASL_SSL:SASL_SSL",
		"inter.broker.listener.name=PLAINTEXT",
		"log.dirs=" + b.Data,

		"ssl.keystore.type=PEM",
		"ssl.keystore.location=" + pair,
		"sasl.enabled.mechanisms=SCRAM-SHA-512,OAUTHBEARER",
		"listener.name.sasl_ssl.scram-sha-512.sasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule required;",
		`listener.name.sasl_ssl.oauthbearer.sasl.jaas.config=org.apache.kafka.common.security.oauthbearer.OAuthBearerLoginModule required unsecuredLoginStringClaim_sub="broker";`,

		"auto.create.topics.enable=false",
		"message.max.bytes=4194304",
		fmt.Sprintf("default.replication.factor=%d", copies),
		fmt.Sprintf("min.insync.replicas=%d", inSync),
		fmt.Sprintf("offsets.topic.replication.factor=%d", copies),
		fmt.Sprintf("transaction.state.log.replication.factor=%d", copies),
		fmt.Sprintf("transaction.state.log.min.isr=%d", inSync),
		fmt.Sprintf("share.coordinator.state.topic.replication.factor=%d", copies),
		fmt.Sprintf("share.coordinator.state.topic.min.isr=%d", inSync),
		// 50 partitions each, and 128 MiB of heap, are for other uses.
		"offsets.topic.num.partitions=4",
		"transaction.state.log.num.partitions=4",
		"share.coordinator.state.topic.num.partitions=4",
		"log.cleaner.dedupe.buffer.size=8388608",

		// The controller fences a broker that was killed when its session is over; only then it comes back.
		"broker.session.timeout.ms=3000",
		"broker.heartbeat.interval.ms=500",
		"group.initial.rebalance.delay.ms=0",
		"group.min.session.timeout.ms=1000",
		"group.consumer.min.session.timeout.ms=1000",
		"group.consumer.session.timeout.ms=5000",
		"group.consumer.min.heartbeat.interval.ms=100",
		"group.consumer.heartbeat.interval.ms=250",
		"transaction.abort.timed.out.transaction.cleanup.interval.ms=500",
	}
}

// java runs a class of the server.
func (b *Broker) java(ctx context.Context, class string, args ...string) *exec.Cmd {
	jars, _ := jars() // prepared saw that there are some
	return exec.CommandContext(ctx, "java", slices.Concat([]string{
		"-Xms384m", "-Xmx384m", "-Dlog4j2.configurationFile=" + b.path("log4j2.properties"), "-cp", filepath.Join(jars, "*"), class,
	}, args)...)
}

// jars is the folder of the server's jars.
func jars() (string, error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("no folder for the jars of Kafka: %w", err)
	}
	return filepath.Join(cache, "millrace", "kafka"), nil
}

// prepared makes sure that testenv/install.sh has been run with this pom.xml.
func prepared() error {
	dir, err := jars()
	if err != nil {
		return err
	}
	found, err := os.ReadFile(filepath.Join(dir, "complete"))
	if err == nil && string(found) != string(wanted) {
		err = errors.New("they are of another pom.xml")
	}
	if err != nil {
		return fmt.Errorf("the jars of Kafka are not in %s; run testenv/install.sh: %w", dir, err)
	}
	if _, err := exec.LookPath("java"); err != nil {
		return fmt.Errorf("no Java to run Kafka with; run testenv/install.sh: %w", err)
	}
	return nil
}
