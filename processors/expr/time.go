package expr

import (
	"time"

	"github.com/millrace-io/millrace/stream"
)

// date is the UTC date as text, 2006-01-02.
func date(_ *compiler, _ *node, args []code) code {
	whole := args[0].whole
	return makingText(func(e *stream.Event, m *machine) (string, bool) {
		us, ok := whole(e, m)
		if !ok {
			return "", false
		}
		const room = len("-290308-12-21")
		return viewText(time.UnixMicro(us).UTC().AppendFormat(m.alloc(room)[:0], time.DateOnly)), true
	})
}

// hour is the UTC hour of the day, 0 to 23.
func hour(_ *compiler, _ *node, args []code) code {
	whole := args[0].whole
	return code{typ: of(stream.Int), whole: func(e *stream.Event, m *machine) (int64, bool) {
		us, ok := whole(e, m)
		return floorMod(us, dayUnit) / hourUnit, ok
	}}
}

// Units of a timestamp.
const (
	secondUnit = 1_000_000
	minuteUnit = 60 * secondUnit
	hourUnit   = 60 * minuteUnit
	dayUnit    = 24 * hourUnit
)

func floorMod(a, b int64) int64 { return (a%b + b) % b }

// truncate is the beginning of the second, minute, hour, day, week (Monday), month or year, in UTC.
func truncate(c *compiler, n *node, args []code) code {
	if !c.literal(n, args[1]) {
		return code{}
	}
	down := truncation(args[1].value.Text())
	if down == nil {
		return c.problem(args[1].node.pos, "unknown unit %v; want second, minute, hour, day, week, month or year", args[1].node)
	}
	whole := args[0].whole
	return code{typ: of(stream.Timestamp), whole: func(e *stream.Event, m *machine) (int64, bool) {
		us, ok := whole(e, m)
		if !ok {
			return 0, false
		}
		return down(us), true
	}}
}

func truncation(unit string) func(us int64) int64 {
	to := func(unit, offset int64) func(int64) int64 {
		return func(us int64) int64 { return us - floorMod(us-offset, unit) }
	}
	switch unit {
	case "second":
		return to(secondUnit, 0)
	case "minute":
		return to(minuteUnit, 0)
	case "hour":
		return to(hourUnit, 0)
	case "day":
		return to(dayUnit, 0)
	case "week":
		return to(7*dayUnit, 4*dayUnit) // 1970-01-05 was a Monday
	case "month":
		return func(us int64) int64 {
			year, month, _ := time.UnixMicro(us).UTC().Date()
			return time.Date(year, month, 1, 0, 0, 0, 0, time.UTC).UnixMicro()
		}
	case "year":
		return func(us int64) int64 {
			return time.Date(time.UnixMicro(us).UTC().Year(), 1, 1, 0, 0, 0, 0, time.UTC).UnixMicro()
		}
	}
	return nil
}

// toTimestamp reads RFC 3339.
func toTimestamp(c *compiler, n *node, args []code) code {
	text, failure := args[0].text, c.failure(n.pos, "timestamp: the text is not a time as RFC 3339 writes it, 2006-01-02T15:04:05Z")
	z := code{typ: of(stream.Timestamp), whole: func(e *stream.Event, m *machine) (int64, bool) {
		s, ok := text(e, m)
		if !ok {
			return 0, false
		}
		t, err := time.Parse(time.RFC3339Nano, s)
		if err != nil {
			m.fail(failure)
		}
		return t.UnixMicro(), true
	}}
	return mayFail(n, z, "not every text is a time")
}
