package resp

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os/exec"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/mediocregopher/radix/v4"
	"github.com/tidwall/redcon"

	"github.com/aysfs/aysfs/src/cachedb"
	"github.com/aysfs/aysfs/src/digest"
)

// start serves an empty database on a free port.
func start(t testing.TB, cfg Config) (*Server, *cachedb.Embedded, string) {
	t.Helper()
	e, err := cachedb.Open(cachedb.Options{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	cfg.DB, cfg.Field, cfg.Drop, cfg.EmptyField = e.Ledis(), e.Field, e.Drop, cachedb.LedisHeadField
	s := New(cfg)
	ln, err := Listen("", 0)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- s.Serve(ln) }()
	t.Cleanup(func() {
		s.Close()
		if err := errors.Join(<-done, e.Close()); err != nil {
			t.Error(err)
		}
		if n := s.Conns(); n != 0 {
			t.Errorf("%d connections are left", n)
		}
	})
	return s, e, ln.Addr().String()
}

// client speaks the protocol as it is on the wire.
type client struct {
	t testing.TB
	net.Conn
	r *bufio.Reader
}

func dial(t testing.TB, addr string) *client {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	_ = c.SetDeadline(time.Now().Add(30 * time.Second))
	return &client{t, c, bufio.NewReaderSize(c, 256<<10)}
}

func encode(args ...string) []byte {
	b := redcon.AppendArray(nil, len(args))
	for _, a := range args {
		b = redcon.AppendBulkString(b, a)
	}
	return b
}

func (c *client) send(args ...string) {
	c.t.Helper()
	if _, err := c.Write(encode(args...)); err != nil {
		c.t.Fatal(err)
	}
}

// reply reads one, as redis-cli would show it, nearly.
func (c *client) reply() string {
	c.t.Helper()
	line, err := c.r.ReadString('\n')
	if err != nil {
		c.t.Fatalf("read a reply: %v", err)
	}
	line = strings.TrimSuffix(line, "\r\n")
	n, _ := strconv.Atoi(line[1:])
	switch line[0] {
	case '$':
		if n < 0 {
			return "(nil)"
		}
		b := make([]byte, n+2)
		if _, err := io.ReadFull(c.r, b); err != nil {
			c.t.Fatal(err)
		}
		return strconv.Quote(string(b[:n]))
	case '*':
		all := make([]string, n)
		for i := range all {
			all[i] = c.reply()
		}
		return "[" + strings.Join(all, " ") + "]"
	}
	return line
}

func (c *client) do(args ...string) string {
	c.t.Helper()
	c.send(args...)
	return c.reply()
}

// ended reads until the server cuts the connection.
func (c *client) ended() string {
	c.t.Helper()
	b, err := io.ReadAll(c.r)
	if err != nil && !strings.Contains(err.Error(), "reset") {
		c.t.Fatalf("after %q: %v", b, err)
	}
	return string(b)
}

func TestCommands(t *testing.T) {
	_, _, addr := start(t, Config{Private: cachedb.Private, MaxReply: 1 << 20, Version: "1.2"})
	c := dial(t, addr)
	for _, step := range []struct{ cmd, want string }{
		{"PING", "+PONG"}, {"ping hello", `"hello"`}, {"ECHO x", `"x"`}, {"SELECT 0", "+OK"},
		{"SELECT 1", "-ERR DB index is out of range"}, {"COMMAND", "[]"}, {"HELLO 3", "-ERR unknown command 'HELLO'"},
		{"AUTH x", "-ERR AUTH called without any password configured"},
		{"SHUTDOWN", "-ERR unknown command 'SHUTDOWN'"}, {"FLUSHALL", "-ERR unknown command 'FLUSHALL'"},
		{"GET", "-ERR wrong number of arguments for 'get' command"},

		{"GET k", "(nil)"}, {"SET k v", "+OK"}, {"GET k", `"v"`}, {"EXISTS k none k", ":2"}, {"TYPE k", "+string"},
		{"TTL k", ":-1"}, {"TTL none", ":-2"}, {"EXPIRE k 100", ":1"}, {"TTL k", ":100"}, {"PERSIST k", ":1"}, {"TTL k", ":-1"},
		{"EXPIRE k x", "-ERR value is not an integer or out of range"}, {"EXPIRE none 5", ":0"},
		{"DEL k none", ":1"}, {"GET k", "(nil)"}, {"SET k v", "+OK"}, {"EXPIRE k 0", ":1"}, {"EXISTS k", ":0"},

		{"HSET h f v", ":1"}, {"HSET h f w", ":0"}, {"HSET h a 1 b 2 f 3", ":2"}, {"HSET h a", "-ERR wrong number of arguments for 'hset' command"},
		{"HSET h a 1 b", "-ERR wrong number of arguments for 'hset' command"},
		{"HGET h f", `"3"`}, {"HGET h none", "(nil)"}, {"HMGET h f none a", `["3" (nil) "1"]`}, {"HLEN h", ":3"},
		{"HEXISTS h f", ":1"}, {"HEXISTS h none", ":0"}, {"HKEYS h", `["a" "b" "f"]`}, {"HVALS h", `["1" "2" "3"]`},
		{"HGETALL h", `["a" "1" "b" "2" "f" "3"]`}, {"HDEL h a none a", ":1"}, {"HLEN h", ":2"}, {"HMSET h x 1 y 2", "+OK"},
		{"XHSCAN h ''", `["" ["b" "2" "f" "3" "x" "1" "y" "2"]]`}, {"XHSCAN h '' COUNT 2", `["f" ["b" "2" "f" "3"]]`},
		{"XHSCAN h f COUNT 2", `["y" ["x" "1" "y" "2"]]`}, {"XHSCAN h y", `["" []]`}, {"XHSCAN h '' MATCH ^[xy]", `["" ["x" "1" "y" "2"]]`},
		{"XHSCAN h '' COUNT 0", "-ERR value is not an integer or out of range"}, {"XHSCAN h '' MATCH (", "-ERR syntax error"},
		{"TYPE h", "+hash"}, {"EXPIRE h 50", ":1"}, {"TTL h", ":50"}, {"PERSIST h", ":1"}, {"DEL h", ":1"}, {"HLEN h", ":0"},
		{"TYPE h", "+none"}, {"HGETALL h", "[]"}, {"HSET h f v", ":1"}, {"HCLEAR h", ":1"}, {"HCLEAR h", ":0"},

		{"HSET md:x '' head", ":1"}, {"HGET md:x ''", `"head"`}, {"HKEYS md:x", `[""]`}, {"HGETALL md:x", `["" "head"]`}, {"HDEL md:x ''", ":1"},

		{"HSET files:d f v", ":1"}, {"HGET files:d f", `"v"`}, {"HEXISTS files:d f", ":1"}, {"HLEN files:d", ":1"},
		{"XSCAN HASH ''", `["" ["files:d"]]`}, {"HCLEAR files:d", ":1"}, {"HLEN files:d", ":0"}, {"HGET files:d f", "(nil)"},

		{"RPUSH l a b c", ":3"}, {"LPUSH l z", ":4"}, {"LLEN l", ":4"}, {"LRANGE l 0 -1", `["z" "a" "b" "c"]`}, {"LRANGE l -2 9", `["b" "c"]`},
		{"LRANGE l 3 1", "[]"}, {"LRANGE l -9 0", `["z"]`}, {"LINDEX l 0", `"z"`}, {"LINDEX l -1", `"c"`}, {"LINDEX l 9", "(nil)"}, {"LPOP l", `"z"`},
		{"RPOP l", `"c"`}, {"TYPE l", "+list"}, {"DEL l", ":1"}, {"LLEN l", ":0"}, {"LPOP l", "(nil)"}, {"RPUSH l a", ":1"}, {"LCLEAR l", ":1"},

		{"HSET ays:stores a secret", "-NOPERM this key is private"}, {"HGETALL ays:stores", "-NOPERM this key is private"},
		{"DEL x ays:stores", "-NOPERM this key is private"}, {"XHSCAN ays:stores ''", "-NOPERM this key is private"},
	} {
		args := strings.Fields(step.cmd)
		for i, a := range args {
			if a == "''" {
				args[i] = ""
			}
		}
		if got := c.do(args...); got != step.want {
			t.Errorf("%s: %s, want %s", step.cmd, got, step.want)
		}
	}
	if got := c.do("INFO"); !strings.Contains(got, "aysfs_version:1.2") || !strings.Contains(got, "connected_clients:1") {
		t.Error(got)
	}
	if got := c.do("QUIT"); got != "+OK" || c.ended() != "" {
		t.Error(got)
	}
}

func TestPrivateKeysAreNotListed(t *testing.T) {
	_, e, addr := start(t, Config{Private: cachedb.Private})
	if err := e.PutValue(context.Background(), "stores", "a", []byte("secret")); err != nil {
		t.Fatal(err)
	}
	c := dial(t, addr)
	c.do("HSET", "aa", "f", "v")
	c.do("HSET", "zz", "f", "v")
	for _, count := range []string{"1", "2", "100"} {
		var all []string
		for cursor := ""; ; {
			c.send("XSCAN", "HASH", cursor, "COUNT", count)
			reply := strings.Fields(strings.NewReplacer("[", "", "]", "", `"`, "").Replace(c.reply() + " "))
			if strings.Contains(fmt.Sprint(reply), "ays:") {
				t.Fatal(reply)
			}
			if count == "100" {
				all = reply
				break
			}
			if len(reply) == 0 {
				break
			}
			cursor = reply[0]
			all = append(all, reply[1:]...)
			if len(reply) == 1 || cursor == "" {
				break
			}
		}
		if fmt.Sprint(all) != "[aa zz]" {
			t.Errorf("count %s: %v", count, all)
		}
	}
}

// What is hidden is as what isn't there, for every command.
func TestHidden(t *testing.T) {
	hidden := func(key []byte) bool { return strings.HasPrefix(string(key), "files:h") }
	var hide atomic.Bool
	_, _, addr := start(t, Config{Private: cachedb.Private, Hidden: func(key []byte) bool { return hide.Load() && hidden(key) }})
	c := dial(t, addr)
	for _, key := range []string{"files:hidden", "files:aa", "files:zz"} {
		for _, cmd := range []string{"HSET %s f v", "HSET %s g w", "SET %s v", "RPUSH %s a b"} {
			if got := c.do(strings.Fields(fmt.Sprintf(cmd, key))...); strings.HasPrefix(got, "-") {
				t.Fatal(got)
			}
		}
	}
	hide.Store(true)
	cmds := []string{
		"GET %s", "EXISTS %s", "EXISTS a %s files:aa", "EXPIRE %s 100", "EXPIRE %s 0", "TTL %s", "PERSIST %s", "TYPE %s", "DEL %s",
		"HGET %s f", "HMGET %s f g none", "HEXISTS %s f", "HLEN %s", "HKEYS %s", "HVALS %s", "HGETALL %s", "HDEL %s f", "HCLEAR %s",
		"LPOP %s", "RPOP %s", "LLEN %s", "LINDEX %s 0", "LRANGE %s 0 -1", "LCLEAR %s", "XHSCAN %s ''", "XHSCAN %s f COUNT 1",
	}
	for _, cmd := range cmds {
		ask := func(key string) string {
			args := strings.Fields(fmt.Sprintf(cmd, key))
			for i := range args {
				args[i] = strings.ReplaceAll(args[i], "''", "")
			}
			return c.do(args...)
		}
		if got, want := ask("files:hidden"), ask("files:none"); got != want {
			t.Errorf("%s: %s, of what isn't there %s", cmd, got, want)
		}
	}
	for _, cmd := range []string{"HSET %s f v", "HMSET %s f v", "SET %s v", "LPUSH %s v", "RPUSH %s v"} {
		if got := c.do(strings.Fields(fmt.Sprintf(cmd, "files:hidden"))...); !strings.HasPrefix(got, "-NOPERM") {
			t.Errorf("%s: %s", cmd, got)
		}
	}
	for _, scan := range []string{"XSCAN HASH", "XSCAN KV", "XSCAN LIST"} {
		for _, more := range []string{"", " DESC"} {
			args := append(strings.Fields(scan), "")
			if got := c.do(append(args, strings.Fields("COUNT 10"+more)...)...); strings.Contains(got, "hidden") || !strings.Contains(got, "files:zz") {
				t.Errorf("%s%s: %s", scan, more, got)
			}
		}
		// A cursor would be its name, too.
		if got := c.do(append(strings.Fields(scan), "files:aa", "COUNT", "1")...); strings.Contains(got, "hidden") || !strings.Contains(got, "files:zz") {
			t.Errorf("%s from the one before: %s", scan, got)
		}
	}
	// All of it is as it was.
	hide.Store(false)
	if got := c.do("HGETALL", "files:hidden") + c.do("GET", "files:hidden") + c.do("LRANGE", "files:hidden", "0", "-1") + c.do("TTL", "files:hidden"); got != `["f" "v" "g" "w"]"v"["a" "b"]:-1` {
		t.Error(got)
	}
	if got := c.do("SET", nowhere, "v"); !strings.HasPrefix(got, "-NOPERM") {
		t.Error(got)
	}
}

// Where one pair of several is wrong none is put.
func TestCheck(t *testing.T) {
	_, _, addr := start(t, Config{Check: func(key, field, value []byte) error {
		if string(key) == "checked" && string(field) != string(value) {
			return errors.New("the value is not what its field says")
		}
		return nil
	}})
	c := dial(t, addr)
	for _, step := range []struct{ cmd, want string }{
		{"HSET checked a a", ":1"}, {"HSET checked b b a x", "-ERR the value is not what its field says"},
		{"HMSET checked a x", "-ERR the value is not what its field says"}, {"HMSET checked b b c x", "-ERR the value is not what its field says"},
		{"HGETALL checked", `["a" "a"]`}, {"HSET other a x", ":1"}, {"HMSET checked b b", "+OK"}, {"HLEN checked", ":2"},
	} {
		if got := c.do(strings.Fields(step.cmd)...); got != step.want {
			t.Errorf("%s: %s, want %s", step.cmd, got, step.want)
		}
	}
}

func TestAuth(t *testing.T) {
	_, _, addr := start(t, Config{Passwd: "right"})
	c := dial(t, addr)
	for _, cmd := range []string{"GET k", "PING", "SHUTDOWN", "COMMAND", "HELLO 3", "INFO", "nonsense"} {
		if got := c.do(strings.Fields(cmd)...); got != "-NOAUTH Authentication required." {
			t.Errorf("%s: %s", cmd, got)
		}
	}
	if got := c.do("AUTH", "wrong"); !strings.HasPrefix(got, "-WRONGPASS") {
		t.Error(got)
	}
	if got := c.do("AUTH", "right"); got != "+OK" {
		t.Error(got)
	}
	if got := c.do("PING"); got != "+PONG" {
		t.Error(got)
	}
	c = dial(t, addr)
	if got := c.do("AUTH", "default", "right"); got != "+OK" {
		t.Error(got)
	}
	c = dial(t, addr)
	for range authTries {
		c.send("AUTH", "wrong")
	}
	c.send("AUTH", "right")
	if got := c.ended(); strings.Contains(got, "OK") {
		t.Errorf("after %d wrong ones: %q", authTries, got)
	}
	// Lengths are bounded before AUTH.
	for _, attack := range []string{"*9\r\n", "*2\r\n$4\r\nAUTH\r\n$1025\r\n"} {
		c = dial(t, addr)
		_, _ = io.WriteString(c, attack)
		if got := c.ended(); !strings.HasPrefix(got, "-ERR Protocol error") {
			t.Errorf("%q: %q", attack, got)
		}
	}
}

// TestBadLengths has what makes the parser alone spin, panic or allocate
// without end.
func TestBadLengths(t *testing.T) {
	_, _, addr := start(t, Config{})
	var before runtime.MemStats
	runtime.ReadMemStats(&before)
	for _, attack := range []string{
		"*1000000000000000000\r\n", "*9223372036854775807\r\n", "*-1\r\n", "*0\r\n", "*x\r\n", "*\r\n", "*1\n$1\n", "*+1\r\n",
		"*1\r\n$9223372036854775807\r\n", "*1\r\n$9223372036854775805\r\n", "*1\r\n$-1\r\n", "*1\r\n$1000000000\r\n", "*1\r\n$+1\r\n",
		"*1\r\n+1\r\n", "*2\r\n$1\r\nxyz\r\n", "*" + strings.Repeat("1", 100), strings.Repeat("x ", 10_000), `"unbalanced` + "\r\n",
		"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$1200000\r\n",
	} {
		c := dial(t, addr)
		_, _ = io.WriteString(c, "*1\r\n$4\r\nPING\r\n"+attack)
		got := c.ended()
		// What the parser finds wrong it says at once, instead of what came before.
		if !strings.HasPrefix(strings.TrimPrefix(got, "+PONG\r\n"), "-ERR ") {
			t.Errorf("%.40q: %q", attack, got)
		}
	}
	var after runtime.MemStats
	runtime.ReadMemStats(&after)
	if n := after.TotalAlloc - before.TotalAlloc; n > 32<<20 {
		t.Errorf("%d bytes were allocated", n)
	}
	if got := dial(t, addr).do("PING"); got != "+PONG" {
		t.Error(got)
	}
}

func TestInline(t *testing.T) {
	_, _, addr := start(t, Config{})
	c := dial(t, addr)
	_, _ = io.WriteString(c, "\r\nPING\r\nset k \"a b\"\nget k\r\n")
	for _, want := range []string{"+PONG", "+OK", `"a b"`} {
		if got := c.reply(); got != want {
			t.Errorf("%s, want %s", got, want)
		}
	}
}

// TestPieces sends commands in pieces of every size.
func TestPieces(t *testing.T) {
	_, _, addr := start(t, Config{})
	for n, size := range map[int]int{1: 10, 2: 100, 3: 1000, 7: 5000, 100: 80_000, 4095: 80_000, 4096: 80_000, 4097: 80_000, 65536: 80_000, 1 << 20: 80_000} {
		value := strings.Repeat("0123456789", size/10)
		field := strconv.Itoa(n)
		all := slices.Concat(encode("SET", "k", "v"), encode("HSET", "files:d", field, value), encode("GET", "k"),
			[]byte("PING\r\n"), encode("HGET", "files:d", field))
		c := dial(t, addr)
		go func() {
			for piece := range slices.Chunk(all, n) {
				_, _ = c.Write(piece)
			}
		}()
		for i, want := range []string{"+OK", ":1", `"v"`, "+PONG", strconv.Quote(value)} {
			if got := c.reply(); got != want {
				t.Fatalf("pieces of %d: reply %d is %.60s, want %.60s", n, i, got, want)
			}
		}
	}
}

func TestTimeouts(t *testing.T) {
	_, _, addr := start(t, Config{IdleTimeout: 300 * time.Millisecond, ReadTimeout: 200 * time.Millisecond, WriteTimeout: 300 * time.Millisecond})
	for what, send := range map[string]string{"idle": "", "in a command": "*2\r\n$4\r\nPING\r\n$3\r\nx", "in a line": "*2\r\n$"} {
		c := dial(t, addr)
		_, _ = io.WriteString(c, send)
		begin := time.Now()
		if got := c.ended(); got != "" || time.Since(begin) > 5*time.Second {
			t.Errorf("%s: %q after %v", what, got, time.Since(begin))
		}
	}
	// One byte now and then does not put it off.
	c := dial(t, addr)
	begin := time.Now()
	for range 100 {
		if _, err := io.WriteString(c, "x"); err != nil {
			break
		}
		time.Sleep(20 * time.Millisecond)
	}
	if time.Since(begin) > 1900*time.Millisecond {
		t.Error("a slow command was never cut off")
	}
	// One that doesn't read is cut off, and holds up nobody else.
	_, _, addr = start(t, Config{WriteTimeout: 300 * time.Millisecond})
	c = dial(t, addr)
	big := strings.Repeat("x", 1<<20)
	c.do("SET", "k", big)
	go func() {
		for range 50 {
			if _, err := c.Write(encode("GET", "k")); err != nil {
				return
			}
		}
	}()
	time.Sleep(time.Second)
	n, err := io.Copy(io.Discard, c.r)
	if n > 40<<20 {
		t.Errorf("%d bytes were written to one who didn't read, %v", n, err)
	}
}

func TestMaxConns(t *testing.T) {
	_, _, addr := start(t, Config{MaxConns: 3})
	var all []*client
	for range 3 {
		c := dial(t, addr)
		if got := c.do("PING"); got != "+PONG" {
			t.Fatal(got)
		}
		all = append(all, c)
	}
	if got := dial(t, addr).ended(); got != "-ERR max number of clients reached\r\n" {
		t.Error(got)
	}
	all[0].Close()
	for range 100 {
		c, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = c.Write(encode("PING"))
		b := make([]byte, 1)
		_, _ = io.ReadFull(c, b)
		c.Close()
		if b[0] == '+' {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Error("no connection was given back")
}

// TestMemory has more large commands at once than there is memory for: all are
// answered, one after the other.
func TestMemory(t *testing.T) {
	_, _, addr := start(t, Config{Memory: 4 << 20})
	value := strings.Repeat("x", 1<<20)
	const clients = 16
	done := make(chan string, clients)
	for i := range clients {
		c := dial(t, addr)
		go func() {
			// All but the end, so that they hold what they have for a while.
			all := slices.Concat(encode("PING"), encode("SET", strconv.Itoa(i), value), encode("PING"))
			_, _ = c.Write(all[:len(all)-100])
			time.Sleep(50 * time.Millisecond)
			_, _ = c.Write(all[len(all)-100:])
			done <- c.reply() + c.reply() + c.reply()
		}()
	}
	for range clients {
		if got := <-done; got != "+PONG+OK+PONG" {
			t.Error(got)
		}
	}
}

func TestLargeReplies(t *testing.T) {
	_, _, addr := start(t, Config{MaxReply: 1 << 20})
	c := dial(t, addr)
	for i := range 20 {
		c.do("HSET", "h", fmt.Sprintf("%02d", i), strings.Repeat("x", 100_000))
		c.do("RPUSH", "l", strings.Repeat("x", 100_000))
	}
	for _, cmd := range []string{"HGETALL h", "HVALS h", "LRANGE l 0 -1"} {
		if got := c.do(strings.Fields(cmd)...); !strings.Contains(got, "too large") {
			t.Errorf("%s: %.80s", cmd, got)
		}
	}
	n := 0
	for cursor := ""; ; {
		got := c.do("XHSCAN", "h", cursor, "COUNT", "100")
		n += strings.Count(got, "xxxx\"")
		if cursor = got[2:4]; cursor == `" ` {
			break
		}
	}
	if n != 20 {
		t.Errorf("XHSCAN went over %d of 20", n)
	}
}

// TestPipelined sends a load without reading until all is sent.
func TestPipelined(t *testing.T) {
	_, _, addr := start(t, Config{})
	c := dial(t, addr)
	const n = 20_000
	value := strings.Repeat("v", 1000)
	begin := time.Now()
	w := bufio.NewWriter(c)
	for i := range n {
		_, _ = w.Write(encode("HSET", "files:d", strconv.Itoa(i), value))
	}
	if err := w.Flush(); err != nil {
		t.Fatal(err)
	}
	for i := range n {
		if got := c.reply(); got != ":1" {
			t.Fatalf("%d: %s", i, got)
		}
	}
	t.Logf("%.0f HSET/s", n/time.Since(begin).Seconds())
	go func() {
		w := bufio.NewWriter(c)
		for i := range n {
			_, _ = w.Write(encode("HGET", "files:d", strconv.Itoa(i)))
		}
		_ = w.Flush()
	}()
	for i := range n {
		if got := c.reply(); len(got) != 1002 {
			t.Fatalf("%d: %s", i, got)
		}
	}
}

func TestRedisCLI(t *testing.T) {
	cli, err := exec.LookPath("redis-cli")
	if err != nil {
		t.Fatal(err)
	}
	_, _, addr := start(t, Config{Passwd: "p w"})
	_, port, _ := net.SplitHostPort(addr)
	run := func(stdin string, args ...string) string {
		cmd := exec.Command(cli, append([]string{"-p", port, "-a", "p w", "--no-auth-warning"}, args...)...)
		cmd.Stdin = strings.NewReader(stdin)
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%v: %v: %s", args, err, out)
		}
		return strings.TrimSpace(string(out))
	}
	if got := run("", "HSET", "h", "f", "v", "g", "w"); got != "2" {
		t.Error(got)
	}
	if got := run("", "HGETALL", "h"); got != "f\nv\ng\nw" {
		t.Error(got)
	}
	if got := run("PING\nHGET h f\nLPUSH l a\nINFO\n"); !strings.HasPrefix(got, "PONG\nv\n1\n# Server") {
		t.Error(got)
	}
	var pipe bytes.Buffer
	for i := range 1000 {
		pipe.Write(encode("HSET", "p", strconv.Itoa(i), "v"))
	}
	// --pipe ends with an ECHO of its own.
	if got := run(pipe.String(), "--pipe"); !strings.Contains(got, "errors: 0, replies: 1000") {
		t.Error(got)
	}
}

func TestRadix(t *testing.T) {
	_, _, addr := start(t, Config{Passwd: "secret"})
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	pool, err := radix.PoolConfig{Size: 4, Dialer: radix.Dialer{AuthPass: "secret", SelectDB: "0"}}.New(ctx, "tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer pool.Close()
	value := strings.Repeat("\x00\r\n$5\r\n", 100_000)
	var n int
	var v []byte
	if err := pool.Do(ctx, radix.Cmd(&n, "HSET", "files:d", "f", value)); err != nil || n != 1 {
		t.Fatal(n, err)
	}
	if err := pool.Do(ctx, radix.Cmd(&v, "HGET", "files:d", "f")); err != nil || string(v) != value {
		t.Fatal(len(v), err)
	}
	p := radix.NewPipeline()
	got := make([]string, 500)
	for i := range got {
		p.Append(radix.Cmd(nil, "HSET", "h", strconv.Itoa(i), fmt.Sprint("v", i)))
		p.Append(radix.Cmd(&got[i], "HGET", "h", strconv.Itoa(i)))
	}
	if err := pool.Do(ctx, p); err != nil {
		t.Fatal(err)
	}
	for i, v := range got {
		if v != fmt.Sprint("v", i) {
			t.Fatalf("%d: %q", i, v)
		}
	}
	if _, err := (radix.Dialer{AuthPass: "wrong"}).Dial(ctx, "tcp", addr); err == nil {
		t.Error("a wrong password was taken")
	}
}

// FuzzGuard lets anything come: the parser behind the guard must neither panic
// nor hang, nor see a command that is over the limits.
func FuzzGuard(f *testing.F) {
	f.Add(encode("HSET", "k", "f", "v"), 3)
	f.Add([]byte("PING\r\n*1\r\n$4\r\nPING\r\n"), 100)
	f.Add([]byte("*1\r\n$9223372036854775807\r\n"), 1)
	f.Add([]byte("*1000000000000\r\n"), 4)
	f.Add([]byte("*2\r\n$1\r\nab\r\n$1\r\nc\r\n"), 4)
	f.Add(encode("SET", "k", strings.Repeat("v", 70_000)), 5000)
	l := limits{args: 10, bulk: 100_000, command: 150_000}
	s := New(Config{})
	f.Fuzz(func(t *testing.T, in []byte, piece int) {
		g := newGuard(s.ctx, &pieces{in: in, n: max(piece, 1)}, l, s.memory, s.cfg.Memory)
		g.idleTimeout, g.readTimeout = time.Second, time.Second
		defer g.handled()
		rd := redcon.NewReader(g)
		for {
			cmds, err := rd.ReadCommands()
			if err != nil {
				return
			}
			for _, cmd := range cmds {
				total := 0
				for _, a := range cmd.Args {
					total += len(a)
				}
				if len(cmd.Args) > inlineLine || total > int(l.command) || cmd.Raw[0] == '*' && len(cmd.Args) == 0 {
					t.Fatalf("%d arguments of %d bytes", len(cmd.Args), total)
				}
			}
			if g.handled() {
				rd = redcon.NewReader(g)
			}
		}
	})
}

// pieces is a connection on which bytes come a few at a time.
type pieces struct {
	net.Conn
	in []byte
	n  int
}

func (p *pieces) SetReadDeadline(time.Time) error { return nil }

func (p *pieces) Read(b []byte) (int, error) {
	if len(p.in) == 0 {
		return 0, io.EOF
	}
	n := copy(b, p.in[:min(p.n, len(p.in))])
	p.in = p.in[n:]
	return n, nil
}

// BenchmarkHGET is over the loopback, the client included.
func BenchmarkHGET(b *testing.B) {
	_, e, addr := start(b, Config{})
	for _, size := range []int{1 << 10, 128 << 10, 1 << 20} {
		const n = 64
		value := make([]byte, size)
		for i := range value {
			value[i] = byte(rand.Uint32())
		}
		fields := make([]string, n)
		for i := range fields {
			d := digest.Of(fmt.Append(nil, size, i))
			fields[i] = d.String()
			if err := e.PutBlob(context.Background(), "d", d, value); err != nil {
				b.Fatal(err)
			}
		}
		if err := e.Sync(); err != nil {
			b.Fatal(err)
		}
		skip := func(b *testing.B, c *client) {
			if _, err := c.r.Discard(len(redcon.AppendBulk(nil, value))); err != nil {
				b.Fatal(err)
			}
		}
		b.Run(fmt.Sprintf("single/%dKiB", size>>10), func(b *testing.B) {
			c := dial(b, addr)
			_ = c.SetDeadline(time.Time{})
			b.SetBytes(int64(size))
			for i := range b.N {
				c.send("HGET", "files:d", fields[i%n])
				skip(b, c)
			}
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "op/s")
		})
		b.Run(fmt.Sprintf("pipelined/%dKiB", size>>10), func(b *testing.B) {
			c := dial(b, addr)
			_ = c.SetDeadline(time.Time{})
			b.SetBytes(int64(size))
			go func() {
				w := bufio.NewWriterSize(c, 32<<10)
				for i := range b.N {
					_, _ = w.Write(encode("HGET", "files:d", fields[i%n]))
				}
				_ = w.Flush()
			}()
			for range b.N {
				skip(b, c)
			}
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "op/s")
		})
	}
}
