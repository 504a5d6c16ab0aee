package object_test

import (
	"bytes"
	"crypto/rand"
	"errors"
	mathrand "math/rand/v2"
	"slices"
	"strings"
	"testing"

	"golang.org/x/mod/sumdb/note"

	"github.com/aysfs/aysfs/src/object"
)

// publicKey makes a key and returns its signer and its public text.
func publicKey(t testing.TB, name string) (note.Signer, string) {
	t.Helper()
	private, public, err := note.GenerateKey(rand.Reader, name)
	must(t, err)
	s, err := note.NewSigner(private)
	must(t, err)
	return s, public
}

func TestParseKey(t *testing.T) {
	signer, public := publicKey(t, "release")
	for text, until := range map[string]int64{
		public:                         0,
		" " + public + "\n":            0,
		public + " until 17":           17,
		public + "  until\t1 ":         1,
		public + " until 922337203685": 922337203685,
	} {
		k, err := object.ParseKey(text)
		if err != nil || k.Until != until || k.Name() != "release" || k.KeyHash() != signer.KeyHash() {
			t.Errorf("%q: %+v, %v", text, k, err)
		}
	}
	for text, want := range map[string]string{
		"":                                     "empty",
		"release":                              "malformed",
		public[:len(public)-8]:                 "", // note's own words
		public + " until":                      `"until" follows the key: want "until SERIAL"`,
		public + " until 0":                    "1 or more",
		public + " until -3":                   "1 or more",
		public + " until x":                    "want",
		public + " until 5 6":                  "want",
		public + " before 5":                   "want",
		public + " 5":                          "want",
		public + " until 99999999999999999999": "want",
		"PRIVATE+KEY+release+00000000+secret":  "private key",
	} {
		_, err := object.ParseKey(text)
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "secret") {
			t.Errorf("%q: %v, want %q", text, err, want)
		}
	}
}

// Keys that are changed from old to new: who has both in its list goes along.
func TestRotation(t *testing.T) {
	oldSigner, oldKey := publicKey(t, "release")
	newSigner, newKey := publicKey(t, "release")
	strayer, _ := publicKey(t, "stray")
	id := func(public string) string { return strings.Join(strings.SplitN(public, "+", 3)[:2], "+") }
	head := func(serial int64, signers ...note.Signer) []byte {
		h := someHead()
		h.Serial = serial
		raw, err := h.Sign(signers...)
		must(t, err)
		return raw
	}
	// A signature of one head under another one.
	moved := func(serial int64, wrong, right note.Signer) []byte {
		_, sig, _ := bytes.Cut(head(serial+1, wrong), []byte("\n\n"))
		return slices.Concat(head(serial, right), sig)
	}
	both := []string{oldKey, newKey}
	lost := []string{oldKey + " until 6", newKey}
	for name, c := range map[string]struct {
		keys []string
		head []byte
		want []string // in the message; none: it is accepted
	}{
		"old":                              {keys: both, head: head(7, oldSigner)},
		"new":                              {keys: both, head: head(7, newSigner)},
		"both":                             {keys: both, head: head(7, oldSigner, newSigner)},
		"both, for who has the old one":    {keys: both[:1], head: head(7, oldSigner, newSigner)},
		"both, for who has the new one":    {keys: both[1:], head: head(7, oldSigner, newSigner)},
		"a stray one beside":               {keys: both, head: head(7, strayer, newSigner)},
		"a wrong one beside":               {keys: both, head: moved(7, oldSigner, newSigner)},
		"a wrong one beside, for the list": {keys: lost, head: moved(7, oldSigner, newSigner)},
		"before it was lost":               {keys: lost, head: head(6, oldSigner)},
		"lost, but the new one signed":     {keys: lost, head: head(7, oldSigner, newSigner)},
		"the same twice, longer and not":   {keys: []string{oldKey + " until 6", oldKey + " until 9"}, head: head(7, oldSigner)},
		"new, for who has the old one":     {keys: both[:1], head: head(7, newSigner), want: []string{`it is signed by "release+`}},
		"lost": {keys: lost, head: head(7, oldSigner),
			want: []string{"not signed by the configured key (release, release)", "serial 7 is signed by " + id(oldKey) + ", which is good until serial 6"}},
		"lost, and it is the only one": {keys: lost[:1], head: head(7, oldSigner, newSigner),
			want: []string{"which is good until serial 6"}},
		"stray":  {keys: both, head: head(7, strayer), want: []string{`it is signed by "stray+`}},
		"none":   {keys: both, head: head(7), want: []string{"it has no signature"}},
		"broken": {keys: both, head: append(head(7, oldSigner), 'x'), want: []string{"its signatures can't be read"}},
		"wrong": {keys: both, head: bytes.Replace(head(7, newSigner), []byte("serial 7"), []byte("serial 8"), 1),
			want: []string{"the signature by " + id(newKey) + " is wrong"}},
	} {
		t.Run(name, func(t *testing.T) {
			keys, err := object.ParseKeys(c.keys)
			must(t, err)
			h, err := object.OpenHead(c.head, keys)
			if c.want == nil {
				if err != nil || h.Domain != someHead().Domain {
					t.Errorf("got %+v, %v", h, err)
				}
				return
			}
			if !errors.Is(err, object.ErrUnsigned) || strings.Contains(err.Error(), "\n") {
				t.Fatalf("got %v", err)
			}
			for _, w := range c.want {
				if !strings.Contains(err.Error(), w) {
					t.Errorf("%v does not tell %q", err, w)
				}
			}
		})
	}
	if _, err := object.ParseKeys([]string{oldKey, "x"}); err == nil {
		t.Error("a list with a bad key is taken")
	}
}

// FuzzParseKey checks that a key that is taken is one, with a name and a last
// serial, and that what is wrong is said in one line.
func FuzzParseKey(f *testing.F) {
	_, key, err := note.GenerateKey(mathrand.NewChaCha8([32]byte{}), "release")
	must(f, err)
	for _, s := range []string{
		key, key + " until 17", key + " until -1", key + " until 99999999999999999999", " " + key + "\t\n until \n 3",
		"PRIVATE+KEY+release+00000000+AAAA", "a+b+c", "\x00+00000000+AQ==", "release+00000000+",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		k, err := object.ParseKey(s)
		if err != nil {
			if strings.ContainsAny(err.Error(), "\n\r\x00\x1b") {
				t.Fatalf("%q", err)
			}
			return
		}
		if k.Until < 0 || k.Name() == "" || strings.ContainsAny(k.Name(), " \t\n\r+") || !strings.HasPrefix(k.ID(), k.Name()+"+") {
			t.Fatalf("%q is %+v", s, k)
		}
		again, err := object.ParseKey(strings.Join(strings.Fields(s), " "))
		if err != nil || again.ID() != k.ID() || again.Until != k.Until {
			t.Fatalf("%q is %s until %d, and then %s until %d, %v", s, k.ID(), k.Until, again.ID(), again.Until, err)
		}
	})
}
