package kinesis

import (
	"errors"
	"fmt"
	"regexp"
	"time"
)

// Config is the kinesis entry of a pipeline file's source. Region, endpoint and credentials come from the SDK's own environment:
// AWS_REGION, AWS_ENDPOINT_URL_KINESIS, AWS_ENDPOINT_URL_DYNAMODB, AWS_PROFILE and so on.
type Config struct {
	// Stream is the name of the data stream, which has to exist.
	Stream string `yaml:"stream"`

	// Start says where to begin when the pipeline sees the stream for the first time: trim_horizon (default: the oldest record
	// that is there; earliest, as other sources call it, is the same), latest (what arrives from then on; up to a second more), or an RFC 3339 time. It is stored then: later
	// runs, other workers and shards that appear later go by what is stored.
	Start string `yaml:"start"`

	// Reset says what to do when records after the checkpoint are no longer in the stream: fail (default) ends the run,
	// trim_horizon, or earliest, goes on with the oldest record that is left and logs what is lost.
	Reset string `yaml:"reset"`

	// Table is the DynamoDB table that keeps ownership and checkpoints. It is created, on demand, if it does not exist. Default
	// millrace-<pipeline>.
	Table string `yaml:"table"`

	// Lease is how long a silent worker keeps its shards before others take them. Default 10 s, at least 500 ms.
	Lease time.Duration `yaml:"lease"`

	// Instance is this worker's name, another one for every worker. A worker that is killed and started again under its name
	// has its shards back at once instead of after Lease. Default: a new random name for each run.
	Instance string `yaml:"instance"`

	// Poll is between two reads of a shard that had nothing more. All consumers of a stream share 5 reads a second and shard:
	// raise it when there are others. Default 250 ms, 50 ms to 10 s.
	Poll time.Duration `yaml:"poll"`

	Fetch Fetch `yaml:"fetch"`
}

// Fetch bounds the memory of records that the engine has not taken yet.
type Fetch struct {
	// MaxBytes is about the most that all shards of this worker together read in advance. Kinesis takes a number of records,
	// not of bytes, so it is met by the average size of a shard's records. Default 32 MiB, at least 1 MiB.
	MaxBytes int64 `yaml:"max_bytes" unit:"bytes"`

	// MaxRecords is the most that one read asks for. Default 10000, 1 to 10000.
	MaxRecords int `yaml:"max_records"`
}

// The words of Start and Reset.
const (
	trimHorizon = "trim_horizon"
	earliest    = "earliest"
	latest      = "latest"
	fail        = "fail"
)

var (
	streamName = regexp.MustCompile(`^[a-zA-Z0-9_.-]{1,128}$`)
	tableName  = regexp.MustCompile(`^[a-zA-Z0-9_.-]{3,255}$`)
)

// EnsureDefaults fills in what is not said. Table stays empty: its default is the caller's.
func (c *Config) EnsureDefaults() {
	for _, word := range []*string{&c.Start, &c.Reset} {
		if *word == earliest {
			*word = trimHorizon
		}
	}
	setDefault(&c.Start, trimHorizon)
	setDefault(&c.Reset, fail)
	setDefault(&c.Lease, 10*time.Second)
	setDefault(&c.Poll, 250*time.Millisecond)
	setDefault(&c.Fetch.MaxBytes, 32<<20)
	setDefault(&c.Fetch.MaxRecords, 10000)
}

func setDefault[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

// Validate sets the defaults and returns all problems.
func (c *Config) Validate() error {
	c.EnsureDefaults()
	var problems []error
	check := func(ok bool, format string, args ...any) {
		if !ok {
			problems = append(problems, fmt.Errorf(format, args...))
		}
	}
	check(c.Stream != "", "stream is empty; want the name of a Kinesis data stream")
	check(c.Stream == "" || streamName.MatchString(c.Stream), "stream is %q; want the stream's name: letters, digits, and . _ -", c.Stream)
	check(c.Table == "" || tableName.MatchString(c.Table), "table is %q; want 3 to 255 letters, digits, and . _ -", c.Table)
	_, err := c.startTime()
	check(err == nil, "start is %q; want trim_horizon, latest or a time like 2006-01-02T15:04:05Z", c.Start)
	check(c.Reset == fail || c.Reset == trimHorizon, "reset is %q; want fail or trim_horizon", c.Reset)
	check(c.Lease >= 500*time.Millisecond, "lease is %v; want at least 500ms", c.Lease)
	check(c.Poll >= 50*time.Millisecond && c.Poll <= 10*time.Second, "poll is %v; want 50ms to 10s", c.Poll)
	check(c.Fetch.MaxBytes >= 1<<20, "fetch.max_bytes is %d; want at least 1 MiB", c.Fetch.MaxBytes)
	check(c.Fetch.MaxRecords >= 1 && c.Fetch.MaxRecords <= 10000, "fetch.max_records is %d; want 1 to 10000", c.Fetch.MaxRecords)
	return errors.Join(problems...)
}

// startTime is that of Start; zero when it is a word.
func (c *Config) startTime() (time.Time, error) {
	if c.Start == trimHorizon || c.Start == latest {
		return time.Time{}, nil
	}
	return time.Parse(time.RFC3339, c.Start)
}
