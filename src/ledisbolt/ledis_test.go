package ledisbolt

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ledisdb/ledisdb/config"
	"github.com/ledisdb/ledisdb/ledis"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv(crashDir); dir != "" {
		crashChild(dir)
	}
	Register() // before tests run beside each other
	os.Exit(m.Run())
}

// openLedis opens ledis on our driver, or on another one.
func openLedis(t testing.TB, name string) (*ledis.DB, *ledis.Ledis) {
	t.Helper()
	var l *ledis.Ledis
	var err error
	if name == DriverName {
		s, err := Open(t.TempDir(), small())
		must(t, err)
		l, err = Register().OpenLedis(s)
		must(t, err)
	} else {
		cfg := config.NewConfigDefault()
		cfg.DBName, cfg.DataDir = name, t.TempDir()
		l, err = ledis.Open(cfg)
		must(t, err)
	}
	t.Cleanup(l.Close)
	d, err := l.Select(0)
	must(t, err)
	return d, l
}

// script runs commands and notes what they answer.
type script struct{ strings.Builder }

func (s *script) note(what string, args ...any) {
	fmt.Fprintf(s, "%s:", what)
	for _, a := range args {
		switch v := a.(type) {
		case []byte:
			if fmt.Fprintf(s, " %.30q", v); v == nil {
				s.WriteString("(nil)")
			}
		case [][]byte:
			fmt.Fprintf(s, " %d%.30q", len(v), v)
		case []ledis.FVPair:
			for _, p := range v {
				fmt.Fprintf(s, " %s=%.30q", p.Field, p.Value)
			}
		default:
			fmt.Fprintf(s, " %v", v)
		}
	}
	s.WriteByte('\n')
}

// runScript works on hashes, lists and keys; hash is the one that may be a
// domain.
func runScript(d *ledis.DB, hash string) string {
	var s script
	h := []byte(hash)
	b := func(v any) []byte { return fmt.Append(nil, v) }
	wrap := func(v any, err error) func(string) { return func(w string) { s.note(w, v, err) } }
	set := func(f, v string) { n, err := d.HSet(h, b(f), b(v)); s.note("hset", n, err) }
	length := func() { n, err := d.HLen(h); s.note("hlen", n, err) }
	length()
	for i := range 50 {
		set(fmt.Sprintf("f%02d", i*7%50), strings.Repeat("v", i*300))
	}
	length()
	set("f01", "again")
	length()
	n, err := d.HDel(h, b("f01"), b("none"), b("f02"), b("f03"))
	s.note("hdel", n, err)
	length()
	v, err := d.HGet(h, b("f10"))
	s.note("hget", v, err)
	v, err = d.HGet(h, b("f01"))
	s.note("hget", v, err)
	vs, err := d.HMget(h, b("f10"), b("f01"), b("f11"))
	s.note("hmget", vs, err)
	s.note("hmset", d.HMset(h, ledis.FVPair{Field: b("f01"), Value: b("x")}, ledis.FVPair{Field: b("f20"), Value: b("y")}))
	length()
	ks, err := d.HKeys(h)
	s.note("hkeys", ks, err)
	vs, err = d.HValues(h)
	s.note("hvals", vs, err)
	all, err := d.HGetAll(h)
	s.note("hgetall", all, err)
	for _, back := range []bool{false, true} {
		scan := d.HScan
		if back {
			scan = d.HRevScan
		}
		all, err = scan(h, b("f20"), 7, false, "")
		s.note("hscan", all, err)
		all, err = scan(h, nil, 3, true, "f4.")
		s.note("hscan", all, err)
		all, err = scan(h, b("f205"), 3, true, "")
		s.note("hscan", all, err)
	}
	n, err = d.HIncrBy(h, b("count"), 5)
	s.note("hincrby", n, err)
	wrap(d.HKeyExists(h))("hkeyexists")
	wrap(d.HKeyExists(b("nothing")))("hkeyexists")
	for _, t := range []ledis.DataType{ledis.HASH, ledis.LIST, ledis.KV} {
		ks, err := d.Scan(t, nil, 100, true, "")
		s.note("scan", ks, err)
	}
	ks, err = d.RevScan(ledis.HASH, nil, 100, true, "")
	s.note("revscan", ks, err)

	l := b("list")
	for i := range 20 {
		n, err := d.RPush(l, b(i), b(-i))
		s.note("rpush", n, err)
		n, err = d.LPush(l, b(1000+i))
		s.note("lpush", n, err)
	}
	for _, r := range [][2]int32{{0, -1}, {0, 3}, {-3, -1}, {5, 2}, {57, 90}, {100, 200}} {
		vs, err := d.LRange(l, r[0], r[1])
		s.note("lrange", vs, err)
	}
	for _, i := range []int32{0, -1, 7, 100, -100} {
		v, err := d.LIndex(l, i)
		s.note("lindex", v, err)
	}
	for range 3 {
		v, err := d.LPop(l)
		s.note("lpop", v, err)
		v, err = d.RPop(l)
		s.note("rpop", v, err)
	}
	wrap(d.LLen(l))("llen")
	s.note("ltrim", d.LTrim(l, 2, -3))
	wrap(d.LLen(l))("llen")
	wrap(d.LClear(l))("lclear")
	wrap(d.LLen(l))("llen")

	s.note("set", d.Set(b("k"), b("v")))
	wrap(d.Exists(b("k")))("exists")
	v, err = d.Get(b("k"))
	s.note("get", v, err)
	s.note("mset", d.MSet(ledis.KVPair{Key: b("k1"), Value: b("1")}, ledis.KVPair{Key: b("k2"), Value: nil}))
	vs, err = d.MGet(b("k1"), b("none"), b("k2"))
	s.note("mget", vs, err)
	wrap(d.Incr(b("n")))("incr")
	wrap(d.Expire(b("k"), 100))("expire")
	wrap(d.TTL(b("k")))("ttl")
	wrap(d.Persist(b("k")))("persist")
	wrap(d.TTL(b("k")))("ttl")
	wrap(d.Del(b("k"), b("k1")))("del")
	wrap(d.HExpire(h, 100))("hexpire")
	wrap(d.HTTL(h))("httl")
	wrap(d.HPersist(h))("hpersist")
	wrap(d.HTTL(h))("httl")
	wrap(d.HClear(h))("hclear")
	length()
	ks, err = d.HKeys(h)
	s.note("hkeys", ks, err)
	set("f", "v")
	n, err = d.HDel(h, b("f"))
	s.note("hdel", n, err)
	wrap(d.HKeyExists(h))("hkeyexists")
	set("f", "v")
	n, err = d.FlushAll()
	s.note("flushall", n, err)
	ks, err = d.Scan(ledis.HASH, nil, 100, true, "")
	s.note("scan", ks, err)
	return s.String()
}

func TestLedisCommands(t *testing.T) {
	for _, hash := range []string{"h", "files:d", "files:Not a domain", "files:"} {
		d, _ := openLedis(t, "memory")
		want := strings.Split(runScript(d, hash), "\n")
		for _, name := range []string{DriverName, "goleveldb"} {
			t.Run(name+"/"+hash, func(t *testing.T) {
				d, _ := openLedis(t, name)
				got := strings.Split(runScript(d, hash), "\n")
				for i := range want {
					if i >= len(got) || got[i] != want[i] {
						t.Fatalf("answer %d:\n%s\nwant\n%s", i, got[i], want[i])
					}
				}
			})
		}
	}
}

// TestExpiry lets ledis' own checker delete, which keeps an iterator open while
// it does.
func TestExpiry(t *testing.T) {
	d, _ := openLedis(t, DriverName)
	for i := range 20 {
		for _, hash := range []string{"files:d", "h"} {
			_, err := d.HSet(fmt.Append(nil, hash, i), []byte("f"), []byte("v"))
			must(t, err)
		}
		must(t, d.Set(fmt.Append(nil, "k", i), []byte("v")))
	}
	time.Sleep(100 * time.Millisecond) // Select's own check would lose what is set right after it
	for i := range 20 {
		for _, hash := range []string{"files:d", "h"} {
			_, err := d.HExpire(fmt.Append(nil, hash, i), 1)
			must(t, err)
		}
		_, err := d.Expire(fmt.Append(nil, "k", i), 1)
		must(t, err)
	}
	for end := time.Now().Add(8 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		hashes, err := d.Scan(ledis.HASH, nil, 100, true, "")
		must(t, err)
		keys, err := d.Scan(ledis.KV, nil, 100, true, "")
		must(t, err)
		if len(hashes)+len(keys) == 0 {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("not expired: %q, %q", hashes, keys)
		}
	}
}

func TestDump(t *testing.T) {
	d, l := openLedis(t, DriverName)
	for i := range 100 {
		_, err := d.HSet([]byte("files:d"), fmt.Append(nil, i), []byte("v"))
		must(t, err)
	}
	path := t.TempDir() + "/dump"
	must(t, l.DumpFile(path))
	other, ol := openLedis(t, DriverName)
	_, err := ol.LoadDumpFile(path)
	must(t, err)
	a, err := d.HKeys([]byte("files:d"))
	must(t, err)
	b, err := other.HKeys([]byte("files:d"))
	must(t, err)
	if n, _ := other.HLen([]byte("files:d")); n != 100 || !slices.EqualFunc(a, b, slices.Equal[[]byte]) {
		t.Fatalf("%d of %d fields came back", n, len(a))
	}
}
