package config

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"unicode"
)

// Problem is one thing that is wrong in a config file.
type Problem struct {
	File string
	Line int    // from 1
	Key  string // dotted, with its table: mount_files.ays.id. Empty where it is about the whole file
	Msg  string // what is wrong and what to do; never has a secret in it
}

// String is FILE:LINE: KEY: MSG, on one line whatever the file has in it.
func (p Problem) String() string {
	s := fmt.Sprintf("%s:%d: ", p.File, p.Line)
	if p.Key != "" {
		s += p.Key + ": "
	}
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return ' '
		}
		return r
	}, s+p.Msg)
}

// Problems is all that is wrong in one file, in the order of its lines, and of
// its keys where a line has several.
type Problems []Problem

// Error has one line for each problem.
func (ps Problems) Error() string {
	lines := make([]string, len(ps))
	for i, p := range ps {
		lines[i] = p.String()
	}
	return strings.Join(lines, "\n")
}

func (ps Problems) sort() {
	slices.SortStableFunc(ps, func(a, b Problem) int {
		return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Key, b.Key))
	})
}
