package config

import (
	"regexp"
	"strconv"
	"strings"
)

// place is where a value is: the line of its key, of its header, or of the
// element of a list. It has the places of what is inside it, and so mirrors
// the values that the TOML library makes of the same text.
type place struct {
	line  int
	set   bool // by key = value
	keys  map[string]*place
	elems []*place
}

// child returns the place of a key, making it at line where it is new.
func (p *place) child(key string, line int) *place {
	c := p.keys[key]
	if c == nil {
		if p.keys == nil {
			p.keys = map[string]*place{}
		}
		c = &place{line: line}
		p.keys[key] = c
	}
	return c
}

// last is where a header that goes through p leads: the newest table of an
// array of tables, or p itself.
func (p *place) last() *place {
	if n := len(p.elems); n > 0 {
		return p.elems[n-1]
	}
	return p
}

// statement is one header, or one key with its value.
type statement struct {
	line int
	path string
}

// fault is an error of syntax that we have a better message for than the
// TOML library.
type fault struct {
	line int // where it is
	seen int // where the library would stop at it
	path string
	msg  func(show bool) string // show: the value may be part of the message
}

// scanner finds the place of every value in TOML text. It takes anything,
// and takes it right if the library also does.
type scanner struct {
	src    string
	pos    int
	line   int
	root   *place
	table  *place // that the last header opened
	path   string // of table
	stmts  []statement
	twice  []statement // that give a key a second value
	faults []fault
}

func scan(src string) *scanner {
	root := &place{line: 1}
	s := &scanner{src: src, line: 1, root: root, table: root}
	for s.blank(); s.pos < len(s.src); s.blank() {
		if s.at("[") {
			s.header()
		} else {
			s.pair(s.table, s.path, 0)
		}
		s.to("\n")
	}
	return s
}

func (s *scanner) at(prefix string) bool { return strings.HasPrefix(s.src[s.pos:], prefix) }

// skip moves on by n bytes.
func (s *scanner) skip(n int) {
	s.line += strings.Count(s.src[s.pos:s.pos+n], "\n")
	s.pos += n
}

// to moves on to the next of the given characters, or to the end, and returns
// what is before it.
func (s *scanner) to(chars string) string {
	rest := s.src[s.pos:]
	if n := strings.IndexAny(rest, chars); n >= 0 {
		rest = rest[:n]
	}
	s.skip(len(rest))
	return rest
}

// spaces moves over white space within a line.
func (s *scanner) spaces() {
	for s.pos < len(s.src) && strings.IndexByte(" \t\r", s.src[s.pos]) >= 0 {
		s.pos++
	}
}

// blank moves over white space, line ends, comments and what else is given.
func (s *scanner) blank(also ...byte) {
	for s.pos < len(s.src) {
		switch c := s.src[s.pos]; {
		case c == '#':
			s.to("\n")
		case c == ' ', c == '\t', c == '\r', c == '\n', len(also) > 0 && c == also[0]:
			s.skip(1)
		default:
			return
		}
	}
}

// header reads [a.b] or [[a.b]].
func (s *scanner) header() {
	line, start := s.line, s.pos
	open, closing := "[", "]"
	if s.at("[[") {
		open, closing = "[[", "]]"
	}
	s.skip(len(open))
	parts := s.key()
	if len(parts) == 0 {
		s.stmts = append(s.stmts, statement{line, ""})
		return
	}
	s.path = join("", parts)
	s.stmts = append(s.stmts, statement{line, s.path})
	if !s.at(closing) {
		want := open + strings.TrimSpace(s.src[start+len(open):s.pos]) + closing
		s.fault(fault{line: line, seen: line, path: s.path, msg: func(bool) string {
			return "the header isn't closed: write " + want
		}})
	}
	p := s.root
	for _, k := range parts[:len(parts)-1] {
		p = p.child(k, line).last()
	}
	p = p.child(parts[len(parts)-1], line)
	if open == "[[" {
		p.elems = append(p.elems, &place{})
	}
	p = p.last()
	p.line = line
	s.table = p
}

// pair reads key = value into table p.
func (s *scanner) pair(p *place, path string, depth int) {
	line := s.line
	parts := s.key()
	if len(parts) == 0 || !s.at("=") {
		// Not with what stands there in place of a key: it may be a value.
		s.stmts = append(s.stmts, statement{line, path})
		s.fault(fault{line: line, seen: line, path: path, msg: func(bool) string {
			return "this is not key = value"
		}})
		return
	}
	path = join(path, parts)
	s.stmts = append(s.stmts, statement{line, path})
	s.skip(1)
	for _, k := range parts {
		p = p.child(k, line)
	}
	if p.set || p.keys != nil || p.elems != nil {
		s.twice = append(s.twice, statement{line, path})
	}
	p.set = true
	s.value(p, path, strings.Join(parts, ".")+" = ", depth)
}

// key reads the parts of a dotted key and the space after it.
func (s *scanner) key() []string {
	var parts []string
	for {
		s.spaces()
		switch {
		case s.at(`"`):
			raw, _ := s.quoted('"')
			part, err := strconv.Unquote(`"` + raw + `"`)
			if err != nil {
				part = raw
			}
			parts = append(parts, part)
		case s.at("'"):
			raw, _ := s.quoted('\'')
			parts = append(parts, raw)
		default:
			bare := s.to(" \t\r\n.=[]{}\"'#,")
			if bare == "" {
				return parts
			}
			parts = append(parts, bare)
		}
		s.spaces()
		if !s.at(".") {
			return parts
		}
		s.skip(1)
	}
}

// quoted reads a string on one line and returns what is between its quotes,
// escapes as they are; false if it isn't closed.
func (s *scanner) quoted(q byte) (raw string, closed bool) {
	s.skip(1)
	start := s.pos
	for ; s.pos < len(s.src) && s.src[s.pos] != '\n'; s.pos++ {
		switch c := s.src[s.pos]; {
		case c == q:
			s.pos++
			return s.src[start : s.pos-1], true
		case c == '\\' && q == '"' && s.pos+1 < len(s.src) && s.src[s.pos+1] != '\n':
			s.pos++
		}
	}
	return strings.TrimRight(s.src[start:s.pos], "\r"), false
}

// multiline reads a string between three quotes.
func (s *scanner) multiline(q, path string) {
	line := s.line
	s.skip(3)
	for s.pos < len(s.src) {
		switch {
		case s.at(q):
			s.skip(3)
			for i := 0; i < 2 && s.at(q[:1]); i++ { // up to two quotes may end the string's text
				s.skip(1)
			}
			return
		case s.at(`\`) && q == `"""` && s.pos+1 < len(s.src):
			s.skip(2)
		default:
			s.skip(1)
		}
	}
	end := s.line - strings.Count(s.src[len(s.src)-1:], "\n") // the library's is that of the last character
	s.fault(fault{line: line, seen: end, path: path, msg: func(bool) string {
		return "the string that starts here isn't closed: write " + q + " at its end"
	}})
}

// maxDepth bounds the nesting of lists and inline tables. No key of ours
// nests at all.
const maxDepth = 50

// value reads a value into p. cure is what a corrected value is to be written
// after, in messages.
func (s *scanner) value(p *place, path, cure string, depth int) {
	s.spaces()
	switch line := s.line; {
	case s.at(`"""`), s.at("'''"):
		s.multiline(s.src[s.pos:s.pos+3], path)
	case s.at(`"`):
		raw, closed := s.quoted('"')
		switch {
		case !closed:
			s.unclosed(line, path, `"`)
		case badEscape.MatchString(strings.ReplaceAll(raw, `\\`, "")):
			s.fault(fault{line: line, seen: line, path: path, msg: func(show bool) string {
				if !show {
					return "in double quotes a backslash starts an escape: write the value in single quotes"
				}
				meant := strings.NewReplacer(`\\`, `\`, `\"`, `"`).Replace(raw)
				return `"` + raw + `": in double quotes a backslash starts an escape: write ` + cure + tomlString(meant)
			}})
		}
	case s.at("'"):
		if _, closed := s.quoted('\''); !closed {
			s.unclosed(line, path, "'")
		}
	case s.at("[") && depth < maxDepth:
		s.list(p, path, depth)
	case s.at("{") && depth < maxDepth:
		s.skip(1)
		for s.blank(','); s.pos < len(s.src) && !s.at("}"); s.blank(',') {
			before := s.pos
			if s.pair(p, path, depth+1); s.pos == before {
				s.skip(1)
			}
		}
		if s.pos < len(s.src) {
			s.skip(1)
		}
	default:
		end := "#\n"
		if depth > 0 {
			end = ",]}#\n"
		}
		s.bare(strings.TrimSpace(s.to(end)), line, path, cure)
	}
}

// list reads [ ... ].
func (s *scanner) list(p *place, path string, depth int) {
	line := s.line
	s.skip(1)
	for s.blank(','); s.pos < len(s.src) && !s.at("]"); s.blank(',') {
		if next := s.src[s.pos:]; s.line > line && statementStart.MatchString(next) {
			s.fault(fault{line: line, seen: s.line, path: path, msg: func(bool) string {
				return "the list that starts here isn't closed: write ] at its end"
			}})
			// The line it stands on must be read as a statement of its own.
			s.pos = strings.LastIndexByte(s.src[:s.pos], '\n')
			s.line--
			return
		}
		before := s.pos
		elem := &place{line: s.line}
		p.elems = append(p.elems, elem)
		if s.value(elem, path, "", depth+1); s.pos == before {
			s.skip(1)
		}
	}
	if s.pos < len(s.src) {
		s.skip(1)
	}
}

var (
	// badEscape finds a backslash that starts no escape, in text without
	// doubled backslashes.
	badEscape = regexp.MustCompile(`\\([^btnfre"xuU]|x[0-9a-fA-F]?([^0-9a-fA-F]|$)|u[0-9a-fA-F]{0,3}([^0-9a-fA-F]|$)|U[0-9a-fA-F]{0,7}([^0-9a-fA-F]|$))`)

	// bareValue is what may stand without quotes, roughly.
	bareValue = regexp.MustCompile(`^(true|false|[+-]?(inf|nan|[0-9][0-9_]*(\.[0-9_]+)?([eE][+-]?[0-9_]+)?)|0x[0-9a-fA-F_]+|0o[0-7_]+|0b[01_]+|\d{4}-\d\d-\d\d.*|\d\d:\d\d.*)$`)

	// statementStart is what a list has no line of.
	statementStart = regexp.MustCompile(`^(\[+[ \t]*[A-Za-z][\w.-]*[ \t]*\]|[A-Za-z][\w.-]*[ \t]*=)`)
)

// bare takes a value without quotes.
func (s *scanner) bare(v string, line int, path, cure string) {
	switch {
	case v == "":
		s.fault(fault{line: line, seen: line, path: path, msg: func(bool) string {
			return "has no value: write " + cure + `"..."`
		}})
	case !bareValue.MatchString(v):
		s.fault(fault{line: line, seen: line, path: path, msg: func(show bool) string {
			if !show {
				return "a string needs quotes: write the value in double quotes, or in single quotes if it has a backslash"
			}
			return "a string needs quotes: write " + cure + tomlString(strings.Trim(v, "\"'`“”„‘’"))
		}})
	}
}

func (s *scanner) unclosed(line int, path, q string) {
	s.fault(fault{line: line, seen: line, path: path, msg: func(bool) string {
		return "the string isn't closed: write " + q + " at its end"
	}})
}

func (s *scanner) fault(f fault) { s.faults = append(s.faults, f) }

// tomlString writes v in the quotes that suit it.
func tomlString(v string) string {
	if strings.ContainsAny(v, `\"`) && !strings.Contains(v, "'") {
		return "'" + v + "'"
	}
	return strconv.Quote(v)
}

var bareKey = regexp.MustCompile(`^[A-Za-z0-9_-]+$`)

// join appends the parts of a key to the path of its table, with quotes where
// a part needs them. Parts longer than any of ours are cut.
func join(path string, parts []string) string {
	for _, k := range parts {
		if !bareKey.MatchString(k) || len(k) > 80 {
			k = quote(k)
		}
		if path != "" {
			path += "."
		}
		path += k
	}
	return path
}
