package ledisconn

import (
	"bufio"
	"errors"
	"strings"
	"testing"

	"github.com/mediocregopher/radix/v4/resp"
	"github.com/mediocregopher/radix/v4/resp/resp3"
)

func TestValue(t *testing.T) {
	for answer, want := range map[string]value{
		"$5\r\nhello\r\n": {data: []byte("hello"), size: 5},
		"$0\r\n\r\n":      {data: []byte{}},
		"$-1\r\n":         {null: true, size: -1},
	} {
		v := value{limit: 5}
		br := bufio.NewReader(strings.NewReader(answer))
		if err := v.UnmarshalRESP(br, resp.NewOpts()); err != nil || string(v.data) != string(want.data) || v.null != want.null || v.size != want.size {
			t.Errorf("%q: got %+v, %v", answer, v, err)
		}
		if n := br.Buffered(); n != 0 {
			t.Errorf("%q: %d bytes are left", answer, n)
		}
	}
}

// What is no value either leaves the connection at the next answer, or says that
// it is of no more use.
func TestValueNone(t *testing.T) {
	var said resp3.SimpleError
	for answer, usable := range map[string]bool{
		"-ERR no\r\n": true, ":1\r\n": true, "*2\r\n$1\r\na\r\n:1\r\n": true,
		"$6\r\nlonger\r\n": false, "$x\r\n": false, "$-2\r\n": false, "$5\r\nhel": false, "": false, "?\r\n": false,
		"$99999999999999999999\r\n": false,
	} {
		v := value{limit: 5}
		br := bufio.NewReader(strings.NewReader(answer))
		err := v.UnmarshalRESP(br, resp.NewOpts())
		if err == nil || errors.As(err, new(resp.ErrConnUsable)) != usable {
			t.Errorf("%q: got %v", answer, err)
		}
		if usable && br.Buffered() != 0 {
			t.Errorf("%q: %d bytes are left", answer, br.Buffered())
		}
		if strings.HasPrefix(answer, "-") && !errors.As(err, &said) {
			t.Errorf("%q: not known as an error of the other side: %v", answer, err)
		}
		if big := answer == "$6\r\nlonger\r\n"; big != errors.Is(err, ErrTooLarge) {
			t.Errorf("%q: too large: %v", answer, err)
		}
	}
}

// FuzzAnswer lets the other side answer anything to a request for a value: it takes
// no more memory than the value may have.
func FuzzAnswer(f *testing.F) {
	for _, s := range []string{"$5\r\nhello\r\n", "$-1\r\n", "$+5\r\nhello\r\n", "-ERR no\r\n", "*2\r\n$1\r\na\r\n:1\r\n", "*-1\r\n", "*2147483647\r\n", "%1\r\n+a\r\n+b\r\n", "=5\r\nhello\r\n", "$?\r\n;1\r\na\r\n;0\r\n", "|1\r\n+a\r\n+b\r\n$1\r\na\r\n"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, answer []byte) {
		v := value{limit: 5}
		err := v.UnmarshalRESP(bufio.NewReader(Guard(&pieces{in: answer, n: 3}, 1000)), resp.NewOpts())
		if len(v.data) > 5 || err == nil && int64(len(v.data)) != max(v.size, 0) {
			t.Fatalf("%q: %+v, %v", answer, v, err)
		}
	})
}
