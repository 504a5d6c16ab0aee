package config

import "strings"

// Pattern is text in which each * stands for any characters, or none.
type Pattern string

// Match tells whether all of s is as the pattern says.
func (p Pattern) Match(s string) bool {
	parts := strings.Split(string(p), "*")
	if len(parts) == 1 {
		return s == parts[0]
	}
	first, last := parts[0], parts[len(parts)-1]
	if len(s) < len(first)+len(last) || !strings.HasPrefix(s, first) || !strings.HasSuffix(s, last) {
		return false
	}
	s = s[len(first) : len(s)-len(last)]
	for _, part := range parts[1 : len(parts)-1] {
		_, rest, ok := strings.Cut(s, part)
		if !ok {
			return false
		}
		s = rest
	}
	return true
}
