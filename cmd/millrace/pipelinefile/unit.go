package pipelinefile

import (
	"math"
	"regexp"
	"strconv"
	"strings"
	"time"
)

var quantity = regexp.MustCompile(`^\s*([0-9]{1,18})\s*([A-Za-z]*)\s*$`)

// parseBytes reads a size: a whole number and a unit. Zero needs no unit.
func parseBytes(s string) (int64, bool) {
	if s == "0" {
		return 0, true
	}
	m := quantity.FindStringSubmatch(s)
	if m == nil || m[1]+m[2] != s {
		return 0, false
	}
	n, err := strconv.ParseInt(m[1], 10, 64)
	unit := bytesOf(m[2])
	if err != nil || unit == 0 || n > math.MaxInt64/unit {
		return 0, false
	}
	return n * unit, true
}

func bytesOf(unit string) int64 {
	switch unit {
	case "B":
		return 1
	case "KB":
		return 1e3
	case "MB":
		return 1e6
	case "GB":
		return 1e9
	case "KiB":
		return 1 << 10
	case "MiB":
		return 1 << 20
	case "GiB":
		return 1 << 30
	}
	return 0
}

// likelyBytes guesses what was meant by a size with a wrong unit; empty: no idea.
func likelyBytes(s string) string {
	m := quantity.FindStringSubmatch(s)
	if m == nil {
		return ""
	}
	if m[2] == "" {
		return m[1] + "MiB"
	}
	for _, unit := range []string{"KiB", "MiB", "GiB", "KB", "MB", "GB"} {
		if strings.EqualFold(m[2], unit) || strings.EqualFold(m[2], unit[:1]) {
			return m[1] + unit
		}
	}
	return ""
}

// likelyDuration guesses what was meant by a duration with a wrong unit; empty: no idea.
func likelyDuration(s string) string {
	m := quantity.FindStringSubmatch(s)
	if m == nil {
		return ""
	}
	n, unit := m[1], strings.ToLower(m[2])
	guess := ""
	switch {
	case unit == "d" || strings.HasPrefix(unit, "day"):
		days, err := strconv.Atoi(n)
		if err != nil || days > 100_000 {
			return ""
		}
		guess = strconv.Itoa(24*days) + "h"
	case strings.HasPrefix(unit, "ms") || strings.HasPrefix(unit, "mil"):
		guess = n + "ms"
	case unit == "" || strings.HasPrefix(unit, "s"):
		guess = n + "s"
	case strings.HasPrefix(unit, "m"):
		guess = n + "m"
	case strings.HasPrefix(unit, "h"):
		guess = n + "h"
	}
	if _, err := time.ParseDuration(guess); err != nil {
		return ""
	}
	return guess
}
