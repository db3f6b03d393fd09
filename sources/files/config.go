package files

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/millrace-io/millrace/sinks/objects"
)

// Config says which files are read, and how a file is cut into records.
type Config struct {
	// Paths are files, directories (read with all that is below them), patterns, and s3:// locations. In a pattern * and ?
	// match within one name, [...] is a class of characters, and ** is any number of folders. A directory and a wildcard pass
	// over names that begin with a dot or an underscore; a pattern that spells that character out does not. Relative paths are
	// relative to the working directory. At least one.
	Paths []string `yaml:"paths"`

	// Follow keeps reading files that grow, and reads files that appear later, for ever. Default false: what is there at the
	// start is read to its end, and then the run ends.
	Follow bool `yaml:"follow"`

	// Poll is how often files are looked at for more, and how long a file that another process reads is left alone. Default
	// 1 s, at least 1 ms. In S3 the listing is made every 10 polls.
	Poll time.Duration `yaml:"poll"`

	// Checkpoints is the folder of the positions, one small file for each partition, and of the locks by which several
	// processes share the files. Default .millrace/<pipeline's name> in the working directory. A local disk: the locks of
	// network file systems differ.
	Checkpoints string `yaml:"checkpoints"`

	// Concurrency is how many files are read at once, 1 to 10,000. Default 4, and 64 with Follow. Files are taken in the
	// order of their names. With Follow a file without news gives its place up when another one has news.
	Concurrency int `yaml:"concurrency"`

	// Header is csv if each file's first line names the columns: it is no record then, and every record of the file carries
	// it as the header CSVHeader. Default none.
	Header string `yaml:"header"`

	// Multiline is csv if a record ends at the first line break outside of quotes (RFC 4180). Default none: at each line break.
	Multiline string `yaml:"multiline"`

	// Delimiter is the character between fields, for Multiline: a quote counts only where a field begins. Default a comma.
	Delimiter string `yaml:"delimiter"`

	// MaxRecord is the longest record in bytes, 1 byte to 1 GiB. Default 8 MiB. Of a longer one only the beginning is kept,
	// and it goes to the dead letters with its place and length.
	MaxRecord int64 `yaml:"max_record" unit:"bytes"`

	// OnChange says what happens when what was read of a file is no longer what the file holds. fail, the default: the run
	// ends with an error that names the file. restart: the file is read from its beginning as a new generation, a partition of
	// its own, whatever it has in common with the old one.
	OnChange string `yaml:"on_change"`
}

// CSVHeader is the key of the header that Config.Header attaches to each record.
const CSVHeader = "csv-header"

// Values of Config.Header and Config.Multiline, and of Config.OnChange.
const (
	None    = "none"
	CSV     = "csv"
	Fail    = "fail"
	Restart = "restart"
)

// EnsureDefaults sets what is zero, but for Checkpoints, which needs the pipeline's name.
func (c *Config) EnsureDefaults() {
	setDefault(&c.Poll, time.Second)
	if c.Follow {
		setDefault(&c.Concurrency, 64)
	}
	setDefault(&c.Concurrency, 4)
	setDefault(&c.Header, None)
	setDefault(&c.Multiline, None)
	setDefault(&c.Delimiter, ",")
	setDefault(&c.MaxRecord, 8<<20)
	setDefault(&c.OnChange, Fail)
}

func setDefault[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

// Validate sets the defaults and lists every problem.
func (c *Config) Validate() error {
	c.EnsureDefaults()
	var problems []error
	problem := func(format string, args ...any) { problems = append(problems, fmt.Errorf(format, args...)) }
	if len(c.Paths) == 0 {
		problem("paths is empty; want at least one file, directory, pattern or s3://bucket/prefix")
	}
	for i, p := range c.Paths {
		if err := checkPath(p); err != nil {
			problem("paths[%d] %w", i, err)
		}
	}
	if c.Poll < time.Millisecond {
		problem("poll is %v; want at least 1ms", c.Poll)
	}
	if strings.Contains(c.Checkpoints, "://") {
		problem("checkpoints is %q; want a local folder", c.Checkpoints)
	}
	if c.Concurrency < 1 || c.Concurrency > 10_000 {
		problem("concurrency is %d; want 1 to 10000", c.Concurrency)
	}
	oneOf := func(key, value string, values ...string) {
		if !slices.Contains(values, value) {
			problem("%s is %q; want %s", key, value, strings.Join(values, " or "))
		}
	}
	oneOf("header", c.Header, None, CSV)
	oneOf("multiline", c.Multiline, None, CSV)
	oneOf("on_change", c.OnChange, Fail, Restart)
	if len(c.Delimiter) != 1 || strings.ContainsAny(c.Delimiter, "\"\r\n") {
		problem("delimiter is %q; want one byte, not a quote and not a line break", c.Delimiter)
	}
	if c.MaxRecord < 1 || c.MaxRecord > 1<<30 {
		problem("max_record is %d bytes; want 1 byte to 1 GiB", c.MaxRecord)
	}
	return errors.Join(problems...)
}

func checkPath(p string) error {
	if p == "" {
		return errors.New("is empty")
	}
	if location, ok := strings.CutPrefix(p, "s3://"); ok {
		bucket, _, _ := strings.Cut(location, "/")
		if err := objects.CheckURL("s3://" + bucket); err != nil || strings.ContainsAny(bucket, "*[") {
			return fmt.Errorf("is %q; want s3://bucket/prefix, with wildcards only after the bucket", p)
		}
	} else if strings.Contains(p, "://") {
		return fmt.Errorf("is %q; want a path or s3://bucket/prefix", p)
	}
	for segment := range strings.SplitSeq(p, "/") {
		if _, err := filepath.Match(segment, ""); err != nil {
			return fmt.Errorf("is %q: %w", p, err)
		}
	}
	return nil
}
