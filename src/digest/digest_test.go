package digest_test

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/aysfs/aysfs/src/digest"
)

// abc is the digest of "abc" as FIPS 180-2 has it.
const abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"

func TestSpelling(t *testing.T) {
	d := digest.Of([]byte("abc"))
	if d.String() != abc || d.Short() != abc[:12] {
		t.Errorf("got %v and %s", d, d.Short())
	}
	back, err := digest.Parse(abc)
	if err != nil || back != d {
		t.Errorf("Parse gave %v, %v", back, err)
	}
	raw, err := digest.FromBytes(d[:])
	if err != nil || raw != d {
		t.Errorf("FromBytes gave %v, %v", raw, err)
	}
	if d.IsZero() || !(digest.Digest{}).IsZero() {
		t.Error("IsZero is wrong")
	}
}

func TestParseRefuses(t *testing.T) {
	for _, s := range []string{
		"", abc[1:], abc + "0", strings.ToUpper(abc), "g" + abc[1:], " " + abc[1:], abc[:63] + "/", strings.Repeat("é", 32),
	} {
		if d, err := digest.Parse(s); err == nil {
			t.Errorf("Parse(%q) gave %v", s, d)
		}
	}
	for _, n := range []int{0, 31, 33} {
		if _, err := digest.FromBytes(make([]byte, n)); err == nil {
			t.Errorf("FromBytes took %d bytes", n)
		}
	}
}

func TestCheck(t *testing.T) {
	d := digest.Of([]byte("abc"))
	if err := d.Check([]byte("abc")); err != nil {
		t.Error(err)
	}
	if err := d.Check([]byte("abd")); !errors.Is(err, digest.ErrMismatch) {
		t.Errorf("error %v", err)
	}
}

func TestJSON(t *testing.T) {
	want := map[string]digest.Digest{"d": digest.Of([]byte("abc"))}
	b, err := json.Marshal(want)
	if err != nil || string(b) != `{"d":"`+abc+`"}` {
		t.Fatalf("got %s, %v", b, err)
	}
	var got map[string]digest.Digest
	if err := json.Unmarshal(b, &got); err != nil || got["d"] != want["d"] {
		t.Errorf("got %v, %v", got, err)
	}
	if err := json.Unmarshal([]byte(`{"d":"abc"}`), &got); err == nil {
		t.Error("took half a digest")
	}
}
