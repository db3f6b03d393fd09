// Package expr is the expression language of pipeline files, and the processors that are made of nothing but expressions:
// filter and map. A sink's where is an expression too.
//
//	type != "impression" && !bot
//	{user: hmac_sha256(user, "salt"), country: upper(country), price: round(price * 1.19, 2)}
//	type == "purchase" && host(referrer) in ["www.example.com", "m.example.com"]
//
// Reading the source: parse.go (text to tree), compile.go (tree to closures; types), operators.go, functions.go (what can be
// called), filter.go and map.go (the processors).
//
// # Values
//
// Texts stand in 'single' or "double" quotes with the escapes \\ \' \" \n \r \t, or in `backquotes` without any. There are
// whole numbers (42), floats (2.5, 1e3), true, false and null. A name is a column, by its name or alias. What no column took
// is reached by a path, properties.page.section, properties["utm source"], properties.tags[0], and so are the insides of
// columns of type json and list. A path yields a text: that of a string or number, true or false, or the JSON text of an
// object or array. It is null where there is nothing, or where JSON says null. Of a key that is there twice the first counts.
//
// # Operators
//
// From the weakest: ||, &&, comparison (== != < <= > >= and in [..]; they do not chain), + -, * / %, and the prefixes ! and -.
// Texts compare by bytes. && and ||, if and coalesce evaluate no more than they need.
//
// # Types
//
// Types are checked before anything runs: a text is never compared with a number. Where two kinds of numbers meet, int
// becomes decimal and both become float. + - * % on ints and decimals are exact; a literal such as 1.19 is a decimal beside a
// decimal and a float elsewhere. A quotient is always a float. Floats follow IEEE 754; a float that is not finite may be
// compared but not stored.
//
// # Null
//
// There are two truth values. Null equals null and nothing else, so != is always the opposite of ==, and country != "DE" keeps
// the events without a country. < <= > >= with null are false, and so are contains, startsWith, endsWith and matches. As a condition
// null is false; so !bot is true for an event without a user agent. Every other operator and function makes null of null;
// but for coalesce and if.
//
// # Functions
//
//	lower(t) upper(t) trim(t) length(t)      length counts characters
//	concat(t, t, ...) replace(t, old, new)   replace changes every old
//	split_part(t, separator, n)              n from 1, or from the end with -1; null if there are not so many
//	contains(t, part) startsWith(t, part) endsWith(t, part)
//	matches(t, 'regular expression')         RE2, anywhere in t; verdicts are remembered
//	host(url) path(url) param(url, name)     host in lower case, null if there is none; path as written; the first parameter, decoded
//	sha256(t) sha256(t, salt)                hexadecimal, of the salt followed by t
//	hmac_sha256(t, 'key')                    hexadecimal
//	date(time) hour(time)                    UTC; "2006-01-02" and 0 to 23
//	truncate(time, 'hour')                   or second, minute, day, week (from Monday), month, year; UTC
//	timestamp(t)                             RFC 3339
//	int(t) float(t or number) text(value)    conversions
//	round(number) round(number, places)      an int, or a decimal; half away from zero
//	coalesce(a, b, ...)                      the first that is not null
//	if(condition, a, b)
//
// # Failure
//
// Division by zero, an int or decimal beyond 64 bits or its column's precision, a result that is not finite, a text that is no
// number or time, and a text that replace makes longer than 1 MiB, fail the event: its record becomes a dead letter. A sink's where runs after that was decided, so
// Predicate refuses what can fail.
//
// There is no clock and no chance in the language: a replay makes the same bytes.
package expr

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"unicode/utf8"

	"github.com/millrace-io/millrace/stream"
)

// Expr is a compiled expression. It is immutable and safe for concurrent use.
type Expr struct {
	tree     *node
	code     code
	value    valueFn
	machines sync.Pool
}

// Compile checks and compiles an expression. The error joins an *Error for each problem.
func Compile(src string, schema *stream.Schema) (*Expr, error) {
	tree, code, err := compile(src, schema)
	if err != nil {
		return nil, err
	}
	x := &Expr{tree: tree, code: code, value: code.store(code.typ)}
	x.machines.New = func() any { return new(machine) }
	return x, nil
}

// Type is the type of the result; of kind stream.Null for an expression that is always null.
func (x *Expr) Type() stream.Type { return x.code.typ }

// String is the expression in the one way that the package writes it.
func (x *Expr) String() string { return x.tree.String() }

// Eval computes the expression for e. Texts that it makes are in b's arena, others are shared with e. The error is about this
// event; the caller fails the event with it.
func (x *Expr) Eval(e *stream.Event, b *stream.Batch) (stream.Value, error) {
	m := x.machines.Get().(*machine)
	defer x.machines.Put(m)
	m.arena = b
	v := x.value(e, m)
	m.arena = nil
	return v, m.take()
}

// Predicate compiles a condition that has to be true or false for every event: a sink's where. It refuses what can fail for
// some event (see the package's documentation). The function is safe for concurrent use and keeps nothing of the event.
func Predicate(src string, schema *stream.Schema) (func(*stream.Event) bool, error) {
	_, code, err := compile(src, schema)
	if err == nil {
		err = code.wantCondition(src)
	}
	if err == nil {
		err = code.wantInfallible(src)
	}
	if err != nil {
		return nil, err
	}
	test := code.test
	if !code.makesText {
		return func(e *stream.Event) bool { return test(e, nil) == yes }, nil
	}
	pool := sync.Pool{New: func() any { return &machine{arena: stream.NewBatch(schema)} }}
	return func(e *stream.Event) bool {
		m := pool.Get().(*machine)
		met := test(e, m) == yes
		m.arena.Reset()
		pool.Put(m)
		return met
	}, nil
}

// Error is one problem of an expression.
type Error struct {
	offset       int
	line, column int
	text         string
}

// Error is the problem with its place: `1:12: unknown column "typ"; did you mean "type"?`. Lines and columns count from 1,
// columns in characters.
func (e *Error) Error() string { return fmt.Sprintf("%d:%d: %s", e.line, e.column, e.text) }

// Offset is the byte of the source that the problem is about, from 0.
func (e *Error) Offset() int { return e.offset }

// Text is the problem without its place.
func (e *Error) Text() string { return e.text }

func errorAt(src string, offset int, format string, args ...any) *Error {
	before := src[:offset]
	start := strings.LastIndexByte(before, '\n') + 1
	return &Error{
		offset: offset,
		line:   1 + strings.Count(before, "\n"),
		column: 1 + utf8.RuneCountInString(before[start:]),
		text:   fmt.Sprintf(format, args...),
	}
}

// compile parses, compiles and joins the problems.
func compile(src string, schema *stream.Schema) (*node, code, error) {
	tree, err := parse(src)
	if err != nil {
		return nil, code{}, err
	}
	c := compiler{src: src, schema: schema, functions: functions()}
	compiled := c.compile(tree)
	return tree, compiled, errors.Join(c.problems...)
}

// machine is what one evaluation needs besides the event. It is used by one goroutine.
type machine struct {
	arena   *stream.Batch
	scratch []byte
	err     error // the first
}

// fail makes the evaluation fail; what it returns meanwhile is of no account.
func (m *machine) fail(err error) {
	if m.err == nil {
		m.err = err
	}
}

// take returns the error and forgets it.
func (m *machine) take() error {
	err := m.err
	m.err = nil
	return err
}
