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
