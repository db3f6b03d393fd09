package decode

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/millrace-io/millrace/stream"
)

// The formats that this package reads.
const (
	JSON     = "json"     // one object, or an array of objects, for each record
	CSV      = "csv"      // one line for each record
	Combined = "combined" // one line of Apache's or Nginx's combined or common log format for each record
)

// CSVHeader is the key of the record header in which a source hands over the line that names a CSV record's fields: the
// first line of the file. It is needed when Config.WantsHeader.
const CSVHeader = "csv-header"

// Config is the decode entry of a pipeline file: which properties of a record become which columns. What it does not
// name is kept as it came, in the column properties. The zero value reads JSON with the well-known columns.
type Config struct {
	// Format is json, csv or combined; default json.
	Format string `yaml:"format"`

	// Fields says from which property a well-known column comes: {user: CustomerID}. The key is the column's name or alias, the
	// value a path as in Column. Default: from the property with the column's name; for combined see the package comment.
	Fields map[string]string `yaml:"fields"`

	// Time says how to read times that are not RFC 3339.
	Time Time `yaml:"time"`

	// Columns adds columns by name. The name of a well-known column replaces that one's type.
	Columns map[string]Column `yaml:"columns"`

	// CSV is about format csv only.
	CSV Lines `yaml:"csv"`
}

// Time is how to read times, in all columns of type timestamp. RFC 3339 is always read.
type Time struct {
	// Layouts are tried in order after RFC 3339, as Go writes them: "2006-01-02 15:04:05". Default: none.
	Layouts []string `yaml:"layouts"`

	// Zone is the IANA time zone of layouts that have none: "Europe/London". Default UTC. Where a clock is set back, an hour is
	// there twice and Go decides which one is meant.
	Zone string `yaml:"zone"`

	// Unit of times that are numbers, counted from 1970: s, ms, us or ns. Default ms.
	Unit string `yaml:"unit"`
}

// Column is one declared column.
type Column struct {
	// Path of the property: a name, or names with dots between for nested objects: page.url. A property whose name has
	// the dots in it is found too. Default: the column's name.
	Path string `yaml:"path"`

	// Type is string, int, float, bool, timestamp, decimal(precision,scale), list (of strings) or json. Required.
	Type string `yaml:"type"`
}

// Lines is how a CSV line is read.
type Lines struct {
	// Columns names the fields of every line, in order. Default: the first line of each file names them; the source then has
	// to hand it over (see CSVHeader).
	Columns []string `yaml:"columns"`

	// Delimiter between two fields: one ASCII character; default a comma.
	Delimiter string `yaml:"delimiter"`
}

// WantsHeader says that the source has to give every record its file's first line, as the record header CSVHeader.
func (c *Config) WantsHeader() bool { return c.Format == CSV && len(c.CSV.Columns) == 0 }

// EnsureDefaults sets what is empty.
func (c *Config) EnsureDefaults() {
	c.Format = cmp.Or(c.Format, JSON)
	c.Time.Zone = cmp.Or(c.Time.Zone, "UTC")
	c.Time.Unit = cmp.Or(c.Time.Unit, "ms")
	if c.Format == CSV {
		c.CSV.Delimiter = cmp.Or(c.CSV.Delimiter, ",")
	}
}

// Validate sets the defaults and lists every problem.
func (c *Config) Validate() error {
	c.EnsureDefaults()
	v := validator{Config: c, taken: map[int]string{}}
	v.format()
	v.time()
	v.columns()
	v.fields()
	v.lines()
	return errors.Join(v.problems...)
}

// Schema is the columns of the events: the well-known ones, then the declared ones in the order of their names.
func (c *Config) Schema() (*stream.Schema, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	var declared []stream.Column
	for _, name := range slices.Sorted(maps.Keys(c.Columns)) {
		t, err := stream.ParseType(c.Columns[name].Type)
		if err != nil {
			return nil, fmt.Errorf("columns.%s.type %w", name, err)
		}
		declared = append(declared, stream.Column{Name: name, Type: t})
	}
	return stream.NewSchema(declared...)
}

// Paths is where each column comes from, by its number in s. Columns that are not read from the input have none.
func (c *Config) Paths(s *stream.Schema) map[int]string {
	paths := map[int]string{}
	for i, column := range s.Columns {
		paths[i] = column.Name
	}
	if c.Format == Combined {
		paths[stream.IP], paths[stream.User], paths[stream.Time], paths[stream.URL] = "remote_host", "remote_user", "time", "path"
	}
	for name, path := range c.Fields {
		i, _ := s.Lookup(name)
		paths[i] = path
	}
	for name, column := range c.Columns {
		if i, _ := s.Lookup(name); column.Path != "" {
			paths[i] = column.Path
		}
	}
	delete(paths, stream.Received)
	delete(paths, stream.Bot)
	return paths
}

type validator struct {
	*Config
	problems []error
	taken    map[int]string // which key already speaks of a well-known column
}

func (v *validator) problem(format string, args ...any) {
	v.problems = append(v.problems, fmt.Errorf(format, args...))
}

func (v *validator) format() {
	switch v.Format {
	case JSON, CSV, Combined:
	case "cloudfront", "alb", "parquet", "avro", "raw":
		v.problem("format is %s, which is not read yet; want json, csv or combined", v.Format)
	default:
		v.problem("format is %q; want json, csv or combined", v.Format)
	}
}

func (v *validator) time() {
	for i, layout := range v.Time.Layouts {
		// Any day but the one that Go's layouts are written with.
		day := time.Date(2017, time.November, 28, 13, 46, 57, 0, time.UTC)
		back, err := time.Parse(layout, day.Format(layout))
		if err != nil || back.Year() != 2017 || back.YearDay() != day.YearDay() {
			v.problem("time.layouts[%d] is %q; want a layout with year, month and day as Go writes it, such as %q", i, layout, time.DateTime)
		}
	}
	if _, err := time.LoadLocation(v.Time.Zone); err != nil || v.Time.Zone == "Local" {
		v.problem("time.zone is %q; want a time zone of the IANA database, such as Europe/London", v.Time.Zone)
	}
	if _, ok := unitExponent(v.Time.Unit); !ok {
		v.problem("time.unit is %q; want s, ms, us or ns", v.Time.Unit)
	}
}

func (v *validator) columns() {
	wellKnown := wellKnownSchema()
	for _, name := range slices.Sorted(maps.Keys(v.Columns)) {
		key, column := "columns."+name, v.Columns[name]
		t, err := stream.ParseType(column.Type)
		switch {
		case column.Type == "":
			v.problem("%s.type is missing; want string, int, float, bool, timestamp, decimal(precision,scale), list or json", key)
		case err != nil:
			v.problem("%s.type is not valid: %w", key, err)
		default:
			if _, err := stream.NewSchema(stream.Column{Name: name, Type: t}); err != nil {
				v.problem("%s is not valid: %w", key, err)
			}
		}
		i, known := wellKnown.Lookup(name)
		switch {
		case column.Path != "":
			v.path(key+".path", column.Path)
		case !known:
			v.path(key, name)
		}
		if known {
			if other := v.taken[i]; other != "" {
				v.problem("%s is the same column as %s; want one of them", key, other)
			}
			v.taken[i] = key
			if column.Path != "" {
				v.fromInput(key+".path", i)
			}
		}
	}
}

func (v *validator) fields() {
	wellKnown := wellKnownSchema()
	seen := map[int]string{}
	for _, name := range slices.Sorted(maps.Keys(v.Fields)) {
		key := "fields." + name
		i, ok := wellKnown.Lookup(name)
		if !ok {
			v.problem("%s is no well-known column; want one of %s, or declare it under columns", key, names(wellKnown))
			continue
		}
		v.path(key, v.Fields[name])
		v.fromInput(key, i)
		if other := seen[i]; other != "" {
			v.problem("%s is the same column as %s; want one of them", key, other)
		}
		seen[i] = key
		if other := v.taken[i]; other != "" && v.Columns[strings.TrimPrefix(other, "columns.")].Path != "" {
			v.problem("%s says where the column comes from, and so does %s.path; want one of them", key, other)
		}
	}
}

// fromInput refuses a path for a column that Millrace fills.
func (v *validator) fromInput(key string, column int) {
	switch column {
	case stream.Received:
		v.problem("%s cannot be set: received_at is when the log took the record", key)
	case stream.Bot:
		v.problem("%s cannot be set: bot is judged by user_agent", key)
	}
}

func (v *validator) path(key, path string) {
	if slices.Contains(strings.Split(path, "."), "") || !utf8.ValidString(path) {
		v.problem("%s is %q; want the name of a property, or names with single dots between", key, path)
		return
	}
	var properties []string
	switch {
	case v.Format == Combined:
		properties = combinedNames()
	case v.Format == CSV && len(v.CSV.Columns) > 0:
		properties = v.CSV.Columns
	default:
		return
	}
	if !slices.Contains(properties, path) {
		v.problem("%s is %q, which no line has; want one of %s", key, path, strings.Join(properties, ", "))
	}
}

func (v *validator) lines() {
	if v.Format != CSV {
		if len(v.CSV.Columns) > 0 || v.CSV.Delimiter != "" {
			v.problem("csv is set, but format is %s", v.Format)
		}
		return
	}
	if d := v.CSV.Delimiter; len(d) != 1 || d[0] >= utf8.RuneSelf || strings.ContainsAny(d, "\"\r\n\x00") {
		v.problem("csv.delimiter is %q; want one ASCII character that is no quote and no line end", d)
	}
	seen := map[string]bool{}
	for i, name := range v.CSV.Columns {
		if seen[name] || name == "" || !utf8.ValidString(name) {
			v.problem("csv.columns[%d] is %q; want a name that is there once", i, name)
		}
		seen[name] = true
	}
}

func wellKnownSchema() *stream.Schema {
	s, err := stream.NewSchema()
	if err != nil {
		panic(err) // no column was declared that could be wrong
	}
	return s
}

func names(s *stream.Schema) string {
	all := make([]string, 0, len(s.Columns))
	for i, c := range s.Columns {
		if i != stream.Received && i != stream.Bot {
			all = append(all, cmp.Or(c.Alias, c.Name))
		}
	}
	return strings.Join(all, ", ")
}
