package config

import (
	"crypto/rand"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/mod/sumdb/note"
)

// TestProblems has files with all of the problems that they must give, each
// as "line: key: a part of the message". A case that starts with + is what
// follows minimal, and so begins on line 11.
func TestProblems(t *testing.T) {
	for _, test := range []struct {
		name, text string
		want       []string
	}{
		// As existing files have it.
		{"no quotes", "[main]\nid = \"x\"\n[[mount_files]]\nname=mongodb\n", []string{
			`4: mount_files.name: a string needs quotes: write name = "mongodb"`}},
		{"backslash", "+debug_filter = [\".*\\.py\", '.*\\.hrd',\n \".*\\.c\"]\n", []string{
			`11: mount_files.debug_filter: ".*\.py": in double quotes a backslash starts an escape: write '.*\.py'`,
			`12: mount_files.debug_filter: ".*\.c": in double quotes a backslash starts an escape: write '.*\.c'`}},
		{"both, and a comment", "[[mount_files]]\nname=mongodb # the base\npath = /opt/x\ndebug_filter = [\".*\\.py\"]\n", []string{
			`2: mount_files.name: a string needs quotes: write name = "mongodb"`,
			`3: mount_files.path: a string needs quotes: write path = "/opt/x"`,
			`4: mount_files.debug_filter: write '.*\.py'`}},
		{"what looks like a number", "[main]\nid = 10.1.888\nrefresh = 1m\nmemory = 64MiB\n", []string{
			`2: main.id: write id = "10.1.888"`, `3: main.refresh: write refresh = "1m"`, `4: main.memory: write memory = "64MiB"`}},
		{"dotted, after CRLF", "[[mount_files]]\r\n\r\nays.id = jumpscale|mongodb(1)\r\n", []string{
			`3: mount_files.ays.id: write ays.id = "jumpscale|mongodb(1)"`}},
		{"list without quotes", "[[mount_files]]\ndebug_filter = [.*\\.py, x]\n", []string{
			`2: mount_files.debug_filter: write '.*\.py'`, `2: mount_files.debug_filter: write "x"`}},
		{"curly quotes", "[main]\nid = “me”\n", []string{`2: main.id: write id = "me"`}},
		{"a quote inside", "[main]\nid = \"it's \\. me\"\n", []string{`2: main.id: write id = "it's \\. me"`}},

		// Other syntax.
		{"no value", "[main]\nid =\nlog = \"text\"\n", []string{`2: main.id: has no value`}},
		{"open string", "[main]\nid = \"me\nlog = \"text\"\n", []string{`2: main.id: the string isn't closed: write " at its end`}},
		{"open string at the end", "[main]\nid = 'me", []string{`2: main.id: the string isn't closed: write '`}},
		{"open long string", "[main]\nid = \"\"\"\na\nb\n\n", []string{`2: main.id: the string that starts here isn't closed`}},
		{"open list before a header", "[[mount_files]]\ndebug_filter = ['a',\n 'b'\n\n[[debug]]\nname = x\n", []string{
			`2: mount_files.debug_filter: the list that starts here isn't closed`, `6: debug.name: write name = "x"`}},
		{"open list before a key", "[[mount_files]]\ndebug_filter = [\nname = \"x\"\n", []string{
			`2: mount_files.debug_filter: the list that starts here isn't closed`}},
		{"open header", "\n[main\nid = \"x\"\n", []string{`2: main: the header isn't closed: write [main]`}},
		{"half-open header", "\n[[debug]\nname = \"x\"\n", []string{`2: debug: the header isn't closed: write [[debug]]`}},
		{"no equals", "[main]\nid \"x\"\n", []string{`2: main: this is not key = value`}},
		{"no key", "[main]\nlog = \"text\"\n= 5\n", []string{`3: main: this is not key = value`}},
		{"more behind", "[main]\nid = \"x\" y\n", []string{`2: main.id: this is not TOML`}},
		{"leading zero", "[[cache.local]]\nport = 0999\n", []string{`2: cache.local.port: this is not TOML`}},
		{"key twice, in the second of two", "[[debug]]\nname = \"a\"\n[[debug]]\n\nname = \"b\"\n# c\nname = \"d\"\n", []string{
			`7: debug.name: is there twice: remove one`}},
		{"table twice", "[main]\nid = \"x\"\n[main]\n", []string{`3: main: is there twice`}},
		{"tables as table, twice", "[debug]\nname = \"x\"\n[debug]\nname = \"x\"\n", []string{`3: debug: write [[debug]]`}},
		{"table, then tables", "[debug]\nname = \"x\"\n[[debug]]\nname = \"x\"\n", []string{`3: debug: write [[debug]]`}},
		{"empty", "", []string{`1: the file is empty`}},
		{"blank", " \r\n\n", []string{`1: the file is empty`}},
		{"UTF-16", "\xff\xfe[\x00m\x00", []string{`1: the file is UTF-16: save it as UTF-8`}},
		{"Latin-1", "[main]\n# caf\xe9\n", []string{`2: there is a byte that isn't UTF-8`}},
		{"NUL", "[main]\nid = \"a\x00b\"\n", []string{`2: main.id: control character`}},
		{"long", "#" + strings.Repeat("x", maxFile), []string{`1: the file is more than 1 MiB`}},

		// Missing.
		{"nothing", "# c\n", []string{
			`1: ays.stor: there is no store: write an [[ays.stor]]`, `1: main.id: is missing: write such as id = `,
			`1: mount_files: there is no mount`}},
		{"no id", "\n\n[main]\nlog = \"json\"\n" + strings.TrimPrefix(minimal, "[main]\nid = \"me\"\n"), []string{`3: main.id: is missing`}},
		{"empty id", strings.Replace(minimal, `"me"`, `""`, 1), []string{`2: main.id: is empty`}},
		{"the second of each", "+[[ays.stor]]\n[[mount_files]]\n\n[[mount_config]]\n[[debug]]\n[[cache.grid]]\n", []string{
			`11: ays.stor.name: is missing`, `11: ays.stor.url: is missing`,
			`12: mount_files.ays.id: is missing`, `12: mount_files.name: is missing`, `12: mount_files.path: is missing`, `12: mount_files.stor.name: is missing`,
			`14: mount_config.ays.id: is missing`, `14: mount_config.path: is missing`, `14: mount_config.stor.name: is missing`,
			`15: debug.name: is missing`, `15: debug.redis.addr: is missing`, `15: debug.redis.port: is missing`,
			`16: cache.grid.url: is missing`}},

		// Unknown keys.
		{"unknown in the second of two", "+[[debug]]\nname = \"a\"\nredis.addr = \"h\"\nredis.port = 1\n[[debug]]\nname = \"b\"\nredis.adr = \"h\"\nredis.addr = \"h\"\nredis.port = 1\n", []string{
			`17: debug.redis.adr: unknown key: did you mean addr?`}},
		{"unknown after strings, lists and comments", "+debug_filter = [ # [[debug]]\n  'a', # ]\n  '''\n]\nx = 1\n''',\n  \"\"\"\n\\\"\"\" ]\"\"\"\"\n]\nprefech = 1\n", []string{
			`13: mount_files.debug_filter: control character`, `20: mount_files.prefech: unknown key: did you mean prefetch?`}},
		{"case", "[Main]\nid = \"x\"\n" + strings.TrimPrefix(minimal, "[main]\nid = \"me\"\n"), []string{
			`1: Main: unknown key: did you mean main?`, `1: main.id: is missing`}},
		{"table", "+[[mount_file]]\nname = \"x\"\n", []string{`11: mount_file: unknown key: did you mean mount_files?`}},
		{"store", "+[[ays.store]]\nname = \"x\"\n", []string{`11: ays.store: unknown key: did you mean stor?`}},
		{"table on the way", "+store.name = \"s\"\n", []string{`11: mount_files.store: unknown key: did you mean stor?`}},
		{"deeper", "+[[ays.stor]]\nname = \"t\"\nurl = \"http://h\"\nexpiration = 5\n", []string{
			`14: ays.stor.expiration: unknown key: did you mean cache.expiration?`}},
		{"like none", "+[cache.disk]\n\nwibble = 1\n", []string{
			`13: cache.disk.wibble: unknown key: what can be here is path, max_size, min_free, expiration`}},
		{"at the top", "colour = 1\n" + minimal, []string{`1: colour: unknown key: what can be here is main, cache.disk, `}},
		{"quoted", "+\"a b\\nc\" = 1\n'pre.fetch' = 2\n", []string{
			`11: mount_files."a b\nc": unknown key`, `12: mount_files."pre.fetch": unknown key`}},
		{"long", "+\"" + strings.Repeat("x", 1000) + "\" = 1\n" + strings.Repeat("y", 1000) + " = 1\nplatform = \"" + strings.Repeat("z", 1000) + "\"\n", []string{
			"11: mount_files.\"" + strings.Repeat("x", 80) + "...\": unknown key", "12: mount_files.\"" + strings.Repeat("y", 80) + "...\": unknown key",
			"13: mount_files.platform: " + strings.Repeat("z", 500)}},
		{"inline", "+[cache]\ndisk = {max_size = \"1GiB\",\n pth = \"/x\"}\n", []string{`13: cache.disk.pth: unknown key: did you mean path?`}},

		// Wrong types.
		{"types", "+debug = 5\nprefetch = \"1\"\ndebug_filter = \"x\"\nname2 = 1\n[cache.disk]\nexpiration = 1.5\nmax_size = 5\n", []string{
			`11: mount_files.debug: wants a string: write the value in quotes`, `12: mount_files.prefetch: wants a whole number, without quotes`,
			`13: mount_files.debug_filter: wants a list of strings`, `14: mount_files.name2: unknown key: did you mean name?`,
			`16: cache.disk.expiration: wants a whole number`, `17: cache.disk.max_size: wants a string`}},
		{"in a list", "+debug_filter = ['a',\n 'b',\n 5]\n", []string{`13: mount_files.debug_filter: wants a list of strings`}},
		{"flag", "[main]\nxattr = \"true\"\nid = 5\n" + strings.TrimPrefix(minimal, "[main]\nid = \"me\"\n"), []string{
			`2: main.xattr: wants true or false, without quotes`, `3: main.id: wants a string`}},
		{"one table", "[ays]\nstor = {name = \"s\"}\n[[mount_files]]\n[main]\nid = \"x\"\n", []string{
			`2: ays.stor: write [[ays.stor]]`, `3: mount_files.ays.id: is missing`, `3: mount_files.name: is missing`,
			`3: mount_files.path: is missing`, `3: mount_files.stor.name: is missing`}},
		{"many tables", "[[main]]\nid = \"x\"\n" + strings.TrimPrefix(minimal, "[main]\nid = \"me\"\n"), []string{
			`1: main: is a table: write [main]`}},
		{"text for a table", "+stor = \"s\"\n", []string{`11: mount_files.stor: is there twice`}},
		{"text for a table, alone", strings.Replace(minimal, `stor.name`, `stor`, 1), []string{
			`10: mount_files.stor: has keys of its own: write stor.name`, `10: mount_files.stor.name: is missing`}},

		// Main and caches.
		{"main", strings.Replace(minimal, `"me"`, `"a/b"
refresh = "10ms"
io_timeout = "0"
memory = "1MiB"
control = "run/x"
log = "xml"
log_level = "INFO"`, 1), []string{
			`2: main.id: "a/b" can't be a name`, `3: main.refresh: "10ms" is too short: write "1s" or more, or "0" for never`,
			`4: main.io_timeout: "0" is too short: write "1s" or more`, `5: main.memory: "1MiB" is too little: write "16MiB" or more`,
			`6: main.control: "run/x" is not a whole path`, `7: main.log: "xml" is not one of these: write "text", "json"`,
			`8: main.log_level: "INFO" is not one of these`}},
		{"units", strings.Replace(minimal, `"me"`, `"x"
refresh = "1 minute"
io_timeout = "-5s"
memory = "10G"
control = "/`+strings.Repeat("x", 107)+`"`, 1), []string{
			`3: main.refresh: "1 minute" is not a duration: write a number and a unit`, `4: main.io_timeout: "-5s" is too short`,
			`5: main.memory: "10G" is not a size: write a number and a unit`, `6: main.control: the path of a socket can have 107`}},
		{"seed", "+[cache.disk]\nseed = \"seed\"\n", []string{`12: cache.disk.seed: "seed" is not a whole path`}},
		{"seed in the cache", "+[cache.disk]\nseed = \"/var/cache/aysfs/seed\"\n", []string{`12: cache.disk.seed: "/var/cache/aysfs/seed" and the disk cache's path "/var/cache/aysfs" are one inside the other`}},
		{"seed under a mount", "+[cache.disk]\nseed = \"/opt/m/seed\"\n", []string{`8: mount_files.path: "/opt/m" would hide the seed "/opt/m/seed": move one of them`}},
		{"disk", "+[cache.disk]\npath = \"/\"\nmax_size = \"\"\nmin_free = \"100%\"\nexpiration = -1\n", []string{
			`12: cache.disk.path: "/" can't be used`, `13: cache.disk.max_size: "" is not a size`,
			`14: cache.disk.min_free: "100%" is not a part of a disk`, `15: cache.disk.expiration: -1 is out of range: write 0 to 876000`}},
		{"ports", "+[[cache.local]]\nport = 0\n[[cache.local]]\n\nport = 65536\n", []string{
			`12: cache.local.port: 0 is out of range: write 1 to 65535`, `15: cache.local.port: 65536 is out of range`}},
		{"grid", "+[[cache.grid]]\nurl = \"http://h\"\n[[cache.grid]]\nurl = \"file:///x\"\n", []string{
			`14: cache.grid.url: write one that starts with http://, https://`}},

		// Stores.
		{"urls", "+" + stores("ftp://h", "http://", "http://h:0", "http://h:65536/x", "http://h:", "http://u:p@h", "http://h/?a", "file://x/y", "file:x", "file:///", "h/x"), []string{
			`13: ays.stor.url: write one that starts with http://, https://, file://`, `16: ays.stor.url: there is no host`,
			`19: ays.stor.url: the port in the URL is out of range`, `22: ays.stor.url: the port in the URL`, `25: ays.stor.url: the port in the URL`,
			`28: ays.stor.url: there is a login or a password in the URL`, `31: ays.stor.url: there is a ?`, `34: ays.stor.url: file:///a/directory, with three slashes`,
			`37: ays.stor.url: this is not a URL`, `40: ays.stor.url: "/" can't be used`, `43: ays.stor.url: this is not a URL`}},
		{"keys", "+" + stores("http://a", "http://b") + "key = \"PRIVATE+KEY+x\"\n[[ays.stor]]\nname = \"z\"\nurl = \"http://z\"\nkey = \"x+1+y\"\n", []string{
			`17: ays.stor.key: this is the private key`, `21: ays.stor.key: this is not a public key`}},
		{"list of keys", "+" + stores("http://a") + "key = [\n  \"" + testKey + "\",\n  \"x+1+y\",\n  'PRIVATE+KEY+x', # of the other\n  \"" + testKey + " until 3\",\n  \"\"]\n", []string{
			`16: ays.stor.key: this is not a public key`, `17: ays.stor.key: this is the private key, which belongs to the publisher alone: write the public key`,
			`18: ays.stor.key: this key is on line 15 already: write it once`, `19: ays.stor.key: this is not a public key (it is empty)`}},
		{"last serials", "+" + stores("http://a") + "key = [\"" + testKey + " until\"]\n" + strings.Replace(stores("http://b"), `"t`, `"u`, 1) + "key = \"" + testKey + " until 0\"\n", []string{
			`14: ays.stor.key: this is not a public key ("until" follows the key: want "until SERIAL"`, `18: ays.stor.key: this is not a public key ("until 0" follows the key`}},
		{"no list of keys", "+" + stores("http://a") + "key = []\n" + strings.Replace(stores("http://b"), `"t`, `"u`, 1) + "key = 5\n" + strings.Replace(stores("http://c"), `"t`, `"v`, 1) + "key = ['x',\n 5]\n", []string{
			`14: ays.stor.key: the list is empty: write a public key into it, or leave the line out`,
			`18: ays.stor.key: wants a string, or a list of strings: write each in quotes`, `23: ays.stor.key: wants a string, or a list of strings`}},
		{"ca", "+" + stores("http://a") + "ca = \"/nowhere/ca.pem\"\n" + strings.Replace(stores("http://b"), `"t`, `"u`, 1) + "ca = \"ca.pem\"\n" + strings.Replace(stores("http://c"), `"t`, `"v`, 1) + "ca = \"/\"\n", []string{
			`14: ays.stor.ca: no such file`, `18: ays.stor.ca: "ca.pem" is not a whole path`, `22: ays.stor.ca: "/" can't be used`}},
		{"store twice", "+[[ays.stor]]\nurl = \"http://h\"\nname = \"s\"\n", []string{`13: ays.stor.name: "s" is on line 4 already`}},
		{"half of a login", "+" + stores("http://a") + "login = \"me\"\n" + strings.Replace(stores("http://b"), `"t`, `"u`, 1) + "secret = \"hush\"\n" +
			strings.Replace(stores("http://c"), `"t`, `"v`, 1) + "login = \"me\"\nsecret = \"\"\n[[cache.grid]]\nurl = \"http://d\"\nlogin = \"me\"\n", []string{
			`14: ays.stor.login: has no secret: write one, secret = "" where it is empty, or leave the login out`,
			`18: ays.stor.secret: has no login: write one, or leave the secret out`, `26: cache.grid.login: has no passwd: write one`}},
		{"cache twice", "+[[cache.grid]]\nurl = \"http://h:1\"\n[[cache.grid]]\nurl = \"http://h:1/\"\n[[cache.local]]\nport = 5\n[[cache.local]]\nport = 6\n[[cache.local]]\nport = 5\n", []string{
			`14: cache.grid.url: "http://h:1" is on line 12 already: write another one`, `20: cache.local.port: "5" is on line 16 already`}},

		// Mounts.
		{"unknown store", "+" + mount("n", "/opt/n", `stor.name = "t"`), []string{
			`15: mount_files.stor.name: no [[ays.stor]] is named "t": there are "s"`}},
		{"unknown stores", strings.Replace(minimal, `stor.name = "s"`, `stor.name = "S"`, 1) + stores("http://h"), []string{
			`10: mount_files.stor.name: no [[ays.stor]] is named "S": there are "s", "t0"`}},
		{"unknown debug", "+debug = \"x\"\n", []string{`11: mount_files.debug: no [[debug]] is named "x": write one`}},
		{"debug size", "+[[debug]]\nname = \"d\"\nredis.addr = \"h\"\nredis.port = 1\nmax_size = \"1GiB\"\n[[debug]]\nname = \"e\"\nredis.addr = \"h\"\nredis.port = 1\nmax_size = \"1B\"\n", []string{
			`15: debug.max_size: "1GiB" is more than redis takes: write "512MiB" or less`, `20: debug.max_size: "1B" is too little: write "1MiB" or more`}},
		{"unknown debug among others", "+debug = \"x\"\n[[debug]]\nname = \"d\"\nredis.addr = \"h\"\nredis.port = 1\n", []string{`11: mount_files.debug: there are "d"`}},
		{"debug", "+[[debug]]\nname = \"d\"\nredis.addr = \"h:5\"\nredis.port = 70000\n[[debug]]\nname = \"d\"\nredis.addr = \"a b\"\nredis.port = 1\n", []string{
			`13: debug.redis.addr: write "h" here, and the port as redis.port`, `14: debug.redis.port: 70000 is out of range`,
			`16: debug.name: "d" is on line 12 already`, `17: debug.redis.addr: "a b" is neither a host name nor an IP address`}},
		{"filter", "+debug_filter = ['a',\n 'b(',\n \"\\bx\",\n 'a)|(b']\n", []string{
			`12: mount_files.debug_filter: "b(" is not a regular expression`, `13: mount_files.debug_filter: write it in single quotes`,
			`14: mount_files.debug_filter: "a)|(b" is not a regular expression`}},
		{"tree", "+dedupe_domain = \"md\"\nplatform = \"a/b\"\nays.repoid = \"-\"\nprefetch = 3\nremote = \"/cfg\"\nwait = \"10ms\"\n", []string{
			`11: mount_files.dedupe_domain: "md" can't be a dedupe domain`, `12: mount_files.platform: platform "a/b"`, `13: mount_files.ays.repoid: repo id "-"`,
			`14: mount_files.prefetch: 3 is out of range: write 0 to 2`, `15: mount_files.remote: write such as "cfg"`, `16: mount_files.wait: "10ms" is too short`}},
		{"ays.id", strings.Replace(minimal, `"d|n(1)"`, `"d|n"`, 1), []string{`9: mount_files.ays.id: want domain|name(version)`}},
		{"mount paths", "+" + mount("a", "/", "") + mount("b", "opt/x", "") + mount("c", "/opt/c/", "") + mount("d", "/opt/c", "") + mount("e", "/opt//m", ""), []string{
			`13: mount_files.path: "/" can't be used`, `18: mount_files.path: "opt/x" is not a whole path`,
			`23: mount_files.path: write "/opt/c"`, `28: mount_files.path: "/opt/c" is on line 23 already`,
			`33: mount_files.path: write "/opt/m"`, `33: mount_files.path: "/opt/m" is on line 8 already`}},
		{"mount in our way", "+" + mount("a", "/var", "") + mount("b", "/var/cache/aysfs/x", "") + mount("c", "/var/cache/aysfs", "") + mount("d", "/run", "") + mount("e", "/srv", "") + mount("f", "/var/cache/aysfs2", "") + stores("file:///srv/store"), []string{
			`13: mount_files.path: the disk cache's path`, `18: mount_files.path: the disk cache's path`, `23: mount_files.path: the disk cache's path`,
			`28: mount_files.path: would hide the control socket`, `33: mount_files.path: would hide the store "t0"`}},
		{"same path, made names", "+[[mount_config]]\npath = \"/x\"\nays.id = \"d|n!i\"\nstor.name = \"s\"\n[[mount_config]]\npath = \"/x\"\nays.id = \"d|n!i\"\nstor.name = \"s\"\n", []string{
			`16: mount_config.path: "/x" is on line 12 already`}},
		{"mount names", "+" + mount("m", "/opt/n", "") + mount("..", "/opt/o", "") + "[[mount_config]]\nname = \"\"\npath = \"/m\"\nays.id = \"d|n!i\"\nstor.name = \"s\"\n", []string{
			`12: mount_files.name: "m" is on line 7 already`, `17: mount_files.name: ".." can't be a name`, `22: mount_config.name: "m" is on line 7 already`}},
	} {
		t.Run(test.name, func(t *testing.T) {
			text := test.text
			if more, ok := strings.CutPrefix(text, "+"); ok {
				text = minimal + more
			}
			_, err := ParseClient("f", []byte(text))
			var ps Problems
			if err != nil && !errors.As(err, &ps) {
				t.Fatalf("%T: %v", err, err)
			}
			for i, p := range ps {
				if i >= len(test.want) {
					t.Errorf("too much: %s", p)
					continue
				}
				at, part, _ := strings.Cut("f:"+test.want[i], ": ")
				if key, msg, ok := strings.Cut(part, ": "); ok && p.Key != "" {
					at, part = at+": "+key+": ", msg
				}
				if s := p.String(); !strings.HasPrefix(s, at) || !strings.Contains(s, part) {
					t.Errorf("got  %s\nwant %s", s, test.want[i])
				}
			}
			for _, want := range test.want[min(len(ps), len(test.want)):] {
				t.Errorf("not found: %s", want)
			}
		})
	}
}

// stores has three lines for each URL. Their names are t0, t1 and so on.
func stores(urls ...string) string {
	var b strings.Builder
	for i, u := range urls {
		b.WriteString("[[ays.stor]]\nname = \"t" + string(rune('0'+i)) + "\"\nurl = \"" + u + "\"\n")
	}
	return b.String()
}

// mount has five lines.
func mount(name, path, stor string) string {
	if stor == "" {
		stor = `stor.name = "s"`
	}
	return "[[mount_files]]\nname = \"" + name + "\"\npath = \"" + path + "\"\nays.id = \"d|n(1)\"\n" + stor + "\n"
}

func TestProblemIsOneLine(t *testing.T) {
	p := Problem{File: "a\nb", Line: 3, Key: "k", Msg: "x\r\ty"}
	if got, want := p.String(), "a b:3: k: x  y"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestPublicKey(t *testing.T) {
	private, public, err := note.GenerateKey(rand.Reader, "publisher")
	if err != nil {
		t.Fatal(err)
	}
	c, err := ParseClient("f", []byte(minimal+stores("http://h")+"key = \""+public+"\"\n"))
	if err != nil || len(c.Stores[1].Keys) != 1 || c.Stores[1].Keys[0] != public {
		t.Errorf("public: %v", err)
	}
	c, err = ParseClient("f", []byte(minimal+stores("http://h")+"key = [\""+testKey+"\", '"+public+" until 17']\n"))
	if err != nil || len(c.Stores[1].Keys) != 2 || c.Stores[1].Keys[1] != public+" until 17" {
		t.Errorf("a list: %v", err)
	}
	for text, want := range map[string]string{
		"17":                                    "wants a string, or a list of strings",
		"[1, 2]":                                "wants a string, or a list of strings",
		"['" + public + "', 'garbage']":         "this is not a public key",
		"['" + public + " until']":              "until SERIAL",
		"['" + public + "', '" + private + "']": "this is the private key",
	} {
		_, err := ParseClient("f", []byte(minimal+stores("http://h")+"key = "+text+"\n"))
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), private[20:]) {
			t.Errorf("%s: got %v, want %q", text, err, want)
		}
	}
	if _, err := parsePublicKey(private); err == nil || strings.Contains(err.Error(), private[20:]) {
		t.Errorf("private: got %v", err)
	}
}

// testKey and otherKey are public keys that nothing uses.
const (
	testKey  = "first+760b6a60+AWULv5I9Pm3ZYdjKJGRH30iIZfSm0+IaOTyBrR9LfRin"
	otherKey = "second+98bb0ed9+Ab/oh2HB0TG62AdR/EK6JwPpL2bmXOPUcFcqxCtEeRb+"
)

// A store has no key, one or some; both configs read them alike.
func TestKeys(t *testing.T) {
	for name, test := range map[string]struct {
		text string
		want []string
	}{
		"none":       {"", nil},
		"empty":      {`key = ""`, nil},
		"one":        {`key = "` + testKey + `"`, []string{testKey}},
		"one, ended": {`key = "` + testKey + ` until 17"`, []string{testKey + " until 17"}},
		"list":       {`key = ["` + testKey + `"]`, []string{testKey}},
		"some":       {`key = [" ` + testKey + ` until 17", '` + otherKey + `']`, []string{testKey + " until 17", otherKey}},
	} {
		store := stores("http://h") + test.text + "\n"
		c, err := ParseClient("f", []byte(minimal+store))
		if err != nil || !slices.Equal(c.Stores[1].Keys, test.want) {
			t.Errorf("%s, client: %v", name, err)
		}
		s, err := ParseServer("f", []byte(store))
		if err != nil || !slices.Equal(s.Stores[0].Keys, test.want) {
			t.Errorf("%s, cache: %v", name, err)
		}
	}
	_, err := ParseServer("f", []byte(stores("http://h")+"key = [\n'"+testKey+"',\n'PRIVATE+KEY+x+hunter2']\n"))
	if err == nil || !strings.Contains(err.Error(), "f:6: ays.stor.key: this is the private key") || strings.Contains(err.Error(), "hunter2") {
		t.Errorf("a private key in the cache's list: %v", err)
	}
}

func TestCertificates(t *testing.T) {
	dir := t.TempDir()
	for name, test := range map[string]struct{ text, want string }{
		"good":    {testCA, ""},
		"text":    {"hello", "has no PEM certificate"},
		"broken":  {"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "has no PEM certificate"},
		"key":     {"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n", "has no PEM certificate"},
		"several": {"# ours\n" + testCA + testCA, ""},
	} {
		file := filepath.Join(dir, name)
		if err := os.WriteFile(file, []byte(test.text), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := (&document{}).parseCA(file)
		if (err == nil) != (test.want == "") || err != nil && !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: got %v, want %q", name, err, test.want)
		}
	}
}

// TestNoSecretInMessages breaks the lines of passwords in many ways.
func TestNoSecretInMessages(t *testing.T) {
	const password = "hunter2"
	for _, key := range []string{"passwd", "secret", "password", "pasword", "cache.passwd", "'passwd'", "x"} {
		for _, value := range []string{
			`hunter2`, `"hunter2`, `'hunter2`, `"hunter2\q"`, `"\hunter2"`, `"""hunter2`, `'''hunter2'`, `hunter2"`, `0hunter2`, `1.hunter2`,
			`"hunter2" hunter2`, `[hunter2]`, `["hunter2"`, `{hunter2 = 1`, `{a = hunter2}`, `"\uhunter2"`, `"hunter2" = "hunter2"`, `true hunter2`, "\n\"hunter2\"", "\nhunter2", `<hunter2`,
			`hunter2\.x`, `"hunter2\.x"`, `"x\hunter2"`,
		} {
			for _, table := range []string{"[[cache.grid]]", "[[cache.local]]", "[[ays.stor]]", "[[debug]]\nredis.port = 1", "[x]", ""} {
				for _, sep := range []string{" = ", "=", " ", ": "} {
					_, err := ParseClient("f", []byte(table+"\n"+key+sep+value+"\n"))
					if err == nil || strings.Contains(err.Error(), password) {
						t.Fatalf("%s%s%s: %v", key, sep, value, err)
					}
				}
			}
		}
	}
	for _, u := range []string{"http://me:hunter2@h", "http://me:hunter2@h:x/", "http://me:%hunter2@h", "hunter2://", "http://hunter2 x", "http://h:hunter2", "http://h?x=hunter2", "http://[hunter2"} {
		_, err := ParseClient("f", []byte(minimal+stores(u)))
		if err == nil || strings.Contains(err.Error(), password) {
			t.Errorf("%s: %v", u, err)
		}
	}
}

// testCA is a certificate that nothing uses.
const testCA = `-----BEGIN CERTIFICATE-----
MIIBdTCCARugAwIBAgIUdzpEzDCJSr+2K3S/6C4IreDDQ8QwCgYIKoZIzj0EAwIw
DzENMAsGA1UEAwwEdGVzdDAgFw0yNjExMjIxNzI1MjFaGA8yMTI2MTAyOTE3MjUy
MVowDzENMAsGA1UEAwwEdGVzdDBZMBMGByqGSM49AgEGCCqGSM49AwEHA0IABCKN
EFy1ey00CuVjgEhz0j+qfkUeOvCRKBHcNn0rEVEekKZJLobbh27qbomGl+0XZl/Q
M9hSWwOga5+E9AYnkgKjUzBRMB0GA1UdDgQWBBTecIbPetpuEby+ETw3UG+eYUVT
nzAfBgNVHSMEGDAWgBTecIbPetpuEby+ETw3UG+eYUVTnzAPBgNVHRMBAf8EBTAD
AQH/MAoGCCqGSM49BAMCA0gAMEUCIGDbe6C+/Q7tWN3K00YSCJx/KBJ+0K0Zd8rj
o/Wg1m9pAiEA+qDChN8rP7tkqnc8O6nrTD2z8f4Wel7yXSzzfJTB9BY=
-----END CERTIFICATE-----
`
