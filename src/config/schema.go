package config

import (
	"slices"
	"strings"
)

// kind is what may stand at a key.
type kind int

const (
	table  kind = iota // [key]
	tables             // [[key]]
	text
	secret // text that no message shows
	texts  // a list of text
	some   // text, or a list of it
	whole  // a number without a fraction
	flag   // true or false
)

// elem is the kind of what a list of kind k has in it.
func (k kind) elem() kind {
	if k == tables {
		return table
	}
	return text
}

// schema is every key that a file can have, in the order to show them, each
// with its whole path. What is between two dots is a table of its own.
type schema []entry

type entry struct {
	path string
	kind kind
}

// kindOf is the kind of a path; false if there is none such. The tables that
// dotted keys go through, as ays in ays.id, are there too.
func (sc schema) kindOf(path string) (kind, bool) {
	through := false
	for _, e := range sc {
		if e.path == path {
			return e.kind, true
		}
		through = through || strings.HasPrefix(e.path, path+".")
	}
	return table, through
}

// known cuts a path behind the first part that isn't a table: in text with
// errors, what seems to be below that may be a piece of a password.
func (sc schema) known(path string) string {
	for i := range path {
		if path[i] != '.' {
			continue
		}
		if k, ok := sc.kindOf(path[:i]); !ok || k != table && k != tables {
			return path[:i]
		}
	}
	return path
}

// wants says what to write at a path.
func (sc schema) wants(path string) string {
	k, _ := sc.kindOf(path)
	switch k {
	case table:
		if slices.ContainsFunc(sc, func(e entry) bool { return e.path == path }) {
			return "is a table: write [" + path + "]"
		}
		last := path[strings.LastIndexByte(path, '.')+1:]
		return "has keys of its own: write " + last + "." + strings.Join(sc.below(path), ", "+last+".")
	case tables:
		return "is a table that can be there more than once: write [[" + path + "]]"
	case texts:
		return "wants a list of strings: write each in single quotes, between [ and ]"
	case some:
		return "wants a string, or a list of strings: write each in quotes, and more than one between [ and ]"
	case whole:
		return "wants a whole number, without quotes"
	case flag:
		return "wants true or false, without quotes"
	}
	return "wants a string: write the value in quotes"
}

// showable tells whether the value at a path may be part of a message: where
// we don't know the key, what stands there may well be a password.
func (sc schema) showable(path string) bool {
	k, ok := sc.kindOf(path)
	return ok && k != secret
}

// below is the schema's paths in a table, relative to it.
func (sc schema) below(path string) []string {
	var rel []string
	for _, e := range sc {
		if path == "" {
			rel = append(rel, e.path)
		} else if r, ok := strings.CutPrefix(e.path, path+"."); ok {
			rel = append(rel, r)
		}
	}
	return rel
}

// unknown is the message for a key that is not in the schema: the nearest
// that is, or all that could stand there.
func (sc schema) unknown(parent, key string) string {
	if near := sc.near(parent, key); near != "" {
		return "unknown key: did you mean " + near + "?"
	}
	known := sc.below(parent)
	if parent == "" {
		known = slices.DeleteFunc(known, func(path string) bool {
			k, _ := sc.kindOf(path)
			return k != table && k != tables
		})
	}
	return "unknown key: what can be here is " + strings.Join(known, ", ")
}

// near is the path in a table that key is most like; empty if none is.
func (sc schema) near(parent, key string) string {
	known := sc.below(parent)
	deeper := slices.DeleteFunc(slices.Clone(known), func(k string) bool { return !strings.HasSuffix(k, "."+key) })
	if len(deeper) == 1 {
		return deeper[0] // expiration, meant as cache.expiration
	}
	if len(key) > 80 {
		return ""
	}
	best, least := "", 1+min(3, (len(key)+1)/3)
	for _, k := range known {
		// The tables on the way count as well: stor in stor.name.
		for _, k := range []string{k, firstPart(k)} {
			if d := distance(strings.ToLower(key), strings.ToLower(k)); d < least {
				best, least = k, d
			}
		}
	}
	return best
}

func firstPart(path string) string {
	first, _, _ := strings.Cut(path, ".")
	return first
}

// distance is how many characters must be put in, taken out or changed to
// make b of a.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			d := diagonal
			if a[i] != b[j] {
				d = 1 + min(diagonal, row[j], row[j+1])
			}
			diagonal, row[j+1] = row[j+1], d
		}
	}
	return row[len(b)]
}
