package resp

import (
	"bytes"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/tidwall/redcon"
)

// FuzzCommands sends lines of words as commands, all at once. Each has one answer,
// which is well-formed, and none tells what a private key has.
func FuzzCommands(f *testing.F) {
	for _, s := range []string{
		"SET k v\nGET k\nDEL k k private", "HSET h a 1 b 2\nHGETALL h\nHMGET h a c\nHDEL h a\nHLEN h", "RPUSH l 1 2 3\nLRANGE l 0 -1\nLINDEX l 99999999999\nLPOP l\nLCLEAR l",
		"GET private\nHGETALL private:h\nLRANGE private:l 0 9\nTYPE private\nXSCAN HASH \nXSCAN KV private COUNT 99\nXHSCAN private:h ", "XSCAN HASH  MATCH ( COUNT -1",
		"EXPIRE k -1\nTTL k\nPERSIST k\nEXPIRE k 9223372036854775807", "ECHO $5\r\nECHO *3\nECHO +OK\r", "QUIT\nGET private", "HSET files:d  v\nHGET files:d \nHCLEAR files:d\nEXISTS files:d private",
		"SELECT 1\nHELLO 3\nSHUTDOWN\nMULTI\nauth private\nINFO", "hset \xff\x00 \x00 \xff\nhkeys \xff\x00",
	} {
		f.Add(s)
	}
	const secret = "S3CR3T-0f-0THERS"
	_, e, addr := start(f, Config{Private: func(key []byte) bool { return bytes.HasPrefix(key, []byte("private")) }})
	db := e.Ledis()
	if _, err := db.HSet([]byte("private:h"), []byte("f"+secret), []byte(secret)); err != nil {
		f.Fatal(err)
	}
	if _, err := db.RPush([]byte("private:l"), []byte(secret)); err != nil {
		f.Fatal(err)
	}
	if err := db.Set([]byte("private:"+secret), []byte(secret)); err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, text string) {
		lines := strings.Split(text, "\n")
		if len(text) > 4096 || len(lines) > 100 || strings.Contains(text, secret) {
			return
		}
		c := dial(t, addr)
		_ = c.SetDeadline(time.Now().Add(20 * time.Second))
		var all []byte
		sent, quits := 0, false
		for _, line := range lines {
			args := strings.Split(line, " ")
			if args[0] == "" {
				continue
			}
			if all = append(all, encode(args...)...); !quits {
				sent++ // what comes behind is not answered
			}
			quits = quits || strings.EqualFold(args[0], "QUIT") && len(args) == 1
		}
		if _, err := c.Write(append(all, encode("QUIT")...)); err != nil {
			t.Fatal(err)
		}
		if !quits {
			sent++
		}
		got, err := io.ReadAll(c)
		if err != nil && !strings.Contains(err.Error(), "reset") {
			t.Fatalf("%q: %v after %q", text, err, got)
		}
		if bytes.Contains(got, []byte(secret)) {
			t.Fatalf("%q: %q", text, got)
		}
		n := 0
		for rest := got; len(rest) > 0; n++ {
			size, answer := redcon.ReadNextRESP(rest)
			if size == 0 || answer.Type == 0 {
				t.Fatalf("%q: answer %d is %q", text, n, rest)
			}
			rest = rest[size:]
		}
		if n != sent && err == nil {
			t.Fatalf("%q: %d answers to %d commands: %q", text, n, sent, got)
		}
	})
}
