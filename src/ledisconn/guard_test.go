package ledisconn

import (
	"bufio"
	"errors"
	"io"
	"net"
	"runtime/debug"
	"strings"
	"testing"
	"time"

	"github.com/mediocregopher/radix/v4"
	"github.com/mediocregopher/radix/v4/resp"
	"github.com/mediocregopher/radix/v4/resp/resp3"
)

// pieces is a connection on which bytes come n at a time.
type pieces struct {
	net.Conn
	in []byte
	n  int
}

func (p *pieces) Read(b []byte) (int, error) {
	if len(p.in) == 0 {
		return 0, io.EOF
	}
	n := copy(b, p.in[:min(p.n, len(p.in))])
	p.in = p.in[n:]
	return n, nil
}

// goodAnswers are some that come one behind the other.
var goodAnswers = []string{
	"+OK\r\n", "-ERR no\r\n", ":-7\r\n", "$-1\r\n", "$0\r\n\r\n", "$9\r\n*99\r\n$5\r\n\r\n", "*-1\r\n", "*0\r\n",
	"*2\r\n$1\r\n0\r\n*3\r\n$1\r\na\r\n:1\r\n*0\r\n", "*1\r\n*1\r\n*1\r\n*2\r\n+a\r\n*1\r\n$-1\r\n", "+last\r\n",
}

func TestGuardPasses(t *testing.T) {
	all := strings.Join(goodAnswers, "")
	for _, n := range []int{1, 2, 7, 1000} {
		g := Guard(&pieces{in: []byte(all), n: n}, 1000)
		got, err := io.ReadAll(g)
		if string(got) != all || err != nil {
			t.Errorf("%d at a time: %q, %v", n, got, err)
		}
	}
}

// TestGuardRefuses has answers on which radix would panic, or take all memory there
// is, or all of a stack.
func TestGuardRefuses(t *testing.T) {
	for _, bad := range []string{
		strings.Repeat("*1\r\n", 5_000_000), strings.Repeat("|0\r\n", 100), "$9223372036854775807\r\n", "$99999999999999999999\r\n", "$-2\r\n", "$+5\r\n", "$5\nhello\r\n",
		"*9223372036854775807\r\n", "*1048577\r\n", "*-5\r\n", "*3\r\n$900\r\n" + strings.Repeat("x", 900) + "\r\n$900\r\n", "*1\r\n$2000\r\n", "*63\r\n",
		"$?\r\n;5\r\nhello\r\n;0\r\n", "%1\r\n", "~1\r\n", ">1\r\n", "=5\r\n", "_\r\n", "\r\n", "hello\r\n", "+" + strings.Repeat("x", maxLine+1), "<html>\r\n",
	} {
		for _, before := range append(goodAnswers, "") {
			g := Guard(&pieces{in: []byte(before + bad), n: 4096}, 1000)
			if _, err := io.Copy(io.Discard, g); !errors.Is(err, ErrAnswer) {
				t.Fatalf("%.40q after %q: %v", bad, before, err)
			}
			if _, err := g.Read(make([]byte, 10)); !errors.Is(err, ErrAnswer) {
				t.Fatalf("%.40q: then %v", bad, err)
			}
		}
	}
}

// TestHostileServer has a server give such answers to what we ask.
func TestHostileServer(t *testing.T) {
	for _, bad := range []string{strings.Repeat("*1\r\n", 1_000_000), "$9223372036854775807\r\n", "$-2\r\n", "*1000000000000\r\n"} {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { l.Close() })
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				go func() {
					defer c.Close()
					_, _ = c.Read(make([]byte, 1000))
					_, _ = io.WriteString(c, bad)
				}()
			}
		}()
		rc, err := radix.Dialer{NetDialer: Dialer{Timeout: time.Minute, Most: maxArray}}.Dial(t.Context(), "tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		var list []string
		if err := rc.Do(t.Context(), radix.Cmd(&list, "HGETALL", "x")); err == nil {
			t.Errorf("%.40q is taken for %q", bad, list)
		}
		rc.Close()
	}
}

// FuzzGuard lets anything come, and gives radix what passes.
func FuzzGuard(f *testing.F) {
	for _, s := range append(goodAnswers, "*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n", "$+5\r\nhello\r\n", "*1\r\n$?\r\n", "+a\r\r\n$1\r\n+\r\n") {
		f.Add([]byte(s), 3)
	}
	defer debug.SetMaxStack(debug.SetMaxStack(1 << 20))
	f.Fuzz(func(t *testing.T, in []byte, n int) {
		const most = 1000
		br := bufio.NewReader(Guard(&pieces{in: in, n: max(n, 1)}, most))
		for i := 0; ; i++ {
			var list []string
			var text string
			var err error
			if i%2 == 0 {
				err = resp3.Unmarshal(br, &list, resp.NewOpts())
			} else {
				err = resp3.Unmarshal(br, &text, resp.NewOpts())
			}
			total := 0
			for _, s := range list {
				total += len(s)
			}
			if total > most+len(in) || len(list) > most/elementOverhead+1 || len(text) > len(in) {
				t.Fatalf("%q: %d elements, %d bytes", in, len(list), total)
			}
			if err != nil && !errors.As(err, new(resp.ErrConnUsable)) {
				return
			}
		}
	})
}
