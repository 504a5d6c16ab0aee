package config

import (
	"cmp"
	"errors"
	"fmt"
	"net/url"
	"path"
	"slices"
	"strconv"
	"strings"
	"unicode"
)

// maxName is the most bytes of a name, so that it can be a path segment.
const maxName = 128

// parseName reads what goes into URLs, keys and logs as it is.
func parseName(s string) (string, error) {
	switch {
	case len(s) > maxName:
		return s, fmt.Errorf("%s is a name of %d bytes: write at most %d", quote(s), len(s), maxName)
	case s == "." || s == ".." || strings.TrimSpace(s) != s || strings.ContainsFunc(s, notInName):
		return s, fmt.Errorf("%s can't be a name: write it without slashes, control characters and space around it", quote(s))
	}
	return s, nil
}

func notInName(r rune) bool { return r == '/' || r == '\\' || !unicode.IsPrint(r) }

// named remembers which line has which value of a key that must be unique.
type named map[string]int

func (seen named) add(n node, rel, value string) {
	if value == "" {
		return
	}
	c, _ := n.get(rel, text)
	if line, twice := seen[value]; twice {
		n.problem(rel, "%s is on line %d already: write another one", quote(value), line)
		return
	}
	seen[value] = c.line
}

func quoteAll(list []string) string {
	quoted := make([]string, len(list))
	for i, s := range list {
		quoted[i] = quote(s)
	}
	return strings.Join(quoted, ", ")
}

func oneOf(words ...string) func(string) (string, error) {
	return func(s string) (string, error) {
		if !slices.Contains(words, s) {
			return s, fmt.Errorf("%s is not one of these: write %s", quote(s), quoteAll(words))
		}
		return s, nil
	}
}

// parsePath reads an absolute path other than the root. A path with a problem
// comes back clean, so that it can still be compared.
func parsePath(s string) (string, error) {
	clean := path.Clean(s)
	switch {
	case !strings.HasPrefix(s, "/"):
		return clean, fmt.Errorf("%s is not a whole path: write it from / on", quote(s))
	case strings.ContainsFunc(s, unicode.IsControl):
		return clean, fmt.Errorf("%s has a control character: write a path without", quote(s))
	case clean == "/":
		return clean, fmt.Errorf("%s can't be used: write a directory below it", quote(s))
	case clean != s:
		return clean, fmt.Errorf("%s is not in its shortest form: write %s", quote(s), quote(clean))
	}
	return s, nil
}

// parseSocketPath is parsePath for a socket: the kernel takes only so much.
func parseSocketPath(s string) (string, error) {
	const most = 107
	if len(s) > most {
		return s, fmt.Errorf("%s has %d bytes: the path of a socket can have %d, write a shorter one", quote(s), len(s), most)
	}
	return parsePath(s)
}

// parseInside reads the path of a directory in a tree.
func parseInside(s string) (string, error) {
	clean := strings.Trim(path.Clean("/"+s), "/")
	if clean != s || strings.Contains(s, "\x00") {
		return clean, fmt.Errorf("%s is not a path inside the tree: write such as %s", quote(s), quote(clean))
	}
	return s, nil
}

// urlOf reads a URL of one of the schemes. No message quotes one: there may
// well be a password in it, in the wrong place.
func urlOf(schemes ...string) func(string) (*url.URL, error) {
	want := strings.Join(schemes, "://, ") + "://"
	return func(s string) (*url.URL, error) {
		u, err := url.Parse(s)
		switch {
		case err != nil || !slices.Contains(schemes, u.Scheme) || u.Opaque != "":
			return nil, errors.New("this is not a URL that can be used: write one that starts with " + want)
		case u.User != nil:
			return nil, errors.New("there is a login or a password in the URL: write them as keys of their own")
		case strings.ContainsAny(s, "?#"):
			return nil, errors.New("there is a ? or a # in the URL: leave it out, with what is behind")
		}
		if u.Scheme == "file" {
			err = checkFileURL(u)
		} else {
			err = checkWebURL(u)
		}
		if err != nil {
			return nil, err
		}
		u.Path, u.RawPath = strings.TrimRight(u.Path, "/"), strings.TrimRight(u.RawPath, "/")
		return u, nil
	}
}

func checkFileURL(u *url.URL) error {
	if u.Host != "" {
		return errors.New("there is a host in it, or the path isn't whole: write file:///a/directory, with three slashes")
	}
	_, err := parsePath(cmp.Or(strings.TrimRight(u.Path, "/"), "/"))
	return err
}

func checkWebURL(u *url.URL) error {
	if u.Hostname() == "" {
		return errors.New("there is no host in the URL: write such as " + u.Scheme + "://host:8080/path")
	}
	if p := u.Port(); p != "" || strings.HasSuffix(u.Host, ":") {
		if n, err := strconv.Atoi(p); err != nil || n < 1 || n > 65535 {
			return errors.New("the port in the URL is out of range: write 1 to 65535")
		}
	}
	return nil
}
