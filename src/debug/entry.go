package debug

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strconv"
	"time"
	"unicode/utf16"
	"unicode/utf8"
)

// Entry is one line of the log.
type Entry struct {
	Index int64 // its place in the log; the first is 0
	Time  time.Time
	Path  string // relative to the mount's root, bytes
	MD5   string // empty: it was removed
	Who   string // id of the client; empty where it was not told
}

// encode is the entry as the log has it.
func (e Entry) encode() string {
	b := append([]byte{'['}, strconv.FormatInt(e.Time.Unix(), 10)...)
	for _, s := range []string{e.Path, e.MD5, e.Who} {
		b = appendJSON(append(b, ','), s)
	}
	return string(append(b, ']'))
}

// parseEntry reads one line of the log. Its errors are ErrFormat.
func parseEntry(index int64, line string) (Entry, error) {
	e := Entry{Index: index}
	var fields []json.RawMessage
	var epoch float64
	err := json.Unmarshal([]byte(line), &fields)
	if err == nil && (len(fields) < 3 || len(fields) > 4) {
		err = errors.New(`neither [epoch,"path","md5"] nor [epoch,"path","md5","who"]`)
	}
	if err == nil {
		err = json.Unmarshal(fields[0], &epoch)
	}
	if err == nil && math.Abs(epoch) > 1<<40 {
		err = errors.New("the time is out of all reason")
	}
	for i, to := range []*string{&e.Path, &e.MD5, &e.Who} {
		if err == nil && i+1 < len(fields) {
			*to, err = parseJSON(fields[i+1])
		}
	}
	if err == nil {
		err = CheckPath(e.Path)
	}
	if err == nil && e.MD5 != "" && !isMD5(e.MD5) {
		err = errors.New("the MD5 is not 32 digits of lower-case hex")
	}
	if err != nil {
		return Entry{}, fmt.Errorf("entry %d of the log, %.300q: %w: %w", index, line, ErrFormat, err)
	}
	whole, part := math.Modf(epoch)
	e.Time = time.Unix(int64(whole), int64(part*1e9))
	return e, nil
}

// A byte that is not UTF-8 is escaped as this plus the byte.
const byteEscape = 0xdc00

// appendJSON appends s as a JSON string, from which parseJSON makes s again.
func appendJSON(b []byte, s string) []byte {
	b = append(b, '"')
	for len(s) > 0 {
		r, n := utf8.DecodeRuneInString(s)
		switch {
		case r == utf8.RuneError && n == 1:
			b = fmt.Appendf(b, `\u%04x`, byteEscape+int(s[0]))
		case r == '"', r == '\\':
			b = append(b, '\\', byte(r))
		case r < ' ', r == 0x7f:
			b = fmt.Appendf(b, `\u%04x`, r)
		default:
			b = append(b, s[:n]...)
		}
		s = s[n:]
	}
	return append(b, '"')
}

// parseJSON reads a JSON string that is known to be well-formed JSON. What is
// between its quotes may be bytes, too.
func parseJSON(raw []byte) (string, error) {
	if len(raw) < 2 || raw[0] != '"' {
		return "", fmt.Errorf("%.100s is no string", raw)
	}
	in := raw[1 : len(raw)-1]
	out := make([]byte, 0, len(in))
	for i := 0; i < len(in); i++ {
		if in[i] != '\\' {
			out = append(out, in[i])
			continue
		}
		i++
		if in[i] != 'u' {
			c := in[i]
			if to, ok := plainEscapes[c]; ok {
				c = to
			}
			out = append(out, c)
			continue
		}
		r := hex4(in[i+1:])
		i += 4
		switch {
		case byteEscape+0x80 <= r && r <= byteEscape+0xff:
			out = append(out, byte(r-byteEscape))
		case utf16.IsSurrogate(r) && i+6 < len(in) && in[i+1] == '\\' && in[i+2] == 'u':
			if both := utf16.DecodeRune(r, hex4(in[i+3:])); both != utf8.RuneError {
				r = both
				i += 6
			}
			out = utf8.AppendRune(out, r)
		default:
			out = utf8.AppendRune(out, r)
		}
	}
	return string(out), nil
}

var plainEscapes = map[byte]byte{'b': '\b', 'f': '\f', 'n': '\n', 'r': '\r', 't': '\t'}

func hex4(b []byte) rune {
	n, err := strconv.ParseUint(string(b[:4]), 16, 32)
	if err != nil {
		return utf8.RuneError
	}
	return rune(n)
}

// JSONPath is a path that is spelled in JSON as in the log, bytes and all.
type JSONPath string

// MarshalJSON spells the path.
func (p JSONPath) MarshalJSON() ([]byte, error) { return appendJSON(nil, string(p)), nil }

// UnmarshalJSON reads what MarshalJSON spelled.
func (p *JSONPath) UnmarshalJSON(raw []byte) error {
	s, err := parseJSON(raw)
	*p = JSONPath(s)
	return err
}
