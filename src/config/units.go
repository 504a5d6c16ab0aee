package config

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

// sizeUnits in bytes, the longer of those with a common end first.
var sizeUnits = []struct {
	name  string
	bytes float64
}{
	{"KiB", 1 << 10}, {"MiB", 1 << 20}, {"GiB", 1 << 30}, {"TiB", 1 << 40},
	{"kB", 1e3}, {"MB", 1e6}, {"GB", 1e9}, {"TB", 1e12}, {"B", 1},
}

// parseSize reads a number of bytes: "10GiB", "100 MB", "0". The case of the
// unit does not matter.
func parseSize(s string) (int64, error) {
	bad := fmt.Errorf("%s is not a size: write a number and a unit, such as \"10GiB\" or \"100MB\"", quote(s))
	if s == "0" {
		return 0, nil
	}
	for _, u := range sizeUnits {
		at := len(s) - len(u.name)
		if at < 0 || !strings.EqualFold(s[at:], u.name) {
			continue
		}
		n, ok := parseDecimal(strings.TrimRight(s[:at], " "))
		if !ok {
			return 0, bad
		}
		if n *= u.bytes; n >= math.MaxInt64 {
			return 0, fmt.Errorf("%s is more than any disk has: write a smaller size", quote(s))
		}
		return int64(n), nil
	}
	return 0, bad
}

// parseDecimal reads digits, with a fraction or without: no sign, no exponent,
// no infinity.
func parseDecimal(s string) (float64, bool) {
	if strings.Trim(s, "0123456789.") != "" {
		return 0, false
	}
	n, err := strconv.ParseFloat(s, 64)
	return n, err == nil
}

// sizeFrom reads a size of at least so many MiB.
func sizeFrom(mib int64) func(string) (int64, error) {
	return func(s string) (int64, error) {
		n, err := parseSize(s)
		if err == nil && n < mib<<20 {
			return 0, fmt.Errorf("%s is too little: write \"%dMiB\" or more", quote(s), mib)
		}
		return n, err
	}
}

// MinFree is how much of a file system is to stay free: a part of it, or so
// many bytes. One of the two is 0.
type MinFree struct {
	Percent float64 // 0 up to, not including, 100
	Bytes   int64
}

// Of is the number of bytes to keep free where there are total.
func (m MinFree) Of(total int64) int64 {
	if m.Percent > 0 {
		return int64(float64(total) * (m.Percent / 100))
	}
	return m.Bytes
}

func parseMinFree(s string) (MinFree, error) {
	if p, ok := strings.CutSuffix(s, "%"); ok {
		n, ok := parseDecimal(p)
		if !ok || n >= 100 {
			return MinFree{}, fmt.Errorf("%s is not a part of a disk: write \"0%%\" to \"99%%\", or a size", quote(s))
		}
		return MinFree{Percent: n}, nil
	}
	n, err := parseSize(s)
	if err != nil {
		err = fmt.Errorf("%s is neither a part of a disk nor a size: write such as \"5%%\" or \"2GiB\"", quote(s))
	}
	return MinFree{Bytes: n}, err
}

// interval reads a duration of at least low: "1m", "1h30m".
func interval(low time.Duration) func(string) (time.Duration, error) {
	return func(s string) (time.Duration, error) {
		d, err := time.ParseDuration(s)
		if err != nil {
			return 0, fmt.Errorf("%s is not a duration: write a number and a unit (ms, s, m, h), such as \"1m\" or \"1h30m\"", quote(s))
		}
		if d < low {
			return 0, fmt.Errorf("%s is too short: write \"%v\" or more", quote(s), low)
		}
		return d, nil
	}
}

// intervalOrZero is interval, with 0 for never.
func intervalOrZero(low time.Duration) func(string) (time.Duration, error) {
	parse := interval(low)
	return func(s string) (time.Duration, error) {
		if d, err := time.ParseDuration(s); err == nil && d == 0 {
			return 0, nil
		}
		d, err := parse(s)
		if err != nil {
			err = errors.New(err.Error() + ", or \"0\" for never")
		}
		return d, err
	}
}

// maxHours is a hundred years, which a time.Duration can hold.
const maxHours = 100 * 365 * 24

// quote is s as messages show it: on one line, and not without end.
func quote(s string) string {
	const most = 80
	if r := []rune(s); len(r) > most {
		s = string(r[:most]) + "..."
	}
	return strconv.Quote(s)
}
