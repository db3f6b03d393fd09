package decode

import (
	"time"
)

// Times from the year 1 to the year 9999, in microseconds since 1970.
const (
	minTime = -62_135_596_800_000_000
	maxTime = 253_402_300_799_999_999
)

// accessLog is the layout of times in Apache's and Nginx's logs.
const accessLog = "02/Jan/2006:15:04:05 -0700"

// clock reads times.
type clock struct {
	layouts []string
	zone    *time.Location
	unit    int // exponent: a number times 10^unit is microseconds
}

func (c *clock) set(t *Time, format string) (err error) {
	c.layouts = t.Layouts
	if format == Combined {
		c.layouts = append([]string{accessLog}, t.Layouts...)
	}
	c.unit, _ = unitExponent(t.Unit)
	c.zone, err = time.LoadLocation(t.Zone)
	return err
}

func unitExponent(unit string) (exponent int, ok bool) {
	switch unit {
	case "s":
		return 6, true
	case "ms":
		return 3, true
	case "us":
		return 0, true
	case "ns":
		return -3, true
	}
	return 0, false
}

// text reads a time as microseconds since 1970: RFC 3339, then the layouts, then a number. It may be out of range.
func (c *clock) text(s string) (us int64, ok bool) {
	if us, ok = rfc3339(s); ok {
		return us, true
	}
	for _, layout := range c.layouts {
		if layout == accessLog {
			if us, ok = clf(s); ok {
				return us, true
			}
		}
		if t, err := time.ParseInLocation(layout, s, c.zone); err == nil {
			return t.UnixMicro(), true
		}
	}
	n, ok := parseNumber(s)
	if !ok {
		return 0, false
	}
	return c.number(n), true
}

// number reads a number of the clock's unit. What is beyond 64 bits is out of range too.
func (c *clock) number(n number) (us int64) {
	us, ok := n.scaledDown(c.unit)
	if !ok {
		return maxTime + 1
	}
	return us
}

func inRange(us int64) bool { return us >= minTime && us <= maxTime }

// rfc3339 reads exactly what time.Parse(time.RFC3339, s) should, in a tenth of its time. Go's lenience (a comma before the
// fraction, an hour of one digit) is left out. The seventh digit of a fraction and all after it are cut off.
func rfc3339(s string) (us int64, ok bool) {
	// 2010-12-01T08:26:00Z
	if len(s) < 20 || s[4] != '-' || s[7] != '-' || s[10] != 'T' || s[13] != ':' || s[16] != ':' {
		return 0, false
	}
	year := 100*two(s, 0) + two(s, 2)
	us, ok = civil(year, two(s, 5), two(s, 8), two(s, 11), two(s, 14), two(s, 17))
	if !ok || year < 0 || two(s, 0) < 0 || two(s, 2) < 0 {
		return 0, false
	}
	i := 19
	if s[i] == '.' {
		i++
		from, unit := i, int64(100_000)
		for ; i < len(s) && isDigit(s[i]); i++ {
			us += unit * int64(s[i]-'0')
			unit /= 10
		}
		if i == from || i == len(s) {
			return 0, false
		}
	}
	if s[i] == 'Z' {
		return us, i+1 == len(s)
	}
	if len(s) != i+6 || s[i+3] != ':' {
		return 0, false
	}
	return shifted(us, s[i], two(s, i+1), two(s, i+4))
}

// clf reads a time of the common log format: 17/May/2015:10:05:03 +0000
func clf(s string) (us int64, ok bool) {
	if len(s) != len(accessLog) || s[2] != '/' || s[6] != '/' || s[11] != ':' || s[14] != ':' || s[17] != ':' || s[20] != ' ' {
		return 0, false
	}
	if two(s, 7) < 0 || two(s, 9) < 0 {
		return 0, false
	}
	us, ok = civil(100*two(s, 7)+two(s, 9), month(s[3:6]), two(s, 0), two(s, 12), two(s, 15), two(s, 18))
	if !ok {
		return 0, false
	}
	return shifted(us, s[21], two(s, 22), two(s, 24))
}

// shifted turns the time of a place that is ahead of UTC by an offset into UTC.
func shifted(us int64, sign byte, hours, minutes int) (int64, bool) {
	if hours < 0 || hours > 23 || minutes < 0 || minutes > 59 || sign != '+' && sign != '-' {
		return 0, false
	}
	offset := int64(hours*60+minutes) * 60_000_000
	if sign == '-' {
		offset = -offset
	}
	return us - offset, true
}

// two reads two digits; it is far below zero if they are none.
func two(s string, i int) int {
	a, b := s[i]-'0', s[i+1]-'0'
	if a > 9 || b > 9 {
		return -10_000
	}
	return 10*int(a) + int(b)
}

func month(s string) int {
	const names = "JanFebMarAprMayJunJulAugSepOctNovDec"
	for i := 0; i < len(names); i += 3 {
		if names[i:i+3] == s {
			return i/3 + 1
		}
	}
	return 0
}

// civil is the microseconds since 1970 of a moment in UTC, in the proleptic Gregorian calendar; false if there is no such
// moment. The days are counted as in Hinnant, "chrono-compatible low-level date algorithms", days_from_civil.
func civil(year, month, day, hour, minute, second int) (us int64, ok bool) {
	if month < 1 || month > 12 || day < 1 || day > daysIn(year, month) ||
		hour < 0 || hour > 23 || minute < 0 || minute > 59 || second < 0 || second > 59 {
		return 0, false
	}
	y := year + 400 // the year 0 and its January are of the era before
	if month <= 2 {
		y--
	}
	era := y / 400
	yearOfEra := y - 400*era
	dayOfYear := (153*((month+9)%12)+2)/5 + day - 1 // from the first of March
	dayOfEra := 365*yearOfEra + yearOfEra/4 - yearOfEra/100 + dayOfYear
	days := 146_097*(era-1) + dayOfEra - 719_468
	return (int64(days)*86_400 + int64(hour*3600+minute*60+second)) * 1_000_000, true
}

func daysIn(year, month int) int {
	switch month {
	case 2:
		if year%4 == 0 && (year%100 != 0 || year%400 == 0) {
			return 29
		}
		return 28
	case 4, 6, 9, 11:
		return 30
	}
	return 31
}
