package config

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// node is one value of a document, with its place. Its methods read what is
// below it by a path relative to it, such as "ays.id". A value of the wrong
// type is treated as one that isn't there: check has reported it.
type node struct {
	doc   *document
	path  string // in the schema
	value any    // nil: not there
	place *place // nil: not known
	line  int    // of the value; if it isn't there, of the table that it belongs in
}

// child is the value of one key.
func (n node) child(key string) node {
	c := node{doc: n.doc, path: join(n.path, []string{key}), line: n.line}
	if m, ok := n.value.(map[string]any); ok {
		c.value = m[key]
	}
	if c.value != nil && n.place != nil {
		c.put(n.place.keys[key])
	}
	return c
}

func (n *node) put(p *place) {
	if n.place = p; p != nil {
		n.line = p.line
	}
}

// elements is what is in a list; none if n is something else.
func (n node) elements() []node {
	var list []any
	switch v := n.value.(type) {
	case []any:
		list = v
	case []map[string]any:
		for _, m := range v {
			list = append(list, m)
		}
	}
	nodes := make([]node, len(list))
	for i, v := range list {
		nodes[i] = node{doc: n.doc, path: n.path, value: v, line: n.line}
		if n.place != nil && i < len(n.place.elems) {
			nodes[i].put(n.place.elems[i])
		}
	}
	return nodes
}

// is tells whether n is of a kind.
func (n node) is(k kind) bool {
	switch n.value.(type) {
	case map[string]any:
		return k == table
	case string:
		return k == text || k == secret || k == some
	case int64:
		return k == whole
	case bool:
		return k == flag
	case []any, []map[string]any:
		return (k == tables || k == texts || k == some) && n.misfit(k) == nil
	}
	return false
}

// misfit is the first element that a list of kind k can't have; nil if there
// is none.
func (n node) misfit(k kind) *node {
	list := n.elements()
	i := slices.IndexFunc(list, func(e node) bool { return !e.is(k.elem()) })
	if i < 0 {
		return nil
	}
	return &list[i]
}

// get is the value at a path below n, and whether it is of kind k.
func (n node) get(rel string, k kind) (node, bool) {
	for key := range strings.SplitSeq(rel, ".") {
		n = n.child(key)
	}
	return n, n.is(k)
}

// problem reports what is wrong with the value at a path below n.
func (n node) problem(rel, format string, args ...any) {
	if rel != "" {
		n, _ = n.get(rel, table)
	}
	n.doc.problem(n.line, n.path, fmt.Sprintf(format, args...))
}

func (n node) table(rel string) node {
	t, _ := n.get(rel, table)
	return t
}

// list is the elements of a list of kind k.
func (n node) list(rel string, k kind) []node {
	if c, ok := n.get(rel, k); ok {
		return c.elements()
	}
	return nil
}

func (n node) text(rel, absent string) string {
	if c, ok := n.get(rel, text); ok {
		return c.value.(string)
	}
	return absent
}

// some is the text at a path below n, or the list of it that is there.
func (n node) some(rel string) []node {
	c, ok := n.get(rel, some)
	if _, single := c.value.(string); single {
		return []node{c}
	}
	if !ok {
		return nil
	}
	return c.elements()
}

func (n node) secret(rel string) Secret { return NewSecret(n.text(rel, "")) }

// credentials are a login and a password, of which one alone is most likely a mistake.
func (n node) credentials(login, passwd string) (string, Secret) {
	l, p := n.text(login, ""), n.secret(passwd)
	given, _ := n.get(passwd, secret)
	switch {
	case l != "" && given.value == nil:
		n.problem(login, "has no %[1]s: write one, %[1]s = \"\" where it is empty, or leave the %[2]s out", passwd, login)
	case l == "" && p.Reveal() != "":
		n.problem(passwd, "has no %[1]s: write one, or leave the %[2]s out", login, passwd)
	}
	return l, p
}

func (n node) flag(rel string, absent bool) bool {
	if c, ok := n.get(rel, flag); ok {
		return c.value.(bool)
	}
	return absent
}

// whole is a number from low to high.
func (n node) whole(rel string, absent, low, high int) int {
	c, ok := n.get(rel, whole)
	if !ok {
		return absent
	}
	v := c.value.(int64)
	if v < int64(low) || v > int64(high) {
		c.problem("", "%d is out of range: write %d to %d", v, low, high)
		return absent
	}
	return int(v)
}

func (n node) port(rel string) int { return n.whole(rel, 0, 1, 65535) }

// hours is a number of hours as a duration; 0 is for never.
func (n node) hours(rel string, absent int) time.Duration {
	return time.Duration(n.whole(rel, absent, 0, maxHours)) * time.Hour
}

// has reports a value that isn't there or is empty, with an example of one.
func (n node) has(rel, example string) bool {
	if n.value != nil && !n.is(table) {
		return false // which check has reported
	}
	n, _ = n.get(rel, text)
	switch {
	case n.value == nil:
		n.problem("", "is missing: write such as %s = %s", rel, example)
	case n.value == "":
		n.problem("", "is empty: write such as %s = %s", rel, example)
	default:
		return true
	}
	return false
}

// none tells whether there isn't one [[rel]].
func (n node) none(rel string) bool {
	n, ok := n.get(rel, tables)
	return n.value == nil || ok && len(n.elements()) == 0
}

// parsed is the text at a path below n as parse reads it, which also says
// what is wrong with it; then what parse returned is for further checks only.
// Empty text is the zero T where that is the default.
func parsed[T any](n node, rel, absent string, parse func(string) (T, error)) T {
	s := n.text(rel, absent)
	if s == "" && absent == "" {
		var zero T
		return zero
	}
	v, err := parse(s)
	if err != nil {
		n.problem(rel, "%v", err)
	}
	return v
}
