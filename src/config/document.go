package config

import (
	"errors"
	"strings"
	"unicode/utf8"

	"github.com/BurntSushi/toml"
)

// maxFile is the most bytes that a config file can have.
const maxFile = 1 << 20

// document is a file whose keys and types are those of its schema, or have a
// problem.
type document struct {
	name     string
	image    string // root of the image that the file's paths are in; empty: this machine
	schema   schema
	root     node
	problems Problems
}

const twice = "is there twice: remove one of the two"

// parse makes a document of TOML text. Where it can't, the error is Problems;
// else the problems so far are in the document.
func parse(name string, data []byte, sc schema) (*document, error) {
	return parseIn("", name, data, sc)
}

// parseIn is parse for a file that belongs into an image.
func parseIn(image, name string, data []byte, sc schema) (*document, error) {
	doc := &document{name: name, image: image, schema: sc}
	src := strings.TrimPrefix(string(data), "\ufeff")
	if line, msg := unreadable(src); msg != "" {
		doc.problem(line, "", msg)
		return nil, doc.problems
	}
	scanned := scan(src)
	var values map[string]any
	if _, err := toml.Decode(src, &values); err != nil {
		doc.syntax(src, scanned, err)
		return nil, doc.problems
	}
	for _, st := range scanned.twice { // the library lets some pass: a.b = 1, then a = 1
		doc.problem(st.line, st.path, twice)
	}
	doc.root = node{doc: doc, value: values, place: scanned.root, line: 1}
	doc.check(doc.root)
	return doc, nil
}

func unreadable(src string) (line int, msg string) {
	switch {
	case len(src) > maxFile:
		return 1, "the file is more than 1 MiB long, which no config is: name another"
	case strings.HasPrefix(src, "\xff\xfe"), strings.HasPrefix(src, "\xfe\xff"):
		return 1, "the file is UTF-16: save it as UTF-8"
	case strings.TrimSpace(src) == "":
		return 1, "the file is empty: start from the sample"
	case !utf8.ValidString(src):
		i := 0
		for i < len(src) {
			r, n := utf8.DecodeRuneInString(src[i:])
			if r == utf8.RuneError && n == 1 {
				break
			}
			i += n
		}
		return 1 + strings.Count(src[:i], "\n"), "there is a byte that isn't UTF-8: save the file as UTF-8"
	}
	return 0, ""
}

// syntax reports why the library could not parse src. The library stops at
// the first error; the scanner may have found more, and better words.
func (doc *document) syntax(src string, s *scanner, err error) {
	line, msg := 1, err.Error()
	var pe toml.ParseError
	if errors.As(err, &pe) {
		// Its own line is one too high where it stopped at a line's end.
		start := min(max(pe.Position.Start, 0), len(src))
		line, msg = 1+strings.Count(src[:start], "\n"), pe.Message
	}
	explained := false
	for _, f := range s.faults {
		if f.seen >= line { // what is before, the library has found right
			doc.problem(f.line, doc.schema.known(f.path), f.msg(doc.schema.showable(f.path)))
			explained = explained || f.seen == line
		}
	}
	if !explained {
		path := ""
		for _, st := range s.stmts {
			if st.line <= line {
				path = st.path
			}
		}
		doc.problem(line, doc.schema.known(path), doc.translate(path, msg))
	}
	doc.problems.sort()
}

// translate makes a message of the library's one about the key at path.
func (doc *document) translate(path, msg string) string {
	k, known := doc.schema.kindOf(path)
	switch {
	case strings.Contains(msg, "already") && known && k == tables:
		return doc.schema.wants(path) // it was written both as one table and as many
	case strings.Contains(msg, "already"):
		return twice
	case !doc.schema.showable(path):
		// The library's messages have pieces of the text in them.
		return "this is not TOML: write key = value, strings in quotes, and nothing but a comment behind"
	}
	return "this is not TOML: " + msg
}

func (doc *document) problem(line int, key, msg string) {
	const most = 600 // of a message that quotes the file
	if r := []rune(msg); len(r) > most {
		msg = string(r[:most]) + "..."
	}
	doc.problems = append(doc.problems, Problem{File: doc.name, Line: max(line, 1), Key: key, Msg: msg})
}

// check holds what is in the table n against the schema.
func (doc *document) check(n node) {
	values, _ := n.value.(map[string]any)
	for key := range values {
		c := n.child(key)
		k, ok := doc.schema.kindOf(c.path)
		switch {
		case !ok:
			doc.problem(c.line, c.path, doc.schema.unknown(n.path, key))
		case !c.is(k):
			if e := c.misfit(k); e != nil && (k == tables || k == texts || k == some) {
				c.line = e.line
			}
			doc.problem(c.line, c.path, doc.schema.wants(c.path))
		case k == table:
			doc.check(c)
		case k == tables:
			for _, e := range c.elements() {
				doc.check(e)
			}
		}
	}
}
