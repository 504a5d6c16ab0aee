package config

import (
	"math"
	"testing"
)

func TestSizes(t *testing.T) {
	for s, want := range map[string]int64{
		"0": 0, "1B": 1, "10GiB": 10 << 30, "100MB": 1e8, "64 MiB": 64 << 20, "1.5kB": 1500, "2tib": 2 << 40, "1KB": 1000,
		"": -1, "10": -1, "10G": -1, "GiB": -1, "-1GiB": -1, "1e3MB": -1, "infB": -1, "0x1B": -1, "1.2.3MB": -1, "5%": -1, "1 0MB": -1, "99999999TB": -1, "8388608TiB": -1,
	} {
		got, err := parseSize(s)
		if (err != nil) != (want < 0) || err == nil && got != want {
			t.Errorf("%q: got %d, %v", s, got, err)
		}
	}
}

func TestMinFree(t *testing.T) {
	for s, want := range map[string]int64{
		"5%": 50, "2.5%": 25, "0%": 0, "99.9%": 999, "7B": 7, "0": 0,
		"": -1, "%": -1, "100%": -1, "-1%": -1, "5": -1, "5 %": -1, "NaN%": -1,
	} {
		m, err := parseMinFree(s)
		if got := m.Of(1000); (err != nil) != (want < 0) || err == nil && got != want {
			t.Errorf("%q: got %d, %v", s, got, err)
		}
	}
	if got := (MinFree{Percent: 50}).Of(math.MaxInt64); got < math.MaxInt64/2 {
		t.Errorf("of the largest: got %d", got)
	}
}

func TestDistance(t *testing.T) {
	for _, test := range []struct {
		a, b string
		want int
	}{{"", "", 0}, {"", "abc", 3}, {"abc", "", 3}, {"abc", "abc", 0}, {"kitten", "sitting", 3}, {"stor", "store", 1}, {"ab", "ba", 2}} {
		if got := distance(test.a, test.b); got != test.want {
			t.Errorf("%q to %q: got %d, want %d", test.a, test.b, got, test.want)
		}
	}
}
