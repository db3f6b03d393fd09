package kafka

import (
	"bytes"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/twmb/franz-go/pkg/kadm"

	"github.com/millrace-io/millrace/sources/trust"
	"github.com/millrace-io/millrace/stream"
)

func TestMarkSurvivesTheMetadata(t *testing.T) {
	for _, m := range []mark{
		{next: 1, clear: 1, committed: true, epoch: 1},
		{next: 0, clear: 2},
		{next: 7, clear: 9, epoch: 1<<64 - 1, topic: kadm.TopicID{1, 255}, known: 4},
		{next: 7, clear: 7, committed: true, note: []byte(`{"v":1;"x":"ü;"}`)},
		{next: 7, clear: 1<<63 - 1, committed: true, note: bytes.Repeat([]byte{0, 255}, stream.NoteLimit/2), epoch: 1<<64 - 1, known: 1<<31 - 1},
		{next: 7, clear: 7, committed: true, note: make([]byte, stream.NoteLimit)},
		{next: 7, clear: 9, shown: 10, committed: true},
		{next: 7, clear: 7, shown: 1<<63 - 1, committed: true},
		{next: 7, clear: 7, committed: true, note: []byte(strings.Repeat("€", stream.NoteLimit/3))},
	} {
		text, err := m.metadata()
		if err != nil {
			t.Fatal(err)
		}
		if !utf8.ValidString(text) {
			t.Errorf("%+v: brokers would change %q, which is not UTF-8", m, text)
		}
		got, err := parseMark(m.clear, text)
		if m.shown = max(m.shown, m.next); err != nil || got.shown != m.shown || got.known != m.known || got.next != m.next || got.clear != m.clear || got.committed != m.committed || got.epoch != m.epoch || got.topic != m.topic || !bytes.Equal(got.note, m.note) {
			t.Errorf("%.60q became %+.300v, %v", text, got, err)
		}
	}
}

func TestMetadataThatIsNotOursIsNoNote(t *testing.T) {
	for _, text := range []string{"", "consumer-1-6c0b", "mr;1;2;4;0;t;", "a;b;c;d;e;f;g"} {
		if m, err := parseMark(3, text); err != nil || !m.committed || m.note != nil {
			t.Errorf("%q: %+v, %v", text, m, err)
		}
	}
	id := strings.Repeat("00", 16)
	for _, text := range []string{
		"mr2;x;" + id + ";4;0;t;", "mr2;1;00;4;0;t;", "mr2;1;" + id + ";;0;t;", "mr2;1;" + id + ";4;0;?;", "mr2;1;" + id + ";4;0;b;vvvvv", "mr2;1;" + id + ";4;4;t;", "mr2;1;" + id + ";4;-1;t;", "mr2;1;" + id + ";4;0+0;t;", "mr2;1;" + id + ";4;0+;t;", "mr2;1;" + id + ";4;0+9223372036854775807;t;",
		"mr1;1;" + id + ";4;t;", "mr3;1;" + id + ";4;0;t;", "mr2;1;2;4",
	} {
		if _, err := parseMark(3, text); err == nil {
			t.Errorf("%q is accepted", text)
		}
	}
}

func FuzzParseMark(f *testing.F) {
	f.Add("mr2;1;00000000000000000000000000000000;4;2;t;note")
	f.Add("mr2;1;00000000000000000000000000000000;4;0;b;zz!!")
	f.Add("mr2;1;00000000000000000000000000000000;4;0+7;t;note")
	f.Fuzz(func(t *testing.T, text string) {
		m, err := parseMark(5, text)
		if err != nil || !strings.HasPrefix(text, "mr2;") || m.clear != 5 {
			return
		}
		if again, err := m.metadata(); err == nil {
			if n, err := parseMark(5, again); err != nil || !bytes.Equal(n.note, m.note) || n.next != m.next || n.shown != m.shown || n.epoch != m.epoch {
				t.Errorf("%q became %q: %+v, %v", text, again, n, err)
			}
		}
	})
}

func TestConfigNamesEveryProblem(t *testing.T) {
	bad := Config{
		Brokers: []string{"somewhere"}, Topics: []string{"a b", "c", "c", "/x", "//", "/(/"}, Refresh: time.Millisecond, Protocol: "eager", Start: "yesterday", Reset: "latest", SessionTimeout: time.Millisecond, RebalanceTimeout: 2 * time.Hour,
		TLS: &trust.TLS{Cert: "c", Insecure: true, CA: "x"}, SASL: &SASL{Mechanism: "kerberos"}, Fetch: Fetch{MaxBytes: 1, PartitionBytes: 2},
	}
	err := bad.Validate()
	if err == nil {
		t.Fatal("accepted")
	}
	for _, want := range []string{
		`brokers has "somewhere"; want host:port`, `topics has "a b"`, `topics has "c" twice`, `topics has "/x"; want a pattern between two slashes`, `topics has "//"`, `topics has "/(/": error parsing`, "refresh is 1ms", `protocol is "eager"`, `start is "yesterday"`, `reset is "latest"`,
		"session_timeout is 1ms; want 1s to 30m", "rebalance_timeout is 2h0m0s", "tls.cert and tls.key", "tls.insecure", "sasl.mechanism is \"kerberos\"", "fetch.max_bytes is 1", "fetch.partition_bytes is 2",
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("no %q in:\n%v", want, err)
		}
	}
	err = (&Config{}).Validate()
	if err == nil || err.Error() != "brokers is empty; want at least one host:port\ntopics is empty; want at least one topic" {
		t.Errorf("an empty entry: %v", err)
	}
	good := Config{Brokers: []string{"[::1]:9092", "kafka:9092"}, Topics: []string{"clicks"}, Start: "2026-01-02T03:04:05+01:00"}
	if err := good.Validate(); err != nil {
		t.Errorf("%v", err)
	}
}

func TestProtocolConsumerHasNoSessionTimeoutOfItsOwn(t *testing.T) {
	c := Config{Brokers: []string{"kafka:9092"}, Topics: []string{"clicks"}, Protocol: consumer}
	if err := c.Validate(); err != nil || c.Validate() != nil {
		t.Errorf("%v", err)
	}
	c.SessionTimeout = time.Second
	if err := c.Validate(); err == nil || !strings.Contains(err.Error(), "group.consumer.session.timeout.ms") {
		t.Errorf("%v; want a word on the brokers' setting", err)
	}
}

func TestPatternsMatchWholeNamesOfTopicsThatAreNotTheBrokers(t *testing.T) {
	s, err := newSelection([]string{"orders", "/clicks-.*|views/", "/.*offsets/"})
	if err != nil {
		t.Fatal(err)
	}
	for topic, want := range map[string]bool{
		"orders": true, "clicks-eu": true, "views": true, "my-clicks-eu": false, "views2": false, "orders2": false, "my_offsets": true, "__consumer_offsets": false,
	} {
		if s.has(topic) != want || s.matches(topic) != (want && topic != "orders") {
			t.Errorf("%s is selected: %v; want %v", topic, s.has(topic), want)
		}
	}
}
