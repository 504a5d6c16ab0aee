package resp

import (
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/ledisdb/ledisdb/ledis"
)

// command is how one is answered. Its arguments are those behind its name.
type command struct {
	min, max int // arguments; a max of -1 is any number
	// keys are the arguments that are names of keys: the first only, or all.
	keys keysAt
	when when
	do   func(c *conn, args [][]byte)
}

// when is where a command is taken.
type when int

const (
	authed when = iota
	always      // before AUTH, too
	puts        // not for keys that are hidden
)

type keysAt int

const (
	noKeys keysAt = iota
	firstKey
	allKeys
)

func commandTable() map[string]command {
	return map[string]command{
		"AUTH":    {1, 2, noKeys, always, auth},
		"QUIT":    {0, 0, noKeys, always, quit},
		"PING":    {0, 1, noKeys, authed, ping},
		"ECHO":    {1, 1, noKeys, authed, func(c *conn, a [][]byte) { c.bulk(a[0]) }},
		"SELECT":  {1, 1, noKeys, authed, selectDB},
		"COMMAND": {0, -1, noKeys, authed, func(c *conn, _ [][]byte) { c.array(0) }},
		"INFO":    {0, -1, noKeys, authed, info},

		"GET":     {1, 1, firstKey, authed, get},
		"SET":     {2, 2, firstKey, puts, set},
		"DEL":     {1, -1, allKeys, authed, del},
		"EXISTS":  {1, -1, allKeys, authed, exists},
		"EXPIRE":  {2, 2, firstKey, authed, expire},
		"TTL":     {1, 1, firstKey, authed, ttl},
		"PERSIST": {1, 1, firstKey, authed, persist},
		"TYPE":    {1, 1, firstKey, authed, typeOf},

		"HGET":    {2, 2, firstKey, authed, hget},
		"HSET":    {3, -1, firstKey, puts, hset},
		"HMGET":   {2, -1, firstKey, authed, hmget},
		"HMSET":   {3, -1, firstKey, puts, hmset},
		"HDEL":    {2, -1, firstKey, authed, hdel},
		"HEXISTS": {2, 2, firstKey, authed, hexists},
		"HLEN":    {1, 1, firstKey, authed, func(c *conn, a [][]byte) { c.reply(c.db().HLen(a[0])) }},
		"HKEYS":   {1, 1, firstKey, authed, hkeys},
		"HVALS":   {1, 1, firstKey, authed, hvals},
		"HGETALL": {1, 1, firstKey, authed, hgetall},
		"HCLEAR":  {1, 1, firstKey, authed, hclear},

		"LPUSH":  {2, -1, firstKey, puts, func(c *conn, a [][]byte) { c.reply(c.db().LPush(a[0], a[1:]...)) }},
		"RPUSH":  {2, -1, firstKey, puts, func(c *conn, a [][]byte) { c.reply(c.db().RPush(a[0], a[1:]...)) }},
		"LPOP":   {1, 1, firstKey, authed, func(c *conn, a [][]byte) { c.value(c.db().LPop(a[0])) }},
		"RPOP":   {1, 1, firstKey, authed, func(c *conn, a [][]byte) { c.value(c.db().RPop(a[0])) }},
		"LLEN":   {1, 1, firstKey, authed, func(c *conn, a [][]byte) { c.reply(c.db().LLen(a[0])) }},
		"LINDEX": {2, 2, firstKey, authed, lindex},
		"LRANGE": {3, 3, firstKey, authed, lrange},
		"LCLEAR": {1, 1, firstKey, authed, func(c *conn, a [][]byte) { c.reply(c.db().LClear(a[0])) }},

		"XSCAN":  {2, -1, noKeys, authed, xscan},
		"XHSCAN": {2, -1, firstKey, authed, xhscan},
	}
}

// do answers one command.
func (c *conn) do(args [][]byte) {
	name := strings.ToUpper(string(args[0][:min(len(args[0]), 32)]))
	cmd, ok := c.s.commands[name]
	args = args[1:]
	switch {
	case !c.authed && cmd.when != always:
		c.error("NOAUTH Authentication required.")
		return
	case !ok:
		c.error("ERR unknown command '" + name + "'")
		return
	case len(args) < cmd.min, cmd.max >= 0 && len(args) > cmd.max:
		c.error("ERR wrong number of arguments for '" + strings.ToLower(name) + "' command")
		return
	}
	keys := args
	switch cmd.keys {
	case noKeys:
		keys = nil
	case firstKey:
		keys = args[:1]
	}
	for i, k := range keys {
		switch {
		case c.s.cfg.Private(k), string(k) == nowhere:
			c.error("NOPERM this key is private")
			return
		case !c.s.cfg.Hidden(k):
		case cmd.when == puts:
			c.error("NOPERM this key can't be put here: it is hidden from who need not show a password")
			return
		default:
			keys[i] = []byte(nowhere)
		}
	}
	cmd.do(c, args)
}

// nowhere is a key that there never is. It stands for those that are hidden, so
// that each command answers as for one that isn't there.
const nowhere = "\x00hidden"

// unseen tells which keys are not listed.
func (c *conn) unseen(key []byte) bool { return c.s.cfg.Private(key) || c.s.cfg.Hidden(key) }

// check looks at pairs of a field and its value before any is put.
func (c *conn) check(key []byte, pairs [][]byte) error {
	for i := 0; i < len(pairs); i += 2 {
		if err := c.s.cfg.Check(key, pairs[i], pairs[i+1]); err != nil {
			return err
		}
	}
	return nil
}

func (c *conn) db() *ledis.DB { return c.s.cfg.DB }

// value answers with a value, a null if there is none, or what went wrong.
func (c *conn) value(v []byte, err error) {
	if err != nil {
		c.fail(err)
		return
	}
	c.bulkOrNull(v)
}

func (c *conn) ok(err error) {
	if err != nil {
		c.fail(err)
		return
	}
	c.status("OK")
}

var (
	errNotInteger = errors.New("value is not an integer or out of range")
	errSyntax     = errors.New("syntax error")
)

func integer(b []byte) (int64, error) {
	n, err := strconv.ParseInt(string(b), 10, 64)
	if err != nil {
		return 0, errNotInteger
	}
	return n, nil
}

// index is an integer that ledis' lists can take.
func index(b []byte) (int32, error) {
	n, err := integer(b)
	return int32(min(max(n, -1<<31), 1<<31-1)), err
}

func auth(c *conn, args [][]byte) {
	switch {
	case c.s.cfg.Passwd == "":
		c.error("ERR AUTH called without any password configured")
	case (len(args) == 1 || string(args[0]) == "default") && c.s.rightPasswd(args[len(args)-1]):
		c.login()
		c.status("OK")
	default:
		c.error("WRONGPASS invalid password")
		if c.tries++; c.tries == authTries {
			c.quit = true
		}
	}
}

func quit(c *conn, _ [][]byte) {
	c.status("OK")
	c.quit = true
}

func ping(c *conn, args [][]byte) {
	if len(args) == 1 {
		c.bulk(args[0])
		return
	}
	c.status("PONG")
}

func selectDB(c *conn, args [][]byte) {
	if string(args[0]) != "0" {
		c.error("ERR DB index is out of range")
		return
	}
	c.status("OK")
}

func info(c *conn, _ [][]byte) {
	c.bulk(fmt.Appendf(nil, "# Server\r\naysfs_version:%s\r\nuptime_in_seconds:%d\r\n# Clients\r\nconnected_clients:%d\r\n",
		c.s.cfg.Version, int(time.Since(c.s.started).Seconds()), c.s.Conns()))
}

func get(c *conn, args [][]byte) { c.value(c.db().Get(args[0])) }
func set(c *conn, args [][]byte) { c.ok(c.db().Set(args[0], args[1])) }

// kind is one of the three things that a name can stand for.
type kind struct {
	name    string
	has     func(*ledis.DB, []byte) (int64, error)
	expire  func(*ledis.DB, []byte, int64) (int64, error)
	ttl     func(*ledis.DB, []byte) (int64, error)
	persist func(*ledis.DB, []byte) (int64, error)
	del     func(*conn, []byte) (int64, error)
}

func kinds() []kind {
	return []kind{
		{"string", (*ledis.DB).Exists, (*ledis.DB).Expire, (*ledis.DB).TTL, (*ledis.DB).Persist,
			func(c *conn, k []byte) (int64, error) { return c.db().Del(k) }},
		{"hash", (*ledis.DB).HKeyExists, (*ledis.DB).HExpire, (*ledis.DB).HTTL, (*ledis.DB).HPersist, clearHash},
		{"list", (*ledis.DB).LKeyExists, (*ledis.DB).LExpire, (*ledis.DB).LTTL, (*ledis.DB).LPersist,
			func(c *conn, k []byte) (int64, error) { return c.db().LClear(k) }},
	}
}

// each calls fn for every kind that there is of a name.
func (c *conn) each(key []byte, fn func(kind) error) (any bool, err error) {
	for _, k := range kinds() {
		n, err := k.has(c.db(), key)
		if err != nil {
			return any, err
		}
		if n > 0 {
			any = true
			if err := fn(k); err != nil {
				return any, err
			}
		}
	}
	return any, nil
}

// count answers with the number of names of which there was something.
func (c *conn) count(keys [][]byte, fn func(key []byte, k kind) error) {
	n := int64(0)
	for _, key := range keys {
		any, err := c.each(key, func(k kind) error { return fn(key, k) })
		if err != nil {
			c.fail(err)
			return
		}
		if any {
			n++
		}
	}
	c.int(n)
}

func del(c *conn, args [][]byte) {
	c.count(args, func(key []byte, k kind) error {
		_, err := k.del(c, key)
		return err
	})
}

func exists(c *conn, args [][]byte) {
	c.count(args, func([]byte, kind) error { return nil })
}

func expire(c *conn, args [][]byte) {
	seconds, err := integer(args[1])
	if err != nil {
		c.fail(err)
		return
	}
	if seconds <= 0 {
		del(c, args[:1])
		return
	}
	seconds = min(seconds, 1<<32)
	c.count(args[:1], func(key []byte, k kind) error {
		_, err := k.expire(c.db(), key, seconds)
		return err
	})
}

func ttl(c *conn, args [][]byte) {
	left := int64(-1)
	any, err := c.each(args[0], func(k kind) error {
		n, err := k.ttl(c.db(), args[0])
		left = max(left, n)
		return err
	})
	if !any {
		left = -2
	}
	c.reply(left, err)
}

func persist(c *conn, args [][]byte) {
	n := int64(0)
	_, err := c.each(args[0], func(k kind) error {
		m, err := k.persist(c.db(), args[0])
		n = max(n, m)
		return err
	})
	c.reply(n, err)
}

func typeOf(c *conn, args [][]byte) {
	name := "none"
	_, err := c.each(args[0], func(k kind) error {
		if name == "none" {
			name = k.name
		}
		return nil
	})
	if err != nil {
		c.fail(err)
		return
	}
	c.status(name)
}

// field is how ledis knows a field.
func (c *conn) field(f []byte) []byte {
	if len(f) == 0 {
		return []byte(c.s.cfg.EmptyField)
	}
	return f
}

// fieldOut is how a client knows it.
func (c *conn) fieldOut(f []byte) []byte {
	if string(f) == c.s.cfg.EmptyField {
		return []byte{}
	}
	return f
}

func hget(c *conn, args [][]byte) { c.hashField(args[0], c.field(args[1])) }

func (c *conn) hashField(key, field []byte) {
	if c.s.cfg.Field != nil {
		if v, release, ok := c.s.cfg.Field(key, field); ok {
			defer release()
			c.bulk(v)
			return
		}
	}
	c.value(c.db().HGet(key, field))
}

func hset(c *conn, args [][]byte) {
	if n, ok := c.putFields("hset", args); ok {
		c.int(n)
	}
}

func hmset(c *conn, args [][]byte) {
	if _, ok := c.putFields("hmset", args); ok {
		c.status("OK")
	}
}

// putFields puts pairs of a field and its value into a hash, and counts the fields that
// are new. It is not ok where it has answered itself.
func (c *conn) putFields(command string, args [][]byte) (n int64, ok bool) {
	if len(args)%2 == 0 {
		c.error("ERR wrong number of arguments for '" + command + "' command")
		return 0, false
	}
	if err := c.check(args[0], args[1:]); err != nil {
		c.fail(err)
		return 0, false
	}
	// One at a time: ledis' HMSET counts a field that is there twice as two.
	for i := 1; i < len(args); i += 2 {
		m, err := c.db().HSet(args[0], c.field(args[i]), args[i+1])
		if err != nil {
			c.fail(err)
			return 0, false
		}
		n += m
	}
	return n, true
}

func hmget(c *conn, args [][]byte) {
	c.array(len(args) - 1)
	for _, f := range args[1:] {
		if c.err != nil {
			return
		}
		c.hashField(args[0], c.field(f))
		if len(c.out) >= flushAt {
			c.flush()
		}
	}
}

func hdel(c *conn, args [][]byte) {
	n := int64(0)
	for _, f := range args[1:] {
		// One at a time: ledis' HDEL counts a field that is named twice as two.
		m, err := c.db().HDel(args[0], c.field(f))
		if err != nil {
			c.fail(err)
			return
		}
		n += m
	}
	c.int(n)
}

func hexists(c *conn, args [][]byte) {
	field := c.field(args[1])
	if c.s.cfg.Field != nil {
		if _, release, ok := c.s.cfg.Field(args[0], field); ok {
			release()
			c.int(1)
			return
		}
	}
	v, err := c.db().HGet(args[0], field)
	n := int64(0)
	if v != nil {
		n = 1
	}
	c.reply(n, err)
}

func clearHash(c *conn, key []byte) (int64, error) {
	if c.s.cfg.Drop != nil {
		n, err := c.db().HLen(key)
		if err != nil {
			return 0, err
		}
		if done, err := c.s.cfg.Drop(key); done {
			return n, err
		}
	}
	return c.db().HClear(key)
}

func hclear(c *conn, args [][]byte) { c.reply(clearHash(c, args[0])) }

func lindex(c *conn, args [][]byte) {
	i, err := index(args[1])
	if err != nil {
		c.fail(err)
		return
	}
	c.value(c.db().LIndex(args[0], i))
}

// collected is a reply that is put together in memory.
type collected struct {
	items [][]byte
	bytes int64
	most  int64
}

var errTooMuch = errors.New("the reply would be too large: read less at a time")

func (r *collected) add(items ...[]byte) error {
	for _, v := range items {
		r.bytes += int64(len(v)) + 32
	}
	if r.bytes > r.most {
		return errTooMuch
	}
	r.items = append(r.items, items...)
	return nil
}

// gather answers with what fn collects. Few do that at a time.
func (c *conn) gather(fn func(*collected) error) {
	done, ok := c.turn()
	if !ok {
		return
	}
	defer done()
	r := collected{most: c.s.cfg.MaxReply}
	if err := fn(&r); err != nil {
		c.fail(err)
		return
	}
	c.array(len(r.items))
	c.bulks(r.items)
}

// turn waits until the connection may put a reply together. That has to be
// taken within a time, so that those who read slowly don't stop the others.
func (c *conn) turn() (done func(), ok bool) {
	select {
	case c.s.collect <- struct{}{}:
	case <-time.After(c.s.cfg.ReadTimeout):
		c.error("BUSY too many large replies")
		return nil, false
	}
	c.until = time.Now().Add(2 * c.s.cfg.WriteTimeout)
	return func() {
		c.flush()
		c.until = time.Time{}
		<-c.s.collect
	}, true
}

func (c *conn) bulks(items [][]byte) {
	for _, v := range items {
		if c.err != nil {
			return
		}
		c.bulk(v)
		if len(c.out) >= flushAt {
			c.flush()
		}
	}
}

// step is how many pairs of a hash, which may have values of 1 MiB, are read at
// a time.
const step = 8

// pairs calls fn for all pairs of a hash.
func (c *conn) pairs(key []byte, fn func(p ledis.FVPair) error) error {
	var cursor []byte
	for {
		page, err := c.db().HScan(key, cursor, step, false, "")
		if err != nil {
			return err
		}
		for _, p := range page {
			if err := fn(p); err != nil {
				return err
			}
		}
		if len(page) < step {
			return nil
		}
		cursor = page[len(page)-1].Field
	}
}

func hkeys(c *conn, args [][]byte) {
	c.gather(func(r *collected) error {
		// HKEYS of ledis reads no values, but all keys.
		if n, err := c.db().HLen(args[0]); err != nil || n > r.most/64 {
			return errors.Join(err, errTooMuch)
		}
		keys, err := c.db().HKeys(args[0])
		if err != nil {
			return err
		}
		for _, f := range keys {
			if err := r.add(c.fieldOut(f)); err != nil {
				return err
			}
		}
		return nil
	})
}

func hvals(c *conn, args [][]byte) {
	c.gather(func(r *collected) error {
		return c.pairs(args[0], func(p ledis.FVPair) error { return r.add(p.Value) })
	})
}

func hgetall(c *conn, args [][]byte) {
	c.gather(func(r *collected) error {
		return c.pairs(args[0], func(p ledis.FVPair) error { return r.add(c.fieldOut(p.Field), p.Value) })
	})
}

func lrange(c *conn, args [][]byte) {
	first, err1 := index(args[1])
	last, err2 := index(args[2])
	if err := errors.Join(err1, err2); err != nil {
		c.fail(errNotInteger)
		return
	}
	c.gather(func(r *collected) error {
		n, err := c.db().LLen(args[0])
		if err != nil {
			return err
		}
		from, to := int64(first), int64(last)
		if from < 0 {
			from = max(from+n, 0)
		}
		if to < 0 {
			to += n
		}
		for to = min(to, n-1); from <= to; from += step {
			page, err := c.db().LRange(args[0], int32(from), int32(min(from+step-1, to)))
			if err != nil {
				return err
			}
			if err := r.add(page...); err != nil {
				return err
			}
		}
		return nil
	})
}

// scan is what XSCAN and XHSCAN are asked for.
type scan struct {
	cursor []byte
	match  *regexp.Regexp
	count  int
	desc   bool
}

func parseScan(args [][]byte) (s scan, err error) {
	s = scan{cursor: args[0], count: 10}
	for args = args[1:]; len(args) > 0; args = args[1:] {
		switch word := strings.ToUpper(string(args[0])); word {
		case "ASC", "DESC":
			s.desc = word == "DESC"
			continue
		case "MATCH", "COUNT":
			if len(args) < 2 {
				return s, errSyntax
			}
			args = args[1:]
			if word == "COUNT" {
				n, err := integer(args[0])
				if err != nil || n < 1 {
					return s, errNotInteger
				}
				s.count = int(min(n, 1000))
				continue
			}
			if len(args[0]) > 256 {
				return s, errSyntax
			}
			if s.match, err = regexp.Compile(string(args[0])); err != nil {
				return s, errSyntax
			}
		default:
			return s, errSyntax
		}
	}
	return s, nil
}

func (s scan) wants(b []byte) bool { return s.match == nil || s.match.Match(b) }

// looks is how many keys one XSCAN looks at, at most: it may answer with fewer
// than asked for, and a cursor to go on from.
const looks = 10_000

// page answers with a cursor, empty at the end, and a list.
func (c *conn) page(cursor []byte, items [][]byte) {
	c.array(2)
	c.bulk(cursor)
	c.array(len(items))
	c.bulks(items)
}

func xscan(c *conn, args [][]byte) {
	types := map[string]ledis.DataType{"KV": ledis.KV, "HASH": ledis.HASH, "LIST": ledis.LIST}
	kind, ok := types[strings.ToUpper(string(args[0]))]
	s, err := parseScan(args[1:])
	if !ok && err == nil {
		err = errSyntax
	}
	read := c.db().Scan
	if s.desc {
		read = c.db().RevScan
	}
	var found [][]byte
	// A cursor is the name of a key, so it must not be one that isn't shown.
	for looked := 0; err == nil && len(found) < s.count && (looked < looks || c.unseen(s.cursor)); {
		n := s.count - len(found)
		var keys [][]byte
		if keys, err = read(kind, s.cursor, n, false, ""); err != nil {
			break
		}
		for _, k := range keys {
			s.cursor = k
			if s.wants(k) && !c.unseen(k) {
				found = append(found, k)
			}
		}
		looked += len(keys)
		if len(keys) < n {
			s.cursor = nil
			break
		}
	}
	if err != nil {
		c.fail(err)
		return
	}
	c.page(s.cursor, found)
}

func xhscan(c *conn, args [][]byte) {
	s, err := parseScan(args[1:])
	if err != nil {
		c.fail(err)
		return
	}
	read := c.db().HScan
	if s.desc {
		read = c.db().HRevScan
	}
	done, ok := c.turn()
	if !ok {
		return
	}
	defer done()
	r := collected{most: c.s.cfg.MaxReply}
	seen := int64(0)
	for len(r.items) < 2*s.count && seen < r.most/2 {
		n := min(s.count-len(r.items)/2, step)
		page, err := read(args[0], s.cursor, n, false, "")
		if err != nil {
			c.fail(err)
			return
		}
		for _, p := range page {
			s.cursor = p.Field
			seen += int64(len(p.Field)+len(p.Value)) + 64
			if s.wants(p.Field) {
				if err := r.add(c.fieldOut(p.Field), p.Value); err != nil {
					c.fail(err)
					return
				}
			}
		}
		if len(page) < n {
			s.cursor = nil
			break
		}
	}
	c.page(s.cursor, r.items)
}
