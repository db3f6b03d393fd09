package decode_test

import (
	"strings"
	"testing"

	"github.com/millrace-io/millrace/processors/decode"
	"github.com/millrace-io/millrace/stream"
)

func TestValidateListsEveryProblem(t *testing.T) {
	type columns = map[string]decode.Column
	for _, c := range []struct {
		name string
		c    decode.Config
		want string // one problem per line
	}{
		{"the zero value", decode.Config{}, ""},
		{"the examples", retail(), ""},
		{"a format of later", decode.Config{Format: "avro"}, `format is avro, which is not read yet; want json, csv or combined`},
		{"no such format", decode.Config{Format: "xml"}, `format is "xml"; want json, csv or combined`},
		{
			"time",
			decode.Config{Time: decode.Time{Layouts: []string{"2006-01-02", "YYYY-MM-DD", "15:04"}, Zone: "Mars", Unit: "h"}},
			`time.layouts[1] is "YYYY-MM-DD"; want a layout with year, month and day as Go writes it, such as "2006-01-02 15:04:05"
time.layouts[2] is "15:04"; want a layout with year, month and day as Go writes it, such as "2006-01-02 15:04:05"
time.zone is "Mars"; want a time zone of the IANA database, such as Europe/London
time.unit is "h"; want s, ms, us or ns`,
		},
		{"the machine's zone", decode.Config{Time: decode.Time{Zone: "Local"}}, `time.zone is "Local"; want a time zone of the IANA database, such as Europe/London`},
		{
			"columns",
			decode.Config{Columns: columns{
				"a": {}, "b": {Type: "number"}, "c": {Type: "int", Path: "x..y"}, "_d": {Type: "int"}, "properties": {Type: "json"}, "event_time": {Type: "int"},
				"id": {Type: "int"}, "event_id": {Type: "int"}, "bot": {Type: "bool", Path: "is_bot"}, "received": {Type: "timestamp"},
			}},
			`columns._d is not valid: column name "_d" is reserved
columns.a.type is missing; want string, int, float, bool, timestamp, decimal(precision,scale), list or json
columns.b.type is not valid: unknown type "number"; want one of string, int, float, bool, timestamp, list, json, decimal(precision,scale)
columns.bot.path cannot be set: bot is judged by user_agent
columns.c.path is "x..y"; want the name of a property, or names with single dots between
columns.event_time is not valid: column "event_time" is always of type timestamp
columns.id is the same column as columns.event_id; want one of them
columns.properties is not valid: column name "properties" is reserved`,
		},
		{
			"fields",
			decode.Config{
				Fields:  map[string]string{"user": "a", "user_id": "b", "usr": "c", "time": "", "received": "d", "price": "e", "country": "f"},
				Columns: columns{"price": {Type: "float", Path: "g"}, "country": {Type: "string"}},
			},
			`fields.price says where the column comes from, and so does columns.price.path; want one of them
fields.received cannot be set: received_at is when the log took the record
fields.time is ""; want the name of a property, or names with single dots between
fields.user_id is the same column as fields.user; want one of them
fields.usr is no well-known column; want one of id, type, time, user, anonymous, session, item, items, recommendation, query, url, referrer, user_agent, ip, country, region, price, currency, quantity, or declare it under columns`,
		},
		{"csv for another format", decode.Config{CSV: decode.Lines{Columns: []string{"a"}}}, `csv is set, but format is json`},
		{
			"csv",
			decode.Config{
				Format: "csv", CSV: decode.Lines{Columns: []string{"a", "", "a"}, Delimiter: "||"},
				Fields: map[string]string{"user": "b"}, Columns: columns{"x": {Path: "a", Type: "int"}},
			},
			`fields.user is "b", which no line has; want one of a, , a
csv.delimiter is "||"; want one ASCII character that is no quote and no line end
csv.columns[1] is ""; want a name that is there once
csv.columns[2] is "a"; want a name that is there once`,
		},
		{
			"combined",
			decode.Config{Format: "combined", Columns: columns{"code": {Path: "code", Type: "int"}, "size": {Type: "int"}, "bytes": {Type: "int"}, "price": {Type: "float"}}},
			`columns.code.path is "code", which no line has; want one of remote_host, ident, remote_user, time, method, path, protocol, request, status, bytes, referrer, user_agent, extra
columns.size is "size", which no line has; want one of remote_host, ident, remote_user, time, method, path, protocol, request, status, bytes, referrer, user_agent, extra`,
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := ""
			if err := c.c.Validate(); err != nil {
				got = err.Error()
			}
			if got != c.want {
				t.Errorf("got:\n%s\nwant:\n%s", got, c.want)
			}
			_, err := c.c.Schema()
			if (err == nil) != (c.want == "") {
				t.Errorf("Schema: %v", err)
			}
		})
	}
}

func TestSchemaIsTheSameEveryTime(t *testing.T) {
	c := rules()
	for range 20 {
		s, err := c.Schema()
		if err != nil {
			t.Fatal(err)
		}
		var names []string
		for _, column := range s.Columns[stream.WellKnown:] {
			names = append(names, column.Name)
		}
		if got, want := strings.Join(names, " "), "b d f i j l page_id page_url s t"; got != want {
			t.Fatalf("got %s, want %s", got, want)
		}
	}
}

func TestWantsHeader(t *testing.T) {
	for want, c := range map[bool]decode.Config{true: {Format: "csv"}, false: {Format: "csv", CSV: decode.Lines{Columns: []string{"a"}}}} {
		if c.WantsHeader() != want {
			t.Errorf("%+v: want %v", c, want)
		}
	}
}

func TestSchemaOfAnotherConfigIsRefused(t *testing.T) {
	s, err := new(decode.Config).Schema()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := decode.New(rules(), s); err == nil || !strings.Contains(err.Error(), "the schema is not this config's") {
		t.Errorf("got %v", err)
	}
}
