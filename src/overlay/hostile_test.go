package overlay

import (
	"cmp"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/aysfs/aysfs/src/redistest"
)

// TestHostileRedis has redis say what nobody would write, before a machine comes and
// while it is there. What it says of other paths is shown all the same, and when it
// is gone the tree is as it was.
func TestHostileRedis(t *testing.T) {
	const hello = "5d41402abc4b2a76b9719d911017c592"
	set := func(path, value string) []string { return []string{"HSET", "debug:paths:m", path, value} }
	fill := func(do string) []string {
		return []string{"EVAL", `local long = string.rep("x", 10000000) ` + do, "0"}
	}
	for name, c := range map[string]struct {
		cmds [][]string
		// want is what etc/a.conf has then: text, or a part of an error; with a |, one
		// or the other, for who comes then may know less than who was there.
		want string
		// others is the same for a path of which nothing wrong was said.
		others string
	}{
		"paths of another type":  {cmds: [][]string{{"DEL", "debug:paths:m"}, {"SET", "debug:paths:m", "x"}}, want: "one\n", others: "hello|(tree)"},
		"files of another type":  {cmds: [][]string{{"DEL", "debug:files:m"}, {"RPUSH", "debug:files:m", "x"}, set("etc/a.conf", hello+",5")}, want: "hello|WRONGTYPE", others: "hello|WRONGTYPE"},
		"log of another type":    {cmds: [][]string{{"DEL", "debug:log:m"}, {"SADD", "debug:log:m", "x"}, set("etc/a.conf", hello+",5")}, want: "one\n", others: "hello|(tree)"},
		"size too large":         {cmds: [][]string{set("etc/a.conf", hello+",6")}, want: "not 6"},
		"size of all":            {cmds: [][]string{set("etc/a.conf", hello+",9223372036854775807")}, want: "not 9223372036854775807"},
		"size beyond all":        {cmds: [][]string{set("etc/a.conf", hello+",9223372036854775808")}, want: "one\n"},
		"size below 0":           {cmds: [][]string{set("etc/a.conf", hello+",-1")}, want: "one\n"},
		"content of another MD5": {cmds: [][]string{{"HSET", "debug:files:m", "00000000000000000000000000000000", "hello"}, set("etc/a.conf", "00000000000000000000000000000000,5")}, want: "MD5 " + hello},
		"content that is gone":   {cmds: [][]string{set("etc/a.conf", "11111111111111111111111111111111,5")}, want: "no such object"},
		"device":                 {cmds: [][]string{set("etc/a.conf", hello+",5,20644")}, want: "one\n"},
		"mode beyond all":        {cmds: [][]string{set("etc/a.conf", hello+",5,777777777777")}, want: "one\n"},
		"value of 10 MB":         {cmds: [][]string{fill(`redis.call("HSET", "debug:paths:m", "etc/a.conf", "` + hello + `,5," .. long)`)}, want: "one\n"},
		"path of 10 MB":          {cmds: [][]string{fill(`redis.call("HSET", "debug:paths:m", long .. ".conf", "` + hello + `,5")`), set("etc/a.conf", hello+",5")}, want: "hello"},
		"entry of 10 MB":         {cmds: [][]string{fill(`redis.call("RPUSH", "debug:log:m", "[1,\"" .. long .. ".conf\",\"\"]")`), set("etc/a.conf", hello+",5")}, want: "hello"},
		"100,000 entries": {cmds: [][]string{{"EVAL", `for i = 1, 100000 do redis.call("RPUSH", "debug:log:m", "[" .. i .. ",\"../x\",\"\"") end`, "0"},
			set("etc/a.conf", hello+",5")}, want: "hello"},
		"symlink out":  {cmds: [][]string{{"HSET", "debug:files:m", "2fe8599cb25a0c790213d39b3be97c27", "/etc/shadow"}, set("etc/a.conf", "2fe8599cb25a0c790213d39b3be97c27,11,120777")}, want: "->/etc/shadow"},
		"below a file": {cmds: [][]string{set("etc/a.conf", hello+",5"), set("etc/a.conf/b.conf", hello+",5"), set("etc/a.conf/b.conf/c.conf", hello+",5")}, want: "hello"},
		"paths that lead out": {cmds: [][]string{
			set("../x.conf", hello+",5"), set("/x.conf", hello+",5"), set("etc/../../x.conf", hello+",5"), set("etc//x.conf", hello+",5"), set("./x.conf", hello+",5"),
			set("..", hello+",5"), set("", hello+",5"), set("etc/", hello+",5"), set(strings.Repeat("n", 300)+".conf", hello+",5"), set(strings.Repeat("d/", 3000)+"x.conf", hello+",5"),
			{"EVAL", `redis.call("HSET", "debug:paths:m", "etc/nul\0.conf", ARGV[1])`, "0", hello + ",5"},
		}, want: "one\n"},
		"bytes": {cmds: [][]string{set("etc/\xff\x1b[31m\n.conf", hello+",5"), set("etc/a.conf", hello+",5")}, want: "hello"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := redistest.Start(t, "")
			seen := newMachine(t, r, sample, "a")
			r.CLI("HSET", "debug:files:m", hello, "hello")
			r.CLI("HSET", "debug:paths:m", "etc/good.conf", hello+",5")
			r.CLI("RPUSH", "debug:log:m", `[1,"etc/good.conf","`+hello+`"]`)
			seen.soon("etc/good.conf", "hello")
			for _, cmd := range c.cmds {
				r.CLI(cmd...)
			}
			r.CLI("RPUSH", "debug:log:m", `[2,"etc/a.conf","`+hello+`"]`) // unless that is no list
			for who, m := range map[string]*machine{"who comes": newMachine(t, r, sample, "b"), "who is there": seen} {
				m.Poll(t.Context())
				for path, want := range map[string]string{"etc/a.conf": c.want, "etc/good.conf": cmp.Or(c.others, "hello")} {
					got := m.read(path)
					if !slices.ContainsFunc(strings.Split(want, "|"), func(w string) bool { return got == w || len(got) > len(w)+20 && strings.Contains(got, w) }) {
						t.Errorf("%s: %s: %.200q, want %q", who, path, got, want)
					}
				}
				for _, dir := range []string{"", "etc"} {
					for _, n := range m.Names(dir, 0, math.MaxInt) {
						if n.Name == "" || n.Name == "." || n.Name == ".." || len(n.Name) > 255 || strings.ContainsAny(n.Name, "/\x00") {
							t.Errorf("%s: %s has the name %.300q", who, dir, n.Name)
						}
					}
				}
				if n := m.log.Len(); n > 1<<20 {
					t.Errorf("%s: %d bytes of log", who, n)
				}
			}
			r.CLI("FLUSHALL")
			seen.must(seen.save("etc/new.conf", "new"))
			seen.soon("etc/a.conf", "one\n")
			seen.soon("etc/new.conf", "new")
		})
	}
}
